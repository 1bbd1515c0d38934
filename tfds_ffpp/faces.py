"""Frames -> one track -> one square box per clip.

The only file that knows the face detectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from tfds_ffpp.crops import Box
from tfds_ffpp.errors import DataError
from tfds_ffpp.video import Clip

# How frames are looked at, until a face is seen: longest side in pixels, how much they
# may be enlarged, and whether uncertain finds count, if they last.
LOOKS = ((640, 1.0, False), (1280, 2.0, False), (640, 1.0, True))
MIN_LASTING = 0.6  # of the looked-at frames that must show an uncertain face
MIN_OVERLAP = 0.2  # of a face with the one before, to be the same


class Detector(Protocol):
    """Finds faces in one picture."""

    name: str

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """The boxes in pixels of all faces in RGB uint8[H,W,3]; faint: maybes too."""
        ...


class DlibDetector:
    """dlib's frontal face detector (HOG); its model is part of the library."""

    name = "dlib"

    def __init__(self):
        """Imports dlib here: its detectors cannot be handed to another process."""
        import dlib

        self._detector = dlib.get_frontal_face_detector()  # pyright: ignore

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See Detector."""
        found, scores, _ = self._detector.run(image, 0, -0.2 if faint else 0.0)
        order = sorted(range(len(found)), key=lambda i: -scores[i])
        return [
            (
                float(found[i].top()),
                float(found[i].left()),
                float(found[i].bottom() + 1),
                float(found[i].right() + 1),
            )
            for i in order
        ]


def need_model(model: str) -> Path:
    """The file of a YuNet model. Raises DataError where there is none."""
    if not Path(model).is_file():
        raise DataError(
            "detector yunet needs detector_model, an .onnx file; "
            f"{model or 'nothing'} is not one"
        )
    return Path(model)


class YunetDetector:
    """OpenCV's FaceDetectorYN with the user's own .onnx file."""

    name = "yunet"

    def __init__(self, model: str):
        """Raises DataError when the file is missing or not such a model."""
        file = str(need_model(model))
        try:
            self._detector = cv2.FaceDetectorYN.create(file, "", (320, 320))
        except cv2.error as error:
            raise DataError(
                f"{model} is not a YuNet model ({str(error).splitlines()[0]})"
            ) from None

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See Detector."""
        self._detector.setScoreThreshold(0.5 if faint else 0.8)
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        _, faces = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))
        rows = np.empty((0, 4)) if faces is None else np.asarray(faces)
        return [
            (float(y), float(x), float(y + h), float(x + w))
            for x, y, w, h in rows[:, :4]
        ]


class NoDetector:
    """Takes the largest centred square: for videos that are face crops already."""

    name = "none"

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See Detector."""
        del faint
        height, width = image.shape[:2]
        side = min(height, width)
        y0, x0 = (height - side) / 2, (width - side) / 2
        return [(y0, x0, y0 + side, x0 + side)]


@lru_cache(maxsize=4)
def open_detector(name: str, model: str = "") -> Detector:
    """dlib, yunet (with a model file) or none."""
    if name == "dlib":
        return DlibDetector()
    if name == "yunet":
        return YunetDetector(model)
    if name == "none":
        return NoDetector()
    raise DataError(f"detector {name} is not one of dlib, yunet, none")


@dataclass(frozen=True)
class Faces:
    """What was seen of a clip's faces.

    box: the square to crop, in pixels of a picture of the reference size; None when no
    face was found. coverage: share of the looked-at frames with the chosen face.
    num_faces: different faces seen, the chosen one included.
    """

    box: Box | None
    reference: tuple[int, int]
    coverage: float
    num_faces: int


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(areas) - both)


def link_tracks(found: Sequence[Sequence[Box]]) -> list[list[Box]]:
    """Links the boxes of successive frames, each to the track it overlaps most."""
    tracks: list[list[Box]] = []
    for boxes in found:
        free = list(range(len(tracks)))
        for box in boxes:
            best = max(free, key=lambda t: overlap(tracks[t][-1], box), default=None)
            if best is not None and overlap(tracks[best][-1], box) >= MIN_OVERLAP:
                tracks[best].append(box)
                free.remove(best)
            else:
                tracks.append([box])
    return tracks


def square_box(track: Sequence[Box], size: tuple[int, int], margin: float) -> Box:
    """One square for all boxes of a track.

    Its side is margin times the median face, and more where the face moves so far that
    it would leave the square, up to twice that. The square is shifted inside the
    picture where it fits; what still reaches over the edge is for the crop to fill.
    """
    boxes = np.asarray(track)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    face = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)))
    side = margin * face
    side = min(max(side, float((high - low).max())), 2 * side)
    centre = (low + high) / 2
    start = centre - side / 2
    for axis in (0, 1):
        if side <= size[axis]:
            start[axis] = min(max(start[axis], 0.0), size[axis] - side)
        else:
            start[axis] = (size[axis] - side) / 2
    y0, x0 = (float(v) for v in start)
    return y0, x0, y0 + side, x0 + side


def _look(detector: Detector, frame: np.ndarray, scale: float, *, faint: bool):
    """The boxes of a frame looked at in another size, in its own pixels."""
    image = frame
    if scale != 1.0:
        height, width = frame.shape[:2]
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(frame, size, interpolation=how)
    to_y, to_x = frame.shape[0] / image.shape[0], frame.shape[1] / image.shape[1]
    return [
        (y0 * to_y, x0 * to_x, y1 * to_y, x1 * to_x)
        for y0, x0, y1, x1 in detector.find(image, faint=faint)
    ]


def _find_tracks(
    detector: Detector, frames: Sequence[np.ndarray], reference: tuple[int, int]
) -> list[list[Box]]:
    """The tracks of the first way of looking that shows any, in reference pixels."""
    for side, enlarge, faint in LOOKS:
        found = []
        for frame in frames:
            scale = min(side / max(frame.shape[:2]), enlarge)
            to_y = reference[0] / frame.shape[0]
            to_x = reference[1] / frame.shape[1]
            found.append(
                [
                    (y0 * to_y, x0 * to_x, y1 * to_y, x1 * to_x)
                    for y0, x0, y1, x1 in _look(detector, frame, scale, faint=faint)
                ]
            )
        tracks = link_tracks(found)
        if faint:
            tracks = [t for t in tracks if len(t) >= MIN_LASTING * len(frames)]
        if tracks:
            return tracks
    return []


def clip_box(
    clip: Clip,
    *,
    detector: Detector,
    margin: float = 1.3,
    num_looks: int = 5,
) -> Faces:
    """Looks at a few frames spread over the clip; boxes the largest lasting face.

    Args:
      clip: decoded frames.
      detector: finds faces in one picture.
      margin: side of the square in face-box sides.
      num_looks: how many frames are looked at.
    """
    return clip_boxes(clip, detector=detector, margin=margin, num_looks=num_looks)[0]


def clip_boxes(
    clip: Clip,
    *,
    detector: Detector,
    margin: float = 1.3,
    num_looks: int = 5,
) -> list[Faces]:
    """As clip_box for every face, the largest lasting one first; one without a box
    where there is no face."""
    reference = clip.size(0)
    if detector.name == "none":
        return [Faces(detector.find(clip.rgb(0))[0], reference, 1.0, 1)]
    count = min(num_looks, len(clip))
    looks = [clip.rgb((2 * i + 1) * len(clip) // (2 * count)) for i in range(count)]
    tracks = _find_tracks(detector, looks, reference)
    if not tracks:
        return [Faces(None, reference, 0.0, 0)]
    # The sum of areas prefers faces that are large and seen often; ties by place.
    tracks.sort(
        key=lambda t: (sum((b[2] - b[0]) * (b[3] - b[1]) for b in t), t[0]),
        reverse=True,
    )
    return [
        Faces(
            square_box(track, reference, margin),
            reference,
            len(track) / count,
            len(tracks),
        )
        for track in tracks
    ]
