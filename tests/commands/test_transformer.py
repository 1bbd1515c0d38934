"""A transformer of which little is trained, from a file to an export and back."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax import train
from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.model import pixels, pretrained
from fakedetect_jax.model.backbones.vit import Size
from fakedetect_jax.model.network import make_model
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run, write_record
from fakedetect_jax.settings import check
from fakedetect_jax.trained import description
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.model.test_vit import write_timm
from tfds_ffpp.terminal.lines import Terminal

SIZE = Size("clip", 32, 2, 2, 8)


def go(config, workdir, num_steps: int):
    """Trains that far, from the newest checkpoint; the folder of its evaluation."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.num_steps = num_steps
    mesh = parallel.make_mesh(jax.devices()[:1])
    run = Run(config.lock(), workdir, mesh, Terminal(quiet=True), StopRequest(), "test")
    write_record(run, parallel.describe_devices(mesh))
    return train.train(run)


@pytest.fixture(scope="module")
def lora(tiny_run, tmp_path_factory):
    """Config and workdir of a run that trains changes of low rank beside a file."""
    folder = tmp_path_factory.mktemp("lora")
    write_timm(SIZE, folder / "clip.safetensors", scale=0.2)
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.update(backbone="vit", vit_style="clip", width=32, depth=2)
        config.model.update(num_heads=2, patch_size=8, stage_sizes=(), stem="imagenet")
        config.data.manual_dir = ""
        config.optimizer.update(learning_rate=0.02, schedule="constant", warmup_steps=0)
        config.init_from = str(folder / "clip.safetensors")
        config.trainable, config.adapter.rank = "lora", 2
        config.checkpoint.delta = True
        config.eval.final_split = "val"
    (folder / "w").mkdir()
    assert go(config, folder / "w", 2) is not None
    return config, folder / "w"


def test_a_checkpoint_holds_what_is_trained_alone(lora):
    config, workdir = lora
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    facts = checkpoints.facts(2)
    checkpoints.close()
    assert facts.frozen is not None and facts.frozen.file == config.init_from
    shapes = pretrained.backbone_shapes(make_model(config), 32)
    frozen = {".".join(("params", "backbone", *key[1:])) for key in shapes}
    assert set(facts.frozen.digests) == frozen
    assert not frozen & set(facts.digests)
    moments = {n for n in facts.digests if ".mu." in n or ".nu." in n}
    assert moments and not any("backbone" in name for name in moments)


def test_a_model_is_read_with_its_changes_in_the_kernels(lora):
    config, workdir = lora
    found = load_model(workdir).variables["params"]
    assert set(found) == {"backbone", "lstm", "head"}
    model = make_model(config)
    begun = pretrained.load_backbone(Path(config.init_from), model, 32).params
    for path, leaf in jax.tree.leaves_with_path(begun):
        names = [key.key for key in path]
        now = found["backbone"]
        for name in names:
            now = now[name]
        if "attention" in names and names[-1] == "kernel":
            singular = np.linalg.svd(now - leaf, compute_uv=False)
            assert singular[1] > 1e-6 > singular[2]  # of rank two
        else:
            np.testing.assert_array_equal(now, leaf)


def test_an_export_needs_no_other_file(lora, tmp_path, monkeypatch):
    config, workdir = lora
    model = load_model(workdir)
    write_bundle(model, tmp_path / "model")
    monkeypatch.setattr(pretrained, "frozen_weights", lambda config: 1 / 0)
    again = load_model(tmp_path / "model")
    assert again.digest == model.digest
    facts = description.read(tmp_path / "model" / "model.json")
    scale = facts.preprocessing.rules["normalise"]
    assert tuple(scale["mean"]) == pixels.CLIP.mean


def test_a_run_goes_on_beside_its_own_weights_alone(lora, tmp_path):
    config, workdir = lora
    config = config.copy_and_resolve_references()
    shutil.copytree(workdir, tmp_path / "w")
    other = tmp_path / "other.safetensors"
    write_timm(SIZE, other, scale=0.3)
    with config.unlocked():
        config.init_from = str(other)
    with pytest.raises(CheckpointError, match="is another in those of config"):
        go(config, tmp_path / "w", 3)
    with config.unlocked():
        config.init_from, config.checkpoint.delta = lora[0].init_from, False
    go(config, tmp_path / "w", 3)
    checkpoints = Checkpoints(tmp_path / "w" / "checkpoints", read_only=True)
    assert checkpoints.facts(3).frozen is None
    kernel = "params.backbone.block0.mlp.in.kernel"
    assert checkpoints.facts(3).digests[kernel] == checkpoints.facts(2).left_out[kernel]
    checkpoints.close()


def test_what_is_left_out_must_lie_somewhere(load_config):
    config = load_config("ffpp")
    with config.unlocked():
        config.checkpoint.delta = True
    with pytest.raises(ConfigError, match="set config.init_from to it"):
        check(config)
