"""What the devices of a step tell each other, read off the compiled program."""

import collections
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from benchmarks.scale import collectives, operations
from fakedetect_jax.data.batch import empty_batch
from fakedetect_jax.model import steps
from fakedetect_jax.programs.compiled import compile_train_step, state_places
from fakedetect_jax.run import parallel
from fakedetect_jax.settings import batch_shape, clip_shape


class Program(NamedTuple):
    """The compiled step on 8 devices."""

    compiled: Any
    state: steps.TrainState
    places: steps.TrainState
    parts: int
    split: bool  # its moments
    groups: int

    def elements(self) -> dict[str, int]:
        """What each kind of collective yields."""
        found: dict[str, int] = collections.Counter()
        for kind, size in collectives(self.compiled.as_text()):
            found[kind] += size
        return found


# Parts of a batch, slices, whether the moments are split, groups of BatchNorm.
KINDS = {
    "whole": (1, 1, False, 1),
    "parts": (2, 1, False, 1),
    "split": (1, 1, True, 1),
    "slices": (1, 2, True, 1),
    "groups": (1, 1, False, 8),
    "more groups": (1, 1, False, 16),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=list(KINDS))
def program(request, load_config) -> Program:
    parts, slices, split, groups = request.param
    config = load_config("demo")
    with config.unlocked():
        config.model.update(stage_sizes=(1, 1), width=8, lstm_features=8)
        config.model.norm_groups = groups
        config.dataset.image_size = 16
        config.data.clip_frames = 3
        config.batch_size, config.accumulate = 32, parts
    devices = np.array(jax.devices())
    mesh = parallel.make_mesh(list(devices))
    if slices > 1:
        mesh = jax.sharding.Mesh(devices.reshape(slices, -1), ("slice", "data"))
    step_settings = steps.make_step_settings(config, num_steps=10)
    create = lambda: steps.create_train_state(step_settings, clip_shape(config))  # noqa: E731
    state = jax.eval_shape(create)
    batch = empty_batch(*batch_shape(config, config.batch_size))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    places = state_places(state, mesh, shard_optimizer=split)
    update = compile_train_step(step_settings, mesh, places)
    compiled = update.lower(state, abstract).compile()
    return Program(compiled, state, places, parts, split, groups)


def test_only_sums_over_devices_and_only_what_is_split_is_gathered(program):
    elements = program.elements()
    placed = zip(
        jax.tree.leaves(program.state.opt_state),
        jax.tree.leaves(program.places.opt_state),
        strict=True,
    )
    split = sum(x.size for x, place in placed if not place.is_fully_replicated)
    assert bool(split) == program.split
    # Each parameter has two moments, and one update that the others must hear of; XLA
    # sends some of the small ones twice.
    assert split / 2 <= elements.pop("all-gather", 0) <= 1.2 * split / 2
    assert set(elements) == {"all-reduce"}


def test_a_device_holds_its_part_of_the_moments(program):
    moments = program.compiled.input_shardings[0][0].opt_state
    held = jax.tree.map(
        lambda x, place: math.prod(place.shard_shape(x.shape)),
        program.state.opt_state,
        moments,
    )
    whole = sum(x.size for x in jax.tree.leaves(program.state.opt_state))
    share = sum(jax.tree.leaves(held)) / whole
    in_slice = program.places.step.mesh.shape["data"]
    assert share == 1 if not program.split else share < 1.1 / in_slice


def test_what_is_summed_is_gradients_and_batch_statistics(program):
    state, parts = program.state, program.parts
    elements = program.elements()["all-reduce"]
    gradients = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    channels = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)) // 2
    # Forward: mean and mean of squares. Backward: their two gradients, where XLA does
    # not share them with those of scale and bias. And the scalars of loss and accuracy.
    # In parts all of it stands once in a loop, beside the logits, for the accuracy.
    logits = 0 if parts == 1 else 32
    most = gradients + 4 * channels + logits + 16
    most *= 1.05 if program.split else 1  # a few sums are of parts
    assert gradients + 2 * channels <= elements <= most


def test_with_groups_of_their_own_the_devices_wait_for_each_other_at_the_end_only(
    program,
):
    # Two sums forward and at least one backward for each of the BatchNorms.
    norms = len(jax.tree.leaves(program.state.batch_stats)) // 2
    times = operations(program.compiled.as_text(), "all-reduce")
    if program.groups > 1:
        assert times <= 3
    elif not program.split:
        assert times >= 2 * norms
