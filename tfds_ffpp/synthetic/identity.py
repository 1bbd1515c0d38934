"""Draws identities: heads as height fields with albedo, before any light or motion.

A head lies on a square canvas in head coordinates: x right, y down, chin at y = 1, the
canvas from -EXTENT to EXTENT. Colours are linear light in [0, 1].
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout the canvas and the frames

CANVAS = 256  # pixels, side of the head's canvas
EXTENT = 1.5  # head units from the canvas' centre to its edge
EYE_Y, NOSE_Y, MOUTH_Y = -0.12, 0.28, 0.57


@dataclass(frozen=True)
class Head:
    """One identity: what stays the same in every video of a person.

    albedo, normals: [CANVAS, CANVAS, 3]; occlusion, gloss, alpha: [CANVAS, CANVAS].
    """

    albedo: Array
    normals: Array
    occlusion: Array
    gloss: Array
    alpha: Array
    half_width: float
    jaw: float
    roundness: float
    depth: float
    nose: float
    eye_x: float
    eye_width: float
    iris: Array
    skin: Array
    lip: Array
    mouth_width: float
    lip_height: tuple[float, float]


def canvas_grid() -> tuple[Array, Array]:
    """Head coordinates x, y of the canvas' pixels, each [CANVAS, CANVAS]."""
    axis = (np.arange(CANVAS, dtype=np.float32) + 0.5) * (2 * EXTENT / CANVAS) - EXTENT
    x, y = np.meshgrid(axis, axis)
    return x, y


def smooth(value: Array, *, low: float, high: float) -> Array:
    """The cubic step from 0 at `low` to 1 at `high`; falling if high < low."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def fractal_noise(
    rng: np.random.Generator,
    size: int,
    *,
    cells: tuple[int, ...],
    gain: float = 0.6,
    aspect: float = 1.0,
) -> Array:
    """Value noise [size, size] of about unit variance, octaves of `cells` a side."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for count in cells:
        rows = max(2, round(count / aspect))
        grid = rng.standard_normal((rows, count)).astype(np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= gain
    return (total - total.mean()) / (total.std() + 1e-6)


def _bump(x: Array, y: Array, centre: tuple[float, float], radius: tuple[float, float]):
    cx, cy = centre
    rx, ry = radius
    return np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)


def _mirrored(x: Array, y: Array, centre: tuple[float, float], radius):
    return _bump(np.abs(x), y, centre, radius)


def _head_width(y: Array, half_width: float, jaw: float) -> Array:
    """Half width of the head at height y: full at the temples, narrow at the jaw."""
    return half_width * (1 - jaw * smooth(y, low=0.1, high=1.05))


def head_outline(face: Head, y: Array) -> Array:
    """Half width of a head at heights y within -1 and 1, where its surface ends."""
    width = _head_width(y, face.half_width, face.jaw)
    return width * (1 - np.abs(y) ** face.roundness) ** (1 / 2.3)


def _features_height(rng, x: Array, y: Array, *, nose: float, eye_x: float) -> Array:
    """Nose, brows, sockets, cheeks, lips and chin above the plain ellipsoid."""
    width = rng.uniform(0.85, 1.25)
    bridge = smooth(y, low=-0.25, high=NOSE_Y) * smooth(y, low=NOSE_Y + 0.16, high=0.3)
    ridge = np.exp(-((x / (0.06 * width + 0.05 * np.clip(y + 0.2, 0, 1))) ** 2))
    z = nose * bridge * ridge
    z += nose * 0.55 * _bump(x, y, (0, NOSE_Y), (0.09 * width, 0.1))
    z += nose * 0.4 * _mirrored(x, y, (0.12 * width, NOSE_Y + 0.04), (0.06, 0.07))
    z += rng.uniform(0.03, 0.07) * _mirrored(x, y, (eye_x, -0.33), (0.24, 0.07))
    z -= rng.uniform(0.07, 0.12) * _mirrored(x, y, (eye_x * 0.95, EYE_Y), (0.2, 0.12))
    z += 0.04 * _mirrored(x, y, (eye_x, EYE_Y), (0.12, 0.08))
    z += rng.uniform(0.03, 0.09) * _mirrored(x, y, (0.42, 0.22), (0.2, 0.22))
    z -= rng.uniform(0.01, 0.035) * _mirrored(x, y, (0.3, 0.45), (0.06, 0.2))
    z += 0.05 * _bump(x, y, (0, MOUTH_Y), (0.25, 0.13))
    z -= 0.03 * _bump(x, y, (0, MOUTH_Y + 0.17), (0.16, 0.05))
    z += rng.uniform(0.03, 0.09) * _bump(x, y, (0, 0.86), (0.2, 0.12))
    return z


def _skin_albedo(rng, x: Array, y: Array, skin: Array, *, eye_x: float) -> Array:
    """Complexion with blotches, pores, moles, cheeks' red and dark lids."""
    blotch = fractal_noise(rng, CANVAS, cells=(6, 12, 24))
    pores = fractal_noise(rng, CANVAS, cells=(48, 80, 128), gain=0.8)
    amount = rng.uniform(0.05, 0.10)
    tone = 1 + 0.05 * blotch + amount * pores
    freckles = fractal_noise(rng, CANVAS, cells=(64,))
    share = rng.uniform(1.3, 2.6)
    tone -= rng.uniform(0.1, 0.35) * np.clip(freckles - share, 0, 1)
    for _ in range(rng.integers(0, 5)):
        place = (rng.uniform(-0.55, 0.55), rng.uniform(-0.6, 0.8))
        tone -= 0.5 * _bump(x, y, place, (0.018, 0.018))
    tone -= rng.uniform(0.05, 0.2) * _mirrored(x, y, (eye_x, EYE_Y + 0.1), (0.16, 0.07))
    albedo = skin * tone[..., None]
    red = rng.uniform(0, 0.25) * _mirrored(x, y, (0.42, 0.25), (0.2, 0.18))
    red += 0.12 * _bump(x, y, (0, NOSE_Y), (0.1, 0.08))
    albedo *= 1 - red[..., None] * np.array([0.0, 0.45, 0.4], np.float32)
    return albedo.astype(np.float32)


def paint(albedo: Array, colour, amount: Array) -> None:
    """Mixes `colour` into the albedo in place by `amount` (same height and width)."""
    mix = np.clip(amount, 0, 1)[..., None]
    albedo += mix * (np.asarray(colour, np.float32) - albedo)


def _paint_hair(
    rng, x: Array, y: Array, albedo: Array, *, hair: Array, skin: Array, eye_x: float
) -> None:
    """Brows and beard, in place; brows are darker than hair and skin."""
    strands = fractal_noise(rng, CANVAS, cells=(90, 128), gain=0.8)
    arch = rng.uniform(0.15, 0.5)
    line = -0.32 + rng.uniform(-0.02, 0.03) + arch * (np.abs(x) - eye_x) ** 2
    reach = smooth(np.abs(np.abs(x) - eye_x), low=0.24, high=0.12)
    thick = rng.uniform(0.028, 0.055)
    brow = np.exp(-(((y - line) / thick) ** 2)) * reach
    colour = np.minimum(hair * 0.7, skin * 0.4)
    paint(albedo, colour, brow * (0.85 + 0.25 * strands) * rng.uniform(0.7, 1.0))
    if rng.random() < 0.35:  # a beard, from stubble to full
        around = smooth(y, low=0.30, high=0.62) + 0.8 * smooth(
            np.abs(x), low=0.5, high=0.7
        )
        around *= smooth(y, low=0.1, high=0.4)
        upper = _bump(x, y, (0, MOUTH_Y - 0.13), (0.3, 0.06))
        bare = 1 - _bump(x, y, (0, MOUTH_Y), (0.2, 0.06))
        amount = rng.uniform(0.15, 0.75)
        beard = np.clip(around * 0.9 + upper, 0, 1) * bare
        paint(albedo, hair * 0.8, amount * beard * (0.75 + 0.35 * strands))


def make_head(rng: np.random.Generator) -> Head:
    """Draws one identity: geometry, complexion, hair and features."""
    x, y = canvas_grid()
    half_width = float(rng.uniform(0.68, 0.80))
    depth = float(rng.uniform(0.65, 0.8))
    nose = float(rng.uniform(0.12, 0.22))
    eye_x = float(rng.uniform(0.29, 0.35))
    jaw = float(rng.uniform(0.12, 0.34))
    width = _head_width(y, half_width, jaw)
    roundness = float(rng.uniform(2.3, 2.8))
    radius = (np.abs(x) / width) ** 2.3 + np.abs(y) ** roundness
    z = depth * np.sqrt(np.clip(1 - radius, 0, None))
    z += _features_height(rng, x, y, nose=nose, eye_x=eye_x) * (radius < 1)

    depth_of_tone = rng.uniform(0.0, 1.0)
    light_skin = np.array([0.78, 0.50, 0.38], np.float32)
    dark_skin = np.array([0.20, 0.10, 0.06], np.float32)
    skin = light_skin * (1 - depth_of_tone) + dark_skin * depth_of_tone
    skin = (skin * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    hair = np.array([0.35, 0.2, 0.09], np.float32) * rng.uniform(0.05, 1.0)
    if rng.random() < 0.15:
        hair = np.full(3, rng.uniform(0.25, 0.5), np.float32)
    hair = (hair * rng.uniform(0.85, 1.15, 3)).astype(np.float32)

    albedo = _skin_albedo(rng, x, y, skin, eye_x=eye_x)
    _paint_hair(rng, x, y, albedo, hair=hair, skin=skin, eye_x=eye_x)
    paint(albedo, skin * 0.35, 0.8 * _mirrored(x, y, (0.065, 0.355), (0.035, 0.022)))
    head = smooth(radius, low=1.03, high=0.97)
    gloss = head * rng.uniform(0.3, 1.0) * (0.6 + _bump(x, y, (0, 0), (0.35, 0.7)))

    ear = (np.abs(np.abs(x) - half_width) / 0.11) ** 2 + ((y - 0.02) / 0.2) ** 2
    ears = smooth(ear, low=1.1, high=0.8) * (1 - head)
    paint(albedo, skin * 0.8, ears)
    cap, z, strands = _hair_cap(rng, x, y, z, half_width=half_width, head=head)
    paint(albedo, hair, cap)
    albedo *= 1 + (0.22 * cap * strands)[..., None]
    gloss = gloss * (1 - cap) + 0.25 * cap

    normals = _normals(z)
    soft = cv2.GaussianBlur(z, (0, 0), 7)
    occlusion = np.clip(1 - 3.5 * np.clip(soft - z, 0, 0.12), 0.5, 1)
    alpha = np.clip(head + ears + cap, 0, 1)
    lip = skin * np.array([0.95, 0.55, 0.55], np.float32) * rng.uniform(0.75, 1.0)
    return Head(
        albedo=np.clip(albedo, 0.004, 1).astype(np.float32),
        normals=normals,
        occlusion=occlusion.astype(np.float32),
        gloss=gloss.astype(np.float32),
        alpha=alpha.astype(np.float32),
        half_width=half_width,
        jaw=jaw,
        roundness=roundness,
        depth=depth,
        nose=nose,
        eye_x=eye_x,
        eye_width=float(rng.uniform(0.13, 0.165)),
        iris=_iris_colour(rng),
        skin=skin,
        lip=lip.astype(np.float32),
        mouth_width=float(rng.uniform(0.22, 0.30)),
        lip_height=(float(rng.uniform(0.03, 0.06)), float(rng.uniform(0.045, 0.085))),
    )


def _hair_cap(
    rng, x: Array, y: Array, z: Array, *, half_width: float, head: Array
) -> tuple[Array, Array, Array]:
    """Cover of the hair, the height with it, and the strands [-2, 2] over all."""
    crown = (rng.uniform(-0.25, 0.25), rng.uniform(-0.85, -0.6))
    strands = _radial_noise(rng, x - crown[0], y - crown[1])
    style = rng.choice(["short", "long", "bald"], p=[0.55, 0.35, 0.1])
    if style == "bald":
        return np.zeros_like(z), z, strands
    outer = (np.abs(x) / (half_width * rng.uniform(1.06, 1.16))) ** 2.3
    outer += (np.abs(y + 0.04) / rng.uniform(1.08, 1.2)) ** 2.3
    wave = 0.03 * fractal_noise(rng, CANVAS, cells=(12, 24))
    skull = smooth(outer + wave, low=1.05, high=0.95)
    brow, side = rng.uniform(-0.78, -0.56), rng.uniform(-0.1, 0.1)
    tilt = rng.uniform(-0.12, 0.12) * x / half_width
    reach = smooth(np.abs(x) / half_width, low=rng.uniform(0.4, 0.65), high=1.0)
    line = brow + tilt + (side - brow) * reach
    cover = skull * smooth(y - line + wave, low=0.04, high=-0.04)
    if style == "long":
        half = half_width * rng.uniform(1.12, 1.3)
        fall = smooth(np.abs(x) + wave, low=half + 0.05, high=half - 0.03)
        throat = smooth(np.abs(x) + wave - 0.25 * (1.2 - y), low=0.3, high=0.4)
        hem = smooth(y + 2 * wave, low=rng.uniform(0.7, 1.35), high=0.6)
        behind = fall * throat * smooth(y, low=-0.35, high=-0.2) * np.sqrt(hem)
        cover = np.clip(cover + behind * (1 - head), 0, 1)
    bulge = 0.8 * np.sqrt(np.clip(1.15 - outer, 0.02, None))
    z = z * (1 - cover) + np.maximum(bulge, z) * cover + 0.01 * strands * cover
    return cover.astype(np.float32), z, strands


def _radial_noise(rng, x: Array, y: Array) -> Array:
    """Streaks that run away from the origin, as combed hair does."""
    noise = fractal_noise(rng, CANVAS, cells=(90, 160), gain=0.8, aspect=20)
    turn = (np.arctan2(x, -y) / (2 * np.pi) + 0.5) * (CANVAS - 1)
    away = np.hypot(x, y) * (CANVAS / 4)
    return cv2.remap(
        noise, turn.astype(np.float32), away.astype(np.float32), cv2.INTER_LINEAR
    )


def _iris_colour(rng) -> Array:
    brown, blue = np.array([0.16, 0.07, 0.03]), np.array([0.12, 0.22, 0.32])
    green = np.array([0.13, 0.19, 0.09])
    return (rng.dirichlet((1.0, 0.7, 0.5)) @ np.stack([brown, blue, green])).astype(
        np.float32
    )


def _normals(z: Array) -> Array:
    """Unit normals [CANVAS, CANVAS, 3] of a height field; x right, y down, z out."""
    step = 2 * EXTENT / CANVAS
    z = cv2.GaussianBlur(z, (0, 0), 0.8)
    gy, gx = np.gradient(z, step)
    normals = np.stack([-gx, -gy, np.ones_like(z)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return normals.astype(np.float32)
