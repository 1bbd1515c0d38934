"""The arrays of a state by their paths, each with its digest."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Leaves = dict[str, Any]  # arrays of the host or of devices, or their shapes
Nested = dict[str, Any]  # names to leaves, or to such as it


def to_leaves(tree: Any) -> Leaves:
    """A pytree of a flax structure as one flat dict: "params.head.kernel" -> leaf."""
    return {name: leaf for name, leaf in _flat(_as_dicts(tree)) if leaf is not None}


def from_leaves(template: Any, leaves: Mapping[str, Any]) -> Any:
    """The structure of `template` with the given leaves; the inverse of to_leaves."""
    filled = _filled(_as_dicts(template), leaves)
    if _is_plain(template):
        return filled
    import flax.serialization

    return flax.serialization.from_state_dict(template, filled)


def _is_plain(tree: Any) -> bool:
    """Whether it is dictionaries of numpy's arrays, which need no flax."""
    if type(tree) is dict:
        return all(map(_is_plain, tree.values()))
    return isinstance(tree, np.ndarray)


def _as_dicts(tree: Any) -> Nested:
    if _is_plain(tree):
        return tree
    import flax.serialization

    return flax.serialization.to_state_dict(tree)


def _flat(nested: Nested, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _filled(nested: Nested, leaves: Mapping[str, Any], above: str = "") -> Nested:
    return {
        name: _filled(value, leaves, f"{above}{name}.")
        if isinstance(value, dict)
        else leaves.get(f"{above}{name}", value)
        for name, value in nested.items()
    }


def leaf_digests(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The digest of every leaf; several cores share the work."""
    with ThreadPoolExecutor() as threads:
        return dict(zip(leaves, threads.map(leaf_digest, leaves.values()), strict=True))


def leaf_digest(leaf: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes."""
    leaf = np.asarray(leaf)
    digest = hashlib.sha256(f"{leaf.dtype.name}{leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
