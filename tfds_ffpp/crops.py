"""Frames and one box -> square crops. Training and serving crop by this one code."""

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[float, float, float, float]  # y0, x0, y1, x1


def crop_frame(
    frame: np.ndarray, box: Box, reference: tuple[int, int], image_size: int
) -> np.ndarray:
    """Cuts the box out of a frame and resizes it to a square.

    Args:
      frame: RGB uint8[H,W,3].
      box: in pixels of a picture of the reference size; may reach over its edges,
        where the edge pixels are repeated.
      reference: (height, width) that the box is given in; frames of another size are
        cut at the same relative place.
      image_size: S.

    Returns:
      uint8[S,S,3].
    """
    height, width = frame.shape[:2]
    scale_y, scale_x = height / reference[0], width / reference[1]
    y0, y1 = (round(box[i] * scale_y) for i in (0, 2))
    x0, x1 = (round(box[i] * scale_x) for i in (1, 3))
    y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
    inside = frame[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    pads = max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0)
    if any(pads):
        inside = cv2.copyMakeBorder(inside, *pads, cv2.BORDER_REPLICATE)
    shrinks = inside.shape[0] >= image_size and inside.shape[1] >= image_size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(inside, (image_size, image_size), interpolation=how)


def clip_crops(
    frames: Sequence[np.ndarray],
    box: Box,
    image_size: int,
    *,
    reference: tuple[int, int] | None = None,
) -> np.ndarray:
    """The same box of each frame as uint8[N,S,S,3].

    reference defaults to the first frame's size.
    """
    reference = reference or frames[0].shape[:2]
    return np.stack([crop_frame(f, box, reference, image_size) for f in frames])
