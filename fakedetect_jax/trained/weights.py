"""Which checkpoint, and its variables, without the optimiser."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.trained.cache import abstract_variables

if TYPE_CHECKING:
    from fakedetect_jax.model.network import Tree, Variables
    from fakedetect_jax.run.checkpoint import CheckpointFacts, Checkpoints

# Evaluating a checkpoint ---------------------------------------------------------


def choose_step(
    checkpoints: "Checkpoints",
    wanted: int | None,
    *,
    warn: Callable[[str], None] = lambda _: None,
) -> int:
    """The step to evaluate: the wanted one, else the best on val, else the newest.

    warn: takes a sentence on each damaged one that might have been chosen.

    Raises CheckpointError with what is there.
    """
    there = checkpoints.steps()
    if wanted is not None:
        if wanted not in there:
            raise CheckpointError(
                f"{checkpoints.directory} has no checkpoint {wanted}; it has "
                f"{', '.join(map(str, sorted(there))) or 'none'}"
            )
        damage = checkpoints.damage(wanted)
        if damage:
            raise CheckpointError(
                f"checkpoint {wanted} in {checkpoints.directory} cannot be used: "
                f"{damage}; choose another --step"
            )
        return wanted
    chosen = checkpoints.best()
    chosen = checkpoints.latest() if chosen is None else chosen
    if chosen is None:
        raise CheckpointError(
            f"{checkpoints.directory} holds no whole checkpoint "
            f"({'damaged: ' + str(there) if there else 'it has no step'}); train first"
        )
    for sentence in checkpoints.passed_over(chosen):
        warn(sentence)
    return chosen


class Kept(NamedTuple):
    """What a checkpoint keeps of a model; and the averages, where it has some."""

    params: "Tree"
    batch_stats: "Tree"
    ema_params: "Tree | None" = None
    ema_batch_stats: "Tree | None" = None

    def groups(self) -> "Variables":
        """By their names in the checkpoint, but for what is not kept."""
        return {name: tree for name, tree in self._asdict().items() if tree is not None}


def read_variables(
    config, checkpoints: "Checkpoints", step: int, *, cache: Path | None = None
) -> "Variables":
    """The model's variables at a step, on the host; averaged ones where kept.

    Averaged parameters come with the averaged statistics, as in training's validation,
    and low-rank changes within the kernels that they change. Optimiser and schedule are
    not looked at, so those of another version don't matter.
    """
    from fakedetect_jax.model import pretrained, trainable

    wanted = Kept(**abstract_variables(config, cache))
    facts = checkpoints.facts(step)
    digests = facts.digests
    groups = tuple(f"params.{kind}." for kind in trainable.ADAPTERS)
    if any(name.startswith(groups) for name in digests):
        chosen = trainable.of_config(config)
        params = trainable.abstract_adapters(wanted.params, chosen)
        wanted = wanted._replace(params=params)
    if any(name.startswith("ema_params.") for name in digests):
        averaged, _ = trainable.split(
            wanted.params, lambda names: f"ema_params.{'.'.join(names)}" in digests
        )
        wanted = wanted._replace(
            ema_params=averaged, ema_batch_stats=wanted.batch_stats
        )
    frozen = None
    if facts.frozen:
        frozen = pretrained.frozen_weights(config)
    found = Kept(**checkpoints.restore_model(step, wanted.groups(), frozen))
    params = trainable.join(found.params, found.ema_params or {})
    averages = found.ema_batch_stats
    batch_stats = found.batch_stats if averages is None else averages
    return {"params": trainable.merged(params), "batch_stats": batch_stats}


def checkpoint_digest(facts: "CheckpointFacts") -> str:
    """SHA-256 over the digests of a checkpoint's weights and statistics."""
    kept = ("params.", "batch_stats.", "ema_params.", "ema_batch_stats.")
    every = facts.digests | facts.left_out
    weights = {k: v for k, v in every.items() if k.startswith(kept)}
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
