"""One video file -> upright RGB frames. The only file that knows PyAV.

Frames are counted in presentation order. Variable frame rates need no care: frames are
chosen by index everywhere, and each carries its time.
"""

import contextlib
import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av.logging
import numpy as np
from av import library_versions
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame

from tfds_ffpp.errors import IrregularVideoError, UnusableVideoError
from tfds_ffpp.frames import colours
from tfds_ffpp.frames.colours import Converter, Region
from tfds_ffpp.frames.shots import HEIGHT, WIDTH, ShotFinder

# Containers that hold everything in the one file; playlists are not among them.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
HELD_BYTES = 256 << 20  # of decoded frames; where there are more, none is held
MIN_DECODED = 0.9  # share of the promised frames that a video of a dataset must yield
MIN_PARTIAL = 0.5  # the same of a video that is scored for what there is of it
# Where the header has no count of frames, but a duration of the whole that is its own
# and not a guess from what is left of the file.
_TIMED_FORMATS = ("matroska", "mov", "flv")
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
# Metadata need not be text. From PyAV 19 on it may be anything, and this is unknown.
_METADATA: Any = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


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


Plan = Callable[[int], Sequence[int]]


def decoder() -> str:
    """The versions of PyAV and of the decoder in it."""
    build = ".".join(map(str, library_versions["libavcodec"]))
    return f"PyAV {av.__version__}, libavcodec {build}"


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
    # Threads would hold a frame each, and take more processors than this one.
    stream.thread_type = "NONE"
    context.thread_count = 1
    if context.name == "rawvideo" and not context.codec_tag.strip("\0"):
        raise UnusableVideoError(
            "raw pictures of a layout that the file does not name, which programs show "
            "in different colours; convert them where they were made (FFV1 loses none)"
        )
    if context.width * context.height > colours.MAX_PIXELS:
        raise UnusableVideoError(
            f"{context.width}x{context.height} pixels are more than the "
            f"{colours.MAX_PIXELS} allowed"
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


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and its video, for decode_all.

    Raises UnusableVideoError with the reason.
    """
    with _open(path) as container:
        yield container, _video_stream(container)


def probe(path: str | Path) -> VideoFacts:
    """Reads the header only; width and height are those of the coded picture."""
    path = Path(path)
    with _open(path) as container:
        stream = _video_stream(container)
        size = stream.codec_context.height, stream.codec_context.width
        return _facts(path, container, stream, size)


def _packets(container, streams) -> Iterator[av.Packet]:
    """The packets of a stream, or several, to the end or the first unreadable one."""
    packets = container.demux(streams)
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


def read_clip(path: str | Path, plan: Plan) -> DecodedVideo:
    """Decodes the frames that the plan chooses from the video's frame count.

    Raises UnusableVideoError with the reason when the file is not a video, has no
    frames, or is damaged so that under 90 % of its frames decode.
    """

    def whole(total: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
        del cuts
        return [(0, total)]

    try:
        return next(read_windows(path, whole, plan)).clip
    except IrregularVideoError:
        return next(read_windows(path, whole, plan, in_order=True)).clip


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
    file: "_Index",
    least: float,
    alive: Callable[[], None],
    see: Callable[[VideoFrame], None],
) -> tuple[int, Loss | None]:
    """How many frames decode, and what is lost; see: called with each of them.

    Raises UnusableVideoError when they are too few.
    """
    total, timed, times = 0, True, array("q")
    with _open(file.path) as container:
        for frame in decode_all(container, _video_stream(container)):
            total += 1
            see(frame)
            timed = timed and frame.pts is not None
            if timed:
                times.append(frame.pts or 0)
            alive()
    if total == 0:
        raise UnusableVideoError("0 frames decoded")
    loss = _loss(file, total, times if timed else array("q"))
    if loss is not None and loss.leaves < least:
        raise UnusableVideoError(str(loss))
    return total, loss


def _loss(file: "_Index", total: int, times: Sequence[int]) -> Loss | None:
    """What is lost where frames of these times decode; times may be unknown."""
    if total >= file.promised:
        return None
    first = None
    if len(file.times) and len(times):
        missing = set(file.times).difference(times)
        first = min(missing) * file.unit if missing else _end_of(file, times)
    return Loss(total, file.promised, file.rough, first)


def _end_of(file: "_Index", times: Sequence[int]) -> float:
    return max(times) * file.unit + 1 / file.rate


def read_frames(path: str | Path, indices: Sequence[int]) -> DecodedVideo:
    """Decodes the frames of these indices; raises if one of them is not there."""

    def plan(total: int) -> Sequence[int]:
        if indices and max(indices) >= total:
            raise UnusableVideoError(
                f"frame {max(indices)} asked for, but the video has {total}"
            )
        return indices

    return read_clip(path, plan)


# Shots ------------------------------------------------------------------------------


class _Shots:
    """Finds where shots begin in the frames that it sees; in none unless asked."""

    def __init__(self, *, wanted: bool):
        self._finder = ShotFinder() if wanted else None
        self._count = 0

    def see(self, frame: VideoFrame) -> None:
        self._count += 1
        if self._finder is not None:
            self._finder.add(colours.small_luma(frame, (HEIGHT, WIDTH)))

    def look_through(self, path: Path, total: int, alive: Callable[[], None]) -> None:
        """Sees all frames. Raises IrregularVideoError if they are not `total`."""
        if self._finder is None or total < 2:
            return
        with _open(path) as container:
            for frame in decode_all(container, _video_stream(container)):
                self.see(frame)
                alive()
        if self._count != total:
            raise IrregularVideoError

    def cuts(self) -> list[int]:
        return self._finder.finish() if self._finder is not None else []


def find_cuts(path: str | Path) -> list[int]:
    """The frames that begin a shot, without the first, of those that decode."""
    shots = _Shots(wanted=True)
    with _open(Path(path)) as container:
        for frame in decode_all(container, _video_stream(container)):
            shots.see(frame)
    return shots.cuts()


# Long videos -----------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A stretch of a video, frames start to stop - 1, and the chosen ones of it.

    shot: which of the video's it lies in. Of the clip, indices, timestamps and
    source_frames are those of the whole video.
    """

    start: int
    stop: int
    clip: DecodedVideo
    shot: int = 0


# Frame count, and the frames that begin a shot -> (start, stop) of each window.
Cut = Callable[[int, Sequence[int]], Sequence[tuple[int, int]]]


def read_windows(
    path: str | Path,
    cut: Cut,
    plan: Plan,
    *,
    in_order: bool = False,
    find_shots: bool = False,
    least: float = MIN_DECODED,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Window]:
    """Decodes a video of any length in one pass, one window in memory at a time.

    A video of one window gives the frames that read_clip gives.

    Args:
      path: the video.
      cut: where the windows lie, in order and apart.
      plan: chooses the frames of a window from its length.
      in_order: decode every frame; what to do after IrregularVideoError.
      find_shots: decode all frames first, to see where shots begin; else it is one.
      least: the share of the promised frames that must decode.
      alive: called often, to show that work goes on.

    Raises:
      UnusableVideoError: as read_clip.
      IrregularVideoError: some windows may have been given by then; they are void.
    """
    path = Path(path)
    file = _index(path, alive)
    shots = _Shots(wanted=find_shots)
    if in_order:
        total, loss = _count_frames(file, least, alive, shots.see)
        order: Sequence[int] = range(total)
    else:
        total, order = len(file.times), sorted(file.times)
        if not file.regular or total < MIN_DECODED * file.promised:
            raise IrregularVideoError
        loss = _loss(file, total, order)
        shots.look_through(path, total, alive)
    cuts = shots.cuts()
    windows = [(a, b, [a + int(i) for i in plan(b - a)]) for a, b in cut(total, cuts)]
    decode = _decode_in_order if in_order else _decode_groups

    def again(wanted: set[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        return decode(file, wanted, alive)

    def names_from(number: int) -> set[int]:
        return {order[i] for _, _, indices in windows[number:] for i in indices}

    frames = again(names_from(0))
    kept: dict[int, Seen] = {}
    for number, (start, stop, indices) in enumerate(windows):
        wanted = {order[i] for i in indices}
        held = 0
        while wanted - kept.keys():
            name, frame = next(frames, (None, None))
            if (name is None or frame is None) and in_order:
                raise UnusableVideoError(
                    "damaged: another count of frames decodes each time"
                )
            if name is None or frame is None:
                raise IrregularVideoError
            fits = held <= HELD_BYTES
            held += sum(plane.buffer_size for plane in frame.planes)
            picture = frame if held <= HELD_BYTES else None
            kept[name] = Seen(name, frame.pts, colours.upright_size(frame), picture)
            del frame
            if fits and picture is None:
                kept = {n: replace(seen, picture=None) for n, seen in kept.items()}
        chosen = [kept[order[i]] for i in indices]
        for name in wanted:
            del kept[name]
        begin_again = held > HELD_BYTES and not in_order
        if begin_again:  # a decoder takes memory too, and the clip needs one
            frames.close()
            kept.clear()
        clip = _clip(file, chosen, again, indices, total, loss)
        yield Window(start, stop, clip, bisect_right(cuts, start))
        del clip
        del chosen
        if begin_again:
            frames = again(names_from(number + 1))


def _clip(
    file: "_Index",
    seen: Sequence[Seen],
    again: Again,
    indices: Sequence[int],
    total: int,
    loss: Loss | None,
) -> DecodedVideo:
    return DecodedVideo(
        seen,
        again=again,
        indices=[int(i) for i in indices],
        # A drained decoder's frames have lost their own time base.
        timestamps=[
            i / file.rate if s.pts is None else s.pts * file.unit
            for s, i in zip(seen, indices, strict=True)
        ],
        source_frames=total,
        loss=loss,
        facts=replace(file.facts, height=seen[0].size[0], width=seen[0].size[1]),
    )


@dataclass(frozen=True)
class _Index:
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


def _index(path: Path, alive: Callable[[], None]) -> _Index:
    times, keys, count, seconds = array("q"), bytearray(), 0, 0.0
    with _open(path) as container:
        stream = _video_stream(container)
        timed = "avi" not in container.format.name  # it has no presentation times
        whole = True
        for packet in _packets(container, [stream, *container.streams.audio]):
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
        return _Index(
            path,
            times,
            keys,
            regular=whole and len(times) > 0,
            promised=max(said, by_time),
            rough=by_time > said,
            rate=float(stream.average_rate or 0) or 25.0,
            unit=float(stream.time_base),
            facts=_facts(path, container, stream, size),
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


def _decode_in_order(
    file: _Index, wanted: set[int], alive: Callable[[], None]
) -> Generator[tuple[int, VideoFrame], None, None]:
    """The frames with these indices."""
    last = max(wanted, default=-1)
    with _open(file.path) as container:
        for i, frame in enumerate(decode_all(container, _video_stream(container))):
            alive()
            if i in wanted:
                yield i, frame
            if i >= last:
                return


def _decode_groups(
    file: _Index, wanted: set[int], alive: Callable[[], None], *, seek: bool = True
) -> Generator[tuple[int, VideoFrame], None, None]:
    """The frames with these pts. Raises IrregularVideoError if anything is odd."""
    if not wanted:
        return
    needed = _groups_needed(file.times, file.keys, wanted)
    first, end = needed.index(True), len(needed) - needed[::-1].index(True)
    with _open(file.path) as container:
        stream = _video_stream(container)
        packets = _packets(container, stream)
        if first and not seek:
            packets = islice(packets, first, None)
        elif first:
            packets = _sought(container, stream, file.times[first])
        if packets is not None:
            packets = islice(packets, end - first)
            some = needed[first:end]
            for frame in _decode_wanted(stream.codec_context, packets, some, wanted):
                alive()
                yield frame.pts or 0, frame
            return
    yield from _decode_groups(file, wanted, alive, seek=False)


def _sought(container, stream, pts: int) -> Iterator[av.Packet] | None:
    """The packets from the one with a pts; None if seeking does not lead there."""
    with suppress(FFmpegError, OSError, ValueError):
        container.seek(pts, stream=stream)
        packets = _packets(container, stream)
        for packet in packets:
            if packet.pts == pts:
                return chain([packet], packets)
    return None
