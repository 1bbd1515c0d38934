"""How fast videos are scored, and where the time goes.

python -m benchmarks.predict WORKDIR VIDEOS [--processes 2]

Prints JSON: videos per second end to end, the split of the work over decoding, faces,
cropping with JPEG and the network (each measured alone, in one process), the time of
`Detector.score` with a new decoding process and with a waiting one, and the time from
starting the command to the first result for one made 10 s video of 1280x720.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from fakedetect_jax.serving import clips, sources
from fakedetect_jax.serving.detector import Detector
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
        command += [str(model), str(video), "--compilation-cache", str(cache)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = round(time.perf_counter() - start, 2)
    return seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("videos", help="a folder of videos of faces")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, default=100, help="videos")
    arguments = parser.parse_args()
    found = [s.name for s in sources.find([arguments.videos]) if not s.refusal]
    videos = [v for v in found if "masks" not in Path(v).parts][: arguments.limit]
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
