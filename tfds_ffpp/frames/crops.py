"""Frames and one box -> square crops. Training and serving crop by this one code."""

from dataclasses import dataclass

import cv2
import numpy as np

from tfds_ffpp.frames.decoding.frames import Clip
from tfds_ffpp.frames.found import Box


@dataclass(frozen=True)
class Cut:
    """Where a box lies in a frame: the region inside it and what is missing of it.

    region: y0, x0, y1, x1 in pixels; pads: rows above, below, columns left, right.
    """

    region: tuple[int, int, int, int]
    pads: tuple[int, int, int, int]


def place_box(size: tuple[int, int], box: Box, reference: tuple[int, int]) -> Cut:
    """Where to cut a frame of this (height, width).

    The box is in pixels of a picture of the reference size; frames of another size are
    cut at the same relative place. What reaches over an edge is padding.
    """
    scale = size[0] / reference[0], size[1] / reference[1]
    bounds = []
    for axis in (0, 1):
        low = round(box[axis] * scale[axis])
        high = max(round(box[axis + 2] * scale[axis]), low + 1)
        inner = min(max(low, 0), size[axis] - 1), max(min(high, size[axis]), 1)
        bounds.append((low, high, *inner))
    (y0, y1, top, bottom), (x0, x1, left, right) = bounds
    pads = max(top - y0, 0), max(y1 - bottom, 0), max(left - x0, 0), max(x1 - right, 0)
    return Cut((top, left, bottom, right), pads)


def finish_crop(inside: np.ndarray, cut: Cut, image_size: int) -> np.ndarray:
    """Pads a cut region by repeating its edges; resizes it to uint8[S,S,3]."""
    if any(cut.pads):
        inside = cv2.copyMakeBorder(inside, *cut.pads, cv2.BORDER_REPLICATE)
    shrinks = inside.shape[0] >= image_size and inside.shape[1] >= image_size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(inside, (image_size, image_size), interpolation=how)


def clip_crops(
    clip: Clip,
    box: Box,
    image_size: int,
    *,
    reference: tuple[int, int] | None = None,
) -> np.ndarray:
    """The same box of each frame of a clip as uint8[N,S,S,3].

    Args:
      clip: decoded frames; only the box is turned to RGB.
      box: in pixels of a picture of the reference size; may reach over its edges,
        where the edge pixels are repeated.
      image_size: S.
      reference: (height, width); defaults to the first frame's.
    """
    crops = np.empty((len(clip), image_size, image_size, 3), np.uint8)
    for i, crop in enumerate(crops):
        cut = place_box(clip.size(i), box, reference or clip.size(0))
        crop[:] = finish_crop(clip.rgb(i, cut.region), cut, image_size)
    return crops
