"""Every compiled program: a step of model/ over a mesh, with its shardings."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.sharding import Mesh

from fakedetect_jax.augment import selfblend
from fakedetect_jax.model import explain, steps
from fakedetect_jax.run import parallel


def over_mesh(function: Callable, mesh: Mesh, *, donate: bool = False) -> Callable:
    """Jits function(tree, batch): the batch sharded, tree and results on every device.

    With `donate` the results take the memory of the tree, which is then gone.
    """
    everywhere = parallel.replicated(mesh)
    return jax.jit(
        function,
        in_shardings=(everywhere, parallel.batch_sharded(mesh)),
        out_shardings=everywhere,
        donate_argnums=(0,) if donate else (),
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


def compile_explain_step(model: nn.Module, mesh: Mesh) -> Callable:
    """explain_step over the mesh; its results come back whole on every process."""
    return over_mesh(functools.partial(explain.explain_step, model), mesh)


def compile_train_step(step_settings: steps.StepSettings, mesh: Mesh) -> Callable:
    """train_step over the mesh: batch sharded, state replicated and donated."""
    step = functools.partial(steps.train_step, step_settings)
    return over_mesh(step, mesh, donate=True)
