"""The jobs in a SQLite file, which several processes of a machine share."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fakedetect_jax.service.queue.database import Changing, Reading
from fakedetect_jax.service.queue.jobs import StoreFull, StoreGone
from fakedetect_jax.service.queue.sql import TABLES, Rows, Statements

T = TypeVar("T")
BUSY_SECONDS = 10.0  # that a process waits while another one writes


class SqliteDatabase:
    """See database.Database."""

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
            self._file.executescript(TABLES)
            self._inode = os.stat(path).st_ino
        self._statements = Statements(self._execute, time.time)

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

    def _execute(self, query: str, values: tuple) -> Rows:
        return self._file.execute(query, values).fetchall()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """See database.Database."""
        with self._lock, self._faults():
            # A file that was removed goes on taking rows that nobody will read.
            if os.stat(self._path).st_ino != self._inode:
                raise FileNotFoundError(None, "its file was replaced")
            yield self._statements

    def change(self, act: Callable[[Changing], T]) -> T:
        """See database.Database."""
        with self.reading():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                done = act(self._statements)
                self._file.execute("COMMIT")
                return done
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
