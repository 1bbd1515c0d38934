"""Signals, a parent's end, the allocator: what rules this process."""

import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tfds_ffpp.errors import Interrupted
from tfds_ffpp.system import die_with_parent

# One request may arrive twice: from a terminal or scheduler, and from our own parent.
SAME_REQUEST_SECONDS = 0.5

# Schedulers kill 30 s after SIGTERM; by then we want to have gone on our own.
DEADLINE_SECONDS = 25


class StopRequest:
    """A context in which the first signal is noted and the second one obeyed.

    The signals arrive through a wake-up socket and a thread, since Python runs no
    handler while the main thread is inside a long call such as a compilation.
    """

    def __init__(self):
        """Changes nothing until entered."""
        self.signal: int | None = None
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, lambda *_: None)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._writer.close()

    def check(self) -> None:
        """Raises Interrupted if a signal came."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def _listen(self) -> None:
        while received := self._reader.recv(1):
            number = received[0]
            if number not in self._previous:
                continue
            if self.signal is not None:
                if time.monotonic() - self._since < SAME_REQUEST_SECONDS:
                    continue
                os._exit(128 + number)
            self.signal, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            print(
                f"{name}: saving at the next boundary; a second signal ends at once",
                file=sys.stderr,
                flush=True,
            )
            late = threading.Timer(DEADLINE_SECONDS, os._exit, (128 + number,))
            late.daemon = True
            late.start()


# Read by glibc at start: take memory in huge pages where the system grants them, which
# makes new memory 500 times fewer page faults; keep up to 16 GiB of what is freed, and
# never map single arrays. Threads keep heaps of their own: one heap for all costs up to
# a fifth of a step, as they queue for it.
MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def restart_with_malloc() -> None:
    """Starts this program anew, once, with what it was started with and MALLOC.

    glibc hands large arrays back to the system at each step and faults them in again
    at the next; see docs/performance.md. Returns on other systems than Linux, and where
    the environment already has one of the settings.
    """
    if not sys.platform.startswith("linux"):
        return
    if any(name in os.environ for name in MALLOC):
        return
    print(
        "starting anew with malloc set to keep freed memory (docs/performance.md)",
        file=sys.stderr,
        flush=True,
    )
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **MALLOC})  # noqa: S606


# A plugin for JAX, and the device files of NVIDIA, AMD and TPU drivers.
PLUGINS = ("jax_plugins", "libtpu")
DEVICES = ("nvidia[0-9]*", "dxg", "kfd", "accel[0-9]*", "vfio/[0-9]*")


def will_run_on_cpu(accelerator: str) -> bool:
    """Whether JAX will compute on the CPU, by what is seen before it starts."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if accelerator != "any" or platforms:
        return "cpu" in (accelerator, platforms.split(",")[0])
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        return True
    return not any(any(Path("/dev").glob(pattern)) for pattern in DEVICES)


# Names the process with which one that it starts is to end.
PARENT = "FAKEDETECT_PARENT"


def ending_with_this() -> dict[str, str]:
    """The environment of a command that is to end, at once, when this process does."""
    return {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Does what ending_with_this asks of a command; nothing where it does not."""
    if parent := os.environ.pop(PARENT, ""):
        die_with_parent(int(parent))


FORWARDED = (signal.SIGTERM, signal.SIGINT)


def in_child(work: Callable[[], int], *, ended: str) -> int:
    """Runs `work` in a forked child; returns its exit code, 4 if it was aborted.

    Args:
      work: returns the exit code. Must be called before any thread is started.
      ended: the sentence for a child that was aborted.
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        # Ctrl-C reaches the parent, which passes it on, once.
        os.setpgid(0, 0)
        os._exit(_finished(work))
    previous = {
        number: signal.signal(number, lambda n, _: _forward(child, n))
        for number in FORWARDED
    }
    _, status = os.waitpid(child, 0)
    for number, handler in previous.items():
        signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGABRT:
        print(f"error: {ended}", file=sys.stderr)
        return 4
    return code if code >= 0 else 128 - code


def _finished(work: Callable[[], int]) -> int:
    """The exit code of `work`, with its output flushed and its atexit calls made."""
    import atexit

    code = 1
    try:
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # the child must not return into our caller
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return
