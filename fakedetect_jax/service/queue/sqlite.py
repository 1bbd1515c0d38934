"""The store of jobs in a SQLite file, which several processes of a machine share."""

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from fakedetect_jax.service.queue.jobs import (
    COPY_NONE,
    COPY_READY,
    COPY_WANTED,
    DONE,
    FAILED,
    LEASE_SECONDS,
    MOST_ATTEMPTS,
    RUNNING,
    WAITING,
    Counts,
    Job,
    NewJob,
    QueueFull,
    Scored,
    StoreFull,
    StoreGone,
    Total,
)

BUSY_SECONDS = 10.0  # that a process waits while another one writes
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
  evidence INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
  phase TEXT NOT NULL DEFAULT '', frames_done INTEGER NOT NULL DEFAULT 0,
  frames INTEGER NOT NULL DEFAULT 0, outcome TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '', attempt INTEGER NOT NULL DEFAULT 0,
  worker TEXT NOT NULL DEFAULT '', claim TEXT NOT NULL DEFAULT '',
  lease REAL NOT NULL DEFAULT 0, copy TEXT NOT NULL DEFAULT '',
  copy_reason TEXT NOT NULL DEFAULT '', copy_start REAL NOT NULL DEFAULT 0,
  created REAL NOT NULL, started REAL NOT NULL DEFAULT 0,
  finished REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_copy ON jobs (copy, number);
CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS totals (
  name TEXT, label TEXT, value REAL NOT NULL, PRIMARY KEY (name, label));
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_COLUMNS = ", ".join(field.name for field in fields(Job))


class SqliteStore:
    """See jobs.Store."""

    def __init__(self, path: Path):
        """Opens the file, or makes it."""
        self._path, self._lock = path, threading.Lock()
        with self._faults():
            self._file = sqlite3.connect(
                path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            self._file.execute("PRAGMA journal_mode = WAL")
            # What was accepted is there after a power cut too.
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.executescript(_TABLES)
            self._inode = os.stat(path).st_ino

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Says what is wrong with the file in a sentence."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = getattr(error, "strerror", None) or str(error)
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise StoreFull(
                    f"no space is left for the jobs in {self._path.name}; free some"
                ) from error
            raise StoreGone(
                f"the store of jobs, {self._path.name}, cannot be used ({said}); start "
                "the service again"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are all kept, or none."""
        with self._lock, self._faults():
            # A file that was removed goes on taking rows that nobody will read.
            if os.stat(self._path).st_ino != self._inode:
                raise FileNotFoundError(None, "its file was replaced")
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def _read(self, query: str, *values: object) -> list[tuple]:
        with self._lock, self._faults():
            if os.stat(self._path).st_ino != self._inode:
                raise FileNotFoundError(None, "its file was replaced")
            return self._file.execute(query, values).fetchall()

    def add(self, job: NewJob, *, most: int) -> Job:
        """See jobs.Store."""
        with self._transaction() as file:
            query = "SELECT count(*) FROM jobs WHERE state = ?"
            ((count,),) = file.execute(query, (WAITING,))
            if count >= most:
                raise QueueFull(f"{count} videos wait already; try again later")
            ((row),) = file.execute(
                "INSERT INTO jobs (id, name, size, sha256, evidence, created) "
                f"VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}",
                (*job, time.time()),
            ).fetchall()
            _count(file, "accepted", "", 1)
        return _job(row)

    def get(self, *ids: str) -> dict[str, Job]:
        """See jobs.Store."""
        marks = ", ".join("?" * len(ids))
        rows = self._read(f"SELECT {_COLUMNS} FROM jobs WHERE id IN ({marks})", *ids)
        return {job.id: job for job in map(_job, rows)}

    def waiting(self) -> list[str]:
        """See jobs.Store."""
        query = "SELECT id FROM jobs WHERE state = ? ORDER BY number"
        return [id for (id,) in self._read(query, WAITING)]

    def row(self, id: str) -> str | None:
        """See jobs.Store."""
        rows = self._read("SELECT result FROM results WHERE id = ?", id)
        return rows[0][0] if rows else None

    def claim(self, worker: str) -> Job | None:
        """See jobs.Store."""
        now = time.time()
        query = (
            f"SELECT 1 FROM jobs WHERE state = '{WAITING}' OR (state = ? AND lease < ?)"
        )
        if not self._read(f"{query} LIMIT 1", RUNNING, now):
            return None  # without keeping others from writing
        with self._transaction() as file:
            _release(file, "lease < ?", (now,), died=True)
            rows = file.execute(
                "UPDATE jobs SET state = ?, worker = ?, claim = ?, lease = ?, "
                "started = ?, attempt = attempt + 1, phase = 'reading' "
                "WHERE number = (SELECT min(number) FROM jobs WHERE state = ?) "
                f"RETURNING {_COLUMNS}",
                (
                    RUNNING,
                    worker,
                    secrets.token_hex(8),
                    now + LEASE_SECONDS,
                    now,
                    WAITING,
                ),
            ).fetchall()
        return _job(rows[0]) if rows else None

    def renew(self, worker: str) -> set[str]:
        """See jobs.Store."""
        with self._transaction() as file:
            rows = file.execute(
                "UPDATE jobs SET lease = ? WHERE state = ? AND worker = ? "
                "RETURNING claim",
                (time.time() + LEASE_SECONDS, RUNNING, worker),
            ).fetchall()
        return {claim for (claim,) in rows}

    def report(self, job: Job, phase: str, done: int, frames: int) -> None:
        """See jobs.Store."""
        with self._transaction() as file:
            file.execute(
                "UPDATE jobs SET phase = ?, frames_done = ?, frames = ? "
                "WHERE id = ? AND claim = ? AND state = ?",
                (phase, done, frames, job.id, job.claim, RUNNING),
            )

    def finish(self, job: Job, scored: Scored) -> bool:
        """See jobs.Store."""
        now = time.time()
        with self._transaction() as file:
            changed = file.execute(
                "UPDATE jobs SET state = ?, phase = '', outcome = ?, copy = ?, "
                "finished = ? WHERE id = ? AND claim = ? AND state = ?",
                (
                    *(DONE, scored.outcome, COPY_WANTED if job.evidence else COPY_NONE),
                    *(now, job.id, job.claim, RUNNING),
                ),
            ).rowcount
            if changed:
                file.execute("INSERT INTO results VALUES (?, ?)", (job.id, scored.row))
                _count(file, "outcome", scored.outcome, 1)
                waited = {"wait": max(job.started - job.created, 0.0)}
                for phase, seconds in {**waited, **scored.seconds}.items():
                    _count(file, "seconds", phase, seconds)
                    _count(file, "videos", phase, 1)
        return bool(changed)

    def give_back(self, worker: str, *, died: bool, id: str = "") -> int:
        """See jobs.Store."""
        where, values = "worker = ?", (worker,)
        if id:
            where, values = f"{where} AND id = ?", (worker, id)
        with self._transaction() as file:
            return _release(file, where, values, died=died)

    def next_copy(self, tried: set[str]) -> Job | None:
        """See jobs.Store."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE copy = ? ORDER BY number"
        jobs = map(_job, self._read(query, COPY_WANTED))
        return next((job for job in jobs if job.id not in tried), None)

    def finish_copy(
        self, id: str, *, reason: str, start: float, seconds: float
    ) -> None:
        """See jobs.Store."""
        state = COPY_NONE if reason else COPY_READY
        with self._transaction() as file:
            file.execute(
                "UPDATE jobs SET copy = ?, copy_reason = ?, copy_start = ? "
                "WHERE id = ? AND copy = ?",
                (state, reason, start, id, COPY_WANTED),
            )
            _count(file, "seconds", "copy", seconds)
            _count(file, "videos", "copy", 1)

    def delete(self, id: str) -> bool:
        """See jobs.Store."""
        with self._transaction() as file:
            file.execute("DELETE FROM results WHERE id = ?", (id,))
            return file.execute("DELETE FROM jobs WHERE id = ?", (id,)).rowcount > 0

    def ended_before(self, time: float) -> list[str]:
        """See jobs.Store."""
        query = "SELECT id FROM jobs WHERE state IN (?, ?) AND finished < ?"
        return [id for (id,) in self._read(query, DONE, FAILED, time)]

    def counts(self) -> Counts:
        """See jobs.Store."""
        query = "SELECT count(*) FROM jobs WHERE state = ?"
        copies = "SELECT count(*) FROM jobs WHERE copy = ?"
        return Counts(
            self._read(query, WAITING)[0][0],
            self._read(query, RUNNING)[0][0],
            self._read(copies, COPY_WANTED)[0][0],
        )

    def totals(self) -> list[Total]:
        """See jobs.Store."""
        rows = self._read("SELECT name, label, value FROM totals ORDER BY name, label")
        return [Total(*row) for row in rows]

    def describe_model(self, text: str) -> None:
        """See jobs.Store."""
        with self._transaction() as file:
            file.execute("INSERT OR REPLACE INTO facts VALUES ('model', ?)", (text,))

    def model(self) -> str:
        """See jobs.Store."""
        rows = self._read("SELECT value FROM facts WHERE name = 'model'")
        return rows[0][0] if rows else ""


def _job(row: tuple) -> Job:
    job = Job(*row)
    return replace(job, evidence=bool(job.evidence))  # SQLite has no booleans


def _count(file: sqlite3.Connection, name: str, label: str, value: float) -> None:
    file.execute(
        "INSERT INTO totals VALUES (?, ?, ?) "
        "ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value",
        (name, label, value),
    )


def _release(file: sqlite3.Connection, where: str, values: tuple, *, died: bool) -> int:
    """Lets the running jobs of a condition wait again, or fail; returns how many."""
    running = f"state = '{RUNNING}' AND {where}"
    failed = 0
    if died:
        failed = file.execute(
            "UPDATE jobs SET state = ?, reason = ?, finished = ?, claim = '', "
            f"phase = '' WHERE {running} AND attempt >= ?",
            (
                *(FAILED, f"the process that scores died {MOST_ATTEMPTS} times at it"),
                *(time.time(), *values, MOST_ATTEMPTS),
            ),
        ).rowcount
        _count(file, "outcome", FAILED, failed)
    less = 0 if died else 1
    back = file.execute(
        "UPDATE jobs SET state = ?, worker = '', claim = '', phase = '', "
        f"frames_done = 0, attempt = attempt - ? WHERE {running}",
        (WAITING, less, *values),
    ).rowcount
    if died:
        _count(file, "retries", "", back)
    return failed + back
