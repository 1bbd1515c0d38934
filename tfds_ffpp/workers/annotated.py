"""A video written anew with what was found in it, and frames of it as they are.

H.264, 4:2:0, with the times of the source; its sound is copied as it is. Of a picture
it is a PNG.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames import images
from tfds_ffpp.frames.decoding.colours import Converter
from tfds_ffpp.frames.decoding.container import decode_beside, open_stream
from tfds_ffpp.frames.found import Box

PICTURE = "picture.png"
NAMES = ("video.mp4", "video.mkv")
UNIT = Fraction(1, 90_000)  # seconds of a time in the copy
# What mp4 takes of sound; anything else goes into Matroska.
_SOUND_OF_MP4 = ("aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac")
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_EARLY = 4096  # packets of sound that wait for the first picture
_BT709 = 1  # of colour space, primaries and transfer; ITU-T H.273
_LIMITED = 1  # the range of brightness
LOW, HIGH = (235, 235, 235), (255, 140, 0)  # RGB of boxes; the words say it as well


@dataclass(frozen=True)
class Mark:
    """What is drawn over the frames first to last.

    box: in pixels of the upright picture; without one the words stand at the bottom.
    high: the score is above what calls a video fake.
    """

    first: int
    last: int
    words: str
    box: Box | None = None
    high: bool = False


@dataclass(frozen=True)
class Still:
    """A frame that was kept: its file, its number and time in seconds.

    pixels_sha256: of its RGB bytes, row by row, which do not depend on how PNG is
    written.
    """

    name: str
    number: int
    seconds: float
    pixels_sha256: str


@dataclass(frozen=True)
class Annotated:
    """What was written: the video's name, its frames, the frames kept.

    sound: "copied", "none", or what is missing of it.
    """

    name: str
    frames: int
    sound: str
    stills: list[Still]


def write(
    path: Path,
    folder: Path,
    *,
    title: str,
    marks: Sequence[Mark],
    stills: Sequence[int],
    threads: int = 1,
    alive: Callable[[], None] = lambda: None,
) -> Annotated:
    """Writes the annotated video and the stills; one frame at a time is in memory.

    A frame of another size than the first is stretched to it.

    Raises UnusableVideoError where no frame decodes.
    """
    pages = _Pages(folder, set(stills), _Marked(title, marks))
    if not images.is_image(path):
        return _write_video(path, pages, threads, alive)
    if images.is_still(path):
        ((rgb, time),) = images.read_all(path)
        pages.keep(rgb, 0, time)
        _write_png(folder / PICTURE, pages.marked.draw(rgb, 0))
        return Annotated(PICTURE, 1, "none", pages.kept)
    with av.open(str(folder / NAMES[0]), "w") as to:
        writer = _Writer(to, (), 25.0, threads)
        for rgb, time in images.read_all(path):
            alive()
            pages.add(writer, rgb, Fraction(time).limit_denominator(90_000))
        writer.finish()
    return Annotated(NAMES[0], writer.count, writer.sound, pages.kept)


def _write_video(
    path: Path, pages: "_Pages", threads: int, alive: Callable[[], None]
) -> Annotated:
    converter = Converter()
    with open_stream(path) as (container, stream):
        known = [s for s in container.streams.audio if s.codec_context is not None]
        sounds = known[:1]
        fits = all(s.codec_context.name in _SOUND_OF_MP4 for s in sounds)
        name = NAMES[0] if fits else NAMES[1]
        rate = float(stream.average_rate or 0) or 25.0
        with av.open(str(pages.folder / name), "w") as to:
            writer = _Writer(to, sounds, rate, threads)
            for item in decode_beside(container, stream, sounds):
                alive()
                if not isinstance(item, VideoFrame):
                    writer.add_sound(item)
                    continue
                time = (
                    Fraction(writer.count) / Fraction(rate)
                    if item.pts is None
                    else item.pts * stream.time_base
                )
                pages.add(writer, converter.rgb(item, None), time)
            writer.finish()
        if not writer.count:
            raise UnusableVideoError("0 frames decoded")
        unknown = len(container.streams.audio) > 0 and not sounds
        sound = "left out, of an unknown kind" if unknown else writer.sound
        return Annotated(name, writer.count, sound, pages.kept)


class _Pages:
    """What becomes of each frame: drawn on for the video, and perhaps kept as it is."""

    def __init__(self, folder: Path, wanted: set[int], marked: "_Marked"):
        self.folder, self.marked = folder, marked
        self.kept: list[Still] = []
        self._wanted = wanted

    def keep(self, rgb: np.ndarray, number: int, seconds: float) -> None:
        """Writes a frame that is wanted."""
        if number in self._wanted:
            name = f"{number}.png"
            _write_png(self.folder / name, rgb)
            digest = hashlib.sha256(rgb.tobytes()).hexdigest()
            self.kept.append(Still(name, number, seconds, digest))

    def add(self, writer: "_Writer", rgb: np.ndarray, time: Fraction) -> None:
        """The next frame of the video."""
        self.keep(rgb, writer.count, float(time))
        writer.add(self.marked.draw(rgb, writer.count), time)


def _write_png(path: Path, rgb: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


# Drawing ---------------------------------------------------------------------------


class _Marked:
    """Draws the marks of one frame after another."""

    def __init__(self, title: str, marks: Sequence[Mark]):
        self._title = title
        self._coming = iter(sorted(marks, key=lambda mark: mark.first))
        self._next = next(self._coming, None)
        self._shown: list[Mark] = []

    def _at(self, number: int) -> Iterator[Mark]:
        while self._next is not None and self._next.first <= number:
            self._shown.append(self._next)
            self._next = next(self._coming, None)
        self._shown = [mark for mark in self._shown if mark.last >= number]
        yield from self._shown

    def draw(self, rgb: np.ndarray, number: int) -> np.ndarray:
        """A frame with its marks."""
        picture = rgb.copy()
        height = picture.shape[0]
        line = max(round(height / 270), 1)
        for mark in self._at(number):
            colour = HIGH if mark.high else LOW
            if mark.box is None:
                _write(picture, mark.words, (0, height), colour)
                continue
            y0, x0, y1, x1 = (round(v) for v in mark.box)
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, line)
            _write(picture, mark.words, (x0, y0), colour)
        _write(picture, self._title, (0, 0), LOW)
        return picture


def _write(picture: np.ndarray, words: str, at: tuple[int, int], colour) -> None:
    """Words on black, their lower left corner there, or as near as the picture lets."""
    height, width = picture.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(height, 240) / 900
    weight = max(round(scale), 1)
    (wide, high), low = cv2.getTextSize(words, font, scale, weight)
    if wide > width:  # a small picture
        scale *= width / wide
        (wide, high), low = cv2.getTextSize(words, font, scale, weight)
    x = min(max(at[0], 0), max(width - wide, 0))
    y = min(max(at[1], high + 2 * low), height)
    cv2.rectangle(picture, (x, y - high - 2 * low), (x + wide, y), (0, 0, 0), -1)
    cv2.putText(picture, words, (x, y - low), font, scale, colour, weight, cv2.LINE_AA)


# Writing ---------------------------------------------------------------------------


class _Writer:
    """The streams of a video that is being written."""

    def __init__(self, container: Any, sounds: Sequence, rate: float, threads: int):
        self.count = 0
        self._container = container
        self._last = -1
        rate = min(max(rate, 1.0), 240.0)
        options = {**_OPTIONS, "g": str(round(2 * rate)), "threads": str(threads)}
        self._stream = container.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1001), options=options
        )
        self._size: tuple[int, int] | None = None
        self._sound = None
        if sounds:
            self._sound = container.add_stream_from_template(sounds[0])
        self._early: list[av.Packet] = []  # sound before the first picture
        self._lost = 0  # packets of sound

    @property
    def sound(self) -> str:
        """What became of the sound."""
        if self._sound is None:
            return "none"
        return f"{self._lost:,} packets are missing" if self._lost else "copied"

    def _begin(self, picture: np.ndarray) -> tuple[int, int]:
        height, width = picture.shape[:2]
        height, width = height + height % 2, width + width % 2
        context = self._stream.codec_context
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        context.time_base = UNIT
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        return height, width

    def add(self, picture: np.ndarray, time: Fraction) -> None:
        """The next frame, RGB."""
        early, self._early = self._early, []
        self._size = self._size or self._begin(picture)
        for packet in early:
            self.add_sound(packet)
        below, right = (a - b for a, b in zip(self._size, picture.shape, strict=False))
        if 0 <= below <= 1 and 0 <= right <= 1:  # 4:2:0 needs even sides
            picture = np.pad(picture, ((0, below), (0, right), (0, 0)), "edge")
        else:
            picture = cv2.resize(picture, self._size[::-1])
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts = self._last = max(round(time / UNIT), self._last + 1)
        frame.time_base = UNIT
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def add_sound(self, packet: av.Packet) -> None:
        """The next packet of the sound."""
        if self._size is None and len(self._early) < _EARLY:
            self._early.append(packet)  # what is written opens the encoder
            return
        with suppress(FFmpegError, ValueError):
            if packet.dts is not None and self._size is not None:
                packet.stream = self._sound
                self._container.mux(packet)
                return
        self._lost += 1

    def finish(self) -> None:
        """No more comes."""
        if self.count:
            self._container.mux(self._stream.encode())
