"""A stored face -> the clips that the network takes, cut as the evaluation cuts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from fakedetect_jax import settings
from fakedetect_jax.data import order
from fakedetect_jax.reports.video_result import Span
from fakedetect_jax.settings import Config
from tfds_ffpp.frames.entry import read_frames
from tfds_ffpp.frames.found import PreparedWindow, StoredFace

# A face is out of the model's range where its crop must be enlarged more than this.
MAX_ENLARGEMENT = 4.0


ORDERED = ("lstm", "transformer")  # heads that make something of the frames' order


class Clip(NamedTuple):
    """Frames uint8[T,S,S,3] of which the first `length` count, and where they lie."""

    place: order.ClipRef
    frames: np.ndarray
    length: int


def enlargement(stored: StoredFace, config: Config) -> float:
    """Pixels of the crop for one of the source, along a side."""
    return config.dataset.image_size / max(stored.side, 1.0)


def takes_stills(config: Config) -> bool:
    """Whether one picture is a clip: of a model without a memory, or of such clips."""
    return config.data.clip_frames == 1 or config.model.temporal not in ORDERED


def lacks(stored: StoredFace, config: Config, *, is_still: bool = False) -> str:
    """What a face lacks for the model: "short", "enlarged", or nothing; is_still: it
    is all there is."""
    least = 1 if is_still and takes_stills(config) else config.data.clip_frames
    if stored.num_valid < least:
        return "short"
    return "enlarged" if enlargement(stored, config) > MAX_ENLARGEMENT else ""


def cut(
    stored: StoredFace, config: Config, *, per_window: int = 0
) -> list[order.ClipRef]:
    """Where the clips of a stored face lie: the evaluation's, or another number."""
    return order.covering_clips(
        [stored],
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=per_window or config.data.eval_clips_per_video,
        min_coverage=config.data.min_coverage,
    )


def images_of(stored: StoredFace) -> list[bytes]:
    """The encoded frames of a stored face."""
    return read_frames(Path(stored.entry))[: stored.num_valid]


def read(
    images: Sequence[bytes], places: Iterable[order.ClipRef], config: Config
) -> Iterator[Clip]:
    """The clips at these places of a stored face's encoded frames."""
    shape = settings.clip_shape(config)
    for place in places:
        wanted, length = order.frames_of(place, len(images), shape[0])
        frames = np.empty(shape, np.uint8)
        for out, index in zip(frames, wanted, strict=True):
            simplejpeg.decode_jpeg(images[index], "RGB", buffer=out)
        yield Clip(place, frames, length)


def span_of(window: PreparedWindow, clip: Clip) -> tuple[tuple[int, int], Span]:
    """Which source frames and seconds a clip reaches over."""
    start, stride = clip.place.start, clip.place.stride
    last = min(start + stride * (clip.length - 1), len(window.frame_index) - 1)
    return (
        (window.frame_index[start], window.frame_index[last]),
        (window.timestamp[start], window.timestamp[last]),
    )
