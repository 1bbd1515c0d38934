"""A second start takes what the first one kept, and scores to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import cache
from fakedetect_jax.trained.model import load_model
from tests.made_videos import write_video
from tests.serving.videos import rows_of

HEAVY = ["flax", "optax", "orbax", "grain", "tensorflow_datasets", "scipy.stats"]
HEAVY += ["matplotlib", "sklearn", "jinja2"]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("start") / "a.mp4", 8)


def rows_with(folder, faceless, video, tmp_path) -> list[dict]:
    """What a process of its own writes with a cache, and what it imported."""
    output = tmp_path / "rows.jsonl"
    code = (
        "import sys; from fakedetect_jax import predict\n"
        "assert predict.main(sys.argv[1:]) == 0\n"
        f"print(*set(sys.modules) & set({HEAVY}))"
    )
    words = ["--model", faceless, video, "--output", output]
    words += ["--compilation_cache", folder]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    return [*rows_of(output), {"imported": done.stdout.splitlines()[-1].split()}]


def test_a_second_start_imports_little_and_scores_the_same(faceless, video, tmp_path):
    first, heavy = rows_with(tmp_path / "cache", faceless, video, tmp_path)
    again, light = rows_with(tmp_path / "cache", faceless, video, tmp_path)
    without, _ = rows_with("", faceless, video, tmp_path)
    assert "flax" in heavy["imported"] and light["imported"] == []
    assert first == again == without and first["outcome"] == "scored"


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert cache.kept(tmp_path / "file", "name", lambda: b"made") == b"made"


def test_of_graphs_the_last_four_are_kept(tmp_path):
    cache.kept(tmp_path, "other.stablehlo", bytes)
    for i in range(6):
        cache.kept(tmp_path, f"{i}.onnx", bytes)
        os.utime(tmp_path / f"{i}.onnx", (i, i))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"other.stablehlo", *(f"{i}.onnx" for i in range(2, 6))}


def test_a_damaged_or_old_program_is_made_anew(faceless, tmp_path, monkeypatch):
    device = jax.devices()[:1]
    frames = np.zeros((1, 4, 32, 32, 3), np.uint8)
    length = np.full(1, 4)

    def logits() -> np.ndarray:
        with Detector.load(faceless, cache=tmp_path, devices=device) as detector:
            return detector.logits(frames, length)

    expected = logits()
    (program,) = tmp_path.glob("*.stablehlo")
    whole = program.read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    program.write_bytes(damaged)
    np.testing.assert_array_equal(logits(), expected)
    assert program.read_bytes() != damaged
    monkeypatch.setattr(cache, "_made_with", lambda: ["another version"])
    np.testing.assert_array_equal(logits(), expected)
    assert len(list(tmp_path.glob("*.stablehlo"))) == 2


def test_kept_shapes_are_those_of_the_model(tiny_run, tmp_path):
    config = tiny_run.config
    traced = cache.abstract_variables(config)
    (kept,) = [cache.abstract_variables(config, tmp_path) for _ in range(2)][1:]
    variables = load_model(tiny_run.workdir).variables

    def shapes(tree) -> dict:
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert shapes(kept) == shapes(traced) == shapes(variables)
    (file,) = tmp_path.iterdir()
    facts = json.loads(file.read_bytes()[32:])
    facts.pop("params.head.bias")
    cache._write(file, json.dumps(facts).encode())  # that it is read at all
    assert "bias" not in cache.abstract_variables(config, tmp_path)["params"]["head"]
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.model.width = 16
    wider = cache.abstract_variables(other, tmp_path)
    assert shapes(wider) != shapes(traced)
