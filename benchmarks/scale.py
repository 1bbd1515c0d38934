"""What a training step holds and sends, from the program compiled for 8 devices.

python -m benchmarks.scale [--config configs/ffpp.py] [--per_device 32]

Compiles on 8 virtual CPU devices; runs nothing. Prints memory per device, the
collectives and their bytes, and what a ring all-reduce of them takes on links of a
given speed.
"""

import argparse
import collections
import math
import os
import re

from benchmarks import table

SIZES = {"f32": 4, "bf16": 2, "s32": 4, "pred": 1, "f16": 2, "u32": 4, "s64": 8}
COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(program: str) -> list[tuple[str, int]]:
    """(kind, elements) of each array that a collective of an HLO text yields."""
    found = []
    for shapes, kind in COLLECTIVE.findall(program):
        for _, dims in SHAPE.findall(shapes):
            found.append((kind, math.prod(int(d) for d in dims.split(",") if d)))
    return found


def collective_bytes(program: str) -> int:
    """The bytes of all arrays that collectives yield."""
    total = 0
    for shapes, _ in COLLECTIVE.findall(program):
        for kind, dims in SHAPE.findall(shapes):
            total += SIZES[kind] * math.prod(int(d) for d in dims.split(",") if d)
    return total


def main() -> None:
    """Prints the numbers of a config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ffpp.py")
    parser.add_argument("--per_device", type=int, default=32)
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options, results)


def measure(options: argparse.Namespace, results: table.Results) -> None:
    """Compiles the step and counts."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax

    from fakedetect_jax import settings
    from fakedetect_jax.compiled import compile_train_step
    from fakedetect_jax.data.feed import empty_batch
    from fakedetect_jax.model import steps
    from fakedetect_jax.run import parallel
    from fakedetect_jax.settings import batch_shape, clip_shape

    jax.config.update("jax_platforms", "cpu")
    config = settings.load(options.config)
    config.batch_size = 8 * options.per_device
    mesh = parallel.make_mesh()
    preparation = steps.make_step_settings(config, num_steps=10)
    state = jax.eval_shape(
        lambda: steps.create_train_state(preparation, clip_shape(config))
    )
    batch = {
        name: jax.ShapeDtypeStruct(rows.shape, rows.dtype)
        for name, rows in empty_batch(*batch_shape(config, 8)).items()
    }
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *rows.shape[1:]), rows.dtype)
        for name, rows in batch.items()
    }
    compiled = compile_train_step(preparation, mesh).lower(state, batch).compile()
    text = compiled.as_text()
    memory = compiled.memory_analysis()

    def size(tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    results.heads("of a step", "")
    results.row("parameters", f"{size(state.params) / 4:,.0f}")
    results.row("state", f"{size(state) / 1e6:,.1f} MB per device")
    results.row("batch", f"{size(batch) / 8e6:,.1f} MB per device")
    if memory is not None:
        held = f"{memory.temp_size_in_bytes / 1e9:,.1f} GB"
        results.row("activations (XLA, CPU)", held)
    counted = collections.Counter(kind for kind, _ in collectives(text))
    for kind, count in counted.items():
        results.row(kind, f"{count} arrays")
    results.row("summed", f"{collective_bytes(text) / 1e6:,.1f} MB per step")


if __name__ == "__main__":
    main()
