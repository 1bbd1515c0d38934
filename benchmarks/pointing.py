"""Does the heat lie where the forgery is? The pointing game on made videos.

python -m benchmarks.pointing WORKDIR TREE [--clips 200] [--data_dir DIR]

A hit is a frame of a fake whose hottest pixel lies inside the known mask of what was
forged (Zhang et al., "Top-down Neural Attention", 2016). Chance is the mean share of
the crop that the mask covers; the crop's centre is the guess that knows only where
faces are. Only frames with a mask in the crop count; clips that the model calls fake
are kept apart from all.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.order import covering_clips
from fakedetect_jax.serving.detector import Detector
from tfds_ffpp.errors import UserError
from tfds_ffpp.frames.crops import clip_crops
from tfds_ffpp.frames.stored import StoredVideo
from tfds_ffpp.frames.video import read_frames

INSIDE = 127  # masks are stored lossily; 255 inside


def mask_path(tree: Path, video: StoredVideo) -> Path:
    """Where the mask of a fake lies in an official tree."""
    folder = tree / "manipulated_sequences" / video.method / "masks" / "videos"
    return folder / f"{video.video_id}.mp4"


def mask_crops(path: Path, video: StoredVideo, size: int) -> np.ndarray:
    """The mask bool[N,S,S] at the stored frames, cut as the frames were."""
    clip = read_frames(path, video.frame_index[: video.num_valid])
    y0, x0, y1, x1 = video.box
    crops = clip_crops(
        clip, (y0, x0, y1, x1), size, reference=(video.height, video.width)
    )
    return crops.mean(axis=-1) > INSIDE


class Frame(NamedTuple):
    """A frame of a fake, beside its mask."""

    method: str
    called_fake: bool  # its clip
    cold: bool  # no heat at all
    hit: bool  # the hottest pixel lies in the mask
    centre: bool  # the middle of the crop does
    share: float  # of the crop that the mask covers
    heat_inside: float  # share of the heat


def play(detector: Detector, split, tree: Path, *, max_clips: int) -> list[Frame]:
    """One row per frame that shows both what is forged and what is not."""
    config = detector.model.config
    size = config.dataset.image_size
    clips = covering_clips(
        split.videos,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=1,
    )
    fakes = [c for c in clips if split.videos[c.video].label == 1]
    fakes = [c for c in fakes if mask_path(tree, split.videos[c.video]).exists()]
    order = np.random.default_rng(0).permutation(len(fakes))[:max_clips]
    rows = []
    for number in order:
        clip = fakes[number]
        video = split.videos[clip.video]
        frames = np.empty((1, *settings.clip_shape(config)), np.uint8)
        length = split.reader.read(clip, video.num_valid, frames[0])
        explained = detector.explain(frames, np.array([length]))
        masks = mask_crops(mask_path(tree, video), video, size)
        called_fake = bool(1 / (1 + np.exp(-explained.logits[0])) > detector.threshold)
        for t in range(length):
            mask = masks[clip.start + clip.stride * t]
            heat = cv2.resize(np.asarray(explained.heat[0, t]), (size, size))
            if mask.any() and not mask.all():
                rows.append(
                    Frame(
                        method=video.method,
                        called_fake=called_fake,
                        cold=bool(heat.max() <= 0),
                        hit=bool(mask.flat[heat.argmax()]),
                        centre=bool(mask[size // 2, size // 2]),
                        share=float(mask.mean()),
                        heat_inside=float(heat[mask].sum() / max(heat.sum(), 1e-12)),
                    )
                )
    return rows


HEADS = ("hits", "chance", "centre hits", "heat in the mask", "without heat")


def rates(rows: list[Frame]) -> list[str]:
    """Those of HEADS over frames. A frame without heat points nowhere: a miss."""
    columns = (
        [row.hit and not row.cold for row in rows],
        [row.share for row in rows],
        [row.centre for row in rows],
        [row.heat_inside for row in rows],
        [row.cold for row in rows],
    )
    return [f"{np.mean(column):.1%}" if rows else "–" for column in columns]


def main() -> None:
    """Prints the rates of all fakes and of each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("tree", type=Path, help="the made videos, with their masks")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--step", type=int)
    parser.add_argument(
        "--data_dir",
        help="the built datasets; as in the run if not set, where a relative path is "
        "that of the folder in which the run was started",
    )
    table.add_option(parser)
    arguments = parser.parse_args()
    try:
        detector = Detector.load(arguments.workdir, step=arguments.step)
        config = detector.model.config.copy_and_resolve_references()
        if arguments.data_dir:
            with config.unlocked():
                config.data.data_dir = arguments.data_dir
        split = reader.open_split(dataset.open_dataset(config), arguments.split, config)
    except UserError as error:
        place = "" if arguments.data_dir else "; or give --data_dir"
        print(f"error: {error}{place}", file=sys.stderr)
        sys.exit(error.exit_code)
    rows = play(detector, split, arguments.tree, max_clips=arguments.clips)
    found = [row for row in rows if row.called_fake]
    groups = {"all fakes": rows, "called fake": found}
    for method in sorted({row.method for row in rows}):
        groups[f"called fake, {method}"] = [r for r in found if r.method == method]
    with table.results(parser, arguments) as results:
        results.say(f"Step {detector.model.step}, split {arguments.split}.")
        results.heads("frames of", "number", *HEADS)
        for name, members in groups.items():
            results.row(name, len(members), *rates(members))


if __name__ == "__main__":
    main()
