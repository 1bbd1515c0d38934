"""How every command of both packages ends: an exit code, and at most one sentence."""

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

from tfds_ffpp.errors import UserError

Arguments = TypeVar("Arguments")


def run(parse: Callable[[], Arguments], work: Callable[[Arguments], int]) -> int:
    """Reads the arguments of a command and does its work; returns the exit code.

    The faults of users are a sentence on stderr, after a traceback where the arguments
    have a true field `debug`. An interrupt shows its notes. A reader of stdout that has
    gone ends the command in silence.
    """
    arguments = None
    try:
        arguments = parse()
        return work(arguments)
    except UserError as error:
        return complain(error, debug=getattr(arguments, "debug", False))
    except KeyboardInterrupt as end:
        notes = getattr(end, "__notes__", ())
        print("; ".join(["interrupted", *notes]), file=sys.stderr)
        return getattr(end, "exit_code", 128 + signal.SIGINT)
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise  # it was another pipe
        return 1
    finally:
        _flush_stdout()


def complain(error: UserError, *, debug: bool) -> int:
    """Prints the sentence of a fault; returns its exit code."""
    _flush_stdout()  # what was said before stands before it
    if debug:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _stdout_is_broken() -> bool:
    """Whether nothing reads any more what this process writes."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _flush_stdout() -> None:
    """Writes out what is held back, before Python does at exit and complains."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
