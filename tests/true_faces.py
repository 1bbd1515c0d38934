"""Where the parts of a made face truly are in a frame."""

import cv2
import numpy as np

from tfds_ffpp.synthetic.identity import (
    CANVAS,
    EXTENT,
    EYE_Y,
    MOUTH_Y,
    NOSE_Y,
    Array,
    Head,
    head_outline,
)
from tfds_ffpp.synthetic.rendering import Moment, frame_to_canvas, warp

BROW_Y = -0.38  # upper edge of the brows
AROUND = 0.08  # skin that counts as part of the eyes and the mouth, in head units


def true_outlines(face: Head, moment: Moment) -> dict[str, Array]:
    """Convex outlines [N,2] of "eyes", "mouth" and "face" as x, y on the head.

    eyes: both eyes with the brows; mouth: the lips and what is between them; each with
    a strip of the skin around. face: from the brows to the chin, as wide as the head.
    """
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    eye = circle * (face.eye_width, 0.3 * face.eye_width) + (face.eye_x, EYE_Y)
    brow = np.array([[face.eye_x - 0.18, BROW_Y], [face.eye_x + 0.18, BROW_Y + 0.02]])
    half = np.concatenate([eye, brow])
    width = face.mouth_width * (1 + 0.18 * moment.smile - 0.15 * moment.mouth)
    thin, thick = face.lip_height
    lips = circle * (width, (thin + thick + 0.17 * moment.mouth) / 2)
    lips = lips + (0, MOUTH_Y + (thick - thin) / 2 + 0.04 * moment.mouth)
    y = np.linspace(BROW_Y, 1, 40)
    side = np.stack([head_outline(face, y), y], axis=1)
    parts = {
        "eyes": np.concatenate([half, half * (-1, 1)]),
        "mouth": lips,
        "face": np.concatenate([side, side * (-1, 1)]),
    }
    strip = {"eyes": AROUND, "mouth": AROUND, "face": 0.0}
    grown = {
        name: (points[:, None] + strip[name] * circle).reshape(-1, 2)
        for name, points in parts.items()
    }
    return {
        name: cv2.convexHull(points.astype(np.float32))[:, 0]
        for name, points in grown.items()
    }


def true_regions(face: Head, moment: Moment, size: int) -> dict[str, Array]:
    """Where "eyes", "mouth" and "face" are in a frame: masks [size, size] in [0, 1]."""
    maps = frame_to_canvas(face, moment, size)
    regions = {}
    for name, outline in true_outlines(face, moment).items():
        canvas = np.zeros((CANVAS, CANVAS), np.float32)
        corners = np.round((outline + EXTENT) * (CANVAS / (2 * EXTENT)) - 0.5)
        cv2.fillConvexPoly(canvas, corners.astype(np.int32), (1.0,))
        regions[name] = warp(canvas, maps)
    return regions


def true_points(face: Head, moment: Moment, size: int) -> Array:
    """The five points [5,2] of a face in a frame as (y, x) in pixels: both eyes, the
    nose's base and the mouth's corners, from the left of an upright picture."""
    wanted = [(-face.eye_x, EYE_Y), (face.eye_x, EYE_Y), (0.0, NOSE_Y + 0.075)]
    wanted += [(-face.mouth_width, MOUTH_Y), (face.mouth_width, MOUTH_Y)]
    head = np.stack(frame_to_canvas(face, moment, size)) + 0.5
    head = head * (2 * EXTENT / CANVAS) - EXTENT
    places = []
    for x, y in wanted:
        far = (head[0] - x) ** 2 + (head[1] - y) ** 2
        places.append(np.unravel_index(far.argmin(), far.shape))
    return np.array(places, np.float32) + 0.5
