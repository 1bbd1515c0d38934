"""A file's container: opened as a local file and nothing else, its video's packets."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.logging
from av import library_versions
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding import colours

# Containers that hold everything in the one file; playlists are not among them.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
MAX_THREADS = 16  # of one decoder; ffmpeg advises against more
_THREAD_BYTES = 256 << 20  # of the pictures that its threads hold
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


def decoder() -> str:
    """The versions of PyAV and of the decoder in it."""
    build = ".".join(map(str, library_versions["libavcodec"]))
    return f"PyAV {av.__version__}, libavcodec {build}"


def quiet() -> None:
    """Silences the decoders: what is wrong with a file is said by its reason."""
    av.logging.set_level(None)


# Files -----------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """Raises UnusableVideoError for what is no regular file with something in it."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise UnusableVideoError(error.strerror or "cannot be read") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UnusableVideoError("not a regular file")
    if facts.st_size == 0:
        raise UnusableVideoError("empty file")


def open_file(path: Path):
    """Opens a local regular file of a known container; nothing else is reachable.

    Raises UnusableVideoError.
    """
    check_file(path)
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


def video_stream(container, threads: int = 1):
    """The first stream of pictures that is no cover.

    threads: that may decode it; fewer where its pictures are large, as each holds one.

    Raises UnusableVideoError.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        raise UnusableVideoError("no video stream")
    context = stream.codec_context
    if context is None:
        raise UnusableVideoError("its video is of a kind that no decoder here knows")
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
    bits = context.format.padded_bits_per_pixel if context.format else 48
    picture = max(context.width * context.height * bits // 8, 1)
    threads = max(min(threads, _THREAD_BYTES // picture, MAX_THREADS), 1)
    # By frames and never by slices, of which damaged ones would decode to others.
    stream.thread_type = "FRAME" if threads > 1 else "NONE"
    context.thread_count = threads
    return stream


def facts_of(path: Path, container, stream, upright: tuple[int, int]) -> VideoFacts:
    """What the header says of a stream; upright: height and width."""
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
def open_stream(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """A file's container and its video, for decode_all.

    Raises UnusableVideoError with the reason.
    """
    with open_file(path) as container:
        yield container, video_stream(container, threads)


def probe(path: str | Path) -> VideoFacts:
    """Reads the header only; width and height are those of the coded picture."""
    path = Path(path)
    with open_file(path) as container:
        stream = video_stream(container)
        size = stream.codec_context.height, stream.codec_context.width
        return facts_of(path, container, stream, size)


def packets_of(container, streams) -> Iterator[av.Packet]:
    """The packets of a stream, or several, to the end or the first unreadable one."""
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (FFmpegError, OSError, ValueError):
            return
        # Sound that is not to be heard is what its decoder needs to begin.
        if packet.size and not (packet.is_discard and packet.stream.type == "video"):
            yield packet


def decode_beside(
    container, stream, others: Sequence[Stream]
) -> Iterator[VideoFrame | av.Packet]:
    """Every frame that decodes without error, in presentation order.

    Between them, as they lie in the file, the packets of other streams.
    """
    context = stream.codec_context
    for packet in packets_of(container, [stream, *others]):
        if packet.stream_index != stream.index:
            yield packet
            continue
        try:
            decoded = context.decode(packet)
        except (FFmpegError, OSError, ValueError):
            continue
        yield from (f for f in decoded if not f.is_corrupt)
    try:
        yield from (f for f in context.decode(None) if not f.is_corrupt)
    except (FFmpegError, OSError, ValueError):
        return


def decode_all(container, stream) -> Iterator[VideoFrame]:
    """Every frame that decodes without error, in presentation order."""
    for frame in decode_beside(container, stream, ()):
        assert isinstance(frame, VideoFrame)  # noqa: S101
        yield frame
