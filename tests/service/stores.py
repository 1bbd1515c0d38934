"""Real servers that keep jobs, each started for the tests and ended after them."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import LIMIT

REDIS = shutil.which("redis-server")


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    initdb = found[-1] if found else on_path and Path(on_path).resolve()
    return initdb.parent if initdb else None


class StoreServer:
    """A server of its own, whose store has a URL; it can be stopped and started."""

    def __init__(self, words: list[str], url: str, user: str | None):
        """user: as whom it runs."""
        self.words, self.url, self.user = words, url, user
        self.process: subprocess.Popen | None = None

    def start(self, port: int) -> None:
        self.process = subprocess.Popen(
            self.words,
            user=self.user,
            group=self.user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            assert self.process.poll() is None, self.words
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("it does not answer")

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Ends it as a power cut would, or in order."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=LIMIT)
            self.process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(kind: str) -> Iterator["Running"]:
    """A server of this kind, or a skip that says what is missing."""
    place = Path(tempfile.mkdtemp(prefix=f"fakedetect-{kind}-"))
    port = free_port()
    try:
        server = _redis(place, port) if kind == "redis" else _postgres(place, port)
        found = Running(server, port)
        found.start()
        yield found
        found.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Running:
    """A server that is there, at its port."""

    def __init__(self, server: StoreServer, port: int):
        self.server, self.port, self.url = server, port, server.url

    def start(self) -> None:
        self.server.start(self.port)
        if self.url.startswith("postgresql"):
            self._until_it_takes_queries()

    def _until_it_takes_queries(self) -> None:
        import psycopg

        end = time.monotonic() + LIMIT
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGKILL) -> None:
        self.server.stop(number)
        if self.url.startswith("postgresql") and number == signal.SIGKILL:
            time.sleep(0.5)  # its children notice, and leave the port

    def empty(self) -> None:
        """As it was when it was new."""
        if self.url.startswith("redis"):
            import redis

            redis.Redis.from_url(self.url).flushall()
            return
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS fakedetect CASCADE")


def _redis(place: Path, port: int) -> StoreServer:
    pytest.importorskip("redis", reason="the extra redis is not installed")
    if REDIS is None:
        pytest.skip("no Redis server is installed")
    words = [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place)]
    words += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
    return StoreServer(words, f"redis://127.0.0.1:{port}/0", None)


def _postgres(place: Path, port: int) -> StoreServer:
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    user = None
    if os.geteuid() == 0:  # it refuses to be root
        user = "postgres"
        try:
            pwd.getpwnam(user)
        except KeyError:
            pytest.skip("no PostgreSQL server may run: there is no user postgres")
        shutil.chown(place, user, user)
    folder = place / "cluster"
    words = [str(programs / "initdb"), "-D", str(folder), "-A", "trust", "-U", "tests"]
    words += ["--no-locale", "-E", "UTF8", "--no-sync"]
    subprocess.run(
        words, user=user, group=user, check=True, capture_output=True, cwd=place
    )
    words = [str(programs / "postgres"), "-D", str(folder), "-p", str(port)]
    words += ["-h", "127.0.0.1", "-k", ""]
    return StoreServer(words, f"postgresql://tests@127.0.0.1:{port}/postgres", user)
