"""One video -> its frames as stored: decode, detect, crop, encode."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import simplejpeg

from tfds_ffpp import track as tracks
from tfds_ffpp.crops import Box, clip_crops
from tfds_ffpp.faces import (
    Detector,
    Faces,
    clip_box,
    follow_face,
    open_detector,
    usual_box,
)
from tfds_ffpp.video import Clip, Plan, even_plan, read_clip, run_plan


@dataclass(frozen=True)
class Recipe:
    """What decides the stored frames of a video. See FfppConfig for the fields."""

    num_frames: int
    frame_step: int
    image_size: int
    crop: str
    margin: float
    detector: str
    detector_model: str
    landmarks: str
    jpeg_quality: int
    jpeg_subsampling: str


@dataclass(frozen=True)
class Prepared:
    """A video's stored frames and what is known of it; meta is plain JSON data."""

    meta: dict[str, Any]
    frames: list[bytes]
    seconds: dict[str, float]


def encode(image: np.ndarray, recipe: Recipe) -> bytes:
    """RGB uint8[S,S,3] -> JPEG."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image),
        quality=recipe.jpeg_quality,
        colorspace="RGB",
        colorsubsampling=recipe.jpeg_subsampling,
        fastdct=False,
    )


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def detector_of(recipe: Recipe) -> Detector:
    """The detector that the recipe names; one for all calls, since opening it takes
    longer than using it."""
    return open_detector(recipe.detector, recipe.detector_model, recipe.landmarks)


def find_faces(clip: Clip, recipe: Recipe) -> Faces:
    """The face box of a clip as the recipe says."""
    return clip_box(clip, detector=detector_of(recipe), margin=recipe.margin)


def with_track(clip: Clip, faces: Faces, recipe: Recipe) -> Faces:
    """What was seen, with the place of the face in each frame of the clip.

    A fake is told where the face of its original is.
    """
    if faces.track is not None:
        track = faces.track.at(clip.indices)
    elif recipe.crop == "full":  # where faces are was not asked
        usual = usual_box(recipe.margin)
        track = tracks.unknown_track(clip.indices, usual=usual, seen=True)
    else:
        detector = detector_of(recipe)
        track = follow_face(clip, faces, detector=detector, margin=recipe.margin)
    return replace(faces, track=track)


def whole_frame(clip: Clip) -> Faces:
    """The box of crop="full"."""
    height, width = clip.size(0)
    return Faces((0.0, 0.0, float(height), float(width)), (height, width), 1.0, 0)


def frame_plan(recipe: Recipe) -> Plan:
    """Which frames the recipe stores."""
    if recipe.frame_step:
        return run_plan(recipe.num_frames, recipe.frame_step)
    return even_plan(recipe.num_frames)


def read_planned(path: str | Path, recipe: Recipe) -> Clip:
    """Decodes the frames that the recipe stores."""
    return read_clip(path, frame_plan(recipe))


def store(clip: Clip, faces: Faces, recipe: Recipe) -> tuple[int, list[bytes], float]:
    """(valid frames, encoded frames, seconds spent encoding)."""
    side = recipe.image_size
    if faces.box is None:
        blank = encode(np.zeros((side, side, 3), np.uint8), recipe)
        return 0, [blank] * recipe.num_frames, 0.0
    crops = clip_crops(clip, faces.box, side, reference=faces.reference)
    start = process_time()
    encoded = [encode(crop, recipe) for crop in crops]
    valid = len(encoded)
    encoded += encoded[-1:] * (recipe.num_frames - valid)
    return valid, encoded, process_time() - start


def pad(values: list, length: int) -> list:
    """The last value repeated up to a length."""
    return values + values[-1:] * (length - len(values))


def source_box(faces: Faces, size: tuple[int, int]) -> Box:
    """The box in pixels of a picture of this size; all 0 without a face."""
    if faces.box is None:
        return 0.0, 0.0, 0.0, 0.0
    scale = size[0] / faces.reference[0], size[1] / faces.reference[1]
    y0, x0, y1, x1 = faces.box
    return y0 * scale[0], x0 * scale[1], y1 * scale[0], x1 * scale[1]


def prepare(path: str | Path, recipe: Recipe, faces: Faces | None = None) -> Prepared:
    """Makes the stored frames of a video.

    Args:
      path: the video.
      recipe: how.
      faces: what was seen of its original's faces, with their track; None to look at
        this video.

    Raises:
      UnusableVideoError: with the reason.
    """
    start = process_time()
    clip = read_planned(path, recipe)
    decoded = process_time()
    if recipe.crop == "full":
        faces = whole_frame(clip)
    elif faces is None:
        faces = find_faces(clip, recipe)
    faces = with_track(clip, faces, recipe)
    assert faces.track is not None  # noqa: S101
    detected = process_time()
    num_valid, frames, encoding = store(clip, faces, recipe)
    facts = clip.facts
    meta = {
        "frame_index": pad(clip.indices, recipe.num_frames),
        "timestamp": pad(clip.timestamps, recipe.num_frames),
        "num_valid": num_valid,
        "box": list(source_box(faces, clip.size(0))),
        "coverage": faces.coverage,
        "num_faces": faces.num_faces,
        **faces.track.features(recipe.num_frames),
        "damaged": int(clip.loss is not None),
        "sha256": file_digest(path),
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "width": facts.width,
        "height": facts.height,
        "fps": facts.fps,
        "bit_rate": facts.bit_rate,
        "source_frames": clip.source_frames,
        "faces": {
            "box": faces.box and list(faces.box),
            "reference": list(faces.reference),
            "coverage": faces.coverage,
            "num_faces": faces.num_faces,
            "track": faces.track.to_json(),
        },
    }
    seconds = {
        "decode": decoded - start,
        "detect": detected - decoded,
        "crop": process_time() - detected - encoding,
        "encode": encoding,
    }
    return Prepared(meta, frames, seconds)


def faces_from_json(told: dict[str, Any] | None) -> Faces | None:
    """Reads meta["faces"] back."""
    if told is None:
        return None
    box = told["box"]
    return Faces(
        box=(box[0], box[1], box[2], box[3]) if box else None,
        reference=(told["reference"][0], told["reference"][1]),
        coverage=told["coverage"],
        num_faces=told["num_faces"],
        track=tracks.from_json(told["track"]),
    )
