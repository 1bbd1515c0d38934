"""The forest of trivial statistics: what it sees, what not, and where it shows."""

import json

import numpy as np
import pytest

from fakedetect_jax.metrics import trivial
from fakedetect_jax.metrics.records import TrivialScore
from fakedetect_jax.pages import evaluation_page, formats
from fakedetect_jax.reports import results
from tests.made_records import stored_video
from tests.made_scores import known, made_rows, write_lines, write_run


def noise(seed: int, *, frames: int = 6, side: int = 32) -> np.ndarray:
    """Frames of uniform noise around grey."""
    rng = np.random.default_rng(seed)
    return rng.integers(100, 156, (frames, side, side, 3), dtype=np.uint8)


def parts(frames: np.ndarray) -> np.ndarray:
    """Block statistics by kind: energy, brightness, red and blue over green."""
    side = trivial.BLOCKS
    return trivial.block_statistics(frames).reshape(len(frames), side, side, 4)


def test_each_statistic_is_of_its_own_block():
    frames = np.full((2, 32, 32, 3), 99, np.uint8)
    assert np.allclose(parts(frames)[..., [0, 2, 3]], 0)
    assert np.allclose(parts(frames)[..., 1], np.log(100), atol=1e-4)
    frames[1, 4:8, 8:12, 0] = 199  # block (1, 2), red alone
    changed = parts(frames)[1] - parts(frames)[0]
    assert changed[1, 2, 2] == pytest.approx(np.log(2), abs=1e-3)
    assert changed[1, 2, 0] > 1 and changed[1, 2, 1] > 0.1
    assert np.argwhere(np.abs(changed[..., 2]) > 1e-6).tolist() == [[1, 2]]


def test_blur_lowers_the_energy_alone():
    sharp = noise(0)
    soft = np.round(sharp / 2 + np.roll(sharp, 1, axis=2) / 2).astype(np.uint8)
    change = (parts(soft) - parts(sharp)).mean((0, 1, 2))
    assert change[0] < -0.3 and np.all(np.abs(change[1:]) < 0.01)


def test_the_order_of_frames_is_not_seen_their_spread_is():
    frames = noise(1)
    there, back = trivial.video_features(frames), trivial.video_features(frames[::-1])
    for name in (trivial.MEANS, trivial.SPREAD):
        np.testing.assert_allclose(there[name], back[name], atol=1e-5)
    gains = np.array([0.8, 1.2] * 3)[:, None, None, None]
    uneven = trivial.video_features((frames * gains).astype(np.uint8))
    spread = slice(len(there[trivial.MEANS]), None)
    more = uneven[trivial.SPREAD][spread] - there[trivial.SPREAD][spread]
    assert more.reshape(-1, 4)[:, 1].min() > 0.1


def videos(number: int, *, cast: float):
    """Reals and fakes in turn, whose red is `cast` times as strong."""
    for i in range(number):
        label = i % 2
        frames = noise(i).astype(np.float64)
        frames[..., 0] *= cast if label else 1
        facts = {"dataset": "ffpp", "compression": "c23", "target": f"{i // 2}"}
        names = {"method": "Cast" if label else "youtube", "video_id": f"{i}"}
        video = stored_video(**facts, **names, label=label)
        yield video, frames.astype(np.uint8)


@pytest.mark.parametrize(("cast", "low", "high"), [(1.05, 0.99, 1), (1, 0.1, 0.9)])
def test_the_forest_finds_a_cast_and_nothing_where_there_is_nothing(cast, low, high):
    train, test = list(videos(40, cast=cast)), list(videos(24, cast=cast))
    rows = trivial.score_videos(train, [(v, f[:, ::-1]) for v, f in test])
    assert rows == trivial.score_videos(train, [(v, f[:, ::-1]) for v, f in test])
    for area in results.trivial_summary(rows).values():
        assert low <= area.auc <= high
        assert area.by_method.keys() == {"Cast"}


def test_one_class_teaches_nothing():
    reals = [pair for pair in videos(8, cast=1) if pair[0].label == 0]
    assert trivial.score_videos(reals, videos(4, cast=1)) == []


@pytest.fixture(scope="module")
def rows():
    """A clip of each video, scored."""
    return made_rows(num_clips=1)


def reported(folder, rows, scores):
    """The report of a run whose videos trivial statistics gave `scores`."""
    found = write_run(folder, rows, dataset_card={"made": True})
    columns = [{trivial.MEANS: float(score)} for score in scores]
    lines = [TrivialScore(r.video, s) for r, s in zip(rows, columns, strict=True)]
    write_lines(found / "trivial.jsonl", lines)
    return found, evaluation_page.write_report(found)


def test_it_stands_beside_the_detector_in_page_and_last_lines(rows, tmp_path):
    scores = np.random.default_rng(0).random(len(rows))
    folder, result = reported(tmp_path, rows, scores)
    area = result.trivial[trivial.MEANS]
    low, high = known(area.intervals["auc"])
    assert low < known(area.auc) < high
    assert area.by_method.keys() == result.video.by_method.keys()
    assert json.loads((folder / "report.json").read_text())["trivial"]
    reach = f"{area.auc:.3f}"
    page = (folder / "report.html").read_text()
    assert f"forest on {trivial.MEANS} reaches {reach}" in page
    assert 'id="trivial"' in page
    line = f"a forest on {trivial.MEANS} reaches {area.auc:.4f} ({low:.3f}"
    assert line in formats.result_lines(result)
    assert f"reaches a video AUC of {reach}" in (folder / "MODEL_CARD.md").read_text()
    assert not any("forest" in sentence for sentence in result.warnings)


def test_a_number_that_trivial_statistics_reach_too_is_warned_of(rows, tmp_path):
    _, result = reported(tmp_path, rows, [row.score for row in rows])
    assert any(f"forest on {trivial.MEANS}" in s for s in result.warnings)


def test_a_report_on_other_data_has_none(tmp_path):
    folder = write_run(tmp_path)
    result = evaluation_page.write_report(folder)
    assert result.trivial == {}
    assert "forest" not in (folder / "report.html").read_text()
    assert "forest" not in formats.result_lines(result)


def test_evaluating_made_videos_writes_it(tiny_run):
    report = json.loads((tiny_run.evaluation / "report.json").read_text())
    lines = (tiny_run.evaluation / "trivial.jsonl").read_text().splitlines()
    assert len(lines) == report["coverage"]["of"]
    assert report["trivial"].keys() == {trivial.MEANS, trivial.SPREAD}
