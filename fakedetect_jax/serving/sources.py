"""Arguments of a command -> video files; what is no local video file is refused."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.reports.video_result import VideoResult
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES

LIST_SUFFIX = ".txt"
MAX_LIST_BYTES = 64 << 20
SHOWN_NAMES = 5  # of the files that a folder's line names
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # a URL, or a protocol of ffmpeg's
_CONCAT = re.compile(rb"\s*(ffconcat\b|file\s|#EXTM3U)", re.IGNORECASE)


class Source(NamedTuple):
    """A video asked for: its path, or why it is not one."""

    name: str
    refusal: str = ""


def refused(source: Source) -> VideoResult:
    """The result of what is no video file."""
    return VideoResult(source.name, "refused", reason=source.refusal)


def find(arguments: Iterable[str]) -> list[Source]:
    """The videos of files, folders (with all below) and lists, in that order.

    A list is a .txt with a path on each line, relative to its own folder. Each path
    appears once.

    Raises ConfigError when an argument names no video at all.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        sources = list(_expand(argument))
        if not sources:
            skipped = "".join(f"; {line}" for line in skipped_lines([argument]))
            raise ConfigError(
                f"{argument} holds no video: files ending in "
                f"{', '.join(VIDEO_SUFFIXES)}; give another folder or list{skipped}"
            )
        for source in sources:
            found.setdefault(source.name, source)
    return list(found.values())


def _is_address(name: str) -> bool:
    # A file of that name that is there is a file, whatever it is called.
    return name == "-" or (bool(_ADDRESS.match(name)) and not os.path.lexists(name))


def _expand(argument: str) -> Iterator[Source]:
    path = Path(argument)
    if _is_address(argument):
        yield check(argument)
    elif os.path.isdir(path):  # unlike Path's, never raises
        yield from _in_folder(path)
    elif path.suffix.lower() == LIST_SUFFIX and os.path.isfile(path):
        yield from _in_list(path)
    else:
        yield check(argument)


def check(name: str) -> Source:
    """A single path; refused unless it is a regular file of this machine."""
    if name == "-":
        return Source(name, "standard input is not read; save the video to a file")
    if _is_address(name):
        return Source(name, "addresses are not opened; save the video to a file")
    try:
        kind = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Source(name, f"{reason[:1].lower()}{reason[1:]}; check the path")
    if not stat.S_ISREG(kind):
        return Source(name, "not a regular file; only video files are read")
    return Source(name)


def skipped_lines(arguments: Iterable[str]) -> list[str]:
    """For each folder that holds other files, one line: how many, and of what kind."""
    lines = []
    for folder in dict.fromkeys(a for a in arguments if os.path.isdir(a)):
        kinds: Counter[str] = Counter()
        names = []
        for path, is_link in _skipped(Path(folder)):
            kinds["a link to a folder" if is_link else _ending(path)] += 1
            names.append(printable(path.relative_to(folder)))
        if names:
            counts = ", ".join(f"{n} {k}" for k, n in kinds.most_common())
            more = len(names) - SHOWN_NAMES
            lines.append(
                f"{len(names)} files skipped in {printable(folder)} ({counts}): "
                + ", ".join(names[:SHOWN_NAMES])
                + (f" and {more} more" if more > 0 else "")
            )
    return lines


def _ending(path: Path) -> str:
    return printable(path.suffix.lower()) or "without a suffix"


def _skipped(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is a link to a folder) of what _in_folder passes over."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in folders:
            if Path(place, name).is_symlink():
                yield Path(place, name), True
        for name in sorted(names):
            if Path(name).suffix.lower() not in VIDEO_SUFFIXES:
                yield Path(place, name), False


def _in_folder(folder: Path) -> Iterator[Source]:
    """The videos below a folder; links that lead out of it are refused."""
    top = folder.resolve()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(top):
                yield Source(str(path), f"a link out of {folder}; name its target")
            else:
                yield check(str(path))


def _in_list(path: Path) -> Iterator[Source]:
    if path.stat().st_size > MAX_LIST_BYTES:
        yield Source(str(path), "too long for a list of videos; split it")
        return
    content = path.read_bytes()
    if _CONCAT.match(content):
        yield Source(str(path), "a playlist or concat file; list plain paths instead")
        return
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        name = line.strip()
        if name and _is_address(name):
            yield check(name)
        elif name:
            yield check(str(path.parent / name))
