"""Seconds from the command to the end of the first step, without and with the cache.

python -m benchmarks.startup [--out runs/startup]

The demo's model and data (made first, not counted), one step, no evaluation: with an
empty compilation cache, then with the one that the first run left. And `--help`.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import table

MAIN = [sys.executable, "-m", "fakedetect_jax.main"]


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of a command that must succeed, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def one_step(out: Path) -> list[str]:
    """The command that trains for one step and no more."""
    return [
        *MAIN,
        "--config=configs/demo.py",
        f"--workdir={out / 'run'}",
        f"--config.compilation_cache={out / 'cache'}",
        "--config.num_steps=1",
        "--config.eval.every_epochs=0",
        "--config.eval.final_split=",
    ]


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/startup"))
    parser.add_argument("--times", type=int, default=3)
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options, results)


def measure(options: argparse.Namespace, results: table.Results) -> None:
    """Times the commands in turn."""
    command = one_step(options.out)
    shutil.rmtree(options.out, ignore_errors=True)
    timed(command)  # makes the data, and fills the cache of files
    seconds: dict[str, list[float]] = {"`--help`": [], "cold": [], "warm": []}
    phases = {}
    for _ in range(options.times):
        seconds["`--help`"].append(timed([*MAIN, "--help"])[0])
        shutil.rmtree(options.out / "cache")
        for name in ("cold", "warm"):
            shutil.rmtree(options.out / "run")
            took, printed = timed(command)
            seconds[name].append(took)
            phases[name] = next(x for x in printed.splitlines() if "seconds:" in x)
    results.say(f"Medians of {options.times}.")
    results.heads("", "seconds", "of which")
    for name, values in seconds.items():
        of_which = phases.get(name, "").removeprefix("seconds: ")
        results.row(name, f"{statistics.median(values):.2f}", of_which)


if __name__ == "__main__":
    main()
