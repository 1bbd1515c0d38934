"""Copies of what lies in a bucket, for readers of local files; made once per machine.

They lie under ~/.cache (XDG_CACHE_HOME), each where its address says. Beside a copy
FOLDER lies FOLDER.copied.json with the size and the digest of every file that was
compared with the bucket's, and FOLDER.lock, so that only one process copies.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfds_ffpp.errors import DataError
from tfds_ffpp.files import whole
from tfds_ffpp.store import addresses
from tfds_ffpp.store.addresses import Object
from tfds_ffpp.terminal.progress import Progress
from tfds_ffpp.terminal.text import printable

PIECE = 8 * 2**20  # bytes that progress counts by
AT_ONCE = 8  # files that are copied side by side


def place(address: str | os.PathLike) -> Path:
    """Where the copy of an address lies on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = os.fspath(address).removeprefix(addresses.SCHEME)
    return cache / "fakedetect_jax" / "buckets" / name


def here(path: str | os.PathLike) -> Path:
    """A path of this machine as it is; for an address a copy, as it is there now.

    Raises DataError when nothing is there, the disk is full, or a file does not arrive
    as the bucket says that it is.
    """
    if not addresses.is_address(path):
        return Path(path).expanduser()
    return _copy(os.fspath(path))


@functools.cache  # what a process works with does not change under it
def _copy(address: str) -> Path:
    target = place(address)
    there = addresses.objects(addresses.as_path(address))
    if not there:
        with contextlib.suppress(FileNotFoundError):
            there = {address.rpartition("/")[2]: addresses.one_object(address)}
        root, target_root = address.rpartition("/")[0], target.parent
    else:
        root, target_root = address, target
    if not there:
        raise DataError(f"there is nothing at {address}; give another address")
    for name in there:  # an object may have any name, also one that leads elsewhere
        if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
            raise DataError(
                f"{address} holds an object named {printable(name)!r}, which is no "
                "path of a file below it; rename it"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(f"{target.name}.lock"), address):
            _update(root, target_root, there, target)
    except OSError as error:
        if error.errno is None or isinstance(error, addresses.errors()):
            raise  # the bucket's
        raise DataError(
            f"{address} cannot be copied to {target} ({error.strerror}); set "
            "XDG_CACHE_HOME to a folder with room for it"
        ) from error
    return target


@contextlib.contextmanager
def _alone(path: Path, address: str) -> Iterator[None]:
    """Waits until no other process of this machine copies the same."""
    import fcntl

    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process copies {address}: waiting", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _update(root: str, folder: Path, there: dict[str, Object], target: Path) -> None:
    """Copies what is not there as the bucket has it; removes what it has no longer."""
    record = target.with_name(f"{target.name}.copied.json")
    done = _read(record)
    for name in set(done) - set(there):
        (folder / name).unlink(missing_ok=True)
        del done[name]
    wanted = [
        name
        for name, found in there.items()
        if done.get(name) != _digest(found)
        or not (folder / name).is_file()
        or (folder / name).stat().st_size != found.size
    ]
    _need_space(root, folder, sum(there[name].size for name in wanted))
    pieces = sum(-(-there[name].size // PIECE) for name in wanted)
    writing = threading.Lock()
    with Progress(f"copy {root} (8 MiB)", pieces) as bar:

        def copy(name: str) -> None:
            _copy_file(f"{root}/{name}", folder / name, there[name], bar, writing)
            with writing:
                done[name] = _digest(there[name])
                with whole(record) as partial:
                    partial.write_text(json.dumps(done))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(copy, wanted):
                pass
        if wanted:
            bar.line()  # of a short one too: whence the data came


def _read(record: Path) -> dict[str, list]:
    try:
        return dict(json.loads(record.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _digest(found: Object) -> list:
    """What tells whether an object is still the same."""
    return [found.size, found.md5 or found.generation]


def _need_space(root: str, folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"the copy of {root} needs {size / 1e6:,.0f} MB and {folder} has "
            f"{free / 1e6:,.0f} MB free; set XDG_CACHE_HOME to a folder with more"
        )


def _copy_file(
    address: str,
    path: Path,
    found: Object,
    bar: Progress,
    counting: threading.Lock,
) -> None:
    """Raises DataError where what came is not what the bucket says that it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with whole(path) as partial, open(partial, "wb") as file:
        for start in range(0, found.size, PIECE):
            stop = min(start + PIECE, found.size)
            content = addresses.filesystem().cat_file(address, start=start, end=stop)
            digest.update(content)
            size += file.write(content)
            with counting:
                bar.step()
        if size != found.size or found.md5 not in (None, digest.hexdigest()):
            raise DataError(
                f"{address} is damaged: the bucket has {found.size:,} bytes with "
                f"the MD5 {found.md5}, and sent {size:,} with {digest.hexdigest()}; "
                "put the file there again"
            )
        file.flush()
