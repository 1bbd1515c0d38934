"""Several evaluations side by side, as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from fakedetect_jax import files
from fakedetect_jax.metrics import comparison
from fakedetect_jax.pages import figures, render

# Several runs.


def write_comparison(entries: Sequence[comparison.Entry], path: Path) -> dict[str, Any]:
    """Writes the page and, beside it, the same numbers as JSON; returns them."""
    compared = comparison.compare(entries)
    with matplotlib.rc_context(figures.STYLE):
        drawn = {
            "roc": ("ROC", figures.several_rocs({e.name: e.videos for e in entries})),
            "auc": (
                "Video AUC",
                figures.several_areas({e.name: e.report["video"] for e in entries}),
            ),
        }
    svgs = {n: (title, figures.to_svg(f)) for n, (title, f) in drawn.items()}
    page = render.render("comparison.html", compared=compared, figures=svgs)
    numbers = json.dumps(compared, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path.parent, {path.name: page, path.stem + ".json": numbers})
    return compared
