"""Which parameters are trained, and small ones that are trained in their place.

What is frozen has no gradient and no optimiser's state: a step differentiates a tree of
the trained leaves alone. Names are those on the way to a leaf: ("backbone", "block0",
"attention", "query", "kernel").
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.network import (
    FakeDetector,
    Tree,
    has_statistics,
    num_stages,
    size_of,
)
from fakedetect_jax.model.optimizer import ADAPTERS, stage_of

KINDS = ("all", "head", "norms", "lora", "svd", "last_n")
PROJECTIONS = ("query", "key", "value", "out")


class Trainable(NamedTuple):
    """What is trained: config.trainable, and the fields of config.adapter.

    Whatever it is, all that is not the backbone is trained: LSTM, pooling and head.
    """

    kind: str = "all"
    last_n: int = 1
    rank: int = 8
    alpha: float = 16.0
    orthogonality: float = 1.0
    size: float = 1.0


def of_config(config) -> Trainable:
    """What a config trains."""
    return Trainable(config.trainable, **config.adapter.to_dict())


def check(model: FakeDetector, trainable: Trainable) -> None:
    """Raises ConfigError for what such a backbone cannot train."""
    kind, stages = trainable.kind, num_stages(model)
    if kind in ADAPTERS and size_of(model) is None:
        raise ConfigError(
            f"config.trainable is {kind!r}, but {model.backbone} has no attention, "
            "whose projections it changes; take a vision transformer, or 'last_n'"
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
    """The leading stages of a ResNet or EfficientNet that are constants, with their
    statistics."""
    if has_statistics(model) and trainable.kind in ("head", "last_n"):
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
        **dict.fromkeys(ADAPTERS, lambda names: False),
        "last_n": lambda names: stage_of(names[1], stages) > stages - trainable.last_n,
    }
    inside = in_backbone[trainable.kind]

    def keep(names: tuple[str, ...]) -> bool:
        if names[0] == "backbone":
            return inside(names)
        return names[0] not in ADAPTERS or names[-1] in ADAPTERS[names[0]]

    return keep


def _is_norm(names: tuple[str, ...]) -> bool:
    """Of a LayerNorm or BatchNorm; GenD trains these (Yermakov et al. 2025)."""
    return names[-2].split("_")[-1].rstrip("0123456789") in ("norm", "bn")


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


def at(tree: Tree, names: Iterable[str]) -> Any:
    """What stands in a tree under these names, one below the other."""
    for name in names:
        tree = tree[name]
    return tree


# In place of kernels ---------------------------------------------------------------


def with_adapters(params: Tree, trainable: Trainable, key: jax.Array) -> Tree:
    """The parameters, with what is trained in place of each projection of attention.

    LoRA (Hu et al. 2022): a kernel W becomes W + alpha / rank A B; A is drawn and B is
    zero. Effort (Yan et al., ICML 2025): of W = U S V the `rank` smallest singular
    values and their vectors are trained, the others stay. Either begins with W.
    """
    kind = trainable.kind
    if kind not in ADAPTERS:
        return params
    blocks = sorted(name for name in params["backbone"] if name.startswith("block"))
    keys = iter(jax.random.split(key, len(blocks) * len(PROJECTIONS)))
    make = {"lora": _low_rank, "svd": _least_part}[kind]

    def adapters(block: str) -> Tree:
        made = {}
        for name in PROJECTIONS:
            kernel = at(params, ("backbone", block, "attention", name, "kernel"))
            made[name] = make(kernel, trainable, next(keys))
        return {"attention": made}

    return {**params, kind: {block: adapters(block) for block in blocks}}


class LowRank(NamedTuple):
    """A change scale A B of a kernel [D,E]: a [D,R], b [R,E]."""

    a: jax.Array
    b: jax.Array
    scale: jax.Array

    @property
    def change(self) -> jax.Array:
        """What is added to the kernel."""
        return self.scale * (self.a @ self.b)


class LeastPart(NamedTuple):
    """The least singular values s [R] of a kernel and their vectors, now and at first:
    u [D,R], v [R,E]."""

    u: jax.Array
    s: jax.Array
    v: jax.Array
    u0: jax.Array
    s0: jax.Array
    v0: jax.Array

    @property
    def change(self) -> jax.Array:
        """What is added to the kernel."""
        return (self.u * self.s) @ self.v - (self.u0 * self.s0) @ self.v0


def _low_rank(kernel: jax.Array, trainable: Trainable, key: jax.Array) -> Tree:
    (rows, columns), rank = kernel.shape, trainable.rank
    a = jax.random.normal(key, (rows, rank)) / rows**0.5
    scale = jnp.float32(trainable.alpha / rank)
    return LowRank(a, jnp.zeros((rank, columns)), scale)._asdict()


def _least_part(kernel: jax.Array, trainable: Trainable, key: jax.Array) -> Tree:
    """The least singular values s and their vectors u, v, to be trained; and as they
    were."""
    del key  # nothing is drawn
    u, s, v = jnp.linalg.svd(kernel, full_matrices=False)
    rank = trainable.rank
    least = u[:, -rank:], s[-rank:], v[-rank:]
    return LeastPart(*least, *map(jnp.array, least))._asdict()


def abstract_adapters(params: Tree, trainable: Trainable) -> Tree:
    """with_adapters of shapes: arrays without memory for arrays without memory."""
    made = jax.eval_shape(
        lambda: with_adapters(params, trainable, jax.random.key(0))[trainable.kind]
    )

    def empty(leaf: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

    return {**params, trainable.kind: jax.tree.map(empty, made)}


def merged(params: Tree) -> Tree:
    """The parameters as the network takes them, changes added to their kernels."""
    for kind in ADAPTERS.keys() & params.keys():
        rest = {name: value for name, value in params.items() if name != kind}
        leaves: Any = traverse_util.flatten_dict(rest)
        for names, adapter in _beside_kernels(params, kind):
            leaves[names] = leaves[names] + adapter.change
        return traverse_util.unflatten_dict(leaves)
    return params


def _beside_kernels(
    params: Tree, kind: str
) -> Iterator[tuple[tuple[str, ...], LowRank | LeastPart]]:
    """The names of each kernel that has an adapter, and this."""
    make = {"lora": LowRank, "svd": LeastPart}[kind]
    found: dict[tuple[str, ...], Tree] = {}
    for (*above, leaf), value in traverse_util.flatten_dict(params[kind]).items():
        found.setdefault(("backbone", *above, "kernel"), {})[leaf] = value
    return ((names, make(**leaves)) for names, leaves in found.items())


def adapter_loss(params: Tree, trainable: Trainable) -> jax.Array | float:
    """What keeps the trained part of a kernel beside the frozen one, as Effort has it.

    For each projection, on average: how far the singular vectors are from an
    orthonormal basis, |[U1 U]' [U1 U] - 1|^2 and that of V, with U1 of the frozen part;
    and how far the kernel's squared norm is from what it was. Zero at the start.
    """
    if "svd" not in params:
        return 0.0
    found = [
        _apart(at(params, names), part, trainable)
        for names, part in _beside_kernels(params, "svd")
        if isinstance(part, LeastPart)
    ]
    return sum(found) / len(found)


def _apart(kernel: jax.Array, part: LeastPart, trainable: Trainable) -> jax.Array:
    def askew(now: jax.Array, before: jax.Array) -> jax.Array:
        own = jnp.sum((now.T @ now - jnp.eye(now.shape[1])) ** 2)
        # What of it lies in the frozen part: a square matrix's vectors span all.
        inside = jnp.sum(now**2) - jnp.sum((before.T @ now) ** 2)
        return own + 2 * inside

    square = askew(part.u, part.u0) + askew(part.v.T, part.v0.T)
    change = part.change
    size = jnp.sum(change * (2 * kernel + change))  # |W + change|^2 - |W|^2
    return trainable.orthogonality * square + trainable.size * jnp.abs(size)
