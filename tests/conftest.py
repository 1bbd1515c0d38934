"""Eight virtual CPU devices for every test; no compilation cache but a test's own."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def load_config():
    """The config of a file in configs/, by its name."""

    def load(name: str, *arguments):
        return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](
            *arguments
        )

    return load
