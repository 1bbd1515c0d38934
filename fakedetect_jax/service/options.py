"""How a service is set up; `fakedetect serve --help` says what each means."""

from dataclasses import dataclass
from pathlib import Path

KEEP_SECONDS = 3600.0
MAX_BYTES = 1 << 30
MOST_WAITING = 100
UPLOADS_PER_MINUTE = 60.0
REQUESTS_PER_MINUTE = 3000.0


@dataclass(frozen=True)
class Scoring:
    """Of the process that scores."""

    model: Path
    step: int | None
    batch_size: int
    processes: int
    backend: str
    time_limit: float
    memory_limit: int
    cache: Path | None


@dataclass(frozen=True)
class Serving:
    """Of the process that answers requests.

    hosts: names it may be called by, empty for any; root: the path before its own,
    behind a proxy; trusted: addresses of proxies whose headers are believed;
    stall_seconds: that may pass without a byte of a request.
    """

    host: str
    port: int
    hosts: frozenset[str]
    root: str
    trusted: str
    token: str
    max_bytes: int
    most_waiting: int
    most_uploads: int
    uploads_per_minute: float
    requests_per_minute: float
    keep_seconds: float
    stall_seconds: float
    grace_seconds: float


@dataclass(frozen=True)
class Options:
    """All of it; data: the folder of uploads and results; store: a URL, or ""."""

    data: Path
    store: str
    scoring: Scoring
    serving: Serving
