"""What happens to videos on their way to a viewer, in five strengths a family.

The families are those of DeeperForensics-1.0 (Jiang et al., CVPR 2020), with which
robustness is usually reported, and those of re-uploads beside them; the strengths are
this project's own. All but h264 are arithmetic on a device; that one is a real
encoder's work, see data/reencode.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fakedetect_jax.augment import pixels

SIDE = 224  # of the crop whose pixels a blur is given in


class Family(NamedTuple):
    """One way to lose quality; strengths: of the five levels, from mild to severe."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    # (planes float32[3,T,H,W], strength, key) -> planes; None: not on a device.
    apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None


def _blur(planes: jax.Array, sigma: jax.Array, _) -> jax.Array:
    height, width = planes.shape[2:]
    rows, columns = (
        pixels.blur_matrix(side, sigma=sigma * side / SIDE) for side in (height, width)
    )
    return pixels.resample(planes, rows, columns)


def _rescale(planes: jax.Array, factor: jax.Array, _) -> jax.Array:
    height, width = planes.shape[2:]
    rows, columns = (
        pixels.rescale_matrix(side, factor=factor) for side in (height, width)
    )
    return pixels.resample(planes, rows, columns)


def _pixelate(planes: jax.Array, width: jax.Array, _) -> jax.Array:
    """Squares of one colour, so many pixels wide."""

    def matrix(side: int) -> jax.Array:
        block = jnp.floor(jnp.arange(side) / width)
        same = (block[:, None] == block[None, :]).astype(jnp.float32)
        return same / jnp.sum(same, axis=-1, keepdims=True)

    return pixels.resample(planes, matrix(planes.shape[2]), matrix(planes.shape[3]))


def _noise(planes: jax.Array, deviation: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.clip(planes + deviation * jax.random.normal(key, planes.shape), 0, 1)


def _darken(planes: jax.Array, factor: jax.Array, _) -> jax.Array:
    return planes * factor


def _contrast(planes: jax.Array, factor: jax.Array, _) -> jax.Array:
    return 0.5 + (planes - 0.5) * factor


def _saturation(planes: jax.Array, factor: jax.Array, _) -> jax.Array:
    return pixels.recolour(
        planes, pixels.colour_matrix(saturation=factor), jnp.zeros(3)
    )


def _jpeg(planes: jax.Array, quality: jax.Array, _) -> jax.Array:
    return pixels.jpeg(planes, quality, subsample=True)


def _drop(planes: jax.Array, share: jax.Array, key: jax.Array) -> jax.Array:
    """Frames that show the one before them, as where a stream stalls."""
    count = planes.shape[1]
    lost = (jax.random.uniform(key, (count,)) < share).at[0].set(False)
    shown = jax.lax.cummax(jnp.where(lost, 0, jnp.arange(count)))
    return planes[:, shown]


FAMILIES = (
    Family("jpeg", "quality", (80, 60, 40, 20, 10), _jpeg),
    Family("h264", "CRF", (23, 28, 33, 38, 43), None),
    Family("blur", "sigma, pixels", (1, 2, 3, 4.5, 6), _blur),
    Family("rescale", "times smaller", (1.5, 2, 3, 4, 6), _rescale),
    Family("pixelate", "pixels a square", (2, 3, 4, 6, 8), _pixelate),
    Family("noise", "deviation of 1", (0.02, 0.04, 0.07, 0.1, 0.15), _noise),
    Family("brightness", "factor", (0.8, 0.65, 0.5, 0.35, 0.2), _darken),
    Family("contrast", "factor", (0.85, 0.7, 0.55, 0.4, 0.25), _contrast),
    Family("saturation", "factor", (0.8, 0.6, 0.4, 0.2, 0), _saturation),
    Family("frame drop", "share of frames", (0.1, 0.2, 0.4, 0.6, 0.8), _drop),
)


def degrade_clips(
    frames_BTHWC: jax.Array, family: Family, strength: jax.Array, index_B: jax.Array
) -> jax.Array:
    """Clips in [0, 1] as they arrive; same shape, in the 256 levels of stored frames.

    Draws follow from the clip's index and the family alone, so that every model and
    every level sees the same ones.
    """
    number = FAMILIES.index(family)
    apply = family.apply
    if apply is None:
        raise ValueError(f"{family.name} is not made on a device")
    key = jax.random.fold_in(jax.random.key(0), number)

    def one(frames: jax.Array, index: jax.Array) -> jax.Array:
        planes = pixels.to_planes(frames)
        changed = apply(planes, strength, jax.random.fold_in(key, index))
        return pixels.to_frames(pixels.to_bytes_and_back(changed))

    return jax.vmap(one)(frames_BTHWC, index_B)
