"""What is said of a video: an outcome, its reason, what to be careful about."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax import predict
from fakedetect_jax.metrics.calibration import CrossFit
from fakedetect_jax.metrics.doubt import Band, Side
from fakedetect_jax.outputs import table
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import description
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.made_videos import picture, write_video
from tests.serving.videos import (
    LOSSLESS,
    all_of,
    cut_video,
    flip_bits,
    reals,
    rows_of,
    side_by_side,
)
from tfds_ffpp.frames.video import read_clip

DOCS = Path(__file__).parents[2] / "docs" / "predict.md"


class TestOutcomes:
    """P8 No face, several faces, too short: an outcome with a reason, or a track."""

    def test_no_face(self, detector, tmp_path):
        path = write_video(tmp_path / "a.mp4", 12, size=(96, 128))
        self.unscored(detector.score(path), "no face")

    @pytest.mark.parametrize(("least", "starts"), [(0.5, {0, 1}), (0.9, set())])
    def test_a_face_in_few_frames(self, tiny_run, tmp_path, least, starts):
        write_bundle(load_model(tiny_run.workdir), tmp_path)
        facts = json.loads((tmp_path / "model.json").read_text())
        facts["config"]["data"]["min_coverage"] = least
        (tmp_path / "model.json").write_text(json.dumps(description.sealed(facts)))
        # As one shot: where the face goes is a cut, which leaves too few frames.
        strict = Detector.load(tmp_path, find_shots=False, devices=jax.devices()[:1])
        frames = read_clip(reals(tiny_run)[0], lambda total: range(8)).frames()
        frames[3:] = [np.full_like(frames[0], 128)] * 5
        result = strict.score(write_video(tmp_path / "a.mp4", frames))
        if starts:
            (face,) = result["faces"]
            assert {clip["start"] for clip in face["clips"]} == starts
        else:
            self.unscored(result, "no face")
            assert "no clip shows a face in 90% of its frames" in result["reason"]

    def test_too_short(self, detector, tiny_run, tmp_path):
        frames = read_clip(reals(tiny_run)[0], lambda total: [0, 1]).frames()
        path = write_video(tmp_path / "a.mp4", frames)
        result = detector.score(path)
        self.unscored(result, "too short")
        assert "has 2 frames" in result["reason"]

    def test_out_of_range(self, central, tmp_path):
        frames = [picture(i, (6, 6)) for i in range(12)]
        path = write_video(
            tmp_path / "a.mkv", frames, codec="ffv1", options={}, pixel_format="bgr0"
        )
        result = central.score(path)
        self.unscored(result, "out of range")
        assert "6 pixels wide, the model needs 8" in result["reason"]

    def test_partial(self, central, tmp_path):
        """P13 Half a video decodes: partial, with what is missing."""
        path = cut_video(tmp_path / "a.mkv", 0.7)
        (result,) = central.results([path])
        assert result.outcome == "partial", result.reason
        frames = result.file.frames
        assert result.reason == (
            f"only {frames} of about {result.file.promised_frames} frames "
            f"decode; the first one missing is at {frames / 25:.1f} s"
        )
        assert result.file.missing_from == pytest.approx(frames / 25, abs=0.01)
        assert f"the file is damaged: {result.reason}" in result.warnings
        assert 0 < result.score < 1 and result.verdict and result.faces
        assert table.line(result).endswith(f"a.mkv: partial, {result.reason}")
        assert table.summary([result]) == f"1 {result.verdict} (in part)"
        # Its frames are scored as those of a whole video of them.
        head = all_of(path)[:frames]
        whole = central.score(write_video(tmp_path / "whole.mkv", head, **LOSSLESS))
        assert whole["outcome"] == "scored" and not whole["file"]["damaged"]
        assert whole["score"] == pytest.approx(result.score, abs=1e-5)

    @pytest.mark.parametrize(
        ("spoiled", "outcome"),
        [(range(30, 45), "partial"), (range(5, 50), "unreadable")],
    )
    def test_flipped_bits(self, central, tmp_path, spoiled, outcome):
        """P13 Flipped bits in H.264: scored on what decodes, if that is half of it."""
        path = write_video(
            tmp_path / "a.mp4", 60, pixel_format="yuv420p", options={"g": "12"}
        )
        (result,) = central.results([flip_bits(path, spoiled)])
        assert result.outcome == outcome, result.reason
        lost = re.match(r"only (\d+) of 60 frames decode; the first", result.reason)
        assert lost and (int(lost[1]) >= 30) == (outcome == "partial")
        assert (result.score is not None) == (outcome == "partial")

    def test_partial_in_the_command_and_on_its_page(self, faceless, tmp_path, capsys):
        path = cut_video(tmp_path / "v" / "a.mkv", 0.7)
        write_video(tmp_path / "v" / "b.mkv", 8)
        pages, output = tmp_path / "pages", tmp_path / "rows.jsonl"
        command = ["--model", faceless, path.parent, "--report", pages]
        code = predict.main([str(a) for a in [*command, "--output", output]])
        said = capsys.readouterr().out
        row, other = rows_of(output)
        assert code == 0 and f"{row['verdict']} (in part)" in said.splitlines()[-1]
        assert (row["outcome"], other["outcome"]) == ("partial", "scored")
        assert row["reason"] in Path(row["page"]).read_text()
        assert "Only a part was seen" in Path(row["page"]).read_text()
        assert "Only a part was seen" not in Path(other["page"]).read_text()
        index = (pages / "index.html").read_text()
        assert f"{row['verdict']}<small>in part</small></td>" in index
        assert row["reason"] in index

    def test_a_part_without_a_face_says_both(self, detector, tmp_path):
        result = detector.score(cut_video(tmp_path / "a.mkv", 0.7))
        self.unscored(result, "no face")
        assert result["reason"].startswith(
            "no face was found in any of 3 windows; only "
        )

    def test_under_half_is_unreadable(self, central, tmp_path):
        """P13 Under half of it decodes: unreadable, with what is missing."""
        result = central.score(cut_video(tmp_path / "a.mkv", 0.45))
        self.unscored(result, "unreadable")
        assert re.match(r"only \d+ of about 60 frames decode", result["reason"])

    def test_unreadable(self, detector, tmp_path):
        path = tmp_path / "a.mp4"
        path.write_text("<html>not found</html>")
        self.unscored(detector.score(path), "unreadable")

    def unscored(self, result, outcome):
        assert result["outcome"] == outcome and result["reason"]
        assert result["score"] is result["probability"] is result["verdict"] is None
        assert result["faces"] == []
        json.dumps(result, allow_nan=False)

    def test_several_faces_have_a_track_each(self, detector, tiny_run, tmp_path):
        path = side_by_side(reals(tiny_run)[:2], tmp_path / "two.mp4")
        result = detector.score(path)
        assert result["outcome"] == "scored" and len(result["faces"]) == 2
        left, right = sorted(face["box"][1] for face in result["faces"])
        assert left < 100 < right
        scores = [face["score"] for face in result["faces"]]
        assert result["score"] == max(scores) and scores[0] != scores[1]
        largest = Detector(
            detector.model, all_faces=False, devices=jax.devices()[:1]
        ).score(path)
        assert len(largest["faces"]) == 1
        assert largest["score"] == pytest.approx(scores[0], abs=1e-5)


def test_the_rows_warn_of_a_model_of_made_videos(detector, central, tiny_run):
    video = reals(tiny_run)[0]
    for one in (detector, central):
        assert "made videos" in one.score(video)["warnings"][0]
    honest = Detector(
        detector.model._replace(made=False), devices=jax.devices()[:1]
    ).score(video)
    assert "made videos" not in " ".join(honest["warnings"])


def test_a_calibration_that_is_not_used_is_said(central, tmp_path):
    video = write_video(tmp_path / "a.mp4", 8)
    found = CrossFit(fitted=2.0, used=False, loss=0.1, cross_fitted_loss=0.2)
    model = central.model._replace(temperature=1.0, calibration=found)
    row = Detector(model, devices=jax.devices()[:1]).score(video)
    assert any("no calibration helped" in sentence for sentence in row["warnings"])
    assert row["probability"] == pytest.approx(row["score"])


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.2, -0.1), "called fake"),
        ((-0.1, 0.1), "uncertain"),
        ((0.0, 0.1), "called real"),
        (None, "not called fake"),
    ],
)
def test_the_verdict_is_the_band_s(central, tmp_path, ends, verdict):
    video = write_video(tmp_path / "a.mp4", 8)
    score = central.score(video)["score"]
    band = ends and Band(
        0.05, *(Side(score + end, 0.0, bound=0.3, num_clusters=8) for end in ends)
    )
    model = central.model._replace(band=band, threshold=min(score + 0.1, 1.0))
    row = Detector(model, devices=jax.devices()[:1]).score(video)
    assert row["verdict"] == verdict == row["faces"][0]["verdict"]
    small = [sentence for sentence in row["warnings"] if "val is too small" in sentence]
    assert len(small) == (ends is not None)
    if band is None:
        assert "band" not in row
    else:
        assert row["band"] == pytest.approx(list(band.ends))
        assert row["probability_band"][0] <= row["probability_band"][1]


def test_a_row_has_its_documented_fields_in_order(central, tmp_path):
    row = central.score(write_video(tmp_path / "a.mp4", 8))
    always = ["video", "outcome", "reason", "verdict", "score", "probability"]
    scale = ["threshold", "probability_threshold", "band", "probability_band"]
    scale += ["distance", "distance_threshold"]
    looked = ["file", "shots", "windows", "windows_without_face", "faces_left_out"]
    looked += ["frames_looked_at"]
    always.insert(2, "trained_on")
    fields = [*always, *scale, "faces", "people", "warnings", "model", *looked]
    assert list(row) == [*fields, "most_suspicious"]
    face, clip = row["faces"][0], row["most_suspicious"]
    assert list(face) == [
        *("outcome", "score", "probability", "distance", "verdict"),
        *("seconds", "box", "coverage", "clips", "shot", "person"),
    ]
    assert list(clip) == [
        *("window", "start", "length", "frames", "seconds", "logit", "score"),
        "distance",
    ]
    assert clip in face["clips"] and json.loads(json.dumps(row)) == row
    refused = central.score("-")
    always.remove("trained_on")
    assert list(refused) == [*always, "faces", "warnings"]
    table = DOCS.read_text()
    table = table[table.index("## The rows of `--output`") :]
    assert all(f"`{name}`" in table for name in {*row, *face, *clip, *row["file"]})
