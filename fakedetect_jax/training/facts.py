"""What every checkpoint says of its run."""

from fakedetect_jax.data import leaks, reader
from fakedetect_jax.data.plan import Plan
from fakedetect_jax.data.sets import Data
from fakedetect_jax.model import pretrained
from fakedetect_jax.run import parallel, workdir
from fakedetect_jax.run.checkpoint import (
    CheckpointFacts,
    Frozen,
    SourceFrames,
)
from fakedetect_jax.run.leaves import leaf_digests
from fakedetect_jax.run.workdir import Run


def facts_of(
    run: Run, plan: Plan, data: Data, shared: leaks.LeakCounts | None
) -> CheckpointFacts:
    """What every checkpoint says of its run."""
    return CheckpointFacts(
        config=run.config.to_dict(),
        versions=workdir.versions(),
        devices=parallel.describe_devices(run.mesh),
        source_frames=_source_frames(data.train.videos),
        val_fakes=reader.SELF_BLENDED if data.blended_val else "forged",
        made=data.made,
        dataset=data.own,
        other_datasets=data.others,
        leaks=shared,
        steps_per_epoch=plan.steps_per_epoch,
        frozen=_frozen(run.config),
    )


def _frozen(config) -> Frozen | None:
    """What checkpoints leave out, where they do."""
    if not config.checkpoint.delta:
        return None
    leaves = pretrained.frozen_weights(config)
    return Frozen(config.init_from, leaf_digests(leaves))


def _source_frames(videos) -> SourceFrames:
    """How long the videos were, which decides how longer ones are cut up."""
    counts = sorted(video.source_frames for video in videos)
    return SourceFrames(median=counts[len(counts) // 2], max=counts[-1])
