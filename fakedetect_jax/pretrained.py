"""ResNet weights in torchvision's and timm's names (safetensors) -> our backbone."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.models import BACKBONES

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


def load_backbone(
    path: Path, *, params: Any, batch_stats: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The backbone's parameters and running statistics from a .safetensors file.

    `params` and `batch_stats` are a backbone's trees, of which only names and shapes
    are read. The result has the same trees with float32 numpy leaves.

    torchvision and timm name a ResNet's tensors alike; their classifier `fc` is left
    out. Everything else must fit. Raises CheckpointError for another kind of file, a
    damaged one, missing or unexpected names, wrong shapes, and values that are no
    numbers.
    """
    wanted = {
        **_flat_shapes("params", params),
        **_flat_shapes("batch_stats", batch_stats),
    }
    loaded = read_tensors(path, wanted)
    tree = traverse_util.unflatten_dict(loaded)
    return tree["params"], tree["batch_stats"]


def torch_name(key: tuple[str, ...]) -> str:
    """("params", "layer1_0", "bn1", "scale") -> "layer1.0.bn1.weight"."""
    *modules, leaf = key[1:]
    names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [names.get(module, module.replace("_", ".")) for module in modules]
    return ".".join([*parts, LEAVES[leaf]])


def read_tensors(
    path: Path, wanted: dict[tuple[str, ...], tuple[int, ...]]
) -> dict[tuple[str, ...], np.ndarray]:
    """The wanted variables, in our layout; nothing is read before the header fits."""
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"config.init_from {path} is not a .safetensors file, and nothing is ever "
            "unpickled; save its state_dict with safetensors.torch.save_file first"
        )
    if not path.is_file():
        raise CheckpointError(f"config.init_from {path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            _check_header(path, file, wanted)
            arrays = {key: file.get_tensor(torch_name(key)) for key in wanted}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"config.init_from {path} is damaged or not a safetensors file ({error})"
        ) from error
    arrays = {key: _our_layout(array) for key, array in arrays.items()}
    _check_values(path, arrays)
    return arrays


def _flat_shapes(collection: str, tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(tree)
    return {(collection, *key): tuple(leaf.shape) for key, leaf in flat.items()}


def _torch_shape(shape: tuple[int, ...]) -> list[int]:
    """[h,w,I,O] -> [O,I,h,w]; vectors stay."""
    return [shape[i] for i in (3, 2, 0, 1)] if len(shape) == 4 else list(shape)


def _our_layout(array: np.ndarray) -> np.ndarray:
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return np.ascontiguousarray(array, np.float32)


def _check_header(path: Path, file, wanted: dict) -> None:
    """Raises one CheckpointError that names all that does not fit."""
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
    told = "; ".join(fault for fault in faults if fault)
    if told:
        raise CheckpointError(
            f"config.init_from {path} does not fit config.model.backbone: {told}"
            f"{_likely(names)}"
        )


def _named(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)} {kind}: {', '.join(names[:MAX_NAMES])}{more}"


def _likely(names: set[str]) -> str:
    """Which backbone the names belong to, as the end of a sentence."""
    stages = [
        len({n.split(".")[1] for n in names if n.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    kind = "bottleneck" if "layer1.0.conv3.weight" in names else "basic"
    fitting = [name for name, value in BACKBONES.items() if value == ((*stages,), kind)]
    if fitting:
        return f"; its blocks are those of {fitting[0]}"
    return "; the names must be those of a torchvision or timm ResNet"


def _check_values(path: Path, arrays: dict[tuple[str, ...], np.ndarray]) -> None:
    bad = [torch_name(key) for key, array in arrays.items() if not _sound(key, array)]
    if bad:
        raise CheckpointError(
            f"config.init_from {path} holds values that are no numbers or negative "
            f"variances in {_named('tensors', bad)}; get the file again"
        )


def _sound(key: tuple[str, ...], array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and (key[-1] != "var" or (array >= 0).all()))
