"""The store that a URL names."""

from pathlib import Path

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue.jobs import Store
from fakedetect_jax.service.queue.sqlite import SqliteStore


def open_store(url: str, data: Path) -> Store:
    """The store of a URL: "" is a SQLite file in the folder `data`.

    Raises ConfigError for a URL of another kind, StoreGone where it does not answer.
    """
    if not url:
        return SqliteStore(data / "jobs.sqlite")
    if url.startswith("sqlite:///"):
        return SqliteStore(Path("/" + url.removeprefix("sqlite:///")))
    raise ConfigError(
        f"--store {url.split(':')[0]}: is not known; give sqlite:///FILE, or nothing "
        "for a file in --data"
    )
