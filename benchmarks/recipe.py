"""Which parts of the recipe help to detect a forgery that was not trained on.

python -m benchmarks.recipe [--out runs/recipe] [--jobs 2] [--quick]

On made videos that are harder than the demo's (c40, subtler fakes, 160 people). The two
full rows train on three of the four methods and test on all, each method held out in
turn, with three seeds: 12 runs a row. An ablation row changes one thing of
configs/ffpp_best.py and is trained three times, each seed with another method held
out; it is compared with the same three runs of the whole recipe. Every run has the
same network, steps and batch, and is a command of fakedetect_jax.main that is kept in
OUT/<row>/<method>-<seed>/. Finished runs are not run again.

Then the temporal forgery (single frames carry nothing): the LSTM beside frames alone.

Prints tables in Markdown; numbers are mean video AUCs on unseen people, with the 95 %
interval of the mean over the three seeds (Student's t).
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from fakedetect_jax import data, metrics, settings
from tfds_ffpp import build, synthetic
from tfds_ffpp.progress import Progress
from tfds_ffpp.synthetic import FOUR

SEEDS = (0, 1, 2)
HELD = ("Deepfakes", "FaceSwap", "NeuralTextures")  # by the ablations, one a seed
COMPRESSION = "c40"
Fields = Mapping[str, Any]

# The network and the budget that every row has, whatever its file says.
SCALE: Fields = {
    "synthetic.num_identities": 160,
    "synthetic.num_frames": 24,
    "dataset.image_size": 64,
    "dataset.num_frames": 16,
    "data.clip_frames": 4,
    "data.frame_stride": 2,
    "data.train_clips_per_video": 8,
    "data.num_threads": 1,
    "data.cache_mib": 512,
    "model.backbone": "resnet",
    "model.stage_sizes": (1, 1, 1),
    "model.width": 16,
    "model.stem": "small2",
    "model.lstm_features": 64,
    "model.dtype": "float32",
    "init_from": "",
    "batch_size": 16,
    "num_epochs": 3,
    "optimizer.learning_rate": 2e-3,  # a small network from scratch, in few steps
    "optimizer.warmup_steps": 40,
    "log_every_steps": 1000,
    "eval.final_split": "test",
}
FORGERIES: Fields = {"synthetic.difficulty": 0.1, "dataset.name": "recipe"}
FLICKER: Fields = {
    "synthetic.difficulty": 0.0,
    "dataset.name": "flicker",
    "dataset.methods": ("Flicker",),
}


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the table: a config and what is changed in it."""

    name: str
    config: str
    changes: Fields = field(default_factory=dict)


class Trial(NamedTuple):
    """One training and its test."""

    row: Row
    held_out: str  # a method; "" when all are trained on
    seed: int


QUICK: Fields = {
    "synthetic.num_identities": 16,
    "data.train_clips_per_video": 2,
    "num_epochs": 1,
}

SEED_RECIPE = Row("the seed's recipe", "configs/ffpp.py")
BEST = Row("configs/ffpp_best.py", "configs/ffpp_best.py")
FULL = (SEED_RECIPE, BEST)
AUGMENT_ALL: Fields = {
    "augment.crop": 0.5,
    "augment.blur": 0.2,
    "augment.downscale": 0.2,
    "augment.brightness_contrast": 0.5,
    "augment.hue_saturation": 0.5,
    "augment.gamma": 0.2,
    "augment.noise": 0.2,
    "augment.jpeg": 0.3,
    "augment.frame_drop": 0.1,
    "augment.cutout": 0.2,
    "data.max_frame_stride": 3,
}
ABLATIONS = tuple(
    Row(name, BEST.config, changes)
    for name, changes in {
        "no LSTM, frames alone": {"model.frame_only": True},
        "no self-blended clips": {"loss.self_blend": 0.0},
        "sampling natural, not by class": {"data.sampling": "natural"},
        "sampling by method": {"data.sampling": "method"},
        "sampling in pairs": {"data.sampling": "pair"},
        "all augmentation, not the mirror alone": AUGMENT_ALL,
        "last state, not the mean of states": {"model.pooling": "last"},
        "attention over time": {"model.pooling": "attention"},
        "LSTM in both directions": {"model.bidirectional": True},
        "averaged weights (EMA 0.98)": {"optimizer.ema_decay": 0.98},
        "label smoothing 0.1": {"loss.label_smoothing": 0.1},
        "loss on frames, weight 0.5": {"loss.frame_weight": 0.5},
        "stem and first stage frozen": {"model.freeze_stages": 1},
    }.items()
)
# Long clips, since what flickers is seen over time only.
LONG_CLIPS: Fields = {
    "data.clip_frames": 12,
    "data.frame_stride": 1,
    "num_epochs": 5,
    "loss.self_blend": 0.0,
}
TEMPORAL = (
    Row("ResNet + LSTM", BEST.config, LONG_CLIPS),
    Row("frames alone", BEST.config, {**LONG_CLIPS, "model.frame_only": True}),
)


def flags(fields: Fields) -> list[str]:
    """Fields as the trainer's command line takes them."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


class Bench:
    """The folder of the trials, and the cores that they run on."""

    def __init__(self, out: Path, jobs: int, scale: Fields):
        self.out = out
        self.scale = scale
        self._jobs = jobs
        self._slots: SimpleQueue[list[int]] = SimpleQueue()
        cores = sorted(os.sched_getaffinity(0))
        for number in range(jobs):
            self._slots.put(cores[number::jobs] or cores)

    def fields(self, trial: Trial) -> dict[str, Any]:
        """All that a trial's config differs in from its file."""
        dataset = FLICKER if not trial.held_out else FORGERIES
        folder = self.out / "data" / dataset["dataset.name"]
        held_out = (trial.held_out,) if trial.held_out else ()
        return {
            **self.scale,
            **dataset,
            "synthetic.num_identities": 0,  # made by make_data
            "data.manual_dir": folder / "videos",
            "data.data_dir": folder / "tfds",
            "data.hold_out": held_out,
            **trial.row.changes,
            "seed": trial.seed,
        }

    def make_data(self, fields: Fields, methods: tuple[str, ...]) -> None:
        """Makes a tree of videos and builds the dataset, unless they are there."""
        name = fields["dataset.name"]
        folder = self.out / "data" / name
        synthetic.write_tree(
            folder / "videos",
            num_identities=self.scale["synthetic.num_identities"],
            num_frames=self.scale["synthetic.num_frames"],
            difficulty=fields["synthetic.difficulty"],
            compressions=(COMPRESSION,),
            methods=methods,
            split_shares=(0.5, 0.125, 0.375),
        )
        config = settings.load(f"configs/ffpp.py:{COMPRESSION}")
        with config.unlocked():
            config.update_from_flattened_dict({**self.scale, **fields}, strip_prefix="")
        build.build(
            data.dataset_config(config),
            data_dir=folder / "tfds",
            manual_dir=folder / "videos",
        )

    def run(self, trial: Trial) -> dict[str, Any]:
        """The test report of a trial; trained now unless it was."""
        name = f"{trial.held_out or 'all'}-{trial.seed}"
        folder = self.out / trial.row.name.replace("/", "-") / name
        if not (folder / "report.json").exists():
            slot = self._slots.get()
            try:
                self._train(trial, folder, slot)
            finally:
                self._slots.put(slot)
        return json.loads((folder / "report.json").read_text())

    def _train(self, trial: Trial, folder: Path, cores: list[int]) -> None:
        command = [sys.executable, "-m", "fakedetect_jax.main", "--workdir", folder]
        command += ["--config", f"{trial.row.config}:{COMPRESSION}"]
        command += flags(self.fields(trial))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "command.txt").write_text(shlex.join(map(str, command)) + "\n")
        with open(folder / "log.txt", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            # Before its threads start: they inherit it, and their number follows it.
            os.sched_setaffinity(process.pid, cores)
        if process.wait():
            raise SystemExit(
                f"a trial ended with {process.returncode}: {folder}/log.txt"
            )
        (done,) = folder.glob("eval/test@*/report.json")
        (folder / "report.json").write_text(done.read_text())

    def run_all(self, trials: Iterable[Trial]) -> dict[Trial, dict[str, Any]]:
        """The reports of all trials, as many at once as there are jobs."""
        trials = list(trials)
        with (
            ThreadPoolExecutor(self._jobs) as pool,
            Progress("trials", len(trials)) as bar,
        ):

            def one(trial: Trial) -> dict[str, Any]:
                report = self.run(trial)
                bar.step()
                return report

            return dict(zip(trials, pool.map(one, trials), strict=True))


def full_trials(row: Row) -> list[Trial]:
    """Each method held out, with each seed."""
    return [Trial(row, method, seed) for method in FOUR for seed in SEEDS]


def short_trials(row: Row) -> list[Trial]:
    """Each seed with another method held out."""
    return [Trial(row, method, seed) for method, seed in zip(HELD, SEEDS, strict=True)]


def auc(report: Mapping[str, Any], method: str) -> float:
    """The video AUC of a method against all reals."""
    return report["video"]["by_method"][method]["auc"]


def held_out(trial: Trial, report: Mapping[str, Any]) -> float:
    """The AUC of the method that was not trained on."""
    return auc(report, trial.held_out)


def trained(trial: Trial, report: Mapping[str, Any]) -> float:
    """The mean AUC of the methods that were trained on."""
    return statistics.mean(auc(report, m) for m in FOUR if m != trial.held_out)


def spread(per_seed: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t over the seeds)."""
    half = stats.t.ppf(0.975, len(per_seed) - 1) * statistics.stdev(per_seed)
    return statistics.mean(per_seed), half / len(per_seed) ** 0.5


def told(per_seed: list[float], *, sign: bool = False) -> str:
    """For example "0.812 ± 0.020"."""
    mean, half = spread(per_seed)
    return f"{mean:{'+' if sign else ''}.3f} ± {half:.3f}"


def by_seed(reports: Mapping[Trial, Any], row: Row, value) -> list[float]:
    """The mean of value(trial, report) over the trials of a row, for each seed."""
    return [
        statistics.mean(
            value(trial, report)
            for trial, report in reports.items()
            if trial.row is row and trial.seed == seed
        )
        for seed in SEEDS
    ]


def full_table(reports: Mapping[Trial, Any], rows: Iterable[Row]) -> str:
    """Rows: recipes; columns: trained and held out, in all and by method."""
    lines = ["| | trained on | held out | " + " | ".join(FOUR) + " |"]
    lines += ["|---" * (3 + len(FOUR)) + "|", constant_line()]
    for row in rows:
        own = {t: r for t, r in reports.items() if t.row is row}
        cells = []
        for method in FOUR:
            seen = [auc(r, method) for t, r in own.items() if t.held_out != method]
            unseen = [auc(r, method) for t, r in own.items() if t.held_out == method]
            cells.append(f"{statistics.mean(seen):.3f} / {statistics.mean(unseen):.3f}")
        whole = [told(by_seed(own, row, value)) for value in (trained, held_out)]
        lines.append(f"| {row.name} | {' | '.join(whole + cells)} |")
    return "\n".join(lines)


def constant_line() -> str:
    """What a detector gets that gives every video the same score."""
    value = metrics.auc(np.array([0, 1]), np.array([0.5, 0.5]))
    cells = [f"{value:.3f}"] * 2 + [f"{value:.3f} / {value:.3f}"] * len(FOUR)
    return f"| one score for all | {' | '.join(cells)} |"


def ablation_table(reports: Mapping[Trial, Any], rows: Iterable[Row]) -> str:
    """Rows: one change each; columns: what it does to the whole recipe's AUC."""
    lines = ["| change | trained on | held out |", "|---|---|---|"]
    base = {(t.held_out, t.seed): r for t, r in reports.items() if t.row is BEST}
    for row in rows:
        cells = []
        for value in (trained, held_out):

            def gain(trial, report, value=value):
                other = base[trial.held_out, trial.seed]
                return value(trial, report) - value(trial, other)

            cells.append(told(by_seed(reports, row, gain), sign=True))
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def flicker_table(reports: Mapping[Trial, Any], rows: Iterable[Row]) -> str:
    """Rows: models; column: the AUC on the temporal forgery."""
    lines = ["| | Flicker |", "|---|---|"]
    for row in rows:
        values = by_seed(reports, row, lambda _, report: auc(report, "Flicker"))
        lines.append(f"| {row.name} | {told(values)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains what is missing and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a few steps: a dry run")
    options = parser.parse_args()
    scale = {**SCALE, **(QUICK if options.quick else {})}
    bench = Bench(options.out.absolute(), options.jobs, scale)
    start = time.perf_counter()
    bench.make_data(FORGERIES, FOUR)
    bench.make_data(FLICKER, ("Flicker",))
    trials = [trial for row in FULL for trial in full_trials(row)]
    trials += [trial for row in ABLATIONS for trial in short_trials(row)]
    temporal = [Trial(row, "", seed) for row in TEMPORAL for seed in SEEDS]
    reports = bench.run_all([*trials, *temporal])
    print("Video AUC, trained on / held out:\n")
    print(full_table(reports, FULL))
    print(f"\nOne change to {BEST.name}:\n")
    print(ablation_table(reports, ABLATIONS))
    print("\nThe forgery that only time shows:\n")
    print(flicker_table(reports, TEMPORAL))
    seconds = time.perf_counter() - start
    print(f"\n{len(reports)} runs, {seconds / 60:.0f} min", end="; ")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.jobs} runs at once")


if __name__ == "__main__":
    main()
