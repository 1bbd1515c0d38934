"""The process that answers: uvicorn, with a worker beside it that is kept alive."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess  # noqa: S404
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.options import Options, Serving
from fakedetect_jax.service.queue.jobs import StoreFull, StoreGone
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places
from fakedetect_jax.service.queue.store import Store
from fakedetect_jax.service.web import metrics, watch
from fakedetect_jax.service.web.app import Service, guarded

MOST_CONNECTIONS = 1000
CLOSE_SECONDS = 5.0  # for answers under way when the server ends
TOKEN = "FAKEDETECT_TOKEN"  # noqa: S105 - the name of a variable
FATAL = (2, 3, 4)  # exit codes of a worker that say what a user must mend


class Connection(H11Protocol):
    """A connection that is closed when no request is under way for a while.

    uvicorn alone would wait for ever for a head that comes a byte at a time.
    """

    stall_seconds = 20.0  # for a head, and between two requests
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Of asyncio."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        super().data_received(data)
        if self._is_busy() and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_response_complete(self) -> None:
        """Of uvicorn."""
        super().on_response_complete()
        if not self._is_busy():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.stall_seconds, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_busy():
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, which tells that it listens, and at the first signal that it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
    ):
        super().__init__(config)
        self._on_start, self._on_end = on_start, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_end()
        super().handle_exit(sig, frame)


class OwnWorker:
    """A worker as a child process, started again whenever it dies."""

    def __init__(self, command: Sequence[str], store: Store, name: str, grace: float):
        """command: starts it; name: of it in the store; grace: seconds in which it may
        end what it does."""
        self._command, self._store, self._grace = list(command), store, grace
        self._name = name
        self._child: subprocess.Popen | None = None
        self._ending = threading.Event()
        self.exit_code = 0  # of a worker that could not start

    def keep(self, on_fatal: Callable[[], None]) -> None:
        """Starts it and waits; to be run in a thread."""
        pause = 1.0
        while not self._ending.is_set():
            began = time.monotonic()
            env = {k: v for k, v in os.environ.items() if k != TOKEN}
            # In a group of its own: a ^C is for the server, which passes it on.
            self._child = subprocess.Popen(  # noqa: S603
                self._command, env=env, stdin=subprocess.DEVNULL, process_group=0
            )
            code = self._child.wait()
            if self._ending.is_set():
                return
            if code in FATAL:
                self.exit_code = code
                on_fatal()
                return
            said = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            _say(f"the worker ended ({said}) and is started again")
            with contextlib.suppress(StoreGone, StoreFull):
                self._store.leave(self._name)
                self._store.give_back(self._name, died=True)
            lived = time.monotonic() - began
            pause = 1.0 if lived > 60 else min(2 * pause, 30.0)
            self._ending.wait(pause)

    def end(self) -> None:
        """Lets it end what it does, for a while."""
        self._ending.set()
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(self._grace + 10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def serve(options: Options, worker_command: Sequence[str] | None) -> int:
    """Answers until a signal; the exit code.

    worker_command: starts the worker of this server; None where others score.

    Raises ConfigError where the folder or the address is in use.
    """
    logging.getLogger("python_multipart").disabled = True  # it tells of bodies
    os.umask(0o077)  # what is written here is for this user alone
    places = Places(options.data)
    with _alone(options.data):
        places.clear()
        store = open_store(options.store, options.data)
        store.belong_to(places.mark)
        # Of a server that was killed; its worker ended with it.
        store.give_back(places.own_worker, died=False)
        store.leave(places.own_worker)
        worker = None
        if worker_command is not None:
            grace = options.serving.grace_seconds
            worker = OwnWorker(worker_command, store, places.own_worker, grace)
        try:
            return _answer(options, store, places, worker)
        finally:
            if worker is not None:
                worker.end()
            store.close()


def _answer(
    options: Options, store: Store, places: Places, worker: OwnWorker | None
) -> int:
    serving = options.serving
    seen = watch.Watch(store, places, keep_seconds=serving.keep_seconds)
    service = Service(serving, store, places, seen, metrics.Metrics(store))
    config = uvicorn.Config(
        guarded(service),
        host=serving.host,
        port=serving.port,
        http=type("_", (Connection,), {"stall_seconds": serving.stall_seconds}),
        ws="none",
        root_path=serving.root,
        proxy_headers=bool(serving.trusted),
        forwarded_allow_ips=serving.trusted or None,
        server_header=False,
        access_log=False,  # ids are as good as keys
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(CLOSE_SECONDS),
        lifespan="on",
    )
    listening = _bind(serving)

    def say() -> None:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"serving on http://{shown}:{port}{serving.root}/", flush=True)

    server = _Server(config, say, seen.stop)

    def stop() -> None:
        seen.stop()
        server.should_exit = True

    if worker is not None:
        threading.Thread(target=worker.keep, args=[stop], daemon=True).start()
    server.run(sockets=[listening])
    return worker.exit_code if worker is not None else 0


def _bind(serving: Serving) -> socket.socket:
    """What listens. Raises ConfigError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        return socket.create_server((serving.host, serving.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--host {serving.host} --port {serving.port} cannot be listened at "
            f"({error.strerror}); choose others"
        ) from error


@contextlib.contextmanager
def _alone(data: Path):
    """Keeps a second server out of the folder."""
    import fcntl

    with (data / "server.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another server uses --data {data}; end it or choose another folder"
            ) from None
        yield


def _say(sentence: str) -> None:
    print(f"server: {sentence}", file=sys.stderr, flush=True)
