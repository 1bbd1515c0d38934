"""A body is read piece by piece, however it is cut."""

import asyncio
import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from fakedetect_jax.service import scoring
from fakedetect_jax.service.queue import jobs, places
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.web import app
from fakedetect_jax.service.web.answers import ModelAnswer
from fakedetect_jax.service.web.limits import Rate
from fakedetect_jax.service.web.metrics import Metrics
from fakedetect_jax.service.web.upload import Refused, receive
from tests.service.server import FORM, form

HEAD = b"\0\0\0\x18ftypisom"


def take(body: bytes, path, cut: int = 1 << 16, most: int = 1 << 20):
    async def pieces():
        for i in range(0, len(body), cut):
            yield body[i : i + cut]

    kind = FORM["content-type"]
    return asyncio.run(receive(pieces(), kind, path, most=most, stall=5.0))


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=6000), cut=st.integers(1, 3000))
def test_a_file_arrives_whole_however_it_is_cut(tmp_path_factory, content, cut):
    path = tmp_path_factory.mktemp("in") / "file"
    content = HEAD + content
    found = take(form(content, "b.mp4"), path, cut)
    assert path.read_bytes() == content
    assert found == ("b.mp4", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:  # only root may, and not in every container
        pytest.skip(f"no disk of one's own: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_nothing_is_left(disk):
    with pytest.raises(Refused, match="the disk of the service is full") as error:
        take(form(HEAD + bytes(3 << 20)), disk / "file", most=8 << 20)
    assert error.value.status == 507
    assert list(disk.iterdir()) == []


def ask_for_samples(data: Path, kept: Path, most: int) -> tuple[int, Any, list[str]]:
    """Status and answer of a service with two samples, and what lies in its folder.

    kept: where its queue lies, of so many places.
    """
    place, store = places.Places(data), open_store("", kept)
    scoring._join(store, "worker", ModelAnswer(ready=True, made=True))
    for name in ("forged.mp4", "original.mp4"):
        if not (place.samples / name).exists():
            (place.samples / name).write_bytes(HEAD + bytes(300_000))
    options: Any = SimpleNamespace(
        most_waiting=most, max_bytes=1 << 20, keep_seconds=60.0, root=""
    )
    watch: Any = SimpleNamespace(waits_for="")
    service = app.Service(options, store, place, watch, Metrics(store))
    sent = []

    async def receive_nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/samples"},
        **{"query_string": b"", "client": ("192.0.2.1", 1), "headers": []},
    }
    try:
        asyncio.run(app.make_app(service)(scope, receive_nothing, send))
        waiting = store.counts().waiting
    finally:
        store.close()
    body = json.loads(b"".join(message.get("body", b"") for message in sent))
    left = [p.name for name in ("incoming", "jobs") for p in (data / name).iterdir()]
    assert len(left) == waiting
    return sent[0]["status"], body, left


def test_samples_are_handed_in_both_or_none(tmp_path):
    data, kept = tmp_path / "data", tmp_path / "kept"
    kept.mkdir()
    status, body, left = ask_for_samples(data, kept, most=1)
    assert (status, left) == (503, [])
    assert "wait already" in body["error"]
    status, body, left = ask_for_samples(data, kept, most=2)
    assert status == 202 and sorted(left) == sorted(job["id"] for job in body)
    assert [job["name"] for job in body] == ["forged.mp4", "original.mp4"]


@pytest.mark.parametrize("seen", [True, False])
def test_samples_for_which_there_is_no_space_are_said(
    disk, tmp_path, monkeypatch, seen
):
    """Whether it is seen beforehand, or others take the space meanwhile."""
    monkeypatch.setattr(places, "SPARE", 0 if seen else -(1 << 20))
    kept = tmp_path / "kept"
    kept.mkdir()
    status, body, left = ask_for_samples(disk, kept, most=9)
    assert (status, left) == (507, [])
    assert body["error"] == "the disk of the service is full; try later"


def test_uploads_that_begin_together_are_counted(tmp_path):
    """Nobody else may begin between the question for room and the count."""
    options: Any = SimpleNamespace(most_uploads=99, most_waiting=9, max_bytes=1 << 20)
    began, most = 0, 0

    def counts():
        nonlocal began, most
        began += 1
        most = max(most, began)
        time.sleep(0.2)
        return SimpleNamespace(waiting=9)  # the queue is full, so none goes on

    store: Any = SimpleNamespace(counts=counts)
    nothing: Any = None
    service = app.Service(options, store, nothing, nothing, nothing)
    application = FastAPI()
    app._add_uploads(application, service)

    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/videos"},
        **{"query_string": b"", "client": ("192.0.2.1", 1), "headers": []},
    }

    async def receive_nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ignore(_):
        pass

    async def all_at_once():
        calls = [application(dict(scope), receive_nothing, ignore) for _ in range(20)]
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = Counter(type(error) for error in asyncio.run(all_at_once()))
    assert ends == {jobs.QueueFull: app.MOST_PER_CLIENT, Refused: 12}
    assert began == most == app.MOST_PER_CLIENT
    assert not service.uploads  # and all are forgotten again


def test_a_rate_is_of_each_client_and_refills():
    now = [0.0]
    rate = Rate(3, lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 20]
    assert rate.take("b") == 0
    now[0] = 18.5
    assert rate.take("a") == 2
    now[0] = 20.5
    assert (rate.take("a"), rate.take("a")) == (0, 20)
    assert {Rate(0).take("a") for _ in range(99)} == {0}
