"""Which fields of a config a trained model fixes, and which may be changed."""

from collections.abc import Collection, Sequence
from typing import Any

from fakedetect_jax import settings
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.settings import Config

# How clips are cut; weights do not say it.
CLIP_FIELDS = ("data.clip_frames", "data.frame_stride")
# What a trained model fixes, for whoever goes on with it or evaluates it: another value
# would be another model, or clips that it was not trained on.
TRAINED_GROUPS = ("model", "dataset")
TRAINED_FIELDS = (
    *CLIP_FIELDS,
    *("data.hold_out", "data.train", "optimizer.ema_decay"),
    *("eval.max_error", "eval.validation"),
    *("trainable", "adapter.last_n", "adapter.rank", "adapter.alpha"),
)
# Of these groups, but no part of what the model is.
FREE_FIELDS = ("dataset.allow_one_class", "model.remat", "model.cpu_kernels")
# What decides scores beside weights and dataset, whose digests stand for all that is
# fixed but the clips. It is more than that: how a split is cut up and counted is free.
# The size of a batch, the devices and the hosts decide nothing.
SCORING_FIELDS = (
    *CLIP_FIELDS,
    "data.eval_clips_per_video",
    "data.min_coverage",
    "eval.unscored",
)
# An evaluation does not look at them, so it says nothing of them.
TRAINING_FIELDS = (
    *("optimizer.", "loss.", "augment.", "checkpoint.", "init_from", "log_"),
    *("batch_size", "accumulate", "shard_optimizer", "num_epochs", "num_steps"),
    *("tracker", "data.resident"),
    *("eval.every_epochs", "eval.final_split", "eval.patience"),
    *("data.sampling", "data.train_clips_per_video", "data.max_frame_stride"),
)
SHOWN_FIELDS = 8  # differing ones that a line names; of another config's there are many


def is_fixed(name: str) -> bool:
    """Whether a trained model has this field for good."""
    if name in FREE_FIELDS:
        return False
    return name in TRAINED_FIELDS or name.split(".")[0] in TRAINED_GROUPS


def as_trained(
    config: Config, own: Config, *, flags: Collection[str] = ()
) -> tuple[Config, str, str]:
    """A trained run's own config, with the fields that `flags` names from `config`.

    What the model depends on is the run's whatever was asked for. A field that the run
    did not have yet keeps the value in `config`.

    Returns:
      The config; a sentence about what it has otherwise than `config`, and one about
      what it has otherwise than the run; empty where there is nothing.
    """
    trained = settings.ADDED | settings.flatten(own.to_dict())
    given = settings.flatten(config.to_dict())
    lacking = [name for name in given if is_fixed(name) and name not in trained]
    if lacking:
        raise CheckpointError(
            f"the run's config.json lacks {', '.join(lacking[:3])}: it is damaged, or "
            "of another version; restore it, or use the version that trained the run"
        )
    taken = {
        name: value
        for name, value in trained.items()
        if is_fixed(name) or (name in given and name not in flags)
    }
    merged = config.copy_and_resolve_references()
    with merged.unlocked(), merged.ignore_type():
        for name, value in taken.items():
            group, _, field = name.rpartition(".")
            owner = merged[group] if group else merged
            owner[field] = tuple(value) if isinstance(value, list) else value
    changed = [
        f"{name} is {_shown(value)} in the run and {_shown(given[name])} in --config"
        for name, value in sorted(taken.items(), key=lambda f: not is_fixed(f[0]))
        if name in given and given[name] != value
        if is_fixed(name) or not name.startswith(TRAINING_FIELDS)
    ]
    kept = [
        f"{name} is {_shown(given[name])} ({_shown(trained.get(name))} in the run)"
        for name in sorted(flags)
        if name not in taken and name in given and given[name] != trained.get(name)
    ]
    return (
        merged,
        _listed("the run's own config is used: ", changed),
        _listed("taken from the command line: ", kept),
    )


def _listed(start: str, parts: Sequence[str]) -> str:
    if not parts:
        return ""
    more = len(parts) - SHOWN_FIELDS
    tail = f"; and {more} more" if more > 0 else ""
    return f"{start}{'; '.join(parts[:SHOWN_FIELDS])}{tail}"


def _shown(value: Any) -> str:
    return "''" if value == "" else str(value)
