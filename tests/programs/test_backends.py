"""Runtimes of ONNX graphs score as JAX does, or say what they lack."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from fakedetect_jax import predict, settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.programs import backends, runtimes
from fakedetect_jax.programs.onnx import graph
from fakedetect_jax.run import process
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained.model import load_model, weights_digest
from tests.serving.videos import reals


def need(name: str) -> None:
    # Not imported here: OpenVINO would report that to its makers, from a fork.
    if find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed")


def need_bfloat16(model) -> None:
    need("openvino")
    try:
        runtimes.load(runtimes.BFLOAT16, model.config, model.variables, None)
    except ConfigError as error:
        if "needs a processor" in str(error):
            pytest.skip("no bfloat16 on this processor")
        raise


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run.workdir)


def some_clips(model, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    shape = (count, *settings.clip_shape(model.config))
    frames = rng.integers(0, 256, shape, np.uint8)
    return frames, rng.integers(1, shape[1] + 1, count).astype(np.int32)


def moved(model):
    """The model with other weights."""
    variables = jax.tree.map(lambda leaf: leaf * np.float32(1.1), model.variables)
    return model._replace(variables=variables, digest=weights_digest(variables))


@pytest.mark.parametrize("name", runtimes.PACKAGES)
def test_a_runtime_scores_videos_as_jax_does(detector, tiny_run, tmp_path, name):
    need(name)
    videos = reals(tiny_run)[:3]
    with Detector.load(tiny_run.workdir, backend=name, cache=tmp_path) as other:
        assert other.network.backend == name
        found = list(other.score_all(videos))
    for row, expected in zip(found, detector.score_all(videos), strict=True):
        assert row["outcome"] == expected["outcome"] == "scored"
        for face, wanted in zip(row["faces"], expected["faces"], strict=True):
            logits = [clip["logit"] for clip in face["clips"]]
            wished = [clip["logit"] for clip in wanted["clips"]]
            np.testing.assert_allclose(logits, wished, atol=1e-4)
        assert abs(row["score"] - expected["score"]) < 1e-4


@pytest.mark.parametrize("name", runtimes.PACKAGES)
def test_a_graph_is_kept_for_its_weights_alone(model, tmp_path, name, monkeypatch):
    need(name)
    frames, length = some_clips(model, 3)
    made = []
    serialised = graph.serialised
    monkeypatch.setattr(
        graph, "serialised", lambda *a: made.append(1) or serialised(*a)
    )

    def outputs(model) -> tuple[np.ndarray, np.ndarray]:
        run = runtimes.load(name, model.config, model.variables, tmp_path)
        return run(frames, length)

    (first, _), (again, _) = outputs(model), outputs(model)
    other, found = outputs(moved(model))
    np.testing.assert_array_equal(first, again)
    assert len(made) == 2 and len(list(tmp_path.glob("*.onnx"))) == 2
    jax_device = jax.devices()[:1]
    backend = backends.JaxBackend(moved(model), jax_device, None)
    expected, features = backend.outputs(frames, length)
    np.testing.assert_allclose(other, expected, atol=1e-4)
    np.testing.assert_allclose(found, features, atol=1e-4)
    assert np.abs(other - first).max() > 1e-4


def test_a_kept_graph_needs_no_jax(faceless, tiny_run, tmp_path):
    need("onnxruntime")
    words = ["--model", faceless, reals(tiny_run)[0], "--backend=onnxruntime"]
    words += ["--compilation_cache", tmp_path]
    code = (
        "import sys; from fakedetect_jax import predict\n"
        "assert predict.main(sys.argv[1:]) == 0\n"
        "print('jax' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "XLA_FLAGS": ""},
        ).stdout.split()[-1]
        for _ in range(2)
    ]
    assert said == ["True", "False"]


@pytest.mark.parametrize(
    ("backend", "missing", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("openvino-bfloat16", "openvino", "openvino"),
        ("onnxruntime", "onnx", "onnx"),
    ],
)
def test_a_package_that_is_missing_is_named(
    faceless, tmp_path, capsys, monkeypatch, backend, missing, extra
):
    monkeypatch.setitem(sys.modules, missing, None)
    words = ["--model", str(faceless), __file__, "--backend", backend]
    assert predict.main([*words, "--compilation_cache", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"needs the package {missing}; " in said and f".[{extra}]'" in said
    assert said.count("\n") == 1 and list(tmp_path.glob("*.onnx")) == []


@pytest.mark.parametrize("name", ["openvino", "openvino-bfloat16"])
def test_openvino_takes_no_bidirectional_model(model, name):
    need("openvino")
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.bidirectional = True
    with pytest.raises(ConfigError, match="use --backend onnxruntime or jax"):
        runtimes.load(name, config, {}, None)


class TestBfloat16:
    """openvino-bfloat16: close to float32, and never instead of it."""

    def test_it_scores_nearly_as_float32_does(self, detector, model, tiny_run):
        need_bfloat16(model)
        video = reals(tiny_run)[1]
        expected = detector.score(video)
        with Detector.load(tiny_run.workdir, backend=runtimes.BFLOAT16) as other:
            found = other.score(video)
        assert found["model"]["backend"] == "openvino-bfloat16"
        assert found["outcome"] == expected["outcome"] == "scored"
        assert 1e-6 < abs(found["score"] - expected["score"]) < 0.01

    def test_it_is_rounding_that_differs(self, model):
        need_bfloat16(model)
        clips = some_clips(model, 8)
        exact, rounded = (
            runtimes.load(name, model.config, model.variables, None)(*clips)
            for name in ("openvino", runtimes.BFLOAT16)
        )
        for found, expected in zip(rounded, exact, strict=True):
            apart = np.abs(found - expected)
            # bfloat16 has 8 bits: 1/256 of a number, some of which add up.
            assert 1e-5 < apart.max() < 0.03 * np.abs(expected).max()

    def test_a_processor_without_it_is_refused(
        self, faceless, tmp_path, capsys, monkeypatch
    ):
        need("openvino")
        monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
        import openvino  # pyright: ignore[reportMissingImports]

        monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
        words = ["--model", str(faceless), __file__, "--backend=openvino-bfloat16"]
        assert predict.main([*words, "--compilation_cache", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "needs a processor that computes in bfloat16" in said
        assert said.count("\n") == 1

    @pytest.mark.parametrize("backend", ["jax-bfloat16", "onnxruntime-bfloat16"])
    def test_others_do_not_offer_it(self, faceless, capsys, backend):
        with pytest.raises(SystemExit) as end:
            predict.main(["--model", str(faceless), __file__, "--backend", backend])
        assert end.value.code == 2
        assert f"invalid choice: '{backend}'" in capsys.readouterr().err


class TestChoosing:
    """auto, with runtimes that are made slower, faster or wrong."""

    def choose(self, model, tmp_path, monkeypatch, run) -> str:
        monkeypatch.setattr(runtimes, "installed", lambda: ["onnxruntime"])
        monkeypatch.setattr(runtimes, "load", lambda *_: run)
        return backends.choose(model, jax.devices()[:1], tmp_path)

    def instant(self, model, off: float):
        """What gives JAX's logits, a little off, at once."""
        step = backends.JaxBackend(model, jax.devices()[:1], None)
        known = {}

        def run(frames, length):
            if len(frames) not in known:
                logits, features = step.outputs(frames, length)
                known[len(frames)] = logits + np.float32(off), features
            return known[len(frames)]

        return run

    def test_the_fastest_is_taken_and_kept(self, model, tmp_path, monkeypatch):
        run = self.instant(model, 1e-6)
        assert self.choose(model, tmp_path, monkeypatch, run) == "onnxruntime"
        # Not measured again: this one would lose.
        assert self.choose(model, tmp_path, monkeypatch, None) == "onnxruntime"

    def test_none_of_less_precision_is_tried(self, model, tmp_path, monkeypatch):
        there, tried = runtimes.installed(), []
        run = self.instant(model, 1e-6)
        monkeypatch.setattr(
            runtimes, "load", lambda name, *_: tried.append(name) or run
        )
        backends.choose(model, jax.devices()[:1], tmp_path)
        assert tried == there and set(tried) <= {"onnxruntime", "openvino"}

    def test_one_that_differs_is_not_taken(self, model, tmp_path, monkeypatch):
        run = self.instant(model, 1e-3)
        assert self.choose(model, tmp_path, monkeypatch, run) == "jax"

    def test_other_weights_of_that_shape_are_compared_again(
        self, model, tmp_path, monkeypatch
    ):
        other = moved(model)
        run = self.instant(model, 1e-6)
        assert self.choose(model, tmp_path, monkeypatch, run) == "onnxruntime"
        run = self.instant(other, 1e-3)
        assert self.choose(other, tmp_path, monkeypatch, run) == "jax"
        # Each is kept: nothing is measured, which would find the runtime None.
        assert self.choose(model, tmp_path, monkeypatch, None) == "onnxruntime"
        assert self.choose(other, tmp_path, monkeypatch, None) == "jax"

    def test_a_model_of_bfloat16_is_compared_in_float32(
        self, model, tmp_path, monkeypatch
    ):
        config = model.config.copy_and_resolve_references()
        with config.unlocked():
            config.model.dtype = "bfloat16"
        rounded = model._replace(config=config)
        apart = self.instant(rounded, 0.0)(*some_clips(model, 4))[0]
        apart = apart - self.instant(model, 0.0)(*some_clips(model, 4))[0]
        assert np.abs(apart).max() > backends.MOST_APART
        run = self.instant(model, 1e-6)
        assert self.choose(rounded, tmp_path, monkeypatch, run) == "onnxruntime"

    def test_one_that_is_slower_is_not_taken(self, model, tmp_path, monkeypatch):
        known = self.instant(model, 1e-6)

        def slow(frames, length):
            time.sleep(0.3)
            return known(frames, length)

        assert self.choose(model, tmp_path, monkeypatch, slow) == "jax"
        # Found on a machine that has got a GPU since.
        monkeypatch.setattr(process, "will_run_on_cpu", lambda _: False)
        assert self.choose(model, tmp_path, monkeypatch, known) == "onnxruntime"

    def test_jax_where_nothing_else_is_there(self, model, monkeypatch):
        monkeypatch.setattr(runtimes, "installed", list)
        assert backends.choose(model, None, None) == "jax"


def test_an_explanation_is_the_same(detector, model, tmp_path):
    need("onnxruntime")
    clips = some_clips(model, 2)
    with Detector(model, backend="onnxruntime", cache=tmp_path) as other:
        found = other.explain(*clips)
    for part, expected in zip(found, detector.explain(*clips), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-5)


def test_a_name_that_is_none(model):
    with pytest.raises(ConfigError, match="backend tensorrt is none of auto, jax"):
        Detector(model, backend="tensorrt")
