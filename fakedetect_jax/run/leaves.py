"""The arrays of a state by their paths, each with its digest."""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax.serialization
import flax.traverse_util
import numpy as np

Leaves = dict[str, Any]  # arrays of the host or of devices, or their shapes


def to_leaves(tree: Any) -> Leaves:
    """A pytree of a flax structure as one flat dict: "params.head.kernel" -> leaf."""
    nested = flax.serialization.to_state_dict(tree)
    flat = flax.traverse_util.flatten_dict(nested, sep=".")
    return {name: leaf for name, leaf in flat.items() if leaf is not None}


def from_leaves(template: Any, leaves: Mapping[str, Any]) -> Any:
    """The structure of `template` with the given leaves; the inverse of to_leaves."""
    nested = flax.serialization.to_state_dict(template)
    flat = flax.traverse_util.flatten_dict(nested, sep=".", keep_empty_nodes=True)
    filled = {name: leaves.get(name, leaf) for name, leaf in flat.items()}
    return flax.serialization.from_state_dict(
        template, flax.traverse_util.unflatten_dict(filled, sep=".")
    )


def leaf_digest(leaf: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes."""
    leaf = np.asarray(leaf)
    digest = hashlib.sha256(f"{leaf.dtype.name}{leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
