"""What the processes of a run send each other: records, one a line of JSON."""

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

LONGEST_LINE = 1 << 20  # bytes
SEND_SECONDS = 5

Facts = Mapping[str, Any]  # of a process, for all to agree on


class Hello(NamedTuple):
    """A process, one of `count`, comes to the hub; `cure` is for facts that differ.

    failed: why it ends before it has come, with `code`; None where it does not.
    """

    process: int
    count: int
    name: str
    facts: dict
    cure: str = ""
    failed: str | None = None
    code: int = 0


class Meet(NamedTuple):
    """It waits at a place until all are there with the same facts.

    code, cure: of the end when they differ.
    """

    place: str
    facts: dict
    code: int
    cure: str


class Met(NamedTuple):
    """All are at a place."""

    place: str


class Waiting(NamedTuple):
    """The run waits for processes that have not come."""

    missing: list


class End(NamedTuple):
    """The run ends; by: the process that said so, None for the hub."""

    sentence: str
    code: int
    by: int | None = None

    def __str__(self) -> str:
        if self.by is None:
            return self.sentence
        return f"process {self.by}: {self.sentence}"


class Done(NamedTuple):
    """It has done its work: that it goes is no failure."""


class Beat(NamedTuple):
    """It is there."""


Message = Hello | Meet | Met | Waiting | End | Done | Beat
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Hello, Meet, Met, Waiting, End, Done, Beat)
}


def encode(message: Message) -> bytes:
    """A message as a line."""
    return json.dumps({type(message).__name__: message._asdict()}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises ValueError for what no process of ours sends."""
    try:
        ((name, values),) = json.loads(line).items()
        message = _KINDS[name](**values)
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no message of ours: {error}") from error
    fields = get_type_hints(_KINDS[name]).items()
    for (field, kind), value in zip(fields, message, strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{name}.{field} is not of {kind}")
    return message


class Line:
    """A connection that carries messages."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(SEND_SECONDS)
        self.connection = connection
        self.heard = time.monotonic()
        self.unread: list[Message] = []  # came in one piece with the answer to a hello
        self._rest = b""

    def fileno(self) -> int:
        """For selectors."""
        return self.connection.fileno()

    def send(self, message: Message) -> None:
        """Sends a message; a broken connection is noticed when it is read."""
        try:
            self.connection.sendall(encode(message))
        except OSError:
            return

    def receive(self) -> list[Message] | None:
        """The messages that are there, once readable; None when it is closed.

        Raises ValueError for anything but messages.
        """
        try:
            received = self.connection.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not received:
            return None
        self.heard = time.monotonic()
        *whole, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise ValueError("a line without an end")
        return [decode(line) for line in whole]

    def drain(self) -> None:
        """Reads until the other side closes, or for some seconds.

        A connection that is closed with something unread is reset, and what was sent
        last may then never be read.
        """
        end = time.monotonic() + SEND_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < end and self.connection.recv(1 << 16):
                pass

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()
