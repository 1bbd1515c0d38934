"""What the first step begins with: the state, fresh or restored; the program."""

import functools
import math
from collections.abc import Sequence

import jax

from fakedetect_jax import settings
from fakedetect_jax.model import pretrained, steps, store
from fakedetect_jax.programs.compiled import (
    TrainProgram,
    fit_train_step,
    state_places,
)
from fakedetect_jax.run import parallel, workdir
from fakedetect_jax.run.checkpoint import (
    Checkpoints,
)
from fakedetect_jax.run.workdir import Run
from tfds_ffpp.store import copies


def first_state(
    step_settings: steps.StepSettings, clip_shape, config, mesh
) -> steps.TrainState:
    """The state before the first step, born where it stays."""
    create = functools.partial(steps.create_train_state, step_settings, clip_shape)
    split = config.shard_optimizer
    places = state_places(jax.eval_shape(create), mesh, shard_optimizer=split)
    state = jax.jit(create, out_shardings=places)()
    if not config.init_from:
        return state
    backbone = pretrained.load_backbone(
        copies.here(config.init_from), step_settings.model, config.dataset.image_size
    )
    statistics = backbone.batch_stats and {"backbone": backbone.batch_stats}
    params = {**state.params, "backbone": backbone.params}
    if step_settings.trainable.kind == "svd":  # of the kernels as they were loaded
        params = jax.jit(step_settings.with_adapters)(params)
    loaded = state.replace(
        params=params,
        batch_stats={**state.batch_stats, **statistics},
    )
    if step_settings.ema_decay:
        loaded = steps.start_average(step_settings, loaded)
    # The moments are where they belong.
    moments = {"opt_state": loaded.opt_state}
    return parallel.put_replicated(loaded.replace(opt_state=()), mesh).replace(
        **moments
    )


def abstract_state(step_settings: steps.StepSettings, config) -> steps.TrainState:
    """Shapes and types of a state, without its numbers."""
    shape = settings.clip_shape(config)
    return jax.eval_shape(
        functools.partial(steps.create_train_state, step_settings, shape)
    )


def compile_step(
    run: Run,
    step_settings: steps.StepSettings,
    abstract: steps.TrainState,
    stored: store.Layout | None,
) -> TrainProgram:
    """The training step for this run's memory and devices, compiled.

    stored: of the frames that devices are to hold, where they do.
    """
    with run.terminal.phase("compile"):
        return fit_train_step(
            step_settings,
            abstract,
            run.config,
            run.mesh,
            stored=stored,
            warn=run.terminal.warn,
        )


def load_or_create(
    run: Run,
    step_settings: steps.StepSettings,
    checkpoints: Checkpoints,
    start: int,
    abstract: steps.TrainState,
) -> steps.TrainState:
    """The state of checkpoint `start`, or with 0 the first one, where it stays.

    Raises CheckpointError for a checkpoint or an init_from that cannot be used.
    """
    if not start:
        clip_shape = settings.clip_shape(run.config)
        with run.terminal.phase("initialise"):
            state = first_state(step_settings, clip_shape, run.config, run.mesh)
        if run.config.init_from:
            loaded = pretrained.backbone_shapes(
                step_settings.model, run.config.dataset.image_size
            )
            numbers = sum(math.prod(shape) for shape in loaded.values())
            run.terminal.say(
                f"loaded    {len(loaded)} tensors, {numbers:,} numbers, "
                f"from {run.config.init_from} into the backbone"
            )
        return state
    with run.terminal.phase("restore"):
        left_out = checkpoints.facts(start).frozen
        frozen = pretrained.frozen_weights(run.config) if left_out else None
        restored = checkpoints.restore(start, abstract, frozen)
        split = run.config.shard_optimizer
        places = state_places(abstract, run.mesh, shard_optimizer=split)
        return parallel.put(restored, places)


def check_disk(run: Run, done: Sequence[int], state: steps.TrainState) -> int:
    """The bytes of the checkpoints to come, all that are kept at once.

    done: those that are there. Raises CheckpointError unless the others fit.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    kept = run.config.checkpoint.keep_latest + run.config.checkpoint.keep_best
    # One more: a new one is written before an old one is deleted.
    missing = max(kept + 1 - len(done), 1)
    workdir.ensure_writable(run.workdir, need_bytes=size * missing, make=run.writes)
    return size * missing
