"""A film of two hours in 1080p: memory, progress, and where the time goes.

python -m benchmarks.long_film MODEL SOURCE [--minutes 120] [--beside 10]

SOURCE is a video with a face. A minute of 1920x1080 with it is encoded once and copied
to the film's length. Scored with shots looked for, by all cores; a shorter film beside
it shows what grows. Seconds a minute of film are those of a processor. Memory is the
most in the second fifth of the time and, after the arrow, in the last.
"""

import argparse
import contextlib
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import psutil

from benchmarks import table
from fakedetect_jax.serving.detector import Detector, Limits
from tfds_ffpp import system
from tfds_ffpp.frames.found import Looked, PreparedWindow
from tfds_ffpp.frames.video import even_plan, find_cuts, read_clip, read_windows
from tfds_ffpp.frames.windows import cut_shots

RATE, SIZE = 25, (1080, 1920)
SEGMENT = 60  # seconds that are encoded
LIMIT = 6 * 3600.0  # of scoring a film, where predict's is an hour


def pictures(source: Path, seconds: int) -> Iterator[np.ndarray]:
    """A face before noise that drifts; as it begins it ends."""
    faces = read_clip(source, even_plan(25)).frames()
    rng = np.random.default_rng(0)
    small = rng.integers(60, 200, (34, 60, 3)).astype(np.uint8)
    wall = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    count, turn = RATE * seconds, 2 * len(faces) - 2
    for i in range(count):
        picture = np.roll(wall, (2 * i * SIZE[1]) // count, axis=1)
        face = faces[len(faces) - 1 - abs(i % turn - len(faces) + 1)]
        picture[240:840, 660:1260] = cv2.resize(face, (600, 600))
        yield picture


def write_segment(source: Path, out: Path, seconds: int = SEGMENT) -> None:
    """Encodes the minute, or so many seconds."""
    options = {"preset": "veryfast", "crf": "23", "g": "50"}
    with av.open(str(out), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures(source, seconds):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


def write_film(segment: Path, out: Path, minutes: int) -> Path:
    """Copies the minute so many times."""
    with av.open(str(segment)) as source, av.open(str(out), "w") as file:
        video = source.streams.video[0]
        packets = [p for p in source.demux(video) if p.size]
        times = [(p.pts or 0, p.dts or 0) for p in packets]
        stream = file.add_stream_from_template(video)
        assert video.time_base is not None
        length = round(SEGMENT / video.time_base)
        for i in range(minutes):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.stream = stream
                packet.pts, packet.dts = pts + i * length, dts + i * length
                file.mux(packet)
    return out


class Memory:
    """MiB that this process and those that decode hold, once a second."""

    def __init__(self):
        self._seen: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        own = psutil.Process()
        while not self._over.wait(1.0):
            decoders = [0.0]
            for child in own.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    decoders.append(child.memory_info().rss / 2**20)
            self._seen.append((own.memory_info().rss / 2**20, max(decoders)))

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def said(self) -> list[str]:
        """For each of the two: the most in the second fifth of the time, and in the
        last; the first has what is held from then on."""
        fifth = max(len(self._seen) // 5, 1)
        early, late = self._seen[fifth : 2 * fifth], self._seen[-fifth:]
        tops = (
            (max(side[i] for side in part) for part in (early, late)) for i in (0, 1)
        )
        return [" → ".join(f"{top:.0f}" for top in pair) for pair in tops]


class Scored(NamedTuple):
    """What scoring a film took: seconds of the clock, those of them until the first
    window, seconds of processors, memory."""

    seconds: float
    shots: float
    decoding: float
    scoring: float
    memory: list[str]
    windows: int
    longest_silence: float


def score(model: str, film: Path) -> Scored:
    """Scores a film as predict does."""
    heard = [time.monotonic()]
    first: list[float] = []

    def progress(name: str, found: Looked | PreparedWindow) -> None:
        heard.append(time.monotonic())
        if not first and isinstance(found, PreparedWindow):
            first.append(heard[-1])

    start, own = time.monotonic(), time.process_time()
    cores = system.num_cores()
    with (
        Memory() as memory,
        Detector.load(
            model, apart=True, num_processes=cores, limits=Limits(seconds=LIMIT)
        ) as detector,
    ):
        (result,) = detector.results([film], on_progress=progress)
    seconds, own = time.monotonic() - start, time.process_time() - own
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.score is not None, result
    return Scored(
        seconds,
        first[0] - start,
        children.ru_utime + children.ru_stime,
        own,
        memory.said(),
        result.windows or 0,
        max(b - a for a, b in zip(heard, heard[1:], strict=False)),
    )


def phases(film: Path, window_frames: int, num_frames: int) -> dict[str, float]:
    """Processor seconds for a minute: looking for cuts, decoding what windows need."""
    start = time.process_time()
    cuts = find_cuts(film)
    looked = time.process_time()
    windows = read_windows(
        film,
        lambda total, _: cut_shots(total, cuts, window_frames),
        even_plan(num_frames),
    )
    for window in windows:
        window.clip.rgb(0)
    return {"cuts": looked - start, "windows": time.process_time() - looked}


def main() -> int:
    """Makes the films, scores both, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source", type=Path)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--beside", type=int, default=10)
    table.add_option(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        table.results(parser, options) as results,
    ):
        folder = Path(name)
        segment = folder / "segment.mp4"
        write_segment(options.source, segment)
        with Detector.load(options.model) as detector:
            how = detector.model.window_frames, detector.model.preparation.num_frames
        results.heads(
            *("minutes", "windows", "clock s", "of it for shots", "decoding s/min"),
            *("network s/min", "MiB", "MiB that decode", "longest silence s"),
        )
        spent = 0.0
        for minutes in (options.beside, options.minutes):
            film = write_film(segment, folder / f"{minutes}.mp4", minutes)
            found = score(options.model, film)
            decoding, spent = found.decoding - spent, found.decoding
            results.row(
                *(minutes, f"{found.windows:,}", f"{found.seconds:.0f}"),
                *(f"{found.shots:.0f}", f"{decoding / minutes:.2f}"),
                *(f"{found.scoring / minutes:.2f}", *found.memory),
                f"{found.longest_silence:.1f}",
            )
        parts = phases(write_film(segment, folder / "one.mp4", 1), *how)
        results.say()
        results.say(
            f"Of a minute's decoding {parts['cuts']:.1f} s look for cuts, "
            f"{parts['windows']:.1f} s decode what windows need; the rest finds faces, "
            "crops and encodes."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
