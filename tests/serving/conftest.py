"""One small model, as it was trained and made to take any picture for a face."""

import http.server
import json
import threading
from pathlib import Path

import jax
import pytest

from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import description
from fakedetect_jax.trained.model import load_model, write_bundle


@pytest.fixture(scope="session")
def detector(tiny_run) -> Detector:
    """The tiny run's model on one device."""
    return Detector.load(tiny_run.workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def faceless(tiny_run, tmp_path_factory) -> Path:
    """The same model exported, made to take the centre of the picture for a face."""
    folder = tmp_path_factory.mktemp("faceless")
    write_bundle(load_model(tiny_run.workdir), folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["preprocessing"]["frames"]["face_finder"] = "none"
    facts["preprocessing"]["window_frames"] = 40
    (folder / "model.json").write_text(json.dumps(description.sealed(facts)))
    return folder


@pytest.fixture(scope="session")
def central(faceless) -> Detector:
    return Detector.load(faceless, devices=jax.devices()[:1])


class Counting(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)  # pyright: ignore
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format, *args):  # noqa: A002
        return


@pytest.fixture
def web():
    """A loopback server that notes each request."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Counting)
    server.requests = []  # pyright: ignore
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
