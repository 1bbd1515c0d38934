"""The Detector from Python; its scores are the evaluation's, and always the same."""

import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from fakedetect_jax import settings
from fakedetect_jax.data import dataset, order, reader
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.serving.detector import Detector
from tests.made_videos import write_video
from tests.patience import LIMIT
from tests.serving.videos import (
    reals,
    rows_of,
)


class TestPython:
    def test_a_folder_is_its_videos(self, central, tmp_path):
        for name in ("b.mp4", "deep/a.mp4"):
            write_video(tmp_path / name, 8)
        (tmp_path / "list.txt").write_text("b.mp4\n")
        rows = list(central.score_all(tmp_path))
        assert [Path(r["video"]).name for r in rows] == ["b.mp4", "a.mp4"]
        (row,) = central.score_all(str(tmp_path / "list.txt"))
        assert row["outcome"] == "scored"
        (row,) = central.score_all([tmp_path])
        assert row["outcome"] == "refused" and "not a regular file" in row["reason"]
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match="holds no video"):
            central.score_all(str(tmp_path / "empty"))

    def test_addresses_are_refused(self, central, web, tmp_path):
        url = f"http://127.0.0.1:{web.server_port}/a.mp4"
        video = write_video(tmp_path / "a.mp4", 8)
        rows = list(central.score_all([url, video, "-", f"concat:{video}"]))
        outcomes = [row["outcome"] for row in rows]
        assert outcomes == ["refused", "scored", "refused", "refused"]
        assert central.score(url)["outcome"] == "refused" and web.requests == []
        for row in rows:
            assert {"score", "probability", "verdict", "faces"} <= row.keys()

    def test_the_decoder_waits_for_the_next_video(self, faceless, tmp_path):
        video = write_video(tmp_path / "a.mp4", 8)
        me = psutil.Process()
        before = {p.pid for p in me.children()}

        def decoders():
            return {p.pid for p in me.children()} - before

        with Detector.load(faceless, devices=jax.devices()[:1]) as detector:
            first = detector.score(video)
            (started,) = decoders()
            assert detector.score(video) == first
            # In another batch a score may differ by rounding.
            both = [row["score"] for row in detector.score_all([video, video])]
            assert both == pytest.approx([first["score"]] * 2, abs=1e-5)
            assert started in decoders()
            os.kill(started, signal.SIGKILL)
            again = detector.score(video)
            assert again["outcome"] in ("scored", "unreadable")
            assert detector.score(video) == first
        assert not decoders()
        detector = Detector.load(faceless, devices=jax.devices()[:1])
        assert detector.score(video) == first  # and without `with`
        del detector
        gc.collect()
        assert not decoders()

    def test_one_that_was_left_early_ends_its_decoders(self, faceless, tmp_path):
        videos = [write_video(tmp_path / f"{i}.mp4", 8, seed=i) for i in range(6)]
        before = {p.pid for p in psutil.Process().children()}
        with Detector.load(faceless, devices=jax.devices()[:1]) as detector:
            rows = detector.score_all(videos)
            assert next(iter(rows))["outcome"] == "scored"
            rows.close()  # pyright: ignore[reportAttributeAccessIssue]
            assert {p.pid for p in psutil.Process().children()} == before

    def test_threads_share_one(self, central, tmp_path):
        videos = [write_video(tmp_path / f"{i}.mp4", 8, seed=i) for i in range(4)]
        alone = [central.score(video) for video in videos]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(central.score, videos)) == alone

    def test_a_fork_ends_in_a_sentence(self, faceless, tmp_path):
        video = write_video(tmp_path / "a.mp4", 8)
        code = FORKING.format(model=str(faceless), video=str(video))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("load the model in each process after the fork") == 4
        assert done.stdout.endswith("parent scored\n")
        assert "WARNING" not in done.stderr  # of the libraries, at load

    def test_a_load_prints_nothing(self, tiny_run):
        code = (
            "from fakedetect_jax.predict import Detector\n"
            f"Detector.load({str(tiny_run.workdir)!r})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, timeout=LIMIT
        )
        assert done.stdout == done.stderr == b""


FORKING = """
import os
import numpy as np
from fakedetect_jax.predict import Detector

detector = Detector.load({model!r})
clips = np.zeros((1, 4, 32, 32, 3), np.uint8), np.array([4])
child = os.fork()
if not child:
    for call in (
        lambda: detector.score({video!r}),
        lambda: detector.score_all([{video!r}]),
        lambda: detector.logits(*clips),
        lambda: Detector.load({model!r}),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", detector.score({video!r})["outcome"])
"""


def test_batches_devices_and_company_change_no_score(detector, tiny_run):
    """P9 Other batches, devices and company: the same scores to 1e-5."""
    videos = reals(tiny_run)[:3]
    alone = [detector.score(v)["score"] for v in videos[:2]]
    assert len(set(alone)) == 2
    for batch_size, devices, processes in ((1, 1, 1), (32, 8, 2)):
        other = Detector(
            detector.model,
            batch_size=batch_size,
            devices=jax.devices()[:devices],
            num_processes=processes,
        )
        results = list(other.score_all([*videos, videos[0]]))
        assert [r["video"] for r in results] == [str(v) for v in [*videos, videos[0]]]
        scores = [r["score"] for r in results]
        np.testing.assert_allclose(scores[:2], alone, atol=1e-5)
        assert scores[0] == pytest.approx(scores[3], abs=1e-5)


def evaluated(tiny_run) -> dict[str, float]:
    folder = tiny_run.evaluation
    clips: dict[str, list[float]] = {}
    for row in rows_of(folder / "scores.jsonl"):
        clips.setdefault(f"{row['method']}/{row['video']}", []).append(row["score"])
    return {video: float(np.mean(scores)) for video, scores in clips.items()}


def test_the_score_is_the_evaluations(detector, tiny_run):
    """P10 Training and serving that differ: the score is the evaluation's to 1e-5."""
    expected = evaluated(tiny_run)
    known = [p for p in reals(tiny_run) if f"youtube/{p.stem}" in expected]
    assert len(known) == 2
    for path in known:
        assert detector.score(path)["score"] == pytest.approx(
            expected[f"youtube/{path.stem}"], abs=1e-5
        )
    assert len({round(s, 4) for s in expected.values()}) > 1


def test_stored_frames_get_the_evaluations_logits(detector, tiny_run):
    """P10 Stored frames: their logits are the evaluation's."""
    config = tiny_run.config
    split = reader.open_split(dataset.open_dataset(config), "test", config)
    rows = rows_of(tiny_run.evaluation / "scores.jsonl")
    number = {(v.method, v.video_id): i for i, v in enumerate(split.videos)}
    frames = np.empty((len(rows), *settings.clip_shape(config)), np.uint8)
    length = np.empty(len(rows), int)
    for i, row in enumerate(rows):
        video = number[row["method"], row["video"]]
        clip = order.ClipRef(video, row["start"], config.data.frame_stride)
        length[i] = split.reader.read(clip, split.videos[video].num_valid, frames[i])
    np.testing.assert_allclose(
        detector.logits(frames, length), [row["logit"] for row in rows], atol=1e-5
    )


def test_clips_of_another_size_are_refused(detector):
    with pytest.raises(ConfigError, match=r"model takes uint8\[4, 32, 32, 3\]"):
        detector.logits(np.zeros((1, 4, 31, 31, 3), np.uint8), np.array([4]))


def test_a_known_model_gives_a_known_score(central, tmp_path):
    """P10 A changed computation: a known model gives a known score.

    A golden number: weights by formula, pixels stored without loss.
    """
    rng = np.random.default_rng(0)

    def make(path, leaf: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 1, leaf.shape)
        if path[-1].key in ("scale", "var"):
            return (1 + 0.1 * noise**2).astype(np.float32)
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return (1.5 * noise / np.sqrt(fan_in)).astype(np.float32)
        return (0.1 * noise).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(make, central.model.variables)
    model = central.model._replace(variables=variables, temperature=2.0)
    path = write_video(
        tmp_path / "a.mkv", 16, codec="ffv1", options={}, pixel_format="bgr0"
    )
    result = Detector(model, devices=jax.devices()[:1]).score(path)
    clips = [clip["logit"] for clip in result["faces"][0]["clips"]]
    np.testing.assert_allclose(clips, GOLDEN_LOGITS, atol=2e-3)
    score = np.mean(1 / (1 + np.exp(-np.array(clips))))
    odds = np.sqrt(score / (1 - score))
    assert result["score"] == pytest.approx(score)
    assert result["probability"] == pytest.approx(odds / (1 + odds))


GOLDEN_LOGITS = [0.2537963, 0.2275291]
