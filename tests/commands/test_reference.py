"""What docs/files.md says of files is what the files hold."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from fakedetect_jax.pages import evaluation_page
from tests.conftest import ROOT
from tests.made_scores import changed, known, made_rows, write_run

FILES = (ROOT / "docs" / "files.md").read_text()
INTERVALS = (ROOT / "docs" / "intervals.md").read_text()


def section(title: str, page: str = FILES) -> str:
    """The text below a heading, up to the next one of whatever level."""
    return re.split(r"\n##+ ", page.partition(f" {title}\n")[2])[0]


def keys(table: str) -> set[str]:
    """What stands in backticks in the first column of a table."""
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.fixture(scope="module")
def evaluated(tiny_run):
    """The report.json of a real evaluation of made videos."""
    (path,) = tiny_run.workdir.glob("eval/test@*/report.json")
    return json.loads(path.read_text())


def test_every_key_of_a_report_is_documented_and_there(evaluated):
    top, metrics = section("The numbers as files").split("In `video`, in `clip`")
    assert keys(top) == set(evaluated)
    of_videos_alone = {"by_method", "by_compression", "by_real", "calibrated"}
    of_videos_alone.add("selective")
    assert keys(metrics) == set(evaluated["clip"])
    assert keys(metrics) | of_videos_alone == set(evaluated["video"])
    for name in of_videos_alone:
        assert f"`{name}`" in metrics
    (by_method,) = evaluated["video"]["by_method"].values()
    (by_level,) = evaluated["video"]["by_compression"].values()
    assert keys(metrics) == set(by_method) == set(by_level) - of_videos_alone


@pytest.mark.parametrize(
    "group", ["interval", "coverage", "calibration", "trained_on", "trivial"]
)
def test_the_keys_inside_a_group_are_named_in_its_row(evaluated, group):
    (row,) = (
        line
        for line in section("The numbers as files").splitlines()
        if line.startswith("| ") and f"`{group}`" in line.split("|")[1]
    )
    inside = evaluated[group]
    if group == "trivial":  # by the name of the statistics
        inside = next(iter(inside.values()))
    assert {key for key in inside if f"`{key}`" not in row} == set()


def test_every_field_of_the_metrics_file_is_documented_and_there(undisturbed):
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    table = section("Watching a run")
    assert keys(table) - {"loss"} == {k for row in rows for k in row} - {"loss"}
    for kind in ("train", "val"):
        said = {
            key
            for line in table.splitlines()
            for key in keys(line)
            if line.split("|")[2].strip() in (kind, "both")
        }
        assert said == {k for row in rows if row["kind"] == kind for k in row}
    assert list((undisturbed / "events").iterdir())


@pytest.mark.parametrize(
    "rows",
    [
        made_rows(num_identities=12),
        made_rows(num_identities=31, dataset="other", methods={"synthesis": 0.6}),
        made_rows(num_identities=6, methods={"Deepfakes": -0.5}),
    ],
    ids=["pairs", "an odd one", "worse than chance"],
)
def test_the_documented_snippet_gives_the_interval_of_the_report(rows, tmp_path):
    folder = write_run(tmp_path / "w", rows, strips=False)
    wanted = evaluation_page.write_report(folder).video
    page = section("An interval by hand", INTERVALS)
    code = page.split("```python\n")[1].split("```")[0]
    assert "fakedetect" not in code
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True
    )
    found = [float(x) for x in re.findall(r"0\.\d+(?:e-\d+)?", done.stdout)]
    assert len(found) == 3, done.stderr
    np.testing.assert_allclose(
        found, [known(wanted.auc), *known(wanted.intervals["auc"])], rtol=0, atol=1e-9
    )


def test_no_draw_changes_the_accuracy_of_one_answer_for_all(tmp_path):
    rows = [changed(r, score=0.9, logit=2.2) for r in made_rows(num_identities=8)]
    folder = write_run(tmp_path / "w", rows, strips=False)
    video = evaluation_page.write_report(folder).video
    assert video.accuracy == 0.8 and video.intervals["accuracy"] is None
    page = (folder / "report.html").read_text()
    assert "no interval: every draw gives the same" in page
