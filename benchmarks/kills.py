"""1,000 short files, scored by a run that is killed ten times and gone on with.

python -m benchmarks.kills MODEL VIDEOS [--files 1000] [--kills 10] [--seed 0]

VIDEOS is a folder of videos of faces; the files are copies of them, each with other
bytes behind it. The rows must be those of a run that nothing happened to, none missing,
none twice; and how many files a second that run scores.
"""

import argparse
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import table
from fakedetect_jax.serving import sources
from tests.serving.videos import rows_of


def videos_of(folder: str) -> list[str]:
    """The videos below a folder, without those of masks."""
    found = [s.name for s in sources.find([folder]) if not s.refusal]
    return [video for video in found if "masks" not in Path(video).parts]


def copies(videos: list[str], folder: Path, count: int) -> list[Path]:
    """So many files, each with bytes of its own behind it, which no decoder reads."""
    folder.mkdir()
    paths = []
    for i in range(count):
        box = struct.pack(">I4sI", 12, b"free", i)
        paths.append(folder / f"{i:04d}.mp4")
        paths[-1].write_bytes(Path(videos[i % len(videos)]).read_bytes() + box)
    return paths


def command(model: str, folder: Path, output: Path) -> list[str]:
    """Of predict."""
    kind = "workdir" if (Path(model) / "checkpoints").is_dir() else "model"
    words = [sys.executable, "-m", "fakedetect_jax.predict", f"--{kind}", model]
    return [*words, str(folder), "--output", str(output)]


def killed(words: list[str], output: Path, after: int) -> int:
    """Kills a run once it has so many rows; returns how many are there then."""
    partial = output.with_name(f"{output.name}.partial")
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if partial.exists() and partial.read_bytes().count(b"\n") >= after:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def main() -> int:
    """Runs both, compares, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("videos", help="a folder of videos of faces")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    places = sorted(rng.sample(range(1, options.files), options.kills))
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
    ):
        root = Path(name)
        copies(videos_of(options.videos), root / "in", options.files)
        whole, broken = root / "whole.jsonl", root / "broken.jsonl"
        start = time.monotonic()
        words = command(options.model, root / "in", whole)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        outcomes = Counter(row["outcome"] for row in rows_of(whole))
        results.say(
            f"{options.files:,} files in {seconds:.0f} s without a stop, "
            f"{options.files / seconds:.1f} files/s with the start: "
            + ", ".join(f"{n:,} rows {what}" for what, n in outcomes.most_common())
        )
        results.heads("killed at row", "rows that were there")
        words = command(options.model, root / "in", broken)
        for place in places:
            results.row(place, killed(words, broken, place))
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        counts = Counter(row["video"] for row in rows_of(broken))
        same = whole.read_bytes() == broken.read_bytes()
        results.say()
        results.say(
            f"After the last run {len(counts):,} rows, "
            f"{sum(n > 1 for n in counts.values())} twice, the bytes of the run "
            f"without a stop: {'yes' if same else 'no'}"
        )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
