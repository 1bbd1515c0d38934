"""Self-blended clips: fakes made from real clips alone, on the device.

What is done to a blend and is no blending is done to all other clips too.

After Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022,
from the paper's text. Two deviations. The paper deforms the hull of facial landmarks;
here the mask is a random face-shaped region of the face crop, deformed alike, since a
stored clip has no landmarks. The paper treats images; here one mask and one pair of
transforms serve the whole clip and drift a little over it, as a bad tracker does. The
ranges of the changes are this project's, chosen by eye for small face crops.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fakedetect_jax import imaging

# The paper's blending ratios (section 3.2), drawn with equal chance.
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
# Regions as (centre y, centre x, semi-axis y, semi-axis x) in sides of a face crop
# whose face box is 1/1.3 of the side: whole face, lower half, mouth, eyes.
REGIONS = (
    (0.52, 0.50, 0.36, 0.28),
    (0.62, 0.50, 0.24, 0.26),
    (0.68, 0.50, 0.12, 0.17),
    (0.42, 0.50, 0.13, 0.27),
)


class Stored(NamedTuple):
    """How the dataset's frames are coded, as JPEG."""

    quality: int = 95  # libjpeg's scale
    subsampling: str = "444"  # chroma: 444 | 422 | 420


def self_blend(
    frames_BTHWC: jax.Array,
    blend_B: jax.Array,
    *,
    key: jax.Array,
    index_B: jax.Array,
    stored: Stored,
) -> jax.Array:
    """Turn some clips into self-blended fakes; all others pass all the rest.

    Args:
      frames_BTHWC: float RGB in [0, 1].
      blend_B: bool[B], which clips to blend.
      key: of the run's seed and the step.
      index_B: int32[B], the clips' indices; equal index and key give equal draws.
      stored: how every clip is coded at the end.

    Returns:
      Frames of the same shape and type.
    """

    def one_clip(frames_THWC, blend, index):
        clip_key = jax.random.fold_in(key, index)
        return blend_clip(frames_THWC, blend, clip_key, stored)

    return jax.vmap(one_clip)(frames_BTHWC, blend_B, index_B)


def blend_clip(
    frames_THWC: jax.Array, blend: jax.Array, key: jax.Array, stored: Stored
) -> jax.Array:
    """A clip blended with a changed copy of itself where `blend` says so.

    Outside of the mask a blend gets nothing that other clips don't get: half of the
    clips, blended or not, are changed as a whole (in the paper too the changed target
    is the real partner). Blending wipes out the traces of the frames' coding, so these
    must not tell the labels apart: every clip's blocks are first put out of place, and
    at the end it is coded as stored frames are.
    """
    keys = jax.random.split(key, 6)
    planes = shift_blocks(imaging.to_planes(frames_THWC), keys[5])
    changed = change_statistics(planes, keys[0])
    # The change goes to the source or to the target, never to both (section 3.2).
    into_source = jax.random.bernoulli(keys[1])
    source = jnp.where(into_source, changed, planes)
    target = jnp.where(into_source, planes, changed)
    source = move(source, keys[2])
    ratio = jax.random.choice(keys[3], jnp.array(RATIOS))
    mask_THW = blend * ratio * face_mask(planes.shape[1:], keys[4])
    blended = target + mask_THW * (source - target)
    # Frames stored with 4:2:2 pass 4:2:0: all alike, and their luma as before.
    halved = stored.subsampling != "444"
    coded = imaging.jpeg(blended, stored.quality, subsample=halved)
    return imaging.to_frames(coded).astype(frames_THWC.dtype)


def shift_blocks(planes_CTHW: jax.Array, key: jax.Array) -> jax.Array:
    """Shift by -4 to 3 whole pixels each way, edges repeated: the grid of 8x8 blocks
    lies anywhere, and nothing is made softer."""
    shifts = jax.random.randint(key, (2,), -4, 4)
    for axis, shift in zip((2, 3), shifts, strict=True):
        side = planes_CTHW.shape[axis]
        wanted = jnp.clip(jnp.arange(side) + shift, 0, side - 1)
        planes_CTHW = jnp.take(planes_CTHW, wanted, axis=axis)
    return planes_CTHW


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
    matrix = imaging.colour_matrix(
        contrast=1.0 + 0.1 * contrast,
        saturation=1.0 + 0.3 * saturation,
        hue=0.02 * hue,
    )
    # The contrast turns about mid-grey: half of its excess is taken off again.
    offset_C = 0.06 * shift_C + 0.1 * brightness - 0.05 * contrast
    recoloured = imaging.recolour(planes_CTHW, matrix, offset_C)
    soften, strength = coin < 0, (sharpness + 1) / 2
    # Shrink by up to 2 and enlarge again, or sharpen against what a factor 2 leaves.
    factor = jnp.where(soften, 1.0 + strength, 2.0)
    matrices = [
        imaging.rescale_matrix(side, factor=factor) for side in planes_CTHW.shape[2:]
    ]
    low_pass = imaging.resample(recoloured, *matrices)
    return imaging.sharpen(recoloured, low_pass, jnp.where(soften, -1.0, strength))


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
            imaging.zoom_matrix, side, scale=1.0 + 0.05 * scale[axis]
        )
        matrices.append(
            jax.vmap(lambda shift, place=place: place(shift=shift))(shift_T)
        )
    return imaging.resample(planes_CTHW, *matrices)


def face_mask(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """float32[T,H,W] in [0, 1]: a soft, deformed face region that drifts a little.

    The elastic deformation bends the coordinates by slow waves before the region is
    evaluated; the edge is then blurred by a Gaussian of 1 to 6 % of the side.
    """
    count, height, width = shape
    region_key, form_key, bend_key = jax.random.split(key, 3)
    region = jax.random.choice(region_key, jnp.array(REGIONS))
    place, stretch, wave, softness = uniforms(form_key, (2,), (2,), (2, 2), ())
    axes = region[2:] * (1.0 + 0.15 * stretch)
    drift_T2 = jnp.stack([drift(draws, count) for draws in wave], axis=-1)
    centre_T2 = region[:2] + 0.04 * place + 0.008 * drift_T2
    y, x = jnp.meshgrid(
        (jnp.arange(height) + 0.5) / height,
        (jnp.arange(width) + 0.5) / width,
        indexing="ij",
    )
    y, x = bend(y, x, bend_key)
    down = (y - centre_T2[:, 0, None, None]) / axes[0]
    across = (x - centre_T2[:, 1, None, None]) / axes[1]
    # Distance beyond the edge in units of the smaller axis, as a one-pixel ramp.
    beyond = (jnp.sqrt(across**2 + down**2) - 1.0) * jnp.min(axes)
    mask_THW = jnp.clip(0.5 - beyond * min(height, width), 0.0, 1.0)
    sigma = 0.035 + 0.025 * softness
    blurs = [imaging.blur_matrix(side, sigma=sigma * side) for side in (height, width)]
    return imaging.resample(mask_THW[None], *blurs)[0]


def bend(y: jax.Array, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Coordinates in sides, displaced by three slow waves per axis, each of up to
    2.5 % of the side and three periods over it."""
    frequency, phase, size = uniforms(key, (2, 3, 2), (2, 3, 1, 1), (2, 3, 1, 1))
    turns = 3 * (frequency[..., :1, None] * y + frequency[..., 1:, None] * x) + phase
    shift_y, shift_x = jnp.sum(0.025 * size * jnp.sin(2 * jnp.pi * turns), axis=1)
    return y + shift_y, x + shift_x
