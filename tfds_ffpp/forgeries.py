"""Manipulates made videos: each method takes a real clip and another identity.

A forged frame is the target's own frame, sensor noise included, with a region of the
head replaced by a synthesised one under fresh noise of the same camera. Strength is
1 - difficulty: 0 leaves hardly any trace, 1 plain ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_ffpp import identity, rendering
from tfds_ffpp.identity import Array, Face
from tfds_ffpp.rendering import Moment, Scene

Frame = NDArray[np.uint8]
TONE_SIGMA = 0.2  # of the face's brightness where Flicker is among the methods


@dataclass(frozen=True)
class Clip:
    """A real video and all that it was drawn from; frames [size, size, 3] each."""

    face: Face
    scene: Scene
    moments: list[Moment]
    tones: Array  # [frames], gain of the inner face's brightness
    noises: list[NDArray[np.int16]]  # of the sensor, in the frames
    frames: list[Frame]

    def cut(self, length: int) -> "Clip":
        """The first `length` frames."""
        return replace(
            self,
            moments=self.moments[:length],
            tones=self.tones[:length],
            noises=self.noises[:length],
            frames=self.frames[:length],
        )


@dataclass(frozen=True)
class Forged:
    """A manipulated video: frames, and masks [size, size] in [0, 1]."""

    frames: list[Frame]
    masks: list[Array]


Method = Callable[[Clip, Clip, np.random.Generator, float], Forged]
Step = tuple[Array, Array]  # forged picture [size, size, 3] in 0..255, mask


def photograph(
    face: Face, scene: Scene, moment: Moment, *, tone: float, noise: NDArray[np.int16]
) -> Frame:
    """A real frame of a face in a scene; `tone` 1 leaves the inner face as it is."""
    size = scene.background.shape[0]
    maps = rendering.frame_to_canvas(face, moment, size)
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(face, scene, moment, albedo=albedo)
    picture = rendering.compose(scene, moment, head=rendering.warp(lit, maps))
    if tone != 1:
        inner = rendering.warp(_oval((0, 0.15), (0.6, 0.75), soft=0.35), maps)
        picture *= 1 + np.float32(tone - 1) * inner[..., None]
    return rendering.expose(picture, noise)


def steady_tones(rng: np.random.Generator, num_frames: int) -> Array:
    """One gain for the whole video, from the distribution that Flicker draws from."""
    return np.full(num_frames, _tone(rng), np.float32)


def _tone(rng: np.random.Generator) -> float:
    return 1 + TONE_SIGMA * float(np.clip(rng.normal(), -2, 2))


def flicker(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The real video with the face's brightness drawn anew for each frame.

    A single frame has the distribution of a real one; only time gives it away. The
    share of frames drawn anew is 1 at difficulty 0 and a tenth at 1.
    """
    del source
    region = _oval((0, 0.15), (0.6, 0.75), soft=0.35)
    size = target.frames[0].shape[0]
    frames, masks = [], []
    for moment, steady, noise in zip(
        target.moments, target.tones, target.noises, strict=True
    ):
        anew = rng.random() < 1 - 0.9 * difficulty
        tone = _tone(rng) if anew else float(steady)
        frames.append(
            photograph(target.face, target.scene, moment, tone=tone, noise=noise)
        )
        maps = rendering.frame_to_canvas(target.face, moment, size)
        masks.append(rendering.warp(region, maps))
    return Forged(frames, masks)


def deepfakes(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """A low-resolution inner face with a colour cast, jittering, softly blended."""
    strength = 1 - difficulty
    cast = _colour_cast(rng, 0.03 + 0.17 * strength)
    scale = 0.17 + 0.3 * difficulty  # a face is about 0.45 of the frame
    region = _within(_oval((0, 0.2), (0.56, 0.66), soft=0.12), source.face)
    flickers = 1 + 0.03 * strength * rng.standard_normal(len(target.frames))
    shaken = [_shake(m, 0.01 + 0.02 * strength, rng) for m in target.moments]
    casts = [cast * np.float32(f) for f in flickers]

    def steps() -> Iterator[Step]:
        fit = None
        for frame, moment, cast in zip(target.frames, shaken, casts, strict=True):
            head, mask = _draw(source.face, target.scene, moment, region=region)
            fit = _match(head, frame, mask) if fit is None else fit
            yield _through_bottleneck(head, scale=scale) * (fit * cast), mask

    return _paste(target, steps(), rng)


def face_swap(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The source's face, lit as in its own video, cut in along a hard edge."""
    strength = 1 - difficulty
    own = source.scene
    mirror = -np.sign(own.light[0] * target.scene.light[0])
    mirrored = own.light * np.array([mirror, 1, 1], np.float32)
    light = _mix(target.scene.light, mirrored, strength)
    scene = replace(
        target.scene,
        light=light / np.linalg.norm(light),
        key=_mix(target.scene.key, own.key, strength),
        ambient=_mix(target.scene.ambient, own.ambient, strength),
    )
    region = _within(_hull(rng), source.face)
    cast = _colour_cast(rng, 0.02 + 0.12 * strength)
    size, turn = rng.normal(1, 0.02 + 0.02 * strength, 2).tolist()
    sway = 0.02 * strength * rng.standard_normal(len(target.frames))
    fitted = [
        replace(m, scale=m.scale * size, yaw=m.yaw * turn + float(s))
        for m, s in zip(target.moments, sway, strict=True)
    ]

    def steps() -> Iterator[Step]:
        fit = None
        for frame, moment in zip(target.frames, fitted, strict=True):
            head, mask = _draw(source.face, scene, moment, region=region)
            fit = _match(head, frame, mask) if fit is None else fit
            yield head * (fit * cast), mask

    return _paste(target, steps(), rng)


def face_to_face(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The target's face re-rendered with the source's expression, too smooth."""
    strength = 1 - difficulty
    face = target.face
    smoothed = replace(
        face,
        albedo=cv2.bilateralFilter(face.albedo, 9, 0.3, 2 + 3 * strength),
        gloss=face.gloss * np.float32(1 - strength),
        occlusion=_mix(face.occlusion, np.full_like(face.occlusion, 0.9), strength),
    )
    region = _within(_oval((0, 0.2), (0.6, 0.7), soft=0.06), face)
    cast = np.float32(1 + rng.choice([-1, 1]) * rng.uniform(0.5, 1) * 0.12 * strength)
    scale = 0.25 + 0.5 * difficulty

    def steps() -> Iterator[Step]:
        for moment, tone in zip(_driven(target, source), target.tones, strict=True):
            head, mask = _draw(smoothed, target.scene, moment, region=region)
            yield _through_bottleneck(head, scale=scale) * (cast * tone), mask

    return _paste(target, steps(), rng)


def neural_textures(
    target: Clip, source: Clip, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The mouth alone re-synthesised, with a decoder's blur, cast and checkerboard."""
    strength = 1 - difficulty
    region = _within(_oval((0, 0.58), (0.42, 0.34), soft=0.12), target.face)
    cast = _colour_cast(rng, 0.03 + 0.15 * strength)
    scale = 0.2 + 0.4 * difficulty
    sign = np.arange(target.frames[0].shape[0]) // 4 % 2 * 2 - 1
    checks = (5 * strength * np.outer(sign, sign))[..., None].astype(np.float32)

    def steps() -> Iterator[Step]:
        for moment, tone in zip(_driven(target, source), target.tones, strict=True):
            head, mask = _draw(target.face, target.scene, moment, region=region)
            head = _through_bottleneck(head, scale=scale) * (cast * tone)
            yield head + checks, mask

    return _paste(target, steps(), rng)


METHODS: dict[str, Method] = {
    "Deepfakes": deepfakes,
    "Face2Face": face_to_face,
    "FaceSwap": face_swap,
    "NeuralTextures": neural_textures,
    "Flicker": flicker,
}


def _paste(target: Clip, steps: Iterator[Step], rng: np.random.Generator) -> Forged:
    """Puts each step's picture and fresh noise into the target's frame by its mask."""
    frames, masks = [], []
    for frame, (picture, mask) in zip(target.frames, steps, strict=True):
        new = picture + rendering.grain(target.scene, rng)
        mixed = frame + mask[..., None] * (new - frame)
        frames.append(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))
        masks.append(mask)
    return Forged(frames, masks)


def _draw(face: Face, scene: Scene, moment: Moment, *, region: Array) -> Step:
    """The developed head in the frame and the canvas' region as it is seen there.

    Skin goes on beyond the head's outline, so that blurring draws in no black.
    """
    maps = rendering.frame_to_canvas(face, moment, scene.background.shape[0])
    whole = replace(face, alpha=np.ones_like(face.alpha))
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(whole, scene, moment, albedo=albedo)
    picture = rendering.develop(scene, rendering.warp(lit[..., :3], maps))
    return picture, rendering.warp(region, maps)


def _driven(target: Clip, source: Clip) -> list[Moment]:
    """The target's poses with the source's expressions, cycled to its length."""
    other = source.moments
    return [
        m.with_expression(other[i % len(other)]) for i, m in enumerate(target.moments)
    ]


def _shake(moment: Moment, amount: float, rng: np.random.Generator) -> Moment:
    """The moment with a misplaced face: offsets in head units, relative scale."""
    dx, dy, ds = rng.normal(0, amount, 3)
    return replace(
        moment, x=moment.x + dx, y=moment.y + dy, scale=moment.scale * (1 + ds)
    )


def _oval(
    centre: tuple[float, float], radius: tuple[float, float], *, soft: float
) -> Array:
    """Mask [CANVAS, CANVAS] of an ellipse; it falls from 1 - soft to 1 + soft radii."""
    x, y = identity.canvas_grid()
    r = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
    return identity.smooth(r, low=1 + soft, high=1 - soft)


def _hull(rng: np.random.Generator) -> Array:
    """Hard mask [CANVAS, CANVAS] of a polygon over brows, cheeks and chin."""
    right = [(0.42, -0.45), (0.56, -0.3), (0.58, 0.1), (0.5, 0.5), (0.25, 0.84)]
    left = [(-x, y) for x, y in reversed(right)]
    corners = np.array([*right, *left]) + rng.normal(0, 0.02, (10, 2))
    pixels = (corners + identity.EXTENT) * identity.CANVAS / (2 * identity.EXTENT)
    mask = np.zeros((identity.CANVAS, identity.CANVAS), np.float32)
    cv2.fillPoly(mask, [np.round(pixels).astype(np.int32)], [1.0])
    return cv2.GaussianBlur(mask, (0, 0), 0.6)


def _within(region: Array, face: Face) -> Array:
    """The part of a region that lies on the head of `face`, a little off its edge."""
    inside = cv2.erode(face.alpha, np.ones((5, 5), np.uint8))
    return region * cv2.GaussianBlur(inside, (0, 0), 1)


def _match(picture: Array, frame: Frame, mask: Array) -> Array:
    """Channel gains [3] that give the picture the frame's mean within the mask."""
    weight = mask[..., None] / max(float(mask.sum()), 1.0)
    wanted, given = (frame * weight).sum((0, 1)), (picture * weight).sum((0, 1))
    return np.clip((wanted + 1) / (given + 1), 0.3, 3).astype(np.float32)


def _through_bottleneck(picture: Array, *, scale: float) -> Array:
    """Down to `scale` of the size and up again: what a small decoder leaves."""
    size = picture.shape[0]
    small = (max(8, round(size * scale)),) * 2
    picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)


def _colour_cast(rng: np.random.Generator, amount: float) -> Array:
    """Channel gains [3] whose largest departure from 1 is `amount`."""
    cast = rng.uniform(-1, 1, 3)
    return (1 + amount * cast / np.abs(cast).max()).astype(np.float32)


def _mix(a: Array, b: Array, amount: float) -> Array:
    return (a + np.float32(amount) * (b - a)).astype(np.float32)
