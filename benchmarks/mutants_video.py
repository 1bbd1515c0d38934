"""Damaged and forged videos through the decoders of the build and of predict, 300.

Small videos of several containers and codecs are changed at random: flipped bytes,
overwritten stretches, cut ends, doubled and exchanged blocks, large numbers written
into headers. Each goes to a worker as the build sends it and as predict does.

    python -m benchmarks.mutants_video [--count 300] [--seed 0]

Prints how each way ended, the longest time and the most memory of one video; exits with
1 when a worker died, hung, or gave up on all videos.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import table
from tests.made_videos import write_video
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.workers.jobs import EntryJob, Job, Result, WindowsJob
from tfds_ffpp.workers.limits import MEMORY
from tfds_ffpp.workers.pool import Worker

SOURCES: list[tuple[str, str, str]] = [  # suffix, codec, pixel format
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "libx264", "yuv444p10le"),
    ("mkv", "libx265", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("ts", "libx264", "yuv420p"),
    ("mov", "mjpeg", "yuvj420p"),
    ("mkv", "ffv1", "yuv420p"),
]
PREPARATION = Preparation(
    num_frames=8,
    frame_step=0,
    image_size=64,
    crop="face",
    margin=1.3,
    face_finder="dlib",
    face_finder_model="",
    landmarks="none",
    jpeg_quality=95,
    jpeg_subsampling="444",
)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        # Headers are small: half of the changes are near an end.
        size = len(data)
        near = bool(rng.integers(2))
        place = int(rng.integers(min(size, 1500) if near else size))
        place = size - 1 - place if near and rng.integers(2) else place
        length = int(rng.integers(1, 400))
        kind = rng.integers(6)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2 and size > 200:
            del data[max(place, 100) :]
        elif kind == 3:
            data[place:place] = data[place : place + length]
        elif kind == 4:
            number = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
            data[place : place + 4] = int(number).to_bytes(4, "big")
        else:
            data[place : place + length] = bytes(length)
    return bytes(data)


def jobs_of(path: Path, folder: Path) -> dict[str, Job]:
    """The job of the build and that of predict."""
    windows = folder / f"{path.name}.windows"
    windows.mkdir()
    return {
        "build": EntryJob(
            path=str(path),
            entry=str(folder / f"{path.name}.entry"),
            preparation=PREPARATION,
            faces=None,
            time_limit=60.0,
            memory_limit=MEMORY,
        ),
        "predict": WindowsJob(
            path=str(path),
            folder=str(windows),
            preparation=PREPARATION,
            window_frames=16,
            all_faces=True,
            time_limit=60.0,
            stall_limit=60.0,
            memory_limit=MEMORY,
        ),
    }


# How a job may end, and how none may.
GOOD = ("prepared", "reason", "memory")
BAD = ("hung", "died", "fatal")


def outcome(result: Result) -> str:
    """In a word of GOOD or BAD: how a job ended.

    memory: it was stopped at the limit, which a forged size may ask for.
    """
    if result.fatal:
        return "fatal"
    if not result.reason:
        return "prepared"
    if "died" in result.reason or "was killed" in result.reason:
        return "died"
    if "took longer" in result.reason or "nothing came of it" in result.reason:
        return "hung"
    return "memory" if "memory" in result.reason else "reason"


class Tally:
    """How the jobs of one way ended, and the most that one of them took."""

    def __init__(self):
        """Of no job yet."""
        self.ends: Counter[str] = Counter()
        self.seconds, self.memory = 0.0, 0

    def add(self, result: Result, seconds: float) -> None:
        """One more."""
        self.ends[outcome(result)] += 1
        self.seconds = max(self.seconds, seconds)
        self.memory = max(self.memory, result.memory)

    @property
    def failed(self) -> bool:
        """Whether a job ended as none may."""
        return any(self.ends[word] for word in BAD)

    def cells(self) -> list[str]:
        """Of a row: counts, seconds, MiB."""
        counts = [str(self.ends[word]) for word in (*GOOD, *BAD)]
        return [*counts, f"{self.seconds:.2f}", f"{self.memory / 1024:.0f}"]


def whole_videos(folder: Path) -> list[bytes]:
    """The content of a video of each of SOURCES."""
    return [
        write_video(
            folder / f"{i}.{suffix}",
            24,
            size=(96, 128),
            codec=codec,
            pixel_format=pixel_format,
            options={},
        ).read_bytes()
        for i, (suffix, codec, pixel_format) in enumerate(SOURCES)
    ]


def survey(folder: Path, count: int, seed: int) -> dict[str, Tally]:
    """Sends so many changed videos both ways."""
    rng = np.random.default_rng(seed)
    whole = whole_videos(folder)
    found = {"build": Tally(), "predict": Tally()}
    worker = Worker()
    try:
        # A whole one first: the worker's start is no changed video's time.
        for job in jobs_of(folder / f"0.{SOURCES[0][0]}", folder).values():
            worker.run(job)
        for i in range(count):
            kind = i % len(SOURCES)
            path = folder / f"mutant{i}.{SOURCES[kind][0]}"
            path.write_bytes(mutate(whole[kind], rng))
            for way, job in jobs_of(path, folder).items():
                start = time.monotonic()
                result = worker.run(job)
                found[way].add(result, time.monotonic() - start)
                if outcome(result) not in ("prepared", "reason"):
                    sys.stderr.write(f"{path.name} {way}: {result}\n")
    finally:
        worker.close()
    return found


def main() -> int:
    """Makes the videos, sends them, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
    ):
        found = survey(Path(name), options.count, options.seed)
        results.say(f"{options.count} videos each way; the most of one video")
        results.heads("way", *GOOD, *BAD, "seconds", "MiB")
        for way, tally in found.items():
            results.row(way, *tally.cells())
    return int(any(tally.failed for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main())
