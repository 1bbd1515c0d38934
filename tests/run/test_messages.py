"""Messages between the processes of a run come back as they were, and nothing else."""

import contextlib
import socket
import threading
import time

import pytest

from fakedetect_jax.run.messages import (
    Beat,
    Done,
    End,
    Hello,
    Line,
    Meet,
    Met,
    Waiting,
    decode,
    encode,
)

MESSAGES = (
    Hello(1, 4, "host1, pid 7", {"config.seed": 0}, "give all the same"),
    Hello(0, 2, "host0, pid 7", {}, failed="config.seed is x", code=2),
    Meet("data", {"digest": "ab"}, 3, "copy it again"),
    Met("data"),
    Waiting([1, 3]),
    End("the disk is full", 4, 2),
    End("the hosts do not agree", 2),
    Done(),
    Beat(),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message):
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    again = decode(line)
    assert type(again) is type(message) and again == message


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"Beat": {}, "Done": {}}',
        b'{"Other": {}}',
        b'{"Met": {}}',
        b'{"Met": {"place": "a", "more": 1}}',
        b'{"Met": "a"}',
        b'{"Met": {"place": 1}}',
        b'{"End": {"sentence": "x", "code": "4"}}',
        b'{"Hello": {"process": 0, "count": 2, "name": "x", "facts": [1]}}',
        b"[" * 100_000,
    ],
)
def test_what_no_process_of_ours_sends_is_refused(line):
    with pytest.raises(ValueError):
        decode(line)


def test_what_is_sent_last_arrives_though_something_is_unread():
    """A small piece waits for the receipt of the one before, and a reset drops it."""
    end = End("the disk is full", 4, 2)
    with socket.create_server(("localhost", 0)) as server:
        ours = Line(socket.create_connection(server.getsockname()))
        hub = Line(server.accept()[0])
    with contextlib.closing(ours):
        for _ in range(50):  # until receipts are held back, as on any used connection
            ours.send(Beat())
            hub.send(Beat())
            ours.receive()
        hub.send(Beat())
        hub.send(end)

        def leave() -> None:
            hub.drain()
            hub.close()

        thread = threading.Thread(target=leave)
        thread.start()
        time.sleep(0.1)
        got = []
        while (messages := ours.receive()) is not None:
            got += messages
    thread.join()
    assert got[-1] == end
