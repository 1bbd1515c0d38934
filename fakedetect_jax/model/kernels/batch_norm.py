"""The normalisation of BatchNorm with a gradient of two passes."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def normalize_batch(
    x_NHWC: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    epsilon: float,
    groups: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """BatchNorm by the batch's own statistics: y, their mean and variance [C].

    Statistics are float32, taken in one pass as E[x^2] - E[x]^2. The derivative keeps
    x alone, where automatic differentiation also stores the centred x; the returned
    statistics are constants to it.

    With several groups each run of N / groups images is normalised by its own (Hoffer
    et al. 2017), and what is returned are the means of the groups' means and variances.
    """
    if groups == 1:
        return _normalize(x_NHWC, scale_C, bias_C, epsilon)
    x_GNHWC = x_NHWC.reshape(groups, -1, *x_NHWC.shape[1:])
    one = functools.partial(_normalize, epsilon=epsilon)
    y_GNHWC, mean_GC, variance_GC = jax.vmap(one, (0, None, None))(
        x_GNHWC, scale_C, bias_C
    )
    return y_GNHWC.reshape(x_NHWC.shape), mean_GC.mean(axis=0), variance_GC.mean(axis=0)


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
