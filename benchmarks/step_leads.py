"""Leads for the step on a CPU, each beside the step as it is, a step of each in turn.

python -m benchmarks.step_leads [--models resnet18 resnet50] [--pairs 20]

Training in float32: a barrier on what each block yields, forward and backward, so that
the compiler cannot compute the chain of sums again in later blocks. Inference in
bfloat16: kernels that were cast once, before all steps. A lead is worth keeping where
its median is over 1.01 of the plain step's and three pairs of four are faster.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_workers, table
from fakedetect_jax.model import steps
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.run.process import MALLOC

CLIPS = {"resnet18": 8, "resnet50": 4}
Call = Callable[[], Any]


@jax.custom_vjp
def barred(x: jax.Array) -> jax.Array:
    """x, which the compiler may not compute anew behind it; its gradient likewise."""
    return jax.lax.optimization_barrier(x)


def _barred_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return barred(x), None


def _barred_backward(_: None, dy: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(dy),)


barred.defvjp(_barred_forward, _barred_backward)


def barred_blocks() -> Any:
    """Puts a barrier behind each block of a ResNet while it is traced."""
    own = resnet.Block

    def make(*arguments: Any, **fields: Any) -> Callable:
        block = own(*arguments, **fields)
        return lambda x, train: barred(block(x, train))

    return mock.patch.object(resnet, "Block", make)


class Bench:
    """A model's state and batch, and its steps."""

    def __init__(self, options: argparse.Namespace, model: str, precision: str):
        """Compiles nothing but the state."""
        chosen = argparse.Namespace(**vars(options), model=model, precision=precision)
        chosen.clips = CLIPS[model]
        config = step_workers.project_config(chosen)
        self.settings = steps.make_step_settings(config, num_steps=10**6)
        self.batch = jax.device_put(step_workers.make_clips(chosen))
        create = functools.partial(
            steps.create_train_state, self.settings, self.batch.frames.shape[1:]
        )
        self.state = jax.jit(create)()

    def train(self) -> Call:
        """A step of the training from a copy of the state."""
        step = functools.partial(steps.train_step, self.settings)
        program = jax.jit(step, donate_argnums=0).lower(self.state, self.batch)
        compiled = program.compile()
        holder = [jax.tree.map(jnp.copy, self.state)]

        def once() -> Any:
            holder[0], metrics = compiled(holder[0], self.batch)
            return metrics.loss

        return once

    def infer(self, variables: Any) -> Call:
        """Logits of the batch."""
        step = jax.jit(functools.partial(steps.eval_step, self.settings.model))
        return lambda: step(variables, self.batch)


def cast_kernels(variables: Any) -> Any:
    """The variables with the convolutions' kernels in bfloat16."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim == 4 else leaf, variables
    )


def training_sides(bench: Bench) -> dict[str, Call]:
    """The plain step, and one with barriers."""
    sides = {"as it is": bench.train()}
    with barred_blocks():
        sides["barrier"] = bench.train()
    return sides


def inference_sides(bench: Bench) -> dict[str, Call]:
    """With kernels cast in each step, and before."""
    variables = bench.state.eval_variables()
    return {
        "as it is": bench.infer(variables),
        "kernels cast once": bench.infer(jax.jit(cast_kernels)(variables)),
    }


def in_turns(sides: dict[str, Call], pairs: int) -> dict[str, list[float]]:
    """Seconds of each side's steps; the first two turns are warm-up."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(pairs + 2):
        # Each side comes first as often as the others.
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            jax.block_until_ready(sides[name]())
            took[name].append(time.perf_counter() - start)
    return {name: seconds[2:] for name, seconds in took.items()}


def show(
    results: table.Results, what: str, frames: int, sides: dict[str, Call], pairs: int
) -> None:
    """A row for each side."""
    first = [np.asarray(side(), np.float32) for side in sides.values()]
    took = in_turns(sides, pairs)
    plain = next(iter(took.values()))
    for (name, seconds), value in zip(took.items(), first, strict=True):
        ratios = [a / b for a, b in zip(plain, seconds, strict=True)]
        rates = [frames / one for one in seconds]
        faster = sum(ratio > 1 for ratio in ratios)
        gain = statistics.median(ratios)
        worth = gain > 1.01 and faster >= 0.75 * pairs
        results.row(
            what,
            name,
            f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})",
            f"{gain:.3f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{faster} of {pairs}",
            "yes"
            if (value == first[0]).all()
            else f"{abs(value - first[0]).max():.1e}",
            "" if name == "as it is" else ("kept" if worth else "dropped"),
        )


def main() -> None:
    """Measures in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(CLIPS), choices=CLIPS)
    parser.add_argument("--size", type=int, default=112, help="pixels")
    parser.add_argument("--frames", type=int, default=10, help="of a clip")
    parser.add_argument("--pairs", type=int, default=20, help="steps of each side")
    table.add_option(parser)
    options = parser.parse_args()
    if not set(MALLOC) <= set(os.environ):  # the memory settings of the trainer
        words = [sys.executable, "-m", "benchmarks.step_leads", *sys.argv[1:]]
        os.execve(sys.executable, words, {**os.environ, **MALLOC})  # noqa: S606
    with table.results(parser, options) as results:
        results.heads(
            *("step", "side", "frames/s (min-max)", "to the plain (min-max)", "faster"),
            *("same first number", "so"),
        )
        for model in options.models:
            frames = CLIPS[model] * options.frames
            bench = Bench(options, model, "bf16")
            what = f"infer {model}, bfloat16"
            show(results, what, frames, inference_sides(bench), options.pairs)
            bench = Bench(options, model, "fp32")
            what = f"train {model}, float32"
            show(results, what, frames, training_sides(bench), options.pairs)


if __name__ == "__main__":
    main()
