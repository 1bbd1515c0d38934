"""How fast videos are scored, and where the time goes.

python -m benchmarks.predict WORKDIR VIDEOS [--processes 2]
python -m benchmarks.predict MODEL VIDEOS --start [--before CHECKOUT [MODEL]]

With --start: seconds of the whole command for one video and for twenty, with what was
kept by an earlier start, in turns with the code of another checkout if one is given
(with an export of its own where its form of MODEL was another), and a start's phases.

Otherwise prints JSON: videos per second end to end, the split of the work over
decoding, faces, cropping with JPEG and the network (each measured alone, in one
process), the time of `Detector.score` with a new decoding process and with a waiting
one, and the time from starting the command to the first result for one made 10 s video
of 1280x720.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks import table
from fakedetect_jax.serving import clips, sources
from fakedetect_jax.serving.detector import Detector
from tfds_ffpp import system
from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.found import StoredFace
from tfds_ffpp.frames.prepare import Prepared, prepare
from tfds_ffpp.frames.video import even_plan, read_clip


def make_720p(source: Path, out: Path, *, seconds: int = 10) -> None:
    """A 1280x720 video of 25 frames per second: a face before a grey wall."""
    faces = read_clip(source, even_plan(25)).frames()
    with av.open(str(out), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(25 * seconds):
            picture = np.full((720, 1280, 3), 128, np.uint8)
            place = (len(faces) - 1) - abs(i % (2 * len(faces) - 2) - len(faces) + 1)
            picture[60:660, 340:940] = cv2.resize(faces[place], (600, 600))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def throughput(detector: Detector, videos: list[str]) -> dict[str, float]:
    """Videos per second, after a pass over some that compiles every batch size."""
    for count in (1, 2, 8):
        list(detector.score_all(videos[:count]))
    start = time.perf_counter()
    outcomes = [r["outcome"] for r in detector.score_all(videos)]
    seconds = time.perf_counter() - start
    return {
        "videos": len(videos),
        "scored": outcomes.count("scored"),
        "videos_per_second": round(len(videos) / seconds, 2),
    }


def calls(detector: Detector, video: str, *, count: int = 10) -> dict[str, float]:
    """Milliseconds of `score`: the first call, which starts a decoder, and later ones.

    What is compiled was compiled before.
    """
    detector.score(video)
    detector.close()
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        detector.score(video)
        seconds.append(time.perf_counter() - start)
    later = float(np.median(seconds[1:]))
    return {"first": round(1000 * seconds[0]), "later": round(1000 * later)}


def read_clips(detector: Detector, prepared: Prepared) -> list[clips.Clip]:
    """The clips that the detector would score of a prepared video."""
    facts, config = prepared.found.facts, detector.model.config
    y0, x0, y1, x1 = facts.box
    face = StoredFace(
        window=0,
        entry="",
        num_valid=facts.num_valid,
        face_seen=list(facts.face_seen),
        box=(y0, x0, y1, x1),
        coverage=facts.coverage,
        num_faces=facts.num_faces,
    )
    places = clips.cut(face, config)
    return list(clips.read(prepared.frames[: face.num_valid], places, config))


def phases(detector: Detector, videos: list[str]) -> dict[str, float]:
    """Milliseconds per video of each part, one after another in this process."""
    preparation = detector.model.preparation
    cv2.setNumThreads(1)
    totals: dict[str, float] = {}
    done = 0
    for video in videos:
        try:
            prepared = prepare(video, preparation)
        except UnusableVideoError:
            continue
        done += 1
        for name, seconds in prepared.seconds.items():
            totals[name] = totals.get(name, 0.0) + seconds
        start = time.perf_counter()
        read = read_clips(detector, prepared)
        totals["read"] = totals.get("read", 0.0) + time.perf_counter() - start
        if read:
            frames = np.stack([clip.frames for clip in read])
            lengths = np.array([clip.length for clip in read])
            detector.logits(frames, lengths)  # compiled before it is timed
            start = time.perf_counter()
            detector.logits(frames, lengths)
            totals["network"] = totals.get("network", 0.0) + time.perf_counter() - start
    return {k: round(1000 * v / max(done, 1), 2) for k, v in totals.items()}


def first_result(model: Path, video: Path, cache: Path) -> dict[str, float]:
    """Seconds of the whole command for one video: with an empty cache, and again."""
    seconds = {}
    for name in ("cold", "warm"):
        command = [sys.executable, "-m", "fakedetect_jax.predict", "--workdir"]
        command += [str(model), str(video), "--compilation_cache", str(cache)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = round(time.perf_counter() - start, 2)
    return seconds


# The start --------------------------------------------------------------------------

# One after another, as in a process that waits for each; in truth decoding goes on
# beside all from "read the model" on, and the program is read beside it.
PHASES = """
import sys, time
from pathlib import Path
def lap(name, since=[time.perf_counter(), time.process_time()]):
    now = time.perf_counter(), time.process_time()
    print(name, *(round(b - a, 2) for a, b in zip(since, now)), sep="|")
    since[:] = now
folder, video, cache = sys.argv[1:4]
from fakedetect_jax import predict; lap("import the command")
from fakedetect_jax.serving import clips, detector
from fakedetect_jax.trained.model import load_model; lap("import the detector")
model = load_model(folder, cache=Path(cache)); lap("read the model")
import jax; lap("import jax")
network = detector.Network(model, cache=Path(cache)); lap("weights to the device")
network._backend.program(network._backend.rows(3)); lap("read the program")
from benchmarks.predict import read_clips
from tfds_ffpp.frames.prepare import prepare; lap("(import this benchmark)")
prepared = prepare(video, model.preparation); lap("decode, find faces, crop, JPEG")
import numpy as np, types
read = read_clips(types.SimpleNamespace(model=model), prepared)
batch = np.stack([c.frames for c in read]), np.array([c.length for c in read])
lap("read the clips")
network.logits(*batch); lap(f"network, {len(read)} clips, first time")
network.logits(*batch); lap(f"network, {len(read)} clips, again")
"""


def timed(code: Path, words: list[str]) -> tuple[float, float, str]:
    """Seconds, and of processors, of a command with the code of a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(code)},
        cwd=tempfile.gettempdir(),
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used, done.stdout


def starts(options: argparse.Namespace, videos: list[str], out: table.Results) -> None:
    """Tables of the whole command, and of a start's phases."""
    here = Path(__file__).parents[1]
    sides = {"now": (here, options.workdir)}
    if options.before:
        code, model = [*options.before, options.workdir][:2]
        sides = {"before": (code, model)} | sides
    out.heads("videos", "code", "seconds (min to max)", "of processors", "same scores")
    with tempfile.TemporaryDirectory() as place:
        for some in (videos[:1], videos[:20]):
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            scores = {}
            for turn in range(options.times + 1):
                for name, (code, model) in sides.items():
                    # A new file each turn: rows that are there are not made again.
                    file = Path(place, f"rows-{name}-{turn}-{len(some)}")
                    cache = Path(place, f"cache-{name}")
                    words = ["-m", "fakedetect_jax.predict", "--model"]
                    words += [str(model), *some, "--output", str(file)]
                    words += ["--compilation_cache", str(cache)]
                    seconds, used, _ = timed(code, words)
                    rows = [json.loads(x) for x in file.read_text().splitlines()]
                    if len(rows) != len(some):
                        sys.exit(f"{len(rows)} rows of {len(some)} videos")
                    scores[name] = tuple(row["score"] for row in rows)
                    if turn:  # the first fills the cache
                        found[name].append((seconds, used))
            same = "yes" if len(set(scores.values())) == 1 else "no"
            for name, pairs in found.items():
                seconds, used = zip(*pairs, strict=True)
                middle, cpu = statistics.median(seconds), statistics.median(used)
                span = f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
                out.row(len(some), name, span, f"{cpu:.2f}", same)
        out.heads("phase of a start, in one process", "seconds", "of processors")
        words = ["-c", PHASES, str(options.workdir), videos[0]]
        _, _, said = timed(here, [*words, str(Path(place, "cache-now"))])
    for line in said.splitlines():
        out.row(*line.split("|"))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("videos", help="a folder of videos of faces")
    parser.add_argument("--processes", type=int, default=system.num_cores())
    parser.add_argument("--limit", type=int, default=100, help="videos")
    parser.add_argument("--start", action="store_true", help="measure the start alone")
    before = "another checkout to compare with, and a model that it reads"
    parser.add_argument("--before", type=Path, nargs="+", help=before)
    parser.add_argument("--times", type=int, default=5, help="of each command")
    table.add_option(parser)
    arguments = parser.parse_args()
    found = [s.name for s in sources.find([arguments.videos]) if not s.refusal]
    videos = [v for v in found if "masks" not in Path(v).parts][: arguments.limit]
    if arguments.start:
        with table.results(parser, arguments, "start") as results:
            starts(arguments, videos, results)
        return
    detector = Detector.load(arguments.workdir, num_processes=arguments.processes)
    with tempfile.TemporaryDirectory() as place:
        big = Path(place, "720p.mp4")
        make_720p(Path(videos[0]), big)
        measured = {
            "cores": os.cpu_count(),
            "processes": arguments.processes,
            "preparation": dataclasses.asdict(detector.model.preparation),
            **throughput(detector, videos),
            "milliseconds_per_score_call": calls(detector, videos[0]),
            "milliseconds_per_video": phases(detector, videos[:40]),
            "milliseconds_720p_10s": phases(detector, [str(big)]),
            "seconds_to_first_result": first_result(
                arguments.workdir, big, Path(place, "cache")
            ),
        }
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
