"""The laws of augmentation: one draw per clip, by seed, step and clip alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakedetect_jax.augment.clips import (
    OPERATIONS,
    Augmentation,
    _draw,
    augment_clips,
    augment_masks,
    near_gaussian,
)
from fakedetect_jax.augment.fields import parse
from fakedetect_jax.errors import ConfigError
from tests.augment.test_pixels import picture

CLIPS, FRAMES, SIDE = 8, 4, 32
# What makes an operation do nothing to a clip that it has chosen.
STRENGTH_ZERO = {
    "crop": {"crop_scale": 0.0, "crop_shift": 0.0},
    "blur": {"blur_sigma": 0.0},
    "downscale": {"downscale_factor": 1.0},
    "brightness_contrast": {"brightness": 0.0, "contrast": 0.0},
    "hue_saturation": {"hue": 0.0, "saturation": 0.0},
    "gamma": {"gamma_octaves": 0.0},
    "noise": {"noise_sigma": 0.0},
    "frame_drop": {"frame_drop_rate": 0.0},
    "cutout": {"cutout_side": 0.0},
}
STRONGEST = {
    "crop_scale": 1.0,
    "crop_shift": 1.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "hue": 1.0,
    "saturation": 1.0,
    "gamma_octaves": 4.0,
    "noise_sigma": 1.0,
    "jpeg_quality": 1,
}
# JPEG's rounding may turn the last bit of what came before into a level.
ALL_BUT_JPEG = {**dict.fromkeys(OPERATIONS, 0.7), "jpeg": 0.0}


@pytest.fixture(scope="module")
def still():
    """float32[CLIPS,FRAMES,SIDE,SIDE,3]: each clip one picture throughout."""
    pictures = np.stack([picture(SIDE, seed=seed) for seed in range(CLIPS)])
    frames = np.repeat(pictures[:, None], FRAMES, axis=1)
    return jnp.asarray(frames.astype(np.float32) / 255)


@functools.cache
def compiled(items: tuple):
    config = dict(items)
    return jax.jit(
        lambda frames, index, seed: augment_clips(
            frames, key=jax.random.key(seed), index_B=index, settings=parse(config)
        )
    )


def augmented(frames, config: dict, *, seed: int = 0, index=None) -> np.ndarray:
    index = jnp.arange(len(frames)) if index is None else jnp.asarray(index)
    return np.asarray(compiled(tuple(config.items()))(frames, index, seed))


@pytest.mark.parametrize("name", ["flip", "crop", "frame_drop", "all"])
def test_masks_move_as_the_frames_do(name):
    """A mask shown as grey frames is where its own mask is afterwards."""
    rng = np.random.default_rng(0)
    masks = rng.random((CLIPS, FRAMES, 8, 8)).repeat(4, 2).repeat(4, 3)
    masks = jnp.asarray(masks, jnp.float32)
    moving = dict.fromkeys(("flip", "crop", "frame_drop"), 0.7)
    config = {**moving, "gamma": 0.0} if name == "all" else {name: 1.0}
    frames = augmented(jnp.repeat(masks[..., None], 3, axis=-1), config)
    # What changes colours alone moves nothing.
    settings = parse({**config, "blur": 1.0, "noise": 1.0, "jpeg": 1.0})
    key, index = jax.random.key(0), jnp.arange(CLIPS)
    moved = augment_masks(masks, key=key, index_B=index, settings=settings)
    assert not np.allclose(moved, masks, atol=0.1)
    np.testing.assert_allclose(moved, frames[..., 0], atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_chosen_clip_changes_alike_in_all_its_frames(still, name):
    out = augmented(still, {name: 1.0})
    assert out.shape == still.shape
    if name == "noise":  # a sensor's: new in each frame, of one strength
        sigma = (out - np.asarray(still)).std(axis=(2, 3, 4))
        np.testing.assert_allclose(sigma, sigma[:, :1] * np.ones(FRAMES), rtol=0.1)
        assert np.abs(out[:, 0] - out[:, 1]).max() > 0.01
    else:
        assert np.array_equal(out, np.repeat(out[:, :1], FRAMES, axis=1))
    if name != "frame_drop":  # which shows nothing on a still
        changed = np.abs(out - np.asarray(still)).max(axis=(1, 2, 3, 4))
        assert np.sum(changed > 1e-3) > CLIPS // 2  # some draws are too weak to see
        # Clips draw apart: the same picture under other indices comes out otherwise.
        same = jnp.broadcast_to(still[:1], still.shape)
        apart = augmented(same, {name: 1.0 if name != "flip" else 0.5})
        assert len(np.unique(apart.round(5), axis=0)) > 1


@pytest.mark.parametrize("name", sorted(STRENGTH_ZERO))
def test_strength_zero_changes_nothing(still, name):
    out = augmented(still, {name: 1.0, **STRENGTH_ZERO[name]})
    np.testing.assert_allclose(out, still, atol=2e-6)


def test_jpeg_at_its_best_is_nearly_nothing(still):
    config = {"jpeg": 1.0, "jpeg_quality": 100, "jpeg_subsampling": "444"}
    assert np.abs(augmented(still, config) - still).mean() < 0.7 / 255


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_range_is_kept_at_the_strongest(still, name):
    hard = jnp.round(still)  # zeros and ones only
    out = augmented(hard, {name: 1.0, **STRONGEST})
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_an_operation_that_is_off_is_not_compiled(still):
    def program(config):
        function = functools.partial(
            augment_clips, key=jax.random.key(0), settings=parse(config)
        )
        return str(
            jax.make_jaxpr(lambda f, i: function(f, index_B=i))(
                still, jnp.arange(CLIPS)
            )
        )

    off = dict.fromkeys(OPERATIONS, 0.0)
    assert program(off) == program({})
    assert program({}).count("\n") <= 1  # the frames go through untouched
    for name in OPERATIONS:
        assert program({**off, name: 0.5}) == program({name: 0.5})
        assert program({name: 0.5}) != program({})
    # Each alone has none of what others need.
    for word in ("dot_general", "cummax", "round", "pow"):
        assert word not in program({"flip": 0.5}), word
        assert word in program(dict.fromkeys(OPERATIONS, 0.5)), word


def test_draws_follow_seed_and_clip_not_place(still):
    whole = augmented(still, ALL_BUT_JPEG)
    order = np.random.default_rng(0).permutation(CLIPS)
    moved = augmented(still[order], ALL_BUT_JPEG, index=order)
    np.testing.assert_allclose(moved, whole[order], atol=1e-5)
    assert np.array_equal(augmented(still, ALL_BUT_JPEG), whole)
    assert np.abs(augmented(still, ALL_BUT_JPEG, seed=1) - whole).mean() > 0.01


def test_draws_do_not_depend_on_the_batch_size(still):
    config = {"flip": 0.5, "frame_drop": 0.5, "cutout": 1.0}
    part = augmented(still[3:5], config, index=[3, 4])
    assert np.array_equal(part, augmented(still, config)[3:5])


def test_an_operation_draws_the_same_beside_another(still):
    alone = augmented(still, {"flip": 0.5})
    # Lost frames do not show on a still clip, so only flips are left to see.
    beside = augmented(still, {"flip": 0.5, "frame_drop": 1.0})
    assert np.array_equal(alone, beside)


def test_draws_of_neighbours_are_independent():
    def draws(step, index):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), index)
        settings = Augmentation()
        return jnp.stack([_draw(key, name, settings)[1] for name in OPERATIONS])

    clips = jax.vmap(draws, (None, 0))
    table = jax.jit(jax.vmap(clips, (0, None)))(jnp.arange(6), jnp.arange(4000))
    # Each column: one draw of one operation in one step, over neighbouring clips.
    columns = np.asarray(table).transpose(1, 0, 2, 3).reshape(4000, -1)
    apart = np.triu_indices(columns.shape[1], 1)
    assert np.abs(np.corrcoef(columns.T)[apart]).max() < 0.1  # six deviations
    beside = [np.corrcoef(c[1:], c[:-1])[0, 1] for c in columns.T]
    assert np.abs(beside).max() < 0.1


def test_a_probability_is_the_share_of_changed_clips():
    ramp = jnp.arange(8.0)[:, None] / 8  # brighter to the right
    frames = jnp.broadcast_to(ramp, (400, 1, 2, 8, 3))
    out = augmented(frames, {"flip": 0.3})
    share = np.mean(out[:, 0, 0, 0, 0] > 0.5)
    assert abs(share - 0.3) < 0.08  # three standard deviations


def test_a_lost_frame_shows_the_last_one_kept():
    frames = jnp.arange(6.0)[:, None, None, None] / 8 * jnp.ones((64, 6, 2, 2, 3))
    out = augmented(frames, {"frame_drop": 1.0, "frame_drop_rate": 0.5})
    shown = np.round(out[:, :, 0, 0, 0] * 8).astype(int)
    assert (shown[:, 0] == 0).all()
    time = np.arange(6)
    repeats = shown[:, 1:] == shown[:, :-1]
    assert (repeats | (shown[:, 1:] == time[1:])).all()
    assert 0.35 < repeats.mean() < 0.65
    some = augmented(frames, {"frame_drop": 0.5, "frame_drop_rate": 0.5})
    whole = np.mean(np.all(some == frames, axis=(1, 2, 3, 4)))
    assert 0.3 < whole < 0.7  # 2^-5 of the chosen ones lose nothing


def test_the_type_is_kept():
    frames = jax.ShapeDtypeStruct((2, 3, 20, 24, 3), jnp.bfloat16)
    settings = parse({**ALL_BUT_JPEG, "jpeg": 1})
    function = functools.partial(
        augment_clips, key=jax.random.key(0), settings=settings
    )
    out = jax.eval_shape(lambda f: function(f, index_B=jnp.arange(2)), frames)
    assert (out.shape, out.dtype) == (frames.shape, frames.dtype)


def test_devices_share_the_batch_without_talking(still):
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    over_clips = NamedSharding(mesh, PartitionSpec("data"))
    function = compiled(tuple(ALL_BUT_JPEG.items()))
    inputs = (still, jnp.arange(CLIPS))
    spread = [jax.device_put(value, over_clips) for value in inputs]
    spread_function = function.lower(*spread, 0).compile()
    program = str(spread_function.as_text())
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in program
    together = augmented(still, ALL_BUT_JPEG)
    np.testing.assert_allclose(spread_function(*spread, 0), together, atol=1e-5)


def test_noise_is_nearly_gaussian():
    sample = np.asarray(near_gaussian(jax.random.key(0), (5, 200, 200)))
    assert sample.shape == (5, 200, 200)
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert abs(np.mean(np.abs(sample) < 1) - 0.683) < 0.02
    assert abs(np.corrcoef(sample[0].ravel(), sample[3].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"flop": 0.5}, "config.augment has no field flop"),
        ({"flip": 1.5}, r"config.augment.flip is 1.5; it must be a number from 0 to 1"),
        ({"blur": float("nan")}, "config.augment.blur is nan"),
        ({"noise": "often"}, "config.augment.noise is 'often'"),
        ({"jpeg_quality": 0}, "config.augment.jpeg_quality is 0"),
        ({"jpeg_subsampling": "422"}, "must be one of 420, 444"),
    ],
)
def test_a_wrong_field_is_named(still, config, message):
    with pytest.raises(ConfigError, match=message):
        augmented(still, config)
