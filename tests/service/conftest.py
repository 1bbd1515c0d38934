"""One server for the tests that leave it as it was, and the stores of jobs."""

from collections.abc import Iterator

import pytest

from tests.service import stores
from tests.service.server import Server
from tests.serving.conftest import central, faceless  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def server(faceless, tmp_path_factory) -> Iterator[Server]:  # noqa: F811
    """With the tiny model; clients may come as often as they like."""
    data = tmp_path_factory.mktemp("service") / "data"
    options = [f"--model={faceless}", "--max_mib=4", "--stall_seconds=1", "--queue=20"]
    options += ["--uploads_per_minute=0", "--requests_per_minute=0", "--processes=2"]
    with Server(data, *options) as running:
        running.until_ready()
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[stores.Running]:
    with stores.running("postgres") as running:
        yield running


@pytest.fixture(scope="module")
def redis_server() -> Iterator[stores.Running]:
    with stores.running("redis") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request) -> str:
    """Of an empty store of each kind; "" is a file."""
    if request.param == "sqlite":
        return ""
    name = "postgres" if request.param == "postgres" else "redis_server"
    running: stores.Running = request.getfixturevalue(name)
    running.empty()
    return running.url
