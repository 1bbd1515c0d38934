"""The update: it learns, is the same on any mesh, and leaves a good state alone."""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import averaged
from fakedetect_jax.augment import degrade, selfblend
from fakedetect_jax.data.batch import Batch, empty_batch
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import network, optimizer, steps
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.training import speed
from fakedetect_jax.training.start import first_state

SIZE, FRAMES = 16, 3


@pytest.fixture(scope="module")
def small(load_config):
    """The demo's config with a tiny model."""
    config = load_config("demo")
    with config.unlocked():
        config.model.update(stage_sizes=(1, 1), width=8, lstm_features=8)
        config.dataset.image_size = SIZE
        config.data.clip_frames = FRAMES
        config.optimizer.update(learning_rate=1e-2, schedule="constant", warmup_steps=0)
        config.augment.flip = 0.0
        config.batch_size = 8
    return config


def random_batch(rows: int, seed: int = 0) -> Batch:
    """Clips of noise with alternating labels."""
    rng = np.random.default_rng(seed)
    batch = empty_batch(rows, FRAMES, SIZE)
    batch.frames[:] = rng.integers(0, 256, batch.frames.shape)
    batch.length[:] = rng.integers(1, FRAMES + 1, rows)
    batch.label[:] = np.arange(rows) % 2
    batch.index[:] = np.arange(rows)
    batch.valid[:] = True
    return batch


def run_steps(config, devices: int, batches: list[Batch]):
    """Trains on the first so many devices; the losses and the last state."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step_settings = steps.make_step_settings(config, num_steps=len(batches))
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    places = jax.tree.map(lambda x: x.sharding, state)
    update = compiled.compile_train_step(step_settings, mesh, places)
    losses = []
    for batch in batches:
        state, metrics = update(state, parallel.to_global(batch, mesh))
        losses.append(float(metrics.loss))
    return losses, parallel.fetch(state)


def test_overfits_eight_clips(small):
    batch = random_batch(8)
    losses, state = run_steps(small, 1, [batch] * 80)
    assert losses[-1] < 0.05
    assert state.step == 80


def test_eight_devices_compute_what_one_does(small):
    batches = [random_batch(8, seed) for seed in range(10)]
    alone, one = run_steps(small, 1, batches)
    together, eight = run_steps(small, 8, batches)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    for left, right in zip(
        jax.tree.leaves(one.batch_stats),
        jax.tree.leaves(eight.batch_stats),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, atol=1e-4)


def test_groups_of_clips_are_normalised_alike_on_any_devices(small):
    config = small.copy_and_resolve_references()
    config.batch_size = 16
    batches = [random_batch(16, seed) for seed in range(6)]
    whole, _ = run_steps(config, 1, batches)
    config.model.norm_groups = 8
    alone, one = run_steps(config, 1, batches)
    together, eight = run_steps(config, 8, batches)
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)
    assert abs(np.subtract(whole, alone)).max() > 1e-4
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, one.batch_stats, eight.batch_stats)


@pytest.mark.parametrize("parts", [1, 2])
def test_with_moments_split_over_the_devices_the_steps_are_the_same(small, parts):
    config = in_parts(small, parts=parts, rows=32)
    with config.unlocked():
        config.optimizer.update(ema_decay=0.9, clip_norm=1.0, weight_decay=0.1)
    batches = [random_batch(32, seed) for seed in range(4)]
    whole, one = run_steps(config, 8, batches)
    with config.unlocked():
        config.shard_optimizer = True
    split, eight = run_steps(config, 8, batches)
    np.testing.assert_allclose(whole, split, atol=1e-6)
    # Rounding grows where Adam divides by a small second moment.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, one, eight)


def test_sgd_and_sam_take_the_steps_of_their_formulas(small):
    """Two steps of momentum, each gradient taken a radius up the hill."""
    batch, rate, momentum, radius = random_batch(8), 0.1, 0.5, 0.05
    config = small.copy_and_resolve_references()
    config.optimizer.update(kind="sgd", momentum=momentum, learning_rate=rate)
    config.optimizer.sam_radius = radius
    step_settings = steps.make_step_settings(config, num_steps=2)
    gradients = jax.jit(lambda state: steps.gradients(step_settings, state, batch)[0])
    update = jax.jit(functools.partial(steps.train_step, step_settings))
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    moved = jax.tree.map(jnp.zeros_like, state.params)
    for _ in range(2):
        grads = gradients(state)
        up = radius / optax.tree.norm(grads)
        above = jax.tree.map(lambda p, g, u=up: p + u * g, state.params, grads)
        grads = gradients(state.replace(params=above))
        moved = jax.tree.map(lambda m, g: momentum * m + g, moved, grads)
        wanted = jax.tree.map(lambda p, m: p - rate * m, state.params, moved)
        state, _ = update(state, batch)
        for left, right in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(wanted), strict=True
        ):
            np.testing.assert_allclose(left, right, atol=1e-6)


def test_a_state_survives_a_batch_that_is_not_finite(small):
    """T1 A batch that gives no finite numbers: the step keeps the old state."""
    config = small.copy_and_resolve_references()
    with config.unlocked():
        config.optimizer.learning_rate = 1e30  # the next loss overflows
    batches = [random_batch(8, seed) for seed in range(4)]
    mesh = parallel.make_mesh(jax.devices()[:1])
    step_settings = steps.make_step_settings(config, num_steps=4)
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    update = compiled.compile_train_step(step_settings, mesh)
    finite = []
    for batch in batches:
        before = parallel.fetch(state)
        state, metrics = update(state, parallel.to_global(batch, mesh))
        finite.append(bool(metrics.finite))
        if not finite[-1]:
            jax.tree.map(np.testing.assert_array_equal, before, parallel.fetch(state))
    assert finite[0] and not all(finite)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(parallel.fetch(state)))


def test_a_state_survives_sam_that_climbs_out_of_the_finite(small):
    """T1 The gradient that SAM descends is another one than the first."""
    config = small.copy_and_resolve_references()
    config.optimizer.sam_radius = 1e38
    mesh = parallel.make_mesh(jax.devices()[:1])
    step_settings = steps.make_step_settings(config, num_steps=2)
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    update = compiled.compile_train_step(step_settings, mesh)
    before = parallel.fetch(state)
    state, metrics = update(state, parallel.to_global(random_batch(8), mesh))
    assert np.isfinite(metrics.gradient_norm) and not metrics.finite
    jax.tree.map(np.testing.assert_array_equal, before, parallel.fetch(state))


@pytest.mark.parametrize("frame_weight", [0.0, 0.5])
def test_places_are_learnt_from_the_masks_that_are_known(small, frame_weight):
    """The loss of places is its formula's; clips without a mask, padding and frames
    after a clip's end teach nothing."""
    config = small.copy_and_resolve_references()
    with config.unlocked():
        config.model.patches, config.loss.mask_weight = True, 0.7
        config.loss.frame_weight = frame_weight
        config.model.dropout = 0.0
    settings = steps.make_step_settings(config, num_steps=1)
    without = settings._replace(mask_weight=0.0)
    state = steps.create_train_state(settings, (FRAMES, SIZE, SIZE, 3))
    batch, draw = random_batch(8), np.random.default_rng(0)
    batch.length[:], batch.valid[5] = [1, 2, 3, 3, 2, 1, 3, 2], False
    masks = draw.integers(0, 255, (8, FRAMES, 4, 4)).astype(np.uint8)
    masks[2] = 255  # not known
    batch = batch._replace(mask=masks)

    def loss_of(settings, params):
        frames, key = steps.prepare_inputs(settings, state.step, batch)
        moved = batch._replace(mask=steps.moved_masks(settings, state.step, batch))
        counts = steps.Counts.of(batch)
        loss, _ = steps.objective(
            settings, params, state.batch_stats, moved, frames, key, counts
        )
        return loss

    added = loss_of(settings, state.params) - loss_of(without, state.params)
    frames, _ = steps.prepare_inputs(settings, state.step, batch)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    (_, _, places), _ = settings.model.apply(
        *(variables, frames, batch.length),
        train=True,
        mutable=["batch_stats"],
        method="training_outputs",
    )
    share = np.asarray(
        jax.image.resize(masks / np.float32(254), places.shape, "linear")
    )
    place = np.asarray(places)
    losses = np.logaddexp(0, place) - share * place
    counted = [
        losses[n, : batch.length[n]].mean(axis=(1, 2))
        for n in range(8)
        if n not in (2, 5)
    ]
    np.testing.assert_allclose(added, 0.7 * np.concatenate(counted).mean(), rtol=1e-4)
    grads = jax.grad(functools.partial(loss_of, settings))(state.params)
    assert np.abs(grads["patch"]["kernel"]).max() > 0


@pytest.mark.parametrize("frame_weight", [0.0, 0.5])
def test_the_update_is_that_of_its_formula(small, frame_weight):
    config = small.copy_and_resolve_references()
    with config.unlocked():
        config.loss.update(frame_weight=frame_weight, label_smoothing=0.1)
        config.model.dropout = 0.0
    mesh = parallel.make_mesh(jax.devices()[:1])
    step_settings = steps.make_step_settings(config, num_steps=1)
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    batch = random_batch(8)
    batch.valid[3] = False
    batch.length[:] = [1, 2, 3, 3, 2, 1, 3, 2]

    def parts(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        mean, std = jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225])
        logits, _ = step_settings.model.apply(
            variables,
            (batch.frames.astype(np.float32) / 255 - mean) / std,
            batch.length,
            train=True,
            mutable=["batch_stats"],
            method="frame_logits",
        )
        of_clips, of_frames, right = [], [], []
        for n in np.flatnonzero(batch.valid):
            target = 0.95 if batch.label[n] else 0.05
            shown = logits[n, : batch.length[n]]
            losses = -target * jax.nn.log_sigmoid(shown)
            losses -= (1 - target) * jax.nn.log_sigmoid(-shown)
            of_clips.append(losses[-1])
            of_frames += list(losses)
            right.append((shown[-1] > 0) == (batch.label[n] == 1))
        loss, frames = sum(of_clips) / 7, sum(of_frames) / len(of_frames)
        return loss + frame_weight * frames, (loss, sum(right))

    grads, (loss, right) = jax.jit(jax.grad(parts, has_aux=True))(state.params)
    squares = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads))
    after, metrics = jax.jit(functools.partial(steps.train_step, step_settings))(
        state, batch
    )
    np.testing.assert_allclose(metrics.gradient_norm, squares**0.5, rtol=1e-4)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(metrics.accuracy, right / 7, rtol=1e-6)
    totals = [float(x) for x in (after.totals.correct, after.totals.clips)]
    assert totals == [float(right), 7.0] and after.step == 1
    np.testing.assert_allclose(after.totals.loss, 7 * loss, rtol=1e-5)


def test_clips_are_blended_for_an_evaluation_as_for_a_training(small):
    mesh = parallel.make_mesh(jax.devices()[:1])
    step_settings = steps.make_step_settings(small, num_steps=1)
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), small, mesh)
    variables = state.eval_variables()
    batch = jax.tree.map(jnp.asarray, random_batch(4))
    found = steps.blended_eval_step(
        step_settings.model, 7, step_settings.stored, variables, batch
    )
    frames = selfblend.self_blend(
        batch.frames / np.float32(255),
        batch.label == 1,
        batch.face,
        key=jax.random.fold_in(jax.random.key(7), 2),
        index_B=batch.index,
        stored=step_settings.stored,
    )
    same = batch._replace(frames=jnp.round(255 * frames).astype(jnp.uint8))
    expected = steps.eval_step(step_settings.model, variables, same)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    plain = steps.eval_step(step_settings.model, variables, batch)
    assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 1e-3


def test_degraded_clips_are_scored_as_clips_that_came_so(small):
    step_settings = steps.make_step_settings(small, num_steps=1)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = first_state(step_settings, (FRAMES, SIZE, SIZE, 3), small, mesh)
    variables, model = state.eval_variables(), step_settings.model
    batch = jax.tree.map(jnp.asarray, random_batch(4))
    families = {family.name: family for family in degrade.FAMILIES}
    given = (variables, jnp.float32(0.35))
    plain = steps.eval_step(model, variables, batch)
    # Not made on a device: its clips come as they are to be scored.
    found = steps.degraded_eval_step(model, families["h264"], given, batch)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    darker = families["brightness"]
    found = steps.degraded_eval_step(model, darker, given, batch)
    frames = degrade.degrade_clips(
        batch.frames / np.float32(255), darker, given[1], batch.index
    )
    same = batch._replace(frames=jnp.round(255 * frames).astype(jnp.uint8))
    expected = steps.eval_step(model, variables, same)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 1e-3


def test_pictures_are_the_frames_that_a_step_sees_a_clip_in_a_row(small):
    step_settings = steps.make_step_settings(small, num_steps=1)
    batch = random_batch(3)
    sheet = steps.pictures(step_settings, jnp.int32(0), batch)
    rows = [np.concatenate(list(clip), axis=1) for clip in batch.frames]
    np.testing.assert_array_equal(sheet, np.concatenate(rows))


def test_without_frames_or_clips_a_mean_is_nothing():
    assert float(steps.weighted_mean(jnp.ones(2), jnp.zeros(2, bool))) == 0.0
    half = steps.weighted_mean(jnp.array([1.0, 3.0]), jnp.array([True, True]))
    assert float(half) == 2.0


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_at_each_step(warmup):
    known = {"peak": 0.2, "warmup_steps": warmup, "num_steps": 8 + warmup}
    constant = optimizer.learning_rate(schedule="constant", **known)
    cosine = optimizer.learning_rate(schedule="cosine", **known)
    rising = [0.2 * n / 4 for n in range(warmup)]
    falling = [0.1 * (1 + np.cos(np.pi * n / 8)) for n in range(9)]
    for rate, rest in ((constant, [0.2] * 9), (cosine, falling)):
        found = [np.asarray(rate(n)).item() for n in range(warmup + 9)]
        np.testing.assert_allclose(found, rising + rest, atol=1e-7)


def test_padding_clips_count_for_nothing():
    losses = steps.clip_losses(jnp.array([3.0, -1.0]), jnp.array([1.0, 1.0]))
    mean = steps.weighted_mean(losses, jnp.array([True, False]))
    np.testing.assert_allclose(mean, np.log1p(np.exp(-3.0)), rtol=1e-6)


def averaging(config, decay: float):
    """The config with averaged weights."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.optimizer.ema_decay = decay
    return config


def test_weights_and_statistics_are_averaged_slowly_and_at_first_less_so(small):
    config = averaging(small, 0.15)
    states = [run_steps(config, 1, [random_batch(8)] * n)[1] for n in range(3)]

    def pair(state):
        return {"params": state.params, "batch_stats": state.batch_stats}

    # (1 + t) / (10 + t) is 0.1 for the first update and 0.18, so 0.15, for the second.
    expected = pair(states[0])
    for decay, state in zip((0.1, 0.15), states[1:], strict=True):
        expected = jax.tree.map(
            lambda old, new, d=decay: d * old + (1 - d) * new, expected, pair(state)
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            expected,
            state.eval_variables(),
        )


def test_the_decay_warms_up():
    decay = [float(steps.average_decay(0.999, jnp.int32(t))) for t in (0, 90, 10**6)]
    np.testing.assert_allclose(decay, [0.1, 0.91, 0.999], rtol=1e-6)


def light_or_dark(rows: int, seed: int) -> Batch:
    """Clips of noise; the fakes are a little lighter, all of a drifting brightness."""
    batch = random_batch(rows, seed)
    noise = batch.frames.astype(np.float32) / 4 + 80
    lift = 12 * batch.label[:, None, None, None, None]
    batch.frames[:] = np.clip(noise + lift + 6 * np.sin(seed), 0, 255)
    return batch


def test_averaged_weights_score_as_with_statistics_estimated_anew(small):
    config = averaging(small, 0.999)
    with config.unlocked():
        config.optimizer.learning_rate = 0.1  # weights that move, and so do features
    _, state = run_steps(config, 1, [light_or_dark(8, n) for n in range(40)])
    stored = state.eval_variables()
    model = network.make_model(config)
    batches = [light_or_dark(8, n) for n in range(200, 220)]
    anew = averaged.estimate_statistics(model, stored, batches)
    held = jax.tree.map(jnp.asarray, light_or_dark(64, 500))

    def logits(batch_stats):
        variables = {"params": stored["params"], "batch_stats": batch_stats}
        return np.asarray(steps.eval_step(model, variables, held))

    def off(batch_stats) -> float:  # 0.06 as stored; 0.47 with the raw weights' own
        return np.sqrt(np.mean((logits(batch_stats) - logits(anew)) ** 2))

    assert off(stored["batch_stats"]) < 0.03 * logits(anew).std()
    assert off(stored["batch_stats"]) < 0.3 * off(state.batch_stats)


def test_learning_rate_warms_up_and_ends_at_zero():
    rate = optimizer.learning_rate(
        peak=0.1, schedule="cosine", warmup_steps=10, num_steps=110
    )
    found = [np.asarray(rate(n)) for n in (0, 10, 110)]
    np.testing.assert_allclose(found, [0, 0.1, 0], atol=1e-6)


def test_a_batch_that_does_not_divide_names_the_nearest_sizes():
    mesh = parallel.make_mesh(jax.devices())
    with pytest.raises(ConfigError, match="batch_size 30 .* 8 devices; .*24 and 32"):
        parallel.check_divisible("batch_size", 30, mesh)


def test_frozen_stages_stay_and_earlier_ones_learn_slower(small):
    config = small.copy_and_resolve_references()
    with config.unlocked():
        config.model.freeze_stages = 1
        config.optimizer.update(
            weight_decay=0.1, backbone_multiplier=0.5, layer_decay=0.1
        )
    _, start = run_steps(config, 1, [])
    _, state = run_steps(config, 1, [random_batch(8)])
    moved = jax.tree.map(
        lambda old, new: float(np.abs(new - old).max()), start.params, state.params
    )
    frozen = [moved["backbone"][name] for name in ("conv1", "bn1", "layer1_0")]
    assert max(jax.tree.leaves(frozen)) == 0.0
    rate = config.optimizer.learning_rate
    # Adam's first step is the learning rate itself; only kernels decay. (A block starts
    # as the identity: of it only the last normalisation has a gradient.)
    np.testing.assert_allclose(moved["head"]["bias"], rate, rtol=1e-3)
    np.testing.assert_allclose(
        moved["backbone"]["layer2_0"]["bn2"]["bias"], 0.5 * rate, rtol=1e-2
    )
    factor = optimizer._rate_factor(
        ["backbone", "layer1_0", "conv1", "kernel"],
        backbone=0.5,
        layer_decay=0.1,
        num_stages=2,
        freeze_stages=0,
    )
    np.testing.assert_allclose(factor, 0.05)


def test_only_time_without_a_running_step_counts_as_waiting_for_input():
    clock = speed.Clock(batch_size=8, clip_frames=2)
    clock.count_wait(1.0, None)
    assert clock._waited == 1.0  # nothing was started yet

    @jax.jit
    def long_step(x):
        return jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ y), x).sum()

    x = jnp.ones((1024, 1024))
    long_step(x).block_until_ready()
    running = long_step(x)
    clock.count_wait(10.0, running)
    assert clock._waited == 1.0
    running.block_until_ready()
    clock.count_wait(100.0, running)
    assert clock._waited == 101.0


def test_the_rate_of_an_epoch_is_of_all_its_steps(monkeypatch):
    """The last step alone may have been fast or slow."""
    moments = iter([100.0, 104.0, 104.5, 105.0])
    clock = types.SimpleNamespace(perf_counter=lambda: next(moments))
    monkeypatch.setattr(speed, "time", clock)
    clock = speed.Clock(batch_size=10, clip_frames=3, flops=6e12, peak=8e12)
    clock.count_wait(2.0, None)
    first, second = clock.count_step(), clock.count_step()
    assert [first.clips_per_second, second.clips_per_second] == [2.5, 20.0]
    assert clock.read() == speed.Speed(5.0, 4.0, 12.0, 0.3, 0.4)
    assert str(clock._speed(2, 5.0, 0.0)) == "4.0 clips/s, 12 frames/s, MFU 30.0%"
    assert first.numbers()["mfu"] == 0.1875


def test_the_peak_is_that_of_the_device_or_not_known():
    def mesh(kind: str, devices: int) -> Any:
        places = np.array([types.SimpleNamespace(device_kind=kind)] * devices)
        return types.SimpleNamespace(devices=places)

    assert speed.peak_flops(mesh("NVIDIA H100 80GB HBM3", 8), "bfloat16") == 8 * 989e12
    assert speed.peak_flops(mesh("NVIDIA H100 PCIe", 1), "bfloat16") == 756e12
    assert speed.peak_flops(mesh("TPU v5 lite", 4), "bfloat16") == 4 * 197e12
    # Each start comes before the shorter ones that it begins with.
    for kind, peak in speed.PEAKS.items():
        assert speed.peak_flops(mesh(kind, 1), "bfloat16") == peak
    assert speed.PEAKS["NVIDIA L40"] != speed.PEAKS["NVIDIA L4"]
    assert speed.peak_flops(mesh("NVIDIA H100 PCIe", 1), "float32") is None
    assert speed.peak_flops(mesh("cpu", 1), "bfloat16") is None


@pytest.mark.parametrize("devices", [1, 8])
def test_clips_marked_as_blends_are_blended(small, devices):
    """A mark that changes nothing would train on reals that are called fakes."""
    config = small.copy_and_resolve_references()
    with config.unlocked():
        config.loss.self_blend = 0.5
    batch = random_batch(8)
    marked = batch._replace(blend=np.arange(8) % 4 == 1)
    assert marked.label[marked.blend].all()
    plain, _ = run_steps(config, 1, [batch])
    blended, _ = run_steps(config, devices, [marked])
    assert abs(plain[0] - blended[0]) > 1e-4
    np.testing.assert_allclose(run_steps(config, 1, [marked])[0], blended, atol=1e-4)


def test_draws_of_blends_augmentation_and_dropout_are_independent(small):
    """Of neighbouring clips and steps, and of one another."""
    count, size = 4000, 8
    batch = empty_batch(count, 1, size)
    batch.frames[:] = 128  # so that a clip's mean level is what was drawn for it
    batch.face[:] = [[0.4, 0.3], [0.4, 0.7], [0.55, 0.5], [0.7, 0.4], [0.7, 0.6]]
    batch.index[:], batch.blend[:] = np.arange(count), True

    def levels(change: dict[str, float]) -> list[np.ndarray]:
        config = small.copy_and_resolve_references()
        with config.unlocked():
            config.update_from_flattened_dict(change)
        step_settings = steps.make_step_settings(config, num_steps=10)

        @jax.jit
        def drawn(step):
            frames, dropout = steps.prepare_inputs(step_settings, step, batch)
            return frames.mean((1, 2, 3, 4)), jax.random.uniform(dropout, (count,))

        return [np.asarray(column) for step in range(4) for column in drawn(step)]

    blended = levels({"loss.self_blend": 0.5})
    brighter = levels({"augment.brightness_contrast": 1.0})
    columns = np.stack([*blended, *brighter[::2]])
    apart = np.triu_indices(len(columns), 1)
    assert np.abs(np.corrcoef(columns)[apart]).max() < 0.1  # six deviations
    for distance in (1, 2, 8):
        pairs = zip(columns[:, distance:], columns[:, :-distance], strict=True)
        assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs) < 0.1


def in_parts(config, parts: int, rows: int):
    """The config with a batch that is computed in parts."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.accumulate, config.batch_size = parts, rows
        config.loss.frame_weight, config.model.dropout = 0.5, 0.0
    return config


@pytest.mark.parametrize("devices", [1, 2])
def test_the_gradients_of_parts_are_summed(small, devices):
    """Each part by its own statistics, all else over the whole batch."""
    config = in_parts(small, parts=2, rows=16)
    with config.unlocked():
        config.model.patches, config.loss.mask_weight = True, 0.5
    masks = np.random.default_rng(0).integers(0, 255, (16, FRAMES, 4, 4), np.uint8)
    masks[[1, 6, 7]] = 255  # not known: others in one part than in the other
    batch = random_batch(16)._replace(mask=masks)
    batch.valid[[3, 4, 12]] = False
    mesh = parallel.make_mesh(jax.devices()[:devices])
    settings = steps.make_step_settings(config, num_steps=1)
    state = first_state(settings, (FRAMES, SIZE, SIZE, 3), config, mesh)
    gradients = jax.jit(functools.partial(steps.gradients, settings))
    found, (loss, logits, stats) = gradients(state, parallel.to_global(batch, mesh))
    # Of each two twos one goes to either part, of the second group the other way round.
    members = [[0, 1, 6, 7, 8, 9, 14, 15], [2, 3, 4, 5, 10, 11, 12, 13]]
    whole = settings._replace(accumulate=1)
    counts = steps.Counts.of(jax.tree.map(jnp.asarray, batch))
    expected, total, statistics = None, 0.0, state.batch_stats
    of_part = jax.jit(jax.grad(functools.partial(steps.objective, whole), has_aux=True))
    for rows in members:
        part = jax.tree.map(lambda values, rows=rows: jnp.asarray(values[rows]), batch)
        frames, key = steps.prepare_inputs(whole, state.step, part)
        part = part._replace(mask=steps.moved_masks(whole, state.step, part))
        grads, (more, part_logits, statistics) = of_part(
            state.params, statistics, part, frames, key, counts
        )
        total += float(more)
        expected = grads if expected is None else jax.tree.map(np.add, expected, grads)
        np.testing.assert_allclose(logits[np.array(rows)], part_logits, atol=1e-5)
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found, expected)
    jax.tree.map(close, stats, statistics)


def test_parts_are_the_same_on_any_number_of_devices(small):
    config = in_parts(small, parts=2, rows=32)
    batches = [random_batch(32, seed) for seed in range(4)]
    alone, _ = run_steps(config, 1, batches)
    together, _ = run_steps(config, 8, batches)
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("methods", [1, 2, 3, 4])
def test_parts_mix_methods_that_take_turns_and_keep_twos_together(parts, methods):
    size = 2 * parts * 8
    batch = {"row": jnp.arange(size)}
    taken = [
        np.asarray(steps.take_part(batch, jnp.int32(k), parts)["row"])
        for k in range(parts)
    ]
    assert sorted(np.concatenate(taken)) == list(range(size))
    joined = steps.join_parts(jnp.asarray(np.stack(taken)))
    np.testing.assert_array_equal(joined, np.arange(size))
    for rows in taken:
        first, second = rows.reshape(-1, 2).T
        assert (first % 2 == 0).all() and (second == first + 1).all()
        assert set(first // 2 % methods) == set(range(methods))


def test_a_batch_that_does_not_split_into_parts_names_the_nearest_sizes():
    mesh = parallel.make_mesh(jax.devices()[:2])
    with pytest.raises(ConfigError, match="accumulate=4 parts.*nearest are 16 and 32"):
        parallel.check_divisible("batch_size", 24, mesh, 4)
    parallel.check_divisible("batch_size", 32, mesh, 4)
