"""1,000 short videos scored by Beam's direct runner, and by predict: the same rows.

python -m benchmarks.beam MODEL VIDEOS [--files 1000] [--workers 2] [--kills 3]

Needs the extra `build`. VIDEOS is a folder of videos of faces; the files are copies of
them, each with other bytes behind it. One pipeline runs to its end; another is killed
with all its workers at random moments, and then run again. No row of either may be
missing, be there twice, or differ from predict's. What a killed one had scored is lost:
rows get their names at the end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import table
from benchmarks.kills import command, copies, videos_of
from tests.serving.videos import rows_of

ROOT = Path(__file__).parents[1]


def run_pipeline(model: str, folder: Path, out: Path, workers: int) -> None:
    """Scores the files of a folder, in processes of Beam's."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
    from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
        PipelineOptions,
    )

    from fakedetect_jax.outputs.beam import ScoreVideos

    options = PipelineOptions(
        [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    )
    names = sorted(str(path) for path in folder.iterdir())
    score = ScoreVideos(model, cache=out.parent / "cache")
    with beam.Pipeline("DirectRunner", options=options) as pipeline:
        rows = pipeline | beam.Create(names) | score | beam.Map(json.dumps)
        _ = rows | beam.io.WriteToText(str(out / "rows"), ".jsonl")


def started(options: argparse.Namespace, folder: Path, out: Path) -> subprocess.Popen:
    """A pipeline in a process group of its own."""
    out.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "benchmarks.beam", options.model, str(folder)]
    words += ["--workers", str(options.workers), "--out", str(out)]
    return subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )


def finished(process: subprocess.Popen) -> float:
    """Waits for a pipeline; the seconds that it took from here."""
    start = time.monotonic()
    if process.wait():
        raise SystemExit(f"a pipeline ended with {process.returncode}")
    return time.monotonic() - start


def rows_in(out: Path) -> list[str]:
    """The rows of a finished pipeline, in the order of their videos."""
    rows = [row for path in out.glob("rows-*.jsonl") for row in rows_of(path)]
    return sorted(json.dumps(row) for row in rows)


def main() -> int:
    """Runs all, compares, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("videos", help="a folder of videos of faces")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    table.add_option(parser)
    options = parser.parse_args()
    if options.out:  # the process of one pipeline
        run_pipeline(options.model, Path(options.videos), options.out, options.workers)
        return 0
    videos = videos_of(options.videos)
    rng = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
    ):
        root = Path(name)
        folder = root / "in"
        copies(videos, folder, options.files)
        output, start = root / "predict.jsonl", time.monotonic()
        words = command(options.model, folder, output)
        subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        alone = time.monotonic() - start
        expected = sorted(json.dumps(row) for row in rows_of(output))
        outcomes = Counter(json.loads(row)["outcome"] for row in expected)
        results.say(
            f"{options.files:,} files, {options.workers} workers; of predict "
            + ", ".join(f"{n:,} rows {what}" for what, n in outcomes.most_common())
        )
        results.heads("run", "seconds", "files/s", "rows", "missing", "twice", "same")

        wrong = 0

        def tell(what: str, seconds: float, rows: list[str]) -> None:
            nonlocal wrong
            wrong += rows != expected
            names = Counter(json.loads(row)["video"] for row in rows)
            results.row(
                *(what, f"{seconds:.0f}", f"{options.files / seconds:.1f}", len(rows)),
                *(options.files - len(names), sum(n > 1 for n in names.values())),
                "yes" if rows == expected else "NO",
            )

        files = f"{options.files / alone:.1f}"
        results.row("predict", f"{alone:.0f}", files, len(expected), "", "", "")
        whole = root / "whole"
        seconds = finished(started(options, folder, whole))
        tell("Beam", seconds, rows_in(whole))
        again = root / "again"
        for _ in range(options.kills):
            process = started(options, folder, again)
            time.sleep(rng.uniform(0.1, 0.9) * seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            left = len(list(again.glob("rows-*.jsonl")))
            results.row("killed", "", "", f"{left} files of rows", "", "", "")
        seconds = finished(started(options, folder, again))
        tell("Beam, run again", seconds, rows_in(again))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
