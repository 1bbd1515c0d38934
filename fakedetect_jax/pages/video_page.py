"""What is known of a scored video -> one offline HTML page."""

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from fakedetect_jax import files
from fakedetect_jax.pages import render
from fakedetect_jax.pages.formats import clock

Row = dict[str, Any]


def write(
    path: Path, result: Row, faces: Sequence[Row], windows: Sequence[Row], card: str
) -> None:
    """Writes the page of a video.

    Args:
      path: of the page.
      result: the video's row of results, see docs/predict.md.
      faces: per scored face: score, probability, verdict, seconds, coverage, `curve`
        (clips with seconds, score, probability), `thumbnails` (seconds, image) and
        `moments` (seconds, score, probability, frames with seconds, running, image,
        overlay); images are base64 JPEG.
      windows: what was looked at: seconds, frames, looked_at, faces.
      card: the model's card in Markdown.
    """
    duration = max((w["seconds"][1] for w in windows), default=0.0)
    calibrated = result.get("probability") is not None
    page = render.render(
        "timeline.html",
        result=result,
        name=Path(result["video"]).name.encode(errors="replace").decode(),
        faces=[
            {
                **face,
                "chart": chart(face["curve"], duration, calibrated=calibrated),
                "marks": marks(face["thumbnails"], duration),
            }
            for face in faces
        ],
        windows=windows,
        gaps=gaps(windows, duration),
        duration=duration,
        calibrated=calibrated,
        pieces=max(
            (c["length"] for f in result["faces"] for c in f["clips"]), default=0
        ),
        threshold=_threshold(result),
        clock=clock,
        card=card_as_html(card),
    )
    files.write_whole(path.parent, {path.name: page})


def write_index(
    folder: Path, summary: str, rows: Sequence[Row], warnings: Sequence[str]
) -> None:
    """Writes index.html, which lists the videos of a run and links their pages.

    Args:
      folder: of the pages.
      summary: how many came out how.
      rows: per video: video, outcome, verdict, probability, score, reason and page.
      warnings: sentences on all of them.
    """
    shown = [
        {
            **row,
            "name": row["video"].encode(errors="replace").decode(),
            "link": urllib.parse.quote(Path(row["page"]).name) if row["page"] else "",
        }
        for row in rows
    ]
    page = render.render("index.html", summary=summary, rows=shown, warnings=warnings)
    files.write_whole(folder, {"index.html": page})


def _threshold(result: Row) -> float:
    """The threshold on the scale that the page shows."""
    shown = result.get("probability_threshold")
    return result.get("threshold", 0.5) if shown is None else shown


def chart(curve: Sequence[Row], duration: float, *, calibrated: bool) -> Row:
    """Paths in a box of 1000 x 100: the line over clip centres, and clip extents."""
    scale = 1000 / duration if duration > 0 else 0.0
    key = "probability" if calibrated else "score"
    points, bars = [], []
    for clip in curve:
        start, stop = (scale * s for s in clip["seconds"])
        height = 100 * (1 - clip[key])
        points.append((round((start + stop) / 2, 2), round(height, 2)))
        width = max(stop - start, 2.0)
        bars.append((round(start, 2), round(height, 2), round(width, 2)))
    line = " ".join(f"{x},{y}" for x, y in points)
    return {"line": line, "points": points, "bars": bars}


def marks(thumbnails: Sequence[Row], duration: float) -> list[float]:
    """Where along the video the thumbnails are, in percent."""
    return [100 * t["seconds"] / duration if duration else 50.0 for t in thumbnails]


def gaps(windows: Sequence[Row], duration: float) -> list[tuple[float, float]]:
    """(left, width) in percent of the windows in which no face was found."""
    if not duration:
        return []
    return [
        (100 * a / duration, 100 * max(b - a, 0.0) / duration)
        for w in windows
        if not w["faces"]
        for a, b in [w["seconds"]]
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
