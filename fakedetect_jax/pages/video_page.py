"""What is known of a scored video -> one offline HTML page."""

import os
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from fakedetect_jax.pages import origin, render
from fakedetect_jax.pages.formats import clock
from fakedetect_jax.reports.video_result import (
    FaceResult,
    Span,
    VideoResult,
    left_out_words,
)
from tfds_ffpp.frames.found import LeftOut
from tfds_ffpp.store import files


@dataclass(frozen=True)
class Point:
    """A clip of the curve."""

    seconds: Span
    score: float
    probability: float | None


@dataclass(frozen=True)
class Thumbnail:
    """A frame of a face; image: base64 of a JPEG."""

    seconds: float
    image: str


@dataclass(frozen=True)
class Frame:
    """A frame of a moment: running: the score after it, on the scale of the page.

    overlay: the image under its heat map; both are base64 of a JPEG.
    """

    seconds: float
    running: float
    image: str
    overlay: str


@dataclass(frozen=True)
class Moment:
    """A clip that looks forged to the model, frame by frame."""

    seconds: Span
    score: float
    probability: float | None
    frames: list[Frame]


@dataclass(frozen=True)
class ShownFace:
    """What the page shows of a face besides its result; number: in the result."""

    number: int
    result: FaceResult
    curve: list[Point]
    thumbnails: list[Thumbnail]
    moments: list[Moment]


@dataclass(frozen=True)
class Part:
    """A window: its source frames [from, to), how many were looked at, its faces."""

    seconds: Span
    frames: tuple[int, int]
    looked_at: int
    faces: int
    shot: int = 0


@dataclass(frozen=True)
class Record:
    """How a result was made, so that somebody else can make it again.

    weights: their SHA-256; versions: of what a score depends on, as "name 1.2.3".
    """

    command: str
    weights: str
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """What a page shows besides the result.

    faces: those that are shown, of those that the result has; parts: what was looked
    at; card: the model's, in Markdown; heat: what its heat maps are; lanes: the scored
    clips of each person.
    """

    faces: Sequence[ShownFace]
    parts: Sequence[Part]
    card: str
    heat: str
    record: Record | None = None
    lanes: Sequence[Sequence[Point]] = ()


@dataclass(frozen=True)
class Chart:
    """The curve in a box of 1000 x 100.

    points: the clips' centres; line: the same as SVG has it; bars: (x, y, width) of
    the clips' extents.
    """

    line: str
    points: list[tuple[float, float]]
    bars: list[tuple[float, float, float]]


def write(path: Path, result: VideoResult, shown: Shown) -> None:
    """Writes the page of a video."""
    faces, parts = shown.faces, shown.parts
    duration = max((part.seconds[1] for part in parts), default=0.0)
    calibrated = result.probability is not None
    page = render.render(
        "timeline.html",
        result=result,
        name=_shown_name(Path(result.video).name),
        faces=faces,
        charts=[chart(f.curve, duration, calibrated=calibrated) for f in faces],
        people=list(
            zip(
                result.people or (),
                [chart(lane, duration, calibrated=calibrated) for lane in shown.lanes],
                strict=False,
            )
        ),
        windows=parts,
        gaps=gaps(parts, duration),
        duration=duration,
        calibrated=calibrated,
        pieces=max((c.length for f in result.faces for c in f.clips), default=0),
        threshold=_threshold(result),
        band=result.probability_band if calibrated else result.band,
        clock=clock,
        card=card_as_html(shown.card),
        heat=shown.heat,
        record=shown.record,
        shown=_shown_name,
        left_out=left_out_words(result.faces_left_out or LeftOut()),
        container=origin.container_rows(result.file),
        manifest=origin.manifest_rows(result.file),
        stills=[
            (still, _relative(still.path, path))
            for still in (result.annotated.stills if result.annotated else ())
        ],
    )
    files.write_whole(path.parent, {path.name: page})


def write_index(
    folder: Path, summary: str, results: Sequence[VideoResult], warnings: Sequence[str]
) -> None:
    """Writes index.html, which lists the files of a run and links their pages.

    Without a script the reader can sort it: each row has its place in every order.

    Args:
      folder: of the pages.
      summary: how many came out how.
      results: of the files, with their pages.
      warnings: sentences on all of them.
    """
    places = [_places(results, key) for key in SORTS.values()]
    page = render.render(
        "index.html",
        summary=summary,
        sorts=list(SORTS),
        rows=[
            (r, _shown_name(r.video), _link(r.page), where)
            for r, *where in zip(results, *places, strict=True)
        ],
        warnings=warnings,
        clock=clock,
        shown=_shown_name,
    )
    files.write_whole(folder, {"index.html": page})


def _places(results: Sequence[VideoResult], key: Callable) -> list[int]:
    """The place of each result in the order of a key."""
    order = sorted(range(len(results)), key=lambda number: key(results[number]))
    places = [0] * len(order)
    for place, number in enumerate(order):
        places[number] = place
    return places


def _result_words(result: VideoResult) -> tuple:
    return (result.verdict is None, result.verdict or result.outcome)


def _falling_score(result: VideoResult) -> tuple:
    return (result.score is None, -(result.score or 0.0))


def _falling_part(result: VideoResult) -> tuple:
    part = result.part
    return (part is None, -part.score if part else 0.0)


# The orders of the index, as a reader reads them.
SORTS: dict[str, Callable[[VideoResult], object]] = {
    "as given": lambda result: 0,
    "name": lambda result: result.video,
    "result": _result_words,
    "fake": _falling_score,
    "most suspicious part": _falling_part,
}


def _shown_name(name: str) -> str:
    """A file name that any encoding can hold."""
    return name.encode(errors="replace").decode()


def _relative(file: str, page: Path) -> str:
    """From a page to a file that lies elsewhere."""
    place = os.path.relpath(os.path.abspath(file), os.path.abspath(page.parent))
    return urllib.parse.quote(place, errors="surrogateescape")


def _link(page: str | None) -> str:
    """From the index to a page beside it."""
    return urllib.parse.quote(Path(page).name) if page else ""


def _threshold(result: VideoResult) -> float:
    """The threshold on the scale that the page shows."""
    for threshold in (result.probability_threshold, result.threshold):
        if threshold is not None:
            return threshold
    return 0.5


def chart(curve: Sequence[Point], duration: float, *, calibrated: bool) -> Chart:
    """The line over clip centres, and clip extents, on the scale of the page."""
    scale = 1000 / duration if duration > 0 else 0.0
    points, bars = [], []
    for clip in curve:
        start, stop = (scale * s for s in clip.seconds)
        chance = clip.probability if calibrated else clip.score
        height = 100 * (1 - (chance or 0.0))
        points.append((round((start + stop) / 2, 2), round(height, 2)))
        width = max(stop - start, 2.0)
        bars.append((round(start, 2), round(height, 2), round(width, 2)))
    line = " ".join(f"{x},{y}" for x, y in points)
    return Chart(line, points, bars)


def gaps(parts: Sequence[Part], duration: float) -> list[tuple[float, float]]:
    """(left, width) in percent of the windows in which no face was found."""
    if not duration:
        return []
    return [
        (100 * a / duration, 100 * max(b - a, 0.0) / duration)
        for a, b in (part.seconds for part in parts if not part.faces)
    ]


def card_as_html(card: str) -> str:
    """A model card as HTML that loads and links nothing, without its long config."""
    text = re.sub(r"^## Training\n.*?(?=^## |^Versions: |\Z)", "", card, flags=_SECTION)
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["image", "link", "autolink", "reference"])
    return reader.render(without_front_matter(text))


_SECTION = re.DOTALL | re.MULTILINE


def without_front_matter(card: str) -> str:
    """Markdown without the YAML that model hubs read."""
    return re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)
