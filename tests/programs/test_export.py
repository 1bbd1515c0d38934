"""A model that left its workdir scores as it did there."""

import json
import os
import re
import shutil
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export

from fakedetect_jax import export, settings
from fakedetect_jax.data import reader
from fakedetect_jax.data.dataset import open_dataset
from fakedetect_jax.model import network, pixels, steps
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS, Size, Stage
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.programs import portable
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained.model import _card, load_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory) -> Path:
    """All that export writes, by its command."""
    out = tmp_path_factory.mktemp("export") / "model"
    assert export.main([str(tiny_run.workdir), str(out), "--stablehlo"]) == 0
    return out


def some_clips(config, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    shape = (count, *settings.clip_shape(config))
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    return frames, rng.integers(1, shape[1] + 1, count).astype(np.int32)


def test_the_folder_holds_all_that_is_needed(exported, tiny_run):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "model.safetensors",
        "model.json",
        "README.md",
        "model.stablehlo",
    }
    facts = json.loads((exported / "model.json").read_text())
    assert facts["preprocessing"]["frames"]["num_frames"] == 8
    assert facts["preprocessing"]["frames"]["jpeg_quality"] == 95
    dataset = Path(open_dataset(tiny_run.config).data_dir)
    longest = max(v.source_frames for v in reader.read_videos(dataset, "train"))
    assert facts["preprocessing"]["window_frames"] == longest
    assert facts["calibration"].keys() == {
        *("temperature", "threshold", "band", "cross_fit", "reals")
    }
    assert facts["calibration"]["cross_fit"].keys() == {
        "fitted",
        "used",
        "loss",
        "cross_fitted_loss",
    }
    assert facts["trained_on_made_videos"] is True
    assert facts["preprocessing"]["rules"]["normalise"]["mean"] == list(
        pixels.IMAGENET.mean
    )
    assert facts["config"]["model"]["lstm_features"] == 8
    assert "Before you trust this" in (exported / "README.md").read_text()
    text = json.dumps(facts)
    assert str(tiny_run.workdir.parent) not in text  # nobody's folders


def test_an_export_scores_as_its_workdir(exported, tiny_run):
    video = min(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))
    device = jax.devices()[:1]
    here = Detector.load(tiny_run.workdir, devices=device).score(video)
    there = Detector.load(exported, devices=device).score(video)
    assert here == there and here["outcome"] == "scored"


def test_writing_and_reading_gives_the_model_back(exported, tiny_run):
    first, second = load_model(tiny_run.workdir), load_model(exported)
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    assert first.digest == second.digest
    for field in ("preparation", "temperature", "threshold", "window_frames", "step"):
        assert getattr(first, field) == getattr(second, field)
    for field in ("made", "calibration", "band"):
        assert getattr(first, field) == getattr(second, field)


def test_an_export_is_whole_or_none(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / "model.json").unlink()
    assert export.main([str(folder), str(tmp_path / "again")]) == 4
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_stablehlo_scores_any_number_of_clips(exported, count):
    model = load_model(exported)
    program = jax_export.deserialize(
        bytearray((exported / "model.stablehlo").read_bytes())
    )
    frames, length = some_clips(model.config, count)
    expected = steps.clip_outputs(
        network.make_model(model.config), model.variables, (frames, length)
    )
    found = program.call(frames, length)
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-4)
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}


VARIANTS = [
    {},
    {"bidirectional": True},
    {"pooling": "mean"},
    {"pooling": "attention", "bidirectional": True},
    {"temporal": "none"},
    {"temporal": "mean"},
    {"temporal": "attention"},
    {"temporal": "transformer"},
    {"block": "bottleneck", "stem": "imagenet"},
    {"backbone": "convnext", "stem": "imagenet"},
    {"backbone": "efficientnet_b0", "stage_sizes": (), "width": 64, "stem": "imagenet"},
    {"stem": "small2"},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_onnx_scores_any_number_of_clips(tmp_path, monkeypatch, fields):
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime")
    from fakedetect_jax.programs import runtimes
    from fakedetect_jax.programs.onnx import graph

    stages = Stage(1, 3, 1, 8, 2), Stage(4, 5, 2, 16, 2)
    monkeypatch.setitem(EFFICIENTNETS, "efficientnet_b0", Size(stages, 8, 24))
    common = {"stage_sizes": (1, 2), "width": 8, "stem": "small", "lstm_features": 8}
    model = FakeDetector(
        **{"backbone": "resnet", "dtype": "float32", **common, **fields}
    )
    shape = (4, 32, 32, 3)
    variables = model.init(
        jax.random.key(0), np.zeros((1, *shape)), np.ones(1, int), train=False
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x + np.square(rng.normal(0, 0.1, x.shape)).astype(x.dtype), variables
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.serialised(model, variables, shape))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        frames = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        length = rng.integers(0, 5, count).astype(np.int32)
        batch = {"frames": frames, "length": length}
        expected = steps.clip_outputs(model, variables, (frames, length))
        logits = steps.clip_logits(model, variables, (frames, length))
        np.testing.assert_allclose(expected[0], logits, atol=1e-6)
        found = session.run(["logits", "features"], batch)
        for one, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(one), wanted, atol=1e-4)
        if find_spec("openvino") and not model.bidirectional:
            found = runtimes.start("openvino", path.read_bytes())(frames, length)
            for one, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, wanted, atol=1e-4)


def test_a_graph_beyond_the_format_is_refused(tmp_path, monkeypatch, tiny_run, capsys):
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    from fakedetect_jax.programs.onnx import graph

    monkeypatch.setattr(graph, "MAX_BYTES", 1000)
    out = tmp_path / "out"
    assert export.main([str(tiny_run.workdir), str(out), "--onnx"]) == 2
    assert "at most 2 GiB, and this model is larger" in capsys.readouterr().err
    assert not out.exists()


def test_without_onnx_the_extra_is_named(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert export.main([str(tiny_run.workdir), str(tmp_path / "o"), "--onnx"]) == 2
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "stablehlo", lambda model: 1 / 0)
    out = tmp_path / "out"
    for before in ([], ["model.json", "notes"]):
        for name in before:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(name)
        with pytest.raises(ZeroDivisionError):
            export.main([str(exported), str(out), "--stablehlo"])
        there = [out.name] if before else []
        assert [path.name for path in tmp_path.iterdir()] == there
    assert (out / "model.json").read_text() == "model.json"


def test_an_export_replaces_another_as_a_whole(exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    (out / "notes").write_text("mine")
    assert export.main([str(exported), str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"model.safetensors", "model.json", "README.md", "notes"}
    assert load_model(out).digest == load_model(exported).digest


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_everybody_may_read_what_the_umask_lets_them(exported, tmp_path, mask):
    previous = os.umask(mask)
    try:
        assert export.main([str(exported), str(tmp_path / "out")]) == 0
    finally:
        os.umask(previous)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_the_plain_install_has_what_stablehlo_needs():
    """jax.export serialises with flatbuffers, which jax itself does not ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.split("[<>=]", d)[0] for d in project["dependencies"]]
    assert "flatbuffers" in needed
    pins = (ROOT / "constraints.txt").read_text()
    extras = project["optional-dependencies"]["onnx"] + ["onnxruntime"]
    for name in ["flatbuffers", *(re.split("[<>=]", d)[0] for d in extras)]:
        assert re.search(f"^{name}==", pins, re.MULTILINE), name


def test_the_card_is_of_an_evaluation_of_these_weights(tmp_path):
    """Not of a run that lay in the workdir before, which has the plain name."""
    for name, weights in (("test@5", "old"), ("test@5-1a2b3c4d", "new")):
        folder = tmp_path / "eval" / name
        folder.mkdir(parents=True)
        for file in ("report.json", "MODEL_CARD.md"):
            (folder / file).write_text(name)
        context = {"scored_with": {"weights": weights}}
        (folder / "context.json").write_text(json.dumps(context))
    assert _card(tmp_path, 5, "new") == "test@5-1a2b3c4d"
    assert _card(tmp_path, 5, "old") == "test@5"
    assert "No evaluation of it is recorded" in _card(tmp_path, 5, "newest")
