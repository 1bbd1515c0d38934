"""Our build's work on a video beside the field's: OpenCV seeks, dlib on every frame.

python -m benchmarks.build [--videos DIR] [--rounds 5]
One original and four fakes of 300 frames, 1280x720, yuv444p, made and kept in DIR. Both
sides store 30 face crops of 224 pixels of each as JPEG, on one core, in turns: A B A B.
Then the whole build runs on all cores. The sides' times are the processor's, not the
clock's, so that neighbours on the machine matter little. Detection without enlarging is
the peer's cheapest setting; the original authors' script enlarges twice.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import cv2
import dlib
import numpy as np

from benchmarks import table
from tfds_ffpp.build import BuildOptions, build
from tfds_ffpp.frames.prepare import prepare
from tfds_ffpp.frames.video import even_plan, read_clip
from tfds_ffpp.synthetic.tree import write_tree
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig
from tfds_ffpp.tree.splits import SPLITS

HEIGHT, WIDTH, FRAMES = 720, 1280, 300
FFPP_VIDEOS = 5000  # originals and the four classic methods
FFPP_FRAMES = 500  # frames of a video, an assumption
CONFIG = FfppConfig(name="bench", max_rejected=0.0)


def make_videos(folder: Path) -> list[Path]:
    """An original and its four fakes; each of the two other splits has copies."""
    small, tree = folder / "small", folder / "tree"
    write_tree(small, num_identities=6, num_frames=40, num_processes=2)
    splits = {
        s: json.loads((small / "splits" / f"{s}.json").read_text()) for s in SPLITS
    }
    first = splits["train"][0][0]
    made = []
    for path in sorted(small.rglob(f"c23/videos/{first}*.mp4")):
        made.append(tree / path.relative_to(small))
        if not made[-1].exists():
            enlarge(path, made[-1])
    (tree / "splits").mkdir(exist_ok=True)
    for split, pairs in splits.items():
        (tree / "splits" / f"{split}.json").write_text(json.dumps(pairs[:1]))
        for path in made:
            copy = path.with_name(path.name.replace(first, pairs[0][0], 1))
            partner = next(p[1] for p in splits["train"] if p[0] == first)
            copy = copy.with_name(copy.name.replace(partner, pairs[0][1]))
            # Another content for the leak check: an empty box at the end.
            spare = b"\0\0\0\x0cfree" + split[:4].encode()
            if copy != path:
                copy.write_bytes(path.read_bytes() + spare)
    return sorted(made, key=lambda p: "original_sequences" not in p.parts)


def enlarge(source: Path, target: Path) -> None:
    """Plays a clip to and fro in a noisy 720p picture; writes it as FF++ c23 is."""
    clip = read_clip(source, even_plan(40)).frames()
    rng = np.random.default_rng(len(source.stem))
    small = rng.integers(40, 200, (9, 16, 3)).astype(np.float32)
    scene = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = [rng.normal(0, 3, (HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(4)]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part.mp4")
    with av.open(str(partial), "w") as file:
        stream = file.add_stream(
            "libx264", rate=25, options={"crf": "23", "preset": "veryfast", "g": "250"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for i in range(FRAMES):
            at = i % (2 * len(clip))
            person = clip[min(at, 2 * len(clip) - 1 - at)]
            image = scene.copy()
            image[100:660, 360:920] = cv2.resize(person, (560, 560))
            image = np.clip(image + grain[i % 4], 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    partial.rename(target)


# The two sides --------------------------------------------------------------------


def ours(videos: Sequence[Path], seconds: Any) -> list[list[bytes]]:
    """The original first: its box serves the fakes."""
    faces, stored = None, []
    for path in videos:
        prepared = prepare(path, CONFIG.preparation, faces)
        faces = faces or prepared.found.faces
        seconds.update(prepared.seconds)
        stored.append(prepared.frames)
    return stored


def peer(videos: Sequence[Path], seconds: Any) -> list[list[bytes]]:
    """Seeks to each frame, detects on it, crops 1.3 times the largest face."""
    detector = dlib.get_frontal_face_detector()  # pyright: ignore
    stored = []
    for path in videos:
        stored.append([])
        threads = [cv2.CAP_PROP_N_THREADS, 1]
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
        for index in even_plan(CONFIG.num_frames)(FRAMES):
            start = time.process_time()
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            _, frame = capture.read()
            read = time.process_time()
            boxes = detector(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), 0)
            found = time.process_time()
            for box in sorted(boxes, key=lambda b: -b.area())[:1]:
                side = round(1.3 * box.width())
                y = max(box.center().y - side // 2, 0)
                x = max(box.center().x - side // 2, 0)
                crop = cv2.resize(frame[y : y + side, x : x + side], (224, 224))
                coded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
                stored[-1].append(coded.tobytes())
            seconds.update(
                decode=read - start,
                detect=found - read,
                encode=time.process_time() - found,
            )
        capture.release()
    return stored


def measure(side: Callable, videos: Sequence[Path]) -> tuple[float, Counter, int]:
    """Seconds of a round, its parts, and how many crops came out."""
    parts: Counter = Counter()
    start = time.process_time()
    stored = side(videos, parts)
    return time.process_time() - start, parts, sum(map(len, stored))


def report(
    name: str,
    rounds: list[tuple[float, Counter, int]],
    videos: int,
    results: table.Results,
) -> float:
    """The row of a side, of medians; returns its seconds per video."""
    times = [seconds / videos for seconds, _, _ in rounds]
    parts = sum((p for _, p, _ in rounds), Counter())
    shares = ", ".join(f"{k} {v / parts.total():.0%}" for k, v in parts.most_common())
    median = statistics.median(times)
    spread = f"{median:.3f} ({min(times):.3f}-{max(times):.3f})"
    results.row(name, spread, f"{1 / median:.2f}", rounds[0][2], shares)
    return median


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", default="runs/bench-build", help="kept here")
    parser.add_argument("--rounds", type=int, default=5)
    table.add_option(parser)
    args = parser.parse_args()
    with table.results(parser, args) as results:
        compare(args, results)


def compare(args: argparse.Namespace, results: table.Results) -> None:
    """Both sides in turn, then a whole build."""
    folder = Path(args.videos)
    videos = make_videos(folder)
    cv2.setNumThreads(1)
    packages = ("av", "opencv-python-headless", "dlib-bin", "simplejpeg")
    results.say(", ".join(f"{p} {metadata.version(p)}" for p in packages))
    tree = folder / "tree"
    rounds: dict[str, list] = {"ours": [], "peer": []}
    for number in range(args.rounds + 1):
        for name, side in (("ours", ours), ("peer", peer)):
            result = measure(side, videos)
            if number:  # the first is the warm-up
                rounds[name].append(result)
    results.heads("side", "s/video", "videos/s and core", "crops", "of which")
    mine = report("ours", rounds["ours"], len(videos), results)
    theirs = report("peer", rounds["peer"], len(videos), results)
    pairs = [b[0] / a[0] for a, b in zip(rounds["ours"], rounds["peer"], strict=True)]
    ratio = f"{theirs / mine:.2f} (pairs {min(pairs):.2f} to {max(pairs):.2f})"
    results.say()
    results.say(f"- the peer takes {ratio} times as long")
    with tempfile.TemporaryDirectory() as data_dir:
        start = time.perf_counter()
        build(CONFIG, data_dir=data_dir, manual_dir=tree, options=BuildOptions())
        seconds = time.perf_counter() - start
    count = len(list(tree.rglob("videos/*.mp4")))
    results.say(
        f"- whole build of {count} videos on {os.cpu_count()} cores: {seconds:.1f} s, "
        f"{count / seconds:.2f} videos/s"
    )
    each = mine * FFPP_FRAMES / FRAMES
    for cores in (2, 16, 64):
        results.say(
            f"- full c23, {FFPP_VIDEOS} videos of {FFPP_FRAMES:.0f} frames at 720p, "
            f"{cores} cores (projected, linear): {FFPP_VIDEOS * each / cores / 60:.0f}"
            " min"
        )


if __name__ == "__main__":
    main()
