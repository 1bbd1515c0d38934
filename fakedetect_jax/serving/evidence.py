"""A scored video, its prepared frames and the model -> what its page shows."""

import base64
import hashlib
import heapq
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from fakedetect_jax.data import order
from fakedetect_jax.metrics import metrics
from fakedetect_jax.pages import video_page
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.tracks import Face, Pending, span_of
from tfds_ffpp.frames.entry import read_frames

Row = dict[str, Any]
MAX_CLIPS = 240  # of the curve, over a whole video
MAX_THUMBNAILS = 16
MAX_MOMENTS = 6
HEAT_OPACITY = 0.55


def write_page(detector: Detector, result: Row, video: Pending, folder: Path) -> Path:
    """Writes the page of a video that was just scored; returns its path."""
    path = page_path(result, folder)
    scored = [face for face in video.faces if face.clips]
    faces = [
        look(detector, face, video, told)
        for face, told in zip(scored, result["faces"], strict=False)
    ]
    video_page.write(path, result, faces, _windows(video), detector.model.card)
    return path


def page_path(result: Row, folder: Path) -> Path:
    """Where the page of a video lies.

    The name holds the file's and a digest of its path: equal names in different folders
    do not overwrite each other.
    """
    video = result["video"]
    digest = hashlib.sha256(video.encode(errors="surrogateescape")).hexdigest()
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(video).stem)
    return folder / f"{stem[:80]}-{digest[:8]}.html"


def _windows(video: Pending) -> list[Row]:
    return [
        {
            "seconds": [window["timestamp"][0], window["timestamp"][-1]],
            "frames": [window["start"], window["stop"]],
            "looked_at": len(window["frame_index"]),
            "faces": len(window["faces"]),
        }
        for window in video.windows
    ]


def look(detector: Detector, face: Face, video: Pending, told: Row) -> Row:
    """What the page shows of a face: curve, thumbnails and the worst moments."""
    curve: list[Row] = []
    worst: list[tuple[float, int, Row]] = []
    thumbnails: list[Row] = []
    windows = {window["number"]: window for window in video.windows}
    per_window = max(MAX_CLIPS // len(face.entries), 1)
    every = -(-sum(e["num_valid"] for e in face.entries) // MAX_THUMBNAILS)
    counter = itertools.count()
    for entry in face.entries:
        window = windows[entry["window"]]
        images = read_frames(Path(entry["entry"]))
        for i in range(entry["num_valid"]):
            if next(counter) % every == every // 2:
                shown = {"seconds": window["timestamp"][i], "image": _text(images[i])}
                thumbnails.append(shown)
        for clip in _explained(detector, entry, images, window, per_window):
            curve.append({k: clip[k] for k in ("seconds", "score", "probability")})
            heapq.heappush(worst, (clip["score"], len(curve), clip))
            if len(worst) > 3 * MAX_MOMENTS:
                heapq.heappop(worst)
    moments = _apart([clip for _, _, clip in sorted(worst, reverse=True)])
    top = max((float(m["heat"].max()) for m in moments), default=0.0)
    return {
        **{k: told[k] for k in ("score", "probability", "verdict", "seconds")},
        "coverage": told["coverage"],
        "curve": sorted(curve, key=lambda c: c["seconds"]),
        "thumbnails": thumbnails,
        "moments": [_moment(moment, top) for moment in moments],
    }


def _explained(
    detector: Detector, entry: Row, images, window: Row, limit: int
) -> Iterator[Row]:
    """Clips of a stored window, closer together than those that are scored."""
    settings = detector.model.config.data
    span = order.clip_span(settings.clip_frames, settings.frame_stride)
    room = max(entry["num_valid"] - span, 0)
    count = min(-(-room // max(span // 2, 1)) + 1, limit)
    if entry["num_valid"] < settings.clip_frames:
        return
    clips = detector.clips_of(entry, count)
    for first in range(0, len(clips), detector.batch_size):
        some = clips[first : first + detector.batch_size]
        read = [detector.read_clip(images, c, entry["num_valid"]) for c in some]
        frames = np.stack([f for f, _ in read])
        lengths = np.array([length for _, length in read])
        told = detector.explain(frames, lengths)
        for i, clip in enumerate(some):
            score = float(metrics.sigmoid(np.array(told.logits[i], float)))
            length = int(lengths[i])
            running = metrics.sigmoid(np.asarray(told.running[i][:length], float))
            yield {
                **span_of(window, clip, length),
                "times": [
                    window["timestamp"][clip.start + clip.stride * t]
                    for t in range(length)
                ],
                "score": score,
                "probability": detector.calibrated(score),
                # On the scale of the page.
                "running": [_shown(detector, float(score)) for score in running],
                "pixels": frames[i][:length],
                "heat": np.asarray(told.heat[i][:length]),
            }


def _shown(detector: Detector, score: float) -> float:
    """The number that a page shows for a score."""
    calibrated = detector.calibrated(score)
    return score if calibrated is None else calibrated


def _apart(clips: list[Row]) -> list[Row]:
    """The first clips, leaving out those that share most of their time with one."""
    kept: list[Row] = []
    for clip in clips:
        start, stop = clip["seconds"]
        if len(kept) < MAX_MOMENTS and all(
            min(stop, other["seconds"][1]) - max(start, other["seconds"][0])
            <= 0.25 * (stop - start)
            for other in kept
        ):
            kept.append(clip)
    return kept


def _moment(clip: Row, top: float) -> Row:
    frames = [
        {
            "seconds": seconds,
            "running": running,
            "image": _text(_jpeg(pixels)),
            "overlay": _text(_jpeg(overlay(pixels, heat / max(top, 1e-12)))),
        }
        for seconds, running, pixels, heat in zip(
            clip["times"], clip["running"], clip["pixels"], clip["heat"], strict=True
        )
    ]
    told = ("seconds", "score", "probability")
    return {**{k: clip[k] for k in told}, "frames": frames}


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
