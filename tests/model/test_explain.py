"""What an explanation says of a score is what the model did."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax.model import explain, steps
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel

CLIP = (4, 16, 16, 3)
POOLINGS = [
    {},
    {"bidirectional": True},
    {"pooling": "mean"},
    {"pooling": "attention"},
    {"temporal": "none"},
    {"temporal": "transformer"},
]


def make(**fields):
    """A small model with running statistics that are not trivial, and clips."""
    model = FakeDetector(
        backbone="resnet",
        stage_sizes=(1, 1),
        width=8,
        stem="small",
        lstm_features=8,
        dtype="float32",
        **fields,
    )
    frames = jnp.zeros((1, *CLIP))
    variables = model.init(jax.random.key(0), frames, jnp.ones(1, int), train=False)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape) ** 2, x.dtype), variables
    )
    frames = rng.integers(0, 256, (8, *CLIP)).astype(np.uint8)
    return model, variables, (frames, np.array([4, 4, 3, 2, 1, 4, 4, 2], np.int32))


@pytest.mark.parametrize("fields", POOLINGS, ids=str)
def test_the_running_score_is_the_models(fields):
    model, variables, clips = make(**fields)
    found = jax.jit(explain.explain_step, static_argnums=0)(model, variables, clips)
    logits = steps.clip_logits(model, variables, clips)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    ends = np.asarray(found.running)[np.arange(8), clips[1] - 1]
    np.testing.assert_allclose(ends, logits, atol=1e-5)
    frames = steps.normalise(model, jnp.asarray(clips[0]) / jnp.float32(255))
    expected = model.apply(
        variables, frames, clips[1], train=False, method="frame_logits"
    )
    np.testing.assert_allclose(found.running, np.asarray(expected), atol=1e-5)


def head_and_maps(**fields):
    """What contributions takes, but for the lengths, and the lengths."""
    model, variables, clips = make(**fields)
    apply: Any = functools.partial(model.apply, variables, train=False)
    frames = steps.normalise(model, jnp.asarray(clips[0]) / jnp.float32(255))
    maps = jnp.asarray(apply(frames, method="backbone_features"))
    head: Any = functools.partial(apply, method="head_from_features")
    return head, maps, jnp.asarray(clips[1])


@pytest.mark.parametrize("fields", POOLINGS, ids=str)
def test_what_the_places_add_sums_to_the_logit(fields):
    head, maps, length = head_and_maps(**fields)
    added = explain.contributions(head, maps, length)
    none = np.asarray(head(jnp.zeros_like(maps), length))
    all_of_it = np.asarray(head(maps, length))
    np.testing.assert_allclose(added.sum(axis=(1, 2, 3)), all_of_it - none, atol=5e-3)


@pytest.mark.parametrize("fields", POOLINGS[-2:], ids=str)
def test_each_place_adds_its_integrated_gradient(fields):
    head, maps, length = head_and_maps(**fields)
    slope = jax.jit(jax.grad(lambda maps: jnp.sum(head(maps, length))))
    middles = (np.arange(explain.PATH_STEPS) + 0.5) / explain.PATH_STEPS
    slopes = sum(slope(jnp.float32(share) * maps) for share in middles) / len(middles)
    found = jax.jit(functools.partial(explain.contributions, head))(maps, length)
    expected = np.asarray((slopes * maps).sum(axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_way_is_not_walked_with_all_places_in_memory():
    head, _, length = head_and_maps()
    maps = jax.ShapeDtypeStruct((8, CLIP[0], 64, 64, 16), jnp.float32)
    found = jax.jit(functools.partial(explain.contributions, head))
    needs: Any = found.lower(maps, length).compile().memory_analysis()
    assert needs.temp_size_in_bytes < 2 * 4 * maps.size


def test_the_heat_lies_where_a_place_adds_most():
    model, variables, clips = make()
    heat = np.asarray(explain.explain_step(model, variables, clips).heat)
    assert heat.shape[:2] == (8, CLIP[0]) and heat.min() == 0 < heat.max()
    flat = jnp.ones((1, 1, 5, 5))
    np.testing.assert_allclose(explain._smooth(flat), flat)


def test_frames_beyond_the_clip_are_cold():
    model, variables, clips = make(pooling="attention")
    heat = np.asarray(explain.explain_step(model, variables, clips).heat)
    beyond = np.arange(CLIP[0]) >= clips[1][:, None]
    assert (heat[beyond] == 0).all() and (heat[~beyond] > 0).any()


def test_eight_devices_explain_as_one_does():
    model, variables, clips = make()
    found = []
    for devices in (1, 8):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        step = compiled.compile_explain_step(model, mesh)
        on_mesh = parallel.put_replicated(variables, mesh)
        found.append(parallel.fetch(step(on_mesh, parallel.to_global(clips, mesh))))
    for one, eight in zip(*found, strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-5)
