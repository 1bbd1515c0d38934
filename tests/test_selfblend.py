"""Self-blended clips: only reals, one blend per clip, drifting slowly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax import selfblend
from tests.test_imaging import picture
from tfds_ffpp.faces import usual_box
from tfds_ffpp.track import place_points

CLIPS, FRAMES, SIDE = 12, 6, 48


def faces_of(clips: int, frames: int) -> jax.Array:
    """The points of a face in the middle of its crop, for every frame."""
    points = jnp.asarray(place_points(usual_box(1.3)), jnp.float32)
    return jnp.tile(points, (clips, frames, 1, 1))


@pytest.fixture(scope="module")
def still():
    """float32[CLIPS,FRAMES,SIDE,SIDE,3]: each clip one picture throughout."""
    pictures = np.stack([picture(SIDE, seed=seed) for seed in range(CLIPS)])
    frames = np.repeat(pictures[:, None], FRAMES, axis=1)
    return jnp.asarray(frames.astype(np.float32) / 255)


@jax.jit
def blend_all(frames, label, index, seed):
    return selfblend.self_blend(
        frames,
        label,
        faces_of(*frames.shape[:2]),
        key=jax.random.key(seed),
        index_B=index,
        probability=1.0,
    )


@pytest.fixture(scope="module")
def blended(still):
    frames, label = blend_all(still, jnp.zeros(CLIPS), jnp.arange(CLIPS), 0)
    assert np.array_equal(label, np.ones(CLIPS))
    return np.asarray(frames)


def test_fakes_are_left_alone(still):
    label = (jnp.arange(CLIPS) % 2).astype(jnp.float32)
    frames, new_label = blend_all(still, label, jnp.arange(CLIPS), 0)
    assert np.array_equal(frames[1::2], still[1::2])
    assert np.array_equal(new_label, np.ones(CLIPS))
    changed = np.abs(frames[::2] - still[::2]).max(axis=(1, 2, 3, 4))
    assert (changed > 2 / 255).all()


@jax.jit  # without the frames, the compiler drops all that makes them
def labels_of(index):
    return selfblend.self_blend(
        jnp.zeros((len(index), 1, 8, 8, 3)),
        jnp.zeros(len(index)),
        faces_of(len(index), 1),
        key=jax.random.key(0),
        index_B=index,
        probability=0.4,
    )[1]


def test_a_probability_is_the_share_of_reals():
    label = labels_of(jnp.arange(300))
    assert abs(float(label.mean()) - 0.4) < 0.09  # three standard deviations


def test_probability_zero_compiles_nothing(still):
    label = jnp.zeros(CLIPS)
    same = selfblend.self_blend(
        still,
        label,
        faces_of(CLIPS, FRAMES),
        key=jax.random.key(0),
        index_B=label,
        probability=0.0,
    )
    assert same[0] is still
    assert same[1] is label


def test_blends_are_frames_that_could_have_been_stored(blended, still):
    levels = 255 * blended
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert blended.min() >= 0
    assert blended.max() <= 1
    assert blended.shape == still.shape


def test_one_blend_serves_the_clip_and_drifts_slowly(blended, still):
    change = np.abs(blended - np.asarray(still)).mean(axis=(1, 2, 3, 4))
    between = np.abs(np.diff(blended, axis=1)).mean(axis=(1, 2, 3, 4))
    assert (between > 0).mean() > 0.8
    assert np.median(between / change) < 0.3


def test_draws_follow_seed_and_clip_not_place(blended, still):
    order = np.random.default_rng(0).permutation(CLIPS)
    moved, _ = blend_all(still[order], jnp.zeros(CLIPS), jnp.asarray(order), 0)
    off = np.abs(moved - blended[order])
    assert off.max() < 1.5 / 255  # a rounding may fall to either side
    assert np.mean(off > 1e-6) < 0.001
    other, _ = blend_all(still, jnp.zeros(CLIPS), jnp.arange(CLIPS), 1)
    assert np.abs(other - blended).mean() > 1 / 255


def test_part_of_the_picture_stays_as_it_was(blended, still):
    # In about half of the clips only the source is changed: corners are the original's.
    corner = np.abs(blended - np.asarray(still))[:, :, :4, :4].max(axis=(1, 2, 3, 4))
    untouched = np.mean(corner < 0.6 / 255)
    assert 0.2 < untouched < 0.8


def test_masks_are_soft_regions_of_the_face():
    keys = jax.random.split(jax.random.key(0), 64)
    face = faces_of(1, 3)[0]
    draw = jax.jit(jax.vmap(lambda key: selfblend.face_mask((3, 64, 64), face, key)))
    masks = np.asarray(draw(keys))
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-5
    area = masks.mean(axis=(1, 2, 3))
    assert (area > 0.02).all()
    assert (area < 0.6).all()
    assert (masks.max(axis=(1, 2, 3)) > 0.5).all()
    corners = masks[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < 0.2
    soft = np.mean((masks > 0.05) & (masks < 0.95), axis=(1, 2, 3))
    assert (soft > 0.01).all()  # no hard edge
    assert len(np.unique(area.round(4))) > 50  # shapes differ


def test_types_are_kept():
    frames = jax.ShapeDtypeStruct((2, 3, 20, 24, 3), jnp.bfloat16)
    label = jax.ShapeDtypeStruct((2,), jnp.float32)
    out = jax.eval_shape(blend_all, frames, label, jnp.arange(2), 0)
    assert [(o.shape, o.dtype) for o in out] == [
        (frames.shape, frames.dtype),
        (label.shape, label.dtype),
    ]
