"""Pictures -> frames, as of a video: a file with one or an animation, a folder of them.

A file is JPEG, PNG, WebP, TIFF or GIF, read by Pillow, or HEIC by pillow-heif; the only
module that knows these two. A folder's are taken in the order of the last number in
their names, which is that of the source frame where all are numbered apart; OpenCV
reads them. How fast they were shown is not known.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageOps, ImageSequence

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding import colours
from tfds_ffpp.frames.decoding.colours import Region
from tfds_ffpp.frames.decoding.container import VideoFacts, check_file
from tfds_ffpp.frames.decoding.frames import DecodedVideo, Seen
from tfds_ffpp.frames.decoding.index import Loss
from tfds_ffpp.frames.decoding.shots import HEIGHT, WIDTH, ShotFinder
from tfds_ffpp.frames.found import Alive, unheard
from tfds_ffpp.frames.video import Cut, Plan, Window, shot_of
from tfds_ffpp.tree.naming import PICTURES

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
MAX_BYTES = 512 << 20  # of a file
MAX_PIXELS = 120_000_000  # telephones take pictures of 108 million
_MAX_FRAME = 7680 * 4320  # of an animation, as of a video
_ANIMATED = ("GIF", "WEBP", "PNG")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_DELAY = 0.1  # seconds of a frame that says none; what browsers take
_HEAD = 16  # bytes that tell the format
# Of a folder.
FRAMES = "pictures"  # in place of a video's pixel format
NOMINAL_RATE = 25.0  # frames per second, for times where no rate is known


def is_image(path: str | Path) -> bool:
    """By its first bytes. Raises OSError where the file cannot be read."""
    with Path(path).open("rb") as file:
        return holds_image(file.read(_HEAD))


def holds_image(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read here."""
    kinds = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
    webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    return webp or head.startswith(kinds) or _is_heic(head)


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC


# Reading ---------------------------------------------------------------------------


@cache
def _register_heic() -> None:
    if find_spec("pillow_heif") is None:
        raise UnusableVideoError(
            "HEIC needs the package pillow-heif; pip install 'fakedetect-jax[heic]', "
            "or save the picture as JPEG"
        )
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()


def _content(path: Path) -> bytes:
    """A whole file. Raises UnusableVideoError."""
    check_file(path)
    if path.stat().st_size > MAX_BYTES:
        raise UnusableVideoError(
            f"a picture of more than {MAX_BYTES:,} bytes; save it smaller"
        )
    return path.read_bytes()


def _open(content: bytes) -> Image.Image:
    """A picture of which only the header was read. Raises UnusableVideoError."""
    formats = FORMATS
    if _is_heic(content[:_HEAD]):
        _register_heic()
        formats = ("HEIF",)
    try:
        with warnings.catch_warnings():  # we have limits of our own
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # whatever a format's reader meets
        raise UnusableVideoError(f"not a readable picture ({_said(error)})") from None
    width, height = image.size
    most = _MAX_FRAME if _count(image) > 1 else MAX_PIXELS
    if width * height > most:
        raise UnusableVideoError(
            f"{width}x{height} pixels are more than the {most} allowed"
        )
    return image


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _count(image: Image.Image) -> int:
    """How many frames; raises UnusableVideoError for several pages of a document."""
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception as error:
        raise UnusableVideoError(f"not a readable picture ({_said(error)})") from None
    if frames > 1 and image.format == "TIFF":
        raise UnusableVideoError(
            f"a document of {frames} pages; save each as a picture of its own"
        )
    return frames if image.format in _ANIMATED else 1


def _rgb(image: Image.Image) -> np.ndarray:
    """The upright picture as RGB uint8[H,W,3]; what is transparent is white.

    Raises UnusableVideoError where it does not decode.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255)
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise UnusableVideoError(
            f"the picture does not decode ({_said(error)})"
        ) from None


class _Source:
    """A picture's frames, decoded one after another."""

    def __init__(self, content: bytes):
        self._content = content
        self.image = _open(content)

    def frame(self, number: int) -> np.ndarray:
        """The upright frame as RGB. Raises UnusableVideoError."""
        if number < self.image.tell():  # going back fails for some
            self.image = _open(self._content)
        try:
            if number != self.image.tell():
                self.image.seek(number)
        except Exception as error:
            raise UnusableVideoError(
                f"frame {number} does not decode again ({_said(error)})"
            ) from None
        return _rgb(self.image)


class Pictures:
    """Some frames of a picture or animation, turned to RGB when asked; as DecodedVideo.

    Ask for them in order: an animation is decoded from its begin for an earlier one.
    """

    def __init__(self, source: _Source, film: "_Film", indices: Sequence[int]):
        """Made by read_windows."""
        self._source = source
        self._latest: tuple[int, np.ndarray] | None = None
        self.indices = list(indices)
        self.timestamps = [film.times[i] for i in self.indices]
        self.source_frames = len(film.times)
        self.loss = film.loss
        self.facts = film.facts

    def __len__(self) -> int:
        """How many frames."""
        return len(self.indices)

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of the upright frame i."""
        del i
        return self.facts.height, self.facts.width

    def rgb(self, i: int, region: Region | None = None) -> np.ndarray:
        """The upright frame i, or a region of it, as RGB uint8[H,W,3]."""
        number = self.indices[i]
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._source.frame(number)
        y0, x0, y1, x1 = region or (0, 0, *self.size(i))
        return np.ascontiguousarray(self._latest[1][y0:y1, x0:x1])

    def frames(self) -> list[np.ndarray]:
        """All frames, whole, as RGB uint8[H,W,3]."""
        return [self.rgb(i) for i in range(len(self))]


@dataclass(frozen=True)
class _Film:
    """What is known of all frames: their times in seconds, where shots begin."""

    times: list[float]
    cuts: list[int]
    loss: Loss | None
    facts: VideoFacts


def is_still(path: Path) -> bool:
    """Whether a file holds one picture. Raises UnusableVideoError."""
    return _count(_open(_content(path))) == 1


def read_windows(
    path: str | Path,
    cut: Cut,
    plan: Plan,
    *,
    find_shots: bool = False,
    least: float,
    threads: int = 1,
    alive: Alive = unheard,
) -> Iterator[Window]:
    """The windows of an animation, or the one of a picture; see video.read_windows."""
    del threads  # Pillow has one
    content = _content(Path(path))
    source = _Source(content)
    film = _look_through(source.image, len(content), find_shots=find_shots, alive=alive)
    if film.loss is not None and film.loss.leaves < least:
        raise UnusableVideoError(str(film.loss))
    for start, stop in cut(len(film.times), film.cuts):
        indices = [start + int(i) for i in plan(stop - start)]
        clip = Pictures(source, film, indices)
        yield Window(start, stop, clip, shot_of(film.cuts, start))


def read_all(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Each frame that decodes, upright RGB uint8[H,W,3], and its time in seconds."""
    content = _content(path)
    source = _Source(content)
    film = _look_through(source.image, len(content), find_shots=False, alive=unheard)
    for number, time in enumerate(film.times):
        yield source.frame(number), time


def _look_through(
    image: Image.Image, size: int, *, find_shots: bool, alive: Alive
) -> _Film:
    promised, kind = _count(image), image.format or ""
    facts = VideoFacts(
        codec=kind.lower(),
        pixel_format=image.mode,
        width=image.width,
        height=image.height,
        fps=0.0,
        bit_rate=0,
        num_frames=promised,
    )
    if promised == 1:
        height, width = _rgb(image).shape[:2]
        upright = VideoFacts(**{**vars(facts), "height": height, "width": width})
        return _Film([0.0], [], None, upright)
    finder, ends = ShotFinder(), [0.0]
    with suppress(Exception):  # what comes after a damage is lost
        for frame in ImageSequence.Iterator(image):
            picture = _rgb(frame)
            ends.append(ends[-1] + (_milliseconds(frame) / 1000 or _DELAY))
            if find_shots:
                grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
                small = cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
                finder.add(small)
            alive(len(ends) - 1, promised)
    total = len(ends) - 1
    if not total:
        raise UnusableVideoError("0 frames decoded")
    loss = None
    if total < promised:
        loss = Loss(total, promised, rough=False, first=ends[-1])
    rate = total / ends[-1]
    rates = {"fps": rate, "bit_rate": int(8 * size / ends[-1])}
    cuts = finder.finish() if find_shots else []
    times = [start for start, _ in pairwise(ends)]
    return _Film(times, cuts, loss, VideoFacts(**{**vars(facts), **rates}))


def _milliseconds(frame: Image.Image) -> float:
    said = frame.info.get("duration", 0)
    return float(said) if isinstance(said, int | float) and said > 0 else 0.0


# A folder of numbered pictures --------------------------------------------------------


class _Picture(NamedTuple):
    number: int
    path: Path


def _list_pictures(folder: Path) -> list[_Picture]:
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


def _read_picture(path: Path) -> np.ndarray:
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
    pictures = _list_pictures(folder)
    return _chosen(pictures, [pictures[i] for i in plan(len(pictures))])


def read_numbered(folder: str | Path, numbers: Sequence[int]) -> DecodedVideo:
    """The frames with these numbers; raises UnusableVideoError if one is not there."""
    folder = Path(folder)
    pictures = _list_pictures(folder)
    there = {picture.number: picture for picture in pictures}
    missing = [number for number in numbers if number not in there]
    if missing:
        raise UnusableVideoError(f"frame {missing[0]} asked for, but it is not there")
    return _chosen(pictures, [there[number] for number in numbers])


def _chosen(pictures: Sequence[_Picture], chosen: Sequence[_Picture]) -> DecodedVideo:
    paths = {picture.number: picture.path for picture in chosen}

    def again(wanted: set[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        for number in sorted(wanted):
            yield number, colours.of_rgb(_read_picture(paths[number]))

    sizes = {number: _read_picture(path).shape[:2] for number, path in paths.items()}
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


def digest_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's pictures."""
    found = hashlib.sha256()
    for picture in _list_pictures(folder):
        content = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        found.update(f"{picture.path.name} {content}\n".encode())
    return found.hexdigest()
