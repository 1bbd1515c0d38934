"""What the steps are fed: batches of the host, or rows of frames that devices hold."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.data import reader
from fakedetect_jax.data.batch import Batch
from fakedetect_jax.data.feed import read_clips, row_feed, train_feed
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import TrainOrder
from fakedetect_jax.data.sets import Data
from fakedetect_jax.model import store
from fakedetect_jax.programs.compiled import TrainProgram
from fakedetect_jax.run import parallel
from fakedetect_jax.run.workdir import Run


def lay_out(config, counts: Sequence[int]) -> store.Layout | None:
    """How the devices hold videos of so many frames; None where the host does."""
    if config.data.resident == "host":
        return None
    _, _, size, places = settings.batch_shape(config, 1, train=True)
    return store.lay_out(counts, size=size, places=places)


def load_blocks(
    run: Run, data: Data, stored: store.Layout
) -> tuple[store.Block[jax.Array], ...]:
    """All frames of the training, decoded and put on every device.

    The host holds one block of them at a time. Raises DataError for a frame that
    cannot be read.
    """
    size = stored.num_bytes / 1e9
    run.terminal.say(
        f"frames    {stored.num_frames:,} are decoded, {size:,.2f} GB on each device"
    )
    blocks = []
    bar = run.terminal.progress("frames", len(stored.counts))
    with run.terminal.phase("frames"), bar:

        def done() -> None:
            bar.step()
            if jax.process_count() == 1:  # several agree to stop after a step
                run.stop.check()

        for videos in stored.blocks:
            block = stored.empty(videos)
            reader.read_whole(
                data.train,
                range(*videos),
                **block._asdict(),
                num_threads=run.config.data.num_threads,
                done=done,
            )
            blocks.append(parallel.put_replicated(block, run.mesh))
            jax.block_until_ready(blocks[-1])
    return tuple(blocks)


def step_of(program: TrainProgram, blocks: tuple[store.Block, ...] | None) -> Callable:
    """The compiled step as a function of state and batch alone."""
    if blocks is None:
        return program.step
    return lambda state, clips: program.step(state, blocks, clips)


def open_feed(
    run: Run,
    data: Data,
    order: TrainOrder | MixedOrder,
    stored: store.Layout | None,
    *,
    start: int,
    num_steps: int,
) -> Iterator[Any]:
    """This process's batches from step `start` on; rows of frames that devices hold."""
    config, train = run.config, data.train
    common = {
        "shape": settings.batch_shape(config, config.batch_size, train=True),
        "rows": parallel.local_rows(config.batch_size, run.mesh),
        "start_step": start,
        "num_steps": num_steps,
    }
    if stored is not None:
        rows = stored.first_rows
        return row_feed(order, rows, train.videos, config.data, **common)
    return train_feed(order, train.reader, train.videos, config.data, **common)


def first_clips(
    run: Run, data: Data, order: TrainOrder | MixedOrder, step: int, count: int
) -> Batch[np.ndarray]:
    """The first clips of this process in the batch of a step, at most `count`."""
    config = run.config
    rows = parallel.local_rows(config.batch_size, run.mesh)
    return read_clips(
        order,
        data.train.reader,
        data.train.videos,
        shape=settings.batch_shape(config, config.batch_size, train=True),
        rows=slice(rows.start, min(rows.start + count, rows.stop)),
        step=step,
    )
