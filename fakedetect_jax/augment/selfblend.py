"""Self-blended clips: fakes made from real clips alone, on the device.

What is done to a blend and is no blending is done to all other clips too.

After Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022,
from the paper's text. Two deviations. The paper deforms the hull of 68 landmarks; here
the mask is an oval of the face, placed by five points of it and deformed alike. The
paper treats images; here one mask and one pair of transforms serve the whole clip: the
mask follows the face, and both drift a little over it, as a bad tracker does. The
ranges of the changes are this project's, chosen by eye for small face crops.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fakedetect_jax.augment import pixels

# The paper's blending ratios (section 3.2), drawn with equal chance.
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
# Ovals as (centre down, centre across, semi-axis down, semi-axis across): down in
# distances of the mouth from the eyes' line, beginning there; across in halves of the
# distance between the eyes, beginning midway. They lie on the eyes with the brows, the
# mouth with the skin around it, the face from brows to chin, and its lower half.
REGIONS = {
    "face": (0.61, 0.0, 1.10, 2.40),
    "lower half": (1.05, 0.0, 0.66, 2.05),
    "mouth": (1.03, 0.0, 0.25, 1.2),
    "eyes": (-0.10, 0.0, 0.39, 1.95),
}


class Stored(NamedTuple):
    """How the dataset's frames are coded, as JPEG."""

    quality: int = 95  # libjpeg's scale
    subsampling: str = "444"  # chroma: 444 | 422 | 420


def self_blend(
    frames_BTHWC: jax.Array,
    blend_B: jax.Array,
    face_BT52: jax.Array,
    *,
    key: jax.Array,
    index_B: jax.Array,
    stored: Stored,
) -> jax.Array:
    """Turn some clips into self-blended fakes; all others pass all the rest.

    Args:
      frames_BTHWC: float RGB in [0, 1].
      blend_B: bool[B], which clips to blend.
      face_BT52: float32[B,T,5,2], where each frame's face is: (y, x) in sides of the
        frame of two eyes, nose and two corners of the mouth, from the picture's left.
      key: of the run's seed and the step.
      index_B: int32[B], the clips' indices; equal index and key give equal draws.
      stored: how every clip is coded at the end.

    Returns:
      Frames of the same shape and type.
    """

    def one_clip(frames_THWC, blend, face_T52, index):
        clip_key = jax.random.fold_in(key, index)
        return blend_clip(frames_THWC, blend, face_T52, key=clip_key, stored=stored)

    return jax.vmap(one_clip)(frames_BTHWC, blend_B, face_BT52, index_B)


def blend_clip(
    frames_THWC: jax.Array,
    blend: jax.Array,
    face_T52: jax.Array,
    *,
    key: jax.Array,
    stored: Stored,
) -> jax.Array:
    """A clip blended with a changed copy of itself where `blend` says so.

    Outside of the mask a blend gets nothing that other clips don't get: half of the
    clips, blended or not, are changed as a whole (in the paper too the changed target
    is the real partner). Blending wipes out the traces of the frames' coding, so these
    must not tell the labels apart: every clip's blocks are first put out of place, and
    at the end it is coded as stored frames are.
    """
    keys = jax.random.split(key, 6)
    planes, face_T52 = shift_blocks(pixels.to_planes(frames_THWC), face_T52, keys[5])
    changed = change_statistics(planes, keys[0])
    # The change goes to the source or to the target, never to both (section 3.2).
    into_source = jax.random.bernoulli(keys[1])
    source = jnp.where(into_source, changed, planes)
    target = jnp.where(into_source, planes, changed)
    source = move(source, keys[2])
    ratio = jax.random.choice(keys[3], jnp.array(RATIOS))
    mask_THW = blend * ratio * face_mask(planes.shape[1:], face_T52, keys[4])
    blended = target + mask_THW * (source - target)
    # Frames stored with 4:2:2 pass 4:2:0: all alike, and their luma as before.
    halved = stored.subsampling != "444"
    coded = pixels.jpeg(blended, stored.quality, subsample=halved)
    return pixels.to_frames(coded).astype(frames_THWC.dtype)


def shift_blocks(
    planes_CTHW: jax.Array, face_T52: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Shift by -4 to 3 whole pixels each way, edges repeated: the grid of 8x8 blocks
    lies anywhere, and nothing is made softer. The face's points move along."""
    shifts = jax.random.randint(key, (2,), -4, 4)
    sides = planes_CTHW.shape[2:]
    for axis, side, shift in zip((2, 3), sides, shifts, strict=True):
        wanted = jnp.clip(jnp.arange(side) + shift, 0, side - 1)
        planes_CTHW = jnp.take(planes_CTHW, wanted, axis=axis)
    return planes_CTHW, face_T52 - shifts / jnp.array(sides)


def uniforms(key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Draws from [-1, 1) of several shapes, by one call: calls cost compile time."""
    sizes = [math.prod(shape) for shape in shapes]
    flat = jax.random.uniform(key, (sum(sizes),), minval=-1.0)
    parts = jnp.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def change_statistics(planes_CTHW: jax.Array, key: jax.Array) -> jax.Array:
    """Colour, light and frequency content, slightly off for the whole clip."""
    shift_C, hue, saturation, brightness, contrast, coin, sharpness = uniforms(
        key, (3,), (), (), (), (), (), ()
    )
    matrix = pixels.colour_matrix(
        contrast=1.0 + 0.1 * contrast,
        saturation=1.0 + 0.3 * saturation,
        hue=0.02 * hue,
    )
    # The contrast turns about mid-grey: half of its excess is taken off again.
    offset_C = 0.06 * shift_C + 0.1 * brightness - 0.05 * contrast
    recoloured = pixels.recolour(planes_CTHW, matrix, offset_C)
    soften, strength = coin < 0, (sharpness + 1) / 2
    # Shrink by up to 2 and enlarge again, or sharpen against what a factor 2 leaves.
    factor = jnp.where(soften, 1.0 + strength, 2.0)
    matrices = [
        pixels.rescale_matrix(side, factor=factor) for side in planes_CTHW.shape[2:]
    ]
    low_pass = pixels.resample(recoloured, *matrices)
    return pixels.sharpen(recoloured, low_pass, jnp.where(soften, -1.0, strength))


def drift(draws_2: jax.Array, count: int) -> jax.Array:
    """float32[T] in [-1, 1]: a slow wave for what moves over a clip.

    Up to two turns over the clip, at a phase; both from draws in [-1, 1).
    """
    time = jnp.arange(count) / count
    return jnp.sin(jnp.pi * (4 * draws_2[0] * time + draws_2[1]))


def move(planes_CTHW: jax.Array, key: jax.Array) -> jax.Array:
    """Resize by up to 5 % and shift by up to 3 %, a fifth of the shift drifting."""
    count, *sides = planes_CTHW.shape[1:]
    scale, shift, wave = uniforms(key, (2,), (2,), (2, 2))
    matrices = []
    for axis, side in enumerate(sides):
        shift_T = 0.03 * shift[axis] + 0.006 * drift(wave[axis], count)
        place = functools.partial(
            pixels.zoom_matrix, side, scale=1.0 + 0.05 * scale[axis]
        )
        matrices.append(
            jax.vmap(lambda shift, place=place: place(shift=shift))(shift_T)
        )
    return pixels.resample(planes_CTHW, *matrices)


def face_mask(shape: tuple[int, ...], face_T52: jax.Array, key: jax.Array) -> jax.Array:
    """float32[T,H,W] in [0, 1]: a soft, deformed region of the face, any of them."""
    region_key, form_key = jax.random.split(key)
    region = jax.random.choice(region_key, jnp.array(list(REGIONS.values())))
    return region_mask(shape, face_T52, region, form_key)


def region_mask(
    shape: tuple[int, ...], face_T52: jax.Array, region: jax.Array, key: jax.Array
) -> jax.Array:
    """float32[T,H,W] in [0, 1]: a region of the face, which it follows over the clip.

    Its place is off by up to 8 % of its axes and drifts by 3 % of them, its axes are
    stretched by up to 12 %. The elastic deformation bends the coordinates by slow
    waves before the region is evaluated; the edge is then blurred by a Gaussian of 1 to
    6 % of the side. Both are smaller where the region is: up to 15 and 40 % of its
    smaller axis.
    """
    count, height, width = shape
    form_key, bend_key = jax.random.split(key)
    place, stretch, wave, softness = uniforms(form_key, (2,), (2,), (2, 2), ())
    axes = region[2:] * (1.0 + 0.12 * stretch)
    drift_T2 = jnp.stack([drift(draws, count) for draws in wave], axis=-1)
    centre_T2 = region[:2] + axes * (0.08 * place + 0.03 * drift_T2)
    middle_T2, down_T2, across_T2 = face_axes(face_T52)
    lengths_T2 = jnp.stack(
        [jnp.linalg.norm(axis, axis=-1) for axis in (down_T2, across_T2)], axis=-1
    )
    smaller_T = jnp.min(axes * lengths_T2, axis=-1)
    least = jnp.mean(smaller_T)
    y, x = jnp.meshgrid(
        (jnp.arange(height) + 0.5) / height,
        (jnp.arange(width) + 0.5) / width,
        indexing="ij",
    )
    y, x = bend(y, x, bend_key, size=jnp.minimum(0.025, 0.15 * least))
    places = face_coordinates(y, x, middle_T2, down_T2, across_T2)
    down_THW, across_THW = (
        (place - centre_T2[:, i, None, None]) / axes[i]
        for i, place in enumerate(places)
    )
    # Distance beyond the edge in units of the smaller axis, as a one-pixel ramp.
    beyond_THW = jnp.sqrt(down_THW**2 + across_THW**2) - 1.0
    pixels_T11 = (smaller_T * min(height, width))[:, None, None]
    mask_THW = jnp.clip(0.5 - beyond_THW * pixels_T11, 0.0, 1.0)
    sigma = jnp.minimum(0.035 + 0.025 * softness, 0.4 * least)
    blurs = [pixels.blur_matrix(side, sigma=sigma * side) for side in (height, width)]
    return pixels.resample(mask_THW[None], *blurs)[0]


def face_axes(face_T52: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the units of REGIONS are in each frame, each [T,2] as (y, x) in sides.

    The middle between the eyes, from there to the mouth, and to the right eye.
    """
    eye_T2, other_T2 = face_T52[:, 0], face_T52[:, 1]
    middle_T2 = (eye_T2 + other_T2) / 2
    mouth_T2 = (face_T52[:, 3] + face_T52[:, 4]) / 2
    return middle_T2, mouth_T2 - middle_T2, (other_T2 - eye_T2) / 2


def face_coordinates(
    y: jax.Array,
    x: jax.Array,
    middle_T2: jax.Array,
    down_T2: jax.Array,
    across_T2: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Places y, x[H,W] of a frame as places down and across the face, each [T,H,W].

    They turn with the head, and are squeezed as it is when it looks aside.
    """

    def parts(axis_T2):
        return axis_T2[:, 0, None, None], axis_T2[:, 1, None, None]

    middle_y, middle_x = parts(middle_T2)
    (down_y, down_x), (across_y, across_x) = parts(down_T2), parts(across_T2)
    area = down_y * across_x - down_x * across_y
    # Points on one line span no face; those of padding are all at one place.
    area = jnp.where(jnp.abs(area) < 1e-4, 1e-4, area)
    down = ((y - middle_y) * across_x - (x - middle_x) * across_y) / area
    across = ((x - middle_x) * down_y - (y - middle_y) * down_x) / area
    return down, across


def bend(
    y: jax.Array, x: jax.Array, key: jax.Array, *, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Coordinates in sides, displaced by three slow waves per axis, each of up to
    `size` and three periods over the side."""
    frequency, phase, share = uniforms(key, (2, 3, 2), (2, 3, 1, 1), (2, 3, 1, 1))
    turns = 3 * (frequency[..., :1, None] * y + frequency[..., 1:, None] * x) + phase
    waves = share * jnp.sin(2 * jnp.pi * turns)
    shift_y, shift_x = jnp.sum(size * waves, axis=1)
    return y + shift_y, x + shift_x
