"""Which models are opened: none that could run code, none with bad weights."""

import os
import pickle
import shutil
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from fakedetect_jax import predict, settings
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model import steps
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained.model import load_model
from tests.made_videos import write_video
from tests.serving.videos import reals


def error_of(capsys, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of the command."""
    code = predict.main([str(a) for a in arguments])
    return code, capsys.readouterr().err


class TestModels:
    def test_a_workdir_without_a_checkpoint_says_what_is_there(
        self, tiny_run, tmp_path, capsys
    ):
        """P1 No checkpoint in the workdir: what is there is listed, exit 4."""
        shutil.copy(tiny_run.workdir / "config.json", tmp_path)
        code, said = error_of(capsys, "--workdir", tmp_path, reals(tiny_run)[0])
        assert code == 4
        assert str(tmp_path / "checkpoints") in said and "config.json" in said
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]

    @pytest.mark.parametrize("kind", ["pth", "h5", "random", "zip", "missing"])
    def test_foreign_weights_are_not_opened(self, tiny_run, tmp_path, capsys, kind):
        """P2 Foreign weights: not a model of this project, exit 4."""
        marker, path = tmp_path / "marker", tmp_path / f"weights.{kind}"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        if kind == "pth":
            path.write_bytes(pickle.dumps(Payload()))
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", pickle.dumps(Payload()))
        elif kind == "h5":
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
        elif kind == "random":
            path.write_bytes(os.urandom(1000))
        code, said = error_of(capsys, "--model", path, reals(tiny_run)[0])
        assert code == 4 and said.count("\n") == 1
        assert "not a model of this project" in said or kind == "missing"
        assert not marker.exists()

    def test_a_pickle_in_place_of_the_weights_does_not_run(self, faceless, tmp_path):
        """P2 A pickle in place of the weights: nothing in it runs."""
        marker = tmp_path / "marker"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        folder = shutil.copytree(faceless, tmp_path / "model")
        (folder / "model.safetensors").write_bytes(pickle.dumps(Payload()))
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_model(folder)
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("header", "not a safetensors file"),
            ("truncated", "not a safetensors file"),
            ("nan", "not finite"),
            ("shape", "has shape"),
            ("missing", "missing or unexpected"),
            ("dtype", "F64"),
            ("value", "is not what was exported"),
        ],
    )
    def test_bad_weights_are_rejected(self, faceless, tmp_path, fault, message):
        """P3 A hostile header, NaN, wrong shapes: rejected, exit 4."""
        folder = shutil.copytree(faceless, tmp_path / "model")
        path = folder / "model.safetensors"
        weights = safetensors.numpy.load_file(path)
        name = "params.head.bias"
        if fault == "header":  # a header of 2^60 bytes
            path.write_bytes((2**60).to_bytes(8, "little") + b"{}" * 50)
        elif fault == "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        else:
            changed = {
                "nan": np.full_like(weights[name], np.nan),
                "shape": np.zeros(7, np.float32),
                "dtype": weights[name].astype(np.float64),
                "value": weights[name] + 1,
            }
            weights[name] = changed.get(fault, weights[name])
            if fault == "missing":
                del weights[name]
            safetensors.numpy.save_file(weights, path)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)

    def test_programs_beside_the_weights_are_not_opened(self, faceless, tmp_path):
        """P3 A damaged ONNX graph or StableHLO program: never opened; the model scores.

        What runs the graph makes it of the weights.
        """
        folder = shutil.copytree(faceless, tmp_path / "model")
        (folder / "model.onnx").write_bytes(b"\x08\x0a" + os.urandom(1000))
        (folder / "model.stablehlo").write_bytes(os.urandom(1000))
        video = write_video(tmp_path / "a.mp4", 8)
        for backend in ("jax", "onnxruntime"):
            rows = []
            for model in (faceless, folder):
                opened = Detector.load(
                    model, devices=jax.devices()[:1], backend=backend
                )
                with opened as detector:
                    rows.append(detector.score(video))
            assert rows[0]["outcome"] == "scored" and rows[0] == rows[1]

    def test_averaged_weights_are_the_ones_used(self, tiny_run, tmp_path):
        """And an optimiser whose config fields are not there does not matter."""
        from fakedetect_jax.run import parallel
        from fakedetect_jax.run.checkpoint import CheckpointFacts, Checkpoints

        config = tiny_run.config.copy_and_resolve_references()
        with config.unlocked():
            config.optimizer.ema_decay = 0.9
        preparation = steps.make_step_settings(config, num_steps=1)
        state = steps.create_train_state(preparation, settings.clip_shape(config))
        averaged, statistics = jax.tree.map(
            lambda x: x + 1, (state.params, state.batch_stats)
        )
        fields = config.to_dict()
        del fields["optimizer"]
        facts = CheckpointFacts(config=fields)
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        mesh = parallel.make_mesh(jax.devices()[:1])
        state = state.replace(ema_params=averaged, ema_batch_stats=statistics)
        state = parallel.put_replicated(state, mesh)
        checkpoints.save(1, state, facts)
        checkpoints.close()
        found = load_model(tmp_path).variables
        jax.tree.map(np.testing.assert_array_equal, found["params"], averaged)
        jax.tree.map(np.testing.assert_array_equal, found["batch_stats"], statistics)

    def test_a_workdir_is_only_read(self, tiny_run):
        def state():
            return sorted(
                (str(p), p.stat().st_mtime_ns) for p in tiny_run.workdir.rglob("*")
            )

        leftover = tiny_run.workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
        leftover.mkdir()  # as of a run that is saving there at this moment
        try:
            before = state()
            load_model(tiny_run.workdir)
            assert state() == before
        finally:
            leftover.rmdir()
