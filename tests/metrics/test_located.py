"""Heat maps beside masks: hits and overlap are what they say, intervals hold."""

import numpy as np
import pytest

from fakedetect_jax.metrics import located
from fakedetect_jax.metrics.located import Located, Rates
from fakedetect_jax.metrics.records import Video


def square(y: int, x: int, side: int = 4) -> np.ndarray:
    """Of 16 x 16 places."""
    mask = np.zeros((16, 16), np.uint8)
    mask[y : y + side, x : x + side] = 255
    return mask


def test_hits_and_overlap_are_counted_by_frame():
    """Right, half beside, elsewhere, cold; frames forged nowhere or all over."""
    masks = np.stack(
        [
            *(square(2, 2), square(2, 2), square(10, 10), square(6, 6)),
            *(np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)),
        ]
    )
    heat = np.stack([square(2, 2), square(2, 4), square(2, 2), 0 * masks[0]])
    heat = np.concatenate([heat, heat[:2]]).astype(float)
    heat[:, 2, 4] += 1.0 * (heat[:, 2, 4] > 0)  # one hottest place, in the first two
    count, rates = located.judge(heat, masks) or (0, None)
    assert count == 4 and rates is not None
    assert rates.hits == pytest.approx(2 / 4)
    assert rates.overlap == pytest.approx((1 + 8 / 24 + 0 + 0) / 4)
    assert rates.centre_hits == pytest.approx(1 / 4)  # the last one's square
    assert rates.centre_overlap == pytest.approx(1 / 4, abs=0.1)
    assert rates.chance == pytest.approx(16 / 256)
    assert located.judge(heat[4:], masks[4:]) is None


def test_a_coarse_map_is_laid_over_the_whole_frame():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 0] = 1.0
    _, rates = located.judge(heat, square(0, 0)[None]) or (0, None)
    assert rates is not None and rates.hits == 1.0 and rates.overlap > 0.9


def clip(pair: int, number: int, hits: float, centre: float, frames: int = 4):
    ids = f"{2 * pair:03d}", f"{2 * pair + 1:03d}"
    method = "Deepfakes" if number % 2 else "FaceSwap"
    video = Video("ffpp", method, "_".join(ids), *ids, "c23", 1)
    return Located(video, 0, frames, Rates(hits, centre, 0.1, hits / 2, centre / 2))


def test_frames_weigh_alike_and_methods_stand_apart():
    rows = [clip(0, 0, 1.0, 0.0, frames=1), clip(1, 1, 0.5, 1.0, frames=3)]
    found = located.summarise(rows)
    assert found is not None and (found.videos, found.frames) == (2, 4)
    assert found.rates.hits == pytest.approx((1 * 1 + 3 * 0.5) / 4)
    assert found.lead == pytest.approx(2.5 / 4 - 3 / 4)
    assert set(found.by_method) == {"FaceSwap", "Deepfakes"}
    assert found.by_method["FaceSwap"].rates.hits == 1.0
    assert located.summarise([]) is None


def test_intervals_cover_what_they_promise():
    """Clips of a pair of people are alike: 40 pairs of two clips, 200 samples."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(200):
        rows = []
        for pair in range(40):
            easy = rng.beta(2, 1)
            for number in range(2):
                hits = rng.binomial(6, easy) / 6
                rows.append(clip(pair, number, hits, rng.binomial(6, 0.5) / 6, 6))
        found = located.summarise(rows)
        assert found is not None
        for i, (name, true) in enumerate((("hits", 2 / 3), ("lead", 2 / 3 - 0.5))):
            low, high = found.intervals[name] or (1, 0)
            covered[i] += low <= true <= high
    assert (covered / 200 >= 0.91).all() and (covered / 200 <= 0.99).all(), covered
