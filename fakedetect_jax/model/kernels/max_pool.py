"""Max pooling, and its gradient, of slices: fast on CPUs, without a scatter on GPUs."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def max_pool(x_NHWC: jax.Array) -> jax.Array:
    """Maximum [N,ceil(H/2),ceil(W/2),C] over 3x3 windows at every second pixel.

    The border counts for nothing. Where pixels of a window share the maximum, the
    gradient goes to the first of them, row by row; in float32 on a CPU it goes to each.
    After a ReLU that is seldom seen: nearly all ties of float32 are at 0 there, and the
    ReLU passes no gradient on.

    For NVIDIA's GPUs the compiler makes a scatter of the window reduction's gradient,
    whose sums have no fixed order, so that no step repeats another to the bit.
    """
    return lax.platform_dependent(x_NHWC, cpu=cpu_max_pool, default=plain_max_pool)


def _max_pool_forward(x_NHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x_NHWC), x_NHWC


def _max_pool_backward(x_NHWC: jax.Array, dy_NPQC: jax.Array) -> tuple[jax.Array]:
    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(plain_max_pool, x)[1](dy)[0]

    gradient = lax.platform_dependent(
        x_NHWC,
        dy_NPQC,
        cpu=cpu_max_pool_gradient,
        cuda=functools.partial(unpool, first=True),
        default=plain,
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
