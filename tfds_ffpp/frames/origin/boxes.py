"""Boxes of mp4 and mov files (ISO/IEC 14496-12): edit lists, and a C2PA manifest's.

PyAV plays edit lists and does not tell of them. Sizes in a file are somebody else's:
each is held against what is there, and nothing is read that is larger than a limit.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

from tfds_ffpp.frames.found import Edit

MAX_BOXES = 10_000  # of a file that are looked at
MAX_EDITS = 64  # of a file that are told
# Of the box that holds a manifest (C2PA specification 2.1, 11.3.2.1).
_MANIFEST = UUID("d8fec3d6-1b0e-483c-9297-5828877ec481").bytes
_EMPTY = -1  # the media time of an edit that shows nothing


class Box(NamedTuple):
    """A box: its kind, and where its content lies."""

    kind: bytes
    start: int
    stop: int


def holds_manifest(path: Path) -> bool:
    """Whether a file has a box for a C2PA manifest; whatever is in it."""
    with suppress(OSError, struct.error), path.open("rb") as file:
        for box in _Reader(file).boxes(0, path.stat().st_size):
            if box.kind == b"uuid":
                file.seek(box.start)
                if file.read(16) == _MANIFEST:
                    return True
    return False


def read_edits(path: Path) -> tuple[Edit, ...]:
    """The edits of all tracks; none of what is no such file, or is damaged there."""
    with suppress(OSError, struct.error), path.open("rb") as file:
        reader = _Reader(file)
        return tuple(reader.edits(path.stat().st_size))
    return ()


class _Reader:
    """Reads boxes of one file, up to MAX_BOXES."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = MAX_BOXES

    def boxes(self, start: int, stop: int) -> Iterator[Box]:
        """Those that lie one after another from start to stop."""
        while start + 8 <= stop and self._left:
            self._left -= 1
            self._file.seek(start)
            size, kind = struct.unpack(">I4s", self._file.read(8))
            head = 8
            if size == 1:
                (size,) = struct.unpack(">Q", self._file.read(8))
                head = 16
            end = stop if size == 0 else start + size
            if not start + head <= end <= stop:
                return
            yield Box(kind, start + head, end)
            start = end

    def _find(self, box: Box, *kinds: bytes) -> Box | None:
        """The first box of the first kind in a box, in it of the next, and so on."""
        for kind in kinds:
            inner = (b for b in self.boxes(box.start, box.stop) if b.kind == kind)
            found = next(inner, None)
            if found is None:
                return None
            box = found
        return box

    def edits(self, size: int) -> Iterator[Edit]:
        """Of all tracks of a file of so many bytes."""
        whole = Box(b"", 0, size)
        film = self._find(whole, b"moov")
        rate = self._rate(self._find(whole, b"moov", b"mvhd"))
        if film is None or not rate:
            return
        told = 0
        tracks = (b for b in self.boxes(film.start, film.stop) if b.kind == b"trak")
        for number, track in enumerate(tracks):
            handler = self._find(track, b"mdia", b"hdlr")
            listed = self._find(track, b"edts", b"elst")
            own = self._rate(self._find(track, b"mdia", b"mdhd"))
            if handler is None or listed is None or not own:
                continue
            kind = _KINDS.get(self._at(handler, 8, 4), "other")
            for length, begin in self._entries(listed):
                if told == MAX_EDITS:
                    return
                told += 1
                source = None if begin == _EMPTY else begin / own
                yield Edit(number, kind, length / rate, source)

    def _at(self, box: Box, offset: int, count: int) -> bytes:
        self._file.seek(box.start + offset)
        return self._file.read(min(count, max(box.stop - box.start - offset, 0)))

    def _rate(self, box: Box | None) -> int:
        """Units per second of an mvhd or mdhd box; 0 where it has none."""
        if box is None:
            return 0
        wide = self._at(box, 0, 1) == b"\1"
        return struct.unpack(">I", self._at(box, 20 if wide else 12, 4))[0]

    def _entries(self, box: Box) -> Iterator[tuple[int, int]]:
        """(length in the film, where it begins in the track) of an elst box."""
        wide = self._at(box, 0, 1) == b"\1"
        entry = ">QqI" if wide else ">IiI"
        (count,) = struct.unpack(">I", self._at(box, 4, 4))
        for i in range(min(count, MAX_EDITS + 1)):
            size = struct.calcsize(entry)
            length, begin, _ = struct.unpack(entry, self._at(box, 8 + i * size, size))
            yield length, begin


_KINDS = {b"vide": "video", b"soun": "sound"}
