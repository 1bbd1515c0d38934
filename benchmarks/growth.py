"""How time and memory grow with the number of videos, command by command.

python -m benchmarks.growth [--sizes 100 1000 10000]
Makes trees of tiny videos, a real and a fake of each person, every file with a digest
of its own, and runs each command on them in a process of its own. A slope of 1 is
linear: it is the exponent between the last two sizes, of the time beyond that of the
smallest. Memory is the peak of the command's largest process, and its growth is that
between the last two sizes.
"""

import argparse
import csv
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from benchmarks import table
from tfds_ffpp.terminal.progress import Progress

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "train", "val", "test")
# Nothing of a video costs much, so that what grows with their number is seen.
DATASET = (
    *("name=growth", "image_size=32", "num_frames=4", "face_finder=none"),
    *("layout=csv", "methods=()"),
)
SMALL = (
    *("data.manual_dir=", "synthetic.num_identities=0"),
    *("data.clip_frames=4", "data.sampling=class", "model.stage_sizes=(1,1)"),
    *("model.width=8", "model.stem=small", "model.lstm_features=8"),
    *("num_steps=1", "eval.final_split=", "compilation_cache="),
)


class Used(NamedTuple):
    """What a command took: seconds of the clock, peak MB of its largest process."""

    seconds: float
    memory: float


def make_tree(folder: Path, size: int) -> None:
    """Videos, and the table that says what each is."""
    (folder / "videos").mkdir(parents=True)
    base = [_video(folder / f"{label}.mp4", seed) for seed, label in enumerate("rf")]
    with (folder / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "method", "group", "split"])
        for i in range(size):
            person, fake = divmod(i, 2)
            path = folder / "videos" / f"{i:06d}.mp4"
            # An empty box at the end makes it another file of the same frames.
            path.write_bytes(base[fake] + b"\0\0\0\x10free" + f"{i:08d}".encode())
            split = SPLITS[person % len(SPLITS)]
            name, method = path.relative_to(folder), ("made", "Swap")[fake]
            rows.writerow([name, ("real", "fake")[fake], method, person, split])


def _video(path: Path, seed: int) -> bytes:
    """A file of six frames of noise; it is removed again."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for _ in range(6):
            pixels = rng.integers(0, 256, (48, 48, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode())
    content = path.read_bytes()
    path.unlink()
    return content


def run(*words: object) -> Used:
    """Runs a module of the project to its end."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, words))} failed:\n{said.read().decode()}")
    return Used(time.perf_counter() - start, used.ru_maxrss / 1024)


def measure(folder: Path, size: int) -> Iterator[tuple[str, Used]]:
    """Each command on a tree of so many videos."""
    tree = folder / "tree"
    make_tree(tree, size)
    fields = [f"--config.dataset.{field}" for field in DATASET]
    fields += [f"--config.{field}" for field in SMALL]
    fields += [f"--config.data.data_dir={folder / 'tfds'}"]
    train = ("fakedetect_jax.main", "--config", "configs/demo.py", *fields)
    yield "look at the folder", run("tfds_ffpp.layout", tree)
    yield "build", run(*build_words(tree, folder / "tfds"))
    yield "open, start, one step, save", run(*train, "--workdir", folder / "first")
    judge = ("fakedetect_jax.main", "--workdir", folder / "first", "--mode", "eval")
    yield "evaluate a quarter", run(*judge, "--split", "test")
    (evaluation,) = (folder / "first" / "eval").glob("test@*")
    yield "its report anew", run("fakedetect_jax.report", "--rebuild", evaluation)
    rows = folder / "rows.jsonl"
    detector = ("fakedetect_jax.predict", "--workdir", folder / "first")
    yield "predict", run(*detector, tree / "videos", "--output", rows)


def build_words(tree: Path, data_dir: Path) -> list[str]:
    """The command that builds the dataset of a tree."""
    fields = dict(field.split("=", 1) for field in DATASET)
    words = ["tfds_ffpp", "--manual_dir", str(tree), "--data_dir", str(data_dir)]
    words += ["--config", fields.pop("name")]
    for name, value in fields.items():
        words += ["--set", f"{name}={value}"]
    return words


def slope(sizes: Sequence[int], used: Sequence[Used]) -> str:
    """The exponent between the last two sizes, beyond what the smallest takes."""
    if len(sizes) < 3:
        return "—"
    base, *_, one, two = (u.seconds for u in used)
    if one - base < 0.5:
        return "too quick"
    grown = math.log((two - base) / (one - base))
    first, *_, before, last = sizes  # what the smallest takes is taken away
    return f"{grown / math.log((last - first) / (before - first)):.2f}"


def memory_growth(sizes: Sequence[int], used: Sequence[Used]) -> str:
    """MB that a thousand videos more take, between the last two sizes."""
    if len(sizes) < 2:
        return "—"
    more = used[-1].memory - used[-2].memory
    return f"{1000 * more / (sizes[-1] - sizes[-2]):+.2f}"


def main() -> None:
    """Prints a table with a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    table.add_option(parser)
    options = parser.parse_args()
    found: dict[str, list[Used]] = {}
    with (
        table.results(parser, options) as results,
        Progress("sizes", len(options.sizes)) as bar,
    ):
        for size in options.sizes:
            folder = Path(tempfile.mkdtemp(prefix="growth-"))
            try:
                for name, used in measure(folder, size):
                    found.setdefault(name, []).append(used)
            finally:
                shutil.rmtree(folder)
            bar.step()
        columns = [f"{size:,} videos" for size in options.sizes]
        results.heads("command", *columns, "slope", "MB per 1,000 more")
        for name, used in found.items():
            cells = [f"{u.seconds:.1f} s, {u.memory:,.0f} MB" for u in used]
            grown = memory_growth(options.sizes, used)
            results.row(name, *cells, slope(options.sizes, used), grown)


if __name__ == "__main__":
    main()
