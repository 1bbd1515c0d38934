"""A scored video, its prepared frames and the model -> what its page shows."""

import base64
import hashlib
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from fakedetect_jax.data import order
from fakedetect_jax.metrics import metrics
from fakedetect_jax.pages import video_page
from fakedetect_jax.pages.video_page import (
    Frame,
    Moment,
    Part,
    Point,
    Record,
    Shown,
    ShownFace,
    Thumbnail,
)
from fakedetect_jax.reports.video_result import FaceResult, Span, VideoResult
from fakedetect_jax.serving import clips
from fakedetect_jax.serving.network import Network
from fakedetect_jax.serving.summary import Scale
from fakedetect_jax.serving.tracks import Pending, Track
from tfds_ffpp.frames.found import PreparedWindow, StoredFace

MAX_CLIPS = 240  # of the curve, over a whole video
MAX_THUMBNAILS = 16
MAX_MOMENTS = 6
MAX_FACES = 8  # with curve, thumbnails and moments; of a long film's hundreds
HEAT_OPACITY = 0.55


@dataclass(frozen=True)
class _Explained:
    """A clip, and how the model came to its score.

    times: seconds of each frame; running: on the scale of the page; pixels
    uint8[T,S,S,3]; heat float32[T,h,w].
    """

    seconds: Span
    score: float
    probability: float | None
    times: Sequence[float]
    running: Sequence[float]
    pixels: np.ndarray
    heat: np.ndarray


def write_page(
    network: Network,
    result: VideoResult,
    video: Pending,
    folder: Path,
    *,
    record: Record | None = None,
) -> Path:
    """Writes the page of a video that was just scored; returns its path.

    record: by which command it was scored.
    """
    path = page_path(result.video, folder)
    video_page.write(path, result, gather(network, result, video, record=record))
    return path


def gather(
    network: Network,
    result: VideoResult,
    video: Pending,
    *,
    record: Record | None = None,
) -> Shown:
    """What is shown of a video that was just scored: see write_page."""
    scored = [track for track in video.tracks if track.clips]
    faces = [
        look(network, scored[number], video.windows, result.faces[number], number)
        for number in shown_faces(result)
    ]
    parts = [_part(window) for window in video.windows]
    card, curves = network.model.card, lanes(network, result)
    heat = heat_words(network.model.config.model)
    return Shown(faces, parts, card, heat, record, curves)


# Backbones whose places are patches, by the first word of their names.
TRANSFORMERS = ("clip", "dinov2", "dinov3", "mae", "siglip2", "vit")


def heat_words(model) -> str:
    """What the heat maps are of a model with these fields of `config.model`.

    As fakedetect_jax.model.explain makes them.
    """
    if model.patches:
        return "how likely each place is forged, by a head that learnt from masks"
    if model.backbone.split("_")[0] in TRANSFORMERS:
        return "what each patch adds in the last block (integrated gradients)"
    return "Integrated Grad-CAM on the last feature map"


def lanes(network: Network, result: VideoResult) -> list[list[Point]]:
    """The scored clips of each person of a film, in the order of time."""
    scale = Scale.of(network.model)
    return [
        sorted(
            (
                Point(clip.seconds, clip.score, scale.calibrated(clip.score))
                for number in person.faces
                for clip in result.faces[number].clips
            ),
            key=lambda point: point.seconds,
        )
        for person in result.people or ()
    ]


def shown_faces(result: VideoResult) -> list[int]:
    """The numbers of the faces that a page shows: the highest, and the part's."""
    faces, first = result.faces, result.part.face if result.part else None
    order = sorted(
        range(len(faces)), key=lambda number: (number != first, -faces[number].score)
    )
    return sorted(order[:MAX_FACES])


def page_path(video: str, folder: Path) -> Path:
    """Where the page of a video lies.

    The name holds the file's and a digest of its path: equal names in different folders
    do not overwrite each other.
    """
    digest = hashlib.sha256(video.encode(errors="surrogateescape")).hexdigest()
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(video).stem)
    return folder / f"{stem[:80]}-{digest[:8]}.html"


def _part(window: PreparedWindow) -> Part:
    return Part(
        seconds=(window.timestamp[0], window.timestamp[-1]),
        frames=(window.start, window.stop),
        looked_at=len(window.frame_index),
        faces=len(window.faces),
        shot=window.shot,
    )


def look(
    network: Network,
    track: Track,
    windows: Sequence[PreparedWindow],
    result: FaceResult,
    number: int = 0,
) -> ShownFace:
    """What the page shows of a face: curve, thumbnails and the worst moments."""
    curve: list[Point] = []
    worst: list[tuple[float, int, _Explained]] = []
    limit = max(MAX_CLIPS // len(track.stored), 1)
    for stored in track.stored:
        for clip in _explained(network, stored, windows[stored.window], limit):
            curve.append(Point(clip.seconds, clip.score, clip.probability))
            heapq.heappush(worst, (clip.score, len(curve), clip))
            if len(worst) > 3 * MAX_MOMENTS:
                heapq.heappop(worst)
    moments = _apart([clip for _, _, clip in sorted(worst, reverse=True)])
    top = max((float(moment.heat.max()) for moment in moments), default=0.0)
    if network.model.config.model.patches:
        top = 1.0  # its heat is a probability, and may be low all over
    return ShownFace(
        number=number,
        result=result,
        curve=sorted(curve, key=lambda point: point.seconds),
        thumbnails=_thumbnails(track, windows),
        moments=[_moment(moment, top) for moment in moments],
    )


def _thumbnails(track: Track, windows: Sequence[PreparedWindow]) -> list[Thumbnail]:
    """Some frames of a face, evenly over those that are stored."""
    every = -(-sum(stored.num_valid for stored in track.stored) // MAX_THUMBNAILS)
    counter = itertools.count()
    found = []
    for stored in track.stored:
        times = windows[stored.window].timestamp
        for seconds, image in zip(times, clips.images_of(stored), strict=False):
            if next(counter) % every == every // 2:
                found.append(Thumbnail(seconds, _text(image)))
    return found


def _explained(
    network: Network, stored: StoredFace, window: PreparedWindow, limit: int
) -> Iterator[_Explained]:
    """Clips of a stored face, closer together than those that are scored."""
    config = network.model.config
    span = order.clip_span(config.data.clip_frames, config.data.frame_stride)
    starts = max(stored.num_valid - span, 0)
    count = min(-(-starts // max(span // 2, 1)) + 1, limit)
    if stored.num_valid < config.data.clip_frames:
        return
    places = clips.cut(stored, config, per_window=count)
    images = clips.images_of(stored)
    for first in range(0, len(places), network.batch_size):
        some = places[first : first + network.batch_size]
        yield from _explain(network, window, list(clips.read(images, some, config)))


def _explain(
    network: Network, window: PreparedWindow, batch: Sequence[clips.Clip]
) -> Iterator[_Explained]:
    scale = Scale.of(network.model)
    explanation = network.explain(
        np.stack([clip.frames for clip in batch]),
        np.array([clip.length for clip in batch]),
    )
    for clip, logit, running, heat in zip(batch, *explanation, strict=True):
        score = float(metrics.sigmoid(np.array(logit, float)))
        after = metrics.sigmoid(np.asarray(running[: clip.length], float))
        _, seconds = clips.span_of(window, clip)
        start, stride = clip.place.start, clip.place.stride
        yield _Explained(
            seconds=seconds,
            score=score,
            probability=scale.calibrated(score),
            times=[window.timestamp[start + stride * t] for t in range(clip.length)],
            running=[_shown(scale, float(score)) for score in after],
            pixels=clip.frames[: clip.length],
            heat=np.asarray(heat[: clip.length]),
        )


def _shown(scale: Scale, score: float) -> float:
    """The number that a page shows for a score."""
    calibrated = scale.calibrated(score)
    return score if calibrated is None else calibrated


def _apart(explained: Sequence[_Explained]) -> list[_Explained]:
    """The first clips, leaving out those that share most of their time with one."""
    kept: list[_Explained] = []
    for clip in explained:
        start, stop = clip.seconds
        if len(kept) < MAX_MOMENTS and all(
            min(stop, other.seconds[1]) - max(start, other.seconds[0])
            <= 0.25 * (stop - start)
            for other in kept
        ):
            kept.append(clip)
    return kept


def _moment(clip: _Explained, top: float) -> Moment:
    frames = [
        Frame(
            seconds=seconds,
            running=running,
            image=_text(_jpeg(pixels)),
            overlay=_text(_jpeg(overlay(pixels, heat / max(top, 1e-12)))),
        )
        for seconds, running, pixels, heat in zip(
            clip.times, clip.running, clip.pixels, clip.heat, strict=True
        )
    ]
    return Moment(clip.seconds, clip.score, clip.probability, frames)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """RGB uint8[S,S,3] with heat[h,w] in 0..1 laid over it, opaque where it is hot."""
    size = image.shape[1], image.shape[0]
    smooth = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    smooth = np.clip(smooth, 0.0, 1.0)
    levels = np.round(255 * smooth).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = HEAT_OPACITY * smooth[..., None] ** 0.5
    return np.round(image * (1 - opacity) + colours * opacity).astype(np.uint8)


def _jpeg(image: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=85)


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()
