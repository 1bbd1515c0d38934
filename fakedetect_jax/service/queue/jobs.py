"""A video that was handed in: what is known of it, and what a store of such jobs does.

A job is waiting, then running, then done (with a result) or failed (with a reason). It
is run by the worker that claimed it, as long as the claim holds: a worker that is not
heard of for LEASE_SECONDS loses it, and the job waits again. Only the holder of the
claim can finish it, so that each job has one result, whoever died meanwhile.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tfds_ffpp.errors import DataError

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
# Of the copy that browsers play; it is made after the result.
COPY_WANTED, COPY_READY, COPY_NONE = "wanted", "ready", "none"
LEASE_SECONDS = 15.0
MOST_ATTEMPTS = 3  # that end with the death of the process that scores
OWN = "own"  # the name of the worker that a server starts itself


class StoreGone(DataError):
    """The store of jobs cannot be reached, or has lost its file."""


class StoreFull(DataError):
    """No space is left where the store keeps its jobs."""


class QueueFull(DataError):
    """As many jobs wait as may wait."""


@dataclass(frozen=True)
class Job:
    """What is known of a job.

    number: its place in the order of arrival; name: the file's, as its owner gave it;
    size: bytes; evidence: whether more than a result is wanted; frames_done, frames:
    of the video, as far as they are known; attempt: how often it was begun; claim: of
    the worker that runs or ran it; copy_start: seconds of the source that are 0 in the
    copy; created, started, finished: seconds since 1970.
    """

    id: str
    number: int
    name: str
    size: int
    sha256: str
    evidence: bool
    state: str
    phase: str
    frames_done: int
    frames: int
    outcome: str
    reason: str
    attempt: int
    worker: str
    claim: str
    copy: str
    copy_reason: str
    copy_start: float
    created: float
    started: float
    finished: float

    @property
    def is_over(self) -> bool:
        """Whether nothing about it will change."""
        ended = self.state in (DONE, FAILED)
        return ended and self.copy != COPY_WANTED


class NewJob(NamedTuple):
    """A file that came in whole; see Job."""

    id: str
    name: str
    size: int
    sha256: str
    evidence: bool


class Scored(NamedTuple):
    """What a worker says of a job that it is done with.

    row: the result as JSON; seconds: by phase.
    """

    outcome: str
    row: str
    seconds: Mapping[str, float]


class Total(NamedTuple):
    """What was counted since the store was made, for example ("outcome", "scored")."""

    name: str
    label: str
    value: float


class Counts(NamedTuple):
    """How many jobs wait and run, and how many copies are to be made."""

    waiting: int
    running: int
    copies: int


class Store(Protocol):
    """Jobs that outlive the processes that use them; safe to use from several threads.

    Every method raises StoreGone where the store cannot be reached, and StoreFull where
    it has no space.
    """

    def add(self, job: NewJob, *, most: int) -> Job:
        """Takes a job in. Raises QueueFull where `most` wait already."""
        ...

    def get(self, *ids: str) -> dict[str, Job]:
        """The jobs of these ids, as far as they are there."""
        ...

    def waiting(self) -> list[str]:
        """The ids of those that wait, the next one first."""
        ...

    def row(self, id: str) -> str | None:
        """The result of a job that is done, as JSON."""
        ...

    def claim(self, worker: str) -> Job | None:
        """The next job that waits, which this worker now runs; None if there is none.

        What workers held that were not heard of for LEASE_SECONDS waits again.
        """
        ...

    def renew(self, worker: str) -> set[str]:
        """Keeps the claims of a worker for LEASE_SECONDS more; returns those it has."""
        ...

    def report(self, job: Job, phase: str, done: int, frames: int) -> None:
        """How far a job has come."""
        ...

    def finish(self, job: Job, scored: Scored) -> bool:
        """Keeps a result; False where the claim on the job is lost."""
        ...

    def give_back(self, worker: str, *, died: bool, id: str = "") -> int:
        """Lets all that a worker runs wait again, or the job `id`; returns how many.

        died: whether this counts as an attempt; a job fails at the last one.
        """
        ...

    def next_copy(self, tried: set[str]) -> Job | None:
        """A job whose copy is to be made, but those already tried."""
        ...

    def finish_copy(
        self, id: str, *, reason: str, start: float, seconds: float
    ) -> None:
        """The copy is there, or there is none for a reason."""
        ...

    def delete(self, id: str) -> bool:
        """Forgets a job; False where it is not there."""
        ...

    def ended_before(self, time: float) -> list[str]:
        """The ids of jobs that ended before a time."""
        ...

    def counts(self) -> Counts:
        """How many jobs are where."""
        ...

    def totals(self) -> list[Total]:
        """What was counted so far."""
        ...

    def describe_model(self, text: str) -> None:
        """Keeps what the workers' model is, as JSON; "" while there is none."""
        ...

    def model(self) -> str:
        """What describe_model kept."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


def new_id() -> str:
    """An id that nobody can guess: 128 random bits."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether new_id can have made it; nothing else becomes part of a path."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
