"""Names of other people's making do nothing but show."""

import csv
import io

import pytest

from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.records import ClipScore
from fakedetect_jax.pages import evaluation_page
from tfds_ffpp import card
from tfds_ffpp.terminal.text import cell, markdown, printable

NASTY = "m]|(x)\x1b[31m<script>alert(1)</script>`*_\u202e"


def test_a_terminal_gets_no_control_characters():
    assert printable("a\x1b[31mb\x07\u202e") == "a?[31mb??"
    assert printable("Ænima 09\u202f%") == "Ænima 09\u202f%"


def test_markdown_shows_the_text_as_it_is():
    assert markdown("a|b") == r"a\|b"
    assert markdown("<script>") == "&lt;script>"
    assert markdown("[x](y) *z* `q`") == r"\[x\](y) \*z\* \`q\`"


@pytest.mark.parametrize("text", ["=cmd|calc", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_begins_a_formula(text):
    assert cell(text) == f"'{text}"
    assert cell(f"x{text}") == f"x{text}"


def test_the_table_of_videos_holds_no_formula():
    named = {"target": "=1+1", "compression": "-c23", "clip": 0, "logit": 0.0}
    named |= {"dataset": "@ffpp", "score": 0.5}
    rows = [
        ClipScore.from_json({**named, "method": method, "video": name, "label": label})
        for method, name, label in (("=1+1", "+1", 0), ("b", "=cmd|calc", 1))
    ]
    videos = metrics.videos(metrics.clips(rows))
    text = evaluation_page.videos_csv(
        videos, temperature=None, threshold=None, band=None
    )
    table = list(csv.reader(io.StringIO(text)))[1:]
    assert sorted(line[:3] for line in table) == [
        ["'@ffpp", "'=1+1", "'+1"],
        ["'@ffpp", "b", "'=cmd|calc"],
    ]
    assert {(line[3], line[4]) for line in table} == {("'-c23", "'=1+1")}


def test_a_card_of_nasty_names_is_safe():
    text = card.as_markdown(
        card.Card(
            name=NASTY,
            version="1.0.0",
            made=False,
            official_split=None,
            split_source=NASTY,
            splits={"test": card.Counts(1, 1, 1, {NASTY: 1}, 1, 1, 1, 1)},
            coverage={},
            files=card.FileCounts(1, 1, 0, {}),
            dropped={},
            rejected={},
            missing={},
            warnings=[NASTY],
            notes=[],
            layout="csv",
            test_list=None,
            face_finder="none",
            config={},
            versions={},
        )
    )
    assert "\x1b" not in text and "<script>" not in text
    (row,) = [x for x in text.splitlines() if "31m" in x and x[0] == "|"]
    assert row.replace(r"\|", "").count("|") == 3
