"""Paths that may lie in a bucket: gs://BUCKET/FOLDER beside folders of this machine.

A bucket knows whole objects only. A write is there as a whole or not at all, as after
a rename; but there is no rename, no append, no lock and no empty folder.

gcsfs is imported by the first address, never by a path of this machine.
"""

import base64
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from tfds_ffpp.errors import StoreError, reason

SCHEME = "gs://"


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path lies in a bucket."""
    return os.fspath(path).startswith(SCHEME)


def as_path(name: str | os.PathLike) -> Path:
    """A path of this machine, or one of a bucket, which has the same methods.

    Of those `absolute` must not be called: see `absolute`.
    """
    if not is_address(name):
        return Path(name).expanduser()
    filesystem()
    from etils import epath

    return cast(Path, epath.Path(os.fspath(name)))


def absolute(path: Path) -> Path:
    """The absolute path; an address is one already."""
    return path if is_address(path) else path.absolute()


@functools.cache
def filesystem() -> Any:
    """All buckets, by the account that this machine has for them."""
    # Without it every kind of bucket has the same plain objects.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from fsspec import config

    # Others write there too: a list of a second ago may be wrong.
    config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    for name in ("gcsfs", "google.auth", "asyncio"):  # one_sentence says it once
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return fsspec.filesystem("gcs")


def _forget() -> None:
    """A forked process cannot use its parent's connections."""
    filesystem.cache_clear()
    if (backend := sys.modules.get("etils.epath.backend")) is not None:
        backend.fsspec_backend._get_filesystem.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Object(NamedTuple):
    """What a bucket says of an object.

    md5: in hex; None of a composed one. generation: another one with every write.
    updated: when it was written, by the bucket's clock, as ISO 8601 has it.
    """

    size: int
    md5: str | None
    generation: str
    updated: str

    @classmethod
    def of(cls, facts: Any) -> "Object":
        """What gcsfs says of it."""
        md5 = facts.get("md5Hash")
        return cls(
            facts["size"],
            base64.b64decode(md5).hex() if md5 else None,
            str(facts.get("generation")),
            str(facts.get("updated")),
        )


def one_object(path: str | os.PathLike) -> Object:
    """Raises FileNotFoundError where there is no such object."""
    facts = filesystem().info(os.fspath(path))
    if facts["type"] != "file":
        raise FileNotFoundError(path)
    return Object.of(facts)


def objects(folder: Path) -> dict[str, Object]:
    """Every object below a folder, by relative name."""
    root = os.fspath(folder).removeprefix(SCHEME).rstrip("/") + "/"
    found = filesystem().find(os.fspath(folder), detail=True)
    return {
        name.removeprefix(root): Object.of(facts)
        for name, facts in found.items()
        if name.startswith(root) and not name.endswith("/")
    }


def move(source: Path, target: Path) -> None:
    """Moves a file or a folder within a bucket, object by object."""
    filesystem().mv(os.fspath(source), os.fspath(target), recursive=True)


def copy(source: Path, target: Path) -> None:
    """Copies a folder within a bucket to where nothing is, object by object."""
    filesystem().copy(os.fspath(source), os.fspath(target), recursive=True)


def remove(folder: Path) -> None:
    """Removes what lies below a folder of a bucket."""
    filesystem().rm(os.fspath(folder), recursive=True)


def create(path: Path, content: bytes) -> bool:
    """Writes an object that is not there; whether it was this call that did."""
    try:
        filesystem().pipe_file(os.fspath(path), content, mode="create")
    except FileExistsError:
        return False
    return True


def errors() -> tuple[type[Exception], ...]:
    """What the libraries raise for a bucket that is silent or refuses."""
    if "gcsfs" not in sys.modules:
        return ()
    from aiohttp import ClientError
    from gcsfs.retry import HttpError
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return ClientError, HttpError, GoogleAPIError, GoogleAuthError


def _is_fault(error: Exception) -> bool:
    # gcsfs makes an OSError without a number of what is forbidden or not there.
    silent = isinstance(error, OSError) and error.errno is None
    return isinstance(error, errors()) or (silent and "gcsfs" in sys.modules)


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Raises StoreError for a fault of a bucket."""
    try:
        yield
    except Exception as error:
        if not _is_fault(error):
            raise
        raise StoreError(
            f"the bucket cannot be used ({reason(error)}); what was saved before is "
            "whole: mend the connection or the permissions and run the same command "
            "again"
        ) from error
