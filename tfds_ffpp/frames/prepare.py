"""One video -> its frames as stored: decode, detect, crop, encode."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames import images
from tfds_ffpp.frames.crops import Box, clip_crops
from tfds_ffpp.frames.decoding.frames import Clip
from tfds_ffpp.frames.people.faces import (
    Faces,
    align_face,
    clip_box,
    follow_face,
    usual_box,
)
from tfds_ffpp.frames.people.finders import FaceFinder, open_finder
from tfds_ffpp.frames.people.track import unknown_track
from tfds_ffpp.frames.stored import VideoFacts
from tfds_ffpp.frames.video import (
    Plan,
    even_plan,
    read_clip,
    read_frames,
    run_plan,
)


@dataclass(frozen=True)
class Preparation:
    """What decides the stored frames of a video. See FfppConfig for the fields."""

    num_frames: int
    frame_step: int
    image_size: int
    crop: str
    margin: float
    face_finder: str
    face_finder_model: str
    landmarks: str
    jpeg_quality: int
    jpeg_subsampling: str
    align: str = "none"


class FoundInVideo(NamedTuple):
    """What an entry holds beside the frames. faces: what its fakes take over."""

    facts: VideoFacts
    faces: Faces
    INLINE = ("facts",)


@dataclass(frozen=True)
class Prepared:
    """A video's stored frames. seconds: what was spent on which step.

    masks: of the frames, where it was asked which part of each is forged: PNG of one
    channel, 255 where it is.
    """

    found: FoundInVideo
    frames: list[bytes]
    seconds: dict[str, float]
    masks: list[bytes] = field(default_factory=list)

    @property
    def images(self) -> list[bytes]:
        """The frames, then the masks."""
        return self.frames + self.masks


# In place of the path of a mask: of a real, and of a fake that has none.
NOWHERE, UNKNOWN = "nowhere", ""
INSIDE = 127  # of 255, in a mask's lossy video and its crop


def encode(image: np.ndarray, preparation: Preparation) -> bytes:
    """RGB uint8[S,S,3] -> JPEG."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image),
        quality=preparation.jpeg_quality,
        colorspace="RGB",
        colorsubsampling=preparation.jpeg_subsampling,
        fastdct=False,
    )


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's pictures."""
    if Path(path).is_dir():
        return images.digest_folder(Path(path))
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_points(preparation: Preparation) -> Preparation:
    """For windows, whose points nobody asks for: whether a face is seen does not depend
    on a model of them. How faces are aligned does."""
    if preparation.align != "none":
        return preparation
    return replace(preparation, landmarks="none")


def finder_of(preparation: Preparation) -> FaceFinder:
    """The finder that the preparation names; one for all calls, since opening it takes
    longer than using it."""
    return open_finder(
        preparation.face_finder, preparation.face_finder_model, preparation.landmarks
    )


def find_faces(clip: Clip, preparation: Preparation) -> Faces:
    """The face box of a clip as the preparation says."""
    return clip_box(clip, finder=finder_of(preparation), margin=preparation.margin)


def with_track(clip: Clip, faces: Faces, preparation: Preparation) -> Faces:
    """What was seen, with the place of the face in each frame of the clip; aligned, if
    the preparation says so.

    A fake is given the place of its original's face, and aligned as that is.
    """
    if faces.track is not None:
        return replace(faces, track=faces.track.at(clip.indices))
    if preparation.crop == "full":  # where faces are was not asked
        usual = usual_box(preparation.margin)
        track = unknown_track(clip.indices, usual=usual, seen=True)
    else:
        finder = finder_of(preparation)
        track = follow_face(clip, faces, finder=finder, margin=preparation.margin)
    faces = replace(faces, track=track)
    if preparation.align == "similarity":
        return align_face(faces, margin=preparation.margin)
    return faces


def whole_frame(clip: Clip) -> Faces:
    """The box of crop="full"."""
    height, width = clip.size(0)
    return Faces((0.0, 0.0, float(height), float(width)), (height, width), 1.0, 0)


def frame_plan(preparation: Preparation) -> Plan:
    """Which frames the preparation stores."""
    if preparation.frame_step:
        return run_plan(preparation.num_frames, preparation.frame_step)
    return even_plan(preparation.num_frames)


def read_planned(path: str | Path, preparation: Preparation) -> Clip:
    """Decodes the frames that the preparation stores; of a folder, its pictures."""
    if Path(path).is_dir():
        return images.read_pictures(path, frame_plan(preparation))
    return read_clip(path, frame_plan(preparation))


def store(
    clip: Clip, faces: Faces, preparation: Preparation
) -> tuple[int, list[bytes], float]:
    """(valid frames, encoded frames, seconds spent encoding)."""
    side = preparation.image_size
    if faces.box is None:
        blank = encode(np.zeros((side, side, 3), np.uint8), preparation)
        return 0, [blank] * preparation.num_frames, 0.0
    crops = clip_crops(
        clip, faces.box, side, reference=faces.reference, angle=faces.angle or 0.0
    )
    start = process_time()
    encoded = [encode(crop, preparation) for crop in crops]
    valid = len(encoded)
    encoded += encoded[-1:] * (preparation.num_frames - valid)
    return valid, encoded, process_time() - start


def store_masks(
    mask: str, clip: Clip, faces: Faces, preparation: Preparation
) -> tuple[bool, list[bytes]]:
    """(whether it is known where the stored frames are forged, their masks).

    mask: as in `prepare`. Where nothing is known, and without a face, masks are empty.
    """
    side, count = preparation.image_size, preparation.num_frames
    nothing = [_png(np.zeros((side, side), np.uint8))] * count
    if mask in (NOWHERE, UNKNOWN) or faces.box is None:
        return mask == NOWHERE, nothing
    try:
        if Path(mask).is_dir():
            shown = images.read_numbered(mask, clip.indices)
        else:
            shown = read_frames(mask, clip.indices)
    except UnusableVideoError:  # damaged, or of fewer frames
        return False, nothing
    crops = clip_crops(
        shown, faces.box, side, reference=faces.reference, angle=faces.angle or 0.0
    )
    inside = crops.mean(axis=-1) > INSIDE
    return True, pad([_png(255 * one.astype(np.uint8)) for one in inside], count)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


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


def prepare(
    path: str | Path,
    preparation: Preparation,
    faces: Faces | None = None,
    mask: str | None = None,
) -> Prepared:
    """Makes the stored frames of a video.

    Args:
      path: the video.
      preparation: how.
      faces: what was seen of its original's faces, with their track; None to look at
        this video.
      mask: the video that shows where this one is forged, NOWHERE or UNKNOWN; None to
        store no masks.

    Raises:
      UnusableVideoError: with the reason.
    """
    start = process_time()
    clip = read_planned(path, preparation)
    decoded = process_time()
    if preparation.crop == "full":
        faces = whole_frame(clip)
    elif faces is None:
        faces = find_faces(clip, preparation)
    faces = with_track(clip, faces, preparation)
    assert faces.track is not None  # noqa: S101
    detected = process_time()
    num_valid, frames, encoding = store(clip, faces, preparation)
    known, masks = False, []
    if mask is not None:
        known, masks = store_masks(mask, clip, faces, preparation)
    facts = VideoFacts(
        frame_index=pad(clip.indices, preparation.num_frames),
        timestamp=pad(clip.timestamps, preparation.num_frames),
        num_valid=num_valid,
        box=list(source_box(faces, clip.size(0))),
        coverage=faces.coverage,
        num_faces=faces.num_faces,
        angle=faces.angle,
        **faces.track.features(preparation.num_frames)._asdict(),
        masked=int(known),
        damaged=int(clip.loss is not None),
        sha256=file_digest(path),
        codec=clip.facts.codec,
        pixel_format=clip.facts.pixel_format,
        width=clip.facts.width,
        height=clip.facts.height,
        fps=clip.facts.fps,
        bit_rate=clip.facts.bit_rate,
        source_frames=clip.source_frames,
    )
    seconds = {
        "decode": decoded - start,
        "detect": detected - decoded,
        "crop": process_time() - detected - encoding,
        "encode": encoding,
    }
    return Prepared(FoundInVideo(facts, faces), frames, seconds, masks)
