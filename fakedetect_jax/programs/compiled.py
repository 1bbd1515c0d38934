"""Every compiled program: a step of model/ over a mesh, with its shardings."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh

from fakedetect_jax import settings
from fakedetect_jax.augment import degrade, selfblend
from fakedetect_jax.data.batch import ClipRows, empty_batch, empty_rows
from fakedetect_jax.model import explain, steps, store
from fakedetect_jax.run import memory, parallel

Blocks = tuple[store.Block, ...]


def over_mesh(function: Callable, mesh: Mesh) -> Callable:
    """Jits function(tree, batch): the batch sharded, all else on every device."""
    everywhere = parallel.replicated(mesh)
    return jax.jit(
        function,
        in_shardings=(everywhere, parallel.batch_sharded(mesh)),
        out_shardings=everywhere,
    )


def compile_eval_step(
    model, mesh: Mesh, *, blends: tuple[int, selfblend.Stored] | None = None
) -> Callable:
    """eval_step over the mesh; the logits come back whole on every process.

    With blends, a seed and how frames are stored, it is blended_eval_step, for an
    open_blended_split.
    """
    if blends is not None:
        blended = functools.partial(steps.blended_eval_step, model, *blends)
        return over_mesh(blended, mesh)
    return over_mesh(functools.partial(steps.eval_step, model), mesh)


def compile_eval_outputs(model: nn.Module, mesh: Mesh) -> Callable:
    """eval_outputs over the mesh; they come back whole on every process."""
    return over_mesh(functools.partial(steps.eval_outputs, model), mesh)


def compile_clip_outputs(model: nn.Module, mesh: Mesh) -> Callable:
    """clip_outputs over the mesh; they come back whole on every process."""
    return over_mesh(functools.partial(steps.clip_outputs, model), mesh)


def compile_degraded_step(
    model: nn.Module, family: degrade.Family, mesh: Mesh
) -> Callable:
    """degraded_eval_step over the mesh; takes (variables, strength) for a tree."""
    step = functools.partial(steps.degraded_eval_step, model, family)
    return over_mesh(step, mesh)


def compile_explain_step(model: nn.Module, mesh: Mesh) -> Callable:
    """explain_step over the mesh; its results come back whole on every process."""
    return over_mesh(functools.partial(explain.explain_step, model), mesh)


def compile_heat_step(model: nn.Module, mesh: Mesh) -> Callable:
    """(variables, batch) -> the heat maps float32[B,T,h,w] of explain_step."""

    def heat_step(variables: Any, batch: Any) -> Any:
        clips = batch.frames, batch.length
        return explain.explain_step(model, variables, clips).heat

    return over_mesh(heat_step, mesh)


def state_places(
    state: steps.TrainState, mesh: Mesh, *, shard_optimizer: bool
) -> steps.TrainState:
    """The sharding of each leaf of a state: on every device.

    With shard_optimizer Adam's moments are split over the devices, of which each then
    updates a part of the parameters and sends it to the others (Rajbhandari et al.
    2020, ZeRO stage 1).
    """
    everywhere = parallel.replicated(mesh)
    places = jax.tree.map(lambda _: everywhere, state)
    if not shard_optimizer:
        return places
    split = jax.tree.map(lambda x: parallel.shared_out(mesh, x.shape), state.opt_state)
    return places.replace(opt_state=split)


def compile_train_step(
    step_settings: steps.StepSettings,
    mesh: Mesh,
    places: steps.TrainState | None = None,
) -> Callable:
    """train_step over the mesh: batch sharded, state donated.

    The state lies as state_places says, on every device where that is not given.
    """
    everywhere = parallel.replicated(mesh)
    state = everywhere if places is None else places
    return jax.jit(
        functools.partial(steps.train_step, step_settings),
        in_shardings=(state, parallel.batch_sharded(mesh)),
        out_shardings=(state, everywhere),
        donate_argnums=0,
    )


def compile_resident_step(
    step_settings: steps.StepSettings,
    mesh: Mesh,
    places: steps.TrainState | None = None,
) -> Callable:
    """compile_train_step on frames that every device holds.

    It takes (state, blocks of model.store, ClipRows), and keeps the blocks.
    """
    everywhere = parallel.replicated(mesh)
    state = everywhere if places is None else places

    def step(state: steps.TrainState, blocks: Blocks, clips: ClipRows):
        return steps.train_step(step_settings, state, store.gather(blocks, clips))

    return jax.jit(
        step,
        in_shardings=(state, everywhere, parallel.batch_sharded(mesh)),
        out_shardings=(state, everywhere),
        donate_argnums=0,
    )


class TrainProgram(NamedTuple):
    """The compiled training step, and what it takes."""

    step: Callable
    need_bytes: int | None  # as memory.step_bytes counts; None where not known
    free_bytes: int | None
    flops: float  # of a step, over all devices; 0 where the compiler does not say

    def lines(self, peak: float | None) -> list[str]:
        """What it takes, for a person; peak: operations a second at best, if known."""
        lines = []
        if self.flops:
            at_best = f", {self.flops / peak * 1e3:,.1f} ms at best" if peak else ""
            lines.append(f"step      {self.flops / 1e12:,.3g} TFLOP{at_best}")
        if self.need_bytes is not None:
            whose = "host" if jax.default_backend() == "cpu" else "each device"
            free = (
                f" of {self.free_bytes / 1e9:,.1f} GB free" if self.free_bytes else ""
            )
            lines.append(f"memory    {self.need_bytes / 1e9:,.2f} GB{free} ({whose})")
        return lines


def fit_train_step(
    step_settings: steps.StepSettings,
    abstract: steps.TrainState,
    config: settings.Config,
    mesh: Mesh,
    *,
    stored: store.Layout | None,
    warn: Callable[[str], None],
) -> TrainProgram:
    """The training step, compiled ahead of the first batch and never again.

    stored: of the frames that devices are to hold, where they do: then it is a
    compile_resident_step. One that does not fit in memory is made anew with
    model.remat, which computes the same in less. Raises ConfigError when that does not
    fit either, with the largest batch that does and in how many parts the wanted one
    would.
    """
    have = memory.free_bytes(jax.local_devices())
    held = memory.on_devices(stored.num_bytes) if stored else 0
    if stored and have is not None and held > have:
        raise memory.store_error(stored.num_frames, held, have)
    compile_step = compile_resident_step if stored else compile_train_step

    def compiled(step_settings: steps.StepSettings, batch_size: int) -> TrainProgram:
        arguments = _step_arguments(abstract, config, batch_size, mesh, stored)
        places = jax.tree.map(lambda x: x.sharding, arguments[0])
        step = compile_step(step_settings, mesh, places)
        return _compile_ahead(step, arguments, have, step_settings.accumulate)

    def is_too_large(program: TrainProgram) -> bool:
        need = program.need_bytes
        return have is not None and need is not None and need > have

    program = compiled(step_settings, config.batch_size)
    alone = jax.process_count() == 1  # several would have to agree on their program
    if is_too_large(program) and not step_settings.model.remat and alone:
        warn(
            f"the step needs {(program.need_bytes or 0) / 1e9:,.1f} GB of "
            f"{(have or 0) / 1e9:,.1f} GB free: trying config.model.remat=True"
        )
        with_remat = step_settings.model.clone(remat=True)
        step_settings = step_settings._replace(model=with_remat)
        program = compiled(step_settings, config.batch_size)
    if not is_too_large(program):
        return program
    need, have, fits = program.need_bytes or 0, have or 0, None
    if alone:
        warn("out of memory: looking for a batch that fits")
        parts, groups = step_settings.accumulate, config.model.norm_groups
        unit = math.lcm(parallel.batch_unit(mesh, parts), groups * parts)
        largest = memory.largest_batch(
            lambda size: compiled(step_settings, size).need_bytes or 0,
            have=have,
            too_large=(config.batch_size, need),
            multiple=unit,
        )
        in_parts = memory.fewest_parts(
            config.batch_size,
            fits=largest // parts,
            devices=mesh.devices.size,
            groups=groups,
        )
        fits = memory.Fit(largest, in_parts)
    raise memory.memory_error(
        config, need, have, remat=step_settings.model.remat, fits=fits, held=held
    )


def _compile_ahead(step, arguments, have: int | None, parts: int) -> TrainProgram:
    lowered = step.lower(*arguments)
    counted: Any = lowered.cost_analysis() or {}
    flops = counted.get("flops", 0.0) * parts  # what is in a loop is counted once
    try:
        step = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if have is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # A compiler that refuses does not say how much is too much: taken for twice.
        return TrainProgram(lowered, 2 * have, have, flops)
    return TrainProgram(step, memory.step_bytes(step), have, flops)


def _step_arguments(
    abstract: steps.TrainState,
    config: settings.Config,
    batch_size: int,
    mesh: Mesh,
    stored: store.Layout | None,
) -> tuple[Any, ...]:
    """Shapes, types and places of the state and of a batch of so many clips; between
    them those of the stored frames."""

    def at(place: Any) -> Callable:
        return lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    everywhere, spread = parallel.replicated(mesh), parallel.batch_sharded(mesh)
    places = state_places(abstract, mesh, shard_optimizer=config.shard_optimizer)
    state = jax.tree.map(lambda x, place: at(place)(x), abstract, places)
    shape = settings.batch_shape(config, batch_size, train=True)
    if stored is None:
        return state, jax.tree.map(at(spread), empty_batch(*shape))
    blocks = jax.tree.map(at(everywhere), stored.shapes())
    return state, blocks, jax.tree.map(at(spread), empty_rows(*shape[:2]))
