"""A file's packets without their contents, and what of its frames does not decode."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding.container import (
    VideoFacts,
    facts_of,
    open_file,
    packets_of,
    video_stream,
)
from tfds_ffpp.frames.found import Alive

MIN_DECODED = 0.9  # share of the promised frames that a video of a dataset must yield
# Where the header has no count of frames, but a duration of the whole that is its own
# and not a guess from what is left of the file.
_TIMED_FORMATS = ("matroska", "mov", "flv")


@dataclass(frozen=True)
class Loss:
    """What of a video did not decode.

    decoded, promised: frames; rough: promised is a guess from the duration; first:
    seconds at which the first missing frame would be, None where that is not known.
    """

    decoded: int
    promised: int
    rough: bool
    first: float | None

    def __str__(self) -> str:
        """The part of a sentence that says it."""
        about = "about " * self.rough
        said = f"only {self.decoded:,} of {about}{self.promised:,} frames decode"
        if self.first is None:
            return said
        return f"{said}; the first one missing is at {self.first:.1f} s"

    @property
    def leaves(self) -> float:
        """The share of the frames that decodes."""
        return self.decoded / self.promised


@dataclass(frozen=True)
class Index:
    """A file's packets without their contents.

    times, keys: each packet's pts and whether it is a key frame; empty where such times
    do not tell the frames. regular: they do, and no packet is known to be damaged.
    promised: how many frames the file says that it has; rough: by its duration; rate:
    frames per second; unit: seconds of a pts.
    """

    path: Path
    times: array
    keys: bytearray
    regular: bool
    promised: int
    rough: bool
    rate: float
    unit: float
    facts: VideoFacts


def read_index(path: Path, alive: Alive) -> Index:
    """Reads all packets of a file. Raises UnusableVideoError."""
    times, keys, count, seconds = array("q"), bytearray(), 0, 0.0
    with open_file(path) as container:
        stream = video_stream(container)
        timed = "avi" not in container.format.name  # it has no presentation times
        whole = True
        for packet in packets_of(container, [stream, *container.streams.audio]):
            alive()
            seconds = max(seconds, _end(packet))
            if packet.stream_index != stream.index:
                continue
            count += 1
            timed = timed and packet.pts is not None
            whole = whole and not packet.is_corrupt
            if timed:
                times.append(packet.pts or 0)
                keys.append(packet.is_keyframe)
        size = stream.codec_context.height, stream.codec_context.width
        if not timed or len(set(times)) != len(times):
            times, keys = array("q"), bytearray()
        if stream.time_base is None:
            raise UnusableVideoError("its video has no unit of time")
        said = max(stream.frames, count)
        by_time = _frames_of_duration(container, count, seconds)
        return Index(
            path,
            times,
            keys,
            regular=whole and len(times) > 0,
            promised=max(said, by_time),
            rough=by_time > said,
            rate=float(stream.average_rate or 0) or 25.0,
            unit=float(stream.time_base),
            facts=facts_of(path, container, stream, size),
        )


def _end(packet: av.Packet) -> float:
    """When a packet ends, in seconds; 0 where that is not known."""
    if packet.pts is None or not packet.time_base:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _frames_of_duration(container, count: int, seconds: float) -> int:
    """How many frames the header's duration stands for; 0 where it says nothing.

    count: frames that are there; seconds: the end of the last sound or picture. A
    duration is no exact thing, so one that a little is missing of says nothing.
    """
    if not container.format.name.startswith(_TIMED_FORMATS):
        return 0
    start = (container.start_time or 0) / av.time_base
    whole, there = (container.duration or 0) / av.time_base - start, seconds - start
    if not 0 < there < MIN_DECODED * whole:
        return 0
    return round(count * whole / there)


def loss_of(file: Index, total: int, times: Sequence[int]) -> Loss | None:
    """What is lost where frames of these times decode; times may be unknown."""
    if total >= file.promised:
        return None
    first = None
    if len(file.times) and len(times):
        missing = set(file.times).difference(times)
        first = min(missing) * file.unit if missing else _end_of(file, times)
    return Loss(total, file.promised, file.rough, first)


def _end_of(file: Index, times: Sequence[int]) -> float:
    return max(times) * file.unit + 1 / file.rate
