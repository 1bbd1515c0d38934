"""The store that a URL names."""

from importlib.util import find_spec
from pathlib import Path

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue.database import Database
from fakedetect_jax.service.queue.sqlite import SqliteDatabase
from fakedetect_jax.service.queue.store import Store

_SQLITE = "sqlite:///"


def open_store(url: str, data: Path) -> Store:
    """The store of a URL: "" is a SQLite file in the folder `data`.

    Raises ConfigError for a URL of another kind or without its package, StoreGone where
    the store does not answer.
    """
    try:
        return Store(_database(url, data))
    except ValueError as error:
        raise ConfigError(f"--store is no address of a store: {error}") from error


def _database(url: str, data: Path) -> Database:
    scheme = url.split(":")[0]
    if not url:
        return SqliteDatabase(data / "jobs.sqlite")
    if url.startswith(_SQLITE):
        return SqliteDatabase(Path("/" + url.removeprefix(_SQLITE)))
    if scheme in ("postgresql", "postgres"):
        _need("psycopg", "postgres")
        from fakedetect_jax.service.queue.postgres import PostgresDatabase

        return PostgresDatabase(url)
    if scheme in ("redis", "rediss", "unix"):
        _need("redis", "redis")
        from fakedetect_jax.service.queue.redis import RedisDatabase

        return RedisDatabase(url)
    raise ConfigError(
        f"--store {scheme}: is not known; give postgresql://HOST/DATABASE, "
        "redis://HOST/0, sqlite:///FILE, or nothing for a file in --data"
    )


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"this --store needs {package}: pip install 'fakedetect-jax[{extra}]'"
        )
