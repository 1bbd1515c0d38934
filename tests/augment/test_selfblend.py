"""Self-blended clips: one slow blend per clip, and nothing but it is a sign of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg

from fakedetect_jax.augment import pixels, selfblend
from tests.augment.test_pixels import picture
from tfds_ffpp.frames.people.faces import usual_box
from tfds_ffpp.frames.people.track import place_points

CLIPS, FRAMES, SIDE = 12, 6, 48
PICTURES = 800


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
def blend_some(frames, blend, index, seed):
    return selfblend.self_blend(
        frames,
        blend,
        faces_of(*frames.shape[:2]),
        key=jax.random.key(seed),
        index_B=index,
        stored=selfblend.Stored(quality=95, subsampling="444"),
    )


def blend_all(frames, index, seed):
    return blend_some(frames, jnp.ones(len(frames), bool), index, seed)


@pytest.fixture(scope="module")
def blended(still):
    return np.asarray(blend_all(still, jnp.arange(CLIPS), 0))


@pytest.fixture(scope="module")
def passed(still):
    """The same clips, through all but the blending itself."""
    none = jnp.zeros(CLIPS, bool)
    return np.asarray(blend_some(still, none, jnp.arange(CLIPS), 0))


def test_only_chosen_clips_are_blended(still, blended, passed):
    blend = jnp.arange(CLIPS) % 2 == 0
    frames = np.asarray(blend_some(still, blend, jnp.arange(CLIPS), 0))
    np.testing.assert_allclose(frames[::2], blended[::2], atol=1.5 / 255)
    np.testing.assert_allclose(frames[1::2], passed[1::2], atol=1.5 / 255)
    changed = np.abs(blended - passed).max(axis=(1, 2, 3, 4))
    assert (changed > 2 / 255).all()


def auc(fakes: np.ndarray, reals: np.ndarray) -> float:
    return float(
        np.mean(fakes[:, None] > reals) + 0.5 * np.mean(fakes[:, None] == reals)
    )


def linear_auc(fakes: np.ndarray, reals: np.ndarray) -> float:
    """AUC on the second halves of a ridge regression fitted on the first ones."""
    half = len(fakes) // 2
    seen = np.concatenate([fakes[:half], reals[:half]])
    mean, scale = seen.mean(0), seen.std(0) + 1e-9
    fakes, reals = (fakes - mean) / scale, (reals - mean) / scale
    seen = np.concatenate([fakes[:half], reals[:half]])
    target = np.repeat([1.0, -1.0], half)
    ridge = 0.02 * len(seen) * np.eye(seen.shape[1])
    weights = np.linalg.solve(seen.T @ seen + ridge, seen.T @ target)
    return auc(fakes[half:] @ weights, reals[half:] @ weights)


@pytest.fixture(scope="module")
def labelled():
    """Frames as a dataset stores them, as (blends, reals) of one training step.

    Two uint8[N,SIDE,SIDE,3] of the same pictures; the draws are apart.
    """
    count = PICTURES
    pictures = [picture(SIDE, seed=seed) for seed in range(count)]
    stored = np.stack(
        [
            simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(p, 95, "RGB", "444", False))
            for p in pictures
        ]
    )
    frames = jnp.asarray(np.tile(stored, (2, 1, 1, 1))[:, None] / np.float32(255))
    blend = jnp.arange(2 * count) < count
    out = np.asarray(blend_some(frames, blend, jnp.arange(2 * count), 0))[:, 0]
    out = np.round(255 * out).astype(np.uint8)
    return out[:count], out[count:]


def corner_features(frames: np.ndarray) -> np.ndarray:
    """Level, contrast, gradients and their squares in the four corners' 8x8 pixels."""
    found = []
    for rows in (slice(0, 8), slice(-8, None)):
        for columns in (slice(0, 8), slice(-8, None)):
            corner = frames[:, rows, columns].astype(float)
            found += [corner.mean((1, 2)), corner.std((1, 2))]
            for order in (1, 2):
                for axis in (1, 2):
                    steps = np.abs(np.diff(corner, order, axis))
                    found.append(steps.mean((1, 2)))
    features = np.concatenate(found, axis=1)
    return np.concatenate([features, features**2], axis=1)


def test_corners_do_not_tell_blends_from_reals(labelled):
    """What is changed as a whole is no sign of a fake."""
    blends, reals = (corner_features(frames) for frames in labelled)
    assert 0.45 < linear_auc(blends, reals) < 0.55
    for fakes, others in zip(blends.T, reals.T, strict=True):
        assert 0.44 < auc(fakes, others) < 0.56


def off_lattice(frames: np.ndarray) -> np.ndarray:
    """float[N,B,64]: how far luma DCT coefficients are from multiples of the steps of
    JPEG at quality 95, in steps."""
    luma = frames @ np.array(pixels.LUMA) - 128
    tiles = luma.reshape(len(luma), SIDE // 8, 8, SIDE // 8, 8)
    blocks = tiles.swapaxes(2, 3).reshape(len(luma), -1, 64)
    steps = np.asarray(pixels.quantisation_table(pixels.LUMA_TABLE, 95))
    ratio = blocks @ pixels.dct_basis().T / steps
    return np.abs(ratio - np.round(ratio))


def test_the_lattice_of_the_stored_jpeg_does_not_tell_blends_from_reals(labelled):
    blends, reals = (off_lattice(frames) for frames in labelled)
    coarse = np.asarray(pixels.quantisation_table(pixels.LUMA_TABLE, 95)) >= 3
    inner = [b for b in range((SIDE // 8) ** 2) if b // (SIDE // 8) in (2, 3)]
    for blocks in (slice(None), inner):
        one_number = [d[:, blocks][..., coarse].mean((1, 2)) for d in (blends, reals)]
        assert 0.45 < auc(*one_number) < 0.55
        assert (
            0.45 < linear_auc(*(d[:, blocks].mean(1) for d in (blends, reals))) < 0.55
        )
    # All are on the lattice, as stored frames are (0.042); merely blended ones are not
    # (0.079).
    assert max(blends[..., coarse].mean(), reals[..., coarse].mean()) < 0.05


def test_blends_are_frames_that_could_have_been_stored(blended, still):
    levels = 255 * blended
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert blended.min() >= 0
    assert blended.max() <= 1
    assert blended.shape == still.shape


def test_one_blend_serves_the_clip_and_drifts_slowly(blended, passed):
    change = np.abs(blended - passed).mean(axis=(1, 2, 3, 4))
    between = np.abs(np.diff(blended, axis=1)).mean(axis=(1, 2, 3, 4))
    assert (between > 0).mean() > 0.8
    assert np.median(between / change) < 0.3


def test_draws_follow_seed_and_clip_not_place(blended, still):
    order = np.random.default_rng(0).permutation(CLIPS)
    moved = blend_all(still[order], jnp.asarray(order), 0)
    off = np.abs(moved - blended[order])
    assert np.mean(off > 1.5 / 255) < 0.001  # a rounding may fall to either side
    other = blend_all(still, jnp.arange(CLIPS), 1)
    assert np.abs(other - blended).mean() > 1 / 255


def test_half_of_the_clips_are_changed_as_a_whole_blended_or_not():
    count = 2 * PICTURES  # the shape that `labelled` has compiled
    flat = jnp.full((count, 1, SIDE, SIDE, 3), 0.5)
    blend = jnp.arange(count) % 2 == 0
    out = np.asarray(blend_some(flat, blend, jnp.arange(count), 0))
    changed = np.abs(out - 0.5)[:, 0, 0, 0].max(axis=-1) > 1.5 / 255
    for half in (changed[::2], changed[1::2]):
        assert 0.43 < np.mean(half) < 0.55  # few changes are too small to see


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
    blend = jax.ShapeDtypeStruct((2,), jnp.bool_)
    out = jax.eval_shape(blend_some, frames, blend, jnp.arange(2), 0)
    assert (out.shape, out.dtype) == (frames.shape, frames.dtype)


def fingerprint(values) -> list[float]:
    """Three weighted sums; the weights are waves, so that places count."""
    values = np.asarray(values, np.float64).ravel()
    waves = np.cos(np.outer([1.0, 2.7, 7.3], np.linspace(0, 50, values.size)))
    return (waves @ values / np.sqrt(values.size)).tolist()


def stages(still) -> dict[str, list[float]]:
    """The parts of a blend for one picture and fixed draws."""
    planes, key = pixels.to_planes(still[3]), jax.random.key(5)
    face = faces_of(1, FRAMES)[0] + 0.01 * jnp.arange(FRAMES)[:, None, None]
    shifted, moved_face = selfblend.shift_blocks(planes, face, key)
    y, x = jnp.meshgrid(jnp.arange(9) / 9, jnp.arange(7) / 7, indexing="ij")
    found = {
        "shift_blocks": shifted,
        "its face": moved_face,
        "drift": selfblend.drift(jnp.array([0.4, -0.3]), 7),
        "move": selfblend.move(planes, key),
        "face_mask": selfblend.face_mask((FRAMES, SIDE, SIDE), face, key),
        "bend": jnp.stack(selfblend.bend(y, x, key, size=jnp.float32(0.1))),
    }
    for number in range(4):  # both signs of the coin
        draw = jax.random.key(number)
        changed = selfblend.change_statistics(planes, draw)
        found[f"change_statistics {number}"] = changed
    for name, region in selfblend.REGIONS.items():
        for scale in (1.0, 0.2):  # a small face bounds bend and edge otherwise
            points = 0.5 + scale * (face - 0.5)
            mask = selfblend.region_mask(
                (FRAMES, SIDE, SIDE), points, jnp.array(region), key
            )
            found[f"{name} {scale}"] = mask
    for number in range(6):
        blend = selfblend.blend_clip(
            still[3],
            jnp.bool_(True),
            face,
            key=jax.random.key(number),
            stored=selfblend.Stored(),
        )
        found[f"blend_clip {number}"] = blend
    return {name: fingerprint(value) for name, value in found.items()}


# What they are: clips of a run depend on every constant, so that a resumed run would go
# on with others.
STAGES = {
    "shift_blocks": [-2.2258, 0.7877, 0.5615],
    "its face": [0.0384, -0.0017, -0.3960],
    "drift": [-0.3419, -0.0806, -0.3200],
    "move": [-2.3309, 0.5670, 0.6079],
    "face_mask": [-0.3103, 0.0713, 0.0586],
    "bend": [-0.0637, -0.0509, 0.0204],
    "change_statistics 0": [-1.9560, 0.7137, 0.6584],
    "change_statistics 1": [-2.9202, 0.7389, 0.9211],
    "change_statistics 2": [-1.7439, 0.7422, 0.5690],
    "change_statistics 3": [-1.4534, 0.5213, 0.5071],
    "face 1.0": [-0.1360, 0.1825, 0.0258],
    "face 0.2": [0.0338, 0.0288, 0.0015],
    "lower half 1.0": [0.0309, 0.3070, 0.0350],
    "lower half 0.2": [0.0173, 0.1274, 0.0232],
    "mouth 1.0": [0.0651, -0.4096, 0.0113],
    "mouth 0.2": [0.0054, 0.0391, 0.0271],
    "eyes 1.0": [0.0424, 0.1782, -0.0016],
    "eyes 0.2": [0.0100, -0.0878, 0.0233],
    "blend_clip 0": [-0.4848, 0.0425, 0.1387],
    "blend_clip 1": [-0.4520, 0.0357, 0.1403],
    "blend_clip 2": [-0.4811, -0.0333, 0.1413],
    "blend_clip 3": [-0.4855, -0.0880, 0.1453],
    "blend_clip 4": [-0.4844, -0.0285, 0.1500],
    "blend_clip 5": [-0.4808, -0.0211, 0.1452],
}


def test_a_blend_is_made_of_the_parts_that_it_was(still):
    found = stages(still)
    assert found.keys() == STAGES.keys()
    for name, values in found.items():
        # A frame's levels are rounded, and a rounding may fall to either side.
        atol = 5e-3 if name.startswith("blend_clip") else 5e-4
        np.testing.assert_allclose(values, STAGES[name], atol=atol, err_msg=name)
