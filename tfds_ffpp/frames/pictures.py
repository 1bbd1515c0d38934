"""A folder of numbered pictures -> frames of a video, as video.py gives a file's.

Pictures are taken in the order of the last number in their names, which is that of the
source frame where all are numbered apart. How fast they were shown is not known.
"""

import hashlib
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding import colours
from tfds_ffpp.frames.decoding.container import VideoFacts
from tfds_ffpp.frames.decoding.frames import DecodedVideo, Seen
from tfds_ffpp.frames.video import Plan
from tfds_ffpp.tree.naming import PICTURES

FRAMES = "pictures"  # in place of a video's pixel format
NOMINAL_RATE = 25.0  # frames per second, for times where no rate is known


class _Picture(NamedTuple):
    number: int
    path: Path


def _list(folder: Path) -> list[_Picture]:
    """The pictures of a folder in order, with the numbers of their frames."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES]
    if not paths:
        raise UnusableVideoError("a folder without pictures")
    said = {p: re.findall(r"\d+", p.stem) for p in paths}
    numbers = {p: int(found[-1]) for p, found in said.items() if found}
    if len(set(numbers.values())) == len(paths):
        return sorted(_Picture(number, path) for path, number in numbers.items())
    ordered = sorted(paths, key=lambda p: (numbers.get(p, -1), p.name))
    return [_Picture(number, path) for number, path in enumerate(ordered)]


def _read(path: Path) -> np.ndarray:
    """RGB uint8[H,W,3] of a picture; raises UnusableVideoError."""
    coded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(coded, cv2.IMREAD_COLOR) if len(coded) else None
    if image is None:
        raise UnusableVideoError(f"its frame {path.name} is no readable picture")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_pictures(folder: str | Path, plan: Plan) -> DecodedVideo:
    """The frames of a folder that the plan chooses from their count.

    Raises UnusableVideoError for a folder without pictures or one that is damaged.
    """
    folder = Path(folder)
    pictures = _list(folder)
    return _chosen(folder, pictures, [pictures[i] for i in plan(len(pictures))])


def read_numbered(folder: str | Path, numbers: Sequence[int]) -> DecodedVideo:
    """The frames with these numbers; raises UnusableVideoError if one is not there."""
    folder = Path(folder)
    pictures = _list(folder)
    there = {picture.number: picture for picture in pictures}
    missing = [number for number in numbers if number not in there]
    if missing:
        raise UnusableVideoError(f"frame {missing[0]} asked for, but it is not there")
    return _chosen(folder, pictures, [there[number] for number in numbers])


def _chosen(
    folder: Path, pictures: Sequence[_Picture], chosen: Sequence[_Picture]
) -> DecodedVideo:
    paths = {picture.number: picture.path for picture in chosen}

    def again(wanted: set[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        for number in sorted(wanted):
            yield number, colours.of_rgb(_read(paths[number]))

    sizes = {number: _read(path).shape[:2] for number, path in paths.items()}
    numbers = [picture.number for picture in chosen]
    height, width = sizes[numbers[0]]
    size = sum(picture.path.stat().st_size for picture in pictures)
    last = pictures[-1].number + 1
    return DecodedVideo(
        [Seen(n, None, (int(sizes[n][0]), int(sizes[n][1])), None) for n in numbers],
        again=again,
        indices=numbers,
        timestamps=[number / NOMINAL_RATE for number in numbers],
        source_frames=last,
        loss=None,
        facts=VideoFacts(
            codec=chosen[0].path.suffix.lower().lstrip("."),
            pixel_format=FRAMES,
            width=int(width),
            height=int(height),
            fps=0.0,
            bit_rate=int(8 * size / len(pictures) * NOMINAL_RATE),
            num_frames=len(pictures),
        ),
    )


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's pictures."""
    found = hashlib.sha256()
    for picture in _list(folder):
        content = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        found.update(f"{picture.path.name} {content}\n".encode())
    return found.hexdigest()
