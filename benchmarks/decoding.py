"""How videos are decoded: what is skipped, and how processes and threads share cores.

python -m benchmarks.decoding WORKDIR VIDEOS [--seconds 20] [--rounds 3] [--files 60]

VIDEOS is a folder of videos of faces. First what is left out of a made film of 1080p
that is decoded for its shots and windows; then predict's own ways through that film,
and through many short videos, by how many processes decode with how many threads each,
with the network beside them. Ways take turns; the numbers are medians, of the clock.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import table
from benchmarks.long_film import RATE, SIZE, write_segment
from benchmarks.mutants_video import SOURCES, mutate
from fakedetect_jax.serving import sources
from fakedetect_jax.serving.detector import Detector
from tests.made_videos import write_video
from tests.tfds_ffpp.test_shots import decoded, film_of
from tfds_ffpp import system
from tfds_ffpp.frames.decoding.container import decode_all, open_stream
from tfds_ffpp.frames.decoding.groups import decode_groups
from tfds_ffpp.frames.decoding.index import read_index
from tfds_ffpp.frames.found import unheard
from tfds_ffpp.frames.video import FAST, even_plan
from tfds_ffpp.frames.windows import cut_evenly


class Way:
    """Something that is done in turns with others; its seconds."""

    def __init__(self, name: str, work: Callable[[], object]):
        self.name, self._work = name, work
        self.clock: list[float] = []
        self.processor: list[float] = []

    def turn(self) -> None:
        """Does it once."""
        start, own = time.perf_counter(), time.process_time()
        self._work()
        self.clock.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - own)


def in_turns(ways: list[Way], rounds: int) -> None:
    """All ways once unmeasured, then so many times."""
    for number in range(rounds + 1):
        for way in ways:
            way.turn()
            if not number:
                way.clock.clear()
                way.processor.clear()


def middle(values: list[float]) -> str:
    """The median, and from what to what."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# What is skipped --------------------------------------------------------------------


def decode(film: Path, *, fast: bool = False, threads: int = 1) -> int:
    """Decodes all frames, perhaps as they are for shots."""
    with open_stream(film, threads) as (container, stream):
        if fast:
            stream.codec_context.options = FAST
        return sum(1 for _ in decode_all(container, stream))


def decode_wanted(film: Path, window: int, frames: int, threads: int = 1) -> int:
    """Decodes what windows need."""
    index = read_index(film, unheard)
    order, plan = sorted(index.times), even_plan(frames)
    wanted = {
        order[start + i]
        for start, stop in cut_evenly(len(order), window)
        for i in plan(stop - start)
    }
    found = decode_groups(index, wanted, unheard, threads=threads)
    return sum(1 for _ in found)


def skipped(film: Path, rounds: int) -> Iterator[Way]:
    """The ways of decoding a film, one thread each."""
    ways = [
        Way("all frames, as they are shown", lambda: decode(film)),
        Way("all frames, for shots", lambda: decode(film, fast=True)),
        Way(
            "what windows of 300 frames need, 32 of each",
            lambda: decode_wanted(film, 300, 32),
        ),
        Way(
            "what windows of 300 frames need, 8 of each",
            lambda: decode_wanted(film, 300, 8),
        ),
    ]
    in_turns(ways, rounds)
    yield from ways


# Who works --------------------------------------------------------------------------


def scored(detector: Detector, processes: int, threads: int, videos: list[str]) -> None:
    """Scores videos with so many processes, of so many threads each."""
    how = detector._decoder
    detector._decoder = dataclasses.replace(
        how, num_processes=processes, cores=processes * threads
    )
    rows = list(detector.results(videos))
    detector._decoder = how
    assert all(row.score is not None for row in rows), rows


def shared(
    detector: Detector, videos: list[str], pairs: list[tuple[int, int]], rounds: int
) -> Iterator[tuple[int, int, Way]]:
    """Ways through videos, by processes and threads of each."""

    def work(processes: int, threads: int) -> Callable[[], None]:
        return lambda: scored(detector, processes, threads, videos)

    ways = [Way(f"{p} x {t}", work(p, t)) for p, t in pairs]
    in_turns(ways, rounds)
    for (processes, threads), way in zip(pairs, ways, strict=True):
        yield processes, threads, way


def changed(folder: Path, count: int) -> int:
    """How many of so many files, changed at random, are the same by four threads."""
    rng, same = np.random.default_rng(0), 0
    whole = []
    for i, (suffix, codec, pixel_format) in enumerate(SOURCES):
        path = folder / f"whole-{i}.{suffix}"
        how = {"codec": codec, "pixel_format": pixel_format, "options": {}}
        write_video(path, film_of([20, 20]), **how)
        whole.append(path)
    for i in range(count):
        source = whole[i % len(whole)]
        path = folder / f"changed{source.suffix}"
        path.write_bytes(mutate(source.read_bytes(), rng))
        same += decoded(path, 1) == decoded(path, 4)
    return same


def main() -> int:
    """Measures, prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir")
    parser.add_argument("videos", help="a folder of videos of faces")
    parser.add_argument("--seconds", type=int, default=20, help="of the film")
    parser.add_argument("--files", type=int, default=60, help="short videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changed", type=int, default=200, help="damaged files")
    table.add_option(parser)
    options = parser.parse_args()
    found = [s.name for s in sources.find([options.videos]) if not s.refusal]
    videos = [v for v in found if "masks" not in Path(v).parts][: options.files]
    cores, rounds = system.num_cores(), options.rounds
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
        Detector.load(options.workdir, apart=True) as detector,
    ):
        film = Path(name, "film.mp4")
        write_segment(Path(videos[0]), film, options.seconds)
        height, width = SIZE
        results.say(
            f"A film of {options.seconds} s, {width}x{height}, {RATE} frames a second; "
            f"{len(videos)} short videos; {rounds} rounds on {cores} cores."
        )
        results.heads("one thread decodes", "seconds", "of a processor")
        for way in skipped(film, rounds):
            results.row(way.name, middle(way.clock), middle(way.processor))
        heads = ("processes", "threads of each", "seconds")
        results.say()
        results.say("The film through predict:")
        results.heads(*heads)
        pairs = [(1, 1), (1, cores), (1, 2 * cores)]
        for processes, threads, way in shared(detector, [str(film)], pairs, rounds):
            results.row(processes, threads, middle(way.clock))
        results.say()
        results.say("The short videos through predict:")
        results.heads(*heads)
        pairs = [(1, 1), (cores - 1 or 1, 1), (cores, 1), (cores + 1, 1), (cores, 2)]
        pairs = list(dict.fromkeys(pairs))
        for processes, threads, way in shared(detector, videos, pairs, rounds):
            results.row(processes, threads, middle(way.clock))
        count = options.changed
        same = changed(Path(name), count)
        results.say()
        results.say(
            f"{count} files whose bytes were changed at random: {same} have the same "
            "windows, to the bit, by four threads as by one."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
