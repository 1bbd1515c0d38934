"""What a small transformer learns of one look where little of it is trained.

python -m fakedetect_jax.main --config configs/demo_vit.py --workdir runs/demo-vit
python -m benchmarks.finetune runs/demo-vit [--out runs/finetune] [--epochs 4]

The backbone of that run, which was trained from random weights on made videos of the
demo's look, begins trainings on another look (street), with other people: all of it
trained, its norms alone, changes of low rank (LoRA), or nothing but the head. Beside
them, as long, stands all of it from random weights. One seed each: this shows that each
way trains, not which is best. OUT keeps what is done: a run that ended is not run
again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks import table
from fakedetect_jax.pages.formats import number
from tfds_ffpp.store.files import Json

LOOK = "street"
CONFIG = f"configs/demo_vit.py:{LOOK}"
WEIGHTS = "pretrained/model.safetensors"


class Way(NamedTuple):
    """A training: what of the backbone is trained, and whether weights are read."""

    name: str
    trainable: str
    pretrained: bool = True


WAYS = (
    Way("norms", "norms"),
    Way("LoRA, rank 8", "lora"),
    Way("head", "head"),
    Way("all", "all"),
    Way("all, from random weights", "all", pretrained=False),
)


def run(module: str, *words: object) -> None:
    """A command of the package. Exits where it fails."""
    command = [sys.executable, "-m", f"fakedetect_jax.{module}", *map(str, words)]
    code = subprocess.run(command).returncode
    if code:
        sys.exit(f"{' '.join(command[2:])} ended with {code}")


def rows(workdir: Path, kind: str) -> list[Json]:
    """The rows of metrics.jsonl of a kind."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path, help="of configs/demo_vit.py")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--epochs", type=int, default=4)
    table.add_option(parser)
    options = parser.parse_args()
    out = options.out.resolve()
    with table.results(parser, options) as found:
        if not (out / WEIGHTS).exists():
            run("export", options.workdir, (out / WEIGHTS).parent)
        auc = max(row["video_auc"] for row in rows(options.workdir, "val"))
        found.say(f"On its own look val's video AUC reached {number(auc)}.")
        found.heads(
            "trained in the backbone",
            *("loss, first epoch", "last epoch"),
            *("val video AUC, first epoch", "last epoch", "highest"),
        )
        for way in WAYS:
            workdir = out / f"{way.trainable}{'' if way.pretrained else '-random'}"
            begins = [f"--config.init_from={out / WEIGHTS}"] if way.pretrained else []
            run(
                *("main", "--config", CONFIG, "--workdir", workdir, *begins),
                f"--config.data.data_dir={out}/tfds",
                f"--config.data.manual_dir={out}/videos",
                "--config.eval.final_split=",  # test is not looked at
                f"--config.trainable={way.trainable}",
                f"--config.num_epochs={options.epochs}",
            )
            steps, evaluations = rows(workdir, "train"), rows(workdir, "val")
            epoch = len(steps) // options.epochs
            losses = [
                sum(row["loss"] for row in part) / len(part)
                for part in (steps[:epoch], steps[-epoch:])
            ]
            aucs = [row["video_auc"] for row in evaluations]
            found.row(
                way.name,
                *(f"{loss:.3f}" for loss in losses),
                *(number(value) for value in (aucs[0], aucs[-1], max(aucs))),
            )


if __name__ == "__main__":
    main()
