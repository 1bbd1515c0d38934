"""Degradations: milder before more severe, the same for every model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax.augment import degrade
from fakedetect_jax.data import reencode

SIDE, FRAMES = 48, 8
ON_DEVICE = [family for family in degrade.FAMILIES if family.apply is not None]


@pytest.fixture(scope="module")
def clips():
    """Two clips of smooth colours that move, float32[2,T,S,S,3]."""
    t, y, x = np.mgrid[:FRAMES, :SIDE, :SIDE] / SIDE
    waves = [np.sin(9 * x + 5 * t), np.cos(7 * y - 4 * t), np.sin(20 * (x + y) + 8 * t)]
    clip = 0.5 + 0.35 * np.stack(waves, axis=-1)
    return np.stack([clip, clip[:, ::-1]]).astype(np.float32)


def degraded(clips, family, strength, index=(0, 1)):
    step = jax.jit(lambda f, s, i: degrade.degrade_clips(f, family, s, i))
    return np.asarray(step(clips, jnp.float32(strength), jnp.array(index)))


@pytest.mark.parametrize("family", ON_DEVICE, ids=lambda family: family.name)
def test_each_level_is_worse_than_the_one_before(clips, family):
    stored = np.round(clips * 255) / 255
    lost = []
    for strength in family.strengths:
        found = degraded(stored, family, strength)
        assert found.shape == clips.shape and found.min() >= 0 and found.max() <= 1
        np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-3)
        lost.append(float(np.mean((found - stored) ** 2)))
    assert len(lost) == 5 and lost[0] > 0
    assert all(left < right for left, right in zip(lost, lost[1:], strict=False))


@pytest.mark.parametrize("family", ON_DEVICE, ids=lambda family: family.name)
def test_draws_follow_from_the_clip_and_not_from_its_place(clips, family):
    strength = family.strengths[2]
    both = degraded(clips, family, strength, (4, 9))
    turned = degraded(clips[::-1], family, strength, (9, 4))
    np.testing.assert_allclose(both, turned[::-1], atol=1e-6)
    if family.name in ("noise", "frame drop"):
        others = degraded(clips, family, strength, (5, 9))
        assert np.abs(others[0] - both[0]).max() > 0.01


def test_dropped_frames_show_the_one_before(clips):
    (family,) = (f for f in ON_DEVICE if f.name == "frame drop")
    stored = np.round(clips[:1] * 255) / 255
    found = degraded(stored, family, 0.6, (3,))[0]
    shown = [
        int(np.argmin([np.abs(frame - other).max() for other in stored[0]]))
        for frame in found
    ]
    assert shown[0] == 0 and shown == sorted(shown) and len(set(shown)) < FRAMES


def test_pixels_are_squares_of_one_colour(clips):
    (family,) = (f for f in ON_DEVICE if f.name == "pixelate")
    found = degraded(clips, family, 8)
    squares = found.reshape(2, FRAMES, 6, 8, 6, 8, 3)
    assert np.ptp(squares, axis=(3, 5)).max() < 1e-6


@pytest.mark.parametrize("size", [(48, 48), (47, 33)])
def test_an_encoder_loses_more_at_a_higher_rate_factor(clips, size):
    frames = np.round(clips[0, :, : size[0], : size[1]] * 255).astype(np.uint8)
    (family,) = (f for f in degrade.FAMILIES if f.apply is None)
    lost = []
    for crf in family.strengths:
        found = reencode.reencode(frames, int(crf))
        assert found.shape == frames.shape and found.dtype == np.uint8
        lost.append(np.mean((found.astype(float) - frames) ** 2))
    assert lost == sorted(lost) and 0 < lost[0] < lost[-1] / 2
    flat = np.full_like(frames, (200, 30, 60))
    assert np.abs(reencode.reencode(flat, 23).astype(int) - flat).max() < 6


def test_a_clip_is_encoded_alone_and_padded_after(clips):
    frames = np.round(clips[0] * 255).astype(np.uint8)

    class Reader:
        def read(self, clip, num_valid, out):
            out[:] = frames
            out[5:] = out[4]
            return 5

    out = np.empty_like(frames)
    reader = reencode.Reencoded(Reader(), 33)  # pyright: ignore[reportArgumentType]
    assert reader.read(None, 5, out) == 5  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(out[:5], reencode.reencode(frames[:5], 33))
    assert (out[5:] == out[4]).all()
