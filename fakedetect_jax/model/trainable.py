"""Which parameters are trained, and small ones that are trained in their place.

What is frozen has no gradient and no optimiser's state: a step differentiates a tree of
the trained leaves alone. Names are those on the way to a leaf: ("backbone", "block0",
"attention", "query", "kernel").
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.network import FakeDetector, num_stages, size_of
from fakedetect_jax.model.optimizer import stage_of

KINDS = ("all", "head", "norms", "lora", "last_n")
# Low-rank changes of the backbone's kernels lie here, beside "backbone" and "head".
LORA = "lora"
PROJECTIONS = ("query", "key", "value", "out")

Tree = dict[str, Any]  # names to leaves, or to such as it


class Trainable(NamedTuple):
    """What is trained: config.trainable, and the fields of config.adapter.

    Whatever it is, all that is not the backbone is trained: LSTM, pooling and head.
    """

    kind: str = "all"
    last_n: int = 1
    rank: int = 8
    alpha: float = 16.0


def of_config(config) -> Trainable:
    """What a config trains."""
    return Trainable(config.trainable, **config.adapter.to_dict())


def check(model: FakeDetector, trainable: Trainable) -> None:
    """Raises ConfigError for what such a backbone cannot train."""
    kind, stages = trainable.kind, num_stages(model)
    if kind == "lora" and size_of(model) is None:
        raise ConfigError(
            f"config.trainable is 'lora', but {model.backbone} has no attention whose "
            "projections it could change; take a vision transformer, or 'last_n'"
        )
    if kind == "last_n" and not 1 <= trainable.last_n <= stages:
        raise ConfigError(
            f"config.adapter.last_n is {trainable.last_n}; {model.backbone} has "
            f"{stages} {'blocks' if size_of(model) else 'stages'}"
        )
    if kind != "all" and model.freeze_stages:
        raise ConfigError(
            f"config.trainable is {kind!r} and config.model.freeze_stages "
            f"{model.freeze_stages}: both freeze; set one of them"
        )


def frozen_stages(model: FakeDetector, trainable: Trainable) -> int:
    """The leading stages of a ResNet that are constants, with their statistics."""
    if size_of(model) is None and trainable.kind in ("head", "last_n"):
        kept = trainable.last_n if trainable.kind == "last_n" else 0
        return num_stages(model) - kept
    return model.freeze_stages


def is_trained(model: FakeDetector, trainable: Trainable) -> Callable:
    """A function of a leaf's names: whether it is trained."""
    stages = num_stages(model)
    in_backbone: dict[str, Callable[[tuple[str, ...]], bool]] = {
        "all": lambda names: True,
        "head": lambda names: False,
        "norms": _is_norm,
        "lora": lambda names: False,
        "last_n": lambda names: stage_of(names[1], stages) > stages - trainable.last_n,
    }
    inside = in_backbone[trainable.kind]
    return lambda names: (
        inside(names) if names[0] == "backbone" else names != (LORA, "scale")
    )


def _is_norm(names: tuple[str, ...]) -> bool:
    """Of a LayerNorm or BatchNorm; GenD trains these (Yermakov et al. 2025)."""
    layer = names[-2].removeprefix("pre_").removeprefix("downsample_")
    return layer.rstrip("0123456789") in ("norm", "bn")


def split(tree: Tree, keep: Callable) -> tuple[Tree, Tree]:
    """The leaves that `keep` says yes to, and the others, each where it was."""
    return _chosen(tree, keep, True, ()), _chosen(tree, keep, False, ())


def _chosen(tree: Tree, keep: Callable, wanted: bool, above: tuple[str, ...]) -> Tree:
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            below = _chosen(value, keep, wanted, (*above, name))
            if below:
                found[name] = below
        elif keep((*above, name)) == wanted:
            found[name] = value
    return found


def join(tree: Tree, other: Tree) -> Tree:
    """Both trees as one; where they have the same leaf, the other's."""
    both = dict(tree)
    for name, value in other.items():
        mine = both.get(name)
        both[name] = join(mine, value) if isinstance(mine, dict) else value
    return both


# Low-rank changes ------------------------------------------------------------------


def with_adapters(params: Tree, trainable: Trainable, key: jax.Array) -> Tree:
    """The parameters, with a change of rank `rank` for each projection of attention.

    LoRA (Hu et al. 2022): a kernel W becomes W + alpha / rank A B; A is drawn and B is
    zero, so that training begins with W.
    """
    if trainable.kind != "lora":
        return params
    rank, backbone = trainable.rank, params["backbone"]
    blocks = sorted(name for name in backbone if name.startswith("block"))
    keys = iter(jax.random.split(key, len(blocks) * len(PROJECTIONS)))

    def change(layer: Tree) -> Tree:
        rows, columns = layer["kernel"].shape
        a = jax.random.normal(next(keys), (rows, rank)) / rows**0.5
        return {"a": a, "b": jnp.zeros((rank, columns))}

    def changes(block: str) -> Tree:
        layers = backbone[block]["attention"]
        return {"attention": {name: change(layers[name]) for name in PROJECTIONS}}

    scale = jnp.float32(trainable.alpha / rank)
    return {**params, LORA: {"scale": scale, **{b: changes(b) for b in blocks}}}


def abstract_adapters(params: Tree, trainable: Trainable) -> Tree:
    """with_adapters of shapes: arrays without memory for arrays without memory."""
    made = jax.eval_shape(
        lambda: with_adapters(params, trainable, jax.random.key(0))[LORA]
    )
    empty = jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), made
    )
    return {**params, LORA: empty}


def merged(params: Tree) -> Tree:
    """The parameters as the network takes them, changes added to their kernels."""
    if LORA not in params:
        return params
    changes = dict(params[LORA])
    scale = changes.pop("scale")

    def changed(kernels: Tree, changes: Tree) -> Tree:
        if "a" in changes:
            kernel = kernels["kernel"] + scale * (changes["a"] @ changes["b"])
            return {**kernels, "kernel": kernel}
        return kernels | {k: changed(kernels[k], v) for k, v in changes.items()}

    rest = {name: value for name, value in params.items() if name != LORA}
    return {**rest, "backbone": changed(params["backbone"], changes)}
