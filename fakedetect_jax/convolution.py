"""Convolution, max-pooling and batch statistics: the inner loops of the ResNet."""

import jax
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x_NHWC: jax.Array,
    kernel_HWIO: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
) -> jax.Array:
    """Cross-correlation of images [N,H,W,I] with a kernel [h,w,I,O]."""
    return lax.conv_general_dilated(
        x_NHWC,
        kernel_HWIO,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def max_pool(
    x_NHWC: jax.Array, *, window: int = 3, stride: int = 2, padding: int = 1
) -> jax.Array:
    """Maximum over square windows; the border is padded with minus infinity."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(
        x_NHWC,
        -float("inf"),
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        pads,
    )
