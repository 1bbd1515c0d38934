"""Draws docs/architecture.svg from the layers in tests/test_architecture.py.

python docs/architecture.py
"""

import ast
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "architecture.svg"
# What a reader wants to know of a layer; a module without a word shows its name alone.
WORDS = {
    "main": "train, eval",
    "predict": "score videos",
    "report": "compare",
    "export": "hand over",
    "suite": "many runs",
    "doctor": "this machine",
    "serve": "a page",
    "service": "jobs, web page",
    "outputs": "rows, tables, marks",
    "train": "the loop",
    "training": "up to its first step",
    "evaluation": "scores of a split",
    "serving": "any video to a result",
    "trained": "weights and config",
    "programs": "jit, StableHLO, ONNX",
    "pages": "HTML, figures",
    "run": "devices, checkpoints",
    "model": "network, steps",
    "reports": "numbers as records",
    "settings": "config fields",
    "metrics": "AUC, intervals",
    "augment": "clips on the device",
    "data": "order, reading, feed",
    "tfds_ffpp_dataset_builder": "the TFDS builder",
    "build": "make a dataset",
    "layout": "what a tree holds",
    "packaging": "records, splits",
    "workers": "processes",
    "card": "what to beware of",
    "frames": "video to crops",
    "synthetic": "made people",
    "tree": "layouts, splits",
    "store": "files, buckets",
}
HIDDEN = {"__main__"}
WIDTH, PAD, ROW, GAP = 1120, 16, 62, 12
STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1b2733}"
    ".name{font-size:14px;font-weight:600}.word{font-size:11px;fill:#51606e}"
    ".title{font-size:16px;font-weight:700}"
)


class Column(NamedTuple):
    """A package: where it stands, how wide it is, and its colour."""

    package: str
    left: float
    width: float
    colour: str


COLUMNS = (
    Column("fakedetect_jax", PAD, 640, "#dcebf7"),
    Column("tfds_ffpp", PAD + 640 + 48, WIDTH - 2 * PAD - 640 - 48, "#e4f2df"),
)


def layers() -> dict[str, list[list[str]]]:
    """LAYERS of tests/test_architecture.py, read without importing it."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return ast.literal_eval(node.value)
    raise SystemExit("tests/test_architecture.py has no LAYERS")


def box(left: float, top: float, width: float, name: str, colour: str) -> list[str]:
    """A module: its name, and what it is for."""
    middle = left + width / 2
    shown = name.replace("tfds_ffpp_dataset_", "")
    word = WORDS.get(name, "")
    height = ROW - GAP
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" '
        f'rx="6" fill="{colour}" stroke="#8fa3b5"/>',
        f'<text class="name" x="{middle:.1f}" y="{top + (22 if word else 30):.1f}" '
        f'text-anchor="middle">{escape(shown)}</text>',
    ]
    if word:
        parts.append(
            f'<text class="word" x="{middle:.1f}" y="{top + 39:.1f}" '
            f'text-anchor="middle">{escape(word)}</text>'
        )
    return parts


def column(place: Column, rows: list[list[str]], top: float) -> list[str]:
    """The layers of a package, from the top down, with an arrow between them."""
    parts = [
        f'<text class="title" x="{place.left}" y="{top - 12}">{place.package}</text>'
    ]
    shown = [[n for n in names if n not in HIDDEN] for names in rows]
    shown = [names for names in shown if names]
    for i, names in enumerate(shown):
        y = top + i * ROW
        width = (place.width - GAP * (len(names) - 1)) / len(names)
        for k, name in enumerate(names):
            left = place.left + k * (width + GAP)
            parts += box(left, y, width, name, place.colour)
        if i + 1 < len(shown):
            x = place.left + place.width / 2
            y += ROW - GAP
            parts.append(f'<path d="M{x:.1f} {y} v{GAP}" marker-end="url(#tip)"/>')
    return parts


def drawing() -> str:
    """The SVG."""
    found = layers()
    top = 44
    tallest = max(len(rows) for rows in found.values())
    height = top + tallest * ROW + PAD
    arrow = COLUMNS[0].left + COLUMNS[0].width + 4
    middle = top + tallest * ROW / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="Layers of the two packages">',
        f"<style>{STYLE}path{{stroke:#51606e;stroke-width:2}}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" '
        'markerHeight="5" orient="auto"><path d="M0 0L8 4L0 8z" fill="#51606e" '
        'stroke="none"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for place in COLUMNS:
        parts += column(place, found[place.package], top)
    parts.append(f'<path d="M{arrow} {middle} h40" marker-end="url(#tip)"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(drawing())
