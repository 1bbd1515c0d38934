"""Names of other people's making do nothing but show."""

import csv
import io

import numpy as np
import pytest

from fakedetect_jax import metrics, report
from tfds_ffpp import card
from tfds_ffpp.text import cell, markdown, printable

NASTY = "m]|(x)\x1b[31m<script>alert(1)</script>`*_\u202e"


def test_a_terminal_gets_no_control_characters():
    assert printable("a\x1b[31mb\x07\u202e") == "a?[31mb??"
    assert printable("Ænima 09") == "Ænima 09"


def test_markdown_shows_the_text_as_it_is():
    assert markdown("a|b") == r"a\|b"
    assert markdown("<script>") == "&lt;script>"
    assert markdown("[x](y) *z* `q`") == r"\[x\](y) \*z\* \`q\`"


@pytest.mark.parametrize("text", ["=cmd|calc", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_begins_a_formula(text):
    assert cell(text) == f"'{text}"
    assert cell(f"x{text}") == f"x{text}"


def test_the_table_of_videos_holds_no_formula():
    names = np.array(["=1+1", "b"])
    videos = metrics.Items(
        names, names, names, names, names, *np.array([[0, 1]] * 4, float)
    )
    text = report.videos_csv(videos, {"temperature": None, "threshold": None})
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[1][0] in ("'=1+1", "b") and ["'=1+1"] * 3 in [r[:3] for r in rows]
    for row in rows:
        assert not any(c.startswith("=") for c in row)


def test_a_card_of_nasty_names_is_safe():
    names = "videos real fake no_face several_faces shorter_than_asked damaged"
    counts = dict.fromkeys(names.split(), 1)
    text = card.as_markdown(
        {
            "name": NASTY,
            "version": "1.0.0",
            "layout": "csv",
            "official_split": None,
            "split_source": NASTY,
            "detector": "none",
            "splits": {"test": {**counts, "methods": {NASTY: 1}}},
            "warnings": [NASTY],
            "notes": [],
            "rejected": {},
            "files": {"found": 1, "taken": 1, "rejected": 0, "passed_over": {}},
            "config": {},
            "versions": {},
        }
    )
    assert "\x1b" not in text and "<script>" not in text
    (row,) = [x for x in text.splitlines() if "31m" in x and x[0] == "|"]
    assert row.replace(r"\|", "").count("|") == 3
