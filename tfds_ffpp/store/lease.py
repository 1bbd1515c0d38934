"""The lock of a folder in a bucket: an object that its holder renews.

A lock is FOLDER/lock/<number>. Whoever creates the next number, on condition that it is
not there, holds the folder. A holder that was killed no longer renews: one whose object
has an age of STALE seconds, by the bucket's clock, is gone, and the next number may be
taken. A holder that finds a higher number has lost the folder.
"""

import contextlib
import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tfds_ffpp import records
from tfds_ffpp.store import addresses

RENEW = 10.0  # seconds between two renewals
STALE = 60.0  # since the last renewal: the holder is gone
PATIENCE = 300.0  # for a bucket that cannot be reached; some libraries wait for an hour


class Busy(Exception):
    """Another process holds the folder; the text names it."""


class _Holder(NamedTuple):
    """Who holds a folder: the content of a lock, which others may have damaged."""

    holder: str = "another process"
    machine: str = ""
    pid: Any = None


class _Held(NamedTuple):
    number: int
    version: str  # another one with every renewal
    age: float  # in seconds
    by: _Holder

    @property
    def is_gone(self) -> bool:
        """Whether it was not renewed for long, or its process is seen to be gone."""
        here = self.by.machine == _machine()
        return self.age > STALE or (here and not _runs(self.by.pid))


def _machine() -> str:
    """This boot of this machine, and which processes are seen from here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _runs(pid: Any) -> bool:
    if not isinstance(pid, int) or not _machine():
        return True  # not known
    return pid != os.getpid() and os.path.exists(f"/proc/{pid}")


@contextlib.contextmanager
def hold(
    folder: Path,
    holder: str,
    *,
    say: Callable[[str], None],
    lost: Callable[[str], None],
) -> Iterator[None]:
    """Holds a folder of a bucket for this process.

    Args:
      folder: what is held.
      holder: who holds it, for others to read.
      say: is called with a sentence when another holder may be gone.
      lost: is called, in a thread, when the folder is no longer this process's: with
        "was taken by …" or "has not been reached for …".

    Raises Busy naming the holder when another process has it.
    """
    place = folder / "lock"
    mine = _Holder(holder, _machine(), os.getpid())
    content = json.dumps(records.to_json(mine)).encode()
    number = _take(place, content, say)
    own, ended = place / str(number), threading.Event()
    reached = time.monotonic()

    def renew() -> None:
        nonlocal reached
        while not ended.wait(RENEW):
            # While the bucket is silent nobody else can take the folder either.
            with contextlib.suppress(OSError, *addresses.errors()):
                others = [held for held in _all(place) if held.number > number]
                if others and not ended.is_set():
                    lost(
                        f"was taken by {others[0].by.holder}: this process did not "
                        f"reach the bucket for {STALE:.0f} s"
                    )
                    return
                own.write_bytes(content)
                reached = time.monotonic()

    def watch() -> None:  # a renewal may itself hang for as long
        while not ended.wait(1):
            if time.monotonic() - reached > PATIENCE:
                lost(f"has not been reached for {PATIENCE:.0f} s")
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        thread.join(RENEW)  # a silent bucket may hold it for longer
        with contextlib.suppress(OSError, *addresses.errors()):
            own.unlink(missing_ok=True)


def _take(place: Path, content: bytes, say: Callable[[str], None]) -> int:
    """Creates the next number, once who held the last one is gone."""
    seen: _Held | None = None
    while True:
        there = _all(place)
        last = there[0] if there else None
        if last is None or last.is_gone:
            number = last.number + 1 if last else 1
            if addresses.create(place / str(number), content):
                _settle(place, number)
                return number
            continue  # another one was faster
        if seen is not None and seen[:2] != last[:2]:
            raise Busy(last.by.holder)
        if seen is None:
            seen = last
            say(
                f"{place.parent} is held by {last.by.holder}, which was "
                f"there {last.age:.0f} s ago: waiting for up to "
                f"{max(STALE - last.age, 0):.0f} s to see whether it still is"
            )
        time.sleep(1)


def _settle(place: Path, number: int) -> None:
    """Removes those that are gone; gives way to one that is not."""
    for other in _all(place):
        if other.number != number and not other.is_gone:
            (place / str(number)).unlink(missing_ok=True)
            raise Busy(other.by.holder)
    for other in _all(place):
        if other.number < number:
            (place / str(other.number)).unlink(missing_ok=True)


def _all(place: Path) -> list[_Held]:
    """Every lock that is there, the highest number first."""
    there = addresses.objects(place)
    if not any(name.isdecimal() for name in there):
        return []
    now, bucket, found = _now(place), addresses.filesystem(), []
    for name, one in there.items():
        if not name.isdecimal():
            continue
        try:
            content = json.loads(bucket.cat_file(os.fspath(place / name)))
            by = records.from_json(_Holder, dict(content))
        except FileNotFoundError:  # given up meanwhile
            continue
        except (ValueError, TypeError):
            by = _Holder()
        age = (now - _written(one)).total_seconds()
        found.append(_Held(int(name), one.generation, age, by))
    return sorted(found, reverse=True, key=lambda held: held.number)


def _now(place: Path) -> datetime.datetime:
    """The bucket's clock; that of this machine may be wrong."""
    probe = place / f"clock-{os.getpid()}-{threading.get_ident()}"
    probe.write_text("now")
    now = _written(addresses.one_object(probe))
    probe.unlink(missing_ok=True)
    return now


def _written(one: addresses.Object) -> datetime.datetime:
    return datetime.datetime.fromisoformat(one.updated)
