"""Frames that were decoded: held, or decoded again when they are asked for."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding import colours
from tfds_ffpp.frames.decoding.colours import Converter, Region
from tfds_ffpp.frames.decoding.container import VideoFacts
from tfds_ffpp.frames.decoding.index import Loss


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that was decoded: its name, time and upright size, and its picture.

    name: pts or, where that is not known, index; picture: None when it is not held.
    """

    name: int
    pts: int | None
    size: tuple[int, int]
    picture: VideoFrame | None


# The frames with these names, in order.
Again = Callable[[set[int]], Generator[tuple[int, VideoFrame], None, None]]


class Clip(Protocol):
    """Some frames of a file, turned to RGB when asked; see DecodedVideo."""

    indices: list[int]
    timestamps: list[float]
    source_frames: int
    loss: Loss | None
    facts: VideoFacts

    def __len__(self) -> int:
        """How many frames."""
        ...

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of one, upright."""
        ...

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """One of them, or a region of it, as RGB uint8[H,W,3]."""
        ...

    def frames(self) -> list[np.ndarray]:
        """All of them, whole."""
        ...


class DecodedVideo:
    """Some decoded frames of a video, turned to RGB when asked.

    Frames that are not held are decoded again: ask for them in order.

    indices: positions in presentation order; timestamps: seconds; source_frames: how
    many frames of the video decode; loss: what of it does not, None of a whole one.
    """

    def __init__(
        self,
        seen: Sequence[Seen],
        *,
        again: Again,
        indices: Sequence[int],
        timestamps: Sequence[float],
        source_frames: int,
        loss: Loss | None,
        facts: VideoFacts,
    ):
        """Made by read_clip."""
        self._seen = seen
        self._again = again
        self._source: Iterator[tuple[int, VideoFrame]] = iter(())
        self._latest: tuple[int, VideoFrame] | None = None
        self._converter = Converter()
        self.indices = list(indices)
        self.timestamps = list(timestamps)
        self.source_frames = source_frames
        self.loss = loss
        self.facts = facts

    def __len__(self) -> int:
        """How many frames."""
        return len(self._seen)

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of the upright frame i; frames may differ."""
        return self._seen[i].size

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """The upright frame i, or a region of it, as RGB uint8[H,W,3]."""
        return self._converter.rgb(self._picture(self._seen[i]), region)

    def frames(self) -> list[np.ndarray]:
        """All frames, whole, as RGB uint8[H,W,3]."""
        return [self.rgb(i) for i in range(len(self))]

    def _picture(self, seen: Seen) -> VideoFrame:
        if seen.picture is not None:
            return seen.picture
        if self._latest is None or self._latest[0] > seen.name:
            self._source = self._again({s.name for s in self._seen})
            self._latest = next(self._source, None)
        while self._latest is not None and self._latest[0] < seen.name:
            self._latest = None  # the picture before is given up first
            self._latest = next(self._source, None)
        if self._latest is None or colours.upright_size(self._latest[1]) != seen.size:
            raise UnusableVideoError("damaged: it decodes to other frames each time")
        return self._latest[1]
