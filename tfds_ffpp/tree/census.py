"""Every file under a root by name: what is no part of a layout is counted, with why."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree.naming import PICTURES, VIDEO_SUFFIXES

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
# What the builder itself writes is nobody's video, should it lie under the root.
OWN_FOLDERS = ("tfds_ffpp", ".tfds_ffpp_cache", ".tfds_ffpp_new")


@dataclass(frozen=True)
class Passed:
    """How many files are no part of a layout for one reason, and the first of them."""

    reason: str
    count: int
    first: Path


def suffix(name: str) -> str:
    """The suffix of a file name in lower case; "" where it has none."""
    return os.path.splitext(name)[1].lower()


def kind(name: str) -> str:
    """video, archive, picture or other, by the name of a file."""
    for word, suffixes in (
        ("video", VIDEO_SUFFIXES),
        ("archive", ARCHIVES),
        ("picture", PICTURES),
    ):
        if suffix(name) in suffixes:
            return word
    return "other"


def walk(
    top: Path, folders: Collection[Path] = (), closed: Collection[Path] = ()
) -> Iterator[tuple[Path, str]]:
    """(path, what it is) of every entry below top that is no folder, in order.

    closed: folders that are not looked into, but given as one file each. What it is:
    file, link (to a folder) or closed (a folder that cannot be read). Links to folders
    are followed on the way to `folders` only, so the walk ends.
    """
    wanted, shut = {str(f) for f in folders}, {str(f) for f in closed}
    wanted |= {str(parent) for f in folders for parent in f.parents}
    waiting = [str(top)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda e: e.name)
        except OSError:
            yield Path(place), "closed"
            continue
        below = []
        for entry in entries:
            if not entry.is_dir():
                yield Path(entry.path), "file"
            elif entry.is_symlink() and entry.path not in wanted:
                yield Path(entry.path), "link"
            elif entry.path in shut:
                yield Path(entry.path), "file"
            elif entry.name not in OWN_FOLDERS:
                below.append(entry.path)
        waiting += reversed(below)


def take(
    top: Path | None,
    *,
    known: Mapping[Path, str],
    folders: Collection[Path] = (),
    layout: str,
) -> tuple[tuple[Passed, ...], int]:
    """The files that are passed over, by reason, and how many files there are.

    Args:
      top: the folder; None for no further files than those known.
      known: file, or folder that is a video -> why it is passed over; "" for one that
        is not (taken or odd).
      folders: the layout's folders, read even where a link leads to them.
      layout: its name, for the reasons.
    """
    counts: dict[str, list] = {}
    left = dict(known)

    def add(reason: str, path: Path) -> None:
        counts.setdefault(reason, [0, path])[0] += 1

    total = len(known)
    closed = [path for path in known if path.is_dir()]
    for path, what in walk(top, folders, closed) if top is not None else ():
        reason = left.pop(path, None)
        if reason is None:
            total += 1
            reason = _reason(path, what, top or path, layout)
        if reason:
            add(reason, path)
    for path, reason in left.items():  # of another place, by a list
        if reason:
            add(reason, path)
    passed = [Passed(reason, n, first) for reason, (n, first) in counts.items()]
    return tuple(sorted(passed, key=lambda p: (-p.count, p.reason))), total


def _reason(path: Path, what: str, top: Path, layout: str) -> str:
    """Why a file that no folder or list of the layout names is passed over."""
    if what == "closed":
        return "a folder that cannot be read; mind its permissions"
    if what == "link":
        return "a link to a folder, not followed"
    parts = path.relative_to(top).parts
    found = kind(path.name)
    if found == "archive":
        return "an archive; unpack it if its videos are wanted"
    if "masks" in parts[:-1]:
        return "a mask"
    place = f"{printable(parts[0])}/" if len(parts) > 1 else "the folder itself"
    if found == "video":
        return f"a video in {place}, where the layout {layout} has none"
    if found == "picture":
        return f"a picture in {place}"
    return "not a video by its name"
