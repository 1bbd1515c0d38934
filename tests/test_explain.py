"""What is told of a score is what the model did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax import evidence, explain, parallel, steps
from fakedetect_jax.models import FakeDetector

CLIP = (4, 16, 16, 3)
POOLINGS = [
    {},
    {"bidirectional": True},
    {"pooling": "mean"},
    {"pooling": "attention"},
    {"frame_only": True},
]


def make(**fields):
    """A small model with running statistics that are not trivial, and a batch."""
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
    batch = {
        "frames": rng.integers(0, 256, (8, *CLIP)).astype(np.uint8),
        "length": np.array([4, 4, 3, 2, 1, 4, 4, 2], np.int32),
    }
    return model, variables, batch


@pytest.mark.parametrize("fields", POOLINGS, ids=str)
def test_the_running_score_is_the_models(fields):
    model, variables, batch = make(**fields)
    told = jax.jit(explain.explain_step, static_argnums=0)(model, variables, batch)
    logits = steps.eval_step(model, variables, batch)
    np.testing.assert_allclose(told.logits, logits, atol=1e-5)
    ends = np.asarray(told.running)[np.arange(8), batch["length"] - 1]
    np.testing.assert_allclose(ends, logits, atol=1e-5)
    frames = steps.normalise(batch["frames"] / jnp.float32(255))
    expected = model.apply(
        variables, frames, batch["length"], train=False, method="frame_logits"
    )
    np.testing.assert_allclose(told.running, np.asarray(expected), atol=1e-5)


def test_the_heat_is_what_each_place_adds():
    """Against differences: a place raised by 1 % adds 1 % of its heat."""
    model, variables, batch = make()
    told = explain.explain_step(model, variables, batch)
    frames = steps.normalise(batch["frames"] / jnp.float32(255))
    maps = model.apply(variables, frames, train=False, method="backbone_features")
    rng, small = np.random.default_rng(1), 1e-2
    for _ in range(5):
        b, t, y, x = (rng.integers(n) for n in told.heat.shape)
        raised = maps.at[b, t, y, x].multiply(1 + small)
        method = "head_from_features"
        low = model.apply(variables, maps, batch["length"], train=False, method=method)
        high = model.apply(
            variables, raised, batch["length"], train=False, method=method
        )
        change = float(high[b] - low[b]) / small
        assert told.heat[b, t, y, x] == pytest.approx(max(change, 0), abs=2e-4)
    assert float(told.heat.max()) > 1e-3


def test_frames_beyond_the_clip_are_cold():
    model, variables, batch = make(pooling="attention")
    heat = np.asarray(explain.explain_step(model, variables, batch).heat)
    beyond = np.arange(CLIP[0]) >= batch["length"][:, None]
    assert (heat[beyond] == 0).all() and (heat[~beyond] > 0).any()


def test_eight_devices_explain_as_one_does():
    model, variables, batch = make()
    told = []
    for devices in (1, 8):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        step = explain.compile_explain_step(model, mesh)
        on_mesh = parallel.put_replicated(variables, mesh)
        told.append(parallel.fetch(step(on_mesh, parallel.to_global(batch, mesh))))
    for one, eight in zip(*told, strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-5)


def test_an_overlay_marks_the_hot_corner_and_leaves_the_rest():
    image = np.full((32, 32, 3), 60, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1.0
    shown = evidence.overlay(image, heat)
    assert (shown[16:, 16:] == 60).all()
    assert np.abs(shown[1, 1].astype(int) - 60).max() > 60


def test_moments_lie_apart_and_start_with_the_worst():
    clips = [
        {"score": s, "seconds": [t, t + 1.0]}
        for t, s in ((0.0, 0.9), (0.5, 0.8), (3.0, 0.7), (0.9, 0.6))
    ]
    kept = evidence._apart(clips)
    assert [clip["score"] for clip in kept] == [0.9, 0.7, 0.6]
