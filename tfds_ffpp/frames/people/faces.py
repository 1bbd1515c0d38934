"""Frames -> one track -> one square box per clip; then the face in each crop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from tfds_ffpp.frames.crops import Box, crop_frame
from tfds_ffpp.frames.decoding.colours import Region
from tfds_ffpp.frames.people.finders import FaceFinder
from tfds_ffpp.frames.people.track import Track, align, make_track, unknown_track

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


@dataclass(frozen=True)
class Faces:
    """What was seen of a clip's faces.

    box: the square to crop, in pixels of a picture of the reference size; None when no
    face was found. coverage: share of the looked-at frames with the chosen face.
    num_faces: different faces seen, the chosen one included. track: where the chosen
    face is in each crop, once that was looked for. angle: degrees by which the square
    is turned clockwise round its middle; None where faces are not aligned.
    """

    box: Box | None
    reference: tuple[int, int]
    coverage: float
    num_faces: int
    track: Track | None = None
    angle: float | None = None


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(areas) - both)


def going_on(before: Sequence[Box], boxes: Sequence[Box]) -> list[int | None]:
    """For each box of a window the one of the window before that it goes on with.

    Each of those once, the boxes in their order: the one that it overlaps most, by
    MIN_OVERLAP at least. None for a new face.
    """
    free = list(range(len(before)))
    found: list[int | None] = []
    for box in boxes:
        shared = {i: overlap(before[i], box) for i in free}
        best = max(free, key=shared.__getitem__, default=None)
        if best is not None and shared[best] >= MIN_OVERLAP:
            free.remove(best)
            found.append(best)
        else:
            found.append(None)
    return found


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


# Finds faces in a picture; see FaceFinder.
Find = Callable[[np.ndarray], list[Box]]


def _look(find: Find, frame: np.ndarray, scale: float) -> list[Box]:
    """The boxes of a frame looked at in another size, in its own pixels."""
    image = frame
    if scale != 1.0:
        height, width = frame.shape[:2]
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(frame, size, interpolation=how)
    to_y, to_x = frame.shape[0] / image.shape[0], frame.shape[1] / image.shape[1]
    return [
        (y0 * to_y, x0 * to_x, y1 * to_y, x1 * to_x) for y0, x0, y1, x1 in find(image)
    ]


def _look_at_all(
    find: Find,
    clip: Frames,
    looks: Sequence[int],
    reference: tuple[int, int],
    way: tuple[float, float],
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
                for y0, x0, y1, x1 in _look(find, frame, scale)
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
        tracks = _look_at_all(finder.find, clip, looks, reference, way)
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
    faint = partial(finder.find, faint=True)
    tracks = _look_at_all(faint, clip, looks, reference, LOOKS[0])
    needed = max(MIN_LASTING * len(looks), MIN_LOOKS)
    lasting = [t for t in tracks if len(t) >= needed]
    if not lasting:
        tracks = _look_at_all(finder.find_hard, clip, looks, reference, LOOKS[0])
        lasting = [t for t in tracks if len(t) >= min(MIN_LOOKS, len(looks))]
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
        yield crop_frame(clip, i, box, CROP_SIDE, reference=reference)


def usual_box(margin: float) -> Box:
    """Where a face lies in its crop, as long as nothing more is known."""
    half = 0.5 / max(margin, 1.0)
    return (0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half)


def _find_in_crop(
    finder: FaceFinder, crop: np.ndarray, margin: float = 1.3
) -> Box | None:
    """The box in pixels of the face that a crop was made for."""
    usual: Box = tuple(v * len(crop) for v in usual_box(margin))  # pyright: ignore
    for find in (finder.find, finder.find_hard):
        best = max(find(crop), key=lambda box: overlap(box, usual), default=None)
        if best and overlap(best, usual) >= MIN_IN_CROP:
            return best
    return None


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


def align_face(faces: Faces, *, margin: float) -> Faces:
    """With the square turned and placed so that the face is upright and of one size.

    Of a face that no crop showed the square stays, with an angle of 0.
    """
    found = None
    if faces.box is not None and faces.track is not None:
        found = align(faces.track, faces.box, usual_box(margin))
    if found is None:
        return replace(faces, angle=0.0)
    return replace(faces, box=found.box, angle=found.angle, track=found.track)


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
        seen = _look_at_all(finder.find, clip, [look], reference, LOOKS[-1])
        known = [box for track in (*tracks, *others) for box in track]
        small = sum(all(overlap(track[0], b) == 0 for b in known) for track in seen)
    return AllFaces(found, len(others), small)
