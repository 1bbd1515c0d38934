"""One server for the tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.service.server import Server
from tests.serving.conftest import faceless  # noqa: F401  a fixture


@pytest.fixture(scope="session")
def server(faceless, tmp_path_factory) -> Iterator[Server]:  # noqa: F811
    """With the tiny model; clients may come as often as they like."""
    data = tmp_path_factory.mktemp("service") / "data"
    options = [f"--model={faceless}", "--max-mib=4", "--stall-seconds=1", "--queue=20"]
    options += ["--uploads-per-minute=0", "--requests-per-minute=0", "--processes=2"]
    with Server(data, *options) as running:
        running.until_ready()
        yield running
