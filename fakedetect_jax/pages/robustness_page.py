"""How a detector bears worse videos, as a page."""

import json
from pathlib import Path

import matplotlib

from fakedetect_jax.pages import figures, render
from fakedetect_jax.reports.robustness import Robustness
from tfds_ffpp import records
from tfds_ffpp.store import files


def write_robustness(found: Robustness, folder: Path) -> None:
    """Writes robustness.html, a PNG per family and, at last, robustness.json."""
    with matplotlib.rc_context(figures.STYLE):
        drawn = {
            curve.family: figures.degraded(curve, found.untouched)
            for curve in found.curves
        }
    pictures = {
        f"{name.replace(' ', '_')}.png": figures.to_png(figure)
        for name, figure in drawn.items()
    }
    svgs = {name: figures.to_svg(figure) for name, figure in drawn.items()}
    page = render.render("robustness.html", found=found, figures=svgs)
    numbers = json.dumps(records.to_json(found), indent=1, allow_nan=False) + "\n"
    files.write_whole(
        folder, {**pictures, "robustness.html": page, "robustness.json": numbers}
    )
