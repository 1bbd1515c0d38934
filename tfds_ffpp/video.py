"""One video file -> upright RGB frames. The only file that knows PyAV.

Frames are counted in presentation order. Variable frame rates need no care: frames are
chosen by index everywhere, and each carries its time.
"""

import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame

from tfds_ffpp.errors import DataError

# Containers that hold everything in the one file; playlists are not among them.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
MAX_PIXELS = 7680 * 4320  # 8K; a frame of it takes 100 MB as RGB
MIN_DECODED = 0.9  # share of the promised frames that a damaged video must still yield
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
# Metadata need not be text. From PyAV 19 on it may be anything, and this is unknown.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


class UnusableVideoError(DataError):
    """This file cannot be used; its text is the reason, without the path."""


class IrregularVideoError(Exception):
    """The frames of this file are only known by decoding all of them in order."""


@dataclass(frozen=True)
class VideoFacts:
    """What a file's header says.

    width, height: of the upright picture, in pixels; fps: frames per second;
    bit_rate: bits per second, of the whole file; num_frames: promised, 0 if unsaid.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float
    bit_rate: int
    num_frames: int


Region = tuple[int, int, int, int]  # y0, x0, y1, x1 in pixels of the upright frame
_BLOCK = 4  # no pixel format shares chroma over more pixels


class Clip:
    """Some decoded frames of a video, turned to RGB when asked.

    indices: positions in presentation order; timestamps: seconds; source_frames: how
    many frames the video has; damaged: some of it could not be decoded.
    """

    def __init__(
        self,
        decoded: Sequence[VideoFrame],
        *,
        indices: Sequence[int],
        timestamps: Sequence[float],
        source_frames: int,
        damaged: bool,
        facts: VideoFacts,
    ):
        """Made by read_clip."""
        self._decoded = decoded
        self._converter = _Converter()
        self.indices = list(indices)
        self.timestamps = list(timestamps)
        self.source_frames = source_frames
        self.damaged = damaged
        self.facts = facts

    def __len__(self) -> int:
        """How many frames."""
        return len(self._decoded)

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of the upright frame i; frames may differ."""
        return _upright_size(self._decoded[i])

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """The upright frame i, or a region of it, as RGB uint8[H,W,3]."""
        return self._converter.rgb(self._decoded[i], region)

    def frames(self) -> list[np.ndarray]:
        """All frames, whole, as RGB uint8[H,W,3]."""
        return [self.rgb(i) for i in range(len(self))]


Plan = Callable[[int], Sequence[int]]


def quiet() -> None:
    """Silences the decoders: what is wrong with a file is said by its reason."""
    av.logging.set_level(None)


def even_plan(num_frames: int) -> Plan:
    """The middles of num_frames equal parts of the video; all of a shorter one."""
    return lambda total: (
        range(total)
        if total <= num_frames
        else [(2 * i + 1) * total // (2 * num_frames) for i in range(num_frames)]
    )


def run_plan(num_frames: int, step: int) -> Plan:
    """A run of frames, step apart, from the middle of the video."""

    def plan(total: int) -> Sequence[int]:
        count = min(num_frames, -(-total // step))
        start = (total - (count - 1) * step - 1) // 2
        return [start + i * step for i in range(count)]

    return plan


# Colours ---------------------------------------------------------------------------


def _turns(frame: VideoFrame) -> int:
    """Quarter turns counterclockwise that make the frame upright."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    if _turns(frame) % 2:
        return frame.width, frame.height
    return frame.height, frame.width


def _spreads_chroma(frame: VideoFrame) -> bool:
    """Whether a pixel's colour depends on rows next to it."""
    deep = frame.format.components[0].bits > 8
    return deep and frame.format.chroma_height(frame.height) != frame.height


class _Converter:
    """Decoded frames -> upright RGB as ffmpeg's own command line makes it.

    Goes through its filters, since the bare scaler misplaces the chroma of deep
    pictures; keeps the filters while the frames are alike.
    """

    def __init__(self):
        self._graph: Graph | None = None
        self._key: tuple = ()

    def rgb(self, frame: VideoFrame, region: Region | None) -> np.ndarray:
        if frame.width * frame.height > MAX_PIXELS:
            raise UnusableVideoError(f"a frame of {frame.width}x{frame.height} pixels")
        turns = _turns(frame)
        if region is None or turns or _spreads_chroma(frame):
            rgb = np.rot90(
                self._convert(frame, (0, 0, frame.height, frame.width)), turns
            )
            y0, x0, y1, x1 = region or (0, 0, *rgb.shape[:2])
            return np.ascontiguousarray(rgb[y0:y1, x0:x1])
        # Whole blocks of chroma, which several pixels share.
        y0, x0, y1, x1 = region
        top, left = y0 - y0 % _BLOCK, x0 - x0 % _BLOCK
        bottom = min(y1 + -y1 % _BLOCK, frame.height)
        right = min(x1 + -x1 % _BLOCK, frame.width)
        rgb = self._convert(frame, (top, left, bottom, right))
        return np.ascontiguousarray(rgb[y0 - top : y1 - top, x0 - left : x1 - left])

    def _convert(self, frame: VideoFrame, region: Region) -> np.ndarray:
        key = (
            frame.width,
            frame.height,
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            region,
        )
        if self._graph is None or key != self._key:
            self._graph, self._key = _rgb_graph(frame, region), key
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)  # noqa: S101
        return converted.to_ndarray()


def _rgb_graph(frame: VideoFrame, region: Region) -> Graph:
    y0, x0, y1, x1 = region
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=Fraction(1, 25),
    )
    crop = graph.add("crop", f"{x1 - x0}:{y1 - y0}:{x0}:{y0}")
    scale = graph.add("scale", "flags=bicubic")
    rgb = graph.add("format", "rgb24")
    graph.link_nodes(source, crop, scale, rgb, graph.add("buffersink")).configure()
    return graph


# Files -----------------------------------------------------------------------------


def _check_file(path: Path) -> None:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise UnusableVideoError(error.strerror or "cannot be read") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UnusableVideoError("not a regular file")
    if facts.st_size == 0:
        raise UnusableVideoError("empty file")


def _open(path: Path):
    """Opens a local regular file of a known container; nothing else is reachable."""
    _check_file(path)
    try:
        # "file:" keeps names with a colon or a leading dash from being an address.
        container = av.open(
            f"file:{os.path.abspath(path)}", options=_OPTIONS, **_METADATA
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise UnusableVideoError(f"not a readable video ({_reason(error)})") from None
    return container


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _video_stream(container):
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        raise UnusableVideoError("no video stream")
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise UnusableVideoError(
            f"{context.width}x{context.height} pixels are more than the "
            f"{MAX_PIXELS} allowed"
        )
    return stream


def _facts(path: Path, container, stream, upright: tuple[int, int]) -> VideoFacts:
    context = stream.codec_context
    rate = stream.average_rate or stream.base_rate
    seconds = (container.duration or 0) / av.time_base
    size = os.path.getsize(path)
    return VideoFacts(
        codec=context.name,
        pixel_format=context.pix_fmt or "unknown",
        width=upright[1],
        height=upright[0],
        fps=float(rate) if rate else 0.0,
        bit_rate=container.bit_rate or (int(8 * size / seconds) if seconds else 0),
        num_frames=stream.frames,
    )


def probe(path: str | Path) -> VideoFacts:
    """Reads the header only; width and height are those of the coded picture."""
    path = Path(path)
    with _open(path) as container:
        stream = _video_stream(container)
        size = stream.codec_context.height, stream.codec_context.width
        return _facts(path, container, stream, size)


def _packets(container, stream) -> Iterator[av.Packet]:
    """The packets of the stream up to its end or the first unreadable one."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (FFmpegError, OSError, ValueError):
            return
        if packet.size and not packet.is_discard:
            yield packet


def _groups_needed(
    times: Sequence[int | None], keys: Sequence[int], wanted: set[int]
) -> list[bool]:
    """Which packets to decode for the frames with these pts: whole groups of pictures.

    times and keys are the packets' pts and whether each is a key frame. A group starts
    at a key frame. Frames shown before their group's key frame may need the group
    before.
    """
    needed = [False] * len(times)
    starts = [i for i, key in enumerate(keys) if key]
    if not starts or starts[0] != 0:
        starts.insert(0, 0)
    ends = [*starts[1:], len(times)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        hits = [t for t in times[start:end] if t is not None and t in wanted]
        if not hits:
            continue
        if number and min(hits) < (times[start] or 0):
            start = starts[number - 1]
        last = max(i for i in range(start, end) if times[i] in wanted)
        needed[start : last + 1] = [True] * (last + 1 - start)
    return needed


def _decode_wanted(
    context, packets: Iterable[av.Packet], needed: Sequence[bool], wanted: set[int]
) -> Iterator[VideoFrame]:
    """The frames with the wanted pts, as they come out of the decoder.

    Raises IrregularVideoError if anything at all is odd.
    """

    def keep(decoded) -> Iterator[VideoFrame]:
        for frame in decoded:
            if frame.is_corrupt:
                raise IrregularVideoError
            if frame.pts in wanted:
                yield frame

    try:
        previous = True
        for packet, use in zip(packets, needed, strict=True):
            if use:
                if not previous:
                    context.flush_buffers()
                # Frames that nothing else is predicted from need not be decoded.
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from keep(context.decode(packet))
            elif previous:
                yield from keep(context.decode(None))
            previous = use
        if previous:
            yield from keep(context.decode(None))
    except (FFmpegError, OSError, ValueError):
        raise IrregularVideoError from None


def read_clip(path: str | Path, plan: Plan) -> Clip:
    """Decodes the frames that the plan chooses from the video's frame count.

    Raises UnusableVideoError with the reason when the file is not a video, has no
    frames, or is damaged so that under 90 % of its frames decode.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        packets = list(_packets(container, stream))
        promised = max(stream.frames, len(packets))
        order = sorted({p.pts for p in packets if p.pts is not None})
        # AVI has no presentation times.
        regular = (
            len(order) == len(packets)
            and "avi" not in container.format.name
            and not any(p.is_corrupt for p in packets)
        )
        if packets and regular and len(packets) >= MIN_DECODED * promised:
            indices = list(plan(len(packets)))
            wanted = {order[i] for i in indices}
            times = [p.pts for p in packets]
            needed = _groups_needed(times, [p.is_keyframe for p in packets], wanted)
            context = stream.codec_context
            frames = {}
            with suppress(IrregularVideoError):
                frames = {
                    f.pts: f for f in _decode_wanted(context, packets, needed, wanted)
                }
            if len(frames) == len(wanted):
                chosen = [frames[order[i]] for i in indices]
                damaged = len(packets) < promised
                total = len(packets)
                return _clip(
                    path, container, stream, chosen, indices, total, damaged=damaged
                )
    return _read_in_order(path, plan, promised)


def _clip(path, container, stream, chosen, indices, total, *, damaged: bool) -> Clip:
    rate = float(stream.average_rate or 0) or 25.0
    # A drained decoder's frames have lost their own time base.
    unit = float(stream.time_base)
    return Clip(
        chosen,
        indices=[int(i) for i in indices],
        timestamps=[
            i / rate if f.pts is None else f.pts * unit
            for f, i in zip(chosen, indices, strict=True)
        ],
        source_frames=total,
        damaged=damaged,
        facts=_facts(path, container, stream, _upright_size(chosen[0])),
    )


def decode_all(container, stream) -> Iterator[VideoFrame]:
    """Every frame that decodes without error, in presentation order."""
    context = stream.codec_context
    for packet in _packets(container, stream):
        try:
            decoded = context.decode(packet)
        except (FFmpegError, OSError, ValueError):
            continue
        yield from (f for f in decoded if not f.is_corrupt)
    try:
        yield from (f for f in context.decode(None) if not f.is_corrupt)
    except (FFmpegError, OSError, ValueError):
        return


def _count_frames(
    path: Path, promised: int, alive: Callable[[], None] = lambda: None
) -> int:
    """How many frames decode. Raises UnusableVideoError when they are too few."""
    total = 0
    with _open(path) as container:
        for _ in decode_all(container, _video_stream(container)):
            total += 1
            alive()
    promised = max(promised, total)
    if total == 0:
        raise UnusableVideoError("0 frames decoded")
    if total < MIN_DECODED * promised:
        raise UnusableVideoError(f"only {total} of {promised} frames decode")
    return total


def _read_in_order(path: Path, plan: Plan, promised: int) -> Clip:
    """Counts what decodes, then takes the plan's frames of that count; any file."""
    total = _count_frames(path, promised)
    with _open(path) as container:
        stream = _video_stream(container)
        indices = list(plan(total))
        wanted = set(indices)
        kept = {
            i: frame
            for i, frame in enumerate(decode_all(container, stream))
            if i in wanted
        }
        chosen = [kept[i] for i in indices]
        damaged = total < promised
        return _clip(path, container, stream, chosen, indices, total, damaged=damaged)


def read_frames(path: str | Path, indices: Sequence[int]) -> Clip:
    """Decodes the frames of these indices; raises if one of them is not there."""

    def plan(total: int) -> Sequence[int]:
        if indices and max(indices) >= total:
            raise UnusableVideoError(
                f"frame {max(indices)} asked for, but the video has {total}"
            )
        return indices

    return read_clip(path, plan)


# Long videos -----------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A stretch of a video, frames start to stop - 1, and the chosen ones of it.

    Of the clip, indices, timestamps and source_frames are those of the whole video.
    """

    start: int
    stop: int
    clip: Clip


Cut = Callable[[int], Sequence[tuple[int, int]]]  # frame count -> (start, stop) each


def read_windows(
    path: str | Path,
    cut: Cut,
    plan: Plan,
    *,
    in_order: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Window]:
    """Decodes a video of any length in one pass, one window in memory at a time.

    A video of one window gives the frames that read_clip gives.

    Args:
      path: the video.
      cut: where the windows lie, in order and apart.
      plan: chooses the frames of a window from its length.
      in_order: decode every frame; what to do after IrregularVideoError.
      alive: called often, to show that work goes on.

    Raises:
      UnusableVideoError: as read_clip.
      IrregularVideoError: some windows may have been given by then; they are void.
    """
    path = Path(path)
    times, keys, promised = _index(path, alive)
    if in_order:
        total = _count_frames(path, max(promised, len(times)), alive)
    else:
        total = len(times)
        if not total or total < MIN_DECODED * promised:
            raise IrregularVideoError
    windows = [(a, b, [a + int(i) for i in plan(b - a)]) for a, b in cut(total)]
    with _open(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        order: Sequence[int] = range(total) if in_order else sorted(times)
        if in_order:
            frames = enumerate(decode_all(container, stream))
        else:
            wanted = {order[i] for _, _, indices in windows for i in indices}
            needed = _groups_needed(times, keys, wanted)
            packets = _packets(container, stream)
            found = _decode_wanted(stream.codec_context, packets, needed, wanted)
            frames = ((f.pts or 0, f) for f in found)
        kept: dict[int, VideoFrame] = {}
        for start, stop, indices in windows:
            missing = {order[i] for i in indices} - kept.keys()
            while missing:
                name, frame = next(frames, (None, None))
                if (name is None or frame is None) and in_order:
                    raise UnusableVideoError(
                        "damaged: another count of frames decodes each time"
                    )
                if name is None or frame is None:
                    raise IrregularVideoError
                alive()
                if name in missing or not in_order:
                    kept[name] = frame
                    missing.discard(name)
            chosen = [kept.pop(order[i]) for i in indices]
            clip = _clip(
                path,
                container,
                stream,
                chosen,
                indices,
                total,
                damaged=total < promised,
            )
            yield Window(start, stop, clip)


def _index(path: Path, alive: Callable[[], None]) -> tuple[array, bytearray, int]:
    """Each packet's pts and whether it is a key frame, and the frames promised.

    Nothing of a video that has no such times, which then holds no packet here.
    """
    times, keys = array("q"), bytearray()
    with _open(path) as container:
        stream = _video_stream(container)
        regular = "avi" not in container.format.name
        for packet in _packets(container, stream):
            alive()
            if not regular or packet.pts is None or packet.is_corrupt:
                regular = False
                break
            times.append(packet.pts)
            keys.append(packet.is_keyframe)
        promised = stream.frames
    if not regular or len(set(times)) != len(times):
        return array("q"), bytearray(), promised
    return times, keys, promised
