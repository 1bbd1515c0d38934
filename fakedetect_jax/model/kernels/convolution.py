"""Convolution and max-pooling for the ResNet, with derivatives that suit a CPU.

XLA's CPU backend has fast matrix products, but slower convolutions, much slower kernel
gradients (it first moves the batch to the innermost dimension) and strided input
gradients (it convolves a gradient dilated with zeros). On a CPU nearly all become
matrix products, a few images at a time, so that what lies between never leaves the
cache: 1x1 convolutions as they are, 3x3 convolutions of wide layers by Winograd's
minimal filtering, other gradients, and in bfloat16 other convolutions, over unrolled
windows. Other platforms get the plain operation and its own derivatives, NVIDIA's GPUs
also, where statistics are constants, the normalisation that follows in the same one.

Shape letters: N images, H W pixels, I input and O output channels, h w kernel size, P Q
output pixels; of Winograd's method, K = 16 points and M tiles of 2x2 output pixels.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from fakedetect_jax.model.kernels import chunks, winograd
from fakedetect_jax.model.kernels.chunks import Pads, Strides

# Channels from which on Winograd's method is faster, for images and for the kernel.
MIN_CHANNELS, MIN_CHANNELS_KERNEL = 32, 96
# Numbers under a kernel up to which XLA's own convolution is slow: of 3x3x3, the first
# one of a small ResNet, it makes 8 GFLOP/s, over unrolled windows 38; of 7x7x3 234.
MAX_NARROW = 32


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


def scaled_conv2d(
    conv2d: Callable,
    x_NHWI: jax.Array,
    kernel_hwIO: jax.Array,
    slope_O: jax.Array,
    shift_O: jax.Array,
) -> jax.Array:
    """conv2d(images, kernel) times slope plus shift, in the type of the images.

    Kernel, slope and shift are float32. On an NVIDIA GPU the kernel takes the slope.
    """
    arguments = (x_NHWI, kernel_hwIO, slope_O, shift_O)
    ways = {"cuda": folded_conv2d, "default": two_pass_conv2d}
    chosen = {name: functools.partial(way, conv2d) for name, way in ways.items()}
    return lax.platform_dependent(*arguments, **chosen)


def two_pass_conv2d(
    conv2d: Callable,
    x_NHWI: jax.Array,
    kernel_hwIO: jax.Array,
    slope_O: jax.Array,
    shift_O: jax.Array,
) -> jax.Array:
    """The same as a convolution and a pass over what comes out of it."""
    y_NPQO = conv2d(x_NHWI, kernel_hwIO.astype(x_NHWI.dtype))
    scaled_NPQO = y_NPQO.astype(jnp.float32) * slope_O + shift_O
    return scaled_NPQO.astype(x_NHWI.dtype)


def folded_conv2d(
    conv2d: Callable,
    x_NHWI: jax.Array,
    kernel_hwIO: jax.Array,
    slope_O: jax.Array,
    shift_O: jax.Array,
) -> jax.Array:
    """The same with the slope in the kernel and the shift in the images' type.

    Of this form XLA can make cuDNN's convolution with bias and ReLU, which saves a pass
    over what comes out; not measured yet. In bfloat16 it rounds at other places.
    """
    y_NPQO = conv2d(x_NHWI, (kernel_hwIO * slope_O).astype(x_NHWI.dtype))
    return y_NPQO + shift_O.astype(x_NHWI.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, strides: Strides, padding: Pads
) -> jax.Array:
    plain = functools.partial(plain_conv2d, strides=strides, padding=padding)
    if _is_pointwise(kernel_hwIO.shape, padding):
        product = functools.partial(cpu_pointwise, strides=strides)
    elif winograd.fits_winograd(x_NHWI, kernel_hwIO.shape, strides, MIN_CHANNELS):
        product = functools.partial(winograd.cpu_winograd, padding=padding)
    elif isinstance(x_NHWI.shape[0], int) and (
        x_NHWI.dtype == jnp.bfloat16 or math.prod(kernel_hwIO.shape[:3]) <= MAX_NARROW
    ):
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
        and not winograd.fits_winograd(dy_NPQO, saved[1].shape, strides, MIN_CHANNELS)
    ):
        return plain_input(*arguments), dkernel
    dx = lax.platform_dependent(*arguments, cpu=cpu_input, default=plain_input)
    return dx, dkernel


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def cpu_pointwise(
    x_NHWI: jax.Array, kernel_11IO: jax.Array, *, strides: Strides
) -> jax.Array:
    """A 1x1 convolution as a matrix product."""
    return chunks.product(x_NHWI[:, :: strides[0], :: strides[1]], kernel_11IO[0, 0])


def cpu_unrolled(
    x_NHWI: jax.Array, kernel_hwIO: jax.Array, *, strides: Strides, padding: Pads
) -> jax.Array:
    """A convolution as a matrix product over unrolled windows.

    Worth it where the kernel is narrow, and in bfloat16, in which XLA multiplies
    matrices up to twice as fast as in float32 and convolves no faster.
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
        chunk = chunks.chunk_size(count, per_image, chunks.CHUNK_BYTES)

        def fill(i: jax.Array, y_NPQO: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            y_CPQO = chunks.product(windows(x_CHWI), kernel_KO)
            return lax.dynamic_update_slice_in_dim(y_NPQO, y_CPQO, i * chunk, 0)

        zeros = jnp.zeros((count, *shape_PQO), x_NHWI.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    return chunks.over_shards(of_shard, x_NHWI).reshape(x_NHWI.shape[0], *shape_PQO)


def cpu_input_gradient(
    dy_NPQO: jax.Array,
    kernel_hwIO: jax.Array,
    shape_NHWI: Sequence[int],
    strides: Strides,
    padding: Pads,
) -> jax.Array:
    """Gradient [N,H,W,I] of the images: of a 1x1, a strided or a 3x3 convolution."""
    _, height, width, _ = shape_NHWI
    if winograd.fits_winograd(dy_NPQO, kernel_hwIO.shape, strides, MIN_CHANNELS):
        return winograd.cpu_winograd_input_gradient(
            dy_NPQO, kernel_hwIO, padding=padding
        )
    kernel_hwOI = jnp.swapaxes(kernel_hwIO, 2, 3)
    if _is_pointwise(kernel_hwIO.shape, padding):
        dx = chunks.product(dy_NPQO, kernel_hwOI[0, 0])
        sizes = zip((height, width), dx.shape[1:3], strides, strict=True)
        pads = [(0, size - (out - 1) * s - 1, s - 1) for size, out, s in sizes]
        return lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    per_image = dy_NPQO[0, ..., 0].size * kernel_hwIO[..., 0].size
    per_image *= dy_NPQO.dtype.itemsize

    def of_shard(dy_NPQO: jax.Array) -> jax.Array:
        count = dy_NPQO.shape[0]
        chunk = chunks.chunk_size(count, per_image, chunks.CHUNK_BYTES)

        def fill(i: jax.Array, dx_NHWI: jax.Array) -> jax.Array:
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            part_CHWI = _scatter_windows(
                dy_CPQO, kernel_hwOI, (height, width), strides, padding
            )
            return lax.dynamic_update_slice_in_dim(dx_NHWI, part_CHWI, i * chunk, 0)

        zeros = jnp.zeros((count, *shape_NHWI[1:]), dy_NPQO.dtype)
        return lax.fori_loop(0, count // chunk, fill, zeros)

    return chunks.over_shards(of_shard, dy_NPQO).reshape(tuple(shape_NHWI))


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
        total_IO = chunks.outer_sum(x_NPQI, dy_NPQO)  # summed in float32
        return total_IO.reshape(tuple(shape_hwIO)).astype(x_NHWI.dtype)
    if winograd.fits_winograd(x_NHWI, shape_hwIO, strides, MIN_CHANNELS_KERNEL):
        return winograd.cpu_winograd_kernel_gradient(x_NHWI, dy_NPQO, padding)

    window = size[0] * size[1] * inputs
    per_image = dy_NPQO[0, ..., 0].size * window * x_NHWI.dtype.itemsize

    def of_shard(x_NHWI: jax.Array, dy_NPQO: jax.Array) -> jax.Array:
        chunk = chunks.chunk_size(x_NHWI.shape[0], per_image, chunks.CHUNK_BYTES)

        def add(i: jax.Array, total_OK: jax.Array) -> jax.Array:
            x_CHWI = lax.dynamic_slice_in_dim(x_NHWI, i * chunk, chunk)
            dy_CPQO = lax.dynamic_slice_in_dim(dy_NPQO, i * chunk, chunk)
            # The narrower factor first: half again as fast as the other way round.
            windows_CPQK = _windows(x_CHWI, size, strides, padding)
            return total_OK + chunks.outer_sum(dy_CPQO, windows_CPQK)

        zeros_OK = jnp.zeros((outputs, window), jnp.float32)
        return lax.fori_loop(0, x_NHWI.shape[0] // chunk, add, zeros_OK)

    total_OK = chunks.over_shards(of_shard, x_NHWI, dy_NPQO).sum(axis=0)
    return total_OK.T.reshape(tuple(shape_hwIO)).astype(x_NHWI.dtype)


def _is_pointwise(shape_hwIO: Sequence[int], padding: Pads) -> bool:
    return tuple(shape_hwIO[:2]) == (1, 1) and padding == ((0, 0), (0, 0))


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
    taps = chunks.product(dy_NPQO, flat_OK).reshape(*dy_NPQO.shape[:3], h, w, inputs)
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
