import csv
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from fakedetect_jax.metrics import calibration, metrics
from fakedetect_jax.pages import evaluation_page, formats
from fakedetect_jax.reports import results
from fakedetect_jax.reports.context import Context
from fakedetect_jax.reports.report import Methods, read_report, to_text
from tests.made_scores import (
    METHODS,
    changed,
    made_context,
    made_rows,
    made_strips,
    write_run,
)
from tests.tfds_ffpp.test_text import NASTY
from tfds_ffpp.errors import DataError
from tfds_ffpp.records import from_json, to_json

FIGURES = {
    "roc",
    "precision_recall",
    "det",
    "confusion",
    "methods",
    "scores",
    "risk_coverage",
    "reliability",
    "training_loss",
    "training_quality",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An evaluation with its report: (folder, report dict)."""
    workdir = tmp_path_factory.mktemp("run")
    folder = write_run(workdir)
    return folder, evaluation_page.write_report(
        folder, metrics_file=workdir / "metrics.jsonl"
    )


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def plain(folder):
    """A page's text without tags, on one line."""
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page_of(folder), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


# Files.


def test_the_machine_readable_result_has_every_promised_field(written):
    folder, returned = written
    read = json.loads((folder / "report.json").read_text())
    assert read == json.loads(to_text(returned))
    assert read_report(folder) == returned
    assert (read["split"], read["step"]) == ("test", 1200)
    assert {"loss", "accuracy", "auc", "confusion"} <= set(read["clip"])
    promised = "loss accuracy balanced_accuracy auc eer ap confusion num_real num_fake"
    assert set(promised.split()) | {"by_method"} <= set(read["video"])
    assert set(read["video"]["by_method"]) == {
        "Deepfakes",
        "Face2Face",
        "FaceSwap",
        "NeuralTextures",
    }
    low, high = read["video"]["intervals"]["auc"]
    assert low < read["video"]["auc"] < high
    assert sum(map(sum, read["video"]["confusion"])) == 100
    assert sum(map(sum, read["clip"]["confusion"])) == 300


def test_it_is_a_pure_function_of_the_files(written, tmp_path):
    folder, _ = written
    again = tmp_path / "again"
    again.mkdir()
    for name in ("scores.jsonl", "context.json", "strips.jsonl"):
        (again / name).write_bytes((folder / name).read_bytes())
    evaluation_page.write_report(again, metrics_file=folder / "../../metrics.jsonl")
    for path in sorted(folder.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_figure_lies_beside_the_page_as_a_picture(written):
    folder, _ = written
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'<figure id="{name}"' in page_of(folder)


def test_the_table_of_videos_has_each_once_worst_first(written):
    folder, result = written
    text = (folder / "videos.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(r["dataset"], r["method"], r["video"]) for r in rows}) == len(rows)
    assert len(rows) == 100
    errors = [abs(int(r["label"]) - float(r["score"])) for r in rows]
    assert errors == sorted(errors, reverse=True)
    wrong = sum(int(r["label"]) != int(r["called_fake"]) for r in rows)
    (_, fp), (fn, _) = result.video.confusion
    assert wrong == fp + fn
    calibrated = calibration.apply_temperature(np.array([float(rows[0]["score"])]), 1.7)
    assert float(rows[0]["calibrated"]) == pytest.approx(calibrated[0], abs=1e-5)


def test_the_page_says_what_doubt_costs_and_what_val_promises(written):
    folder, result = written
    page = plain(folder)
    found = result.video.selective
    assert "At or below 0.400 a video is called real, above 0.700 fake" in page
    assert "Val is too small to promise an error rate of 5%" in page
    assert result.band_note in result.warnings
    assert f"{100 * found.uncertain:.1f} %" in page
    rows = list(csv.DictReader((folder / "videos.csv").read_text().splitlines()))
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count("uncertain") == round(found.uncertain * len(rows))
    for row in rows:
        assert (row["verdict"] == "called fake") == (float(row["score"]) > 0.7)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Above 0.700 is called fake, at or below 0.400 real" in card


def test_the_model_card_has_front_matter_that_parses(written):
    folder, result = written
    _, front, body = (folder / "MODEL_CARD.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["pipeline_tag"] == "video-classification"
    found = card["model-index"][0]["results"]
    assert found[0]["metrics"][0]["value"] == pytest.approx(result.video.auc)
    assert found[0]["dataset"]["split"] == "test"
    assert len(found) == 5
    assert "Before you trust this" in body


def test_a_report_that_fails_leaves_the_one_before_whole(written, tmp_path):
    folder = write_run(tmp_path)
    evaluation_page.write_report(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = (folder / "scores.jsonl").read_text().splitlines()
    (folder / "scores.jsonl").write_text("\n".join([*lines[:4], lines[4][:30]]))
    with pytest.raises(DataError, match=r"line 5 of .*scores.jsonl is not JSON"):
        evaluation_page.write_report(folder)
    del before["scores.jsonl"]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.startswith(".")]


# The page.


def test_the_page_fetches_nothing_and_runs_nothing(written):
    folder, _ = written
    page = page_of(folder)
    for tag, attributes in Tags(page).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "http" not in page


def test_no_two_elements_share_an_id(written):
    ids = [a["id"] for tag, a in Tags(page_of(written[0])).tags if "id" in a]
    repeated = {i for i in ids if ids.count(i) > 1}
    # Clip paths and patterns are named by their content, so equal names are equal.
    assert not repeated & FIGURES


def test_the_headline_has_its_interval_and_its_coverage(written):
    folder, result = written
    low, high = result.video.intervals["auc"]
    text = plain(folder)
    assert f"{result.video.auc:.3f} video AUC, 95 % interval" in text
    assert f"{low:.3f}–{high:.3f}" in text
    assert "100 of 100 videos scored" in text
    assert "fake videos of 20 identities" in text
    assert "bootstrap draws of 10 swap pairs" in text
    assert "After no error at all an interval is wider" in text


def test_names_from_a_dataset_cannot_break_the_page(tmp_path):
    rows = made_rows(methods={"<script>alert(1)</script>": 2.0})
    folder = write_run(tmp_path, rows, command="python <b>x</b>")
    evaluation_page.write_report(folder)
    page = page_of(folder)
    assert "<script" not in page
    assert "<b>x</b>" not in page


def test_what_others_named_is_text_in_card_and_page(tmp_path):
    """D29 Names with markup and control characters: text in card and report."""
    rows = made_rows(methods={NASTY: 2.0}, dataset=NASTY, compression=NASTY)
    folder = write_run(
        tmp_path / "a \x1b[31m<script>run",
        rows,
        command=f"python {NASTY}",
        selected_on=NASTY,
        device=NASTY,
        versions={NASTY: NASTY},
        config={NASTY: NASTY, "model.stage_sizes": [1, 2]},
        dataset_card={
            "official_split": False,
            "split_source": NASTY,
            "warnings": [NASTY],
        },
    )
    evaluation_page.write_report(folder)
    page = page_of(folder)
    card = (folder / "MODEL_CARD.md").read_text()
    for text in (page, card):
        assert not set(text) & set("\x1b\u202e")
        assert "alert(1)" in text  # it is shown
    assert "<script" not in page
    shown = MarkdownIt().enable("table").render(card.split("---\n", 2)[2])
    assert "<script" not in shown
    code = "<code>m]|(x)?[31m&lt;script&gt;alert(1)&lt;/script&gt;'*_?</code>"
    rows = re.findall("<tr>.*?</tr>", shown, re.DOTALL)
    cells = [row.count("<td") for row in rows if "31m" in row]
    assert cells == [5, 2]  # of the methods, and of the fields
    assert shown.count(code) == 2
    assert "<td><code>[1, 2]</code></td>" in shown


def test_protocol_config_and_command_are_told(written):
    text = plain(written[0])
    assert "step 1200, chosen on val, by video AUC (0.9876)" in text
    assert "--mode eval --split test" in text
    assert "optimizer.learning_rate 0.001" in text
    source = "official FaceForensics++ lists, as in the package"
    assert f"test split of ffpp, official split ({source})" in text
    assert written[1].split_source == source
    assert f"The split: {source}." in (written[0] / "MODEL_CARD.md").read_text()
    assert "jax 0.10.2" in text
    assert "25,869,377" in text
    assert "bit rate separates real from fake" in text


def test_strips_show_errors_first_and_stay_small(written):
    rows = made_strips(made_rows(), size=224, num_frames=30)
    shown = evaluation_page.strips(rows)
    worst = shown["Worst errors"]
    wrong = [abs(row.video.label - row.score) for row in worst]
    assert wrong == sorted(wrong, reverse=True)
    assert min(wrong) > 0.5
    assert all(row.video.label == 0 for row in shown["Surest reals"])
    assert all(len(row.frames) == evaluation_page.STRIP_FRAMES for row in worst)
    assert max(len(uri) for row in worst for uri in row.frames) < 8000


def test_ten_thousand_videos_fit_a_small_page_quickly(tmp_path):
    rows = made_rows(num_identities=2000)
    folder = write_run(tmp_path, rows)
    start = time.process_time()  # of this process: other work is not our cost
    result = evaluation_page.write_report(
        folder, metrics_file=tmp_path / "metrics.jsonl"
    )
    assert time.process_time() - start < 20
    assert result.video.num_real + result.video.num_fake == 10_000
    assert (folder / "report.html").stat().st_size < 5_000_000


# What is said when something is missing or wrong.


def warnings_of(rows=None, **context):
    clips = metrics.clips(made_rows() if rows is None else rows)
    known = from_json(Context, made_context(**context))
    evaluation = results.Evaluation(Path(), clips, known, [])
    return " ".join(results.summarise(evaluation).warnings)


def test_selection_on_the_evaluated_split_is_told():
    """S4 A checkpoint chosen on the split that is reported: the report warns."""
    assert "chosen on test itself" in warnings_of(selected_on="test, by video AUC")
    assert "chosen on val itself" in warnings_of(split="val")
    assert "chosen on test, so no test number" in warnings_of(
        split="val", selected_on="test, by video AUC"
    )
    honest = warnings_of()
    assert "chosen on" not in honest
    assert "selection on test" not in honest
    assert "is not recorded" in warnings_of(selected_on=None)


def test_touching_test_again_is_told():
    """S4 Test evaluated again: counted, and the report warns."""
    assert "evaluated 3 times" in warnings_of(test_evaluations=3)
    assert "evaluated 3 times" not in warnings_of(test_evaluations=3, split="val")


def test_the_methods_of_the_headline_are_said(written, tmp_path):
    folder, result = written
    four = ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
    assert result.methods == Methods(real=["youtube"], fake=four)
    text = plain(folder)
    assert f"the fakes of {', '.join(four)}, the reals of youtube;" in text
    assert f"the fakes of {', '.join(four)}" in (folder / "MODEL_CARD.md").read_text()
    assert "All fakes here are" not in text
    five = made_rows(methods={**METHODS, "FaceShifter": 2.0})
    assert "All fakes here are of Deepfakes, Face2Face, FaceShifter," in warnings_of(
        five
    )
    assert "All fakes here are" not in warnings_of(
        made_rows(methods={"synthesis": 2.0}, dataset="celebdf_v2")
    )


def test_an_unofficial_split_and_few_identities_are_told():
    card = {"official_split": False, "warnings": []}
    assert "not the data set's official split" in warnings_of(dataset_card=card)
    assert "Only 10 swap pairs: " in warnings_of()
    loners = [changed(row, source="") for row in made_rows()]
    assert "Only 20 target identities: " in warnings_of(loners)
    many = made_rows(num_identities=60)
    assert "swap pairs" not in warnings_of(many)


def test_an_accuracy_that_one_answer_reaches_is_told():
    rows = [changed(row, score=0.9, logit=2.197) for row in made_rows()]
    assert "no better than one answer for every video (80.0%)" in warnings_of(rows)


def test_a_temperature_at_its_bound_is_told():
    assert "ended at its bound" in warnings_of(temperature=0.05)
    assert "ended at its bound" not in warnings_of(temperature=1.3)


UNSCORED = [
    {
        "dataset": "ffpp",
        "method": "FaceSwap",
        "video": f"90{i}_91{i}",
        "target": f"90{i}",
        "label": 1,
        "reason": "no face in 30 frames",
    }
    for i in range(8)
]


def test_unscored_videos_are_counted_listed_and_decided(tmp_path):
    """S6 Videos without a face: counted, listed, and decided by a policy."""
    folder = write_run(tmp_path, unscored=UNSCORED, unscored_policy="as_real")
    result = evaluation_page.write_report(folder)
    assert result.video.num_fake == 88
    assert result.coverage.scored == 100
    text = plain(folder)
    assert "Videos without a score: 8 of 108; they are counted as called real" in text
    assert "100 of 108 videos scored" in text
    assert "FaceSwap 903_913 fake no face in 30 frames" in text
    assert "Coverage differs by class: 100.0% of the real and 90.9%" in text


def test_one_class_gives_a_page_that_says_so(tmp_path):
    fakes = [row for row in made_rows() if row.video.label == 1]
    folder = write_run(tmp_path, fakes, strips=False)
    result = evaluation_page.write_report(folder)
    assert result.video.auc is None
    assert "No real item: AUC" in plain(folder)
    assert "nan" not in (folder / "report.json").read_text().lower()


def test_a_context_of_the_least_is_enough(tmp_path):
    folder = write_run(tmp_path, strips=False)
    (folder / "context.json").write_text(json.dumps({"split": "val", "step": 3}))
    (folder / "scores.jsonl").write_text(
        "\n".join(
            json.dumps({k: v for k, v in row.items() if k not in {"source", "length"}})
            for row in map(to_json, made_rows(num_identities=6))
        )
    )
    assert evaluation_page.write_report(folder).threshold is None
    assert not (folder / "training_loss.png").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no clip"),
        ("3\n", "line 1 of .* is not what evaluations write"),
        ('{"dataset": "d", "method": "m"}\n', "line 1 of .* has no field 'video'"),
    ],
)
def test_scores_that_cannot_be_used_are_named(tmp_path, content, words):
    folder = write_run(tmp_path, strips=False)
    (folder / "scores.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        evaluation_page.write_report(folder)
    assert not (folder / "report.json").exists()


def test_scores_of_a_part_of_the_clips_are_refused(tmp_path):
    """S2 Scores of a part of the clips: no report is made of them."""
    rows = made_rows(num_identities=4)
    folder = write_run(tmp_path, rows[:-7], strips=False, num_clips=len(rows))
    with pytest.raises(DataError, match="has 53 of 60 clips"):
        evaluation_page.write_report(folder)


def test_a_half_written_line_of_metrics_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kind": "train", "loss": 0.5}\n{"step": 2, "ki')
    assert [row.step for row in evaluation_page.read_metrics(path)] == [1]
    assert evaluation_page.read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100.0"), (0.9999, "99.9"), (0.5, "50.0")]
)
def test_coverage_is_whole_only_when_nothing_is_missing(value, text):
    assert formats.share(value).startswith(text)


# The seed's lines.


def test_the_epoch_lines_are_the_seeds():
    lines = formats.epoch_lines(
        epoch=1,
        num_epochs=50,
        loss=8.5923,
        accuracy=0.9783,
        validation_loss=3.9361,
        validation_accuracy=1.0,
    )
    assert lines == (
        "Epoch 1/50\nLoss: 8.5923 - Accuracy: 0.9783 - "
        "Validation Loss: 3.9361 - Validation Accuracy: 1.0000"
    )


def lines_of(report, *, clip, video):
    """The result lines of a report with some other numbers."""
    clip, video = replace(report.clip, **clip), replace(report.video, **video)
    return formats.result_lines(replace(report, clip=clip, video=video))


def test_the_result_lines_are_the_seeds(written):
    clip = {"loss": 0.0587, "accuracy": 0.995, "confusion": [[93, 0], [1, 106]]}
    video = {"auc": 0.9999, "intervals": {"auc": [0.998, 1.0]}}
    lines = lines_of(written[1], clip=clip, video=video)
    assert lines.splitlines()[0] == "Test Loss: 0.0587, Test Accuracy: 99.50%"
    assert [line.split() for line in lines.splitlines()[1:5]] == [
        ["Confusion", "Matrix:"],
        ["Predicted", "Negative", "Predicted", "Positive"],
        ["Actual", "Negative", "93", "0"],
        ["Actual", "Positive", "1", "106"],
    ]
    assert lines.splitlines()[5] == (
        "Test Video AUC: 0.9999 (95 % interval 0.998–1.000)"
    )


def test_a_constant_answer_stands_beside_the_accuracy(written):
    clip = {"loss": 0.5, "accuracy": 0.8, "confusion": [[0, 24], [0, 96]]}
    video = {"auc": 0.5, "intervals": {}}
    lines = lines_of(written[1], clip=clip, video=video)
    assert lines.splitlines()[0].endswith("Test Accuracy: 80.00%")
    assert lines.splitlines()[-1] == (
        "For comparison: always answering fake is right in 80.00% of clips"
    )
    assert formats.constant_line([0, 0, 1]) == (
        "always answering real is right in 66.67% of clips"
    )


def test_an_auc_of_zero_is_a_number_and_none_is_none():
    beside = "always answering real is right in 50.00% of clips"
    assert formats.validation_line(0.0, [0, 1]) == (
        f"validation video AUC 0.0000, {beside}"
    )
    assert formats.validation_line(None, [0, 1]) == f"validation video AUC —, {beside}"


def test_the_result_lines_are_the_reports_numbers(written):
    _, result = written
    first = formats.result_lines(result).splitlines()[0]
    loss, accuracy = result.clip.loss, result.clip.accuracy
    assert first == f"Test Loss: {loss:.4f}, Test Accuracy: {accuracy:.2%}"
