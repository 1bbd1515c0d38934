"""What is made of one video, kept in a file until the dataset is whole; their folder.

An entry is a record as a line of JSON, then the encoded frames one after another. It is
written beside its place and renamed, so an entry that is there is whole.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.files import whole

Found = TypeVar("Found")


def entry_name(path: str, how: object) -> str:
    """Name of a file's entry, another for another content, place or preparation."""
    status = os.stat(path)
    facts = [os.path.abspath(path), status.st_size, status.st_mtime_ns, how]
    if os.path.isdir(path):  # frames may change without their folder
        with os.scandir(path) as frames:
            known = sorted((f.name, f.stat().st_mtime_ns) for f in frames)
        facts.append(known)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def write_entry(path: Path, found: Any, frames: Sequence[bytes]) -> None:
    """Writes an entry of a record so that it is there whole or not at all."""
    blob, plain = b"".join(frames), records.to_json(found)
    line = json.dumps({**plain, "_sizes": [len(f) for f in frames], "_crc": _crc(blob)})
    with whole(path) as place:
        place.write_bytes(line.encode() + b"\n" + blob)


def _crc(blob: bytes) -> int:
    return zlib.crc32(blob)


def read_found(path: Path, kind: type[Found]) -> Found | None:
    """The record of an entry; None when there is no whole entry."""
    try:
        with path.open("rb") as file:
            meta = json.loads(file.readline())
            whole = file.tell() + sum(meta["_sizes"]) == os.fstat(file.fileno()).st_size
        return records.from_json(kind, meta) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_frames(path: Path) -> list[bytes]:
    """The encoded frames of an entry. Raises DataError if they are damaged."""
    with path.open("rb") as file:
        meta = json.loads(file.readline())
        blob = file.read()
    if _crc(blob) != meta["_crc"]:
        path.unlink()
        raise DataError(f"{path} is damaged and was removed; run the build again")
    frames, start = [], 0
    for size in meta["_sizes"]:
        frames.append(blob[start : start + size])
        start += size
    return frames


# The folder: one build at a time fills it, and it goes when the dataset is whole ----

CACHE = ".tfds_ffpp_cache"  # in the data dir


def cache_folder(root: Path, facts: object) -> Path:
    """Where entries of these facts lie: all that decides them but their videos."""
    text = json.dumps(facts, sort_keys=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Makes the cache and holds it. Raises DataError where another build does."""
    import fcntl  # the builder has asked for it; reading a dataset does without

    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = _lock_file(cache).open("w")
    except OSError as error:
        raise DataError(
            f"cannot write to {cache.parent.parent} ({error.strerror}); "
            "give a data_dir that can be written"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"another build is working in {cache}; wait for it to end"
            ) from None
        yield


def remove(cache: Path) -> None:
    """Removes the cache of a dataset that is whole."""
    shutil.rmtree(cache, ignore_errors=True)
    _lock_file(cache).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others' caches are there
        cache.parent.rmdir()


def _lock_file(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.lock")
