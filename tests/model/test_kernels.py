"""The CPU kernels equal the compiler's own operations, and only CPU programs hold them.

The session has eight CPU devices: batches that divide by eight run as eight shards,
others as one.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakedetect_jax.model.kernels import (
    batch_norm,
    chunks,
    convolution,
    max_pool,
    winograd,
)

SIZES = st.integers(1, 11)
PADS = st.tuples(st.integers(0, 2), st.integers(0, 2))


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gradients(function, x, kernel):
    """The value, and both gradients of a random weighting of it."""
    shape = jax.eval_shape(function, x, kernel).shape

    @jax.jit
    def all_three(x, kernel, dy):
        y, transpose = jax.vjp(function, x, kernel)
        return y, *transpose(dy)

    return all_three(x, kernel, jnp.asarray(draw(2, *shape)))


def assert_close(found, wanted):
    """To 1e-5 of the largest value: sums of many products end near zero, too."""
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        largest = max(1.0, float(jnp.abs(other).max())) if other.size else 1.0
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    images=st.sampled_from([1, 3, 8]),
    size=st.tuples(SIZES, SIZES),
    channels=st.tuples(st.sampled_from([1, 3, 16]), st.sampled_from([1, 2, 16])),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(PADS, PADS),
)
@example(3, (8, 7), (3, 16), (7, 7), (2, 2), ((3, 3), (3, 3)))  # the stem
@example(8, (8, 7), (16, 2), (3, 3), (2, 2), ((1, 1), (1, 1)))
@example(8, (7, 8), (16, 2), (3, 3), (1, 1), ((1, 1), (1, 1)))
@example(3, (7, 8), (2, 16), (1, 1), (2, 2), ((0, 0), (0, 0)))  # a shortcut
@example(3, (7, 8), (16, 2), (1, 1), (1, 1), ((0, 0), (0, 0)))
@example(1, (9, 9), (3, 2), (2, 2), (3, 3), ((0, 0), (2, 0)))  # pixels in no window
@example(8, (8, 7), (32, 40), (3, 3), (1, 1), ((1, 1), (1, 1)))  # Winograd's method
@example(3, (1, 6), (96, 128), (3, 3), (1, 1), ((1, 1), (1, 1)))  # the kernel's, too
@example(3, (7, 5), (128, 96), (3, 3), (1, 1), ((0, 2), (1, 0)))
def test_values_and_gradients_equal_lax(
    images, size, channels, kernel, strides, padding
):
    assume(all(n + sum(p) >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    x, weights = draw(0, images, *size, channels[0]), draw(1, *kernel, *channels)
    found = gradients(
        lambda x, k: convolution.conv2d(x, k, strides=strides, padding=padding),
        x,
        weights,
    )
    wanted = gradients(
        lambda x, k: convolution.plain_conv2d(x, k, strides, padding), x, weights
    )
    assert_close(found, wanted)


def test_chunks_of_images_add_up(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3 * 9 * 36 * 4)
    one, padding = (2, 2), ((1, 1), (1, 1))
    x, kernel = draw(0, 9, 12, 12, 1), draw(1, 3, 3, 1, 1)
    assert chunks.chunk_size(9, 9 * 36 * 4, chunks.CHUNK_BYTES) == 3
    assert_close(
        gradients(
            lambda x, k: convolution.conv2d(x, k, strides=one, padding=padding),
            x,
            kernel,
        ),
        gradients(lambda x, k: convolution.plain_conv2d(x, k, one, padding), x, kernel),
    )


def test_tiles_in_chunks_equal_those_at_once(monkeypatch):
    x, kernel = draw(0, 6, 9, 8, 96), draw(1, 3, 3, 96, 96)
    padding = ((1, 1), (1, 1))

    def conv(x, k):
        return convolution.conv2d(x, k, padding=padding)

    at_once = gradients(conv, x, kernel)
    monkeypatch.setattr(winograd, "TILE_BYTES", 2 * 16 * 20 * 192 * 4)
    assert chunks.chunk_size(6, 16 * 20 * 192 * 4, winograd.TILE_BYTES) == 2
    assert_close(gradients(lambda x, k: conv(x, k), x, kernel), at_once)


def test_a_batch_of_open_size_can_be_exported():
    kernel = jnp.asarray(draw(1, 3, 3, 32, 32))
    (images,) = jax.export.symbolic_shape("images")

    @jax.jit
    def conv(x):
        return convolution.conv2d(x, kernel, padding=((1, 1), (1, 1)))

    shape = jax.ShapeDtypeStruct((images, 6, 6, 32), np.float32)
    exported = jax.export.export(conv)(shape)
    x = draw(0, 3, 6, 6, 32)
    assert_close([exported.call(x)], [conv(x)])


def test_chunks_divide_the_batch_and_fit():
    assert chunks.chunk_size(320, 100, 1000) == 10
    assert chunks.chunk_size(320, 100, 999) == 8
    assert chunks.chunk_size(7, 100, 699) == 1
    assert chunks.chunk_size(4, 1, 1000) == 4
    assert chunks.chunk_size(4, 10**12, 1000) == 1


@pytest.mark.parametrize(
    ("size", "channels", "stride"),
    [
        (3, (8, 4), 1),
        (3, (32, 40), 1),  # Winograd's method
        (3, (96, 96), 1),  # the kernel's, too
        (3, (32, 40), 2),
        (7, (3, 8), 2),  # the stem
    ],
)
@pytest.mark.parametrize("images", [3, 8])
def test_bfloat16_keeps_its_dtype_and_sums_in_float32(images, size, channels, stride):
    x = jnp.asarray(draw(0, images, 16, 14, channels[0]), jnp.bfloat16)
    kernel = jnp.asarray(draw(1, size, size, *channels), jnp.bfloat16)
    strides, padding = (stride, stride), ((size // 2, size // 2),) * 2

    def conv(x, k):
        return convolution.conv2d(x, k, strides=strides, padding=padding)

    assert conv(x, kernel).dtype == jnp.bfloat16
    y, dx, dkernel = gradients(lambda x, k: conv(x, k).astype(jnp.float32), x, kernel)
    exact = gradients(
        lambda x, k: convolution.plain_conv2d(x, k, strides, padding),
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
    )
    assert dx.dtype == dkernel.dtype == jnp.bfloat16
    for found, wanted in zip((y, dx, dkernel), exact, strict=True):
        error = jnp.abs(found.astype(jnp.float32) - wanted).max()
        assert error < 0.02 * jnp.abs(wanted).max()


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_a_slope_may_be_in_the_kernel(dtype, error):
    x = jnp.asarray(draw(0, 2, 9, 9, 16), dtype)
    arguments: Any = draw(1, 3, 3, 16, 8), draw(2, 8), draw(3, 8)
    geometry = {"strides": (2, 2), "padding": ((1, 1), (1, 1))}
    conv2d = functools.partial(convolution.plain_conv2d, **geometry)
    folded = convolution.folded_conv2d(conv2d, x, *arguments)
    apart = convolution.scaled_conv2d(conv2d, x, *arguments)
    assert folded.dtype == apart.dtype == x.dtype
    differences = np.abs(np.float32(folded) - np.float32(apart))
    assert 0 < differences.max() < error * np.abs(np.float32(apart)).max()


def step(x, kernel):
    """The gradients of a padded, strided convolution and a pooling."""

    def total(x, kernel):
        y = convolution.conv2d(x, kernel, strides=(2, 2), padding=((1, 1), (1, 1)))
        return (max_pool.max_pool(y) ** 2).sum()

    return jax.grad(total, argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_get_the_plain_program(platform):
    arguments = (jnp.ones((8, 16, 16, 3)), jnp.ones((3, 3, 3, 4)))
    traced = jax.jit(step).trace(*arguments)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" not in program
    assert "stablehlo.dot_general" not in program
    assert program.count("stablehlo.convolution") == 3  # forward and both gradients
    # NVIDIA's compiler would scatter with atomic sums, in any order.
    assert ("scatter" in program) == (platform != "cuda")
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.while" in on_cpu
    assert "select_and_scatter" not in on_cpu


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_wide_layers_of_other_platforms_are_plain_too(platform):
    def total(x, kernel):
        return (convolution.conv2d(x, kernel, padding=((1, 1), (1, 1))) ** 2).sum()

    channels = convolution.MIN_CHANNELS_KERNEL
    arguments = jnp.ones((8, 6, 6, channels)), jnp.ones((3, 3, channels, channels))
    traced = jax.jit(jax.grad(total, argnums=(0, 1))).trace(*arguments)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.dot_general" not in program
    assert program.count("stablehlo.convolution") == 3
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in on_cpu
    # 16 products each for the value and both gradients.
    assert on_cpu.count("stablehlo.dot_general") == 48


def test_unused_input_gradients_are_not_computed():
    def total(kernel, x):
        padding = ((3, 3), (3, 3))
        y = convolution.conv2d(x, kernel, strides=(2, 2), padding=padding)
        return (y * y).sum()

    arguments = (jnp.ones((7, 7, 3, 4)), jnp.ones((8, 16, 16, 3)))
    kernel_alone, both = (
        str(jax.jit(jax.grad(total, argnums=n)).lower(*arguments).compile().as_text())
        for n in (0, (0, 1))
    )
    assert len(kernel_alone) < len(both)
    assert " conditional(" not in both  # the choice leaves no trace


def test_sharded_batches_stay_where_they_are():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shared = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    x, kernel = draw(0, 16, 16, 16, 3), draw(1, 3, 3, 3, 4)
    sharded = jax.jit(step, in_shardings=(shared, whole), out_shardings=(shared, whole))
    program = str(sharded.lower(x, kernel).compile().as_text())
    for moves in ("all-gather", "all-to-all", "collective-permute"):
        assert moves not in program
    assert_close(sharded(x, kernel), jax.jit(step)(x, kernel))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3), (2, 1), (9, 7)])
def test_max_pool_equals_the_window_reduction(size):
    x = draw(0, 2, *size, 3)
    results = []
    for pool in (max_pool.plain_max_pool, max_pool.max_pool):
        y, transpose = jax.vjp(pool, x)
        results.append((y, transpose(jnp.asarray(draw(1, *y.shape)))[0]))
    assert_close(*results)


def test_tied_maxima_are_unseen_through_a_relu():
    before = jnp.asarray(draw(0, 2, 8, 8, 3)) - 1.0  # most are cut to 0 and tie

    def gradient(pool):
        return jax.grad(lambda x: (pool(nn.relu(x)) * 3.0).sum())(before)

    np.testing.assert_array_equal(
        gradient(max_pool.max_pool), gradient(max_pool.plain_max_pool)
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3), (2, 1), (9, 7)])
def test_tied_maxima_of_bfloat16_pass_the_gradient_to_the_first(size):
    draws = np.random.default_rng(0)
    # Four levels: nearly every window is tied. Whole numbers: their sums are exact.
    x = jnp.asarray(draws.integers(1, 5, (2, *size, 16)), jnp.bfloat16)
    shape = jax.eval_shape(max_pool.plain_max_pool, x).shape
    dy = jnp.asarray(draws.integers(-8, 9, shape), jnp.bfloat16)

    def gradient(pool):
        return jax.vjp(pool, x)[1](dy)[0].astype(jnp.float32)

    wanted = gradient(max_pool.plain_max_pool)
    np.testing.assert_array_equal(gradient(max_pool.max_pool), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_for_gpus_passes_to_the_first_of_equal_maxima(dtype):
    draws = np.random.default_rng(0)
    x = jnp.asarray(draws.integers(1, 5, (2, 7, 10, 16)), dtype)
    dy = jnp.asarray(draws.integers(-8, 9, (2, 4, 5, 16)), dtype)
    np.testing.assert_array_equal(
        max_pool.unpool(x, dy, first=True),
        jax.vjp(max_pool.plain_max_pool, x)[1](dy)[0],
    )


def test_the_pooling_gradient_of_bfloat16_is_the_compilers_own():
    """On values as they come after a ReLU, of which 2 % tie above 0."""
    x = nn.relu(jnp.asarray(draw(0, 8, 56, 56, 16), jnp.bfloat16))
    dy = jnp.asarray(draw(1, 8, 28, 28, 16), jnp.bfloat16)

    def gradient(pool):
        raw = jax.vjp(pool, x)[1](dy)[0].astype(jnp.float32)
        return np.asarray(jnp.where(x > 0, raw, 0))

    wanted = gradient(max_pool.plain_max_pool)
    off = np.linalg.norm(gradient(max_pool.max_pool) - wanted)
    # Where four windows meet sums are rounded in another order. All winners: 0.06.
    assert off < 0.005 * np.linalg.norm(wanted)


def test_normalize_batch_equals_flax():
    x, dy = draw(0, 6, 5, 4, 3) * 2 + 3, draw(1, 6, 5, 4, 3)
    scale, bias = jnp.asarray([0.5, 1.0, 2.0]), jnp.asarray([0.0, 1.0, -1.0])
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=1e-5)

    def flax(x, scale, bias) -> Any:
        start = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": start}
        y, updated = norm.apply(variables, x, mutable=["batch_stats"])
        return y, updated["batch_stats"]

    wanted, transpose, statistics = jax.vjp(flax, x, scale, bias, has_aux=True)
    (found, mean, variance), ours = jax.vjp(
        functools.partial(batch_norm.normalize_batch, epsilon=1e-5), x, scale, bias
    )
    assert_close((found, mean), (wanted, statistics["mean"]))
    np.testing.assert_allclose(variance, statistics["var"], rtol=1e-5)
    assert_close(ours((dy, jnp.zeros(3), jnp.zeros(3))), transpose(jnp.asarray(dy)))


def test_groups_are_normalised_each_as_if_alone():
    x, dy = draw(0, 6, 5, 4, 3) * 2 + 3, draw(1, 6, 5, 4, 3)
    scale, bias = jnp.asarray([0.5, 1.0, 2.0]), jnp.asarray([0.0, 1.0, -1.0])
    normalize = functools.partial(batch_norm.normalize_batch, epsilon=1e-5)
    grouped = functools.partial(normalize, groups=3)
    (found, mean, variance), ours = jax.vjp(grouped, x, scale, bias)
    zero = jnp.zeros(3)
    parts = [jax.vjp(normalize, x[i : i + 2], scale, bias) for i in (0, 2, 4)]
    assert_close(found, jnp.concatenate([y for (y, *_), _ in parts]))
    # The running averages get the means of what the groups were normalised by.
    assert_close(mean, sum(m for (_, m, _), _ in parts) / 3)
    assert_close(variance, sum(v for (*_, v), _ in parts) / 3)
    own = [
        pull((dy[i : i + 2], zero, zero))
        for (_, pull), i in zip(parts, (0, 2, 4), strict=True)
    ]
    dx, dscale, dbias = ours((dy, zero, zero))
    assert_close(dx, jnp.concatenate([one[0] for one in own]))
    assert_close(dscale, sum(one[1] for one in own))
    assert_close(dbias, sum(one[2] for one in own))
    whole, _, _ = normalize(jnp.asarray(x), scale, bias)
    assert np.abs(found - whole).max() > 0.1
