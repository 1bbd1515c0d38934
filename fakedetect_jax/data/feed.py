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

from fakedetect_jax.data.batch import Batch, ClipRows, empty_batch, empty_rows
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import ClipRef, TrainOrder, frames_of
from fakedetect_jax.data.reader import Reads, fill_masks, smooth_points
from fakedetect_jax.errors import WorkerError
from tfds_ffpp.frames.stored import StoredVideo
from tfds_ffpp.system import watch_parent

# A run that was asked to stop has ended by then; see run.process.DEADLINE_SECONDS.
GRACE_SECONDS = 30


class _Clips:
    """Puts clips with their frames, faces and masks into a Batch."""

    def __init__(self, reader: Reads, videos: Sequence[StoredVideo], shape):
        self._reader = reader
        self._facts = [(v.num_valid, v.label, v.masked) for v in videos]
        self._faces = [smooth_points(video) for video in videos]
        self._shape = shape

    def empty(self, count: int) -> Batch[np.ndarray]:
        return empty_batch(count, *self._shape)

    def fill(self, batch: Batch[np.ndarray], row: int, clip: ClipRef) -> None:
        num_valid, label, masked = self._facts[clip.video]
        batch.length[row] = self._reader.read(clip, num_valid, batch.frames[row])
        frames, _ = frames_of(clip, num_valid, self._shape[0])
        batch.face[row] = self._faces[clip.video][frames]
        # What is blended into a clip later is not known here.
        if batch.mask is not None and not clip.blend and masked:
            fill_masks(self._reader, clip, num_valid, label, batch.mask[row])


class _Rows:
    """Puts clips into ClipRows: where their frames lie, and nothing of them."""

    def __init__(
        self, first_rows: Sequence[int] | np.ndarray, videos, clip_frames: int
    ):
        self._first = first_rows
        self._num_valid = [video.num_valid for video in videos]
        self._clip_frames = clip_frames

    def empty(self, count: int) -> ClipRows[np.ndarray]:
        return empty_rows(count, self._clip_frames)

    def fill(self, batch: ClipRows[np.ndarray], row: int, clip: ClipRef) -> None:
        num_valid = self._num_valid[clip.video]
        frames, batch.length[row] = frames_of(clip, num_valid, self._clip_frames)
        batch.rows[row] = self._first[clip.video] + frames


class _Batches:
    """Random access to this process's rows of each global batch; Grain's source."""

    def __init__(self, order, videos, into, *, batch_size, rows: slice, num_batches):
        self._order = order  # position -> ClipRef
        self._labels = [video.label for video in videos]
        self._into = into  # _Clips or _Rows
        self._batch_size = batch_size
        self._rows = rows
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, number: int) -> Any:
        first = int(number) * self._batch_size + self._rows.start
        count = self._rows.stop - self._rows.start
        batch = self._into.empty(count)
        for row in range(count):
            position = first + row
            clip = self._order[position]
            if clip is None:
                continue
            batch.label[row] = 1 if clip.blend else self._labels[clip.video]
            batch.blend[row] = clip.blend
            batch.index[row] = position % 2**31
            batch.valid[row] = True
            self._into.fill(batch, row, clip)
        return batch


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

    def __next__(self) -> Any:
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
    into = _Clips(reader, videos, shape[1:])
    batches = _Batches(
        order, videos, into, batch_size=shape[0], rows=rows, num_batches=num_steps
    )
    return _open_feed(batches, settings, start_step)


def row_feed(
    order: TrainOrder | MixedOrder,
    first_rows: Sequence[int] | np.ndarray,
    videos: Sequence[StoredVideo],
    settings,
    *,
    shape: Sequence[int],
    rows: slice,
    start_step: int,
    num_steps: int,
) -> Iterator[ClipRows[np.ndarray]]:
    """train_feed for devices that hold the frames: where the same clips' lie.

    first_rows: where the first frame of each video lies. In threads of this process:
    there is nothing to decode.
    """
    into = _Rows(first_rows, videos, shape[1])
    batches = _Batches(
        order, videos, into, batch_size=shape[0], rows=rows, num_batches=num_steps
    )
    return _open_feed(batches, _in_process(settings), start_step)


def read_clips(
    order: TrainOrder | MixedOrder,
    reader: Reads,
    videos: Sequence[StoredVideo],
    *,
    shape: Sequence[int],
    rows: slice,
    step: int,
) -> Batch[np.ndarray]:
    """Some rows of the global batch with which `step` updates were completed."""
    into = _Clips(reader, videos, shape[1:])
    batches = _Batches(
        order, videos, into, batch_size=shape[0], rows=rows, num_batches=step
    )
    return batches[step - 1]


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
    into = _Clips(reader, videos, shape[1:])
    batches = _Batches(
        _Padded(clips),
        videos,
        into,
        batch_size=shape[0],
        rows=rows,
        num_batches=num_batches,
    )
    return _open_feed(batches, _in_process(settings))


def _in_process(settings):
    """The data group without worker processes."""
    in_process = type(settings)(settings)
    with in_process.unlocked():
        in_process.num_workers = 0
    return in_process
