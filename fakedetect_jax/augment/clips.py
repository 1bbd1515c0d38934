"""Clip augmentation inside the training step: one draw per clip, all its frames alike.

A draw depends on the key (seed and step) and the clip's index alone, not on where in
which batch the clip stands, nor on which other operations are on.
"""

import math

import jax
import jax.numpy as jnp

from fakedetect_jax.augment import pixels
from fakedetect_jax.augment.fields import OPERATIONS, Augmentation


def augment_clips(
    frames_BTHWC: jax.Array,
    *,
    key: jax.Array,
    index_B: jax.Array,
    settings: Augmentation,
) -> jax.Array:
    """The clips, changed as settings say; same shape and type, still in [0, 1].

    Args:
      frames_BTHWC: float RGB in [0, 1].
      key: of the run's seed and the step.
      index_B: int32[B], the clips' indices; equal index and key give equal draws.
      settings: what is done, and how strongly.
    """
    if not any(getattr(settings, name) for name in OPERATIONS):
        return frames_BTHWC

    def one_clip(frames_THWC, index):
        return augment_clip(frames_THWC, jax.random.fold_in(key, index), settings)

    return jax.vmap(one_clip)(frames_BTHWC, index_B)


def augment_clip(
    frames_THWC: jax.Array, key: jax.Array, settings: Augmentation
) -> jax.Array:
    """One clip through every operation that is on, in the order light meets them."""
    planes = pixels.to_planes(frames_THWC)
    for name, operation in (
        ("flip", flip),
        ("geometry", change_geometry),
        ("brightness_contrast", change_brightness_contrast),
        ("hue_saturation", change_hue_saturation),
        ("gamma", change_gamma),
        ("noise", add_noise),
        ("jpeg", compress),
        ("frame_drop", drop_frames),
        ("cutout", cut_out),
    ):
        if name == "geometry" or getattr(settings, name):
            planes = operation(planes, key, settings)
    return pixels.to_frames(planes).astype(frames_THWC.dtype)


def augment_masks(
    masks_BTMM: jax.Array,
    *,
    key: jax.Array,
    index_B: jax.Array,
    settings: Augmentation,
) -> jax.Array:
    """Masks of clips, moved as augment_clips moves their frames by equal arguments.

    What flip, crop and frame_drop do is done; a mask stays where a clip is blurred,
    recoloured or covered. masks_BTMM: float, forged share of each place.
    """
    moving = {name: getattr(settings, name) for name in ("flip", "crop", "frame_drop")}
    if not any(moving.values()):
        return masks_BTMM
    only = settings._replace(**dict.fromkeys(OPERATIONS, 0.0) | moving)

    def one_clip(mask_TMM, index):
        clip_key, planes = jax.random.fold_in(key, index), mask_TMM[None]
        for name, operation in (
            ("flip", flip),
            ("crop", change_geometry),
            ("frame_drop", drop_frames),
        ):
            if moving[name]:
                planes = operation(planes, clip_key, only)
        return planes[0]

    return jax.vmap(one_clip)(masks_BTMM, index_B)


def _key_of(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, OPERATIONS.index(name))


def _draw(key: jax.Array, name: str, settings: Augmentation):
    """Whether this operation changes the clip, and four uniform draws for how."""
    choice, *draws = jax.random.uniform(_key_of(key, name), (5,))
    return choice < getattr(settings, name), jnp.stack(draws)


def _within(draw: jax.Array, bound: float) -> jax.Array:
    """[0, 1) -> [-bound, bound)."""
    return bound * (2.0 * draw - 1.0)


def flip(planes, key, settings: Augmentation):
    """Mirror left and right."""
    chosen, _ = _draw(key, "flip", settings)
    return jnp.where(chosen, planes[..., ::-1], planes)


def change_geometry(planes, key, settings: Augmentation):
    """Crop, blur and down-up scaling: one matrix per axis each, applied as one."""
    height, width = planes.shape[2:]
    axes = []
    if settings.crop:
        axes.append(_crop_matrices(key, settings, height, width))
    if settings.blur:
        chosen, draws = _draw(key, "blur", settings)
        sigma = chosen * draws[0] * settings.blur_sigma
        axes.append([pixels.blur_matrix(side, sigma=sigma) for side in (height, width)])
    if settings.downscale:
        chosen, draws = _draw(key, "downscale", settings)
        factor = settings.downscale_factor ** (chosen * draws[0])
        axes.append(
            [pixels.rescale_matrix(side, factor=factor) for side in (height, width)]
        )
    if not axes:
        return planes
    rows, columns = axes[0]
    for more_rows, more_columns in axes[1:]:
        rows = jnp.matmul(more_rows, rows, precision=pixels.EXACT)
        columns = jnp.matmul(more_columns, columns, precision=pixels.EXACT)
    return jnp.clip(pixels.resample(planes, rows, columns), 0.0, 1.0)


def _crop_matrices(key, settings: Augmentation, height: int, width: int):
    chosen, draws = _draw(key, "crop", settings)
    scale = 1.0 + chosen * _within(draws[0], settings.crop_scale)
    shift = chosen * _within(draws[1:3], settings.crop_shift)
    return [
        pixels.zoom_matrix(side, scale=scale, shift=shift[axis])
        for axis, side in enumerate((height, width))
    ]


def change_brightness_contrast(planes, key, settings: Augmentation):
    """A factor about mid-grey and an offset, the same for all channels."""
    chosen, draws = _draw(key, "brightness_contrast", settings)
    light = chosen * _within(draws[0], settings.brightness)
    contrast = 1.0 + chosen * _within(draws[1], settings.contrast)
    return jnp.clip(contrast * (planes - 0.5) + 0.5 + light, 0.0, 1.0)


def change_hue_saturation(planes, key, settings: Augmentation):
    """Turn colours about the grey axis and stretch their distance from grey."""
    chosen, draws = _draw(key, "hue_saturation", settings)
    matrix = pixels.colour_matrix(
        saturation=1.0 + chosen * _within(draws[1], settings.saturation),
        hue=chosen * _within(draws[0], settings.hue),
    )
    return pixels.recolour(planes, matrix, jnp.zeros(3))


def change_gamma(planes, key, settings: Augmentation):
    """Raise to a power around 1."""
    chosen, draws = _draw(key, "gamma", settings)
    exponent = 2.0 ** (chosen * _within(draws[0], settings.gamma_octaves))
    return jnp.where(chosen, planes**exponent, planes)


def add_noise(planes, key, settings: Augmentation):
    """Gaussian noise of one strength, drawn anew for each frame as a sensor does."""
    chosen, draws = _draw(key, "noise", settings)
    sigma = chosen * draws[0] * settings.noise_sigma
    field_key = jax.random.fold_in(_key_of(key, "noise"), 1)
    # Frames lead, so that the two samples of a random word fall on different frames.
    shape = (planes.shape[1], planes.shape[0], *planes.shape[2:])
    field = jnp.swapaxes(near_gaussian(field_key, shape), 0, 1)
    return jnp.clip(planes + sigma * field, 0.0, 1.0)


def near_gaussian(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 of mean 0 and variance 1, close to Gaussian, within +-3.3.

    The sum of four 4-bit numbers, two samples from each random word: random words are
    what noise costs on a CPU. Its levels lie 0.11 apart, far below an 8-bit level at
    the strengths that frames can bear.
    """
    half = -(-shape[0] // 2)
    words = jax.random.bits(key, (half, *shape[1:]), jnp.uint32)
    fields = [(words >> shift) & 15 for shift in range(0, 32, 4)]
    sums = jnp.concatenate([sum(fields[:4]), sum(fields[4:])])[: shape[0]]
    mean, variance = 4 * 7.5, 4 * (16**2 - 1) / 12
    return (sums.astype(jnp.float32) - mean) / math.sqrt(variance)


def compress(planes, key, settings: Augmentation):
    """JPEG of one quality for the clip."""
    chosen, draws = _draw(key, "jpeg", settings)
    quality = jnp.floor(
        settings.jpeg_quality + draws[0] * (101 - settings.jpeg_quality)
    )
    subsample = settings.jpeg_subsampling == "420"
    return jnp.where(chosen, pixels.jpeg(planes, quality, subsample=subsample), planes)


def drop_frames(planes, key, settings: Augmentation):
    """Frames lost on the way: each one shows the last frame that was kept."""
    chosen, _ = _draw(key, "frame_drop", settings)
    count = planes.shape[1]
    frame_key = jax.random.fold_in(_key_of(key, "frame_drop"), 1)
    lost = chosen & jax.random.bernoulli(frame_key, settings.frame_drop_rate, (count,))
    shown = jax.lax.cummax(jnp.where(lost, 0, jnp.arange(count)))
    return jnp.take(planes, shown, axis=1)


def cut_out(planes, key, settings: Augmentation):
    """A mid-grey rectangle at one place (DeVries & Taylor 2017)."""
    chosen, draws = _draw(key, "cutout", settings)
    sides, centre = settings.cutout_side * draws[:2], draws[2:]
    inside = [
        jnp.abs((jnp.arange(size) + 0.5) / size - centre[axis]) < sides[axis] / 2
        for axis, size in enumerate(planes.shape[2:])
    ]
    hole = chosen & inside[0][:, None] & inside[1][None, :]
    return jnp.where(hole, 0.5, planes)
