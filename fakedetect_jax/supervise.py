"""A parent for one process of several: tells in a sentence why the run ended.

JAX aborts a process whose peers are gone, from a thread of its own that no Python code
can stop. So the work is done by a child, and the parent says what its end means.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
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
        _die_with(parent)
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


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    # Ctrl-C reaches the parent, which passes it on, once.
    os.setpgid(0, 0)


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return
