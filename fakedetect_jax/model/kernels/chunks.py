"""Products in pieces that fit the cache, on each device's own rows."""

from collections.abc import Callable
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


def chunk_size(num_images: int, bytes_per_image: int, limit_bytes: int) -> int:
    """The largest divisor of `num_images` within the limit, at least 1."""
    limit = max(1, limit_bytes // bytes_per_image)
    return max(d for d in range(1, min(limit, num_images) + 1) if num_images % d == 0)


def over_shards(function: Callable[..., Any], *images: jax.Array) -> Any:
    """The arrays of each device's images [N/devices,...], stacked over the devices.

    A loop over images must run inside a shard: a loop over all of them would gather
    them on every device.
    """
    shards = jax.device_count()
    if shards == 1 or images[0].shape[0] % shards:
        return jax.tree.map(lambda a: a[None], function(*images))
    split = [a.reshape(shards, -1, *a.shape[1:]) for a in images]
    return jax.vmap(function)(*split)


def product(x_NPQI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """The matrix product [N,P,Q,O] over the last axis, in the type of the images.

    Rounded afterwards: a product that is itself bfloat16 takes jax 0.10 twice the time,
    and is no faster with later versions.
    """
    product_NPQO = jnp.matmul(x_NPQI, kernel_IO, preferred_element_type=jnp.float32)
    return product_NPQO.astype(x_NPQI.dtype)


def outer_sum(a_NPQA: jax.Array, b_NPQB: jax.Array) -> jax.Array:
    """Sum over images and pixels of the outer products, [A,B] in float32."""
    return lax.dot_general(
        a_NPQA.reshape(-1, a_NPQA.shape[-1]),
        b_NPQB.reshape(-1, b_NPQB.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
