import json
import math
import shutil

import numpy as np
import pytest

from fakedetect_jax import report
from fakedetect_jax.pages import figures
from fakedetect_jax.reports import comparison
from tests.made_scores import changed, made_rows, write_run
from tfds_ffpp.errors import DataError


def noisier(rows, seed=1):
    rng = np.random.default_rng(seed)
    noisy = []
    for row in rows:
        logit = row.logit + float(rng.normal(0, 6))
        noisy.append(changed(row, logit=logit, score=1 / (1 + math.exp(-logit))))
    return noisy


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same videos, the first also on another dataset."""
    root = tmp_path_factory.mktemp("runs")
    rows = made_rows(num_identities=30)
    config = {"optimizer.learning_rate": 0.001, "seed": 0}
    write_run(root / "good", rows, strips=False, config=config)
    write_run(root / "bad", noisier(rows), strips=False, config={**config, "seed": 1})
    other = made_rows(num_identities=12, methods={"synthesis": 0.6}, dataset="celebdf")
    write_run(
        root / "good",
        other,
        strips=False,
        name="celebdf-test@1200",
        config=config,
        split="celebdf-test",
    )
    return root


def test_runs_stand_side_by_side_and_paired(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    page = tmp_path / "out" / "side.html"
    code = report.main([str(runs / "good"), str(runs / "bad"), "--output", str(page)])
    assert code == 0
    compared = json.loads(page.with_suffix(".json").read_text())
    names = [run["name"] for run in compared["runs"]]
    assert names == ["good/celebdf-test@1200", "good/test@1200", "bad/test@1200"]
    (difference,) = compared["differences"]  # another dataset's videos are not paired
    assert difference["run"] == "bad/test@1200"
    assert difference["reference"] == "good/test@1200"
    area = difference["auc"]
    videos = {run["name"]: run["video"]["auc"] for run in compared["runs"]}
    assert area["difference"] == pytest.approx(
        videos["bad/test@1200"] - videos["good/test@1200"]
    )
    assert area["interval"][0] < area["difference"] < area["interval"][1] < 0
    assert area["clustered_p"] < 0.05
    assert set(difference["by_method"]) == {
        "Deepfakes",
        "Face2Face",
        "FaceSwap",
        "NeuralTextures",
    }
    assert compared["config"] == {"seed": [0, 0, 1]}
    shown = capsys.readouterr().out
    assert "bad/test@1200 against good/test@1200" in shown
    assert f"{area['difference']:+.3f}" in shown
    assert "http" not in page.read_text()
    assert "split: official FaceForensics++ lists" in page.read_text()


def test_one_workdir_gives_one_table_of_its_evaluations(runs, capsys):
    assert report.main([str(runs / "good")]) == 0
    page = (runs / "good" / "comparison.html").read_text()
    assert "celebdf-test@1200" in page
    assert "nothing to pair" in page
    assert "celebdf" in capsys.readouterr().out


def test_rebuild_writes_each_report_from_its_scores(runs, tmp_path):
    evaluation = runs / "bad" / "eval" / "test@1200"
    assert not (evaluation / "report.html").exists()
    assert report.main([str(runs / "bad"), "--rebuild"]) == 0
    assert (evaluation / "report.html").exists()
    assert (evaluation / "training_loss.png").exists()


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    assert report.main([str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "it holds notes.txt" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "comparison.html").exists()
    assert report.main([str(tmp_path / "none")]) == 3
    assert "nothing is there" in capsys.readouterr().err


def test_a_page_that_would_be_its_own_numbers_is_refused(runs, tmp_path, capsys):
    page = tmp_path / "a.json"
    assert report.main([str(runs / "good"), "--output", str(page)]) == 2
    assert "is to be the page: name it .html" in capsys.readouterr().err
    assert not page.exists()


def test_names_are_no_formulas_and_lines_differ(runs, tmp_path):
    page = tmp_path / "a.html"
    folders = [tmp_path / name for name in ("_base", "a$x^^$b", *"cdefg")]
    for folder in folders:
        shutil.copytree(runs / "good", folder)
    assert report.main([*map(str, folders), "--output", str(page)]) == 0
    compared = comparison.read_entries(folders)
    axes = figures.several_rocs({e.name: e.videos for e in compared}).axes[0]
    first, *_, last = axes.get_lines()[:7]  # there are six dashes
    assert first.get_linestyle() == last.get_linestyle()
    assert first.get_color() != last.get_color()
    legend = axes.get_legend()
    assert legend and len(legend.get_texts()) == len(compared)


def test_a_damaged_report_is_named(runs, tmp_path):
    folder = write_run(tmp_path, made_rows(num_identities=4), strips=False)
    (folder / "report.json").write_text('{"split": ')
    with pytest.raises(DataError, match=r"report.json is damaged .* --rebuild"):
        comparison.read_entries([tmp_path])


def test_names_are_the_shortest_that_tell_apart(tmp_path):
    folders = [tmp_path / run / "eval" / "test@1" for run in ("a", "b")]
    assert comparison.short_names(folders) == ["a/test@1", "b/test@1"]
    assert comparison.short_names(folders[:1]) == ["test@1"]


def test_looks_at_each_test_are_counted_over_the_runs(tmp_path, capsys, monkeypatch):
    """S4 Test evaluated by many runs: a comparison shows the sum.

    Twenty runs that tested once each are twenty chances to be lucky.
    """
    monkeypatch.setenv("COLUMNS", "160")
    rows = made_rows(num_identities=4)
    for number, name in enumerate("abc"):
        context = {"dataset": "c23", "test_evaluations": 1 + number}
        write_run(tmp_path / name, rows, strips=False, **context)
    celeb = {"split": "celebdf_v2-test", "dataset": "celebdf_v2"}
    other = made_rows(num_identities=4, dataset="celebdf")
    write_run(tmp_path / "a", other, strips=False, name="celebdf_v2-test@1200", **celeb)
    write_run(tmp_path / "a", rows, strips=False, name="val@1200", split="val")
    page = tmp_path / "page.html"
    runs = [str(tmp_path / name) for name in "abc"]
    assert report.main([*runs, "--output", str(page)]) == 0
    compared = json.loads(page.with_suffix(".json").read_text())
    assert compared["touches"] == [
        {"dataset": "celebdf_v2", "evaluations": 1, "runs": 1},
        {"dataset": "c23", "evaluations": 6, "runs": 3},
    ]
    said = "test of c23: evaluated 6 times in 3 runs; choosing among these results is"
    shown = capsys.readouterr().out
    assert said in shown and said in page.read_text()
    assert "test of celebdf_v2: evaluated once" in shown
    assert "3x" in shown


def test_a_run_named_twice_stands_once(runs):
    entries = comparison.read_entries([runs / "bad", runs / "bad"])
    assert len(entries) == 1


def test_runs_of_one_class_are_laid_side_by_side_without_a_difference(tmp_path):
    fakes = [row for row in made_rows(num_identities=4) if row.video.label]
    for name in ("a", "b"):
        write_run(tmp_path / name, fakes, strips=False)
    page = tmp_path / "page.html"
    runs = [str(tmp_path / name) for name in ("a", "b")]
    assert report.main([*runs, "--output", str(page)]) == 0
    (difference,) = json.loads(page.with_suffix(".json").read_text())["differences"]
    assert "auc" not in difference
    assert difference["accuracy"]["difference"] == 0


def test_the_best_of_each_run_by_val_meet(tmp_path, capsys, monkeypatch):
    """Never by test, and whatever the order in which they were made."""
    monkeypatch.setenv("COLUMNS", "160")
    rows = made_rows(num_identities=8)
    runs = {"a": {56: 0.91, 84: 0.97, 98: 0.93}, "b": {84: 0.95, 98: 0.96}}
    for name, areas in runs.items():
        for step, area in areas.items():
            context = {"step": step, "val_video_auc": area}
            mine = noisier(rows, seed=step)
            folder = f"test@{step}"
            write_run(tmp_path / name, mine, strips=False, name=folder, **context)
    assert report.main([str(tmp_path / name) for name in runs]) == 0
    page = tmp_path / "a" / "comparison.json"
    pairs = [
        (d["run"], d["reference"]) for d in json.loads(page.read_text())["differences"]
    ]
    assert pairs[0] == ("b/test@98", "a/test@84")
    assert {reference for _, reference in pairs} == {"a/test@84"}
    assert len(pairs) == 4
    shown = capsys.readouterr().out
    assert f"page: {tmp_path / 'a' / 'comparison.html'}" in shown


def test_the_page_does_not_land_where_nobody_asked(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main([str(runs / "bad"), str(runs / "good")]) == 0
    assert not list(tmp_path.iterdir())
    assert (runs / "bad" / "comparison.html").exists()
    said = capsys.readouterr().out.replace("\n", "")
    assert str(runs / "bad" / "comparison.html") in said


def test_an_evaluation_that_is_paired_with_none_says_why(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert report.main([str(runs / "good"), str(runs / "bad")]) == 0
    shown = capsys.readouterr().out
    why = (
        "good/celebdf-test@1200 is paired with none: 0 of its 24 videos are in "
        "good/test@1200"
    )
    assert why in shown
    assert why in (runs / "good" / "comparison.html").read_text()


def test_a_real_run_is_compared(tiny_run, tmp_path, capsys):
    """Its report.json has fields that made ones may lack."""
    page = tmp_path / "page.html"
    assert report.main([str(tiny_run.workdir), "--output", str(page)]) == 0
    assert "test of demo: evaluated once" in capsys.readouterr().out
