"""SIGTERM and SIGINT: stop at the next boundary, a second one ends at once."""

import os
import signal
import socket
import sys
import threading
import time
from types import TracebackType

# One request may arrive twice: from a terminal or scheduler, and from our own parent.
SAME_REQUEST_SECONDS = 0.5

# Schedulers kill 30 s after SIGTERM; by then we want to have gone on our own.
DEADLINE_SECONDS = 25


class Interrupted(Exception):
    """The run was asked to stop; what it had done is saved."""

    def __init__(self, number: int):
        """`number` is the signal's."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


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
