"""Damaged and forged files through the whole of predict, 300 of them.

python -m benchmarks.fuzz MODEL SOURCE [--count 300] [--seed 0]

SOURCE is a video with a face. Of 24 of its frames videos of several containers and
codecs, and pictures, are made, and changed at random, by a seed: flipped bytes,
overwritten stretches, cut ends, large numbers in headers. Each must have a row with a
named outcome; a process that died or hung is counted.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import table
from benchmarks.mutants_video import SOURCES, mutate
from fakedetect_jax import predict
from fakedetect_jax.outputs.table import FAILURES
from tests.made_videos import write_video
from tfds_ffpp.frames.video import even_plan, read_clip

LIMIT = 60  # seconds for a file
OUTCOMES = (
    *("scored", "partial", "unfamiliar", "no face", "too short", "needs video"),
    *("out of range", *FAILURES),
)


def whole_files(folder: Path, pictures: list[np.ndarray]) -> list[tuple[str, bytes]]:
    """(ending, content) of a file of each kind."""
    files = []
    for i, (suffix, codec, pixel_format) in enumerate(SOURCES):
        path = write_video(
            folder / f"{i}.{suffix}",
            pictures,
            codec=codec,
            pixel_format=pixel_format,
            options={},
        )
        files.append((suffix, path.read_bytes()))
    frames = [Image.fromarray(picture) for picture in pictures]
    for kind in ("gif", "webp", "png", "jpeg", "tiff"):
        out, moving = io.BytesIO(), kind in ("gif", "webp", "png")
        more = {"save_all": True, "append_images": frames[1:]} if moving else {}
        frames[0].save(out, kind, **more)
        files.append((kind, out.getvalue()))
    return files


def write_mutants(
    folder: Path, pictures: list[np.ndarray], *, count: int, seed: int
) -> list[Path]:
    """Writes so many changed files."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        files = whole_files(Path(name), pictures)
    paths = []
    for i in range(count):
        suffix, content = files[i % len(files)]
        paths.append(folder / f"{i:03d}.{suffix}")
        paths[-1].write_bytes(mutate(content, rng))
    return paths


def ends(rows: list[dict]) -> Counter[str]:
    """How the rows came out; a process that died or hung has a word of its own."""
    found: Counter[str] = Counter()
    for row in rows:
        reason = row["reason"] or ""
        died = "died" in reason or "was killed" in reason
        hung = "took longer" in reason or "nothing came of it" in reason
        found["died" if died else "hung" if hung else row["outcome"]] += 1
    return found


def main() -> int:
    """Makes the files, scores them, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    kind = "workdir" if (Path(options.model) / "checkpoints").is_dir() else "model"
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
    ):
        folder = Path(name)
        (folder / "in").mkdir()
        pictures = read_clip(options.source, even_plan(24)).frames()
        how = {"count": options.count, "seed": options.seed}
        paths = write_mutants(folder / "in", pictures, **how)
        output, start = folder / "rows.jsonl", time.monotonic()
        words = [
            f"--{kind}",
            options.model,
            str(folder / "in"),
            "--output",
            str(output),
        ]
        code = predict.main([*words, f"--time_limit={LIMIT}"])
        seconds = time.monotonic() - start
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        missing = {str(path) for path in paths} - {row["video"] for row in rows}
        found = ends(rows)
        results.heads("outcome", "files")
        for outcome, number in found.most_common():
            results.row(outcome, number)
        results.say()
        results.say(
            f"{len(paths)} files in {seconds:.0f} s, exit code {code}, "
            f"{len(missing)} without a row"
        )
    bad = set(found) - set(OUTCOMES)
    return int(bool(bad or missing or code not in (0, 3)))


if __name__ == "__main__":
    sys.exit(main())
