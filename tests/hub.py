"""A stand-in of a model hub's HTTP interface on this machine, for one test at a time.

What it answers is what huggingface_hub 2.4 asks to look a model up, fetch and push.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Files = dict[str, bytes]


@dataclass
class Hub:
    """The commits of each model, the last one under "main"; and what was asked."""

    url: str = ""
    models: dict[str, dict[str, Files]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    asked: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)

    def commit(self, name: str, files: Files, gone: Sequence[str] = ()) -> str:
        """Adds files to a model and deletes others; returns the new commit."""
        commits = self.models.setdefault(name, {})
        whole = {**commits.get("main", {}), **files}
        for path in gone:
            del whole[path]
        digest = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        commits[digest] = commits["main"] = whole
        return digest

    def exact(self, name: str, revision: str) -> str | None:
        """The commit of a revision."""
        commits = self.models.get(name, {})
        if revision not in commits:
            return None
        wanted = commits[revision]
        return next(c for c, f in commits.items() if f is wanted and c != "main")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format, *args):  # noqa: A002
        return

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

    def gone(self) -> None:
        self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, revision = match[1], match[2] or "main"
            commit = self.hub.exact(name, revision)
            if commit is None:
                return self.gone()
            files = self.hub.models[name][commit]
            siblings = [{"rfilename": n, "size": len(c)} for n, c in files.items()]
            return self.say({"id": name, "sha": commit, "siblings": siblings})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit = self.hub.exact(match[1], match[2])
            content = (
                self.hub.models[match[1]][commit].get(match[3]) if commit else None
            )
            if content is None:
                return self.gone()
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=commit or "")
        return self.gone()

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self.body()
        self.hub.large[self.path.rpartition("/")[2]] = content
        self.answer(b"")

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        self.hub.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            if name in self.hub.models:
                return self.say({"url": f"{self.hub.url}/{name}"}, 409)
            self.hub.commit(name, {})
            self.hub.private[name] = said.get("visibility") == "private"
            return self.say({"url": f"{self.hub.url}/{name}", "id": name})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.say({"transfer": "basic", "objects": objects})
        if path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.say({"files": files})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.commit(match[1], body)
        return self.gone()

    def commit(self, name: str, body: bytes) -> None:
        files: Files = {}
        gone = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                gone.append(value["path"])
        commit = self.hub.commit(name, files, gone)
        url = f"{self.hub.url}/{name}/commit/{commit}"
        self.say({"success": True, "commitOid": commit, "commitUrl": url})


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
