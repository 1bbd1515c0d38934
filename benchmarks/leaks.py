"""How far apart the perceptual hashes of the same and of other footage are.

python -m benchmarks.leaks [--config demo] [--data_dir DIR]

Of the training videos of a built dataset: bits of data/leaks.py's hash that differ
between a video and itself coded anew, shrunk or shifted; between fakes and their
originals; and between videos of different people.
"""

import argparse
from typing import Any

import cv2
import numpy as np
import simplejpeg

from benchmarks import table


class Changed:
    """A reader whose frames are shrunk by a factor, shifted, and coded as JPEG."""

    def __init__(self, reader: Any, *, quality: int, factor: float, shift: int):
        self._reader, self._quality = reader, quality
        self._factor, self._shift = factor, shift

    def read(self, clip: Any, num_valid: int, out: np.ndarray) -> int:
        """See FrameReader.read."""
        length = self._reader.read(clip, num_valid, out)
        for row, frame in enumerate(out):
            side, cut = frame.shape[0], self._shift
            moved = frame[cut:, cut:] if cut else frame
            small = round(side * self._factor)
            moved = cv2.resize(moved, (small, small), interpolation=cv2.INTER_AREA)
            moved = cv2.resize(moved, (side, side))
            coded = simplejpeg.encode_jpeg(
                np.ascontiguousarray(moved),
                quality=self._quality,
                colorsubsampling="420",
            )
            out[row] = simplejpeg.decode_jpeg(coded, "RGB")
        return length

    def read_masks(self, clip: Any, num_valid: int, out: np.ndarray) -> None:
        """See FrameReader.read_masks."""
        self._reader.read_masks(clip, num_valid, out)


CHANGES = {
    "JPEG 50": {"quality": 50, "factor": 1.0, "shift": 0},
    "JPEG 30": {"quality": 30, "factor": 1.0, "shift": 0},
    "half the size, JPEG 50": {"quality": 50, "factor": 0.5, "shift": 0},
    "half the size, JPEG 20": {"quality": 20, "factor": 0.5, "shift": 0},
    "half the size, JPEG 10": {"quality": 10, "factor": 0.5, "shift": 0},
    "cut by 1/64 more": {"quality": 95, "factor": 1.0, "shift": 1},
    "cut by 2/64 more": {"quality": 95, "factor": 1.0, "shift": 2},
}


def main() -> None:
    """Prints a row for each kind of pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="", help="the config's if not set")
    parser.add_argument("--config", default="demo")
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options.config, options.data_dir, results)


def measure(name: str, data_dir: str, results: table.Results) -> None:
    """Compares all training videos with each other, and with themselves changed."""
    from fakedetect_jax import settings
    from fakedetect_jax.data import dataset, leaks, reader

    config = settings.load(name).copy_and_resolve_references()
    with config.unlocked():
        config.data.update(data_dir=data_dir or config.data.data_dir, manual_dir="")
    split = reader.open_split(dataset.open_dataset(config), "train", config)
    size = config.dataset.image_size
    scale = max(size // 64, 1)
    plain = leaks.video_hashes(split, size)
    targets = np.array([video.target for video in split.videos])
    alike = targets[:, None] == targets
    apart = leaks.bits_apart(plain, plain)
    results.say(
        f"{len(split.videos)} videos of {size} px; of {leaks.BITS} bits, on average "
        f"over {len(leaks.MOMENTS)} frames; {leaks.SAME_BITS} and less are the same."
    )
    results.heads("pair", "least", "median", "most", "found")
    rows = {}
    for label, change in CHANGES.items():
        shift = change["shift"] * scale
        changed: Any = Changed(split.reader, **{**change, "shift": shift})
        hashes = leaks.video_hashes(split._replace(reader=changed), size)
        rows[f"itself, {label}"] = np.diag(leaks.bits_apart(plain, hashes))
    other = ~np.eye(len(targets), dtype=bool)
    rows["a fake and its original, or another fake of it"] = apart[alike & other]
    rows["different people"] = apart[~alike]
    for label, bits in rows.items():
        found = np.mean(bits <= leaks.SAME_BITS)
        numbers = (f"{f(bits):.0f}" for f in (np.min, np.median, np.max))
        results.row(label, *numbers, f"{found:.1%}")


if __name__ == "__main__":
    main()
