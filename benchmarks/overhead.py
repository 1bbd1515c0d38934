"""What the safeguards cost per step: the same steps with and without them, in turns.

python -m benchmarks.overhead [--steps 200]

On the device: the test for finite numbers and the select that keeps the old state. On
the host: asking for signals, polling the checkpoint, testing the fetched metrics. Not
counted: checkpoints themselves, whose files are written and digested by threads while
training goes on.
"""

import argparse
import os
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.data.batch import empty_batch
from fakedetect_jax.model import steps
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel, process
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.settings import batch_shape, clip_shape
from fakedetect_jax.training.start import first_state


def compiled_steps(config, mesh):
    """The step as it is, and one whose finite test is always true; a state for each."""
    step_settings = steps.make_step_settings(config, num_steps=10)
    batch = empty_batch(*batch_shape(config, config.batch_size))
    rng = np.random.default_rng(0)
    batch.frames[:] = rng.integers(0, 256, batch.frames.shape)
    batch.valid[:] = True
    device_batch = parallel.to_global(batch, mesh)
    state = first_state(step_settings, clip_shape(config), config, mesh)
    other = jax.tree.map(jnp.copy, state)
    guarded = (
        compiled.compile_train_step(step_settings, mesh)
        .lower(state, device_batch)
        .compile()
    )
    with mock.patch.object(steps.jnp, "isfinite", lambda x: np.bool_(True)):
        update = compiled.compile_train_step(step_settings, mesh)
        bare = update.lower(other, device_batch).compile()
    return (guarded, state), (bare, other), device_batch


def main() -> None:
    """Prints both medians and the host's part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--config", default="configs/demo.py")
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options, results)


def measure(options: argparse.Namespace, results: table.Results) -> None:
    """Both steps in turns."""
    config, mesh = settings.load(options.config), parallel.make_mesh()
    (guarded, state), (bare, other), batch = compiled_steps(config, mesh)
    with_them, without, host = [], [], []
    folder = f"/tmp/overhead-{os.getpid()}"  # noqa: S108 - removed below
    checkpoints = Checkpoints(folder)  # pyright: ignore[reportArgumentType]
    vote = parallel.Vote(mesh)
    with process.StopRequest() as stop:
        for _ in range(options.steps):
            started = time.perf_counter()
            state, metrics = guarded(state, batch)
            jax.block_until_ready(state)
            with_them.append(time.perf_counter() - started)
            started = time.perf_counter()
            other, _ = bare(other, batch)
            jax.block_until_ready(other)
            without.append(time.perf_counter() - started)
            finite = parallel.fetch(metrics.finite)
            started = time.perf_counter()
            checkpoints.poll()
            _ = vote(stop.signal is not None) or not finite.item()
            host.append(time.perf_counter() - started)
    checkpoints.close()
    os.rmdir(folder)
    base = statistics.median(without)
    device = statistics.median(a - b for a, b in zip(with_them, without, strict=True))
    on_host = statistics.median(host)
    results.heads(f"median of {options.steps} steps", "ms")
    results.row("step without safeguards", f"{1e3 * base:.2f}")
    results.row("more on the device", f"{1e3 * device:.3f}")
    results.row("more on the host", f"{1e3 * on_host:.3f}")
    results.row("both, of the step", f"{(device + on_host) / base:.2%}")


if __name__ == "__main__":
    main()
