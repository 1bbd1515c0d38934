"""An index and the names of some frames -> these frames, in order."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

import av
from av.error import FFmpegError
from av.video.frame import VideoFrame

from tfds_ffpp.errors import IrregularVideoError
from tfds_ffpp.frames.decoding.container import (
    decode_all,
    open_file,
    packets_of,
    video_stream,
)
from tfds_ffpp.frames.decoding.index import Index
from tfds_ffpp.frames.found import Alive


def groups_needed(
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


def decode_in_order(
    file: Index, wanted: set[int], alive: Alive
) -> Generator[tuple[int, VideoFrame], None, None]:
    """The frames with these indices, by one thread: of a damaged file others may decode
    to other frames."""
    last = max(wanted, default=-1)
    with open_file(file.path) as container:
        for i, frame in enumerate(decode_all(container, video_stream(container))):
            alive()
            if i in wanted:
                yield i, frame
            if i >= last:
                return


def decode_groups(
    file: Index,
    wanted: set[int],
    alive: Alive,
    *,
    threads: int = 1,
    seek: bool = True,
) -> Generator[tuple[int, VideoFrame], None, None]:
    """The frames with these pts. Raises IrregularVideoError if anything is odd."""
    if not wanted:
        return
    needed = groups_needed(file.times, file.keys, wanted)
    first, end = needed.index(True), len(needed) - needed[::-1].index(True)
    with open_file(file.path) as container:
        stream = video_stream(container, threads)
        packets = packets_of(container, stream)
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
    yield from decode_groups(file, wanted, alive, threads=threads, seek=False)


def _sought(container, stream, pts: int) -> Iterator[av.Packet] | None:
    """The packets from the one with a pts; None if seeking does not lead there."""
    with suppress(FFmpegError, OSError, ValueError):
        container.seek(pts, stream=stream)
        packets = packets_of(container, stream)
        for packet in packets:
            if packet.pts == pts:
                return chain([packet], packets)
    return None
