"""Averaged weights: scored as they are stored, and with other BatchNorm statistics.

python -m benchmarks.averaged [--config configs/demo.py] [--decay 0.99 0.999]
    [--steps 500]
Trains once per decay at a constant rate on the config's dataset (made if need be), then
scores val and test. A network's running statistics are those of the weights that it
had; "estimated anew" takes them from training batches with the averaged weights
themselves, which is what the stored average has to come near to.
"""

import argparse
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.batch import Batch
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.data.order import TrainOrder
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics import metrics
from fakedetect_jax.model import network, steps
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.training.start import first_state
from tfds_ffpp.terminal.lines import Terminal


def estimate_statistics(
    model: network.FakeDetector, variables: dict[str, Any], batches: Iterable[Batch]
) -> Any:
    """BatchNorm statistics of the variables' parameters: means over whole batches."""
    momentum = resnet.BatchNorm.momentum
    # From zero, one update leaves (1 - momentum) times the batch's own statistics.
    empty = jax.tree.map(np.zeros_like, variables["batch_stats"])

    @jax.jit
    def of_batch(frames, length):
        _, updated = model.apply(
            {"params": variables["params"], "batch_stats": empty},
            steps.normalise(model, frames.astype(np.float32) / 255.0),
            length,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return updated["batch_stats"]

    seen = [of_batch(batch.frames, batch.length) for batch in batches]
    return jax.tree.map(lambda *parts: sum(parts) / len(parts) / (1 - momentum), *seen)


def training_batches(config, split: reader.Split, count: int, *, start: int = 0):
    """The batches of the steps from `start` to `count`, as the trainer feeds them."""
    order = TrainOrder(
        split.videos,
        seed=config.seed,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        sampling=config.data.sampling,
    )
    return train_feed(
        order,
        split.reader,
        split.videos,
        config.data,
        shape=settings.batch_shape(config, config.batch_size),
        rows=slice(0, config.batch_size),
        start_step=start,
        num_steps=count,
    )


def trained_state(config, builder, mesh, num_steps: int) -> steps.TrainState:
    """The state after num_steps."""
    step_settings = steps.make_step_settings(config, num_steps=num_steps)
    state = first_state(step_settings, settings.clip_shape(config), config, mesh)
    update = compiled.compile_train_step(step_settings, mesh)
    feed = training_batches(
        config, reader.open_split(builder, "train", config), num_steps
    )
    for _, batch in parallel.put_ahead(feed, mesh, 2):
        state, _ = update(state, batch)
    return state


def score(config, variables, splits: list[reader.Split], mesh) -> list[float]:
    """Video AUC, clip log loss and clip accuracy of all splits together."""
    eval_step = compiled.compile_eval_step(network.make_model(config), mesh)
    rows = [
        row
        for split in splits
        for row in evaluate.score_clips(eval_step, variables, split, config, mesh=mesh)
    ]
    clips = metrics.clips(rows)
    summary = metrics.clip_summary(clips)
    auc = metrics.summary(metrics.videos(clips)).auc
    found = (auc, summary.loss, summary.accuracy)
    return [math.nan if number is None else number for number in found]


def compare(
    config, decay: float, num_steps: int, num_batches: int, results: table.Results
) -> None:
    """Prints a row for each way to score one training."""
    with config.unlocked():
        config.optimizer.ema_decay = decay
    mesh = parallel.make_mesh()
    builder = dataset.open_dataset(config)
    open_split = functools.partial(reader.open_split, builder, config=config)
    state = trained_state(config, builder, mesh, num_steps)
    held = [open_split("val"), open_split("test")]
    raw = {"params": state.params, "batch_stats": state.batch_stats}
    stored = state.eval_variables()
    batches = training_batches(
        config, open_split("train"), num_steps + num_batches, start=num_steps
    )
    anew = estimate_statistics(network.make_model(config), stored, batches)
    ways = {
        "raw weights": raw,
        "averaged, statistics of the raw weights": {**stored, **_only_statistics(raw)},
        "averaged, as stored": stored,
        "averaged, statistics estimated anew": {**stored, "batch_stats": anew},
    }
    for name, variables in ways.items():
        auc, loss, accuracy = score(config, variables, held, mesh)
        numbers = (f"{number:.3f}" for number in (auc, loss, accuracy))
        results.row(f"{decay}, {num_steps}", name, *numbers)


def _only_statistics(variables: dict[str, Any]) -> dict[str, Any]:
    return {"batch_stats": variables["batch_stats"]}


def main() -> None:
    """Measures each decay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", default="configs/demo.py", help="its data and model"
    )
    parser.add_argument("--data_dir", help="where the built dataset lies")
    parser.add_argument("--decay", type=float, nargs="+", default=[0.99, 0.999])
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 700])
    parser.add_argument("--batches", type=int, default=30, help="to estimate from")
    table.add_option(parser)
    args = parser.parse_args()
    config = settings.load(args.config)
    with config.unlocked():
        config.optimizer.update(schedule="constant", warmup_steps=0)
        if args.data_dir:
            config.data.update(data_dir=args.data_dir, manual_dir="")
            config.synthetic.num_identities = 0
    if not Path(config.data.data_dir).exists():
        dataset.prepare(config, Terminal())
    with table.results(parser, args) as results:
        results.heads("decay, step", "", "video AUC", "clip log loss", "clip accuracy")
        for decay, num_steps in zip(args.decay, args.steps, strict=True):
            compare(config, decay, num_steps, args.batches, results)


if __name__ == "__main__":
    main()
