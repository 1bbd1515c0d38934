"""EfficientNet: the features of its torch layers, from a file in either's names."""

import hashlib
from typing import Any

import jax
import numpy as np
import pytest

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.model import network, optimizer, pretrained, trainable
from fakedetect_jax.model.backbones import efficientnet
from fakedetect_jax.model.backbones.efficientnet import EfficientNet, Size, Stage
from fakedetect_jax.model.explain import explain_step
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.model.trainable import Trainable

TINY = Size((Stage(1, 3, 1, 8, 2), Stage(4, 5, 2, 16, 2)), 8, 24)
FIELDS: dict[str, Any] = {"backbone": "efficientnet_b0", "dtype": "float32"}


@pytest.fixture
def tiny(monkeypatch):
    """The name of B0 stands for a network of two stages."""
    monkeypatch.setitem(efficientnet.EFFICIENTNETS, "efficientnet_b0", TINY)


def torch_features(state: dict, images: np.ndarray):
    """The features by torch's own operations, from tensors in torchvision's names."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    def norm(x, at):
        mean, var = state[f"{at}running_mean"], state[f"{at}running_var"]
        return F.batch_norm(x, mean, var, state[f"{at}weight"], state[f"{at}bias"])

    def unit(x, at, **how):
        weight = state[f"{at}0.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, **how)
        return norm(x, f"{at}1.")

    def one(x, at):
        return F.conv2d(x, state[f"{at}weight"], state[f"{at}bias"])

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = F.silu(unit(x, "features.0.", stride=2))
    for number, stage in enumerate(TINY.stages, start=1):
        for i in range(stage.depth):
            at, y, part = f"features.{number}.{i}.block.", x, 0
            if stage.expand > 1:
                y, part = F.silu(unit(y, f"{at}0.")), 1
            stride = 1 if i else stage.stride
            y = F.silu(unit(y, f"{at}{part}.", stride=stride, groups=y.shape[1]))
            gate = F.silu(one(y.mean((2, 3), keepdim=True), f"{at}{part + 1}.fc1."))
            y = y * torch.sigmoid(one(gate, f"{at}{part + 1}.fc2."))
            y = unit(y, f"{at}{part + 2}.")
            x = x + y if y.shape == x.shape else y
    last = len(TINY.stages) + 1
    return F.silu(unit(x, f"features.{last}.")).mean((2, 3)).numpy()


def drawn(peer: int) -> dict:
    """Tensors of the tiny network in torchvision's (0) or timm's (1) names."""
    import torch

    torch.manual_seed(0)
    state = {}
    for key, source in efficientnet_scheme(peer).items():
        assert source is not None
        shape = efficientnet.variable_shapes(TINY)[key]
        if key[-1] == "kernel":
            tensor = torch.randn(shape[3], shape[2], *shape[:2])
            tensor *= (2 / np.prod(shape[:3])) ** 0.5
        else:
            tensor = 0.2 * torch.randn(shape) + (key[-1] in ("scale", "var"))
            tensor = tensor.abs() if key[-1] == "var" else tensor
        state[source.name] = tensor
    return state


def efficientnet_scheme(peer: int):
    from fakedetect_jax.model.backbones import names

    return names.efficientnet_schemes(TINY)[peer]


@pytest.mark.parametrize("peer", [0, 1], ids=["torchvision", "timm"])
def test_features_are_those_of_torch(tiny, tmp_path, peer):
    torch = pytest.importorskip("torch", reason="the extra bench is not installed")
    from safetensors.torch import save_file

    images = np.random.default_rng(0).normal(size=(2, 34, 34, 3)).astype(np.float32)
    wanted = torch_features(drawn(0), images)
    state = drawn(peer)
    state["classifier.weight"] = torch.zeros(3, 24)
    state["bn1.num_batches_tracked"] = torch.tensor(1)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    model = FakeDetector(**FIELDS)
    loaded = pretrained.load_backbone(path, model)
    variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
    found = EfficientNet(TINY).apply(
        variables, images, method=lambda m, x: m.pool(m(x, False))
    )
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-4)
    with pytest.raises(CheckpointError, match="timm's tf_efficientnet_b4"):
        pretrained.check_fit(path, FakeDetector(backbone="efficientnet_b4"))


# SHA-256 (its beginning) over the sorted lines "name [shape]" of the tensors but the
# classifier's, as torchvision 0.28.0 and timm 1.0.31 have them.
PEERS = {
    ("efficientnet_b0", 0): "833a4a6059801d57",
    ("efficientnet_b0", 1): "fc9a1d8e9438f7c5",
    ("efficientnet_b4", 0): "a3629c1d095bde84",
    ("efficientnet_b4", 1): "32e62ab21c8f403a",
}


@pytest.mark.parametrize(("backbone", "peer"), PEERS)
def test_names_and_shapes_are_those_of_torchvision_and_timm(backbone, peer):
    from fakedetect_jax.model.backbones import names

    shapes = pretrained.backbone_shapes(FakeDetector(backbone=backbone))
    size = efficientnet.EFFICIENTNETS[backbone]
    lines = [
        f"{source.name} {pretrained.torch_shape(key, shapes[key], 1)}"
        for key, source in names.efficientnet_schemes(size)[peer].items()
        if source
    ]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert digest.startswith(PEERS[backbone, peer])


def test_named_sizes_have_the_published_number_of_parameters():
    """5.3 and 19.3 million with a classifier of 1000 classes (torchvision's pages)."""
    for name, published in (("b0", 5_288_548), ("b4", 19_341_616)):
        size = efficientnet.EFFICIENTNETS[f"efficientnet_{name}"]
        shapes = efficientnet.variable_shapes(size)
        count = sum(np.prod(s) for key, s in shapes.items() if key[0] == "params")
        assert count + 1000 * (size.top + 1) == published


def test_what_it_cannot_do_is_said():
    for fields, said in (
        ({"freeze_stages": 8}, "has 7 stages"),
        ({"width": 32}, "fixes it"),
        ({"unit_features": True}, "needs a transformer or a ConvNeXt"),
    ):
        with pytest.raises(ConfigError, match=said):
            network.check_fields(FakeDetector(**{**FIELDS, **fields}))
    with pytest.raises(ConfigError, match="no attention"):
        trainable.check(FakeDetector(**FIELDS), Trainable("lora"))


def test_what_is_trained_is_chosen_by_stage_and_norm(tiny):
    model = FakeDetector(**FIELDS, temporal="none")
    shapes = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0), np.zeros((1, 1, 16, 16, 3)), np.ones(1, int)
        )
    )
    blocks = {"layer1_0", "layer1_1", "layer2_0", "layer2_1"}
    for kind, wanted in (
        ("norms", {"bn1", "layer2_bn", *blocks}),
        ("last_n", {"layer2_0", "layer2_1", "layer2_conv", "layer2_bn"}),
    ):
        keep = trainable.is_trained(model, Trainable(kind, last_n=1))
        kept, _ = trainable.split(shapes["params"], keep)
        assert set(kept["backbone"]) == wanted
    assert trainable.frozen_stages(model, Trainable("last_n", last_n=1)) == 1
    assert optimizer.stage_of("layer2_conv", 2) == 2


def test_frozen_stages_keep_their_statistics(tiny):
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(2, 2, 16, 16, 3)).astype(np.float32), np.full(2, 2)
    whole, half = (FakeDetector(**FIELDS, freeze_stages=n) for n in (0, 1))
    variables = whole.init(jax.random.key(0), *clips)
    moved = {}
    for model in (whole, half):
        _, after = model.apply(variables, *clips, train=True, mutable=["batch_stats"])
        old, new = (v["batch_stats"]["backbone"] for v in (variables, after))
        moved[model] = {
            name
            for name in old
            if any(
                (a != b).any()
                for a, b in zip(
                    jax.tree.leaves(old[name]), jax.tree.leaves(new[name]), strict=True
                )
            )
        }
    assert moved[whole] - moved[half] == {"bn1", "layer1_0", "layer1_1"}
    assert moved[half] == {"layer2_0", "layer2_1", "layer2_bn"}


def test_a_clip_is_explained_by_its_places(tiny):
    model = FakeDetector(**FIELDS, temporal="mean", lstm_features=4, remat=True)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 16, 16, 3)).astype(np.uint8)
    length = np.array([3, 2])
    variables = jax.jit(model.init)(jax.random.key(0), np.float32(frames), length)
    found = jax.jit(lambda v: explain_step(model, v, (frames, length)))(variables)
    assert found.heat.shape == (2, 3, 4, 4) and found.running.shape == (2, 3)
    assert np.isfinite(found.heat).all() and (found.heat >= 0).all()
