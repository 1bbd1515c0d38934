"""The clips of a split through the network: their scores; a guard fitted to them."""

import signal
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fakedetect_jax import settings
from fakedetect_jax.data import order, sets
from fakedetect_jax.data.dataset import describe_change
from fakedetect_jax.data.feed import eval_feed
from fakedetect_jax.data.mixture import joined
from fakedetect_jax.data.reader import Split
from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.records import ClipScore, Video
from fakedetect_jax.model import network
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import CheckpointFacts
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.trained import guard
from fakedetect_jax.trained.guard import Guard
from fakedetect_jax.trained.model import guard_place, write_guard
from tfds_ffpp.errors import DataError, Interrupted
from tfds_ffpp.frames.stored import StoredVideo

GUARD_CLIPS = 2000  # of the training, at most; a guard needs no more
Between = Callable[[int, int], None]


def _quietly(done: int, total: int) -> None:
    pass


def run_clips(
    step: Callable,
    variables: Any,
    split: Split,
    clips: Sequence[order.ClipRef],
    config,
    *,
    mesh: Mesh,
    between_batches: Between = _quietly,
) -> list[Any]:
    """What `step` gives of `variables` and a batch, for each batch of the clips.

    As host arrays, the last of them longer than its clips. `between_batches` is called
    with (batches done, batches in all) and may raise.
    """
    batch_size = config.eval.batch_size
    shape = settings.batch_shape(config, batch_size)
    rows = parallel.local_rows(batch_size, mesh)
    feed = eval_feed(
        clips, split.reader, split.videos, config.data, shape=shape, rows=rows
    )
    total = -(-len(clips) // batch_size)
    found: list[Any] = []
    try:
        pending = None
        batches = parallel.put_ahead(feed, mesh, config.data.device_prefetch)
        for done, (_, batch) in enumerate(batches):
            between_batches(done, total)
            dispatched = step(variables, batch)
            if pending is not None:
                found.append(parallel.fetch(pending))
            pending = dispatched
        if pending is not None:
            found.append(parallel.fetch(pending))
    finally:
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]
    return found


def covering_clips(
    videos: Sequence[StoredVideo], config, per_video: int = 0
) -> list[order.ClipRef]:
    """The clips of an evaluation, or so many of each video."""
    return order.covering_clips(
        videos,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=per_video or config.data.eval_clips_per_video,
        min_coverage=config.data.min_coverage,
    )


def score_clips(
    eval_step: Callable,
    variables: Any,
    split: Split,
    config,
    *,
    mesh: Mesh,
    between_batches: Between = _quietly,
    familiar: Guard | None = None,
) -> list[ClipScore]:
    """One row per clip in the order of the records.

    `eval_step` takes `variables` and a batch, and gives logits; with a guard, which
    adds each clip's distance, logits and features. `between_batches`: see run_clips.
    """
    clips = covering_clips(split.videos, config)
    found = run_clips(
        eval_step,
        variables,
        split,
        clips,
        config,
        mesh=mesh,
        between_batches=between_batches,
    )
    distances: list[Any] = [None] * len(clips)
    if familiar is not None:
        far = [familiar.distances(features) for _, features in found]
        distances = np.concatenate([*far, np.zeros(0)])[: len(clips)].tolist()
        found = [logits for logits, _ in found]
    flat = np.concatenate([*found, np.zeros(0, np.float32)])[: len(clips)]
    lengths = [_valid_frames(split.videos[c.video], c, config) for c in clips]
    named = [Video.of(video) for video in split.videos]
    scores = metrics.sigmoid(flat.astype(np.float64))
    columns = (lengths, _numbers(clips), flat.tolist(), scores.tolist(), distances)
    return [
        ClipScore(named[clip.video], number, clip.start, length, logit, score, distance)
        for clip, length, number, logit, score, distance in zip(
            clips, *columns, strict=True
        )
    ]


def _valid_frames(video: StoredVideo, clip: order.ClipRef, config) -> int:
    left = -(-(video.num_valid - clip.start) // clip.stride)
    return max(min(left, config.data.clip_frames), 1)


def _numbers(clips: Sequence[order.ClipRef]) -> list[int]:
    """The number of each clip within its video."""
    numbers, previous = [], None
    for clip in clips:
        numbers.append(numbers[-1] + 1 if clip.video == previous else 0)
        previous = clip.video
    return numbers


def stoppable(run: Run, bar: Any) -> Between:
    """For run_clips: moves the bar; raises Interrupted when a host is asked to stop."""
    vote = parallel.Vote(run.mesh)

    def between(done: int, total: int) -> None:
        if vote(run.stop.signal is not None):
            raise Interrupted(run.stop.signal or signal.SIGTERM)
        bar.resize(total)
        bar.update(done)

    return between


# The guard -------------------------------------------------------------------------


def has_guard(run: Run, step: int, facts: CheckpointFacts) -> bool:
    """Whether a checkpoint's guard, or why it has none, is kept: as process 0 sees it,
    since all must go the same way."""
    return bool(parallel.from_first(guard_place(run.workdir, step, facts).exists()))


def ensure_guard(run: Run, step: int, facts: CheckpointFacts, variables: Any) -> str:
    """Fits a checkpoint's guard and keeps it in the workdir, unless that was done.

    variables: on the devices. Returns why there is none though another start may give
    one; "" where something is kept.
    """
    if has_guard(run, step, facts):
        return ""
    fault = _fault_in_data(run, facts)
    if not parallel.on_all(not fault):
        return fault or "the videos of the training are not on all hosts"
    with run.terminal.phase("guard"):
        fitted = _fit(run, variables)
        if jax.process_index() == 0:
            write_guard(run.workdir, step, facts, fitted)
        parallel.barrier("guard is fitted")
    return ""


def _fault_in_data(run: Run, facts: CheckpointFacts) -> str:
    """Why nothing can be fitted to the run's own dataset here; "" where it can."""
    try:
        every = sets.facts_of(sets.open_all(run.config))
    except DataError as error:
        return f"the videos of the training are not there ({error})"
    for name, now in every.items():
        is_own = name == run.config.dataset.name
        before = facts.dataset if is_own else facts.other_datasets.get(name)
        if change := describe_change(before, now):
            return f"the dataset is not the one of the training: {change}"
    return ""


def _fit(run: Run, variables: Any) -> Guard | str:
    config, builders = run.config, sets.open_all(run.config)
    opened = (
        sets.open_training(config, builders),
        sets.open_validation(config, builders),
    )
    splits = [joined(parts) for parts in opened]
    clips = [guard_clips(splits[0].videos, config)]
    clips.append(covering_clips(splits[1].videos, config))
    count = sum(video.num_valid > 0 for video in splits[1].videos)
    if count < guard.LEAST_VIDEOS:  # said before anything is computed
        return guard.too_few(count, len(clips[0]))
    step = compiled.compile_eval_outputs(network.make_model(config), run.mesh)
    features = []
    for split, chosen in zip(splits, clips, strict=True):
        total = -(-len(chosen) // config.eval.batch_size)
        with run.terminal.progress(f"guard {split.name}", total) as bar:
            found = run_clips(
                step,
                variables,
                split,
                chosen,
                config,
                mesh=run.mesh,
                between_batches=stoppable(run, bar),
            )
        features.append(np.concatenate([f for _, f in found])[: len(chosen)])
    labels = np.array([splits[0].videos[clip.video].label for clip in clips[0]])
    seen = [splits[1].videos[clip.video] for clip in clips[1]]
    return guard.fit(
        features[0],
        labels,
        features[1],
        np.array([clip.video for clip in clips[1]]),
        np.array([video.target or video.key for video in seen]),
    )


def guard_clips(videos: Sequence[StoredVideo], config) -> list[order.ClipRef]:
    """At most GUARD_CLIPS clips, of as many videos as there are; always the same."""
    per_video = max(GUARD_CLIPS // max(len(videos), 1), 1)
    clips = covering_clips(videos, config, per_video)
    chosen = np.random.default_rng(0).permutation(len(clips))[:GUARD_CLIPS]
    return [clips[i] for i in np.sort(chosen)]
