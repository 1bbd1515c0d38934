"""A video that was handed in, and what is made of it.

A job is waiting, then running, then done (with a result) or failed (with a reason). It
is run by the worker that claimed it, as long as the claim holds: a worker that does not
renew it for LEASE_SECONDS loses it, and the job waits again. Only the holder of the
claim can finish it, so that each job has one result, whoever died meanwhile.

What people look at is made after the result: at once where somebody asks for it, else
while no job waits.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tfds_ffpp.errors import DataError

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
# Of what is made after the result.
WANTED, READY, NONE = "wanted", "ready", "none"
# What is made, in this order: the page with table and evidence, the copy that browsers
# play, the video with what was found drawn into it.
EXPLAINED, COPY, ANNOTATED = "explained", "copy", "annotated"
KINDS = (EXPLAINED, COPY, ANNOTATED)
LEASE_SECONDS = 15.0
MOST_ATTEMPTS = 3  # that end with the death of the process that scores


class StoreGone(DataError):
    """The store of jobs cannot be reached, or has lost its file."""


class StoreFull(DataError):
    """No space is left where the store keeps its jobs."""


class QueueFull(DataError):
    """As many jobs wait as may wait."""


@dataclass(frozen=True)
class Made:
    """Something that is made after the result.

    state: wanted, ready or none; reason: why there is none; start: of a copy, the
    seconds of the source that are 0 in it; asked: whether somebody waits for it;
    worker, claim, lease: who makes it, and until when the claim holds; attempt: how
    often it was begun.
    """

    state: str
    reason: str = ""
    start: float = 0.0
    asked: bool = False
    worker: str = ""
    claim: str = ""
    lease: float = 0.0
    attempt: int = 0


@dataclass(frozen=True)
class Job:
    """What is known of a job.

    number: its place in the order of arrival; name: the file's, as its owner gave it;
    size: bytes; evidence: whether more than a result is wanted; frames_done, frames:
    of the video, as far as they are known; attempt: how often it was begun; claim: of
    the worker that runs or ran it; lease: until when the claim holds; made: by kind;
    created, started, finished: seconds since 1970.
    """

    id: str
    number: int
    name: str
    size: int
    sha256: str
    evidence: bool
    created: float
    state: str = WAITING
    phase: str = ""
    frames_done: int = 0
    frames: int = 0
    outcome: str = ""
    reason: str = ""
    attempt: int = 0
    worker: str = ""
    claim: str = ""
    lease: float = 0.0
    made: Mapping[str, Made] = field(default_factory=dict)
    started: float = 0.0
    finished: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing about it will change, unless somebody asks for more."""
        wanted = any(made.state == WANTED for made in self.made.values())
        return self.state in (DONE, FAILED) and not wanted

    def state_of(self, kind: str) -> str:
        """Of what is made; "" where nobody wants it."""
        return self.made[kind].state if kind in self.made else ""


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
    """How many jobs wait and run, and how many things are to be made."""

    waiting: int
    running: int
    making: int


def new_id() -> str:
    """An id that nobody can guess: 128 random bits."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether new_id can have made it; nothing else becomes part of a path."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
