"""ConvNeXt: the features of Hugging Face's, from its file; its laws in a detector."""

import hashlib

import jax
import numpy as np
import pytest

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.model import network, pretrained, trainable
from fakedetect_jax.model.backbones import convnext, names
from fakedetect_jax.model.explain import explain_step
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.model.trainable import Trainable

SIZES, WIDTH = (1, 2), 16
TINY = {"backbone": "convnext", "stage_sizes": SIZES, "width": WIDTH}


def peer(folder):
    """transformers' model of that size with drawn weights, and its file."""
    torch = pytest.importorskip("torch", reason="the extra bench is not installed")
    transformers = pytest.importorskip("transformers")
    size = convnext.size_of("convnext", SIZES, WIDTH)
    assert size is not None
    config = transformers.ConvNextConfig(
        num_stages=len(SIZES), depths=SIZES, hidden_sizes=size.widths
    )
    model = transformers.ConvNextModel(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.state_dict().values():
            weight.copy_(0.3 * torch.randn_like(weight) + (weight.ndim < 2) * 0.5)
    model.save_pretrained(folder)
    return model, folder / "model.safetensors"


def test_features_are_those_of_hugging_face(tmp_path):
    import torch

    theirs, path = peer(tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        wanted = theirs(pixels).pooler_output.numpy()
    model = FakeDetector(**TINY, dtype="float32")
    loaded = pretrained.load_backbone(path, model, 32)
    size = network.convnext_of(model)
    assert size is not None

    def features(module, images):
        return module.pool(module(images, False))

    variables = {"params": loaded.params}
    found = convnext.ConvNeXt(size).apply(variables, images, method=features)
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-4)
    other = FakeDetector(**{**TINY, "stage_sizes": (2, 2)})
    with pytest.raises(CheckpointError, match="missing.*layers.1"):
        pretrained.check_fit(path, other, 32)


def test_named_sizes_have_the_published_number_of_parameters():
    """28.6, 50.2, 88.6 and 197.8 million with a classifier of 1000 classes."""
    for name, published in (("t", 28.6), ("s", 50.2), ("b", 88.6), ("l", 197.8)):
        size = convnext.CONVNEXTS[f"convnext_{name}"]
        count = sum(np.prod(s) for s in convnext.variable_shapes(size).values())
        assert round((count + 1000 * (size.widths[-1] + 1)) / 1e6, 1) == published


def test_all_timm_names_are_apart_and_whole():
    size = convnext.CONVNEXTS["convnext_t"]
    for scheme in names.convnext_schemes(size):
        assert len({source.name for source in scheme.values() if source}) == len(scheme)


@pytest.mark.parametrize(
    ("backbone", "begins"),
    [("convnext_t", "dbc0a4c0a908554d"), ("convnext_b", "669c4feff82bd51e")],
)
def test_names_and_shapes_are_those_of_timm(backbone, begins):
    """SHA-256 over the sorted lines "name [shape]" of timm 1.0.31's tensors, without a
    classifier."""
    shapes = pretrained.backbone_shapes(FakeDetector(backbone=backbone))
    _, scheme = names.convnext_schemes(convnext.CONVNEXTS[backbone])
    lines = [
        f"{source.name} {pretrained.torch_shape(key, shapes['params', *key], 1)}"
        for key, source in scheme.items()
        if source
    ]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert digest.startswith(begins)


def test_what_it_cannot_do_is_said():
    for fields, said in (
        ({"stage_sizes": ()}, "without blocks"),
        ({"freeze_stages": 1}, "set config.trainable"),
        ({"stem": "small"}, "fixes it"),
    ):
        with pytest.raises(ConfigError, match=said):
            network.check_fields(FakeDetector(**{**TINY, **fields}))
    with pytest.raises(ConfigError, match="no multiple of the 8 pixels"):
        network.check_image_size(FakeDetector(**TINY), 30)
    with pytest.raises(ConfigError, match="no attention"):
        trainable.check(FakeDetector(**TINY), Trainable("lora"))


def test_what_is_trained_is_chosen_by_stage_and_norm():
    model = FakeDetector(**TINY, temporal="none")
    shapes = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0), np.zeros((1, 1, 8, 8, 3)), np.ones(1, int)
        )
    )
    for kind, wanted in (
        (
            "norms",
            {"pre_norm", "norm", "layer1_0", "layer2_down", "layer2_0", "layer2_1"},
        ),
        ("last_n", {"layer2_down", "layer2_0", "layer2_1", "norm"}),
    ):
        keep = trainable.is_trained(model, Trainable(kind, last_n=1))
        kept, _ = trainable.split(shapes["params"], keep)
        assert set(kept["backbone"]) == wanted
    assert trainable.frozen_stages(model, Trainable("last_n", last_n=1)) == 0


def test_a_clip_is_explained_by_its_places():
    model = FakeDetector(**TINY, temporal="mean", lstm_features=4, dtype="float32")
    frames = (
        np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3)).astype(np.uint8)
    )
    length = np.array([3, 2])
    variables = jax.jit(model.init)(jax.random.key(0), np.float32(frames), length)
    found = jax.jit(lambda v: explain_step(model, v, (frames, length)))(variables)
    assert found.heat.shape == (2, 3, 2, 2) and found.running.shape == (2, 3)
    assert np.isfinite(found.heat).all() and (found.heat >= 0).all()
