"""A face unlike all those of the training gets no verdict, wherever it is scored."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax import export, predict
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.evaluation.scoring import guard_clips
from fakedetect_jax.pages import formats
from fakedetect_jax.pages.evaluation_page import write_report
from fakedetect_jax.programs import runtimes
from fakedetect_jax.reports.report import read_report
from fakedetect_jax.run import parallel
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import description, guard
from fakedetect_jax.trained.guard import Guard
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.made_videos import write_video
from tests.serving.videos import LOSSLESS, reals, rows_of, side_by_side
from tfds_ffpp.terminal.lines import Terminal


@pytest.fixture(scope="module")
def guarded(tiny_run, detector) -> Detector:
    """The tiny run's model with a guard: its few videos stand for as many as clips."""
    config = tiny_run.config
    builder = dataset.open_dataset(config)
    parts = []
    for name in ("train", "val"):
        split = reader.open_split(builder, name, config)
        clips = guard_clips(split.videos, config)
        frames = np.empty((len(clips), 4, 32, 32, 3), np.uint8)
        for clip, out in zip(clips, frames, strict=True):
            split.reader.read(clip, split.videos[clip.video].num_valid, out)
        labels = np.array([split.videos[clip.video].label for clip in clips])
        length = np.full(len(clips), 4)
        parts.append((detector.network.outputs(frames, length)[1], labels))
    (known, labels), (val, _) = parts
    again = np.concatenate([known] * 4), np.concatenate([labels] * 4)
    found = guard.fit(*again, val, np.arange(len(val)))
    assert isinstance(found, Guard), found
    model = detector.model._replace(guard=found, no_guard="")
    return Detector(model, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def exported(guarded, tmp_path_factory) -> Path:
    """That model as an export, and one that takes any picture for a face."""
    folder = tmp_path_factory.mktemp("guarded")
    write_bundle(guarded.model, folder / "model")
    shutil.copytree(folder / "model", folder / "central")
    facts = json.loads((folder / "central" / "model.json").read_text())
    facts["preprocessing"]["frames"]["face_finder"] = "none"
    (folder / "central" / "model.json").write_text(
        json.dumps(description.sealed(facts))
    )
    return folder


def noise(path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (12, 96, 96, 3), np.uint8)
    return write_video(path, list(frames), **LOSSLESS)


def with_threshold(detector: Detector, threshold: float) -> Detector:
    known = detector.model.guard
    assert known is not None
    facts = replace(known.facts, threshold=threshold)
    model = detector.model._replace(guard=known._replace(facts=facts))
    return Detector(model, devices=jax.devices()[:1])


def test_noise_is_unfamiliar_and_a_made_video_is_not(
    guarded, exported, tiny_run, tmp_path
):
    """P11 A face unlike those of the training: unfamiliar, without a verdict."""
    known = guarded.score(reals(tiny_run)[0])
    assert known["outcome"] == known["faces"][0]["outcome"] == "scored"
    assert known["distance"] < known["distance_threshold"] and known["verdict"]
    with Detector.load(exported / "central") as central:
        row = central.score(noise(tmp_path / "a.mkv"))
    (face,) = row["faces"]
    assert row["outcome"] == face["outcome"] == "unfamiliar"
    assert row["verdict"] is face["verdict"] is None
    assert 0 < row["score"] < 1 and row["distance"] > row["distance_threshold"]
    far = [clip["distance"] for clip in face["clips"]]
    assert row["distance"] == pytest.approx(np.mean(far))
    assert row["reason"].startswith("the face is unlike those of the training (dist")
    assert row["model"]["guard"].startswith("1 % false alarms on ")


def test_a_familiar_face_decides_beside_an_unfamiliar_one(guarded, tiny_run, tmp_path):
    video = side_by_side(reals(tiny_run)[:2], tmp_path / "two.mp4")
    both = guarded.score(video)["faces"]
    near, far = sorted(both, key=lambda face: face["distance"])
    between = (near["distance"] + far["distance"]) / 2
    row = with_threshold(guarded, between).score(video)
    assert row["outcome"] == "scored" and row["verdict"] is not None
    assert row["score"] == pytest.approx(near["score"], abs=1e-5)
    outcomes = {face["outcome"]: face["verdict"] for face in row["faces"]}
    assert outcomes == {"scored": row["verdict"], "unfamiliar": None}
    assert any("1 of 2 faces are unlike" in sentence for sentence in row["warnings"])
    assert with_threshold(guarded, 0.0).score(video)["outcome"] == "unfamiliar"


def test_the_command_and_its_pages_show_the_score_apart(exported, tmp_path, capsys):
    """P11 An unfamiliar face in pages and the terminal: its score is shown apart."""
    video, pages = noise(tmp_path / "v" / "a.mkv"), tmp_path / "pages"
    output = tmp_path / "rows.jsonl"
    words = ["--model", exported / "central", video, noise(tmp_path / "b.mkv")]
    words += ["--report", pages, "--output", output]
    assert predict.main([str(word) for word in words]) == 0
    first, head, line, _, last = capsys.readouterr().out.splitlines()
    assert first == (
        "warning: the model was trained on made videos: its scores mean nothing on "
        "real ones"
    )
    assert head.startswith("verdict") and last == "2 unfamiliar"
    row = rows_of(output)[0]
    shown = f"({100 * row['probability']:.1f} %)"
    assert line.startswith("unfamiliar") and shown in line and row["reason"] in line
    assert row["trained_on"].startswith("made videos (demo): its scores mean nothing")
    text = (pages / Path(row["page"]).name).read_text()
    body = text[text.index("<h1>") :]
    assert body.index("trained on made videos (demo)") < body.index("<b>Unfamiliar</b>")
    assert "No verdict: the face is unlike" in body and "The score, apart" in body
    assert "alled fake</b>" not in body
    index = (pages / "index.html").read_text()
    assert "2 unfamiliar" in index and ">unfamiliar</td>" in index


def test_a_model_without_a_guard_says_so_once(faceless, tmp_path, capsys):
    videos = [write_video(tmp_path / f"{i}.mp4", 8, seed=i) for i in range(2)]
    assert predict.main(["--model", str(faceless), *map(str, videos)]) == 0
    said = capsys.readouterr().out
    assert said.count("warning: guard: none (val has 4 videos and the training") == 1
    row = Detector.load(faceless).score(videos[0])
    assert row["model"]["guard"].startswith("none (val has 4 videos")
    assert row["distance"] is row["distance_threshold"] is None


def test_an_older_export_has_no_guard(exported, tmp_path):
    folder = shutil.copytree(exported / "model", tmp_path / "model")
    facts = json.loads((folder / "model.json").read_text())
    del facts["guard"], facts["trained_on"]
    (folder / "model.json").write_text(json.dumps(description.sealed(facts)))
    model = load_model(folder)
    assert model.guard is None and model.no_guard == "the export is older than guards"


def test_an_export_has_its_guard_or_is_refused(exported, guarded, tmp_path):
    model = load_model(exported / "model")
    assert model.guard is not None and model.guard.facts == guarded.model.guard.facts
    assert model.trained_on == guarded.model.trained_on
    assert model.trained_on.dataset == "demo" and model.trained_on.real
    folder = shutil.copytree(exported / "model", tmp_path / "model")
    (folder / "guard.safetensors").unlink()
    with pytest.raises(CheckpointError, match="guard.safetensors cannot be read"):
        load_model(folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["guard"]["sha256"] = None
    (folder / "model.json").write_text(json.dumps(description.sealed(facts)))
    with pytest.raises(CheckpointError, match="its guard is neither one nor none"):
        load_model(folder)
    # One without a guard takes away that of the model that was there.
    folder = shutil.copytree(exported / "model", tmp_path / "again")
    plain = tmp_path / "plain"
    write_bundle(model._replace(guard=None, no_guard="none"), plain)
    assert export.main([str(plain), str(folder)]) == 0
    assert not (folder / "guard.safetensors").exists()
    assert load_model(folder).no_guard == "none"


@pytest.mark.parametrize("name", runtimes.PACKAGES)
def test_backends_agree_on_distances(guarded, tiny_run, tmp_path, name):
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    pytest.importorskip(name, reason=f"the package {name} is not installed")
    video = reals(tiny_run)[1]
    with Detector(guarded.model, backend=name, cache=tmp_path) as other:
        found = other.score(video)
    expected = guarded.score(video)
    assert found["distance"] == pytest.approx(expected["distance"], abs=1e-4)
    assert found["outcome"] == expected["outcome"] and found["faces"]


def test_a_run_fits_its_guard_once_and_reports_with_it(
    tiny_run, tmp_path, monkeypatch, capsys
):
    """With limits that the tiny run's few videos reach."""
    place = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    shutil.rmtree(place / "guards")
    monkeypatch.setattr(guard, "LEAST_VIDEOS", 2)
    monkeypatch.setattr(guard, "LEAST_CLIPS", 10)
    mesh = parallel.make_mesh(jax.devices()[:1])
    terminal = Terminal(quiet=True)
    run = Run(tiny_run.config, place, mesh, terminal, StopRequest(), "test")
    evaluate.fit_guard(run)
    facts, arrays = sorted((place / "guards").iterdir())
    written = facts.read_bytes(), arrays.read_bytes()
    monkeypatch.setattr(guard, "fit", None)  # it would fail if it were called again
    folder = evaluate.evaluate(run, "val")
    assert (facts.read_bytes(), arrays.read_bytes()) == written
    model = load_model(place)
    assert model.guard is not None and model.guard.facts.val_videos == 4
    rows = rows_of(folder / "scores.jsonl")
    report = write_report(folder)
    assert report.unfamiliar is not None
    assert report.unfamiliar.threshold == model.guard.threshold
    by_video: dict[str, list[float]] = {}
    for row in rows:
        key = f"{row['method']}/{row['video']}"
        by_video.setdefault(key, []).append(row["distance"])
    far = sum(np.mean(d) > model.guard.threshold for d in by_video.values())
    assert (report.unfamiliar.videos, report.unfamiliar.of) == (far, 4)
    assert read_report(folder) == report
    assert f"Unfamiliar: {far} of 4 videos" in formats.result_lines(report)
    # The threshold is what val's videos set: a video of val scored by predict is near.
    with Detector(model, devices=jax.devices()[:1], all_faces=False) as detector:
        known = [p for p in reals(tiny_run) if f"youtube/{p.stem}" in by_video]
        for path in known:
            expected = np.mean(by_video[f"youtube/{path.stem}"])
            assert detector.score(path)["distance"] == pytest.approx(expected, rel=1e-4)
    assert known
    arrays.write_bytes(written[1][:-1] + b"?")
    with pytest.raises(CheckpointError, match="its digest is another"):
        load_model(place)


def test_without_its_dataset_a_run_goes_on_without_a_guard(
    tiny_run, tmp_path, monkeypatch
):
    place = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    shutil.rmtree(place / "guards")
    assert load_model(place).no_guard == guard.NOT_FITTED
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.data_dir = str(tmp_path / "nothing")
    mesh = parallel.make_mesh(jax.devices()[:1])
    run = Run(config, place, mesh, Terminal(quiet=True), StopRequest(), "test")
    evaluate.fit_guard(run)
    assert not (place / "guards").exists()
