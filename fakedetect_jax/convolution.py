"""Convolution and max-pooling for the ResNet, with derivatives that suit a CPU.

XLA's CPU backend has fast matrix products, but slower convolutions, much slower kernel
gradients (it first moves the batch to the innermost dimension) and strided input
gradients (it convolves a gradient dilated with zeros). On a CPU nearly all become
matrix products, a few images at a time, so that what lies between never leaves the
cache: 1x1 convolutions as they are, 3x3 convolutions of wide layers by Winograd's
minimal filtering, other gradients, and in bfloat16 other convolutions, over unrolled
windows. Other platforms get the plain operation and its own derivatives.

Shape letters: N images, H W pixels, I input and O output channels, h w kernel size, P Q
output pixels; of Winograd's method, K = 16 points and M tiles of 2x2 output pixels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Both per axis, rows then columns; pads are (before, after).
Pads = tuple[tuple[int, int], ...]
Strides = tuple[int, ...]

# Unrolled windows handled at once. Measured on cores with 1 MiB of second-level and
# 16 MiB of shared cache each: flat between 2 and 8 MiB, half the speed at 40 MiB.
CHUNK_BYTES = 4 * 2**20

# The same for Winograd's tiles and their products: flat between 12 and 24 MiB.
TILE_BYTES = 22 * 2**20
# Channels from which on Winograd's method is faster, for images and for the kernel.
MIN_CHANNELS, MIN_CHANNELS_KERNEL = 32, 96

# F(2x2, 3x3) of Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
# section 4.1: y = OUT [(KERNEL g KERNEL^T) * (IN d IN^T)] OUT^T for every tile d of 4x4
# pixels: 16 products in place of 36. Its numbers are small, and so is its error.
WINOGRAD_IN = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WINOGRAD_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
WINOGRAD_OUT = ((1, 1, 1, 0), (0, 1, -1, -1))

Matrix = Sequence[Sequence[float]]


def conv2d(
    x_NHWI: jax.Array,
    kernel_hwIO: jax.Array,
    *,
    strides: Strides = (1, 1),
    padding: Pads = ((0, 0), (0, 0)),
) -> jax.Array:
    """Cross-correlation [N,P,Q,O] of zero-padded images with a kernel."""
    return _conv2d(x_NHWI, kernel_hwIO, strides, padding)


def plain_conv2d(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, strides: Strides, padding: Pads
) -> jax.Array:
    """The compiler's own convolution."""
    return lax.conv_general_dilated(
        x_NHWI,
        kernel_hwIO,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, strides: Strides, padding: Pads
) -> jax.Array:
    plain = functools.partial(plain_conv2d, strides=strides, padding=padding)
    if _is_pointwise(kernel_hwIO.shape, padding):
        product = functools.partial(cpu_pointwise, strides=strides)
    elif _fits_winograd(x_NHWI, kernel_hwIO.shape, strides, MIN_CHANNELS):
        product = functools.partial(cpu_winograd, padding=padding)
    elif x_NHWI.dtype == jnp.bfloat16 and isinstance(x_NHWI.shape[0], int):
        product = functools.partial(cpu_unrolled, strides=strides, padding=padding)
    else:
        return plain(x_NHWI, kernel_hwIO)
    return lax.platform_dependent(x_NHWI, kernel_hwIO, cpu=product, default=plain)


def _conv2d_forward(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, strides: Strides, padding: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv2d(x_NHWI, kernel_hwIO, strides, padding), (x_NHWI, kernel_hwIO)


def _conv2d_backward(
    strides: Strides,
    padding: Pads,
    saved: tuple[jax.Array, jax.Array],
    dy_NPQO: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    # One choice per gradient: where one of them is not used, as the images' own, the
    # compiler then leaves it out.
    def cpu_input(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return cpu_input_gradient(dy, kernel, x.shape, strides, padding)

    def cpu_kernel(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return cpu_kernel_gradient(x, dy, kernel.shape, strides, padding)

    def plain_input(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: plain_conv2d(x, kernel, strides, padding), x)[1](dy)[0]

    def plain_kernel(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda k: plain_conv2d(x, k, strides, padding), kernel)[1](dy)[0]

    arguments = (*saved, dy_NPQO)
    dkernel = lax.platform_dependent(*arguments, cpu=cpu_kernel, default=plain_kernel)
    if (
        strides == (1, 1)
        and not _is_pointwise(saved[1].shape, padding)
        and not _fits_winograd(dy_NPQO, saved[1].shape, strides, MIN_CHANNELS)
    ):
        return plain_input(*arguments), dkernel
    dx = lax.platform_dependent(*arguments, cpu=cpu_input, default=plain_input)
    return dx, dkernel


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def cpu_pointwise(
    x_NHWI: jax.Array, kernel_11IO: jax.Array, *, strides: Strides
) -> jax.Array:
    """A 1x1 convolution as a matrix product."""
    return _product(x_NHWI[:, :: strides[0], :: strides[1]], kernel_11IO[0, 0])


def cpu_unrolled(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, *, strides: Strides, padding: Pads
) -> jax.Array:
    """A convolution as a matrix product over unrolled windows.

    Worth it in bfloat16 alone, in which XLA multiplies matrices up to twice as fast as
    in float32 and convolves no faster.
    """
    kernel_KO = kernel_hwIO.reshape(-1, kernel_hwIO.shape[-1])
    windows = functools.partial(
        _windows, size=kernel_hwIO.shape[:2], strides=strides, padding=padding
    )
    one_NPQK = jax.eval_shape(windows, x_NHWI[:1])
    per_image = one_NPQK.size * x_NHWI.dtype.itemsize
    shape_PQO = (*one_NPQK.shape[1:3], kernel_KO.shape[1])

    def of_shard(x_NHWI: jax.Array) -> jax.Array:
        count = x_NHWI.shape[0]
        chunk = _chunk_size(count, per_image, CHUNK_BYTES)

        def fill(i: jax.Array, y_NPQO: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            y_CPQO = _product(windows(x_CHWI), kernel_KO)
            return lax.dynamic_update_slice_in_dim(y_NPQO, y_CPQO, i * chunk, 0)

        zeros = jnp.zeros((count, *shape_PQO), x_NHWI.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    return _over_shards(of_shard, x_NHWI).reshape(x_NHWI.shape[0], *shape_PQO)


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
        chunk = _chunk_size(count, per_image, TILE_BYTES)
        if chunk == count:
            return of_chunk(x_NHWI)

        def fill(i: jax.Array, y_NPQO: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            y_CPQO = of_chunk(x_CHWI)
            return lax.dynamic_update_slice_in_dim(y_NPQO, y_CPQO, i * chunk, 0)

        zeros = jnp.zeros((count, *sizes, outputs), x_NHWI.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    y = _over_shards(of_shard, x_NHWI)
    return y.reshape(x_NHWI.shape[0], *sizes, outputs)


def cpu_winograd_kernel_gradient(
    x_NHWI: jax.Array, dy_NPQO: jax.Array, padding: Pads
) -> jax.Array:
    """Gradient [3,3,I,O] of the kernel of `cpu_winograd`, by its own transposes."""
    sizes, inputs, outputs = dy_NPQO.shape[1:3], x_NHWI.shape[-1], dy_NPQO.shape[-1]
    per_image = 16 * _num_tiles(sizes) * (inputs + outputs) * 4

    def of_shard(x_NHWI: jax.Array, dy_NPQO: jax.Array) -> list[jax.Array]:
        count = x_NHWI.shape[0]
        chunk = _chunk_size(count, per_image, TILE_BYTES)

        def of_chunk(i: jax.Array | int) -> list[jax.Array]:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            tiles_KMI = _input_tiles(x_CHWI, padding)
            return [
                _outer_sum(tiles_MI, tiles_MO)
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

    totals_KIO = [a.sum(axis=0) for a in _over_shards(of_shard, x_NHWI, dy_NPQO)]
    taps = _apply_twice(
        _transposed(WINOGRAD_KERNEL), lambda i, j: totals_KIO[4 * i + j]
    )
    kernel = jnp.stack(taps).reshape(3, 3, inputs, outputs)
    return kernel.astype(x_NHWI.dtype)


def cpu_input_gradient(
    dy_NPQO: jax.Array,
    kernel_hwIO: jax.Array,
    shape_NHWI: Sequence[int],
    strides: Strides,
    padding: Pads,
) -> jax.Array:
    """Gradient [N,H,W,I] of the images: of a 1x1, a strided or a 3x3 convolution."""
    _, height, width, _ = shape_NHWI
    if _fits_winograd(dy_NPQO, kernel_hwIO.shape, strides, MIN_CHANNELS):
        return cpu_winograd_input_gradient(dy_NPQO, kernel_hwIO, padding=padding)
    kernel_hwOI = jnp.swapaxes(kernel_hwIO, 2, 3)
    if _is_pointwise(kernel_hwIO.shape, padding):
        dx = _product(dy_NPQO, kernel_hwOI[0, 0])
        sizes = zip((height, width), dx.shape[1:3], strides, strict=True)
        pads = [(0, size - (out - 1) * s - 1, s - 1) for size, out, s in sizes]
        return lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    per_image = dy_NPQO[0, ..., 0].size * kernel_hwIO[..., 0].size
    per_image *= dy_NPQO.dtype.itemsize

    def of_shard(dy_NPQO: jax.Array) -> jax.Array:
        count = dy_NPQO.shape[0]
        chunk = _chunk_size(count, per_image, CHUNK_BYTES)

        def fill(i: jax.Array, dx_NHWI: jax.Array) -> jax.Array:
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            part_CHWI = _scatter_windows(
                dy_CPQO, kernel_hwOI, (height, width), strides, padding
            )
            return lax.dynamic_update_slice_in_dim(dx_NHWI, part_CHWI, i * chunk, 0)

        zeros = jnp.zeros((count, *shape_NHWI[1:]), dy_NPQO.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    return _over_shards(of_shard, dy_NPQO).reshape(tuple(shape_NHWI))


def cpu_kernel_gradient(
    x_NHWI: jax.Array,
    dy_NPQO: jax.Array,
    shape_hwIO: Sequence[int],
    strides: Strides,
    padding: Pads,
) -> jax.Array:
    """Gradient [h,w,I,O] of the kernel: the sum over windows of window times dy."""
    size, (inputs, outputs) = tuple(shape_hwIO[:2]), shape_hwIO[2:]
    if _is_pointwise(shape_hwIO, padding) and inputs <= outputs:
        x_NPQI = x_NHWI[:, :: strides[0], :: strides[1]]
        total_IO = _outer_sum(x_NPQI, dy_NPQO)  # summed in float32
        return total_IO.reshape(tuple(shape_hwIO)).astype(x_NHWI.dtype)
    if _fits_winograd(x_NHWI, shape_hwIO, strides, MIN_CHANNELS_KERNEL):
        return cpu_winograd_kernel_gradient(x_NHWI, dy_NPQO, padding)

    window = size[0] * size[1] * inputs
    per_image = dy_NPQO[0, ..., 0].size * window * x_NHWI.dtype.itemsize

    def of_shard(x_NHWI: jax.Array, dy_NPQO: jax.Array) -> jax.Array:
        chunk = _chunk_size(x_NHWI.shape[0], per_image, CHUNK_BYTES)

        def add(i: jax.Array, total_OK: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            # The narrower factor first: half again as fast as the other way round.
            windows_CPQK = _windows(x_CHWI, size, strides, padding)
            return total_OK + _outer_sum(dy_CPQO, windows_CPQK)

        zeros_OK = jnp.zeros((outputs, window), jnp.float32)
        return lax.fori_loop(0, x_NHWI.shape[0] // chunk, add, zeros_OK)

    total_OK = _over_shards(of_shard, x_NHWI, dy_NPQO).sum(axis=0)
    return total_OK.T.reshape(tuple(shape_hwIO)).astype(x_NHWI.dtype)


@jax.custom_vjp
def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """Maximum [N,ceil(H/2),ceil(W/2),C] over 3x3 windows at every second pixel.

    The border counts for nothing. Where pixels of a window share the maximum, the
    gradient goes to the first of them, row by row; in float32 on a CPU it goes to each.
    After a ReLU that is seldom seen: nearly all ties of float32 are at 0 there, and the
    ReLU passes no gradient on.
    """
    return lax.platform_dependent(x_NHWC, cpu=cpu_max_pool, default=plain_max_pool)


def _max_pool_forward(x_NHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x_NHWC), x_NHWC


def _max_pool_backward(x_NHWC: jax.Array, dy_NPQC: jax.Array) -> tuple[jax.Array]:
    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(plain_max_pool, x)[1](dy)[0]

    gradient = lax.platform_dependent(
        x_NHWC, dy_NPQC, cpu=cpu_max_pool_gradient, default=plain
    )
    return (gradient,)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def plain_max_pool(x_NHWC: jax.Array) -> jax.Array:
    """The compiler's own window reduction."""
    return lax.reduce_window(
        x_NHWC,
        -float("inf"),
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )


def cpu_max_pool(x_NHWC: jax.Array) -> jax.Array:
    """The maxima of rows, then those of their columns."""
    return _pool_axis(_pool_axis(x_NHWC, 1), 2)


def cpu_max_pool_gradient(x_NHWC: jax.Array, dy_NPQC: jax.Array) -> jax.Array:
    """Gradient [N,H,W,C] of the images: dy where a pixel is its window's maximum.

    bfloat16 has so few values that a few per cent of the maxima above 0 are shared;
    there the first winner alone gets dy. Float32 takes the faster way, all winners.
    """
    return unpool(x_NHWC, dy_NPQC, first=x_NHWC.dtype != jnp.float32)


def unpool(x_NHWC: jax.Array, dy_NPQC: jax.Array, *, first: bool) -> jax.Array:
    """Gradient [N,H,W,C] of the images to the first of equal maxima, or to all."""
    # Rows come first where the first winner is sought, so they are undone last.
    inner, outer = (2, 1) if first else (1, 2)
    part = _pool_axis(x_NHWC, inner)
    y_NPQC = _pool_axis(part, outer)
    dpart = _unpool_axis(part, y_NPQC, dy_NPQC, outer, first=first)
    return _unpool_axis(x_NHWC, part, dpart, inner, first=first)


def _pool_axis(x_NHWC: jax.Array, axis: int) -> jax.Array:
    """max(x[2i-1], x[2i], x[2i+1]): of slices alone, as padding is slow."""
    part = functools.partial(lax.slice_in_dim, axis=axis)
    size = x_NHWC.shape[axis]
    if size == 1:
        return x_NHWC
    even, odd = (part(x_NHWC, i, size, stride=2) for i in (0, 1))
    outs, odds = even.shape[axis], odd.shape[axis]
    first = jnp.maximum(part(even, 0, 1), part(odd, 0, 1))
    middle = jnp.maximum(part(even, 1, odds), part(odd, 1, odds))
    middle = jnp.maximum(middle, part(odd, 0, odds - 1))
    last = jnp.maximum(part(even, odds, outs), part(odd, odds - 1, outs - 1))
    return jnp.concatenate([first, middle, last], axis)


def _unpool_axis(
    x_NHWC: jax.Array, y_NPWC: jax.Array, dy_NPWC: jax.Array, axis: int, *, first: bool
) -> jax.Array:
    """Pixel x[i] is in window i // 2, and for odd i also in the one after it.

    With `first`, a pixel gets nothing from a window in which an earlier one is equal.
    """
    size, outs = x_NHWC.shape[axis], y_NPWC.shape[axis]

    def spread(a: jax.Array) -> jax.Array:  # each window over its two pixels
        wide = jnp.broadcast_to(
            jnp.expand_dims(a, axis + 1),
            (*a.shape[: axis + 1], 2, *a.shape[axis + 1 :]),
        )
        wide = wide.reshape(*a.shape[:axis], 2 * outs, *a.shape[axis + 1 :])
        return lax.slice_in_dim(wide, 0, size, axis=axis)

    def after(a: jax.Array) -> jax.Array:  # nothing flows from behind the last window
        rest = lax.slice_in_dim(a, 1, outs, axis=axis)
        end = jnp.zeros_like(lax.slice_in_dim(a, 0, 1, axis=axis))
        return jnp.concatenate([rest, end], axis)

    def earlier(count: int) -> jax.Array:  # x[i - count]; before the first, nothing
        start = lax.slice_in_dim(x_NHWC, 0, min(count, size), axis=axis)
        rest = lax.slice_in_dim(x_NHWC, 0, max(size - count, 0), axis=axis)
        return jnp.concatenate([jnp.full_like(start, jnp.nan), rest], axis)

    zero = jnp.zeros((), dy_NPWC.dtype)
    is_odd = lax.broadcasted_iota(jnp.int32, x_NHWC.shape, axis) % 2 == 1
    y_own = spread(y_NPWC)
    own = x_NHWC == y_own
    if first:
        own &= (earlier(1) != y_own) & ~(is_odd & (earlier(2) == y_own))
    also = is_odd & (x_NHWC == spread(after(y_NPWC)))
    from_own = jnp.where(own, spread(dy_NPWC), zero)
    return from_own + jnp.where(also, spread(after(dy_NPWC)), zero)


def normalize_batch(
    x_NHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """BatchNorm by the batch's own statistics: y, their mean and variance [C].

    Statistics are float32, taken in one pass as E[x^2] - E[x]^2. The derivative keeps
    x alone, where automatic differentiation also stores the centred x; the returned
    statistics are constants to it.
    """
    return _normalize(x_NHWC, scale_C, bias_C, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(
    x_NHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalize_forward(x_NHWC, scale_C, bias_C, epsilon)[0]


def _normalize_forward(
    x_NHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
):
    wide_NHWC = x_NHWC.astype(jnp.float32)
    mean_C = wide_NHWC.mean(axis=(0, 1, 2))
    square_C = (wide_NHWC * wide_NHWC).mean(axis=(0, 1, 2))
    variance_C = jnp.maximum(square_C - mean_C * mean_C, 0)
    inverse_C = lax.rsqrt(variance_C + epsilon)
    slope_C = inverse_C * scale_C
    y_NHWC = wide_NHWC * slope_C + (bias_C - mean_C * slope_C)
    outputs = (y_NHWC.astype(x_NHWC.dtype), mean_C, variance_C)
    return outputs, (x_NHWC, scale_C, mean_C, inverse_C)


def _normalize_backward(epsilon: float, saved, gradients):
    del epsilon
    x_NHWC, scale_C, mean_C, inverse_C = saved
    dy_NHWC = gradients[0].astype(jnp.float32)
    wide_NHWC = x_NHWC.astype(jnp.float32)
    dbias_C = dy_NHWC.sum(axis=(0, 1, 2))
    dscale_C = ((wide_NHWC - mean_C) * dy_NHWC).sum(axis=(0, 1, 2)) * inverse_C
    # dx = slope * (dy - E[dy] - x_normalised * E[dy * x_normalised]), by powers of x.
    slope_C = inverse_C * scale_C
    count = x_NHWC.size // x_NHWC.shape[-1]
    by_x_C = -slope_C * inverse_C * dscale_C / count
    constant_C = -slope_C * dbias_C / count - mean_C * by_x_C
    dx_NHWC = slope_C * dy_NHWC + by_x_C * wide_NHWC + constant_C
    return dx_NHWC.astype(x_NHWC.dtype), dscale_C, dbias_C


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _is_pointwise(shape_hwIO: Sequence[int], padding: Pads) -> bool:
    return tuple(shape_hwIO[:2]) == (1, 1) and padding == ((0, 0), (0, 0))


def _fits_winograd(
    images: jax.Array, shape_hwIO: Sequence[int], strides: Strides, channels: int
) -> bool:
    """Whether Winograd's method applies, and is worth it from so many channels on."""
    return (
        tuple(shape_hwIO[:2]) == (3, 3)
        and strides == (1, 1)
        and min(shape_hwIO[2:]) >= channels
        and isinstance(images.shape[0], int)  # not a size left open for an export
    )


def _chunk_size(num_images: int, bytes_per_image: int, limit_bytes: int) -> int:
    """The largest divisor of `num_images` within the limit, at least 1."""
    limit = max(1, limit_bytes // bytes_per_image)
    return max(d for d in range(1, min(limit, num_images) + 1) if num_images % d == 0)


def _over_shards(function: Callable[..., Any], *images: jax.Array) -> Any:
    """The arrays of each device's images [N/devices,...], stacked over the devices.

    A loop over images must run inside a shard: a loop over all of them would gather
    them on every device.
    """
    shards = jax.device_count()
    if shards == 1 or images[0].shape[0] % shards:
        return jax.tree.map(lambda a: a[None], function(*images))
    split = [a.reshape(shards, -1, *a.shape[1:]) for a in images]
    return jax.vmap(function)(*split)


def _product(x_NPQI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """The matrix product [N,P,Q,O] over the last axis, in the type of the images.

    Rounded afterwards: a product that is itself bfloat16 takes jax 0.10 twice the time,
    and is no faster with later versions.
    """
    product_NPQO = jnp.matmul(x_NPQI, kernel_IO, preferred_element_type=jnp.float32)
    return product_NPQO.astype(x_NPQI.dtype)


def _outer_sum(a_NPQA: jax.Array, b_NPQB: jax.Array) -> jax.Array:
    """Sum over images and pixels of the outer products, [A,B] in float32."""
    return lax.dot_general(
        a_NPQA.reshape(-1, a_NPQA.shape[-1]),
        b_NPQB.reshape(-1, b_NPQB.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def _windows(
    x_NHWI: jax.Array, size: Sequence[int], strides: Strides, padding: Pads
) -> jax.Array:
    """The pixels under the kernel at every output, [N,P,Q,h*w*I]."""
    padded = jnp.pad(x_NHWI, ((0, 0), *padding, (0, 0)))
    outs = [
        (n - k) // s + 1
        for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)
    ]
    ends = [(out - 1) * s + 1 for out, s in zip(outs, strides, strict=True)]
    if x_NHWI.shape[-1] < MIN_CHANNELS:
        # Along the rows first, then whole rows of windows: fewer and longer pieces to
        # copy, which for three channels is twice as fast.
        rows = [padded[:, :, j : j + ends[1] : strides[1]] for j in range(size[1])]
        wide = jnp.concatenate(rows, axis=-1)
        taps = [wide[:, i : i + ends[0] : strides[0]] for i in range(size[0])]
    else:
        taps = [
            padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
            for i in range(size[0])
            for j in range(size[1])
        ]
    return taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)


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


def _scatter_windows(
    dy_NPQO: jax.Array,
    kernel_hwOI: jax.Array,
    image_size: tuple[int, int],
    strides: Strides,
    padding: Pads,
) -> jax.Array:
    """Every output's gradient times the kernel, added where its window lay.

    Input row `s*i + a` meets tap `t` of output row `i + (a + pad - t) / s`: for each
    phase (a, b) of the strides, some taps of the product, shifted.
    """
    num_images, outputs = dy_NPQO.shape[0], dy_NPQO.shape[-1]
    h, w, _, inputs = kernel_hwOI.shape
    flat_OK = kernel_hwOI.transpose(2, 0, 1, 3).reshape(outputs, -1)
    taps = _product(dy_NPQO, flat_OK).reshape(*dy_NPQO.shape[:3], h, w, inputs)
    counts = [-(-n // s) for n, s in zip(image_size, strides, strict=True)]

    def phase(a: int, b: int) -> jax.Array:
        total = jnp.zeros((num_images, *counts, inputs), dy_NPQO.dtype)
        for i, row in _phase_taps(a, h, strides[0], padding[0][0]):
            for j, column in _phase_taps(b, w, strides[1], padding[1][0]):
                total += _shifted(taps[:, :, :, i, j], (row, column), counts)
        return total

    rows = range(strides[0])
    phases = [[phase(a, b) for b in range(strides[1])] for a in rows]
    merged = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    full = merged.reshape(
        num_images, counts[0] * strides[0], counts[1] * strides[1], inputs
    )
    return full[:, : image_size[0], : image_size[1]]


def _phase_taps(phase: int, size: int, stride: int, pad: int) -> list[tuple[int, int]]:
    """The taps that reach a phase of the input, each with its shift of the output."""
    reaching = [t for t in range(size) if (phase + pad - t) % stride == 0]
    return [(t, (phase + pad - t) // stride) for t in reaching]


def _shifted(
    y_NPQI: jax.Array, shift: tuple[int, int], size: Sequence[int]
) -> jax.Array:
    """`y[i + shift]` for i below `size`, zero outside of y."""
    spans = zip(shift, size, y_NPQI.shape[1:3], strict=True)
    pads = [(-start, start + count - have, 0) for start, count, have in spans]
    zero = jnp.zeros((), y_NPQI.dtype)
    return lax.pad(y_NPQI, zero, ((0, 0, 0), *pads, (0, 0, 0)))
