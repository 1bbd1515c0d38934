"""Which parts of the recipe help to detect a forgery that was not trained on.

python -m benchmarks.recipe [--out runs/recipe] [--jobs 2] [--seeds 11] [--quick]

Three contrasts, named here before any run: the LSTM or frames alone; self-blended clips
or none; augmentation (JPEG, colour, blur, down-up scaling) or none. Each changes one
thing of the same base recipe, on made videos like the demo's but of 160 people and at
48 pixels, so that 88 trainings fit an hour.

* The outcome is the mean video AUC over the methods that were held out, on people that
  were never seen. Each seed trains each arm once per fold; the folds hold out each
  method once. So held-out method and seed are crossed, and arms are compared seed by
  seed.
* Fakes are half of the labels in every arm, and every arm sees each fake equally often
  per epoch: where self-blended clips take a share of the fakes' places, its epoch has
  more steps.
* A run trains until its validation AUC has not risen for PATIENCE epochs, or for
  MOST_EPOCHS; the best checkpoint on validation is tested. Learning rate and data are
  those of one uninterrupted run.
* The interval of a contrast and its p value rest on draws of seeds and of people at
  once, people by swap pairs (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 1, 2007,
  which errs on the wide side), with Student's t of seeds - 1 degrees of freedom; p
  values are corrected for the three contrasts by Holm's method.
* Beside the AUCs: what a random forest on block statistics reaches, and how many real
  test videos lie above the validation threshold as they are and after a change of
  colour, light and sharpness that is no forgery, followed by JPEG compression. Both are
  scored on the same clips of each video.

Every run is a command of fakedetect_jax.main, kept in OUT/<arm>/<fold>-<seed>/. A
finished run is not run again, an interrupted one goes on.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.augment import pixels, selfblend
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.order import ClipRef
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.evaluation.seeds import holm
from fakedetect_jax.metrics import intervals, metrics, trivial
from fakedetect_jax.model import network
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.trained.model import read_workdir
from tfds_ffpp import build
from tfds_ffpp.synthetic import tree
from tfds_ffpp.terminal.progress import Progress

COMPRESSION = "c23"
PATIENCE, FIRST_EPOCHS, MOST_EPOCHS = 3, 8, 16
REPLICATES = 2000
Fields = Mapping[str, Any]

# Each fold holds out one half of the methods and trains on the other.
FOLDS = {
    "a": ("Deepfakes", "NeuralTextures"),
    "b": ("Face2Face", "FaceSwap", "Flicker"),
}
METHODS = tuple(sorted(m for held_out in FOLDS.values() for m in held_out))

SCALE: Fields = {
    "synthetic.num_identities": 160,
    "synthetic.num_frames": 24,
    "synthetic.difficulty": 0.0,
    "dataset.name": "recipe",
    "dataset.methods": METHODS,
    "dataset.image_size": 48,
    "dataset.num_frames": 16,
}
BASE: Fields = {
    "data.clip_frames": 4,
    "data.frame_stride": 1,
    "data.sampling": "pair",
    "data.train_clips_per_video": 4,
    "data.num_threads": 1,
    "model.backbone": "resnet",
    "model.stage_sizes": (1, 1, 1),
    "model.width": 10,
    "model.stem": "small2",
    "model.lstm_features": 64,
    "model.pooling": "mean",
    "model.dtype": "float32",
    "augment.flip": 0.5,
    "loss.self_blend": 0.0,
    "batch_size": 12,
    "optimizer.learning_rate": 2e-3,
    "optimizer.warmup_steps": 40,
    "eval.final_split": "",
    "log_every_steps": 1000,
}
SELF_BLEND = 1 / 3
BASE_ARM = "base"
ARMS: Mapping[str, Fields] = {
    BASE_ARM: {},
    "frames alone": {"model.temporal": "none"},
    "self-blended clips": {
        "loss.self_blend": SELF_BLEND,
        "data.train_clips_per_video": round(
            BASE["data.train_clips_per_video"] / (1 - SELF_BLEND)
        ),
    },
    "augmentation": {
        "augment.jpeg": 0.5,
        "augment.brightness_contrast": 0.3,
        "augment.hue_saturation": 0.3,
        "augment.blur": 0.2,
        "augment.downscale": 0.2,
    },
}


class Contrast(NamedTuple):
    """What is compared: the arm with a thing against the arm without it."""

    name: str
    with_it: str
    without: str


CONTRASTS = (
    Contrast("LSTM", BASE_ARM, "frames alone"),
    Contrast("self-blended clips", "self-blended clips", BASE_ARM),
    Contrast("augmentation", "augmentation", BASE_ARM),
)
QUICK: Fields = {"synthetic.num_identities": 32, "data.train_clips_per_video": 2}


class Trial(NamedTuple):
    """One training."""

    arm: str
    fold: str
    seed: int


class Result(NamedTuple):
    """What became of a trial.

    comparisons: for each held-out method 1 where the fake's score (row) is above the
    real's (column), 0.5 where they are equal; the clusters of people of rows and
    columns are numbers from 0. trained: mean AUC of the methods that were trained on.
    alarms: share of real videos above the threshold, as stored and changed. epochs: of
    the best checkpoint and in all.
    """

    comparisons: dict[str, np.ndarray]
    fake_clusters: dict[str, np.ndarray]
    real_clusters: np.ndarray
    trained: float
    alarms: tuple[float, float]
    epochs: tuple[int, int]


def flags(fields: Fields) -> list[str]:
    """Fields as the trainer's command line takes them."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


class Bench:
    """The folder of the trials, and the cores that they run on."""

    def __init__(self, out: Path, jobs: int, *, quick: bool):
        self.out = out
        self.scale = {**SCALE, **(QUICK if quick else {})}
        self.most_epochs = 2 if quick else MOST_EPOCHS
        self._jobs = jobs
        self._slots: SimpleQueue[list[int]] = SimpleQueue()
        cores = sorted(os.sched_getaffinity(0))
        for number in range(jobs):
            self._slots.put(cores[number::jobs] or cores)

    def folder(self, trial: Trial) -> Path:
        """The workdir of a trial."""
        return self.out / trial.arm.replace(" ", "-") / f"{trial.fold}-{trial.seed}"

    def make_data(self) -> None:
        """Makes the tree of videos and builds the dataset, unless they are there."""
        tree.write_tree(
            self.out / "videos",
            num_identities=self.scale["synthetic.num_identities"],
            num_frames=self.scale["synthetic.num_frames"],
            difficulty=self.scale["synthetic.difficulty"],
            compressions=(COMPRESSION,),
            methods=METHODS,
            split_shares=(0.5, 0.125, 0.375),
        )
        config = settings.load(f"configs/ffpp.py:{COMPRESSION}")
        with config.unlocked():
            config.update_from_flattened_dict(dict(self.scale), strip_prefix="")
        build.build(
            dataset.dataset_config(config),
            data_dir=self.out / "tfds",
            manual_dir=self.out / "videos",
        )

    def command(self, trial: Trial, num_epochs: int) -> list[str]:
        """The training of a trial up to an epoch."""
        arm = dict(ARMS[trial.arm])
        if "data.train_clips_per_video" in self.scale:
            arm.pop("data.train_clips_per_video", None)
        fields = {
            **BASE,
            **self.scale,
            **arm,
            "synthetic.num_identities": 0,  # made by make_data
            "data.manual_dir": self.out / "videos",
            "data.data_dir": self.out / "tfds",
            "data.hold_out": FOLDS[trial.fold],
            "seed": trial.seed,
            "num_epochs": num_epochs,
        }
        return [
            *(sys.executable, "-m", "fakedetect_jax.main"),
            *("--workdir", str(self.folder(trial))),
            *("--config", f"configs/ffpp.py:{COMPRESSION}"),
            *flags(fields),
        ]

    def train(self, trial: Trial) -> None:
        """Trains until validation stops rising, unless that was done."""
        done = self.folder(trial) / "done"
        if done.exists():
            return
        done.parent.mkdir(parents=True, exist_ok=True)
        cores = self._slots.get()
        try:
            num_epochs = min(FIRST_EPOCHS, self.most_epochs)
            while True:
                self._run(self.command(trial, num_epochs), done.parent, cores)
                curve = validation(done.parent)
                rest = PATIENCE - (len(curve) - best_epoch(curve))
                if rest <= 0 or num_epochs >= self.most_epochs:
                    break
                num_epochs = min(num_epochs + rest, self.most_epochs)
            done.touch()
        finally:
            self._slots.put(cores)

    def _run(self, command: list[str], folder: Path, cores: list[int]) -> None:
        (folder / "command.txt").write_text(shlex.join(command) + "\n")
        with open(folder / "log.txt", "a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            # Before its threads start: they inherit it, and their number follows it.
            os.sched_setaffinity(process.pid, cores)
        if process.wait():
            raise SystemExit(
                f"a trial ended with {process.returncode}: {folder}/log.txt"
            )

    def train_all(self, trials: Sequence[Trial]) -> None:
        """Trains all, as many at once as there are jobs."""
        with (
            ThreadPoolExecutor(self._jobs) as pool,
            Progress("trials", len(trials)) as bar,
        ):

            def one(trial: Trial) -> None:
                self.train(trial)
                bar.step()

            list(pool.map(one, trials))


def validation(workdir: Path) -> list[float]:
    """Validation's video AUC, epoch by epoch."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "val"]
    return [row["video_auc"] for row in rows]


def best_epoch(curve: Sequence[float]) -> int:
    """The epoch, from 1, after which the AUC did not rise any more."""
    return int(np.argmax(curve)) + 1


# Testing -------------------------------------------------------------------------


def test(bench: Bench, trial: Trial) -> Result:
    """Scores the test split with a trial's best checkpoint."""
    folder = bench.folder(trial)
    model = read_workdir(folder)
    mesh = parallel.make_mesh()
    eval_step = compiled.compile_eval_step(network.make_model(model.config), mesh)
    variables = parallel.put_replicated(model.variables, mesh)
    builder = dataset.open_dataset(model.config)
    split = reader.open_split(builder, "test", model.config)
    rows = evaluate.score_clips(eval_step, variables, split, model.config, mesh=mesh)
    videos = metrics.videos(metrics.clips(rows))
    cluster_of = intervals.clusters(videos)
    real = videos.take(videos.label == 0)
    threshold = 0.5 if model.threshold is None else model.threshold
    reals = reader.open_split(builder, "test", model.config, hold_out=METHODS)
    changed = regraded_scores(eval_step, variables, reals, model.config, mesh)
    comparisons, clusters, seen = {}, {}, []
    for method in METHODS:
        fake = videos.take(videos.method == method)
        above = fake.score[:, None] - real.score[None]
        comparison = (np.sign(above) + 1) / 2
        if method in FOLDS[trial.fold]:
            comparisons[method] = comparison
            clusters[method] = cluster_of[videos.method == method]
        else:
            seen.append(comparison.mean())
    curve = validation(folder)
    return Result(
        comparisons,
        clusters,
        cluster_of[videos.label == 0],
        float(np.mean(seen)),
        (float(np.mean(real.score > threshold)), float(np.mean(changed > threshold))),
        (best_epoch(curve), len(curve)),
    )


def regraded_scores(eval_step, variables, reals, config, mesh) -> np.ndarray:
    """Video scores of a split after regrade, over the clips of any evaluation.

    A threshold is picked for means over those clips: of fewer, scores spread more.
    """
    changed = reals._replace(reader=Regraded(reals.reader))
    rows = evaluate.score_clips(eval_step, variables, changed, config, mesh=mesh)
    return metrics.videos(metrics.clips(rows)).score


class Regraded:
    """Reads clips after regrade; all clips of a video are changed alike."""

    def __init__(self, frames: reader.Reads):
        self._frames = frames
        self._change = jax.jit(regrade)

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """See FrameReader.read."""
        length = self._frames.read(clip, num_valid, out)
        key = jax.random.fold_in(jax.random.key(0), clip.video)
        out[:] = np.asarray(self._change(out, key))
        return length

    def read_masks(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> None:
        """See FrameReader.read_masks: nothing is moved."""
        self._frames.read_masks(clip, num_valid, out)


def regrade(frames_THWC, key):
    """Colour, light and sharpness changed for the whole clip, then JPEG: no forgery."""
    change, quality = jax.random.split(key)
    planes = pixels.to_planes(frames_THWC / 255.0)
    planes = pixels.to_bytes_and_back(selfblend.change_statistics(planes, change))
    quality = jax.random.uniform(quality, minval=60.0, maxval=100.0)
    planes = pixels.jpeg(planes, quality, subsample=False)
    return jnp.round(255 * pixels.to_frames(planes)).astype(jnp.uint8)


def forest_aucs(bench: Bench) -> dict[str, dict[str, float]]:
    """Statistics -> the AUC of a forest on them, for each method held out from it."""
    config = settings.load(f"configs/ffpp.py:{COMPRESSION}")
    with config.unlocked():
        config.update_from_flattened_dict({**BASE, **bench.scale}, strip_prefix="")
        config.data.data_dir = str(bench.out / "tfds")
    builder = dataset.open_dataset(config)

    def frames(split: str, held_out: tuple[str, ...]):
        opened = reader.open_split(builder, split, config, hold_out=held_out)
        size = config.dataset.image_size
        return trivial.stored_frames(opened.videos, opened.reader, image_size=size)

    areas: dict[str, dict[str, float]] = {}
    for methods in FOLDS.values():
        rows = trivial.score_videos(frames("train", methods), frames("test", ()))
        for name in rows[0].scores:
            for method in methods:
                kept = [
                    row
                    for row in rows
                    if not row.video.label or row.video.method == method
                ]
                labels = np.array([row.video.label for row in kept])
                area = metrics.auc(labels, np.array([r.scores[name] for r in kept]))
                areas.setdefault(name, {})[method] = area if area is not None else 0.5
    return areas


# Statistics ----------------------------------------------------------------------


class Estimate(NamedTuple):
    """A contrast: its mean, half of its 95 % interval, p value; p after Holm."""

    mean: float
    half: float
    p: float
    holm: float = float("nan")


def contrast(
    results: Mapping[Trial, Result], named: Contrast, *, seeds: Sequence[int]
) -> Estimate:
    """The difference of held-out AUC, over seeds and people at once."""
    differences: dict[str, np.ndarray] = {}  # method -> [seed, fake, real]
    fakes_of: dict[str, np.ndarray] = {}
    for fold, methods in FOLDS.items():
        pairs = [
            (
                results[Trial(named.with_it, fold, seed)],
                results[Trial(named.without, fold, seed)],
            )
            for seed in seeds
        ]
        for method in methods:
            differences[method] = np.stack(
                [a.comparisons[method] - b.comparisons[method] for a, b in pairs]
            )
            fakes_of[method] = pairs[0][0].fake_clusters[method]
    real_of = next(iter(results.values())).real_clusters
    rng = np.random.default_rng(0)
    num_seeds, num_clusters = len(seeds), int(real_of.max()) + 1

    def mean(seed_weights: np.ndarray, cluster_weights: np.ndarray) -> float:
        values = []
        for method, difference in differences.items():
            fake = cluster_weights[fakes_of[method]]
            real = cluster_weights[real_of]
            per_pair = np.tensordot(seed_weights / seed_weights.sum(), difference, 1)
            values.append(fake @ per_pair @ real / (fake.sum() * real.sum()))
        return float(np.mean(values))

    whole = mean(np.ones(num_seeds), np.ones(num_clusters))
    drawn = [
        mean(
            rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds)),
            rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters)),
        )
        for _ in range(REPLICATES)
    ]
    error = float(np.std(drawn, ddof=1))
    t = stats.t(num_seeds - 1)
    p = 2 * t.sf(abs(whole) / error) if error else 1.0
    return Estimate(whole, t.ppf(0.975) * error, float(p))


def corrected(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The estimates with p values by Holm."""
    adjusted = holm([e.p for e in estimates])
    return [e._replace(holm=p) for e, p in zip(estimates, adjusted, strict=True)]


# Tables --------------------------------------------------------------------------


def interval_text(values: Sequence[float]) -> str:
    """Mean over seeds and half width of its 95 % interval (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
    return f"{statistics.mean(values):.3f} ± {half / len(values) ** 0.5:.3f}"


def arm_table(
    results: Mapping[Trial, Result],
    forests: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
    shown: table.Results,
) -> None:
    """Rows: arms; columns: AUCs, false alarms, epochs."""
    shown.heads(
        *("", "trained on", "held out", *METHODS, "reals called fake"),
        *("the same, re-graded", "best epoch of"),
    )
    shown.row("one score for all", *["0.500"] * (2 + len(METHODS)), "-", "-", "-")
    for name, areas in forests.items():
        mean = f"{np.mean(list(areas.values())):.3f}"
        each = [f"{areas[m]:.3f}" for m in METHODS]
        shown.row(f"a forest on {name}", "-", mean, *each, "-", "-", "-")
    for arm in ARMS:
        own = {t: r for t, r in results.items() if t.arm == arm}
        held, trained = [], []
        for seed in seeds:
            mine = [r for t, r in own.items() if t.seed == seed]
            aucs = [c.mean() for r in mine for c in r.comparisons.values()]
            held.append(float(np.mean(aucs)))
            trained.append(float(np.mean([r.trained for r in mine])))
        cells = [interval_text(trained), interval_text(held)]
        for method in METHODS:
            aucs = [
                r.comparisons[method].mean()
                for r in own.values()
                if method in r.comparisons
            ]
            cells.append(f"{np.mean(aucs):.3f}")
        alarms = np.mean([r.alarms for r in own.values()], axis=0)
        cells += [f"{share:.1%}" for share in alarms]
        best, total = zip(*(r.epochs for r in own.values()), strict=True)
        cells.append(f"{statistics.median(best):.0f} of {statistics.median(total):.0f}")
        shown.row(arm, *cells)


def contrast_table(
    estimates: Iterable[tuple[Contrast, Estimate]], shown: table.Results
) -> None:
    """Rows: contrasts; columns: difference, interval, p values."""
    shown.heads(
        "with it minus without", "difference of held-out AUC", "p", "p after Holm"
    )
    for named, e in estimates:
        span = f"{e.mean:+.3f} [{e.mean - e.half:+.3f}, {e.mean + e.half:+.3f}]"
        shown.row(named.name, span, f"{e.p:.3f}", f"{e.holm:.3f}")


def main() -> None:
    """Trains what is missing and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seeds", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="a few steps: a dry run")
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as shown:
        compare(options, shown)


def compare(options: argparse.Namespace, shown: table.Results) -> None:
    """Trains every arm on every fold with every seed, and compares."""
    bench = Bench(options.out.absolute(), options.jobs, quick=options.quick)
    seeds = range(options.seeds)
    start = time.perf_counter()
    bench.make_data()
    # Seed by seed, so that what is there after an interruption is balanced.
    trials = [
        Trial(arm, fold, seed) for seed in seeds for fold in FOLDS for arm in ARMS
    ]
    bench.train_all(trials)
    results = {trial: test(bench, trial) for trial in trials}
    estimates = corrected([contrast(results, c, seeds=seeds) for c in CONTRASTS])
    shown.say("Video AUC on unseen people, and false alarms:")
    arm_table(results, forest_aucs(bench), seeds, shown)
    shown.say()
    shown.say("The contrasts:")
    contrast_table(zip(CONTRASTS, estimates, strict=True), shown)
    minutes = (time.perf_counter() - start) / 60
    at_most = sum(r.epochs[1] == bench.most_epochs for r in results.values())
    shown.say()
    shown.say(
        f"{len(results)} runs, {at_most} stopped by the limit of epochs, "
        f"{minutes:.0f} min, {options.jobs} runs at once"
    )


if __name__ == "__main__":
    main()
