"""Draws made people: a shaded, moving, talking head before a background.

Everything is drawn in two steps. A face is a height field with albedo on a square
canvas in head coordinates (x right, y down, chin at y = 1, canvas from -EXTENT to
EXTENT); each frame shades the canvas and warps it into the picture by the head's pose.
Colours are linear light in [0, 1] until `compose` takes the square root (gamma 2).
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout the canvas and the frames

CANVAS = 256  # pixels, side of the head's canvas
EXTENT = 1.5  # head units from the canvas' centre to its edge
HEAD_SCALE = 0.30  # half height of a head, as a share of the frame's side
MESH = 33  # nodes per side of the warp's mesh; cubic between them
EYE_Y, NOSE_Y, MOUTH_Y = -0.12, 0.28, 0.57


@dataclass(frozen=True)
class Face:
    """One identity: what stays the same in every video of a person.

    albedo, normals: [CANVAS, CANVAS, 3]; occlusion, gloss, alpha: [CANVAS, CANVAS].
    """

    albedo: Array
    normals: Array
    occlusion: Array
    gloss: Array
    alpha: Array
    half_width: float
    depth: float
    nose: float
    eye_x: float
    eye_width: float
    iris: Array
    skin: Array
    lip: Array
    mouth_width: float
    lip_height: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Where and with what a video was taken.

    background: [size, size, 3]; body: [size, size, 4], alpha last, premultiplied.
    """

    background: Array
    body: Array
    light: Array
    key: Array
    ambient: Array
    exposure: float
    noise_sigma: float
    blur_sigma: float
    noise: NDArray[np.int16]


@dataclass(frozen=True)
class Moment:
    """Pose and expression of one frame; angles in radians, offsets in head units."""

    x: float
    y: float
    scale: float
    yaw: float
    pitch: float
    roll: float
    blink: float
    mouth: float
    smile: float
    brow: float
    gaze: float
    light: float

    def with_expression(self, other: "Moment") -> "Moment":
        """This moment's pose with another's mouth, brows, lids and gaze."""
        return replace(
            self,
            blink=other.blink,
            mouth=other.mouth,
            smile=other.smile,
            brow=other.brow,
            gaze=other.gaze,
        )


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


def _paint(albedo: Array, colour, amount: Array) -> None:
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
    _paint(albedo, colour, brow * (0.85 + 0.25 * strands) * rng.uniform(0.7, 1.0))
    if rng.random() < 0.35:  # a beard, from stubble to full
        around = smooth(y, low=0.30, high=0.62) + 0.8 * smooth(
            np.abs(x), low=0.5, high=0.7
        )
        around *= smooth(y, low=0.1, high=0.4)
        upper = _bump(x, y, (0, MOUTH_Y - 0.13), (0.3, 0.06))
        bare = 1 - _bump(x, y, (0, MOUTH_Y), (0.2, 0.06))
        amount = rng.uniform(0.15, 0.75)
        beard = np.clip(around * 0.9 + upper, 0, 1) * bare
        _paint(albedo, hair * 0.8, amount * beard * (0.75 + 0.35 * strands))


def make_face(rng: np.random.Generator) -> Face:
    """Draws one identity: geometry, complexion, hair and features."""
    x, y = canvas_grid()
    half_width = float(rng.uniform(0.68, 0.80))
    depth = float(rng.uniform(0.65, 0.8))
    nose = float(rng.uniform(0.12, 0.22))
    eye_x = float(rng.uniform(0.29, 0.35))
    width = _head_width(y, half_width, rng.uniform(0.12, 0.34))
    radius = (np.abs(x) / width) ** 2.3 + np.abs(y) ** rng.uniform(2.3, 2.8)
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
    _paint(albedo, skin * 0.35, 0.8 * _mirrored(x, y, (0.065, 0.355), (0.035, 0.022)))
    head = smooth(radius, low=1.03, high=0.97)
    gloss = head * rng.uniform(0.3, 1.0) * (0.6 + _bump(x, y, (0, 0), (0.35, 0.7)))

    ear = (np.abs(np.abs(x) - half_width) / 0.11) ** 2 + ((y - 0.02) / 0.2) ** 2
    ears = smooth(ear, low=1.1, high=0.8) * (1 - head)
    _paint(albedo, skin * 0.8, ears)
    cap, z, strands = _hair_cap(rng, x, y, z, half_width=half_width, head=head)
    _paint(albedo, hair, cap)
    albedo *= 1 + (0.22 * cap * strands)[..., None]
    gloss = gloss * (1 - cap) + 0.25 * cap

    normals = _normals(z)
    soft = cv2.GaussianBlur(z, (0, 0), 7)
    occlusion = np.clip(1 - 3.5 * np.clip(soft - z, 0, 0.12), 0.5, 1)
    alpha = np.clip(head + ears + cap, 0, 1)
    lip = skin * np.array([0.95, 0.55, 0.55], np.float32) * rng.uniform(0.75, 1.0)
    return Face(
        albedo=np.clip(albedo, 0.004, 1).astype(np.float32),
        normals=normals,
        occlusion=occlusion.astype(np.float32),
        gloss=gloss.astype(np.float32),
        alpha=alpha.astype(np.float32),
        half_width=half_width,
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


def make_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draws background, clothes, light and camera of one video."""
    angle, height = rng.uniform(-0.85, 0.85), rng.uniform(-0.7, 0.1)
    light = np.array([np.sin(angle), height, np.cos(angle)])
    warmth = rng.uniform(-0.12, 0.12)
    tint = np.array([1 + warmth, 1, 1 - warmth])
    key = rng.uniform(0.75, 1.05) * tint
    ambient = rng.uniform(0.18, 0.4) * (2 - tint) * rng.uniform(0.95, 1.05, 3)
    noise_sigma = float(np.exp(rng.uniform(np.log(1.2), np.log(5.0))))
    grain = rng.standard_normal((size + 64, size + 64, 3)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.4, 0.8))
    grain *= noise_sigma / grain.std()
    return Scene(
        background=_background(rng, size),
        body=_body(rng, size, light=light),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        key=key.astype(np.float32),
        ambient=ambient.astype(np.float32),
        exposure=float(rng.uniform(0.85, 1.2)),
        noise_sigma=noise_sigma,
        blur_sigma=float(rng.uniform(0.3, 0.8)),
        noise=np.round(grain).astype(np.int16),
    )


def _background(rng, size: int) -> Array:
    """A room out of focus: wall, shelves or windows, and their texture."""
    axis = np.linspace(0, 1, size, dtype=np.float32)
    across, down = np.meshgrid(axis, axis)
    top, bottom = _muted_colours(rng, 2)
    picture = top + (bottom - top) * (0.5 * down + 0.5 * across)[..., None]
    for _ in range(rng.integers(2, 9)):
        corner = rng.integers(-size // 4, size, 2)
        side = rng.integers(size // 10, size // 2, 2)
        colour = _muted_colours(rng, 1)[0]
        cv2.rectangle(
            picture, corner.tolist(), (corner + side).tolist(), colour.tolist(), -1
        )
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.0, 5.0))
    texture = fractal_noise(rng, size, cells=(5, 11, 23, 47, 95), gain=0.7)
    picture *= 1 + rng.uniform(0.02, 0.15) * texture[..., None]
    return np.clip(picture, 0, 1).astype(np.float32)


def _muted_colours(rng, count: int) -> Array:
    """Colours [count, 3] of furniture and clothes: any brightness, little chroma."""
    brightness = rng.uniform(0.03, 0.6, (count, 1))
    chroma = rng.uniform(0.05, 0.6, (count, 1)) * rng.uniform(-1, 1, (count, 3))
    return np.clip(brightness * (1 + chroma), 0.01, 0.8).astype(np.float32)


def _body(rng, size: int, *, light) -> Array:
    """Neck and shoulders [size, size, 4], unlit albedo times a fixed shading."""
    unit = size * HEAD_SCALE
    axis = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / unit
    x, y = np.meshgrid(axis, axis + 0.1)
    shoulder = rng.uniform(1.45, 1.9)
    slope = 1.25 + rng.uniform(0.25, 0.45) * (np.abs(x) / shoulder) ** 2
    cloth = smooth(y - slope, low=-0.03, high=0.03) * smooth(
        np.abs(x), low=shoulder + 0.05, high=shoulder - 0.05
    )
    fold = fractal_noise(rng, size, cells=(5, 9, 17))
    weave = np.sin(x * rng.uniform(10, 60)) * rng.choice([0, 0.15])
    light_side = 0.65 + 0.3 * light[0] * x / shoulder
    shade = np.clip(light_side + 0.08 * fold + weave, 0.1, 1.2)
    colour = _muted_colours(rng, 1)[0]
    body = np.concatenate(
        [colour * shade[..., None], np.ones((size, size, 1))], axis=-1
    )
    return (body * cloth[..., None]).astype(np.float32)


def neck_layer(face: Face, scene: Scene) -> Scene:
    """The scene with this face's neck added to the body."""
    size = scene.body.shape[0]
    unit = size * HEAD_SCALE
    axis = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / unit
    x, y = np.meshgrid(axis, axis)
    half = face.half_width * 0.62 + 0.25 * smooth(y, low=1.1, high=1.5)
    neck = smooth(np.abs(x) - half, low=0.02, high=-0.02) * smooth(y, low=0.3, high=0.4)
    neck *= smooth(y - 1.38 + 0.25 * (np.abs(x) / half) ** 2, low=0.03, high=-0.03)
    round_ = np.sqrt(np.clip(1 - (x / (half + 0.1)) ** 2, 0.05, 1))
    lit = 0.75 * round_ + 0.3 * scene.light[0] * x
    lit *= 0.5 + 0.5 * smooth(y, low=0.9, high=1.35)
    colour = face.skin * np.clip(lit, 0.05, 1)[..., None] * scene.key
    layer = np.concatenate([colour, np.ones((size, size, 1), np.float32)], axis=-1)
    layer = (layer * neck[..., None]).astype(np.float32)
    return replace(scene, body=scene.body + layer * (1 - scene.body[..., 3:]))


def make_performance(rng: np.random.Generator, num_frames: int) -> list[Moment]:
    """Draws head motion, light, blinks and speech of a video at 25 frames/s."""
    t = np.arange(num_frames) / 25

    def wander(amplitude: float, *, low: float = 0.1, high: float = 0.9) -> NDArray:
        rate, phase = rng.uniform(low, high, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * rate * t[:, None] + phase) @ rng.dirichlet((1, 1, 1))
        return amplitude * waves

    talk = np.clip(wander(1.6, low=0.2, high=0.8) + rng.uniform(0, 0.6), 0, 1)
    syllables = np.clip(wander(1.0, low=2.0, high=5.0) * 0.9 + 0.45, 0, 1)
    blink = np.zeros(num_frames)
    time = rng.uniform(0, 1.5)
    while time < t[-1] + 0.2:
        blink = np.maximum(blink, np.clip(1.3 - np.abs(t - time) / 0.09, 0, 1))
        time += rng.uniform(0.8, 3.0)
    columns = {
        "x": rng.uniform(-0.2, 0.2) + wander(0.12),
        "y": rng.uniform(-0.05, 0.1) + wander(0.06),
        "scale": rng.uniform(0.95, 1.12) * (1 + wander(0.03)),
        "yaw": rng.uniform(-0.12, 0.12) + wander(0.22),
        "pitch": wander(0.10),
        "roll": rng.uniform(-0.05, 0.05) + wander(0.09),
        "blink": blink,
        "mouth": talk * syllables,
        "smile": rng.uniform(-0.2, 0.6) + wander(0.4),
        "brow": wander(0.5) ** 2 * 2,
        "gaze": wander(0.5, low=0.3, high=1.2),
        "light": 1 + wander(0.03),
    }
    names = list(columns)
    rows = np.stack([columns[name] for name in names], axis=1)
    return [Moment(**dict(zip(names, map(float, row), strict=True))) for row in rows]


def _patch(centre: tuple[float, float], radius: tuple[float, float]):
    """Row and column slices of a canvas patch and its head coordinates."""
    to_pixel = CANVAS / (2 * EXTENT)
    bounds = []
    for c, r in zip(centre, radius, strict=True):
        low = max(0, int((c - r + EXTENT) * to_pixel))
        high = min(CANVAS, int((c + r + EXTENT) * to_pixel) + 1)
        bounds.append((low, high))
    (left, right), (top, bottom) = bounds
    xs = (np.arange(left, right, dtype=np.float32) + 0.5) / to_pixel - EXTENT
    ys = (np.arange(top, bottom, dtype=np.float32) + 0.5) / to_pixel - EXTENT
    return (slice(top, bottom), slice(left, right)), xs[None], ys[:, None]


def _draw_eye(albedo: Array, face: Face, moment: Moment, side: int) -> None:
    w = face.eye_width
    where, x, y = _patch((side * face.eye_x, EYE_Y), (w * 1.35, w * 1.2))
    patch = albedo[where]
    u, v = (x - side * face.eye_x) / w, (y - EYE_Y) / w
    arc = np.clip(1 - u * u, 0, None)
    lid = 1 - moment.blink
    upper = (0.24 - 0.76 * lid) * arc
    lower = 0.27 * arc
    soft = 0.09
    inside = np.clip((v - upper) / soft, 0, 1) * np.clip((lower - v) / soft, 0, 1)
    inside = inside * (np.abs(u) < 1)
    du, dv = u - 0.35 * moment.gaze, v + 0.12
    r = np.sqrt(du * du + dv * dv)
    ball = np.empty((*r.shape, 3), np.float32)
    ball[:] = (0.62, 0.58, 0.55)
    _paint(ball, face.iris, np.clip((0.47 - r) / 0.08, 0, 1))
    _paint(ball, face.iris * 0.3, np.clip((r - 0.36) / 0.08, 0, 1) * (r < 0.47))
    _paint(ball, (0.01, 0.01, 0.01), np.clip((0.22 - r) / 0.06, 0, 1))
    spark = np.clip(1.5 - np.hypot(du + 0.14, dv + 0.16) / 0.09, 0, 1)
    _paint(ball, (1.0, 1.0, 1.0), spark)
    ball *= (0.45 + 0.55 * np.clip((v - upper) / 0.35, 0, 1))[..., None]
    crease = np.exp(-(((v + 0.72 * (0.4 + 0.6 * arc)) / 0.08) ** 2)) * (np.abs(u) < 1.1)
    patch *= (1 - 0.3 * crease)[..., None]
    patch += inside[..., None] * (ball - patch)
    lash = np.exp(-(((v - upper) / 0.09) ** 2)) * smooth(np.abs(u), low=1.1, high=0.85)
    _paint(patch, (0.02, 0.015, 0.01), 0.85 * lash)


def _draw_mouth(albedo: Array, face: Face, moment: Moment) -> None:
    w = face.mouth_width * (1 + 0.18 * moment.smile - 0.15 * moment.mouth)
    where, x, y = _patch((0.0, MOUTH_Y + 0.06), (0.42, 0.3))
    patch = albedo[where]
    u = x / w
    arc = np.clip(1 - u * u, 0, None)
    middle = MOUTH_Y - 0.05 * moment.smile * (u * u - 0.4)
    gap = 0.17 * moment.mouth * arc
    upper, lower = middle - 0.25 * gap, middle + 0.75 * gap
    thin, thick = face.lip_height
    cupid = 1 - 0.35 * np.exp(-((u / 0.16) ** 2))
    soft = 0.016
    above = upper - thin * cupid * np.sqrt(arc)
    below = lower + thick * np.sqrt(arc)
    lips = np.clip((y - above) / soft, 0, 1) * np.clip((below - y) / soft, 0, 1)
    lips = lips * (np.abs(u) < 1)
    _paint(patch, face.lip, 0.85 * lips)
    shine = np.exp(-(((y - lower - 0.5 * thick) / (0.25 * thick)) ** 2)) * arc
    patch *= (1 + 0.3 * shine * lips - 0.25 * lips * (y < middle))[..., None]
    hole = np.clip((y - upper) / soft, 0, 1) * np.clip((lower - y) / soft, 0, 1)
    hole = hole * (np.abs(u) < 1)
    cavity = np.empty((*hole.shape, 3), np.float32)
    cavity[:] = (0.06, 0.015, 0.012)
    teeth = np.clip((upper + 0.055 - y) / soft, 0, 1) * smooth(
        np.abs(u), low=0.85, high=0.6
    )
    gaps = 1 - 0.3 * (np.abs(np.sin(x * 38)) < 0.12)
    _paint(cavity, (0.62, 0.58, 0.5), 0.9 * teeth * gaps)
    patch += hole[..., None] * (cavity - patch)
    seam = (
        np.exp(-(((y - middle) / 0.012) ** 2)) * np.clip(1.08 - np.abs(u), 0, 0.2) * 5
    )
    patch *= (1 - 0.6 * seam * np.clip(1 - 4 * moment.mouth, 0, 1))[..., None]


def draw_expression(face: Face, moment: Moment) -> Array:
    """Albedo [CANVAS, CANVAS, 3] of a face with the moment's eyes and mouth."""
    albedo = face.albedo.copy()
    for side in (-1, 1):
        _draw_eye(albedo, face, moment, side)
    _draw_mouth(albedo, face, moment)
    return albedo


def _rotation(moment: Moment) -> Array:
    """Rotation of the head: yaw about y, then pitch about x."""
    cy, sy = np.cos(moment.yaw), np.sin(moment.yaw)
    cp, sp = np.cos(moment.pitch), np.sin(moment.pitch)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return (pitch @ yaw).astype(np.float32)


def shade(
    face: Face, scene: Scene, moment: Moment, *, albedo: Array, gloss: float = 1.0
) -> Array:
    """Lambert and Blinn-Phong shading: canvas [CANVAS, CANVAS, 4], premultiplied."""
    head_light = _rotation(moment).T @ scene.light
    view = _rotation(moment).T @ np.array([0, 0, 1], np.float32)
    half = head_light + view
    rows = np.stack([head_light, half / np.linalg.norm(half)]).astype(np.float32)
    dots = np.maximum(cv2.transform(face.normals, rows), 0)
    diffuse = dots[..., 0] * face.occlusion * np.float32(moment.light)
    specular = dots[..., 1] ** 2
    for _ in range(3):
        specular *= specular  # the 16th power
    specular *= face.gloss * np.float32(0.10 * gloss * moment.light)
    lit = np.empty((CANVAS, CANVAS, 4), np.float32)
    for c in range(3):
        light = diffuse * scene.key[c] + face.occlusion * scene.ambient[c]
        lit[..., c] = (albedo[..., c] * light + specular * scene.key[c]) * face.alpha
    lit[..., 3] = face.alpha
    return lit


def frame_to_canvas(face: Face, moment: Moment, size: int) -> tuple[Array, Array]:
    """Canvas pixel coordinates of each frame pixel, for cv2.remap; each [size, size].

    Solves for the point of the head that the pose projects onto each pixel, on a
    coarse mesh, by two fixed-point steps on the ellipsoid with a nose; then undoes
    the jaw's drop and the brows' rise.
    """
    unit = size * HEAD_SCALE * moment.scale
    axis = np.linspace(0, size - 1, MESH, dtype=np.float32)
    px, py = np.meshgrid(axis, axis)
    centre_x = size / 2 + moment.x * size * HEAD_SCALE
    centre_y = size * 0.47 + moment.y * size * HEAD_SCALE
    dx, dy = (px - centre_x) / unit, (py - centre_y) / unit
    c, s = np.cos(moment.roll), np.sin(moment.roll)
    u, v = c * dx + s * dy, -s * dx + c * dy
    x, y = u, v
    sy, sp = np.sin(moment.yaw), np.sin(moment.pitch)
    for _ in range(3):
        bulk = np.clip(
            1.1 - (x / (face.half_width * 1.15)) ** 2 - (y / 1.15) ** 2, 0, None
        )
        z = 0.75 * face.depth * np.sqrt(bulk)
        z = z + face.nose * np.exp(-((x / 0.16) ** 2) - ((y - 0.2) / 0.2) ** 2)
        x = (u - sy * z) / np.cos(moment.yaw)
        y = (v - sp * z) / np.cos(moment.pitch)
    y = y - 0.10 * moment.mouth * smooth(y, low=MOUTH_Y, high=0.95)
    y = y + 0.04 * moment.brow * np.exp(-(((y + 0.33) / 0.12) ** 2))
    to_pixel = CANVAS / (2 * EXTENT)
    maps = np.stack([x, y], axis=-1).astype(np.float32)
    maps = (maps + EXTENT) * to_pixel - 0.5
    full = _stretch_mesh(maps, size)
    return full[..., 0].copy(), full[..., 1].copy()


def _stretch_mesh(mesh: Array, size: int) -> Array:
    """Cubic interpolation of a mesh whose corner nodes are the corner pixels."""
    at = np.arange(size, dtype=np.float32) * ((MESH - 1) / (size - 1))
    across, down = np.meshgrid(at, at)
    return cv2.remap(mesh, across, down, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)


def warp(canvas: Array, maps: tuple[Array, Array]) -> Array:
    """A canvas image seen in the frame; zero outside the canvas."""
    return cv2.remap(
        canvas, maps[0], maps[1], cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT
    )


def compose(scene: Scene, moment: Moment, *, head: Array) -> Array:
    """Background, body and warped head -> frame [size, size, 3] in 0..255, no noise."""
    size = scene.background.shape[0]
    shift = np.array(
        [
            [1, 0, 0.6 * moment.x * size * HEAD_SCALE],
            [0, 1, 0.8 * moment.y * size * HEAD_SCALE],
        ],
        np.float32,
    )
    body = cv2.warpAffine(
        scene.body, shift, (size, size), borderMode=cv2.BORDER_REPLICATE
    )
    picture = body[..., :3] + scene.background * (1 - body[..., 3:])
    picture = head[..., :3] + picture * (1 - head[..., 3:])
    return develop(scene, picture)


def develop(scene: Scene, linear: Array) -> Array:
    """The camera: exposure, lens blur and gamma; linear light -> values in 0..255."""
    picture = cv2.GaussianBlur(linear, (0, 0), scene.blur_sigma)
    return 255 * cv2.sqrt(np.clip(picture * np.float32(scene.exposure), 0, 1))


def grain(scene: Scene, rng: np.random.Generator) -> NDArray[np.int16]:
    """One frame's sensor noise [size, size, 3]: the scene's grain, shifted."""
    size = scene.background.shape[0]
    top, left = rng.integers(0, 64, 2)
    noise = scene.noise[top : top + size, left : left + size]
    return noise[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def expose(picture: Array, noise: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Adds sensor noise and rounds to 8 bits."""
    return np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8)


def render_head(face: Face, scene: Scene, moment: Moment) -> Array:
    """A face in a scene at a moment: warped head [size, size, 4], premultiplied."""
    albedo = draw_expression(face, moment)
    lit = shade(face, scene, moment, albedo=albedo)
    return warp(lit, frame_to_canvas(face, moment, scene.background.shape[0]))
