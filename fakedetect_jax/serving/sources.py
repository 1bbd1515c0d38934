"""Arguments of a command -> video files; what is no local video file is refused."""

import contextlib
import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving import sniff
from tfds_ffpp.frames import images
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES

LIST_SUFFIX = ".txt"
MAX_LIST_BYTES = 64 << 20
SHOWN_NAMES = 5  # of the files that a folder's line names
PASSED_OVER = "passed over"
A_LINK = "a link to a folder"
NO_LINKS = "a link to a folder is not followed; name its target"
NO_MEDIA = "neither its name nor its content is a video's or picture's"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # a URL, or a protocol of ffmpeg's
_CONCAT = re.compile(rb"\s*(ffconcat\b|file\s|#EXTM3U)", re.IGNORECASE)


class Source(NamedTuple):
    """A video asked for: its path, or why it is not one.

    passed: of a file of a folder that is no video, its kind; why: the reason;
    folder: that it was found in; copy_of: an earlier video with the same content.
    """

    name: str
    refusal: str = ""
    passed: str = ""
    why: str = ""
    folder: str = ""
    copy_of: str = ""

    @property
    def is_video(self) -> bool:
        """Whether there is something to score."""
        return not (self.refusal or self.passed)


def refused(source: Source) -> VideoResult:
    """The result of what is no video file."""
    if source.passed:
        return VideoResult(source.name, PASSED_OVER, reason=source.why or NO_MEDIA)
    return VideoResult(source.name, "refused", reason=source.refusal)


def find(arguments: Iterable[str]) -> list[Source]:
    """The videos of `find_all`."""
    return [source for source in find_all(arguments) if not source.passed]


def find_all(arguments: Iterable[str], *, leave: Sequence[Path] = ()) -> list[Source]:
    """All of files, folders (with all below) and lists, in that order.

    Of a folder the files that are no videos are among them, as `passed`. A list is a
    .txt with a path on each line, relative to its own folder. Each path appears once.

    Args:
      arguments: of a command.
      leave: files and folders of ours, which are no part of what is looked through.

    Raises ConfigError when an argument names no video at all.
    """
    found: dict[str, Source] = {}
    left = {os.path.realpath(path) for path in leave}
    for argument in arguments:
        sources = list(_expand(argument, left))
        if all(source.passed for source in sources):
            skipped = "".join(f"; {line}" for line in skipped_lines(sources))
            raise ConfigError(
                f"{argument} holds no video and no picture: files ending in "
                f"{', '.join((*VIDEO_SUFFIXES, *images.SUFFIXES))}, or with such a "
                f"content; give another folder or list{skipped}"
            )
        for source in sources:
            found.setdefault(source.name, source)
    return list(found.values())


def with_copies(sources: Iterable[Source]) -> list[Source]:
    """The same, each that has an earlier one's content marked as its copy.

    Only files of equal size are read for that.
    """
    sources = list(sources)
    by_size: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        with contextlib.suppress(OSError):  # it is gone, as its row will say
            if source.is_video:
                by_size[os.stat(source.name).st_size].append(source)
    copies: dict[str, str] = {}
    for alike in by_size.values():
        first: dict[str, str] = {}
        for source in alike if len(alike) > 1 else ():
            digest = digest_of(source.name) or source.name
            if first.setdefault(digest, source.name) != source.name:
                copies[source.name] = first[digest]
    return [s._replace(copy_of=copies.get(s.name, "")) for s in sources]


def digest_of(name: str) -> str:
    """SHA-256 of a file's bytes; "" of one that cannot be read."""
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def shard(sources: Sequence[Source], number: int, count: int) -> list[Source]:
    """The number-th of `count` parts, one after another, of about equal length."""
    first, stop = ((n * len(sources)) // count for n in (number - 1, number))
    return list(sources[first:stop])


def todo(sources: Iterable[Source], done: Collection[str]) -> list[str]:
    """The videos to be scored, each content once.

    That of a copy may be another share's too.
    """
    names = [s.copy_of or s.name for s in sources if s.is_video and s.name not in done]
    return list(dict.fromkeys(names))


def in_order(
    sources: Sequence[Source], done: Collection[str], scored: Iterator[VideoResult]
) -> Iterator[VideoResult]:
    """A result for all that is not done yet; scored: of `todo`, in its order."""
    left = [source for source in sources if source.name not in done]
    uses = Counter(s.copy_of or s.name for s in left if s.is_video)
    held: dict[str, VideoResult] = {}  # that copies are still to be made of
    for source in left:
        if not source.is_video:
            yield refused(source)
            continue
        name = source.copy_of or source.name
        result = held.pop(name, None) or next(scored)
        uses[name] -= 1
        if uses[name]:
            held[name] = result
        if source.copy_of:
            result = replace(result, video=source.name, copy_of=name)
        yield result


def _is_address(name: str) -> bool:
    # A file of that name that is there is a file, whatever it is called.
    return name == "-" or (bool(_ADDRESS.match(name)) and not os.path.lexists(name))


def _expand(argument: str, left: set[str]) -> Iterator[Source]:
    path = Path(argument)
    if _is_address(argument):
        yield check(argument)
    elif os.path.isdir(path):  # unlike Path's, never raises
        yield from _in_folder(path, left)
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


def skipped_lines(sources: Iterable[Source]) -> list[str]:
    """For each folder that holds other files, one line: how many, and of what kind."""
    by_folder: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if source.passed:
            by_folder[source.folder].append(source)
    lines = []
    for folder, others in by_folder.items():
        kinds = Counter(source.passed for source in others)
        counts = ", ".join(f"{n} {k}" for k, n in kinds.most_common())
        shown = [
            printable(Path(source.name).relative_to(folder))
            for source in others[:SHOWN_NAMES]
        ]
        more = len(others) - SHOWN_NAMES
        lines.append(
            f"{len(others)} files skipped in {printable(folder)} ({counts}): "
            + ", ".join(shown)
            + (f" and {more} more" if more > 0 else "")
        )
    return lines


def _ending(path: Path) -> str:
    return printable(path.suffix.lower()) or "without a suffix"


def _in_folder(folder: Path, left: set[str]) -> Iterator[Source]:
    """All files below a folder; links that lead out of it are refused."""
    top, faults = os.path.realpath(folder), []
    for place, folders, names in os.walk(folder, onerror=faults.append):
        folders.sort()
        for name in [n for n in folders if Path(place, n).is_symlink()]:
            path = str(Path(place, name))
            yield Source(path, passed=A_LINK, why=NO_LINKS, folder=str(folder))
        if left:
            folders[:] = [
                n for n in folders if os.path.realpath(Path(place, n)) not in left
            ]
        for name in sorted(names):
            path = Path(place, name)
            if not left or os.path.realpath(path) not in left:
                yield _in_place(path, folder, top)
    for fault in faults:
        name = fault.filename or str(folder)
        yield Source(name, f"a folder that cannot be read ({fault.strerror})")


def _in_place(path: Path, folder: Path, top: str) -> Source:
    """A file of a folder."""
    suffix = path.suffix.lower()
    # Not Path.resolve, which fails at a link that leads to itself.
    target = Path(os.path.realpath(path))
    leads_out = path.is_symlink() and not target.is_relative_to(top)
    out = f"a link out of {folder}; name its target"
    if leads_out and suffix in (*VIDEO_SUFFIXES, *images.SUFFIXES):
        return Source(str(path), out)
    why = out if leads_out else ""
    try:
        if not leads_out and sniff.is_media(path):
            return check(str(path))
    except OSError as error:
        if suffix in VIDEO_SUFFIXES:  # shared with other files
            return check(str(path))
        why = f"no video by its name, and it cannot be read ({error.strerror})"
    return Source(str(path), passed=_ending(path), why=why, folder=str(folder))


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
