"""Several evaluations side by side, as a page."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from fakedetect_jax.pages import figures, render
from fakedetect_jax.reports.comparison import Comparison, Entry, compare
from tfds_ffpp import records
from tfds_ffpp.store import files

# Several runs.


def write_comparison(entries: Sequence[Entry], path: Path) -> Comparison:
    """Writes the page and, beside it, the same numbers as JSON; returns them."""
    compared = compare(entries)
    with matplotlib.rc_context(figures.STYLE):
        drawn = {
            "roc": ("ROC", figures.several_rocs({e.name: e.videos for e in entries})),
            "auc": (
                "Video AUC",
                figures.several_areas({e.name: e.report.video for e in entries}),
            ),
        }
    svgs = {n: (title, figures.to_svg(f)) for n, (title, f) in drawn.items()}
    page = render.render("comparison.html", compared=compared, figures=svgs)
    numbers = json.dumps(records.to_json(compared), indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path.parent, {path.name: page, path.stem + ".json": numbers})
    return compared
