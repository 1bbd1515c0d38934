"""Frames that devices hold: the batches and the steps of a feed, to the bit."""

import collections
import functools
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.scale import collectives
from fakedetect_jax import settings
from fakedetect_jax.data import sets
from fakedetect_jax.data.feed import read_clips, row_feed, train_feed
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import steps, store
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import memory, parallel
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.training import feeding, start
from tfds_ffpp.errors import DataError
from tfds_ffpp.terminal.lines import Terminal

STEPS = 4


@pytest.fixture(scope="module")
def config(tiny_run):
    """The tiny run's, with clips that are blended, short ones, and masks."""
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(max_frame_stride=2, clip_frames=6)
        config.loss.update(self_blend=0.3, mask_weight=0.5)
        config.model.patches = True
        config.augment.flip = 0.5
        config.data.resident = "device"
    return config


@pytest.fixture(scope="module")
def data(config):
    builders = sets.open_all(config)
    data = sets.open_data(config, builders, sets.facts_of(builders))
    for i in range(0, len(data.train.videos), 3):
        data.train.videos[i] = replace(data.train.videos[i], num_valid=4)
    return data


def lay_out(config, data, limit: int) -> store.Layout:
    _, _, size, places = settings.batch_shape(config, 1, train=True)
    counts = [video.num_valid for video in data.train.videos]
    return store.lay_out(counts, size=size, places=places, limit=limit)


def load(config, data, mesh, layout):
    run: Any = SimpleNamespace(
        config=config, mesh=mesh, terminal=Terminal(quiet=True), stop=StopRequest()
    )
    return feeding.load_blocks(run, data, layout)


def feeds(config, data, layout, first: int = 0):
    """The batches of an ordinary feed, and the rows of the same ones."""
    order = sets.train_order(config, data)
    common = {
        "shape": settings.batch_shape(config, config.batch_size, train=True),
        "rows": slice(0, config.batch_size),
        "start_step": first,
        "num_steps": STEPS,
    }
    videos = data.train.videos
    frames = train_feed(order, data.train.reader, videos, config.data, **common)
    rows = row_feed(order, layout.first_rows, videos, config.data, **common)
    return list(frames), list(rows)


# All frames in one block, and each video's in one of its own.
LIMITS = {"one block": store.MAX_NUMBERS, "several": 8 * 32 * 32 * 3}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("limit", LIMITS.values(), ids=list(LIMITS))
def test_gathered_batches_are_those_of_the_feed(config, data, devices, limit):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    layout = lay_out(config, data, limit)
    assert (len(layout.blocks) > 2) == (limit < store.MAX_NUMBERS)
    blocks = load(config, data, mesh, layout)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(blocks))
    assert held == layout.num_bytes
    assert jax.tree.map(lambda x: (x.shape, x.dtype), blocks) == jax.tree.map(
        lambda x: (x.shape, x.dtype), layout.shapes()
    )
    gather = compiled.over_mesh(store.gather, mesh)
    frames, rows = feeds(config, data, layout)
    assert any(batch.blend.any() for batch in frames)
    assert any((batch.length < 6).any() for batch in frames)
    for wanted, row in zip(frames, rows, strict=True):
        sent = sum(leaf.nbytes for leaf in jax.tree.leaves(row))
        assert sent == config.batch_size * (6 * 4 + 4 + 4 + 4 + 1 + 1)
        found = gather(blocks, parallel.to_global(row, mesh))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def run_steps(config, mesh, batches, blocks=()):
    """The losses and the last state of steps with the batches, or with their rows."""
    settings_ = steps.make_step_settings(config, num_steps=STEPS)
    shape = settings.clip_shape(config)
    state = start.first_state(settings_, shape, config, mesh)
    kind = compiled.compile_resident_step if blocks else compiled.compile_train_step
    step, losses = kind(settings_, mesh), []
    for batch in batches:
        between = (blocks,) if blocks else ()
        state, metrics = step(state, *between, parallel.to_global(batch, mesh))
        losses.append(metrics.loss.item())
    return losses, parallel.fetch(state)


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (8, 2)])
def test_steps_on_gathered_clips_have_the_same_bits(config, data, devices, parts):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.batch_size, config.accumulate = 16 * parts, parts
    mesh = parallel.make_mesh(jax.devices()[:devices])
    layout = lay_out(config, data, LIMITS["several"])
    blocks = load(config, data, mesh, layout)
    frames, rows = feeds(config, data, layout)
    wanted, state = run_steps(config, mesh, frames)
    found, other = run_steps(config, mesh, rows, blocks)
    assert found == wanted and len(set(wanted)) == STEPS
    jax.tree.map(np.testing.assert_array_equal, other, state)


def test_a_resumed_feed_of_rows_goes_on_where_the_run_stopped(config, data):
    layout = lay_out(config, data, store.MAX_NUMBERS)
    _, whole = feeds(config, data, layout)
    _, rest = feeds(config, data, layout, first=3)
    jax.tree.map(np.testing.assert_array_equal, whole[3:], rest)


def test_the_clips_that_are_shown_are_the_steps_own(config, data):
    layout = lay_out(config, data, store.MAX_NUMBERS)
    frames, _ = feeds(config, data, layout)
    shown = read_clips(
        sets.train_order(config, data),
        data.train.reader,
        data.train.videos,
        shape=settings.batch_shape(config, config.batch_size, train=True),
        rows=slice(0, 2),
        step=3,
    )
    first = jax.tree.map(lambda rows: rows[:2], frames[2])
    jax.tree.map(np.testing.assert_array_equal, shown, first)


def test_no_more_is_sent_between_devices_than_of_a_feeds_batch(config, data):
    mesh = parallel.make_mesh()
    settings_ = steps.make_step_settings(config, num_steps=STEPS)
    create = functools.partial(
        steps.create_train_state, settings_, settings.clip_shape(config)
    )
    state, sent = jax.eval_shape(create), []
    for stored in (None, lay_out(config, data, LIMITS["several"])):
        kind = compiled.compile_resident_step if stored else compiled.compile_train_step
        arguments = compiled._step_arguments(state, config, 16, mesh, stored)
        program = kind(settings_, mesh).lower(*arguments).compile()
        sent.append(collections.Counter(collectives(program.as_text())))
    assert sent[0] == sent[1]


def test_frames_that_do_not_fit_are_said_with_both_sizes(config, data, monkeypatch):
    mesh = parallel.make_mesh(jax.devices()[:1])
    settings_ = steps.make_step_settings(config, num_steps=STEPS)
    create = functools.partial(
        steps.create_train_state, settings_, settings.clip_shape(config)
    )
    layout = store.lay_out([30] * 3600, size=224)
    monkeypatch.setattr(memory, "free_bytes", lambda devices: 12 * 10**9)
    local = jax.local_device_count()  # CPU devices share one memory
    wanted = 108_000 * (224 * 224 * 3 + 40) * local / 1e9
    with pytest.raises(ConfigError, match="data.resident is device") as error:
        compiled.fit_train_step(
            settings_,
            jax.eval_shape(create),
            config,
            mesh,
            stored=layout,
            warn=lambda text: None,
        )
    said = str(error.value)
    assert "108,000 frames" in said and "set config.data.resident=host" in said
    assert f"take {wanted:,.1f} GB and 12.0 GB are free" in said


def test_the_batch_that_fits_has_the_groups_of_its_statistics(config, monkeypatch):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update(batch_size=24)
        config.model.update(norm_groups=3, remat=True)
    settings_ = steps.make_step_settings(config, num_steps=STEPS)
    create = functools.partial(
        steps.create_train_state, settings_, settings.clip_shape(config)
    )
    fit = functools.partial(
        compiled.fit_train_step,
        *(settings_, jax.eval_shape(create), config),
        parallel.make_mesh(jax.devices()[:1]),
        stored=None,
        warn=lambda text: None,
    )
    monkeypatch.setattr(memory, "free_bytes", lambda devices: None)
    need = fit().need_bytes
    assert need
    monkeypatch.setattr(memory, "free_bytes", lambda devices: need * 3 // 4)
    with pytest.raises(ConfigError) as error:
        fit()
    (size,) = map(int, re.findall(r"config.batch_size=(\d+)", str(error.value)))
    assert 3 <= size < 24 and size % 3 == 0


def test_a_frame_that_cannot_be_read_ends_the_start(config, data, monkeypatch):
    def read(*_):
        raise DataError("record 3 of split train cannot be read")

    monkeypatch.setattr(data.train.reader, "read", read)
    layout = lay_out(config, data, store.MAX_NUMBERS)
    with pytest.raises(DataError, match="record 3 of split train"):
        load(config, data, parallel.make_mesh(jax.devices()[:1]), layout)


def test_blocks_hold_whole_videos_below_the_limit():
    counts = [30, 0, 12, 30, 30, 7]
    layout = store.lay_out(counts, size=2, limit=45 * 12)
    assert layout.blocks == ((0, 3), (3, 4), (4, 6))
    assert layout.first_rows.tolist() == [0, 30, 30, 42, 72, 102]
    assert [len(layout.empty(b).frames) for b in layout.blocks] == [42, 30, 37]
