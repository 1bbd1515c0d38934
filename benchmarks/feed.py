"""Clips per second from disk to the device, beside a PyTorch DataLoader on PNG files.

python -m benchmarks.feed            (needs the extra bench: torch)

The peers are the field's practice, one PNG file per frame read by OpenCV and turned to
normalised float32 by the workers, and a kinder form of it, JPEG files kept as uint8.
All sides read the same crops, on the same cores, in turn, with the memory settings that
the trainer gives itself; the page cache is warm.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np

from benchmarks import feed_peer, table
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.data.order import ClipRef, TrainOrder
from fakedetect_jax.data.reader import FrameReader, read_videos
from fakedetect_jax.run import parallel
from fakedetect_jax.run.process import restart_with_malloc
from tfds_ffpp import build
from tfds_ffpp.synthetic import tree
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

CLIP_FRAMES, SIZE, BATCH = 10, 224, 32
# Name of the side -> quality and chroma of the stored frames.
STORED = {
    "this project, JPEG 95 4:4:4 (default)": (95, "444"),
    "this project, JPEG 90 4:2:0": (90, "420"),
}
WARM_UP = 8  # batches


def make_data(folder: Path, num_identities: int):
    """Builds the datasets, and writes the first one's crops as image files."""
    tree.write_tree(folder / "videos", num_identities=num_identities)
    builders = {}
    for name, (quality, chroma) in STORED.items():
        config = FfppConfig(
            name=f"jpeg{quality}",
            image_size=SIZE,
            jpeg_quality=quality,
            jpeg_subsampling=chroma,
        )
        builders[name] = build.build(
            config, data_dir=folder / "tfds", manual_dir=folder / "videos"
        )
    builder = next(iter(builders.values()))
    videos = read_videos(Path(builder.data_dir), "train")
    reader = FrameReader(builder, "train", image_size=SIZE)
    for number, video in enumerate(videos):
        frames = np.empty((video.num_valid, SIZE, SIZE, 3), np.uint8)
        reader.read(ClipRef(number, 0, 1), video.num_valid, frames)
        for kind in ("png", "jpg"):
            place = folder / kind / f"{number:04d}"
            place.mkdir(parents=True, exist_ok=True)
            for i, frame in enumerate(frames):
                quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if kind == "jpg" else []
                cv2.imwrite(str(place / f"{i:03d}.{kind}"), frame[..., ::-1], quality)
    return builders, videos


def ours(builder, videos, *, num_batches: int, threads: int, pass_number: int) -> float:
    """Clips per second of this project's feed, on the device."""
    settings = argparse.Namespace(
        num_workers=0, num_threads=threads, prefetch_batches=4
    )
    order = TrainOrder(
        videos, seed=pass_number, clip_frames=CLIP_FRAMES, frame_stride=1
    )
    feed = train_feed(
        order,
        FrameReader(builder, "train", image_size=SIZE),
        videos,
        settings,
        shape=(BATCH, CLIP_FRAMES, SIZE),
        rows=slice(0, BATCH),
        start_step=0,
        num_steps=num_batches + WARM_UP + 2,
    )
    batches = parallel.put_ahead(feed, parallel.make_mesh(), 2)
    for _ in range(WARM_UP):  # what was prefetched meanwhile is not counted
        jax.block_until_ready(next(batches)[1])
    start, count = time.perf_counter(), 0
    for _, batch in batches:
        jax.block_until_ready(batch)
        count += BATCH
        if count == num_batches * BATCH:
            break
    seconds = time.perf_counter() - start
    feed.close()  # pyright: ignore[reportAttributeAccessIssue]
    return count / seconds


def main() -> None:
    """Measures in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_identities", type=int, default=16)
    parser.add_argument(
        "--batches", type=int, default=20, help="of 32 clips, each pass"
    )
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    table.add_option(parser)
    arguments = parser.parse_args()
    restart_with_malloc()
    with table.results(parser, arguments) as results:
        report(measure(arguments), arguments.cores, results)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Clips/s of each side, pass by pass."""
    cores = arguments.cores
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        builders, videos = make_data(folder, arguments.num_identities)
        peers = {
            "PNG files, float32, DataLoader": ("png", True),
            "JPEG files, uint8, DataLoader": ("jpg", False),
        }
        rates: dict[str, list[float]] = {name: [] for name in (*builders, *peers)}
        for number in range(arguments.passes):
            for name, builder in builders.items():
                rates[name].append(
                    ours(
                        builder,
                        videos,
                        num_batches=arguments.batches,
                        threads=cores,
                        pass_number=number,
                    )
                )
            for name, (kind, as_float) in peers.items():
                # PNG is slow: fewer batches give the same precision.
                count = max(arguments.batches // (4 if kind == "png" else 1), 3)
                rates[name].append(
                    feed_peer.clips_per_second(
                        folder / kind,
                        suffix=kind,
                        as_float=as_float,
                        shape=(BATCH, CLIP_FRAMES),
                        num_batches=count,
                        workers=cores,
                    )
                )
    return rates


def report(rates: dict[str, list[float]], cores: int, results: table.Results) -> None:
    """Medians, ranges and ratios."""
    best = {name: statistics.median(values) for name, values in rates.items()}
    default, small = STORED
    results.say(
        f"{CLIP_FRAMES} frames x {SIZE} px, batches of {BATCH}; {cores} cores in use"
    )
    results.heads("clips/s", "median", "min", "max", "default is", "90 4:2:0 is")
    for name, values in rates.items():
        spread = (f"{x:.0f}" for x in (best[name], min(values), max(values)))
        ratios = (f"{best[side] / best[name]:.1f} x" for side in (default, small))
        results.row(name, *spread, *ratios)


if __name__ == "__main__":
    main()
