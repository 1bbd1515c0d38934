"""A small copy of a video that browsers play: H.264, 4:2:0, without sound."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding.colours import Converter
from tfds_ffpp.frames.decoding.container import decode_all, open_stream

HEIGHT = 360  # pixels, of a picture that is wider than high; else its width
MAX_RATE = 30.0  # frames per second; of faster videos some are left out
UNIT = Fraction(1, 1000)  # seconds of a time in the copy
# A key frame each second, so that a player goes to a time at once.
_OPTIONS = {"crf": "26", "preset": "veryfast", "bf": "0", "threads": "1"}


@dataclass(frozen=True)
class Copied:
    """What a copy is: its size in pixels, and how many frames it has.

    start: the time in the source, in seconds, that is 0 in the copy.
    """

    width: int
    height: int
    frames: int
    start: float


def write_copy(
    path: str | Path, out: Path, *, alive: Callable[[], None] = lambda: None
) -> Copied:
    """Writes the copy of a video, upright, with the times of its frames.

    A frame of another size than the first is stretched to it.

    Raises UnusableVideoError where no frame decodes.
    """
    writer: _Writer | None = None
    converter = Converter()
    with (
        open_stream(Path(path)) as (container, stream),
        av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as to,
    ):
        rate = float(stream.average_rate or 0) or 25.0
        for number, frame in enumerate(decode_all(container, stream)):
            alive()
            time = number / rate if frame.pts is None else frame.pts * stream.time_base
            if writer is not None and not writer.is_due(float(time)):
                continue
            rgb = converter.rgb(frame, None)
            if writer is None:
                writer = _Writer(to, rgb, float(time), rate)
            writer.add(rgb, float(time))
        if writer is None:
            raise UnusableVideoError("0 frames decoded")
        return writer.finish()


def small_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a copy: even, and about no larger than the source's."""
    scale = min(HEIGHT / min(height, width), 1.0)
    return _even(height * scale), _even(width * scale)


def _even(side: float) -> int:
    return max(2 * round(side / 2), 2)


class _Writer:
    """The stream of a copy that is being written."""

    def __init__(self, container: Any, first: np.ndarray, start: float, rate: float):
        self._container, self._start = container, start
        self._height, self._width = small_size(*first.shape[:2])
        self._last, self._count = -1, 0
        rate = min(max(rate, 1.0), MAX_RATE)
        self._stream = container.add_stream(
            "libx264", rate=round(rate), options={**_OPTIONS, "g": str(round(rate))}
        )
        self._stream.height, self._stream.width = self._height, self._width
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = UNIT

    def _pts(self, time: float) -> int:
        return round((time - self._start) / UNIT)

    def is_due(self, time: float) -> bool:
        """Whether a frame is late enough after the last one."""
        return self._pts(time) - self._last >= round(0.9 / MAX_RATE / UNIT)

    def add(self, rgb: np.ndarray, time: float) -> None:
        size = self._width, self._height
        small: Any = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        frame = VideoFrame.from_ndarray(small, format="rgb24")
        frame.pts = self._last = max(self._pts(time), self._last + 1)
        frame.time_base = UNIT
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def finish(self) -> Copied:
        self._container.mux(self._stream.encode())
        return Copied(self._width, self._height, self._count, self._start)
