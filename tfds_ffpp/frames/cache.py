"""The folder of entries that a build fills: one build at a time, gone when whole."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tfds_ffpp.errors import DataError

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
