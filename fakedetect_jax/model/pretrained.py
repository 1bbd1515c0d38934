"""Weights of torchvision, timm, Hugging Face or an export -> our backbone."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model import trainable
from fakedetect_jax.model.backbones import convnext, efficientnet, names, vit
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS
from fakedetect_jax.model.backbones.names import Source
from fakedetect_jax.model.backbones.resnet import BACKBONES, EXPANSION, STEMS
from fakedetect_jax.model.network import (
    FakeDetector,
    convnext_of,
    is_resnet,
    make_model,
    num_stages,
    resnet_of,
    size_of,
)
from tfds_ffpp.store import copies

# Our variable -> its name in torch.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
PROJECT = "fakedetect-jax"  # in the header of an export, by trained.model
FLOATS = ("F16", "BF16", "F32", "F64")
# The classifier and BatchNorm's step counter, which a backbone has no use for.
UNUSED = ("fc.weight", "fc.bias")
UNUSED_OF_EFFICIENTNET = ("classifier.",)
UNUSED_SUFFIX = "num_batches_tracked"
# Names shown of each kind of fault; the rest are counted.
MAX_NAMES = 8


Key = tuple[str, ...]
Shapes = dict[Key, tuple[int, ...]]
Sources = dict[Key, Source | None]
POSITIONS = ("params", "embed", "positions")


class Backbone(NamedTuple):
    """Parameters and running statistics: trees of float32 numpy leaves."""

    params: Any
    batch_stats: Any


def load_backbone(path: Path, model: FakeDetector, image_size: int = 224) -> Backbone:
    """The model's backbone from a .safetensors file.

    Tensors of a ResNet or an EfficientNet are named as torchvision's or timm's, those
    of others as Hugging Face's or timm's, those of an export as a run's own;
    classifiers, text towers and decoders are left out, and of an export all but its
    backbone. Everything else must fit. Position embeddings are interpolated to images
    of image_size pixels.

    Raises CheckpointError for another kind of file, a damaged one, missing or
    unexpected names, wrong shapes, and values that are no numbers.
    """
    loaded = read_tensors(path, model, image_size)
    return Backbone(**{"batch_stats": {}} | traverse_util.unflatten_dict(loaded))


def check_fit(path: Path, model: FakeDetector, image_size: int = 224) -> None:
    """Raises CheckpointError unless the file's header fits the model's backbone.

    Reads no weight and touches no device, so that a wrong file is refused before
    data are built.
    """
    with _opened(path) as file:
        _fitting(path, file, model, backbone_shapes(model, image_size))


def frozen_weights(config) -> dict[str, np.ndarray]:
    """The weights of config.init_from that its run does not train, by their names in a
    checkpoint. Raises CheckpointError as load_backbone does."""
    model, image_size = make_model(config), config.dataset.image_size
    path = copies.here(config.init_from)
    params = {"backbone": load_backbone(path, model, image_size).params}
    keep = trainable.is_trained(model, trainable.of_config(config))
    _, frozen = trainable.split(params, keep)
    leaves: Any = traverse_util.flatten_dict(frozen)
    return {".".join(("params", *names)): leaf for names, leaf in leaves.items()}


def backbone_shapes(model: FakeDetector, image_size: int = 224) -> Shapes:
    """Name and shape of every variable of a model's backbone, without making it."""
    size, stages = size_of(model), convnext_of(model)
    if size:
        found = vit.variable_shapes(size, image_size)
    elif stages:
        found = convnext.variable_shapes(stages)
    elif model.backbone in EFFICIENTNETS:
        return efficientnet.variable_shapes(EFFICIENTNETS[model.backbone])
    else:
        return _resnet_shapes(model)
    return {("params", *key): shape for key, shape in found.items()}


def _resnet_shapes(model: FakeDetector) -> Shapes:
    sizes, block = resnet_of(model)
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


def read_tensors(
    path: Path, model: FakeDetector, image_size: int
) -> dict[Key, np.ndarray]:
    """The backbone's variables, in our layout; none is read before the header fits."""
    wanted = backbone_shapes(model, image_size)
    arrays = {}
    with _opened(path) as file:
        in_torch = not _is_export(file)
        for key, source in _fitting(path, file, model, wanted).items():
            if source is None:
                arrays[key] = np.zeros(wanted[key], np.float32)
                continue
            array = file.get_tensor(source.name).astype(np.float32)
            if not _sound(key, array):
                raise CheckpointError(
                    f"config.init_from {path} holds values that are no numbers or "
                    f"negative variances in {source.name}; get the file again"
                )
            if in_torch or key == POSITIONS:
                array = _our_layout(key, array, source, wanted[key])
            arrays[key] = array
    return arrays


def _is_export(file: Any) -> bool:
    return (file.metadata() or {}).get("project") == PROJECT


def _our_layout(
    key: Key, array: np.ndarray, source: Source, shape: tuple[int, ...]
) -> np.ndarray:
    """torch's [O,I] and [O,I,h,w] -> [I,O] and [h,w,I,O]; rows as they are."""
    array = np.split(array, source.parts)[source.part]
    if key == POSITIONS:
        return fit_positions(array.reshape(-1, shape[1]), shape[0])
    if key[-1] == "kernel":
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array.reshape(shape))


def fit_positions(rows: np.ndarray, count: int) -> np.ndarray:
    """Position embeddings [L,D] of a square of patches as `count` of a larger or
    smaller square.

    By the cubic convolution of Keys (1981), over wider places where the square shrinks,
    as timm does and Hugging Face for DINOv2 with registers; its others use a sharper
    one. A row before the patches', the class token's, stays; it is zero where only the
    file has none (timm adds it to the token).
    """
    before = count - _square(count) ** 2
    if len(rows) == _square(len(rows)) ** 2 and before:
        rows = np.concatenate([np.zeros_like(rows[:1]), rows])
    if len(rows) == count:
        return np.ascontiguousarray(rows)
    old, new = _square(len(rows)), _square(count)
    weights = _cubic_weights(old, new)
    grid = rows[before:].reshape(old, old, -1)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, grid, optimize=True)
    resized = resized.reshape(new * new, -1)
    return np.concatenate([rows[:before], resized]).astype(np.float32)


def _square(count: int) -> int:
    """The side of the largest square of at most so many patches."""
    return int(count**0.5)


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """What each of `new` places takes of `old` ones, [new,old]."""
    wide = max(old / new, 1.0)
    middles = (np.arange(new) + 0.5) * old / new - 0.5
    off = np.abs(middles[:, None] - np.arange(old)) / wide
    near = (1.5 * off - 2.5) * off**2 + 1
    far = ((-0.5 * off + 2.5) * off - 4) * off + 2
    weights = np.where(off < 1, near, np.where(off < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _fitting(path: Path, file, model: FakeDetector, wanted: Shapes) -> Sources:
    """Where the file has each variable.

    Raises one CheckpointError that names all that does not fit; of another backbone it
    says that first: hundreds of names tell less.
    """
    there, is_export = set(file.keys()), _is_export(file)
    if is_export:  # "params.head.kernel" is none of the backbone
        there = {name for name in there if name.split(".")[1] == "backbone"}
        sources: Sources = {
            (kind, *key): Source(".".join((kind, "backbone", *key)))
            for kind, *key in wanted
        }
    else:
        sources = _named_as(there, model, wanted)
    expected: dict[str, list[int]] = {}
    for key, source in sources.items():
        if source is not None:
            shape = torch_shape(key, wanted[key], source.parts)
            in_torch = not is_export or key == POSITIONS
            expected[source.name] = shape if in_torch else [*wanted[key]]
    missing = sorted(set(expected) - there)
    unexpected = sorted(n for n in there - set(expected) if not _is_unused(n, model))
    shapes, kinds = [], []
    for name in sorted(there & set(expected)):
        entry = file.get_slice(name)
        found = entry.get_shape()
        if not _has_shape(found, expected[name]):
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
        likely = _likely_vit(there, model) if size_of(model) else _likely(there)
        if model.backbone in EFFICIENTNETS:
            likely = (
                "its names must be those of torchvision's or timm's "
                f"{model.backbone}; timm's tf_{model.backbone} and Hugging Face's pad "
                "otherwise, and are other networks"
            )
        if is_export:
            likely = "it is an export of this project with another backbone"
        elif convnext_of(model):
            likely = "its names must be those of a Hugging Face or timm ConvNeXt"
        raise CheckpointError(
            f"config.init_from {path} does not fit config.model.backbone: "
            f"{likely} ({misfits})"
        )
    return sources


def _named_as(there: set[str], model: FakeDetector, wanted: Shapes) -> Sources:
    """Where a file would have each variable, by the scheme that knows most names."""
    size, stages = size_of(model), convnext_of(model)
    if size:
        known_as = names.schemes(size)
    elif stages:
        known_as = names.convnext_schemes(stages)
    elif model.backbone in EFFICIENTNETS:
        size = EFFICIENTNETS[model.backbone]
        return _best(there, names.efficientnet_schemes(size))
    else:
        return {key: Source(torch_name(key)) for key in wanted}
    begins = [p for p in names.PREFIXES if any(n.startswith(p) for n in there)]
    begin = begins[0] if begins else ""
    schemes: list[Sources] = [
        {("params", *k): s and s.below(begin) for k, s in scheme.items()}
        for scheme in known_as
    ]

    return _best(there, schemes)


def _best(there: set[str], schemes: list[Sources]) -> Sources:
    """The scheme that knows most names of a file, and has fewest that it lacks."""

    def known(scheme: Sources) -> int:
        found = {source.name for source in scheme.values() if source}
        return len(found & there) - len(found - there)

    return max(schemes, key=known)


def _is_unused(name: str, model: FakeDetector) -> bool:
    if is_resnet(model):
        return name in UNUSED or name.endswith(UNUSED_SUFFIX)
    if model.backbone in EFFICIENTNETS:
        return name.startswith(UNUSED_OF_EFFICIENTNET) or name.endswith(UNUSED_SUFFIX)
    for begin in names.PREFIXES:
        name = name.removeprefix(begin)
    return name.startswith(names.UNUSED)


def torch_shape(key: Key, shape: tuple[int, ...], parts: int) -> list[int]:
    """Of the whole tensor of the file; -1 for as many positions as it has."""
    if key == POSITIONS:
        return [-1, shape[1]]
    if key[-1] == "kernel":
        shape = (shape[-1], *shape[-2:-1], *shape[:-2])
    return [shape[0] * parts, *shape[1:]]


def _has_shape(found: list[int], expected: list[int]) -> bool:
    """Axes of length one before the others say nothing: [1,1,D] is [D] and [1,D]."""
    while len(found) > 1 and found[0] == 1:
        found = found[1:]
    while len(expected) > 1 and expected[0] == 1:
        expected = expected[1:]
    if expected[0] != -1:
        return found == expected
    squares = {_square(found[0]) ** 2, _square(found[0]) ** 2 + 1}
    return found[1:] == expected[1:] and found[0] in squares


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


def _likely_vit(there: set[str], model: FakeDetector) -> str:
    """What may be wrong with a file for a transformer."""
    begin = rf"(?:{'|'.join(map(re.escape, names.PREFIXES))})?"
    block = re.compile(begin + r"(?:encoder\.)?(?:blocks|layers?)\.(\d+)\.")
    numbers = {found[1] for found in map(block.match, there) if found}
    if not numbers:
        return "its names must be those of a Hugging Face or timm vision transformer"
    depth = num_stages(model)
    return f"it has {len(numbers)} blocks where {model.backbone} has {depth}"


def _sound(key: tuple[str, ...], array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and (key[-1] != "var" or (array >= 0).all()))
