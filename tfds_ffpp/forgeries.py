"""Manipulates made videos: each method takes a real clip and another identity.

A forged frame is the target's own frame, noise included, with a region replaced.
Strength falls with `difficulty`: 0 leaves plain traces, 1 leaves hardly any.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_ffpp import rendering
from tfds_ffpp.rendering import Array, Face, Moment, Scene

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A real video and all that it was drawn from; frames [size, size, 3] each."""

    face: Face
    scene: Scene
    moments: list[Moment]
    frames: list[Frame]


@dataclass(frozen=True)
class Forged:
    """A manipulated video: frames, and masks [size, size] in [0, 1]."""

    frames: list[Frame]
    masks: list[Array]


Method = Callable[[Clip, Clip, np.random.Generator, float], Forged]


def _oval(centre: tuple[float, float], radius: tuple[float, float], *, soft: float):
    """Mask [CANVAS, CANVAS]: 1 inside the ellipse, 0 beyond `soft` times its size."""
    x, y = rendering.canvas_grid()
    r = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
    return rendering.smooth(r, low=1 + soft, high=1 - soft)


def _hull(rng: np.random.Generator) -> Array:
    """Hard mask of brows, cheeks and chin with an irregular polygon's edge."""
    corners = np.array(
        [
            (-0.55, -0.42),
            (0, -0.46),
            (0.55, -0.42),
            (0.6, 0.1),
            (0.5, 0.55),
            (0.25, 0.88),
        ]
        + [(-0.25, 0.88), (-0.5, 0.55), (-0.6, 0.1)]
    )
    corners = corners + rng.normal(0, 0.02, corners.shape)
    pixels = (corners + rendering.EXTENT) * rendering.CANVAS / (2 * rendering.EXTENT)
    mask = np.zeros((rendering.CANVAS, rendering.CANVAS), np.float32)
    cv2.fillPoly(mask, [np.round(pixels).astype(np.int32)], 1.0)
    return cv2.GaussianBlur(mask, (0, 0), 0.7)


def _blend(frame: Frame, *, forged: Array, mask: Array, noise) -> Frame:
    """The frame with `forged` (0..255) and its own grain inside the mask."""
    amount = mask[..., None]
    mixed = frame + amount * (forged + noise - frame)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def _through_bottleneck(picture: Array, *, scale: float) -> Array:
    """Down to `scale` of the size and up again: what a small decoder leaves."""
    size = picture.shape[0]
    small = cv2.resize(
        picture, (max(8, round(size * scale)),) * 2, interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def _colour_cast(rng: np.random.Generator, amount: float) -> Array:
    """Channel gains whose largest departure from 1 is `amount`."""
    cast = rng.uniform(-1, 1, 3)
    return (1 + amount * cast / np.abs(cast).max()).astype(np.float32)


def _head(face: Face, scene: Scene, moment: Moment):
    """Developed head in the frame [size, size, 3] and the maps that put it there."""
    size = scene.background.shape[0]
    maps = rendering.frame_to_canvas(face, moment, size)
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(face, scene, moment, albedo=albedo)
    return rendering.develop(scene, rendering.warp(lit, maps)[..., :3]), maps


def _source_moments(target: Clip, source: Clip) -> list[Moment]:
    """The target's poses with the source's expressions, cycled to its length."""
    other = source.moments
    return [
        m.with_expression(other[i % len(other)]) for i, m in enumerate(target.moments)
    ]


def deepfakes(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """A low-resolution inner face with a colour cast, jittering, softly blended."""
    strength = 1 - difficulty
    inner = _oval((0, 0.2), (0.56, 0.66), soft=0.12)
    cast = _colour_cast(rng, 0.04 + 0.2 * strength)
    scale = 0.16 + 0.25 * difficulty
    frames, masks = [], []
    for frame, moment in zip(target.frames, target.moments, strict=True):
        dx, dy, ds = rng.normal(0, 0.012 + 0.02 * strength, 3)
        shaken = replace(
            moment, x=moment.x + dx, y=moment.y + dy, scale=moment.scale * (1 + ds)
        )
        head, maps = _head(source.face, target.scene, shaken)
        flicker = 1 + rng.normal(0, 0.03 * strength)
        forged = _through_bottleneck(head, scale=scale) * (cast * np.float32(flicker))
        mask = rendering.warp(inner, maps)
        noise = rendering.grain(target.scene, rng)
        frames.append(_blend(frame, forged=forged, mask=mask, noise=noise))
        masks.append(mask)
    return Forged(frames, masks)


def face_swap(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The source's face, lit as in its own video, cut in along a hard edge."""
    strength = 1 - difficulty
    hull = _hull(rng)
    own = source.scene
    scene = replace(
        target.scene,
        light=_mix(target.scene.light, own.light * np.float32([-1, 1, 1]), strength),
        key=_mix(target.scene.key, own.key, strength),
        ambient=_mix(target.scene.ambient, own.ambient, strength),
    )
    cast = _colour_cast(rng, 0.03 + 0.15 * strength)
    stretch = rng.normal(1, 0.03, 2)
    frames, masks = [], []
    for frame, moment in zip(target.frames, target.moments, strict=True):
        fitted = replace(
            moment,
            scale=moment.scale * stretch[0],
            yaw=moment.yaw * stretch[1] + rng.normal(0, 0.02 * strength),
        )
        head, maps = _head(source.face, scene, fitted)
        mask = rendering.warp(hull, maps)
        noise = rendering.grain(target.scene, rng)
        frames.append(_blend(frame, forged=head * cast, mask=mask, noise=noise))
        masks.append(mask)
    return Forged(frames, masks)


def _mix(a: Array, b: Array, amount: float) -> Array:
    return (a + np.float32(amount) * (b - a)).astype(np.float32)


def face_to_face(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The target's face re-rendered with the source's expression, too smooth."""
    strength = 1 - difficulty
    region = _oval((0, 0.22), (0.6, 0.7), soft=0.06)
    smoothed = replace(
        target.face,
        albedo=cv2.bilateralFilter(target.face.albedo, 9, 0.3, 2 + 3 * strength),
        gloss=target.face.gloss * np.float32(difficulty),
        occlusion=_mix(target.face.occlusion, np.float32(0.9), strength),  # type: ignore[arg-type]
    )
    cast = np.float32(1 + rng.choice([-1, 1]) * 0.1 * strength)
    frames, masks = [], []
    for frame, moment in zip(
        target.frames, _source_moments(target, source), strict=True
    ):
        head, maps = _head(smoothed, target.scene, moment)
        forged = _through_bottleneck(head, scale=0.3 + 0.5 * difficulty) * cast
        mask = rendering.warp(region, maps)
        noise = rendering.grain(target.scene, rng)
        frames.append(_blend(frame, forged=forged, mask=mask, noise=noise))
        masks.append(mask)
    return Forged(frames, masks)


def neural_textures(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The mouth alone re-synthesised, with a decoder's blur, cast and checkerboard."""
    strength = 1 - difficulty
    mouth = _oval((0, 0.6), (0.38, 0.3), soft=0.15)
    cast = _colour_cast(rng, 0.03 + 0.17 * strength)
    size = target.frames[0].shape[0]
    checks = np.indices((size, size)).sum(0) // 3 % 2 * 2.0 - 1
    checks = (8 * strength * checks[..., None]).astype(np.float32)
    frames, masks = [], []
    for frame, moment in zip(
        target.frames, _source_moments(target, source), strict=True
    ):
        head, maps = _head(target.face, target.scene, moment)
        forged = _through_bottleneck(head, scale=0.2 + 0.4 * difficulty) * cast + checks
        mask = rendering.warp(mouth, maps)
        noise = rendering.grain(target.scene, rng)
        frames.append(_blend(frame, forged=forged, mask=mask, noise=noise))
        masks.append(mask)
    return Forged(frames, masks)


METHODS: dict[str, Method] = {
    "Deepfakes": deepfakes,
    "Face2Face": face_to_face,
    "FaceSwap": face_swap,
    "NeuralTextures": neural_textures,
}
