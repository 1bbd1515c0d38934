"""Where it is known what is forged, a report says how well heat maps point there."""

import json

import jax
import numpy as np
import pytest

from fakedetect_jax import train
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.order import ClipRef
from fakedetect_jax.evaluation import localisation
from fakedetect_jax.metrics import located
from fakedetect_jax.pages import evaluation_page, formats
from fakedetect_jax.reports.report import read_report
from fakedetect_jax.run import parallel
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run, write_record
from fakedetect_jax.serving.detector import Detector
from tfds_ffpp.terminal.lines import Terminal


@pytest.fixture(scope="module")
def pointed(tiny_run, tmp_path_factory):
    """A run whose second head learns where clips are forged, and its evaluation."""
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.patches, config.loss.mask_weight = True, 1.0
        config.augment.update(flip=1.0)
    workdir = tmp_path_factory.mktemp("pointed")
    mesh = parallel.make_mesh(jax.devices()[:1])
    terminal = Terminal(quiet=True)
    run = Run(config.lock(), workdir, mesh, terminal, StopRequest(), "test")
    write_record(run, parallel.describe_devices(mesh))
    evaluation = train.train(run)
    assert evaluation is not None
    return workdir, config, evaluation


def test_heat_is_judged_by_the_masks_of_the_dataset(pointed):
    workdir, config, folder = pointed
    rows = [json.loads(x) for x in (folder / "located.jsonl").read_text().splitlines()]
    split = reader.open_split(dataset.open_dataset(config), "test", config)
    fakes = [v for v in split.videos if v.label == 1]
    assert len(rows) == len(fakes) == sum(v.masked for v in fakes) > 0
    detector = Detector.load(workdir)
    for row, video in zip(rows, fakes, strict=True):
        assert row["video"] == video.video_id
        scored = folder.joinpath("scores.jsonl").read_text().splitlines()
        clips = [r for r in map(json.loads, scored) if r["video"] == video.video_id]
        assert clips[0]["clip"] == 0
        starts = localisation.covering_clips([video], config, 1)
        clip = ClipRef(split.videos.index(video), starts[0].start, 1)
        frames = np.empty((1, 4, 32, 32, 3), np.uint8)
        masks = np.empty((4, 32, 32), np.uint8)
        length = split.reader.read(clip, video.num_valid, frames[0])
        split.reader.read_masks(clip, video.num_valid, masks)
        heat = np.asarray(detector.explain(frames, np.array([length])).heat)
        assert heat.min() > 0 and heat.max() < 1  # probabilities
        judged = located.judge(heat[0], masks)
        assert judged is not None and row["frames"] == judged[0]
        for name, value in judged[1]._asdict().items():
            assert row[name] == pytest.approx(value, abs=1e-6)


def test_the_report_shows_it_beside_the_middle_of_the_crop(pointed):
    _, _, folder = pointed
    evaluation_page.write_report(folder)
    report = read_report(folder)
    assert report.localisation is not None and report.localisation.frames > 0
    assert "Heat: hottest in the forged part in" in formats.result_lines(report)
    page = (folder / "report.html").read_text()
    assert "Where the heat lies" in page and "Middle hits" in page


def test_without_masks_nothing_is_said_of_heat(tiny_run):
    report = read_report(tiny_run.evaluation)
    assert report.localisation is not None  # its dataset has masks
    text = (tiny_run.evaluation / "located.jsonl").read_text()
    (tiny_run.evaluation / "located.jsonl").unlink()
    try:
        again = evaluation_page.write_report(tiny_run.evaluation)
        assert again.localisation is None
        assert "Heat" not in formats.result_lines(again)
    finally:
        (tiny_run.evaluation / "located.jsonl").write_text(text)
        evaluation_page.write_report(tiny_run.evaluation)
