"""What it takes to solve the demo: trivial statistics, frames alone, frames in order.

python -m benchmarks.shortcuts [--out runs/shortcuts] [--seeds 0 1 2]

Trains configs/demo.py on one set of made videos with each seed, as it is and with
model.temporal=none (the mean of the frames' logits), and prints a table in
Markdown of the video AUCs on the test split's unseen people: the mean over seeds and,
in brackets, the least and the greatest. The forests' rows are those of the reports.
Finished runs are not run again; each lies in OUT/<lstm or frames>-<seed>/.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import table

MODELS = {"frames": "frames alone", "lstm": "ResNet + LSTM"}


def train(out: Path, model: str, seed: int) -> dict[str, Any]:
    """The test report of a run of the demo; trained now unless it was."""
    workdir = out / f"{model}-{seed}"
    command = [sys.executable, "-m", "fakedetect_jax.main"]
    command += ["--config", "configs/demo.py", "--workdir", str(workdir)]
    head = "lstm" if model == "lstm" else "none"
    command += [f"--config.seed={seed}", f"--config.model.temporal={head}"]
    command += [f"--config.data.data_dir={out}/tfds"]
    command += [f"--config.data.manual_dir={out}/videos"]
    command += ["--config.eval.final_split=test"]
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "log.txt", "a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    (report,) = workdir.glob("eval/test@*/report.json")
    return json.loads(report.read_text())


def areas(result: Mapping[str, Any]) -> list[float]:
    """AUC of all videos, then of each method."""
    return [result["auc"], *(row["auc"] for row in result["by_method"].values())]


def cells(runs: Sequence[Sequence[float]]) -> list[str]:
    """A row of the table from the areas of its runs."""
    return [
        f"{statistics.mean(column):.3f} ({min(column):.3f} to {max(column):.3f})"
        if len(set(column)) > 1
        else f"{column[0]:.3f}"
        for column in zip(*runs, strict=True)
    ]


def show(
    reports: Mapping[str, Sequence[Mapping[str, Any]]], results: table.Results
) -> None:
    """Rows: the forests, then the models; columns: all videos, then each method."""
    first = reports["lstm"][0]
    results.heads("", "all", *first["video"]["by_method"])
    for name, area in first["trivial"].items():
        results.row(f"forest on {name}", *cells([areas(area)]))
    for model, name in MODELS.items():
        results.row(name, *cells([areas(r["video"]) for r in reports[model]]))


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/shortcuts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    table.add_option(parser)
    options = parser.parse_args()
    out, start = options.out.absolute(), time.perf_counter()
    with table.results(parser, options) as results:
        reports = {m: [train(out, m, seed) for seed in options.seeds] for m in MODELS}
        show(reports, results)
        minutes = (time.perf_counter() - start) / 60
        results.say()
        results.say(f"{len(options.seeds)} seeds, {minutes:.0f} min")


if __name__ == "__main__":
    main()
