"""Where a face is in each frame of a video's crop: boxes, five points, seen or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# Where the points lie in a box of dlib's frontal detector, as (y, x) in its sides: the
# mean of 120 made heads of known geometry. On a photograph, dlib's five-point model
# puts the eyes at a height of 0.22 to 0.31 and the nose at 0.60 to 0.66.
TYPICAL_POINTS = np.array(
    [[0.26, 0.285], [0.26, 0.715], [0.59, 0.5], [0.735, 0.315], [0.735, 0.685]]
)
DIGITS = 4  # of what is stored, in sides of the crop
MOST_WIDENED = 2.0  # times, of an aligned square for a face that moves


def place_points(box: Sequence[float]) -> np.ndarray:
    """The five points float[5,2] of a typical face in a box, in the box's units."""
    corner = np.asarray(box[:2])
    return corner + TYPICAL_POINTS * (np.asarray(box[2:]) - corner)


class FaceFeatures(NamedTuple):
    """A track as a dataset stores it, an item for each frame; places are rounded."""

    face_seen: list[int]
    face_box: list[list[float]]
    face_points: list[list[list[float]]]


@dataclass(frozen=True)
class Track:
    """A face over some frames of its crop; all places are in sides of the crop.

    index: the frames, as source frame numbers, rising. seen: bool[N], whether the face
    was found in a frame. boxes: [N,4] as y0, x0, y1, x1. points: [N,5,2] as (y, x) of
    the eye, nose and mouth points: the eye on the left of an upright picture, the other
    eye, the nose's base, the mouth's left and right corner. Where the face was not
    found, its places are interpolated between the frames beside it that show it.
    """

    index: Sequence[int]
    seen: np.ndarray
    boxes: np.ndarray
    points: np.ndarray

    def at(self, index: Sequence[int]) -> "Track":
        """The track at other frames of the same video or of a fake made of it.

        Places are interpolated; a frame counts as seen if the nearest one here is.
        """
        own, wanted = np.asarray(self.index), np.asarray(index)
        nearest = np.abs(own[None] - wanted[:, None]).argmin(axis=1)
        return Track(
            index=list(index),
            seen=self.seen[nearest],
            boxes=_between(wanted, own, self.boxes),
            points=_between(wanted, own, self.points),
        )

    def features(self, length: int) -> FaceFeatures:
        """What is stored of it, the last frame repeated up to a length."""
        missing = length - len(self.index)

        def padded(values: np.ndarray) -> list:
            filled = np.concatenate([values, values[-1:].repeat(missing, axis=0)])
            return filled.tolist()

        return FaceFeatures(
            face_seen=padded(self.seen.astype(int)),
            face_box=padded(np.round(self.boxes, DIGITS)),
            face_points=padded(np.round(self.points, DIGITS)),
        )

    def to_json(self) -> dict[str, list]:
        """As plain data, which from_json reads back."""
        features = self.features(len(self.index))
        return {"index": list(self.index), **features._asdict()}

    @classmethod
    def from_json(cls, row: dict[str, list]) -> "Track":
        """The track of to_json."""
        index, *features = (row[name] for name in ("index", *FaceFeatures._fields))
        seen, boxes, points = features
        return cls(
            index=index,
            seen=np.array(seen, bool),
            boxes=np.array(boxes, float).reshape(-1, 4),
            points=np.array(points, float).reshape(-1, 5, 2),
        )


class Aligned(NamedTuple):
    """A square that was turned and placed by a face's points, and the face in it.

    box: y0, x0, y1, x1 in pixels, before it is turned; angle: degrees by which it is
    turned clockwise round its middle; track: in sides of the turned square.
    """

    box: tuple[float, float, float, float]
    angle: float
    track: Track


def align(track: Track, box: Sequence[float], usual: Sequence[float]) -> Aligned | None:
    """One similarity for all frames: the median points to those of a typical face.

    The median is over the frames that show the face, so that its motion stays and no
    frame jitters. The least squares fit of Umeyama (1991, "Least-squares estimation of
    transformation parameters"), in complex numbers. Where the face moves out of the
    square, that gets wider, up to twice, round its middle. None where no frame shows
    the face, or all points are one.

    Args:
      track: in sides of the square `box`.
      box: in pixels, as all places are meant.
      usual: where a typical face lies in a crop, in sides of it.
    """
    if not track.seen.any():
        return None
    side = box[2] - box[0]
    corner = complex(box[1], box[0])
    points = corner + side * _complex(track.points)
    seen = points[track.seen]
    median = np.median(seen.real, axis=0) + 1j * np.median(seen.imag, axis=0)
    typical = _complex(place_points(usual))
    found, wanted = median - median.mean(), typical - typical.mean()
    turn = (wanted.conj() @ found) / (wanted.conj() @ wanted).real  # pixels a side
    if abs(turn) < 1:
        return None
    middle = median.mean() + turn * (complex(0.5, 0.5) - typical.mean())

    moved = ((seen - median) / turn).mean(axis=1)
    half = (usual[2] - usual[0]) / 2
    reach = 2 * (max(np.abs(moved.real).max(), np.abs(moved.imag).max()) + half)
    turn *= min(max(reach, 1.0), MOST_WIDENED)
    new = abs(turn)
    y0, x0 = float(middle.imag - new / 2), float(middle.real - new / 2)

    def placed(places: np.ndarray) -> np.ndarray:
        inside = (places - middle) / turn + complex(0.5, 0.5)
        return np.stack([inside.imag, inside.real], axis=-1)

    boxes = track.boxes
    centres = placed(corner + side * _complex((boxes[:, :2] + boxes[:, 2:]) / 2))
    sides = (boxes[:, 2:] - boxes[:, :2]) * side / new
    return Aligned(
        box=(y0, x0, y0 + new, x0 + new),
        angle=float(np.degrees(np.angle(turn))),
        track=replace(
            track,
            boxes=np.concatenate([centres - sides / 2, centres + sides / 2], axis=1),
            points=placed(points),
        ),
    )


def _complex(places: np.ndarray) -> np.ndarray:
    """(y, x) on the last axis as x + iy."""
    return places[..., 1] + 1j * places[..., 0]


def _between(wanted: np.ndarray, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values[N,...] at rising index[N], interpolated linearly; ends are held."""
    flat = values.reshape(len(values), -1)
    columns = [np.interp(wanted, index, column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(len(wanted), *values.shape[1:])


def make_track(
    index: Sequence[int],
    boxes: Sequence[Sequence[float] | None],
    points: Sequence[np.ndarray | None],
    *,
    usual: Sequence[float],
) -> Track:
    """A track of what was found in each frame, None where nothing was.

    usual: the box that is taken where no frame shows the face.
    """
    seen = np.array([box is not None for box in boxes], bool)
    found = np.flatnonzero(seen).tolist()
    if not found:
        return unknown_track(index, usual=usual, seen=False)
    numbers = np.asarray(index)
    return Track(
        index=list(index),
        seen=seen,
        boxes=_between(numbers, numbers[found], np.array([boxes[i] for i in found])),
        points=_between(numbers, numbers[found], np.array([points[i] for i in found])),
    )


def unknown_track(index: Sequence[int], *, usual: Sequence[float], seen: bool) -> Track:
    """A track that says the same of every frame."""
    count = len(index)
    return Track(
        index=list(index),
        seen=np.full(count, seen),
        boxes=np.tile(np.asarray(usual, float), (count, 1)),
        points=np.tile(place_points(usual), (count, 1, 1)),
    )
