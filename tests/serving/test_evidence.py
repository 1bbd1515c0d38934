"""What a page shows of a score: heat over the frames, and the worst moments."""

from types import SimpleNamespace

import numpy as np

from fakedetect_jax.serving import evidence


def test_an_overlay_marks_the_hot_corner_and_leaves_the_rest():
    image = np.full((32, 32, 3), 60, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1.0
    shown = evidence.overlay(image, heat)
    assert (shown[16:, 16:] == 60).all()
    assert np.abs(shown[1, 1].astype(int) - 60).max() > 60


def test_moments_lie_apart_and_start_with_the_worst():
    clips = [
        SimpleNamespace(score=s, seconds=(t, t + 1.0))
        for t, s in ((0.0, 0.9), (0.5, 0.8), (3.0, 0.7), (0.9, 0.6))
    ]
    kept = evidence._apart(clips)  # pyright: ignore[reportArgumentType]
    assert [clip.score for clip in kept] == [0.9, 0.7, 0.6]


def test_equal_names_do_not_share_a_page(tmp_path):
    names = {evidence.page_path(f"{folder}/a.mp4", tmp_path) for folder in "xy"}
    assert len(names) == 2
