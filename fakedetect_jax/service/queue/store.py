"""The store of jobs: who may do what with a job, whichever database keeps it."""

import json
import math
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue import jobs
from fakedetect_jax.service.queue.database import Changing, Database, Reading
from fakedetect_jax.service.queue.jobs import (
    ANNOTATED,
    COPY,
    DONE,
    EXPLAINED,
    FAILED,
    KINDS,
    MOST_ATTEMPTS,
    NONE,
    RUNNING,
    WAITING,
    WANTED,
    Counts,
    Job,
    Made,
    NewJob,
    QueueFull,
    Scored,
    Total,
)
from tfds_ffpp import records

# Shelves besides the states. Of jobs that run, of what is being made and of workers the
# rank is the lease; of what ended it is the time.
_ENDED, _WORKERS = "ended", "workers"
_ASKED_FIRST = 2.0**40  # goes off the rank of what somebody waits for
_DIED = f"the process that scores died {MOST_ATTEMPTS} times at it"
_FORGOTTEN = 100  # leases after which a worker that died is forgotten


class Task(NamedTuple):
    """Something to be made of a job that is done."""

    job: Job
    kind: str


class Store:
    """Jobs that outlive the processes that use them; safe to use from several threads.

    Every method raises StoreGone where the database cannot be reached, and StoreFull
    where it has no space.
    """

    def __init__(self, database: Database):
        """Of an open database."""
        self._database = database

    def close(self) -> None:
        """Ends the connection."""
        self._database.close()

    def belong_to(self, folder: str) -> None:
        """Ties the store to the folder that has the files of its jobs, by its mark.

        Raises ConfigError where it belongs to another.
        """

        def act(change: Changing) -> None:
            known = change.texts(["folder"]).get("folder", folder)
            if known != folder:
                raise ConfigError(
                    "--data is not the folder that the jobs of this --store belong to; "
                    "share that folder with this machine, or give another store"
                )
            change.put("folder", folder)

        self._database.change(act)

    # Jobs in ------------------------------------------------------------------------

    def add(self, new: NewJob, *, most: int) -> Job:
        """Takes a job in. Raises QueueFull where `most` wait already."""

        def act(change: Changing) -> Job:
            if known := _load(change, [new.id]):
                return known[0]  # the answer to the first attempt was lost
            count = change.count(WAITING)
            if count >= most:
                raise QueueFull(f"{count} videos wait already; try again later")
            number = int(change.texts(["number"]).get("number", 0)) + 1
            job = Job(new.id, number, *new[1:], created=change.now())
            change.put("number", str(number))
            _save(change, job)
            change.add("accepted", "", 1)
            return job

        return self._database.change(act)

    def get(self, *ids: str) -> dict[str, Job]:
        """The jobs of these ids, as far as they are there."""
        with self._database.reading() as read:
            return {job.id: job for job in _load(read, ids)}

    def waiting(self) -> list[str]:
        """The ids of those that wait, the next one first."""
        with self._database.reading() as read:
            return read.shelf(WAITING)

    def row(self, id: str) -> str | None:
        """The result of a job that is done, as JSON."""
        with self._database.reading() as read:
            return read.texts([_result(id)]).get(_result(id))

    # Scoring ------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """The next job that waits, which this worker now runs; None if there is none.

        What workers held whose lease has run out waits again.
        """
        with self._database.reading() as read:
            lost = bool(read.shelf(RUNNING, below=read.now(), most=1))
            if not lost and not read.shelf(WAITING, most=1):
                return None  # without keeping others from writing
        if lost:
            self._database.change(_take_back)

        def act(change: Changing) -> Job | None:
            found = _load(change, change.shelf(WAITING, most=1))
            if not found:
                return None
            now = change.now()
            job = replace(
                found[0],
                state=RUNNING,
                phase="reading",
                worker=worker,
                claim=secrets.token_hex(8),
                lease=now + jobs.LEASE_SECONDS,
                started=now,
                attempt=found[0].attempt + 1,
            )
            _save(change, job)
            return job

        return self._database.change(act)

    def renew(self, worker: str, claims: Collection[str]) -> set[str]:
        """Keeps these claims of a worker for LEASE_SECONDS more; returns those it has.

        One that it does not know of, since the answer was lost, runs out.
        """

        def act(change: Changing) -> set[str]:
            until, held = change.now() + jobs.LEASE_SECONDS, set()
            for job in _of(change, RUNNING):
                if job.claim in claims:
                    held.add(job.claim)
                    _save(change, replace(job, lease=until))
            for job in _in_the_making(change):
                own = [kind for kind, made in job.made.items() if made.claim in claims]
                held |= {job.made[kind].claim for kind in own}
                for kind in own:
                    job = _with(job, kind, lease=until)
                _save(change, job)
            if change.texts([_worker(worker)]):
                change.place(worker, {_WORKERS: until})
            return held

        return self._database.change(act)

    def report(self, job: Job, phase: str, done: int, frames: int) -> None:
        """How far a job has come."""

        def act(change: Changing) -> None:
            for held in _held(change, job):
                news = replace(held, phase=phase, frames_done=done, frames=frames)
                _save(change, news)

        self._database.change(act)

    def finish(self, job: Job, scored: Scored) -> bool:
        """Keeps a result; False where the claim on the job is lost."""

        def act(change: Changing) -> bool:
            for held in _held(change, job):
                wanted = (EXPLAINED, COPY) if held.evidence else ()
                done = replace(
                    held,
                    state=DONE,
                    phase="",
                    outcome=scored.outcome,
                    made={kind: Made(WANTED) for kind in wanted},
                    finished=change.now(),
                )
                _save(change, done)
                change.put(_result(job.id), scored.row)
                change.add("outcome", scored.outcome, 1)
                waited = {"wait": max(held.started - held.created, 0.0)}
                for phase, seconds in {**waited, **scored.seconds}.items():
                    _spend(change, phase, seconds)
                return True
            return False

        return self._database.change(act)

    def fail(self, job: Job, reason: str) -> bool:
        """Ends a job without a result; False where the claim on it is lost."""

        def act(change: Changing) -> bool:
            for held in _held(change, job):
                _fail(change, held, reason)
                return True
            return False

        return self._database.change(act)

    def give_back(
        self, worker: str, *, died: bool, id: str = "", why: str = _DIED
    ) -> int:
        """Lets all that a worker holds wait again, or the job `id`; returns how many.

        died: whether this counts as an attempt; at the last one a job fails, `why`.
        """

        def act(change: Changing) -> int:
            mine = [
                job
                for job in _of(change, RUNNING)
                if job.worker == worker and id in ("", job.id)
            ]
            _release(change, mine, died=died, why=why)
            for job in [] if id else _in_the_making(change):
                for kind, made in job.made.items():
                    if made.claim and made.worker == worker:
                        attempt = max(made.attempt - (not died), 0)
                        job = _with(job, kind, claim="", attempt=attempt)
                _save(change, job)
            return len(mine)

        return self._database.change(act)

    # What is made afterwards --------------------------------------------------------

    def ask(self, id: str, kind: str) -> None:
        """Has something made of a job that is done, before what nobody waits for."""

        def act(change: Changing) -> None:
            for job in _load(change, [id]):
                state = job.state_of(kind)
                first = kind == ANNOTATED and state == "" and job.evidence
                if job.state == DONE and (state == WANTED or first):
                    _save(change, _with(job, kind, state=WANTED, asked=True))

        self._database.change(act)

    def claim_task(
        self, worker: str, kinds: Sequence[str], *, asked: bool
    ) -> Task | None:
        """Something of these kinds that this worker now makes; None if there is none.

        asked: only what somebody waits for.
        """
        limit = 0.0 if asked else math.inf
        with self._database.reading() as read:
            now = read.now()
            if not any(
                read.shelf(_to_make(kind), below=limit, most=1)
                or read.shelf(_being_made(kind), below=now, most=1)
                for kind in kinds
            ):
                return None

        def act(change: Changing) -> Task | None:
            now = change.now()
            for kind in kinds:
                lost = change.shelf(_being_made(kind), below=now)
                new = change.shelf(_to_make(kind), below=limit, most=1)
                for job in _load(change, [*lost, *new]):
                    made = job.made[kind]
                    if made.attempt >= MOST_ATTEMPTS:
                        none = Made(NONE, f"the process died {MOST_ATTEMPTS} times")
                        _save(change, replace(job, made={**job.made, kind: none}))
                        return None
                    if made.asked or not asked:
                        job = _with(
                            *(job, kind),
                            worker=worker,
                            claim=secrets.token_hex(8),
                            lease=now + jobs.LEASE_SECONDS,
                            attempt=made.attempt + 1,
                        )
                        _save(change, job)
                        return Task(job, kind)
            return None

        return self._database.change(act)

    def finish_task(self, task: Task, made: Made, seconds: float) -> bool:
        """What was made is there, or will not be; False where the claim is lost."""
        job, kind = task

        def act(change: Changing) -> bool:
            for held in _load(change, [job.id]):
                if held.made[kind].claim != job.made[kind].claim:
                    return False
                _save(change, replace(held, made={**held.made, kind: made}))
                _spend(change, kind, seconds)
                return True
            return False

        return self._database.change(act)

    def give_task_back(self, task: Task) -> None:
        """Lets something be made by whoever comes next."""
        job, kind = task

        def act(change: Changing) -> None:
            for held in _load(change, [job.id]):
                if held.made[kind].claim == job.made[kind].claim:
                    _save(change, _with(held, kind, claim="", attempt=0))

        self._database.change(act)

    # The end ------------------------------------------------------------------------

    def delete(self, id: str) -> bool:
        """Forgets a job; False where it is not there."""

        def act(change: Changing) -> bool:
            if not change.texts([_job(id)]):
                return False
            change.drop(_job(id), _result(id))
            change.place(id, dict.fromkeys(_SHELVES))
            return True

        return self._database.change(act)

    def ended(self, seconds: float) -> list[str]:
        """The ids of jobs that ended so many seconds ago, or earlier."""
        with self._database.reading() as read:
            return read.shelf(_ENDED, below=read.now() - seconds)

    # All of it ----------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many jobs are where."""
        with self._database.reading() as read:
            shelves = [
                shelf(kind) for kind in KINDS for shelf in (_to_make, _being_made)
            ]
            making = sum(map(read.count, shelves))
            return Counts(read.count(WAITING), read.count(RUNNING), making)

    def totals(self) -> list[Total]:
        """What was counted so far."""
        with self._database.reading() as read:
            return read.totals()

    def join(self, worker: str, model: str) -> None:
        """A worker has loaded a model, which `model` describes as JSON."""

        def act(change: Changing) -> None:
            now = change.now()
            for name in change.shelf(
                _WORKERS, below=now - _FORGOTTEN * jobs.LEASE_SECONDS
            ):
                change.drop(_worker(name))
                change.place(name, {_WORKERS: None})
            change.put(_worker(worker), model)
            change.place(worker, {_WORKERS: now + jobs.LEASE_SECONDS})

        self._database.change(act)

    def leave(self, worker: str) -> None:
        """A worker has ended."""

        def act(change: Changing) -> None:
            change.drop(_worker(worker))
            change.place(worker, {_WORKERS: None})

        self._database.change(act)

    def model(self) -> str:
        """What the workers that are there have loaded; "" where there is none."""
        with self._database.reading() as read:
            now = read.now()
            gone = set(read.shelf(_WORKERS, below=now))
            there = [name for name in read.shelf(_WORKERS) if name not in gone]
            found = read.texts(map(_worker, there))
        return next(iter(found.values()), "")


# Records ---------------------------------------------------------------------------


def _job(id: str) -> str:
    return f"job/{id}"


def _result(id: str) -> str:
    return f"result/{id}"


def _worker(name: str) -> str:
    return f"worker/{name}"


def _load(read: Reading, ids: Iterable[str]) -> list[Job]:
    """The jobs of these ids, in their order."""
    names = [_job(id) for id in ids]
    found = read.texts(names) if names else {}
    texts = (found[name] for name in names if name in found)
    return [records.from_json(Job, json.loads(text)) for text in texts]


def _of(read: Reading, shelf: str) -> list[Job]:
    """The jobs on a shelf, in order."""
    return _load(read, read.shelf(shelf))


def _to_make(kind: str) -> str:
    return f"{kind} to make"


def _being_made(kind: str) -> str:
    return f"{kind} being made"


_SHELVES = (
    *(WAITING, RUNNING, _ENDED),
    *(shelf(kind) for kind in KINDS for shelf in (_to_make, _being_made)),
)


def _in_the_making(read: Reading) -> list[Job]:
    """The jobs of which something is being made, each once."""
    ids = (id for kind in KINDS for id in read.shelf(_being_made(kind)))
    return _load(read, list(dict.fromkeys(ids)))


def _save(change: Changing, job: Job) -> None:
    """Keeps a job, and puts it where it belongs."""
    places: dict[str, float | None] = dict.fromkeys(_SHELVES)
    if job.state == RUNNING:
        places[RUNNING] = job.lease
    elif job.state == WAITING:
        places[WAITING] = job.number
    else:
        places[_ENDED] = job.finished
    for kind, made in job.made.items():
        if made.state == WANTED and made.claim:
            places[_being_made(kind)] = made.lease
        elif made.state == WANTED:
            places[_to_make(kind)] = job.number - _ASKED_FIRST * made.asked
    change.put(_job(job.id), json.dumps(records.to_json(job)))
    change.place(job.id, places)


def _with(job: Job, kind: str, **changes: Any) -> Job:
    """The job with changes of what is made of it."""
    made = job.made.get(kind) or Made(WANTED)
    return replace(job, made={**job.made, kind: replace(made, **changes)})


def _held(change: Changing, job: Job) -> list[Job]:
    """The job as it is in the store, while the claim on it holds; else nothing."""
    found = _load(change, [job.id])
    return [j for j in found if j.state == RUNNING and j.claim == job.claim]


def _spend(change: Changing, phase: str, seconds: float) -> None:
    change.add("seconds", phase, seconds)
    change.add("videos", phase, 1)


def _take_back(change: Changing) -> None:
    """What lost its lease waits again."""
    lost = _load(change, change.shelf(RUNNING, below=change.now()))
    _release(change, lost, died=True)


def _fail(change: Changing, job: Job, reason: str) -> None:
    ended = replace(
        job, state=FAILED, phase="", reason=reason, claim="", finished=change.now()
    )
    _save(change, ended)
    change.add("outcome", FAILED, 1)


def _release(
    change: Changing, running: Iterable[Job], *, died: bool, why: str = _DIED
) -> None:
    """Lets running jobs wait again, or fail at their last attempt."""
    for job in running:
        if died and job.attempt >= MOST_ATTEMPTS:
            _fail(change, job, why)
            continue
        back = replace(job, state=WAITING, phase="", worker="", claim="", frames_done=0)
        _save(change, replace(back, attempt=job.attempt - (not died)))
        if died:
            change.add("retries", "", 1)
