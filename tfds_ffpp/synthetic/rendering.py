"""Films made people: a shaded, moving, talking head before a background.

Each frame draws eyes and mouth on the head's canvas, shades it and warps it into the
picture by the head's pose. Colours are linear light in [0, 1] until `develop` takes the
square root (gamma 2).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_ffpp.synthetic.identity import (
    CANVAS,
    EXTENT,
    EYE_Y,
    MOUTH_Y,
    Array,
    Head,
    fractal_noise,
    paint,
    smooth,
)
from tfds_ffpp.synthetic.looks import INDOOR, Look, Range

HEAD_SCALE = 0.30  # half height of a head, as a share of the frame's side
MESH = 33  # nodes per side of the warp's mesh; linear between them


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
    sharpening: float
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


def make_scene(rng: np.random.Generator, size: int, look: Look = INDOOR) -> Scene:
    """Draws background, clothes, light and camera of one video."""
    angle, height = rng.uniform(-0.85, 0.85), rng.uniform(*look.light_height)
    light = np.array([np.sin(angle), height, np.cos(angle)])
    warmth = rng.uniform(*look.warmth)
    tint = np.array([1 + warmth, 1, 1 - warmth])
    key = rng.uniform(*look.key) * tint
    ambient = rng.uniform(*look.ambient) * (2 - tint) * rng.uniform(0.95, 1.05, 3)
    noise_sigma = float(np.exp(rng.uniform(*np.log(look.noise))))
    grain = rng.standard_normal((size + 64, size + 64, 3)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(*look.grain))
    grain *= noise_sigma / grain.std()
    return Scene(
        background=_background(rng, size, look.chroma),
        body=_body(rng, size, light=light, chroma=look.chroma),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        key=key.astype(np.float32),
        ambient=ambient.astype(np.float32),
        exposure=float(rng.uniform(*look.exposure)),
        noise_sigma=noise_sigma,
        blur_sigma=float(rng.uniform(*look.blur)),
        sharpening=look.sharpening,
        noise=np.round(grain).astype(np.int16),
    )


def _background(rng, size: int, chroma: Range) -> Array:
    """A room out of focus: wall, shelves or windows, and their texture."""
    axis = np.linspace(0, 1, size, dtype=np.float32)
    across, down = np.meshgrid(axis, axis)
    top, bottom = _colours(rng, 2, chroma)
    picture = top + (bottom - top) * (0.5 * down + 0.5 * across)[..., None]
    for _ in range(rng.integers(2, 9)):
        corner = rng.integers(-size // 4, size, 2)
        side = rng.integers(size // 10, size // 2, 2)
        colour = _colours(rng, 1, chroma)[0]
        cv2.rectangle(
            picture, corner.tolist(), (corner + side).tolist(), colour.tolist(), -1
        )
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.0, 5.0))
    texture = fractal_noise(rng, size, cells=(5, 11, 23, 47, 95), gain=0.7)
    picture *= 1 + rng.uniform(0.02, 0.15) * texture[..., None]
    return np.clip(picture, 0, 1).astype(np.float32)


def _colours(rng, count: int, chroma: Range) -> Array:
    """Colours [count, 3] of furniture and clothes: any brightness."""
    brightness = rng.uniform(0.03, 0.6, (count, 1))
    colour = rng.uniform(*chroma, (count, 1)) * rng.uniform(-1, 1, (count, 3))
    return np.clip(brightness * (1 + colour), 0.01, 0.8).astype(np.float32)


def _body(rng, size: int, *, light, chroma: Range) -> Array:
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
    colour = _colours(rng, 1, chroma)[0]
    body = np.concatenate(
        [colour * shade[..., None], np.ones((size, size, 1))], axis=-1
    )
    return (body * cloth[..., None]).astype(np.float32)


def neck_layer(face: Head, scene: Scene) -> Scene:
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


def make_performance(
    rng: np.random.Generator, num_frames: int, look: Look = INDOOR
) -> list[Moment]:
    """Draws head motion, light, blinks and speech of a video at 25 frames/s."""
    moves = look.restlessness
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
        "x": rng.uniform(-0.2, 0.2) + wander(0.12 * moves),
        "y": rng.uniform(-0.05, 0.1) + wander(0.06 * moves),
        "scale": rng.uniform(*look.scale) * (1 + wander(0.03)),
        "yaw": rng.uniform(-0.12, 0.12) + wander(0.22 * moves),
        "pitch": wander(0.10 * moves),
        "roll": rng.uniform(-0.05, 0.05) + wander(0.09 * moves),
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


def _draw_eye(albedo: Array, face: Head, moment: Moment, side: int) -> None:
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
    paint(ball, face.iris, np.clip((0.47 - r) / 0.08, 0, 1))
    paint(ball, face.iris * 0.3, np.clip((r - 0.36) / 0.08, 0, 1) * (r < 0.47))
    paint(ball, (0.01, 0.01, 0.01), np.clip((0.22 - r) / 0.06, 0, 1))
    spark = np.clip(1.5 - np.hypot(du + 0.14, dv + 0.16) / 0.09, 0, 1)
    paint(ball, (1.0, 1.0, 1.0), spark)
    ball *= (0.45 + 0.55 * np.clip((v - upper) / 0.35, 0, 1))[..., None]
    crease = np.exp(-(((v + 0.72 * (0.4 + 0.6 * arc)) / 0.08) ** 2)) * (np.abs(u) < 1.1)
    patch *= (1 - 0.3 * crease)[..., None]
    patch += inside[..., None] * (ball - patch)
    lash = np.exp(-(((v - upper) / 0.09) ** 2)) * smooth(np.abs(u), low=1.1, high=0.85)
    paint(patch, (0.02, 0.015, 0.01), 0.85 * lash)


def _draw_mouth(albedo: Array, face: Head, moment: Moment) -> None:
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
    paint(patch, face.lip, 0.85 * lips)
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
    paint(cavity, (0.62, 0.58, 0.5), 0.9 * teeth * gaps)
    patch += hole[..., None] * (cavity - patch)
    seam = (
        np.exp(-(((y - middle) / 0.012) ** 2)) * np.clip(1.08 - np.abs(u), 0, 0.2) * 5
    )
    patch *= (1 - 0.6 * seam * np.clip(1 - 4 * moment.mouth, 0, 1))[..., None]


def draw_expression(face: Head, moment: Moment) -> Array:
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
    face: Head, scene: Scene, moment: Moment, *, albedo: Array, gloss: float = 1.0
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


def frame_to_canvas(face: Head, moment: Moment, size: int) -> tuple[Array, Array]:
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
    picture = 255 * cv2.sqrt(np.clip(picture * np.float32(scene.exposure), 0, 1))
    if not scene.sharpening:
        return picture
    detail = picture - cv2.GaussianBlur(picture, (0, 0), 1.0)
    return np.clip(picture + np.float32(scene.sharpening) * detail, 0, 255)


def grain(scene: Scene, rng: np.random.Generator) -> NDArray[np.int16]:
    """One frame's sensor noise [size, size, 3]: the scene's grain, shifted."""
    size = scene.background.shape[0]
    top, left = rng.integers(0, 64, 2)
    noise = scene.noise[top : top + size, left : left + size]
    return noise[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def expose(picture: Array, noise: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Adds sensor noise and rounds to 8 bits."""
    return np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8)


def render_head(face: Head, scene: Scene, moment: Moment) -> Array:
    """A face in a scene at a moment: warped head [size, size, 4], premultiplied."""
    albedo = draw_expression(face, moment)
    lit = shade(face, scene, moment, albedo=albedo)
    return warp(lit, frame_to_canvas(face, moment, scene.background.shape[0]))
