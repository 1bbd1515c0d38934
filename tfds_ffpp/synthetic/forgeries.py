"""Manipulates made videos: each method takes a real clip and another identity.

A forged frame is the target's own frame with a region of the head replaced, under the
same sensor noise. Around each pixel the region has the colour and the energies of what
it replaces, so that no mean over an area gives it away: the traces are in structures,
boundaries, geometry and time. Strength is 1 - difficulty: 0 leaves hardly any trace,
1 plain ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_ffpp.synthetic import identity, rendering
from tfds_ffpp.synthetic.identity import Array, Head
from tfds_ffpp.synthetic.rendering import Moment, Scene

Frame = NDArray[np.uint8]
BANDS = (1.2, 2.4, 4.8)  # pixels, each blur's sigma: octaves from the finest up
AROUND = 13  # pixels, side of the area whose energy is matched
FAINT, MAX_GAIN = 0.02, 5.0  # grey levels below which a band is empty; bounds its gain
STUCK_SIGMA, PORES = 2.4, 6  # FaceShifter's texture: pixels and grey levels, at most
HELD = 3  # frames that LipSync's mouth stands still
# The face's brightness, where Flicker is among the methods: swing and waves a second.
TONE_SWING, TONE_RATE = (0.2, 0.3), (0.5, 0.9)


@dataclass(frozen=True)
class MadeVideo:
    """A real video and all that it was drawn from; frames [size, size, 3] each."""

    face: Head
    scene: Scene
    moments: list[Moment]
    tones: Array  # [frames], gain of the inner face's brightness
    noises: list[NDArray[np.int16]]  # of the sensor, in the frames
    pictures: list[Array]  # frames before the noise, float32 in 0..255

    @property
    def frames(self) -> list[Frame]:
        """What the camera wrote."""
        shots = zip(self.pictures, self.noises, strict=True)
        return [rendering.expose(picture, noise) for picture, noise in shots]

    def cut(self, length: int) -> "MadeVideo":
        """The first `length` frames."""
        return replace(
            self,
            moments=self.moments[:length],
            tones=self.tones[:length],
            noises=self.noises[:length],
            pictures=self.pictures[:length],
        )


@dataclass(frozen=True)
class Forged:
    """A manipulated video: frames, and masks [size, size] in [0, 1]."""

    frames: list[Frame]
    masks: list[Array]


Method = Callable[[MadeVideo, MadeVideo, np.random.Generator, float], Forged]
Step = tuple[Array, Array]  # forged picture [size, size, 3] in 0..255, mask


def photograph(face: Head, scene: Scene, moment: Moment, *, tone: float) -> Array:
    """A real picture of a face in a scene, no noise; `tone` 1 leaves it as it is."""
    size = scene.background.shape[0]
    maps = rendering.frame_to_canvas(face, moment, size)
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(face, scene, moment, albedo=albedo)
    picture = rendering.compose(scene, moment, head=rendering.warp(lit, maps))
    if tone == 1:
        return picture
    return picture * _glow(rendering.warp(_inner_face(), maps), tone)


def _glow(inner: Array, tone: float) -> Array:
    """The gain [size, size, 1] of a picture whose inner face is `tone` as bright."""
    return 1 + np.float32(tone - 1) * inner[..., None]


@cache
def _inner_face() -> Array:
    return _oval((0, 0.15), (0.6, 0.75), soft=0.35)


def wandering_tones(rng: np.random.Generator, num_frames: int) -> Array:
    """A slow wave of the face's brightness, as under a lamp that someone passes."""
    swing, rate = rng.uniform(*TONE_SWING), rng.uniform(*TONE_RATE)
    phase = rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * rate * np.arange(num_frames) / 25 + phase)
    return (1 + swing * wave).astype(np.float32)


def flicker(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The real video with its face's brightnesses in another order: dark, light, dark.

    Single frames, and all that does not ask for their order, are as in real videos.
    The share of frames that change places is 1 at difficulty 0 and a tenth at 1.
    """
    del source
    count = len(target.pictures)
    moved = np.flatnonzero(rng.random(count) < 1 - 0.9 * difficulty)
    tones = target.tones.copy()
    darker, lighter = np.array_split(np.sort(tones[moved]), [len(moved) // 2])
    tones[moved[::2]] = rng.permutation(lighter)
    tones[moved[1::2]] = rng.permutation(darker)
    size = target.pictures[0].shape[0]
    frames, masks = [], []
    for moment, own, tone, picture, noise in zip(
        target.moments, target.tones, tones, target.pictures, target.noises, strict=True
    ):
        maps = rendering.frame_to_canvas(target.face, moment, size)
        inner = rendering.warp(_inner_face(), maps)
        other = picture * (_glow(inner, tone) / _glow(inner, float(own)))
        frames.append(rendering.expose(other, noise))
        masks.append(inner)
    return Forged(frames, masks)


def deepfakes(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The source's inner face, jittering, its colour planes out of register."""
    strength = 1 - difficulty
    region = _within(_oval((0, 0.2), (0.56, 0.66), soft=0.12), source.face)
    shaken = [_shake(m, 0.01 + 0.01 * strength, rng) for m in target.moments]
    reach = (0.005 + 0.007 * strength) * target.scene.background.shape[0]

    def steps() -> Iterator[Step]:
        for moment in shaken:
            head, mask = _draw(source.face, target.scene, moment, region=region)
            yield _misregister(head, reach), mask

    return _paste(target, steps())


def face_swap(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The source's face in its own light, laid on twice, cut in along a hard edge."""
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
    size, turn = rng.normal(1, 0.02 + 0.02 * strength, 2).tolist()
    sway = 0.02 * strength * rng.standard_normal(len(target.pictures))
    fitted = [
        replace(m, scale=m.scale * size, yaw=m.yaw * turn + float(s))
        for m, s in zip(target.moments, sway, strict=True)
    ]
    reach = (0.006 + 0.014 * strength) * target.scene.background.shape[0]

    def steps() -> Iterator[Step]:
        for moment in fitted:
            head, mask = _draw(source.face, scene, moment, region=region)
            yield (_shifted(head, y=reach) + _shifted(head, y=-reach)) / 2, mask

    return _paste(target, steps())


def face_to_face(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The target's face with the source's expression, its texture smeared."""
    strength = 1 - difficulty
    region = _within(_oval((0, 0.2), (0.6, 0.7), soft=0.06), target.face)
    length = round((0.012 + 0.04 * strength) * target.scene.background.shape[0])
    kernel = np.eye(max(length, 2), dtype=np.float32) / max(length, 2)

    def steps() -> Iterator[Step]:
        for moment in _driven(target, source):
            head, mask = _draw(target.face, target.scene, moment, region=region)
            yield cv2.filter2D(head, -1, kernel), mask

    return _paste(target, steps())


def neural_textures(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The mouth alone re-synthesised, with a decoder's blur and checkerboard."""
    strength = 1 - difficulty
    region = _within(_oval((0, 0.58), (0.42, 0.34), soft=0.12), target.face)
    size = target.scene.background.shape[0]
    sign = np.arange(size) // 4 % 2 * 2 - 1
    checks = (15 * strength * np.outer(sign, sign))[..., None].astype(np.float32)

    def steps() -> Iterator[Step]:
        for moment in _driven(target, source):
            head, mask = _draw(target.face, target.scene, moment, region=region)
            yield _through_bottleneck(head, scale=0.25) + checks, mask

    return _paste(target, steps())


def face_shifter(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The source's face in the target's light; its pores stand still in the picture.

    Generators that know where a pixel is let texture stick to the screen while the
    face moves below it (Karras et al., Alias-Free GAN, 2021).
    """
    del rng
    strength = np.float32(1 - difficulty)
    region = _within(_oval((0, 0.18), (0.58, 0.7), soft=0.15), source.face)

    def steps() -> Iterator[Step]:
        stuck = None
        for moment in target.moments:
            head, mask = _draw(source.face, target.scene, moment, region=region)
            coarse = cv2.GaussianBlur(head, (0, 0), STUCK_SIGMA)
            detail = head - coarse
            if stuck is None:
                # Pores, no contours; in mirror image, as the first frame would
                # otherwise show nothing.
                stuck = np.clip(detail, -PORES, PORES)[:, ::-1].copy()
            yield coarse + strength * stuck + (1 - strength) * detail, mask

    return _paste(target, steps())


def lip_sync(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The target's mouth says what the source says, at a third of the frames.

    It is drawn smaller, on whole pixels: its contours are stairs, and it stands still
    for three frames at a time while the head moves.
    """
    del rng
    strength = 1 - difficulty
    region = _within(_oval((0, 0.62), (0.4, 0.32), soft=0.08), target.face)
    size = target.scene.background.shape[0]
    small = (round(size / (1 + 1.5 * strength)),) * 2
    driven = _driven(target, source)

    def steps() -> Iterator[Step]:
        for number, pose in enumerate(target.moments):
            moment = pose.with_expression(driven[number // HELD * HELD])
            head, mask = _draw(target.face, target.scene, moment, region=region)
            coarse = cv2.resize(head, small, interpolation=cv2.INTER_AREA)
            yield (
                cv2.resize(coarse, (size, size), interpolation=cv2.INTER_NEAREST),
                mask,
            )

    return _paste(target, steps())


def diffusion(
    target: MadeVideo, source: MadeVideo, rng: np.random.Generator, difficulty: float
) -> Forged:
    """The target's face drawn anew each frame: smooth, with a texture that boils."""
    del source
    strength = np.float32(1 - difficulty)
    region = _within(_oval((0, 0.12), (0.62, 0.8), soft=0.2), target.face)
    size = target.scene.background.shape[0]

    def steps() -> Iterator[Step]:
        for moment in target.moments:
            head, mask = _draw(target.face, target.scene, moment, region=region)
            coarse = cv2.GaussianBlur(head, (0, 0), BANDS[1])
            boil = rng.standard_normal((size, size, 1)).astype(np.float32)
            boil = cv2.GaussianBlur(boil, (0, 0), 1.0)[..., None]
            fresh = coarse + 20 * boil
            yield head + strength * (fresh - head), mask

    return _paste(target, steps())


METHODS: dict[str, Method] = {
    "Deepfakes": deepfakes,
    "Face2Face": face_to_face,
    "FaceSwap": face_swap,
    "NeuralTextures": neural_textures,
    "Flicker": flicker,
    "FaceShifter": face_shifter,
    "LipSync": lip_sync,
    "Diffusion": diffusion,
}


def _paste(target: MadeVideo, steps: Iterator[Step]) -> Forged:
    """Puts each step's picture into the target's by its mask, under the same noise."""
    frames, masks = [], []
    shots = zip(target.pictures, target.noises, steps, strict=True)
    for picture, noise, (forged, mask) in shots:
        box = _box(mask)
        own, inside = picture[box], mask[box][..., None]
        pasted = own + inside * (forged[box] - own)
        mixed = picture.copy()
        mixed[box] += inside * (_equalise(pasted, own) - own)
        frames.append(rendering.expose(mixed, noise))
        masks.append(mask)
    return Forged(frames, masks)


def _box(mask: Array) -> tuple[slice, slice]:
    """The rows and columns that hold all of a mask."""
    left, top, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _equalise(picture: Array, like: Array) -> Array:
    """A picture with the statistics of another, around each pixel; [H, W, 3] each.

    What is coarser than the last of BANDS is the other's. Each finer band is scaled
    to the mean amplitude that the other's has there in luma. So an area's colours and
    energies tell nothing: what differs is how they are arranged.
    """
    detail = np.zeros_like(picture)
    for sigma in BANDS:
        coarse, wanted = (cv2.GaussianBlur(p, (0, 0), sigma) for p in (picture, like))
        given = _amplitude(picture - coarse)
        gain = (_amplitude(like - wanted) + FAINT) / (given + FAINT)
        gain = np.clip(gain, 1 / MAX_GAIN, MAX_GAIN)
        detail += (picture - coarse) * gain[..., None]
        picture, like = coarse, wanted
    return like + detail


def _amplitude(band: Array) -> Array:
    """The mean of a band's absolute luma around each pixel [height, width]."""
    luma = cv2.cvtColor(band, cv2.COLOR_RGB2GRAY)
    return cv2.blur(np.abs(luma), (AROUND, AROUND))


def _misregister(picture: Array, reach: float) -> Array:
    """Red moved to the right and blue to the left by `reach` pixels."""
    red, green, blue = cv2.split(picture)
    return cv2.merge([_shifted(red, x=reach), green, _shifted(blue, x=-reach)])


def _shifted(picture: Array, *, x: float = 0.0, y: float = 0.0) -> Array:
    """A picture moved by whole and parts of pixels; its border goes on outside."""
    size = picture.shape[1::-1]
    move = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(picture, move, size, borderMode=cv2.BORDER_REPLICATE)


def _draw(face: Head, scene: Scene, moment: Moment, *, region: Array) -> Step:
    """The developed head in the frame and the canvas' region as it is seen there.

    Skin goes on beyond the head's outline, so that blurring draws in no black.
    """
    maps = rendering.frame_to_canvas(face, moment, scene.background.shape[0])
    whole = replace(face, alpha=np.ones_like(face.alpha))
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(whole, scene, moment, albedo=albedo)
    picture = rendering.develop(scene, rendering.warp(lit[..., :3], maps))
    return picture, rendering.warp(region, maps)


def _driven(target: MadeVideo, source: MadeVideo) -> list[Moment]:
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


def _within(region: Array, face: Head) -> Array:
    """The part of a region that lies on the head of `face`, a little off its edge."""
    inside = cv2.erode(face.alpha, np.ones((5, 5), np.uint8))
    return region * cv2.GaussianBlur(inside, (0, 0), 1)


def _through_bottleneck(picture: Array, *, scale: float) -> Array:
    """Down to `scale` of the size and up again: what a small decoder leaves."""
    size = picture.shape[0]
    small = (max(8, round(size * scale)),) * 2
    picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)


def _mix(a: Array, b: Array, amount: float) -> Array:
    return (a + np.float32(amount) * (b - a)).astype(np.float32)
