"""A real server in a process of its own, and a client that asks it."""

import atexit
import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import ROOT
from tests.patience import LIMIT


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def command(data: Path, *options: object) -> list[str]:
    """`fakedetect serve` on a folder."""
    words = [sys.executable, "-m", "fakedetect_jax.serve", f"--data={data}"]
    return [*words, "--port=0", f"--compilation_cache={cache()}", *map(str, options)]


@functools.cache
def cache() -> str:
    """Where the programs of all servers of this process are kept."""
    folder = tempfile.TemporaryDirectory(prefix="fakedetect-programs-")
    atexit.register(folder.cleanup)
    return folder.name


def environment() -> dict[str, str]:
    """With one device, as most users have."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(flag for flag in flags if "device_count" not in flag)
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def form(content: bytes, name: str = "a.mp4", field: str = "video") -> bytes:
    """The body of an upload, of boundary XX."""
    head = f'--XX\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"'
    return head.encode() + b"\r\n\r\n" + content + b"\r\n--XX--\r\n"


FORM = {"content-type": "multipart/form-data; boundary=XX"}


class Server:
    """`fakedetect serve` as its users start it."""

    def __init__(self, data: Path, *options: object):
        self.data = data
        words = command(data, *options)
        self.log = data.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"serving on http://127.0.0.1:(\d+)/", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(self.log.read_text())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it; returns the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
            self.process.wait(timeout=LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        code = self.process.returncode
        assert code is not None
        return code

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        /,
        **headers: str,
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        chunked = body is not None and not isinstance(body, bytes)
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        ) as to:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                to.request(method, path, body, named, encode_chunked=chunked)
            got = to.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def upload(
        self, content: bytes | Path, name: str = "", query: str = "", **headers: str
    ) -> Answer:
        if isinstance(content, Path):
            content, name = content.read_bytes(), name or content.name
        body = form(content, name or "a.mp4")
        return self.ask("POST", f"/v1/videos{query}", body, **(FORM | headers))

    def hand_in(self, path: Path, query: str = "") -> str:
        """The id of an accepted video."""
        answer = self.upload(path, query=query)
        assert answer.status == 202, answer
        return answer.json["id"]

    def job(self, id: str) -> Any:
        return self.get(f"/v1/jobs/{id}").json

    def until(self, id: str, *, whole: bool = False) -> Any:
        """A job once it is over; whole: and so is what is made of it."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            job = self.job(id)
            if job["state"] in ("done", "failed") and (
                not whole or "wanted" not in (job["explained"], job["playable"])
            ):
                return job
            time.sleep(0.1)
        raise AssertionError(f"{job}\n{self.log.read_text()}")

    def until_begun(self, id: str) -> None:
        """Waits until the frames of a video are looked at; fails if it is over then."""
        end = time.monotonic() + LIMIT
        while (job := self.job(id))["phase"] not in ("looking", "scoring"):
            over = job["state"] in ("done", "failed") or time.monotonic() > end
            assert not over, f"{job}\n{self.log.read_text()}"
            time.sleep(0.02)

    def until_ready(self) -> None:
        end = time.monotonic() + LIMIT
        while self.get("/healthz").status != 200:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; or of one, with its label."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [
            line.split()[-1]
            for line in lines
            if re.match(rf"{re.escape(name)}[ {{]", line)
        ]
        return sum(map(float, values))

    def raw(self, content: bytes) -> socket.socket:
        """A connection that has sent this."""
        to = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        to.sendall(content)
        return to
