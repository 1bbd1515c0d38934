"""Three made datasets, judged by one suite: who keeps its AUC on another look?

python -m benchmarks.looks [--folder DIR] [--epochs N] [--kills N] [--results FILE]

configs/demo.py makes three sets: other people, scenes, light and cameras
(tfds_ffpp/synthetic/looks.py). One suite file trains on each with two seeds, once more
without one method, and tests every model on the test of all three. It is killed at
random times and started again. Then one test of every model is run once more by itself,
in a copy of the run: its numbers must be those of the suite. The first model is judged
under degradation too (--mode robustness). Beside the matrix stands what a forest on
trivial statistics reaches on each set, trained on that set.

With --folder it goes on where it was stopped, and the pages stay there.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table
from fakedetect_jax.pages.formats import number, span
from tfds_ffpp.store.files import Json, write_json

LOOKS = ("indoor", "street", "webcam")
TESTS = ("demo", "demo_street", "demo_webcam")
HELD_OUT = "FaceSwap"
SEED = 11  # of the kills
APART = (5.0, 60.0)  # seconds from a start to its kill
SAME = 1e-12
BEGUN = "begun.json"


def suite_file(folder: Path, epochs: int) -> Path:
    """The suite, as a user would write it."""
    configs = ["configs/demo.py", *(f"configs/demo.py:{look}" for look in LOOKS[1:])]
    path = folder / "suite.toml"
    path.write_text(
        f'workdir = "{folder}/suite"\n'
        f"config = {json.dumps(configs)}\n"
        "seeds = [0, 1]\n"
        f'hold_out = ["{HELD_OUT}"]\n'
        f"test = {json.dumps(TESTS)}\n\n"
        "[fields]\n"
        f"num_epochs = {epochs}\n"
        'eval.final_split = ""\n'
        f'data.data_dir = "{folder}/tfds"\n'
    )
    return path


def start(module: str, *arguments: str) -> subprocess.Popen:
    """A command of the package, in a session of its own."""
    command = [sys.executable, "-m", f"fakedetect_jax.{module}", *arguments]
    return subprocess.Popen(command, start_new_session=True)


def finish(module: str, *arguments: str) -> None:
    """Runs a command to its end. Exits where it fails."""
    code = start(module, *arguments).wait()
    if code:
        sys.exit(f"{module} {' '.join(arguments)} ended with {code}")


def run_with_kills(path: Path, kills: int) -> int:
    """Runs the suite, killed as often as it runs long enough. The number of kills."""
    draws, killed = random.Random(SEED), 0
    while True:
        process = start("suite", "--file", str(path))
        wait = draws.uniform(*APART) if killed < kills else None
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            time.sleep(1)
            continue
        if code:
            sys.exit(f"the suite ended with {code}")
        return killed


def begun_before(folder: Path) -> Json:
    """How often the suite in a folder was killed, and for how long it ran."""
    path = folder / BEGUN
    return (
        json.loads(path.read_text()) if path.exists() else {"killed": 0, "minutes": 0}
    )


def report_of(folder: Path) -> Json:
    """The report of an evaluation."""
    return json.loads((folder / "report.json").read_text())


def single(suite: Path, run: Json, tested: Json) -> float:
    """The largest difference of a suite's number from the same test by itself."""
    source = suite / run["name"]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "run"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("eval"))
        name = tested["test"]
        other = "" if name == run["trained_on"] else name
        words = ["--mode=eval", "--split=test", f"--config.eval.dataset={other}"]
        finish("main", "--workdir", str(copy), *words)
        (folder,) = (copy / "eval").glob("*/report.json")
        video = report_of(folder.parent)["video"]
    # Of decisions the suite has those at the threshold that val chose.
    alone = {**video, **(video["at_threshold"] or {})}
    return max(
        abs(value - alone[metric])
        for metric, value in tested["values"].items()
        if value is not None
    )


def show_matrix(found: table.Results, suite: Json) -> None:
    """Video AUC of each training on each test, means over seeds."""
    found.heads("trained on", *TESTS, "mean of the others")
    for row in suite["matrix"]:
        cells = {cell["test"]: cell["measures"] for cell in row["cells"]}
        shown = [
            f"{number(cells[t]['auc']['mean'])} ({span(cells[t]['auc']['interval'])})"
            for t in TESTS
        ]
        others = row["others"]["auc"]["mean"] if row["others"] else None
        found.row(row["trained_on"], *shown, number(others))


def show_folds(found: table.Results, suite: Json) -> None:
    """The held-out method, seen in training and not."""
    found.heads("trained on", "method", "test", "AUC, not in training", "in training")
    for fold in suite["folds"]:
        unseen, seen = (
            number(fold[name]["measures"]["auc"]["mean"])
            if fold[name]["measures"]
            else "-"
            for name in ("unseen", "seen")
        )
        found.row(fold["model"], fold["method"], fold["test"], unseen, seen)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--kills", type=int, default=4)
    table.add_option(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        table.results(parser, options) as found,
    ):
        folder = (options.folder or Path(place)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        begun = begun_before(folder)
        began = time.perf_counter()
        file = suite_file(folder, options.epochs)
        killed = run_with_kills(file, options.kills - begun["killed"])
        killed += begun["killed"]
        minutes = (time.perf_counter() - began) / 60 + begun["minutes"]
        write_json(folder / BEGUN, {"killed": killed, "minutes": minutes})
        suite = json.loads((folder / "suite" / "suite.json").read_text())
        found.say(
            f"{len(suite['runs'])} trainings of {options.epochs} epochs and their "
            f"tests, killed {killed} times: {minutes:.0f} minutes."
        )
        found.say()
        show_matrix(found, suite)
        found.say()
        show_folds(found, suite)
        found.heads("test", "a forest on trivial statistics, trained on that set")
        for run in suite["runs"]:
            if run["seed"] or run["without"]:
                continue
            for tested in run["tests"]:
                if tested["test"] == run["trained_on"]:
                    report = report_of(folder / "suite" / tested["folder"])
                    best = max(row["auc"] for row in report["trivial"].values())
                    found.row(tested["test"], number(best))
        worst = max(
            single(folder / "suite", run, run["tests"][-1])
            for run in suite["runs"]
            if not run["without"]
        )
        found.say()
        found.say(f"Largest difference from single evaluations: {worst:.1e}.")
        if worst > SAME:
            sys.exit("the suite's numbers are not those of single evaluations")
        first = folder / "suite" / suite["runs"][0]["name"]
        finish("main", "--workdir", str(first), "--mode=robustness", "--split=test")
        (path,) = first.glob("eval/test@*/robustness/robustness.json")
        show_robustness(found, json.loads(path.read_text()))


def show_robustness(found: table.Results, numbers: Json) -> None:
    """Mean AUC over the levels of each family."""
    found.heads("degradation", "mean AUC over five levels")
    for curve in numbers["curves"]:
        found.row(curve["family"], number(curve["mean"]))


if __name__ == "__main__":
    main()
