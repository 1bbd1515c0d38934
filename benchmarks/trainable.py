"""What each config.trainable holds and computes, counted without making any of it.

python -m benchmarks.trainable [--backbone clip_l14] [--frames 4]

Of a training step on one clip: numbers that are trained, bytes of parameters and of the
optimiser's state, and operations per frame as XLA counts them in the lowered program;
and what the compiled one takes besides, which is activations and gradients.
"""

import argparse
from typing import Any

from benchmarks import table

KINDS = ("all", "head", "norms", "lora", "svd", "last_n")


def main() -> None:
    """Prints a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="clip_l14")
    parser.add_argument("--frames", type=int, default=4)
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options.backbone, options.frames, results)


def measure(backbone: str, frames: int, results: table.Results) -> None:
    """Counts each kind."""
    import functools

    import jax

    from fakedetect_jax import settings
    from fakedetect_jax.data.batch import empty_batch
    from fakedetect_jax.model import network, steps

    def megabytes(tree: Any) -> str:
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
        return f"{size / 1e6:,.1f}"

    results.say(f"{backbone} at 224 pixels, frames alone, rank 8, last block; in MB.")
    names = ("trainable", "trained", "share", "parameters", "optimiser")
    results.heads(*names, "activations, gradients", "TFLOP/frame")
    for kind in KINDS:
        config = settings.load("ffpp").copy_and_resolve_references()
        with config.unlocked():
            config.model.update(backbone=backbone, temporal="none")
            config.data.clip_frames, config.trainable = frames, kind
        step_settings = steps.make_step_settings(config, num_steps=1)
        create = functools.partial(
            steps.create_train_state, step_settings, (frames, 224, 224, 3)
        )
        state = jax.eval_shape(create)
        train_step = functools.partial(steps.train_step, step_settings)
        step = jax.jit(train_step, donate_argnums=0)  # as the trainer calls it
        lowered = step.lower(state, empty_batch(1, frames, 224))
        counted: Any = lowered.cost_analysis()
        sizes: Any = lowered.compile().memory_analysis()
        beside = f"{sizes.temp_size_in_bytes / 1e6:,.0f}"
        trained = network.count_parameters(step_settings.split(state.params)[0])
        share = trained / network.count_parameters(state.params)
        held = megabytes(state.params), megabytes(state.opt_state)
        flops = f"{(counted or {}).get('flops', 0) / frames / 1e12:.2f}"
        results.row(kind, f"{trained:,}", f"{share:.3%}", *held, beside, flops)


if __name__ == "__main__":
    main()
