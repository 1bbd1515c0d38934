"""Clips from a built dataset: a pure function (seed, step) -> batch, in numpy.

Position p of the endless train order is clip p; global batch s holds positions
s*B .. s*B+B-1, and process k of n feeds the k-th of n equal runs of its rows. Nothing
else decides what a batch holds, so neither workers, threads, hosts nor devices change
it, and a resumed run starts reading at its step.
"""

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from fakedetect_jax.data.batch import MASK_PARTS, Batch, empty_batch
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import ClipRef, TrainOrder, frames_of
from fakedetect_jax.data.reader import Reads, smooth_points
from fakedetect_jax.errors import WorkerError
from tfds_ffpp.frames.stored import StoredVideo
from tfds_ffpp.system import watch_parent

# A run that was asked to stop has ended by then; see run.process.DEADLINE_SECONDS.
GRACE_SECONDS = 30


class _Batches:
    """Random access to this process's rows of each global batch; Grain's source."""

    def __init__(self, order, reader, videos, *, shape, rows: slice, num_batches: int):
        self._order = order  # position -> ClipRef
        self._reader = reader
        self._facts = [(v.num_valid, v.label, v.masked) for v in videos]
        self._faces = [smooth_points(video) for video in videos]
        self._batch_size, *self._shape = shape
        self._clip_frames = shape[1]
        self._rows = rows
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, number: int) -> Batch[np.ndarray]:
        first = int(number) * self._batch_size + self._rows.start
        count = self._rows.stop - self._rows.start
        batch = empty_batch(count, *self._shape)
        for row in range(count):
            position = first + row
            clip = self._order[position]
            if clip is None:
                continue
            num_valid, label, masked = self._facts[clip.video]
            batch.length[row] = self._reader.read(clip, num_valid, batch.frames[row])
            frames, _ = frames_of(clip, num_valid, self._clip_frames)
            batch.face[row] = self._faces[clip.video][frames]
            batch.label[row] = 1 if clip.blend else label
            batch.blend[row] = clip.blend
            batch.index[row] = position % 2**31
            batch.valid[row] = True
            # What is blended into a clip later is not known here.
            if batch.mask is not None and not clip.blend and masked:
                self._read_mask(clip, num_valid, label, batch.mask[row])
        return batch

    def _read_mask(self, clip: ClipRef, num_valid: int, label: int, out: np.ndarray):
        out[:] = 0
        if label:  # a real is forged nowhere
            self._reader.read_masks(clip, num_valid, out)
            np.minimum(out, MASK_PARTS, out=out)


class _Padded:
    """A finite list of clips, None past its end."""

    def __init__(self, clips: Sequence[ClipRef]):
        self._clips = clips

    def __getitem__(self, position: int) -> ClipRef | None:
        return self._clips[position] if position < len(self._clips) else None


def _begin_worker(number: int, count: int) -> None:
    """In a worker: outlives a signal to the whole group, but never the run itself.

    The run needs its batches up to the step that it stops at, then ends its workers.
    """
    del number, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_after(GRACE_SECONDS))
    watch_parent(os.getppid())


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Feed:
    """Grain's iterator; a worker that was ended from outside is said in a sentence."""

    def __init__(self, batches: Any):
        self._batches = batches

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> Batch[np.ndarray]:
        try:
            return next(self._batches)
        except RuntimeError as error:
            code = re.search(r"terminated unexpectedly.* (-?\d+)", str(error))
            if not code:
                raise
            raise WorkerError(
                f"a data worker was ended from outside (exit code {code[1]}; -9 is "
                "mostly the system's memory limit): lower data.num_workers or "
                "data.cache_mib, and run the same command again: it goes on from the "
                "last checkpoint"
            ) from error

    def close(self) -> None:
        """Ends the workers."""
        self._batches.close()


def _open_feed(batches: _Batches, settings, start: int = 0) -> _Feed:
    if not flags.FLAGS.is_parsed():
        # Grain reads flags of its own; as a library there is no command line.
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(  # pyright: ignore[reportArgumentType]
        grain.ReadOptions(
            num_threads=settings.num_threads,
            prefetch_buffer_size=settings.prefetch_batches,
        )
    )
    if settings.num_workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=settings.num_workers,
                per_worker_buffer_size=settings.prefetch_batches,
            ),
            worker_init_fn=_begin_worker,
        )
    return _Feed(iter(dataset))


def train_feed(
    order: TrainOrder | MixedOrder,
    reader: Reads,
    videos: Sequence[StoredVideo],
    settings,
    *,
    shape: Sequence[int],
    rows: slice,
    start_step: int,
    num_steps: int,
) -> Iterator[Batch[np.ndarray]]:
    """The batches of steps start_step .. num_steps-1, this process's rows of each.

    Args:
      order: position -> clip.
      reader: decodes clips.
      videos: the records of the split.
      settings: the config's data group: num_workers, num_threads, prefetch_batches.
      shape: (B, T, S) of a global batch and, with masks, M; see data.batch.
      rows: this process's rows of the global batch.
      start_step: the number of completed steps.
      num_steps: the number of steps of the whole run.
    """
    batches = _Batches(
        order, reader, videos, shape=shape, rows=rows, num_batches=num_steps
    )
    return _open_feed(batches, settings, start_step)


def eval_feed(
    clips: Sequence[ClipRef],
    reader: Reads,
    videos: Sequence[StoredVideo],
    settings,
    *,
    shape: Sequence[int],
    rows: slice,
) -> Iterator[Batch[np.ndarray]]:
    """Each clip exactly once in order; the last batch padded with valid=False.

    Every process gets the same number of batches. Threads only: a pass over an
    evaluation split is too short to be worth starting workers.
    """
    num_batches = -(-len(clips) // shape[0])
    batches = _Batches(
        _Padded(clips), reader, videos, shape=shape, rows=rows, num_batches=num_batches
    )
    in_process = type(settings)(settings)
    with in_process.unlocked():
        in_process.num_workers = 0
    return _open_feed(batches, in_process)
