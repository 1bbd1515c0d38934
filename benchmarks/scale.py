"""What a training step holds and sends, from the program compiled for 8 devices.

python -m benchmarks.scale [--config FILE] [--per_device 32] [--shard_optimizer]
    [--norm_groups 8]

Compiles on 8 virtual CPU devices; runs nothing. Prints memory per device, and the
collectives with their bytes.
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


def operations(program: str, kind: str) -> int:
    """How many collectives of a kind an HLO text has; one may yield several arrays."""
    return sum(this == kind for _, this in COLLECTIVE.findall(program))


def collective_bytes(program: str, kind: str) -> int:
    """The bytes of all arrays that collectives of a kind yield."""
    total = 0
    for shapes, this in COLLECTIVE.findall(program):
        for dtype, dims in SHAPE.findall(shapes) if this == kind else ():
            total += SIZES[dtype] * math.prod(int(d) for d in dims.split(",") if d)
    return total


def main() -> None:
    """Prints the numbers of a config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ffpp.py")
    parser.add_argument("--per_device", type=int, default=32)
    parser.add_argument("--shard_optimizer", action="store_true")
    parser.add_argument("--norm_groups", type=int, default=1)
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options, results)


def measure(options: argparse.Namespace, results: table.Results) -> None:
    """Compiles the step and counts."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax

    from fakedetect_jax import settings
    from fakedetect_jax.data.batch import empty_batch
    from fakedetect_jax.model import steps
    from fakedetect_jax.programs.compiled import compile_train_step, state_places
    from fakedetect_jax.run import parallel
    from fakedetect_jax.settings import batch_shape, clip_shape

    jax.config.update("jax_platforms", "cpu")
    config = settings.load(options.config)
    config.batch_size = 8 * options.per_device
    config.model.norm_groups = options.norm_groups
    mesh = parallel.make_mesh()
    preparation = steps.make_step_settings(config, num_steps=10)
    state = jax.eval_shape(
        lambda: steps.create_train_state(preparation, clip_shape(config))
    )
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype),
        empty_batch(*batch_shape(config, 8)),
    )
    places = state_places(state, mesh, shard_optimizer=options.shard_optimizer)
    step = compile_train_step(preparation, mesh, places)
    compiled = step.lower(state, batch).compile()
    text = compiled.as_text()
    memory = compiled.memory_analysis()

    def size(tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    def part(x, place):
        return jax.ShapeDtypeStruct(place.shard_shape(x.shape), x.dtype)

    results.heads("of a step", "")
    results.row("parameters", f"{size(state.params) / 4:,.0f}")
    held = size(jax.tree.map(part, state, places))
    results.row("state", f"{held / 1e6:,.1f} MB per device")
    results.row("batch", f"{size(batch) / 8e6:,.1f} MB per device")
    if memory is not None:
        held = f"{memory.temp_size_in_bytes / 1e9:,.1f} GB"
        results.row("activations (XLA, CPU)", held)
    counted = collections.Counter(kind for kind, _ in collectives(text))
    for kind, count in counted.items():
        sent = collective_bytes(text, kind) / 1e6
        times = operations(text, kind)
        results.row(kind, f"{times} times, {count} arrays, {sent:,.1f} MB per step")


if __name__ == "__main__":
    main()
