"""What a client may do: from which page, with which token, how often."""

import hmac
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_CLIENTS = 10_000  # that are remembered
OPEN_PATHS = ("/healthz",)  # without a token and as often as one likes
# The page itself shows nothing before it has a token.
PAGE_PATHS = ("/", "/docs", "/openapi.json")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


@dataclass
class _Bucket:
    """What a client has left, and when that was so."""

    left: float
    at: float


class Rate:
    """So many requests a minute for each client, in bursts of as many at the most."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic):
        """per_minute: 0 for no limit."""
        self._most, self._clock = per_minute, clock
        self._clients: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str) -> int:
        """0 if a client may go on, else the seconds that it must wait."""
        if not self._most:
            return 0
        now = self._clock()
        bucket = self._clients.pop(client, None) or _Bucket(self._most, now)
        refilled = bucket.left + (now - bucket.at) * self._most / 60
        left = min(refilled, self._most)
        allowed = left >= 1
        self._clients[client] = _Bucket(left - allowed, now)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) * 60 / self._most)


class Access(NamedTuple):
    """Who may use the service.

    token: "" for anybody; hosts: by which it may be called, empty for any; uploads and
    requests: a minute for each client.
    """

    token: str
    hosts: frozenset[str]
    uploads: Rate
    requests: Rate


class _Answer(NamedTuple):
    """A request that is refused."""

    status: int
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """Stands before the application: refuses, and heads every answer."""

    def __init__(self, app: App, access: Access, on_refused: Callable[[str], None]):
        """on_refused: called with the reason, in a word."""
        self._app, self._access, self._on_refused = app, access, on_refused

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [*message.get("headers", ())]
                there = {name.lower() for name, _ in own}
                more = [h for h in _HEADERS if h[0] not in there]
                if b"cache-control" not in there:
                    more.append((b"cache-control", b"no-store"))
                message["headers"] = [*own, *more]
            await send(message)

        answer = self._refusal(scope)
        if answer is None:
            await self._app(scope, receive, headed)
            return
        await _refuse(answer, headed)

    def _refusal(self, scope: Message) -> _Answer | None:
        headers = {name: value for name, value in scope["headers"]}
        path, root = scope["path"], scope.get("root_path", "")
        path = path.removeprefix(root) if root else path
        if not self._is_our_host(headers):
            return self._refuse(
                421, "host", "the service does not go by this name; --name adds one"
            )
        if scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            return self._refuse(403, "origin", "another site's page may not do this")
        if path in OPEN_PATHS:
            return None
        client = (scope.get("client") or ("",))[0]
        wait = self._access.requests.take(client)
        if not wait and scope["method"] == "POST":
            wait = self._access.uploads.take(client)
        if wait:
            after = (b"retry-after", str(wait).encode())
            return self._refuse(429, "rate", f"too often; try in {wait} s", after)
        is_page = path in PAGE_PATHS or path.startswith("/static/")
        if not is_page and not self._has_token(headers):
            ask = (b"www-authenticate", b"Bearer")
            return self._refuse(401, "token", "a bearer token is needed", ask)
        return None

    def _refuse(
        self, status: int, why: str, sentence: str, *headers: tuple[bytes, bytes]
    ) -> _Answer:
        self._on_refused(why)
        return _Answer(status, sentence, headers)

    def _is_our_host(self, headers: dict[bytes, bytes]) -> bool:
        """Not a name that another site had point here, to read through a browser."""
        name = _host(headers.get(b"host", b"").decode("latin-1"))
        return not self._access.hosts or name in self._access.hosts

    def _has_token(self, headers: dict[bytes, bytes]) -> bool:
        if not self._access.token:
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self._access.token.encode())
        return right and kind.lower() == b"bearer"


def _host(text: str) -> str:
    """The name in a Host header, without a port."""
    if text.startswith("["):
        return text.partition("]")[0].lstrip("[").lower()
    return text.partition(":")[0].lower()


def _is_foreign(headers: dict[bytes, bytes]) -> bool:
    """Whether a browser says that another site's page makes this request."""
    if headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site"):
        return True
    origin = headers.get(b"origin")
    if origin is None:
        return False
    return urlsplit(origin.decode("latin-1")).netloc != headers.get(
        b"host", b""
    ).decode("latin-1")


async def _refuse(answer: _Answer, send: Send) -> None:
    body = json.dumps({"error": answer.sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the body is not read
        *answer.headers,
    ]
    start = {"type": "http.response.start", "status": answer.status}
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": body})
