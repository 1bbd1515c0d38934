"""examples/score_with_onnx.py reproduces scores from docs and files alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax.programs import portable
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.made_videos import write_video
from tests.patience import LIMIT
from tfds_ffpp.frames.video import read_clip

SCRIPT = Path(__file__).parents[2] / "examples" / "score_with_onnx.py"
PROGRAM = """
import json, runpy, sys
score = runpy.run_path(sys.argv[1])["score"]
print(json.dumps([score(sys.argv[2], video) for video in sys.argv[3:]]))
known = {name.partition(".")[0] for name in sys.modules}
assert not known & {"fakedetect_jax", "tfds_ffpp", "jax", "flax"}
"""


def test_it_reproduces_scores_from_raw_videos(tiny_run, tmp_path):
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    # A temperature that moves the probability, whatever two steps of training gave.
    model = load_model(tiny_run.workdir)._replace(temperature=1.7)
    write_bundle(model, folder)
    portable.write_onnx(model, folder / "model.onnx")
    videos = sorted(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))[:3]
    videos += sorted(tiny_run.videos.glob("manip*/*/*/videos/*.mp4"))[:2]
    still = read_clip(videos[0], lambda total: range(min(total, 12))).frames()
    # Three windows; chroma of a quarter, as most videos have it.
    long = write_video(tmp_path / "long.mp4", still * 4, pixel_format="yuv420p")
    videos.append(long)
    detector = Detector(
        model, all_faces=False, find_shots=False, devices=jax.devices()[:1]
    )
    expected = list(detector.score_all(videos))
    assert expected[-1]["windows"] > 1
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, SCRIPT, folder, *videos],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    for row, found in zip(expected, json.loads(done.stdout), strict=True):
        logits = [clip["logit"] for face in row["faces"] for clip in face["clips"]]
        np.testing.assert_allclose(found["logits"], logits, atol=1e-3)
        assert found["score"] == pytest.approx(row["score"], abs=1e-3)
        assert found["probability"] == pytest.approx(row["probability"], abs=1e-3)
        assert abs(row["probability"] - row["score"]) > 1e-4
    assert len({row["score"] for row in expected}) == len(expected)
