"""Pixel operations on planar clips; no randomness, no choice, only arithmetic.

Legend: C = 3 channels (RGB), T frames, H rows, W columns, S a side. Planes are
float32[C,T,H,W] in [0, 1]. Resizing, shifting and blurring are products with one matrix
per axis, so they compose by multiplying small matrices and cost one pass over pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np

Scalar = jax.Array | float
EXACT = jax.lax.Precision.HIGHEST  # TF32 or bfloat16 products would add noise
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_planes(frames_THWC: jax.Array) -> jax.Array:
    """[T,H,W,3] of any float type -> float32[3,T,H,W]."""
    return jnp.moveaxis(frames_THWC.astype(jnp.float32), -1, 0)


def to_frames(planes_CTHW: jax.Array) -> jax.Array:
    """[3,T,H,W] -> [T,H,W,3]."""
    return jnp.moveaxis(planes_CTHW, 0, -1)


def resample(planes_CTHW: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Apply one matrix per axis: rows [H,H] or [T,H,H], columns [W,W] or [T,W,W].

    A matrix whose rows are weights (none negative, sum 1) keeps the range.
    """
    per_frame = "t" if rows.ndim == 3 else ""
    tall = jnp.einsum(f"{per_frame}oh,cthw->ctow", rows, planes_CTHW, precision=EXACT)
    return jnp.einsum(f"ctow,{per_frame}pw->ctop", tall, columns, precision=EXACT)


def _unit_rows(weights: jax.Array) -> jax.Array:
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def zoom_matrix(side: int, *, scale: Scalar, shift: Scalar) -> jax.Array:
    """[S,S] of linear interpolation that zooms about the centre, edges repeated.

    Args:
      side: S in pixels.
      scale: source pixels per output pixel; below 1 magnifies. 1 with shift 0 is I.
      shift: of the window over the source, in sides.
    """
    middle = (side - 1) / 2
    out = jnp.arange(side, dtype=jnp.float32)
    source = middle + (out - middle) * scale + shift * side
    source = jnp.clip(source, 0, side - 1)
    distance = jnp.abs(source[:, None] - out[None, :])
    return jnp.maximum(1.0 - distance, 0.0)


def blur_matrix(side: int, *, sigma: Scalar) -> jax.Array:
    """[S,S] of a Gaussian of sigma pixels, renormalised at the edges; sigma 0 is I."""
    position = jnp.arange(side, dtype=jnp.float32)
    distance = position[:, None] - position[None, :]
    spread = jnp.maximum(sigma, 0.05)  # at 0.05 the neighbours' weights underflow to 0
    return _unit_rows(jnp.exp(-0.5 * (distance / spread) ** 2))


def rescale_matrix(side: int, *, factor: Scalar) -> jax.Array:
    """[S,S] that shrinks a side by factor >= 1 (antialiased) and enlarges it again.

    Both ways a triangle filter, as wide as the larger of the two pixels; factor 1 is I.
    """
    grid = jnp.arange(side, dtype=jnp.float32)
    small_side = jnp.maximum(jnp.round(side / factor), 1.0)
    step = side / small_side  # source pixels per small pixel
    small_centre = (grid + 0.5) * step - 0.5  # of each small pixel, in source pixels
    down = _unit_rows(
        jnp.maximum(1.0 - jnp.abs(small_centre[:, None] - grid) / step, 1e-12)
    )
    wanted = jnp.clip((grid + 0.5) / step - 0.5, 0, small_side - 1)
    up = jnp.maximum(1.0 - jnp.abs(wanted[:, None] - grid), 0.0)
    return jnp.matmul(up, down, precision=EXACT)


def colour_matrix(
    *, contrast: Scalar = 1.0, saturation: Scalar = 1.0, hue: Scalar = 0.0
) -> jax.Array:
    """[3,3] acting on RGB columns: hue turn, then saturation, then contrast.

    Args:
      contrast: factor on all channels.
      saturation: 0 leaves grey (BT.601 luma), 1 changes nothing.
      hue: angle in turns about the grey axis (Rodrigues' rotation formula).
    """
    angle = 2 * jnp.pi * hue
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3)
    turn = cos * jnp.eye(3) + sin * cross + (1 - cos) * np.full((3, 3), 1 / 3)
    grey = np.tile(np.array(LUMA, np.float32), (3, 1))
    vivid = saturation * jnp.eye(3) + (1 - saturation) * grey
    return contrast * jnp.matmul(vivid, turn, precision=EXACT)


def recolour(
    planes_CTHW: jax.Array, matrix_CC: jax.Array, offset_C: jax.Array
) -> jax.Array:
    """matrix x RGB + offset for each pixel, clipped to [0, 1]."""
    # Written out: three fused multiply-adds beat a product with a 3-wide matrix.
    red, green, blue = planes_CTHW
    weight = matrix_CC[:, :, None, None, None]
    offset = offset_C[:, None, None, None]
    mixed = weight[:, 0] * red + weight[:, 1] * green + weight[:, 2] * blue
    return jnp.clip(mixed + offset, 0.0, 1.0)


def sharpen(planes_CTHW: jax.Array, low_pass: jax.Array, amount: Scalar) -> jax.Array:
    """Move away from low_pass by amount; amount -1 is low_pass itself. Clipped."""
    return jnp.clip(planes_CTHW + amount * (planes_CTHW - low_pass), 0.0, 1.0)


def to_bytes_and_back(planes: jax.Array) -> jax.Array:
    """Round to the 256 levels that a stored frame has."""
    return jnp.round(planes * 255.0) / 255.0


# --- JPEG (ITU-T T.81), the lossy part: colour, subsampling, DCT, quantisation.

# Annex K, tables K.1 and K.2, for quality 50.
LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)  # fmt: skip


def quantisation_table(table: tuple[int, ...], quality: Scalar) -> jax.Array:
    """float32[64]: an Annex K table at a quality of 1..100, as libjpeg scales it."""
    scale = jnp.where(quality < 50, jnp.floor(5000.0 / quality), 200.0 - 2.0 * quality)
    steps = jnp.floor((np.array(table, np.float32) * scale + 50.0) / 100.0)
    return jnp.clip(steps, 1.0, 255.0)


def dct_basis() -> np.ndarray:
    """float32[64,64]: orthonormal 2-D DCT-II of an 8x8 block, pixels -> frequencies."""
    k = np.arange(8)
    basis = np.sqrt(2 / 8) * np.cos(np.pi * k[:, None] * (2 * k[None, :] + 1) / 16)
    basis[0] /= np.sqrt(2)
    return np.kron(basis, basis).astype(np.float32)


def _quantise_plane(plane_THW: jax.Array, table_64: jax.Array) -> jax.Array:
    """One plane of levels around 0 through DCT, quantisation and back."""
    frames, height, width = plane_THW.shape
    tiles = plane_THW.reshape(frames, height // 8, 8, width // 8, 8)
    blocks = jnp.swapaxes(tiles, 2, 3).reshape(-1, 64)
    basis = dct_basis()
    frequencies = jnp.matmul(blocks, basis.T, precision=EXACT)
    ratio = frequencies / table_64
    # libjpeg rounds halves away from zero; flat blocks of 8-bit levels meet them often.
    kept = jnp.sign(ratio) * jnp.floor(jnp.abs(ratio) + 0.5) * table_64
    blocks = jnp.matmul(kept, basis, precision=EXACT)
    tiles = blocks.reshape(frames, height // 8, width // 8, 8, 8)
    return jnp.swapaxes(tiles, 2, 3).reshape(plane_THW.shape)


def _halve(plane_THW: jax.Array) -> jax.Array:
    """Means of 2x2 whole levels; halves go down and up in turn, as in libjpeg."""
    frames, height, width = plane_THW.shape
    quads = plane_THW.reshape(frames, height // 2, 2, width // 2, 2)
    bias = 1.0 + np.arange(width // 2) % 2
    return jnp.floor((quads.sum((2, 4)) + bias) / 4)


def _double_last(plane: jax.Array) -> jax.Array:
    """Twice the last axis by weights 3/4 and 1/4 (libjpeg's "fancy upsampling")."""
    before = jnp.concatenate([plane[..., :1], plane[..., :-1]], axis=-1)
    after = jnp.concatenate([plane[..., 1:], plane[..., -1:]], axis=-1)
    pair = jnp.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], -1)
    return pair.reshape(*plane.shape[:-1], -1)


def _double(plane_THW: jax.Array) -> jax.Array:
    tall = jnp.swapaxes(_double_last(jnp.swapaxes(plane_THW, 1, 2)), 1, 2)
    return _double_last(tall)


def jpeg(planes_CTHW: jax.Array, quality: Scalar, *, subsample: bool) -> jax.Array:
    """What a baseline JPEG file of each frame would decode to, in 8-bit levels.

    Args:
      planes_CTHW: RGB in [0, 1], any size (edges are repeated up to whole blocks).
      quality: libjpeg's scale, 1..100.
      subsample: 4:2:0 (chroma at half size both ways) rather than 4:4:4.
    """
    height, width = planes_CTHW.shape[2:]
    block = 16 if subsample else 8
    margins = ((0, 0), (0, 0), (0, -height % block), (0, -width % block))
    red, green, blue = jnp.round(jnp.pad(planes_CTHW, margins, mode="edge") * 255.0)
    luma = jnp.round(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    # 1.772 and 1.402 are 2 (1 - blue's luma) and 2 (1 - red's luma).
    exact_luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    chroma = [
        jnp.round((blue - exact_luma) / 1.772),
        jnp.round((red - exact_luma) / 1.402),
    ]
    if subsample:
        chroma = [_halve(plane) for plane in chroma]
    luma = _quantise_plane(luma - 128.0, quantisation_table(LUMA_TABLE, quality))
    luma = jnp.clip(jnp.round(luma + 128.0), 0.0, 255.0)
    table = quantisation_table(CHROMA_TABLE, quality)
    chroma = [
        jnp.clip(jnp.round(_quantise_plane(plane, table)), -128.0, 127.0)
        for plane in chroma
    ]
    if subsample:
        chroma = [jnp.round(_double(plane)) for plane in chroma]
    blue_part, red_part = chroma
    decoded = jnp.stack(
        [
            luma + 1.402 * red_part,
            luma - (0.114 * 1.772 * blue_part + 0.299 * 1.402 * red_part) / 0.587,
            luma + 1.772 * blue_part,
        ]
    )
    levels = jnp.clip(jnp.round(decoded), 0.0, 255.0)
    return levels[:, :, :height, :width] / 255.0
