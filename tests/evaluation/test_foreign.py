"""Scores of other detectors, in the forms that people keep them in."""

import csv
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from fakedetect_jax import report
from fakedetect_jax.evaluation import foreign
from fakedetect_jax.metrics.records import Video
from fakedetect_jax.pages import evaluation_page
from fakedetect_jax.reports import comparison
from fakedetect_jax.reports.report import read_report
from tests.made_scores import known, made_rows, write_run
from tfds_ffpp.errors import DataError

FRAMES = 4  # of each clip


@pytest.fixture(scope="module")
def rows():
    """Clips of a detector, as (path, method, label, clip, scores of its frames)."""
    rng = np.random.default_rng(3)
    made = []
    for row in made_rows(num_identities=24, num_clips=2, sharpness=0.7):
        video = row.video
        above = "manipulated_sequences" if video.label else "original_sequences"
        path = f"{above}/{video.method}/c23/frames/{video.name}"
        # The clips of a video alike, so that clips' numbers agree in every form.
        base = 1 / (1 + np.exp(-row.logit))
        wobble = rng.uniform(-0.5, 0.5, FRAMES) * min(base, 1 - base)
        made.append((path, video, row.clip, base + wobble - wobble.mean()))
    return made


def per_frame(rows):
    return [
        {"path": f"{path}/{FRAMES * clip + n:03d}.png", "prob": float(score)}
        for path, _, clip, scores in rows
        for n, score in enumerate(scores)
    ]


def per_clip(rows):
    return [
        {
            "Video Name": video.name,
            "Method": video.method,
            "label": "fake" if video.label else "real",
            "clip": clip,
            "score": float(np.mean(scores)),
            "compression": "c23",
        }
        for _, video, clip, scores in rows
    ]


def per_video(rows):
    found: dict[Video, list[float]] = {}
    for _, video, _, scores in rows:
        found.setdefault(video, []).extend(scores)
    return [
        {
            "file": f"{video.name}.mp4",
            "manipulation": video.method,
            "y_true": video.label,
            "pred": float(np.mean(scores)),
            "quality": "c23",
        }
        for video, scores in found.items()
    ]


def write(path: Path, rows: list[dict]) -> Path:
    """The rows in the form that the file's name asks for."""
    kind = path.suffixes[0]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    texts = {
        ".jsonl": lambda: "\n".join(map(json.dumps, rows)),
        ".json": lambda: json.dumps(rows, indent=1),
        ".columns": lambda: json.dumps(columns),
    }
    if kind in texts:
        path.write_text(texts[kind]())
        return path
    delimiter = {".csv": ",", ".tsv": "\t", ".excel": ";"}[kind]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


FORMS = ["csv", "tsv", "excel.csv", "jsonl", "json", "columns.json"]


def run(*argv) -> int:
    return report.main([str(word) for word in argv])


@pytest.mark.parametrize("form", FORMS)
def test_frames_clips_and_videos_give_the_same_numbers(rows, tmp_path, form):
    reports = []
    for table in (per_frame, per_clip, per_video):
        path = write(tmp_path / f"{table.__name__}.{form}", table(rows))
        folder = report.evaluate_scores(path)
        reports.append(read_report(folder).video)
        assert "<html" in (folder / "report.html").read_text()
        assert not (folder / "MODEL_CARD.md").exists()
    whole = asdict(reports[0])
    assert 0.6 < whole["auc"] < 0.99 and len(whole["by_method"]) == 4
    assert whole["num_real"] == 24 and whole["num_fake"] == 96
    for other in map(asdict, reports[1:]):
        close(whole, other)


def close(one, other):
    """Equal to 1e-12, however deep the numbers lie."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            close(one[name], other[name])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            close(left, right)
    else:
        assert one == (pytest.approx(other, abs=1e-12) if other is not None else None)


def test_the_numbers_are_those_of_our_own_evaluation(tmp_path, capsys):
    ours = made_rows()
    folder = write_run(tmp_path / "ours", ours)
    table = [
        {
            "video": row.video.name,
            "method": row.video.method,
            "clip": row.clip,
            "score": row.score,
        }
        for row in ours
    ]
    theirs = write(tmp_path / "theirs.csv", table)
    assert run(folder, "--scores", theirs, "--output", tmp_path / "both.html") == 0
    said = capsys.readouterr().out
    assert "theirs" in said and "both.html" in said
    mine = evaluation_page.write_report(folder)
    judged = read_report(tmp_path / "theirs.csv.report")
    assert judged.name == "theirs"
    # Theirs says nothing of a threshold.
    spans = {k: v for k, v in mine.video.intervals.items() if "threshold" not in k}
    close(spans, judged.video.intervals)
    entries = comparison.read_entries([folder, tmp_path / "theirs.csv.report"])
    (difference,) = comparison.compare(entries).differences
    assert known(difference.videos.auc).difference == 0


def test_logits_are_taken_for_what_they_are(rows, tmp_path):
    table = per_video(rows)
    scores = np.array([row["pred"] for row in table])
    logits = np.log(scores) - np.log1p(-scores)
    renamed = [{**row, "pred": logit} for row, logit in zip(table, logits, strict=True)]
    named = [{**row, "logit": row.pop("pred")} for row in map(dict, renamed)]
    plain, *others = (
        read_report(report.evaluate_scores(write(tmp_path / f"{name}.csv", content)))
        for name, content in [("p", table), ("l", renamed), ("n", named)]
    )
    for other in others:
        assert known(other.video.loss) == pytest.approx(known(plain.video.loss))
    assert any("taken for logits" in sentence for sentence in others[0].warnings)
    assert not any("logits" in sentence for sentence in plain.warnings)


def test_scores_of_the_wrong_direction_are_said(rows, tmp_path):
    table = [{**row, "pred": 1 - row["pred"]} for row in per_video(rows)]
    found = read_report(report.evaluate_scores(write(tmp_path / "w.csv", table)))
    assert known(found.video.auc) < 0.5
    assert any("below chance" in sentence for sentence in found.warnings)


def test_videos_without_a_score_are_counted(rows, tmp_path):
    table = per_video(rows)
    labels = [{k: v for k, v in row.items() if k != "pred"} for row in table]
    bare = [{k: row[k] for k in ("file", "manipulation", "pred")} for row in table[:-5]]
    scores = write(tmp_path / "s.csv", bare)
    folder = tmp_path / "s.csv.report"
    assert run("--scores", scores, "--labels", write(tmp_path / "l.csv", labels)) == 0
    found = read_report(folder)
    assert found.coverage.of - found.coverage.scored == len(found.unscored) == 5
    assert any("5 videos with a label have no score" in s for s in found.warnings)


def test_frames_of_several_methods_put_together_are_said(rows, tmp_path):
    table = [
        {"video": video.name, "frame": f"{video.method}{clip}", "label": video.label}
        | {"score": float(np.mean(scores))}
        for _, video, clip, scores in rows
    ]
    found = read_report(report.evaluate_scores(write(tmp_path / "m.csv", table)))
    assert any("several methods put together" in s for s in found.warnings)


GOOD = "video,label,score\n033,0,0.2\n097,0,0.4\n033_097,1,0.9\n"
BROKEN = {
    "x.csv": ("", "is empty"),
    "header.csv": ("video,score,label\n", "has no row"),
    "names.csv": ("who,label,score\na,0,0.1\n", "no column for the video.*who"),
    "scores.csv": ("video,label,guess\na,0,0.1\n", "no column for the score"),
    "twice.csv": ("video,label,label,score\na,0,0,0.1\n", "two columns label"),
    "cells.csv": ("video,label,score\na,b,0,0.1\n", "line 2 of .* has 4 cells"),
    "text.csv": (GOOD + "098,0,high\n", "line 5 of .* score 'high'"),
    "nan.csv": (GOOD + "098,0,nan\n", "line 5 of .* score 'nan'"),
    "gap.csv": (GOOD + "098,0,\n", "line 5 of .* has no score"),
    "nobody.csv": (GOOD + ",0,0.3\n", "line 5 of .* names no video"),
    "percent.csv": (GOOD + "098,0,42\n", "line 5 .* at most 1; divide percentages"),
    "label.csv": (GOOD + "098,maybe,0.3\n", "line 5 of .* label 'maybe'"),
    "unlabelled.csv": ("video,score\na,0.1\n", "has no label.*--labels"),
    "both.csv": (GOOD + "033,1,0.3\n", "033 is fake and line 2 .* the opposite"),
    "again.csv": (GOOD + "097,0,0.3\n", "097 is scored twice.*one row"),
    "methods.csv": (GOOD + "033_097,1,0.3\n", "scored twice.*add a column method"),
    "broken.json": ('[{"video": "a"', "is not JSON"),
    "broken.jsonl": ('{"video": "a", "score": 1}\n{"vid', "line 2 of .* is not JSON"),
    "lengths.json": ('{"video": ["a", "b"], "score": [1]}', "differ in length"),
    "quote.csv": (
        GOOD + '"098,0,0.2\n' + "a,0,0.2\n" * 20_000,
        "is not CSV .field larger.*quote",
    ),
    "list.json": ("[1, 2]", "row 1 of .* is no object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_said_in_a_sentence_of_its_own(name, tmp_path):
    text, sentence = BROKEN[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=sentence) as end:
        foreign.read_scores(path)
    assert str(path) in str(end.value) and "\n" not in str(end.value)


def test_broken_files_get_different_sentences(tmp_path):
    said = set()
    for text, _ in BROKEN.values():
        path = tmp_path / "scores"
        path.write_text(text)
        with pytest.raises(DataError) as end:
            foreign.read_scores(path)
        said.add(str(end.value))
    assert len(said) == len(BROKEN)
    for content in (b"\x80\x04\x95pickle", None):
        path = tmp_path / "other"
        if content is not None:
            path.write_bytes(content)
        else:
            path.unlink()
        with pytest.raises(DataError) as end:
            foreign.read_scores(path)
        said.add(str(end.value))
    assert len(said) == len(BROKEN) + 2


LABELLED = [
    Video("ffpp", method, "033_097", "033", "097", "c23", 1)
    for method in ("Deepfakes", "FaceSwap")
] + [Video("ffpp", "youtube", "033", "033", "", "c23", 0)]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("video,score\n033_097,0.9\n", "is 2 videos .*Deepfakes.*add a column method"),
        ("video,score\n033,0.2\n044,0.2\n", r"1 videos of .* none of the 3 .*\(044\)"),
        ("video,score,label\n033,0.2,1\n", "033 is fake, the labels say the opposite"),
    ],
)
def test_scores_that_do_not_fit_the_labels_are_said(text, sentence, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        foreign.read_scores(path, LABELLED)


@pytest.mark.parametrize(
    "text",
    [
        '{"real/a.mp4": 0.2, "fake/b.mp4": 0.9}',
        '{"real/a.mp4": [0.1, 0.3], "fake/b.mp4": [0.8, 1.0]}',
        '{"real/a.mp4": {"score": 0.2}, "fake/b.mp4": {"score": 0.9}}',
    ],
)
def test_an_object_of_names_is_read(text, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(text)
    rows = foreign.read_scores(path).rows
    means = {
        (row.video.name, row.video.label): np.mean(
            [r.score for r in rows if r.video == row.video]
        )
        for row in rows
    }
    assert means == pytest.approx({("a", 0): 0.2, ("b", 1): 0.9})


def test_many_clips_are_evaluated_in_time(tmp_path):
    rng = np.random.default_rng(0)
    table = [
        {"video": f"id{n // 50}_{n:04d}", "label": n % 2, "frame": k, "score": score}
        for n in range(10_000)
        for k, score in enumerate(np.round(rng.uniform(0.2, 0.8, 10) + n % 2 * 0.2, 6))
    ]
    path = write(tmp_path / "many.csv", table)
    began = time.process_time()
    scores = foreign.read_scores(path)
    assert len(scores.rows) == 100_000 and time.process_time() - began < 20


def test_without_a_run_or_scores_the_command_asks_for_one(capsys):
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2 and "give a RUN or --scores" in capsys.readouterr().err
