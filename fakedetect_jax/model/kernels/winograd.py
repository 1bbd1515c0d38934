"""3x3 convolutions of wide layers by Winograd's F(2x2, 3x3)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from fakedetect_jax.model.kernels import chunks
from fakedetect_jax.model.kernels.chunks import Pads, Strides

# Of tiles and their products at a time; the time is flat between 12 and 24 MiB.
TILE_BYTES = 22 * 2**20

# F(2x2, 3x3) of Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
# section 4.1: y = OUT [(KERNEL g KERNEL^T) * (IN d IN^T)] OUT^T for every tile d of 4x4
# pixels: 16 products in place of 36. Its numbers are small, and so is its error.
WINOGRAD_IN = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WINOGRAD_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
WINOGRAD_OUT = ((1, 1, 1, 0), (0, 1, -1, -1))

Matrix = Sequence[Sequence[float]]


def cpu_winograd(
    x_NHWI: jax.Array, kernel_33IO: jax.Array, *, padding: Pads
) -> jax.Array:
    """A 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3)."""
    wide_33IO = kernel_33IO.astype(jnp.float32)
    kernels_KIO = _apply_twice(WINOGRAD_KERNEL, lambda i, j: wide_33IO[i, j])
    return _winograd(x_NHWI, kernels_KIO, 1, padding)


def cpu_winograd_input_gradient(
    dy_NPQO: jax.Array, kernel_33IO: jax.Array, *, padding: Pads
) -> jax.Array:
    """Gradient [N,H,W,I] of the images: the convolution with the mirrored kernel."""
    wide_33IO = kernel_33IO.astype(jnp.float32)
    kernels_KIO = _apply_twice(WINOGRAD_KERNEL, lambda i, j: wide_33IO[i, j])
    # Mirroring a kernel swaps the outer points and leaves the inner ones: no copy of a
    # large kernel is made.
    mirrored = [kernels_KIO[4 * i + j] for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]
    pads = tuple((2 - before, 2 - after) for before, after in padding)
    return _winograd(dy_NPQO, mirrored, 0, pads)


def _winograd(
    x_NHWI: jax.Array, kernels_KIO: Sequence[jax.Array], output: int, padding: Pads
) -> jax.Array:
    """Images [N,P,Q,O] from transformed kernels, whose axis `output` is the new one."""
    outputs = kernels_KIO[0].shape[output]
    sizes = [n + sum(p) - 2 for n, p in zip(x_NHWI.shape[1:3], padding, strict=True)]
    # The products are float32, and so are the tiles while they are added up.
    per_image = 16 * _num_tiles(sizes) * (x_NHWI.shape[-1] + outputs) * 4
    contracted = (((1,), (1 - output,)), ((), ()))

    def of_chunk(x_CHWI: jax.Array) -> jax.Array:
        tiles_KMI = _input_tiles(x_CHWI, padding)
        products = [
            lax.dot_general(
                tiles_MI,
                kernel_IO.astype(x_NHWI.dtype),
                contracted,
                preferred_element_type=jnp.float32,
            )
            for tiles_MI, kernel_IO in zip(tiles_KMI, kernels_KIO, strict=True)
        ]
        y_CPQO = _output_pixels(products, (x_CHWI.shape[0], *sizes))
        return y_CPQO.astype(x_NHWI.dtype)

    def of_shard(x_NHWI: jax.Array) -> jax.Array:
        count = x_NHWI.shape[0]
        chunk = chunks.chunk_size(count, per_image, TILE_BYTES)
        if chunk == count:
            return of_chunk(x_NHWI)

        def fill(i: jax.Array, y_NPQO: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            y_CPQO = of_chunk(x_CHWI)
            return lax.dynamic_update_slice_in_dim(y_NPQO, y_CPQO, i * chunk, 0)

        zeros = jnp.zeros((count, *sizes, outputs), x_NHWI.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    y = chunks.over_shards(of_shard, x_NHWI)
    return y.reshape(x_NHWI.shape[0], *sizes, outputs)


def cpu_winograd_kernel_gradient(
    x_NHWI: jax.Array, dy_NPQO: jax.Array, padding: Pads
) -> jax.Array:
    """Gradient [3,3,I,O] of the kernel of `cpu_winograd`, by its own transposes."""
    sizes, inputs, outputs = dy_NPQO.shape[1:3], x_NHWI.shape[-1], dy_NPQO.shape[-1]
    per_image = 16 * _num_tiles(sizes) * (inputs + outputs) * 4

    def of_shard(x_NHWI: jax.Array, dy_NPQO: jax.Array) -> list[jax.Array]:
        count = x_NHWI.shape[0]
        chunk = chunks.chunk_size(count, per_image, TILE_BYTES)

        def of_chunk(i: jax.Array | int) -> list[jax.Array]:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            tiles_KMI = _input_tiles(x_CHWI, padding)
            return [
                chunks.outer_sum(tiles_MI, tiles_MO)
                for tiles_MI, tiles_MO in zip(
                    tiles_KMI, _output_tiles(dy_CPQO), strict=True
                )
            ]

        def add(i: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
            return [a + b for a, b in zip(totals, of_chunk(i), strict=True)]

        if chunk == count:
            return of_chunk(0)
        zeros = [jnp.zeros((inputs, outputs), jnp.float32)] * 16
        return lax.fori_loop(0, count // chunk, add, zeros)

    totals_KIO = [a.sum(axis=0) for a in chunks.over_shards(of_shard, x_NHWI, dy_NPQO)]
    taps = _apply_twice(
        _transposed(WINOGRAD_KERNEL), lambda i, j: totals_KIO[4 * i + j]
    )
    kernel = jnp.stack(taps).reshape(3, 3, inputs, outputs)
    return kernel.astype(x_NHWI.dtype)


def fits_winograd(
    images: jax.Array, shape_hwIO: Sequence[int], strides: Strides, channels: int
) -> bool:
    """Whether Winograd's method applies, and is worth it from so many channels on."""
    return (
        tuple(shape_hwIO[:2]) == (3, 3)
        and strides == (1, 1)
        and min(shape_hwIO[2:]) >= channels
        and isinstance(images.shape[0], int)  # not a size left open for an export
    )


def _apply_twice(
    matrix: Matrix, part: Callable[[int, int], jax.Array]
) -> list[jax.Array]:
    """matrix @ parts @ matrix^T for the square of parts(i, j), row by row."""
    count = range(len(matrix[0]))
    half = [_combine(matrix, [part(i, j) for i in count]) for j in count]
    rows = range(len(matrix))
    return [a for i in rows for a in _combine(matrix, [half[j][i] for j in count])]


def _combine(matrix: Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """matrix @ parts, as the few additions that it is."""
    rows = [[(f, p) for f, p in zip(row, parts, strict=True) if f] for row in matrix]
    scaled = [
        [p if f == 1 else -p if f == -1 else p * f for f, p in row] for row in rows
    ]
    return [functools.reduce(jnp.add, row) for row in scaled]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _num_tiles(size_PQ: Sequence[int]) -> int:
    return -(-size_PQ[0] // 2) * -(-size_PQ[1] // 2)


def _input_tiles(x_NHWI: jax.Array, padding: Pads) -> list[jax.Array]:
    """The 4x4 tiles under every 2x2 output pixels, transformed: 16 of [M,I].

    Added up in float32, then rounded to the type of the images.
    """
    sizes = zip(x_NHWI.shape[1:3], padding, strict=True)
    counts = [-(-(n + sum(pads) - 2) // 2) for n, pads in sizes]
    sides = [
        (before, 2 * count + 2 - n - before)
        for n, (before, _), count in zip(
            x_NHWI.shape[1:3], padding, counts, strict=True
        )
    ]
    padded = jnp.pad(x_NHWI, ((0, 0), *sides, (0, 0))).astype(jnp.float32)
    ends = [2 * count - 1 for count in counts]
    tiles = _apply_twice(
        WINOGRAD_IN, lambda i, j: padded[:, i : i + ends[0] : 2, j : j + ends[1] : 2]
    )
    return [tile.reshape(-1, tile.shape[-1]).astype(x_NHWI.dtype) for tile in tiles]


def _output_pixels(
    products_KMO: Sequence[jax.Array], shape_NPQ: tuple[int, ...]
) -> jax.Array:
    """The 2x2 output pixels of every tile, side by side: [N,P,Q,O]."""
    num_images, *size = shape_NPQ
    counts = [-(-n // 2) for n in size]
    tiles = [a.reshape(num_images, *counts, -1) for a in products_KMO]
    pixels = _apply_twice(WINOGRAD_OUT, lambda i, j: tiles[4 * i + j])
    rows = [jnp.stack(pixels[i : i + 2], axis=3) for i in (0, 2)]
    merged = jnp.stack(rows, axis=2)
    full = merged.reshape(num_images, 2 * counts[0], 2 * counts[1], -1)
    return full[:, : size[0], : size[1]]


def _output_tiles(dy_NPQO: jax.Array) -> list[jax.Array]:
    """The transpose of `_output_pixels`: 16 of [M,O]."""
    odd = [(0, size % 2) for size in dy_NPQO.shape[1:3]]
    padded = jnp.pad(dy_NPQO, ((0, 0), *odd, (0, 0))).astype(jnp.float32)
    tiles = _apply_twice(_transposed(WINOGRAD_OUT), lambda i, j: padded[:, i::2, j::2])
    return [tile.reshape(-1, tile.shape[-1]).astype(dy_NPQO.dtype) for tile in tiles]
