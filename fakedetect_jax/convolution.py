"""Convolution and max-pooling for the ResNet, with derivatives that suit a CPU.

XLA's CPU backend has fast forward convolutions and matrix products, but slow kernel
gradients (it first moves the batch to the innermost dimension) and slow strided input
gradients (it convolves a gradient dilated with zeros). On a CPU both become matrix
products over unrolled windows, a few images at a time, so that the windows never leave
the cache; 1x1 convolutions are matrix products in all directions. Other platforms get
the plain operation and its own derivatives.

Shape letters: N images, H W pixels, I input and O output channels, h w kernel size, P Q
output pixels.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Both per axis, rows then columns; pads are (before, after).
Pads = tuple[tuple[int, int], ...]
Strides = tuple[int, ...]

# Unrolled windows handled at once. Measured on cores with 1 MiB of second-level and
# 16 MiB of shared cache each: flat between 2 and 8 MiB, half the speed at 40 MiB.
CHUNK_BYTES = 4 * 2**20


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
    if not _is_pointwise(kernel_hwIO.shape, padding):
        return plain(x_NHWI, kernel_hwIO)
    product = functools.partial(cpu_pointwise, strides=strides)
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
    if strides == (1, 1) and not _is_pointwise(saved[1].shape, padding):
        return plain_input(*arguments), dkernel
    dx = lax.platform_dependent(*arguments, cpu=cpu_input, default=plain_input)
    return dx, dkernel


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def cpu_pointwise(
    x_NHWI: jax.Array, kernel_11IO: jax.Array, *, strides: Strides
) -> jax.Array:
    """A 1x1 convolution as a matrix product."""
    return x_NHWI[:, :: strides[0], :: strides[1]] @ kernel_11IO[0, 0]


def cpu_input_gradient(
    dy_NPQO: jax.Array,
    kernel_hwIO: jax.Array,
    shape_NHWI: Sequence[int],
    strides: Strides,
    padding: Pads,
) -> jax.Array:
    """Gradient [N,H,W,I] of the images: of a 1x1 or a strided convolution."""
    _, height, width, _ = shape_NHWI
    kernel_hwOI = jnp.swapaxes(kernel_hwIO, 2, 3)
    if _is_pointwise(kernel_hwIO.shape, padding):
        dx = dy_NPQO @ kernel_hwOI[0, 0]
        sizes = zip((height, width), dx.shape[1:3], strides, strict=True)
        pads = [(0, size - (out - 1) * s - 1, s - 1) for size, out, s in sizes]
        return lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    per_image = dy_NPQO[0, ..., 0].size * kernel_hwIO[..., 0].size
    per_image *= dy_NPQO.dtype.itemsize

    def of_shard(dy_NPQO: jax.Array) -> jax.Array:
        count = dy_NPQO.shape[0]
        chunk = _chunk_size(count, per_image)

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

    window = size[0] * size[1] * inputs
    per_image = dy_NPQO[0, ..., 0].size * window * x_NHWI.dtype.itemsize

    def of_shard(x_NHWI: jax.Array, dy_NPQO: jax.Array) -> jax.Array:
        chunk = _chunk_size(x_NHWI.shape[0], per_image)

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


def max_pool(
    x_NHWC: jax.Array, *, window: int = 3, stride: int = 2, padding: int = 1
) -> jax.Array:
    """Maximum over square windows; the border is padded with minus infinity.

    Where pixels of a window share the maximum, the gradient goes to one of them or is
    divided between them, as the platform has it. After a ReLU that is unseen: the
    maximum shared there is 0, and the ReLU passes no gradient on.
    """
    return _max_pool(x_NHWC, window, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x_NHWC: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    return lax.platform_dependent(
        x_NHWC,
        cpu=lambda x: cpu_max_pool(x, window, stride, padding),
        default=lambda x: plain_max_pool(x, window, stride, padding),
    )


def _max_pool_forward(
    x_NHWC: jax.Array, window: int, stride: int, padding: int
) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x_NHWC, window, stride, padding), x_NHWC


def _max_pool_backward(
    window: int, stride: int, padding: int, x_NHWC: jax.Array, dy_NPQC: jax.Array
) -> tuple[jax.Array]:
    def cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: cpu_max_pool(x, window, stride, padding), x)[1](dy)[0]

    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        _, transpose = jax.vjp(lambda x: plain_max_pool(x, window, stride, padding), x)
        return transpose(dy)[0]

    return (lax.platform_dependent(x_NHWC, dy_NPQC, cpu=cpu, default=plain),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def plain_max_pool(
    x_NHWC: jax.Array, window: int, stride: int, padding: int
) -> jax.Array:
    """The compiler's own window reduction."""
    return lax.reduce_window(
        x_NHWC,
        -float("inf"),
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def cpu_max_pool(
    x_NHWC: jax.Array, window: int, stride: int, padding: int
) -> jax.Array:
    """Maximum of shifted slices: over rows, then over columns of the row maxima."""
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    y = jnp.pad(x_NHWC, sides, constant_values=-jnp.inf)
    for axis in (1, 2):
        count = (y.shape[axis] - window) // stride + 1
        ends = [i + (count - 1) * stride + 1 for i in range(window)]
        taps = [lax.slice_in_dim(y, i, end, stride, axis) for i, end in enumerate(ends)]
        y = functools.reduce(jnp.maximum, taps)
    return y


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


def _chunk_size(num_images: int, bytes_per_image: int) -> int:
    """The largest divisor of `num_images` within CHUNK_BYTES, at least 1."""
    limit = max(1, CHUNK_BYTES // bytes_per_image)
    return max(d for d in range(1, min(limit, num_images) + 1) if num_images % d == 0)


def _over_shards(function: Callable[..., jax.Array], *images: jax.Array) -> jax.Array:
    """function of each device's images [N/devices,...], stacked over the devices.

    A loop over images must run inside a shard: a loop over all of them would gather
    them on every device.
    """
    shards = jax.device_count()
    if shards == 1 or images[0].shape[0] % shards:
        return function(*images)[None]
    split = [a.reshape(shards, -1, *a.shape[1:]) for a in images]
    return jax.vmap(function)(*split)


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
    taps = (dy_NPQO @ flat_OK).reshape(*dy_NPQO.shape[:3], h, w, inputs)
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
