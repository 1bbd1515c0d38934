"""What it takes to solve the demo: trivial statistics, frames alone, frames in order.

python -m benchmarks.shortcuts [--out runs/shortcuts] [--seeds 0 1 2]

Trains configs/demo.py on one set of made videos with each seed, as it is and with
model.frame_only (the mean of the frames' logits, no LSTM), and prints a table in
Markdown of the video AUCs on the test split's unseen people: the mean over seeds and,
in brackets, the least and the greatest. The forests' rows are those of the reports.
Finished runs are not run again; each lies in OUT/<lstm or frames>-<seed>/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODELS = {"frames": "frames alone", "lstm": "ResNet + LSTM"}


def train(out: Path, model: str, seed: int) -> dict[str, Any]:
    """The test report of a run of the demo; trained now unless it was."""
    workdir = out / f"{model}-{seed}"
    command = [sys.executable, "-m", "fakedetect_jax.main"]
    command += ["--config", "configs/demo.py", "--workdir", str(workdir)]
    command += [f"--config.seed={seed}", f"--config.model.frame_only={model != 'lstm'}"]
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


def line(name: str, runs: Sequence[Sequence[float]]) -> str:
    """A row of the table from the areas of its runs."""
    cells = [
        f"{statistics.mean(column):.3f} ({min(column):.3f} to {max(column):.3f})"
        if len(set(column)) > 1
        else f"{column[0]:.3f}"
        for column in zip(*runs, strict=True)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Rows: the forests, then the models; columns: all videos, then each method."""
    first = reports["lstm"][0]
    methods = list(first["video"]["by_method"])
    lines = [f"| | all | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    for name, area in first["trivial"].items():
        lines.append(line(f"forest on {name}", [areas(area)]))
    for model, name in MODELS.items():
        lines.append(line(name, [areas(r["video"]) for r in reports[model]]))
    return "\n".join(lines)


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/shortcuts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    out, start = options.out.absolute(), time.perf_counter()
    reports = {m: [train(out, m, seed) for seed in options.seeds] for m in MODELS}
    print(table(reports))
    seconds = time.perf_counter() - start
    print(f"\n{len(options.seeds)} seeds, {seconds / 60:.0f} min", end="; ")
    print(f"{platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
