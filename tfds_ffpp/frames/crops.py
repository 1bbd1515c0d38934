"""Frames and one box -> square crops. Training and serving crop by this one code."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from tfds_ffpp.frames.decoding.colours import Region
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


class Frames(Protocol):
    """What cutting uses of decoded frames."""

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of one."""
        ...

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """One of them, or a region of it, as RGB uint8[H,W,3]."""
        ...


def crop_frame(
    frames: Frames,
    i: int,
    box: Box,
    image_size: int,
    *,
    reference: tuple[int, int],
    angle: float = 0.0,
) -> np.ndarray:
    """The box of frame i as uint8[S,S,3]; see clip_crops."""
    if angle:
        return _turned(frames, i, box, image_size, reference=reference, angle=angle)
    cut = place_box(frames.size(i), box, reference)
    return finish_crop(frames.rgb(i, cut.region), cut, image_size)


def _turned(
    frames: Frames,
    i: int,
    box: Box,
    image_size: int,
    *,
    reference: tuple[int, int],
    angle: float,
) -> np.ndarray:
    size = frames.size(i)
    scale = np.array([size[1] / reference[1], size[0] / reference[0]])  # x, y
    # From a pixel of the crop to one of the frame; pixels are known by their middles.
    middle = np.array([box[1] + box[3], box[0] + box[2]]) / 2
    turn = np.radians(angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    axes = scale[:, None] * axes * (box[2] - box[0])
    corners = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1]]) / 2
    reach = (middle * scale)[:, None] + axes @ corners
    limit = np.array(size[::-1])
    low = np.clip(np.floor(reach.min(axis=1)) - 2, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(reach.max(axis=1)) + 2, low + 1, limit).astype(int)
    inside = frames.rgb(i, (low[1], low[0], high[1], high[0]))
    # A large face is turned in its own size, and only then made small.
    side = max(round(float(np.sqrt(abs(np.linalg.det(axes))))), image_size)
    step = axes / side
    start = middle * scale + step @ np.full(2, (1 - side) / 2) - 0.5 - low
    turned = cv2.warpAffine(
        inside,
        np.column_stack([step, start]),
        (side, side),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if side == image_size:
        return turned
    return cv2.resize(turned, (image_size,) * 2, interpolation=cv2.INTER_AREA)


def clip_crops(
    clip: Clip,
    box: Box,
    image_size: int,
    *,
    reference: tuple[int, int] | None = None,
    angle: float = 0.0,
) -> np.ndarray:
    """The same box of each frame of a clip as uint8[N,S,S,3].

    Args:
      clip: decoded frames; only the box is turned to RGB.
      box: in pixels of a picture of the reference size; may reach over its edges,
        where the edge pixels are repeated.
      image_size: S.
      reference: (height, width); defaults to the first frame's.
      angle: degrees by which the box is turned clockwise round its middle, so that
        what leans so in the frame is upright in the crop.
    """
    crops = np.empty((len(clip), image_size, image_size, 3), np.uint8)
    known = reference or clip.size(0)
    for i, crop in enumerate(crops):
        crop[:] = crop_frame(clip, i, box, image_size, reference=known, angle=angle)
    return crops
