"""A request's body -> a file on disk, piece by piece, within limits."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from fakedetect_jax.service.queue.places import is_no_space
from fakedetect_jax.serving import sniff

FIELD = "video"
MAX_HEAD = 8192  # bytes of a part's head, of which the name is most
MAX_NAME = 255  # characters that are kept of a name
BETWEEN = 1 << 16  # bytes of a body besides the file
LEAST_RATE = 4096  # bytes per second, on average
GRACE_SECONDS = 30.0  # before that is asked for
FULL = "the disk of the service is full; try later"
FEW = "the body must be multipart/form-data with one file in the field 'video'"


class Refused(Exception):
    """A request that is not taken: its status, a sentence, when to try again."""

    def __init__(self, status: int, sentence: str, *, after: int = 0):
        super().__init__(sentence)
        self.status, self.sentence, self.after = status, sentence, after


class Received(NamedTuple):
    """A file that came in whole."""

    name: str
    size: int
    sha256: str


async def receive(
    body: AsyncIterator[bytes],
    content_type: str,
    path: Path,
    *,
    most: int,
    stall: float,
) -> Received:
    """Writes the file of a body to `path`, and removes it if anything goes wrong.

    Args:
      body: as it comes in.
      content_type: the request's, with the boundary.
      path: a new file.
      most: bytes that a file may have.
      stall: seconds between two pieces.

    Raises Refused, with a sentence for the sender.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise Refused(415, FEW)
    try:
        with path.open("xb") as file:
            part = _Part(file, most)
            await _pump(body, _Form(boundary, part), part, stall)
            return await asyncio.to_thread(part.finish)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if is_no_space(error):
            raise Refused(507, FULL) from error
        raise


async def _pump(
    body: AsyncIterator[bytes], form: "_Form", part: "_Part", stall: float
) -> None:
    began, read = time.monotonic(), 0
    pieces = aiter(body)
    while True:
        try:
            async with asyncio.timeout(stall):
                piece = await anext(pieces)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise Refused(408, f"nothing came for {stall:g} seconds") from None
        read += len(piece)
        if read > part.most + BETWEEN:
            raise part.too_large()
        seconds = time.monotonic() - began
        if seconds > GRACE_SECONDS and read < LEAST_RATE * seconds:
            raise Refused(408, f"less than {LEAST_RATE:,} bytes a second came in")
        form.take(piece)
        if part.held >= 1 << 20:
            await asyncio.to_thread(part.write)  # disks may be slow
    form.end()


@dataclass
class _Head:
    """The head of a part that is being read."""

    field: bytes = b""
    value: bytes = b""
    disposition: bytes = b""
    size: int = 0


class _Part:
    """The one file: its bytes are held for a moment, then written."""

    def __init__(self, file: BinaryIO, most: int):
        self.most, self.name, self.seen = most, "", False
        self._file, self._digest = file, hashlib.sha256()
        self._pieces: list[bytes] = []
        self._head, self._is_known = b"", False
        self.size = self.held = 0

    def too_large(self) -> Refused:
        return Refused(413, f"the file is larger than the {self.most:,} bytes allowed")

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self.most:
            raise self.too_large()
        self._pieces.append(piece)
        self.held += len(piece)
        if not self._is_known:
            self._head += piece[: sniff.HEAD]
            if len(self._head) >= sniff.HEAD:
                self._check()

    def _check(self) -> None:
        self._is_known = True
        if not sniff.holds_video(self._head[: sniff.HEAD]):
            raise Refused(
                415, "the file is in no container of videos (MP4, MOV, MKV, AVI, TS…)"
            )

    def write(self) -> None:
        """Writes what is held."""
        content = b"".join(self._pieces)
        self._pieces, self.held = [], 0
        self._digest.update(content)
        self._file.write(content)

    def finish(self) -> Received:
        """The file, once all of it is on the disk."""
        if not self.seen:
            raise Refused(400, FEW)
        if not self.size:
            raise Refused(400, "the file is empty")
        if not self._is_known:
            self._check()
        self.write()
        self._file.flush()
        os.fsync(self._file.fileno())
        return Received(self.name, self.size, self._digest.hexdigest())


class _Form:
    """Reads multipart/form-data; hands the file's bytes to its part."""

    def __init__(self, boundary: bytes, part: _Part):
        self._part, self._head, self._is_file, self._ended = part, _Head(), False, False
        self._besides = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._value,
                "on_header_end": self._header,
                "on_headers_finished": self._headers,
                "on_part_data": self._data,
                "on_end": self._end,
            },
            max_header_size=MAX_HEAD,
        )

    def take(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            if "header size" in str(error).lower():
                raise Refused(400, "the name of the file is too long") from None
            raise Refused(400, FEW) from None

    def end(self) -> None:
        """Raises Refused where the body stopped before its end."""
        if not self._ended:
            raise Refused(400, "the body ends before its last boundary")

    def _begin(self) -> None:
        self._head, self._is_file = _Head(), False

    def _grow(self, data: bytes) -> bytes:
        self._head.size += len(data)
        if self._head.size > MAX_HEAD:
            raise Refused(400, "the name of the file is too long")
        return data

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._head.field += self._grow(data[start:end])

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._head.value += self._grow(data[start:end])

    def _header(self) -> None:
        if self._head.field.lower() == b"content-disposition":
            self._head.disposition = self._head.value
        self._head.field = self._head.value = b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._head.disposition)
        if options.get(b"name") != FIELD.encode():
            return  # another field is read past
        if self._part.seen:
            raise Refused(400, FEW)
        self._is_file = self._part.seen = True
        self._part.name = shown_name(options.get(b"filename", b""))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._part.add(data[start:end])
            return
        self._besides += end - start
        if self._besides > BETWEEN:
            raise Refused(400, FEW)

    def _end(self) -> None:
        self._ended = True


def shown_name(given: bytes) -> str:
    """What is shown of a file's name: its last part, printable, not too long.

    It is never a path.
    """
    name = given.decode(errors="replace").replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c if c.isprintable() else "?" for c in name).strip()
    return clean[:MAX_NAME] or "video"
