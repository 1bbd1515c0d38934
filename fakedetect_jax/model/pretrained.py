"""ResNet weights in torchvision's and timm's names (safetensors) -> our backbone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model.network import BACKBONES, EXPANSION, STEMS, FakeDetector

# Our variable -> its name in torch.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
FLOATS = ("F16", "BF16", "F32", "F64")
# The classifier and BatchNorm's step counter, which a backbone has no use for.
UNUSED = ("fc.weight", "fc.bias")
UNUSED_SUFFIX = "num_batches_tracked"
# Names shown of each kind of fault; the rest are counted.
MAX_NAMES = 8


Shapes = dict[tuple[str, ...], tuple[int, ...]]


class Backbone(NamedTuple):
    """Parameters and running statistics: trees of float32 numpy leaves."""

    params: Any
    batch_stats: Any


def load_backbone(path: Path, model: FakeDetector) -> Backbone:
    """The model's backbone from a .safetensors file.

    torchvision and timm name a ResNet's tensors alike; their classifier `fc` is left
    out. Everything else must fit. Raises CheckpointError for another kind of file, a
    damaged one, missing or unexpected names, wrong shapes, and values that are no
    numbers.
    """
    loaded = read_tensors(path, backbone_shapes(model))
    return Backbone(**traverse_util.unflatten_dict(loaded))


def check_fit(path: Path, model: FakeDetector) -> None:
    """Raises CheckpointError unless the file's header fits the model's backbone.

    Reads no weight and touches no device, so that a wrong file is refused before
    data are built.
    """
    with _opened(path) as file:
        _check_header(path, file, backbone_shapes(model))


def backbone_shapes(model: FakeDetector) -> Shapes:
    """Name and shape of every variable of a model's backbone, without making it."""
    sizes, block = BACKBONES.get(model.backbone, (model.stage_sizes, model.block))
    shapes: Shapes = {}

    def conv(inputs: int, outputs: int, size: int, *names: str) -> None:
        shapes["params", *names, "kernel"] = (size, size, inputs, outputs)

    def norm(channels: int, *names: str) -> None:
        for collection, leaves in (
            ("params", ("scale", "bias")),
            ("batch_stats", ("mean", "var")),
        ):
            for leaf in leaves:
                shapes[collection, *names, leaf] = (channels,)

    conv(3, model.width, STEMS[model.stem][0], "conv1")
    norm(model.width, "bn1")
    inputs = model.width
    for stage, count in enumerate(sizes):
        inner = model.width * 2**stage
        outputs = inner * EXPANSION[block]
        for i in range(count):
            name = f"layer{stage + 1}_{i}"
            layers = [(inner, 3), (outputs, 3)]
            if block == "bottleneck":
                layers = [(inner, 1), (inner, 3), (outputs, 1)]
            below = inputs
            for part, (channels, size) in enumerate(layers, start=1):
                conv(below, channels, size, name, f"conv{part}")
                norm(channels, name, f"bn{part}")
                below = channels
            if inputs != outputs or (stage and i == 0):
                conv(inputs, outputs, 1, name, "downsample_conv")
                norm(outputs, name, "downsample_bn")
            inputs = outputs
    return shapes


def torch_name(key: tuple[str, ...]) -> str:
    """("params", "layer1_0", "bn1", "scale") -> "layer1.0.bn1.weight"."""
    *modules, leaf = key[1:]
    names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [names.get(module, module.replace("_", ".")) for module in modules]
    return ".".join([*parts, LEAVES[leaf]])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; whatever fails while it is read becomes a CheckpointError."""
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"config.init_from {path} is not a .safetensors file, and nothing is ever "
            "unpickled; docs/weights.md has the three lines that convert it"
        )
    if not path.is_file():
        raise CheckpointError(
            f"config.init_from {path} does not exist; give the path of a .safetensors "
            "file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"config.init_from {path} is damaged or not a safetensors file ({error}); "
            "get it again"
        ) from error


def read_tensors(path: Path, wanted: Shapes) -> dict[tuple[str, ...], np.ndarray]:
    """The wanted variables, in our layout; nothing is read before the header fits."""
    with _opened(path) as file:
        _check_header(path, file, wanted)
        arrays = {key: file.get_tensor(torch_name(key)) for key in wanted}
    arrays = {key: _our_layout(array) for key, array in arrays.items()}
    _check_values(path, arrays)
    return arrays


def _torch_shape(shape: tuple[int, ...]) -> list[int]:
    """[h,w,I,O] -> [O,I,h,w]; vectors stay."""
    return [shape[i] for i in (3, 2, 0, 1)] if len(shape) == 4 else list(shape)


def _our_layout(array: np.ndarray) -> np.ndarray:
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return np.ascontiguousarray(array, np.float32)


def _check_header(path: Path, file, wanted: Shapes) -> None:
    """Raises one CheckpointError that names all that does not fit.

    Of another ResNet it says that first: hundreds of names tell less.
    """
    names = set(file.keys())
    expected = {torch_name(key): _torch_shape(shape) for key, shape in wanted.items()}
    missing = sorted(set(expected) - names)
    unexpected = sorted(
        name
        for name in names - set(expected)
        if name not in UNUSED and not name.endswith(UNUSED_SUFFIX)
    )
    shapes, kinds = [], []
    for name in sorted(names & set(expected)):
        entry = file.get_slice(name)
        if entry.get_shape() != expected[name]:
            found = entry.get_shape()
            shapes.append(f"{name} {found} instead of {expected[name]}")
        if entry.get_dtype() not in FLOATS:
            kinds.append(f"{name} ({entry.get_dtype()})")
    faults = [
        _named("missing", missing),
        _named("unexpected", unexpected),
        _named("wrong shapes", shapes),
        _named("not floating point", kinds),
    ]
    misfits = "; ".join(fault for fault in faults if fault)
    if misfits:
        raise CheckpointError(
            f"config.init_from {path} does not fit config.model.backbone: "
            f"{_likely(names)} ({misfits})"
        )


def _named(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)} {kind}: {', '.join(names[:MAX_NAMES])}{more}"


def _likely(names: set[str]) -> str:
    """Which backbone the names belong to, and what to do."""
    stages = [
        len({n.split(".")[1] for n in names if n.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    kind = "bottleneck" if "layer1.0.conv3.weight" in names else "basic"
    fitting = [name for name, value in BACKBONES.items() if value == ((*stages,), kind)]
    if fitting:
        return f"its blocks are those of {fitting[0]}"
    return "its names must be those of a torchvision or timm ResNet"


def _check_values(path: Path, arrays: dict[tuple[str, ...], np.ndarray]) -> None:
    bad = [torch_name(key) for key, array in arrays.items() if not _sound(key, array)]
    if bad:
        raise CheckpointError(
            f"config.init_from {path} holds values that are no numbers or negative "
            f"variances in {_named('tensors', bad)}; get the file again"
        )


def _sound(key: tuple[str, ...], array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and (key[-1] != "var" or (array >= 0).all()))
