"""The jobs in PostgreSQL, which several machines share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg

from fakedetect_jax.service.queue.database import Changing, Reading
from fakedetect_jax.service.queue.jobs import StoreFull, StoreGone
from fakedetect_jax.service.queue.sql import TABLES, Rows, Statements

T = TypeVar("T")
SCHEMA = "fakedetect"
WAIT_SECONDS = 10  # for an answer, a lock, or a connection
_LOCK = 0x66616B65  # names the lock under which changes are made, one after another
_CONNECT: dict[str, Any] = {
    "connect_timeout": WAIT_SECONDS,
    # A server that went without a word is noticed.
    "tcp_user_timeout": 1000 * WAIT_SECONDS,
    "application_name": SCHEMA,
    "options": f"-c search_path={SCHEMA} -c statement_timeout={WAIT_SECONDS}s "
    # What was accepted is there after a power cut too.
    "-c synchronous_commit=on",
}


class PostgresDatabase:
    """See database.Database."""

    def __init__(self, url: str):
        """Connects, and makes the tables where they are not there."""
        self._url, self._lock = url, threading.Lock()
        parts = urlsplit(url)
        self._password = parts.password
        # Without a password.
        self._name = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._connection: psycopg.Connection | None = None
        self._statements = Statements(self._execute, self._now)

        def make(change: Changing) -> None:
            query = "SELECT 1 FROM pg_namespace WHERE nspname = ?"
            if not self._execute(
                query, (SCHEMA,)
            ):  # else no right to make it is needed
                self._connect().execute(f"CREATE SCHEMA {SCHEMA}".encode())
            self._connect().execute(TABLES.encode())

        self.change(make)

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._disconnect()

    def _connect(self) -> psycopg.Connection:
        """The connection; a new one where it was lost."""
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True, **_CONNECT)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Says what is wrong in a sentence; the next use connects anew."""
        try:
            yield
        except psycopg.errors.DiskFull as error:
            raise StoreFull(
                f"no space is left for the jobs in {self._name}; free some"
            ) from error
        except psycopg.Error as error:
            self._disconnect()
            said = (str(error).splitlines() or [type(error).__name__])[0]
            if self._password:  # libpq may repeat a URL that it cannot read
                said = said.replace(self._password, "***")
            raise StoreGone(
                f"the store of jobs, {self._name}, does not answer ({said}); start it, "
                "or give another --store"
            ) from error

    def _execute(self, query: str, values: tuple) -> Rows:
        cursor = self._connect().execute(query.replace("?", "%s").encode(), values)
        return cursor.fetchall() if cursor.description else []

    def _now(self) -> float:
        query = "SELECT extract(epoch FROM clock_timestamp())::double precision"
        return self._execute(query, ())[0][0]

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """See database.Database."""
        with self._lock, self._faults():
            yield self._statements

    def change(self, act: Callable[[Changing], T]) -> T:
        """See database.Database."""
        with self._lock, self._faults(), self._connect().transaction():
            # Until the end of the transaction.
            self._execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            return act(self._statements)
