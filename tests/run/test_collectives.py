"""What the devices of a step tell each other, read off the compiled program."""

import collections

import jax
import pytest

from benchmarks.scale import collectives
from fakedetect_jax.compiled import compile_train_step
from fakedetect_jax.data.feed import empty_batch
from fakedetect_jax.model import steps
from fakedetect_jax.run import parallel
from fakedetect_jax.settings import batch_shape, clip_shape


@pytest.fixture(scope="module", params=[1, 2], ids=["whole", "parts"])
def program(request, load_config):
    """(the compiled step on 8 devices, its abstract state, parts of a batch)."""
    config = load_config("demo")
    with config.unlocked():
        config.model.update(stage_sizes=(1, 1), width=8, lstm_features=8)
        config.dataset.image_size = 16
        config.data.clip_frames = 3
        config.batch_size, config.accumulate = 32, request.param
    mesh = parallel.make_mesh(jax.devices())
    step_settings = steps.make_step_settings(config, num_steps=10)
    create = lambda: steps.create_train_state(step_settings, clip_shape(config))  # noqa: E731
    state = jax.eval_shape(create)
    batch = empty_batch(*batch_shape(config, config.batch_size))
    abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    update = compile_train_step(step_settings, mesh)
    return update.lower(state, abstract).compile(), state, request.param


def test_only_sums_over_devices_and_nothing_is_gathered(program):
    compiled, *_ = program
    kinds = collections.Counter(kind for kind, _ in collectives(compiled.as_text()))
    assert set(kinds) == {"all-reduce"}


def test_what_is_summed_is_gradients_and_batch_statistics(program):
    compiled, state, parts = program
    elements = sum(size for _, size in collectives(compiled.as_text()))
    gradients = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    channels = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)) // 2
    # Forward: mean and mean of squares. Backward: their two gradients, where XLA does
    # not share them with those of scale and bias. And the scalars of loss and accuracy.
    # In parts all of it stands once in a loop, beside the logits, for the accuracy.
    logits = 0 if parts == 1 else 32
    most = gradients + 4 * channels + logits + 16
    assert gradients + 2 * channels <= elements <= most
