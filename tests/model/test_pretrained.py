"""Weights in torchvision's and timm's names give its features, or an error."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fakedetect_jax import settings
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model import network, pretrained
from fakedetect_jax.model.backbones import resnet as resnets
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.trained.model import read_workdir, write_bundle
from fakedetect_jax.trained.weights import read_variables
from fakedetect_jax.training.summary import learns_from_nothing


def detector(resnet: resnets.ResNet) -> network.FakeDetector:
    """A detector with that backbone."""
    return network.FakeDetector(
        backbone="resnet",
        stage_sizes=resnet.stage_sizes,
        block=resnet.block,
        width=resnet.width,
        stem=resnet.stem,
    )


def load(path, resnet):
    params, statistics = pretrained.load_backbone(path, detector(resnet))
    return {"params": params, "batch_stats": statistics}


@pytest.mark.parametrize(
    "model",
    [
        *(network.FakeDetector(backbone=name) for name in resnets.BACKBONES),
        network.FakeDetector(
            backbone="resnet", stage_sizes=(2, 1), width=8, stem="small2"
        ),
        network.FakeDetector(
            backbone="resnet", stage_sizes=(1, 1, 1), width=8, block="bottleneck"
        ),
    ],
    ids=lambda model: f"{model.backbone}-{model.block}",
)
def test_the_shapes_are_those_of_the_model(model):
    frames = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
    length = jax.ShapeDtypeStruct((1,), jnp.int32)
    made = jax.eval_shape(
        lambda f, n: model.init(jax.random.key(0), f, n), frames, length
    )
    wanted = {}
    for collection in ("params", "batch_stats"):
        leaves = jax.tree_util.tree_leaves_with_path(made[collection]["backbone"])
        for path, leaf in leaves:
            wanted[collection, *(key.key for key in path)] = leaf.shape
    assert pretrained.backbone_shapes(model) == wanted


def random_weights(
    block: str, sizes, width: int, *, stem: int = 7
) -> dict[str, np.ndarray]:
    """A state dict in torch's names and layout, written from the definition."""
    draw = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def conv(name, inputs, outputs, size):
        shape = (outputs, inputs, size, size)
        weights[f"{name}.weight"] = draw.normal(size=shape) / np.sqrt(inputs * size**2)

    def norm(name, channels):
        weights[f"{name}.weight"] = draw.uniform(0.5, 1.5, channels)
        weights[f"{name}.bias"] = draw.normal(size=channels)
        weights[f"{name}.running_mean"] = draw.normal(size=channels)
        weights[f"{name}.running_var"] = draw.uniform(0.5, 1.5, channels)

    conv("conv1", 3, width, stem)
    norm("bn1", width)
    inputs, grow = width, 4 if block == "bottleneck" else 1
    for stage, count in enumerate(sizes, start=1):
        inner = width * 2 ** (stage - 1)
        for i in range(count):
            at = f"layer{stage}.{i}"
            layers = [(inner, 1), (inner, 3), (inner * 4, 1)]
            layers = layers if grow == 4 else [(inner, 3), (inner, 3)]
            below = inputs
            for part, (channels, size) in enumerate(layers, start=1):
                conv(f"{at}.conv{part}", below, channels, size)
                norm(f"{at}.bn{part}", channels)
                below = channels
            if inputs != inner * grow or (stage > 1 and i == 0):
                conv(f"{at}.downsample.0", inputs, inner * grow, 1)
                norm(f"{at}.downsample.1", inner * grow)
            inputs = inner * grow
    weights["fc.weight"] = draw.normal(size=(10, inputs))
    weights["fc.bias"] = np.zeros(10)
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    return {**weights, "bn1.num_batches_tracked": np.array(3)}


def windows(x, size, stride, fill):
    """[C,H,W] -> [C,P,Q,size,size], padded by half the size as torch does."""
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def reference(weights, image_CHW, block, sizes):
    """The feature map of one image in float64, step by step in numpy."""

    def conv(x, name, stride=1):
        kernel = weights[f"{name}.weight"].astype(np.float64)
        seen = windows(x, kernel.shape[-1], stride, 0.0)
        return np.einsum("chwij,ocij->ohw", seen, kernel)

    def norm(x, name):
        w, b, mean, var = (
            weights[f"{name}.{part}"].astype(np.float64)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * w + b

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm(conv(image_CHW, "conv1", 2), "bn1"))
    x = windows(x, 3, 2, -np.inf).max(axis=(-1, -2))
    for stage, count in enumerate(sizes, start=1):
        for i in range(count):
            at, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            strides = [1, stride, 1] if block == "bottleneck" else [stride, 1]
            y, shortcut = x, x
            for part, step in enumerate(strides, start=1):
                y = norm(conv(y, f"{at}.conv{part}", step), f"{at}.bn{part}")
                y = relu(y) if part < len(strides) else y
            if f"{at}.downsample.0.weight" in weights:
                shortcut = conv(x, f"{at}.downsample.0", stride)
                shortcut = norm(shortcut, f"{at}.downsample.1")
            x = relu(y + shortcut)
    return x


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("size", [32, 37])
def test_features_equal_the_definition_in_numpy(block, size, tmp_path):
    weights = random_weights(block, (1, 2), 4)
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    resnet = resnets.ResNet((1, 2), block=block, width=4)
    image = np.random.default_rng(1).normal(size=(1, size, size, 3)).astype(np.float32)

    found = np.asarray(resnet.apply(load(path, resnet), image, False))

    wanted = reference(weights, image[0].transpose(2, 0, 1), block, (1, 2))
    np.testing.assert_allclose(found[0].transpose(2, 0, 1), wanted, atol=1e-4)


@pytest.mark.parametrize("name", list(resnets.BACKBONES))
def test_features_equal_torch(name, tmp_path):
    torch = pytest.importorskip(
        "torch", reason="PyTorch is not installed (extra bench)"
    )
    from safetensors.torch import save_file as save_torch

    from benchmarks import torch_model

    torch.manual_seed(0)
    peer = torch_model.ResNet(name).eval()
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.6)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path / f"{name}.safetensors"
    save_torch(peer.state_dict(), path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = peer(images).numpy().transpose(0, 2, 3, 1)
    sizes, block = resnets.BACKBONES[name]
    resnet = resnets.ResNet(sizes, block=block)

    variables = load(path, resnet)
    images_NHWC = images.numpy().transpose(0, 2, 3, 1)
    found = np.asarray(resnet.apply(variables, images_NHWC, False))

    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture
def tiny():
    """A backbone and a file's tensors that fit it."""
    return resnets.ResNet((1, 1), block="basic", width=4), random_weights(
        "basic", (1, 1), 4
    )


@pytest.mark.parametrize("backbone", ["tiny", "vit"])
def test_an_export_is_begun_with(backbone, tiny_run, tmp_path):
    """The backbone is the model's to the bit; what comes after it is not read."""
    trained = read_workdir(tiny_run.workdir)
    model, side = network.make_model(tiny_run.config), 32
    if backbone == "vit":
        model = network.FakeDetector(
            backbone="vit", width=32, depth=1, num_heads=2, patch_size=8
        )
        variables = model.init(
            jax.random.key(0), np.zeros((1, 2, side, side, 3)), np.ones(1, int)
        )
        trained = trained._replace(variables=jax.device_get(variables))
    write_bundle(trained, tmp_path)
    path = tmp_path / "model.safetensors"
    pretrained.check_fit(path, model, side)
    found = pretrained.load_backbone(path, model, side)
    for kind in ("params", "batch_stats"):
        wanted = trained.variables.get(kind, {}).get("backbone", {})
        jax.tree.map(np.testing.assert_array_equal, getattr(found, kind), wanted)
    if backbone == "vit":  # at another size the places lie otherwise
        larger = pretrained.load_backbone(path, model, 2 * side).params
        assert len(larger["embed"]["positions"]) == 8 * 8 + 1
    other = network.FakeDetector(backbone="resnet", stage_sizes=(1,), width=99)
    with pytest.raises(CheckpointError, match="an export of this project with another"):
        pretrained.check_fit(path, other, side)


def test_half_precision_files_are_read(tiny, tmp_path):
    resnet, weights = tiny
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    save_file(half, tmp_path / "half.safetensors")
    kernel = load(tmp_path / "half.safetensors", resnet)["params"]["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(
        kernel, weights["conv1.weight"].transpose(2, 3, 1, 0), atol=1e-3
    )


def test_everything_that_does_not_fit_is_named_at_once(tiny, tmp_path):
    resnet, weights = tiny
    weights["conv1.weight"] = weights["conv1.weight"][:, :, :3, :3].copy()
    weights["layer1.0.bn1.weight"] = np.ones(4, np.int32)
    del weights["layer1.0.conv2.weight"]
    weights["layer9.0.conv1.weight"] = np.zeros(3, np.float32)
    save_file(weights, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "odd.safetensors", resnet)
    for said in (
        "1 missing: layer1.0.conv2.weight",
        "1 unexpected: layer9.0.conv1.weight",
        "conv1.weight [4, 3, 3, 3] instead of [4, 3, 7, 7]",
        "layer1.0.bn1.weight (I32)",
    ):
        assert said in str(error.value)


def test_another_resnet_is_recognised(tmp_path):
    sizes, block = resnets.BACKBONES["resnet34"]
    save_file(random_weights(block, sizes, 4), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="blocks are those of resnet34"):
        load(tmp_path / "other.safetensors", resnets.ResNet((3, 4, 6, 3)))


@pytest.mark.parametrize(
    ("name", "value"), [("conv1.weight", np.nan), ("bn1.running_var", -1.0)]
)
def test_values_that_are_no_numbers_are_refused(name, value, tiny, tmp_path):
    resnet, weights = tiny
    weights[name].flat[0] = value
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path / "bad.safetensors", resnet)


HUGE = {"conv1.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(40),
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
        len(json.dumps(HUGE)).to_bytes(8, "little") + json.dumps(HUGE).encode(),
    ],
    ids=["empty", "zip", "endless header", "no JSON", "beyond the end"],
)
def test_hostile_files_are_refused(content, tiny, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load(path, tiny[0])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".h5", ".zip", ".npz"])
def test_only_safetensors_are_opened(suffix, tiny, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"not to be read")
    with pytest.raises(CheckpointError, match="nothing is ever unpickled"):
        load(path, tiny[0])


def test_a_missing_file_is_told(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none.safetensors", tiny[0])


# In a run -------------------------------------------------------------------------


@pytest.fixture
def fitting(tmp_path):
    """A file for the backbone of tiny_config, and its tensors."""
    weights = random_weights("basic", (1, 1), 8, stem=3)
    path = tmp_path / "fitting.safetensors"
    save_file(weights, path)
    return path, weights


def test_a_run_begins_with_the_files_weights_and_says_so(
    launchpad, tiny_config, fitting, tmp_path
):
    path, weights = fitting
    command = ("--config", tiny_config, "--workdir", tmp_path / "w")
    code, out, err = launchpad.run(
        *(*command, f"--config.init_from={path}", "--config.num_steps=1"),
        "--config.optimizer.ema_decay=0.9",
        "--config.optimizer.learning_rate=1e-9",
    )
    assert code == 0, err
    assert f"backbone  resnet: weights of {path}" in out
    count = sum(name.split(".")[0] != "fc" for name in weights) - 1
    assert f"loaded    {count} tensors, " in out
    checkpoints = Checkpoints(tmp_path / "w" / "checkpoints", read_only=True)
    config = settings.load(str(tiny_config))
    found = read_variables(config, checkpoints, 1)["params"]["backbone"]
    checkpoints.close()
    for block, name in ((found, "conv1"), (found["layer2_0"], "conv2")):
        torch_name = name if block is found else f"layer2.0.{name}"
        wanted = weights[f"{torch_name}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_allclose(block[name]["kernel"], wanted, atol=1e-6)
    # A run that goes on has its weights: the file may be gone.
    path.unlink()
    code, out, err = launchpad.run(
        *(*command, f"--config.init_from={path}", "--config.num_steps=2"),
        "--config.optimizer.ema_decay=0.9",
    )
    assert code == 0, err
    assert f"backbone  resnet: as of step 1, begun with weights of {path}" in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50.pth", "nothing is ever unpickled; docs/weights.md"),
        ("none.safetensors", "does not exist"),
        ("another.safetensors", "its blocks are those of resnet18"),
    ],
)
def test_weights_that_cannot_work_are_refused_before_devices_and_data(
    launchpad, tiny_config, tmp_path, name, said
):
    if name.startswith("another"):
        sizes, block = resnets.BACKBONES["resnet18"]
        save_file(random_weights(block, sizes, 4), tmp_path / name)
    (tmp_path / "resnet50.pth").write_bytes(b"PK")
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", tmp_path / "w"),
        *(f"--config.init_from={tmp_path / name}", "--config.data.data_dir=/none"),
        "--config.accelerator=tpu",  # said as soon as a device is looked for
    )
    assert code == 4
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["ffpp", "ffpp_best"])
def test_the_full_configs_know_when_they_learn_from_nothing(load_config, name):
    config = load_config(name)
    assert learns_from_nothing(config, made=False)
    assert not learns_from_nothing(config, made=True)
    with config.unlocked():
        config.init_from = "resnet50.safetensors"
    assert not learns_from_nothing(config, made=False)
    assert not learns_from_nothing(load_config("demo"), made=False)


def test_a_resnet_50_on_real_videos_warns_of_random_weights(
    launchpad, tiny_config, tiny_run, tmp_path
):
    shutil.copytree(tiny_run.config.data.data_dir, tmp_path / "tfds")
    (card,) = (tmp_path / "tfds").rglob("demo/*/card.json")
    facts = json.loads(card.read_text())
    card.write_text(json.dumps({**facts, "made": False}))
    process = launchpad.start(
        *("--config", tiny_config, "--workdir", tmp_path / "w"),
        *(f"--config.data.data_dir={tmp_path / 'tfds'}", "--config.model.width=64"),
        *("--config.model.backbone=resnet50", "--config.model.stage_sizes=()"),
        "--config.model.stem=imagenet",
    )
    process.until("resnet50 begins with random weights")  # before it compiles
    process.send(signal.SIGKILL)
    process.wait()
    assert "backbone  resnet50: random weights" in process.stdout
