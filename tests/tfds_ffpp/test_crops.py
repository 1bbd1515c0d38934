"""The box and the crop: square, still, and the same for training and serving."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.made_videos import picture, write_video
from tfds_ffpp.frames.crops import clip_crops, finish_crop, place_box
from tfds_ffpp.frames.video import even_plan, read_clip

side = st.integers(2, 60)
place = st.floats(-80, 80)
extent = st.floats(0.1, 120)


@given(side, side, place, place, extent, extent)
def test_a_cut_and_its_padding_make_up_the_box(height, width, y0, x0, tall, wide):
    cut = place_box((height, width), (y0, x0, y0 + tall, x0 + wide), (height, width))
    top, left, bottom, right = cut.region
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    assert min(cut.pads) >= 0
    crop = finish_crop(np.zeros((bottom - top, right - left, 3), np.uint8), cut, 16)
    assert crop.shape == (16, 16, 3)


def test_a_box_inside_is_cut_as_it_is():
    cut = place_box((48, 64), (8, 16, 24, 32), (48, 64))
    assert cut.region == (8, 16, 24, 32) and cut.pads == (0, 0, 0, 0)
    image = picture(3)
    np.testing.assert_array_equal(
        finish_crop(image[8:24, 16:32], cut, 16), image[8:24, 16:32]
    )


def test_frames_of_another_size_are_cut_at_the_same_place():
    """D10 Frames of another size: cut at the same place."""
    cut = place_box((96, 128), (8, 16, 24, 32), (48, 64))
    assert cut.region == (16, 32, 48, 64)


def test_edges_are_repeated():
    image = picture(0)
    cut = place_box((48, 64), (-10, 20, 22, 52), (48, 64))
    assert cut.pads == (10, 0, 0, 0)
    top, left, bottom, right = cut.region
    crop = finish_crop(image[top:bottom, left:right], cut, 32)
    np.testing.assert_array_equal(crop[:11], np.repeat(image[:1, 20:52], 11, axis=0))
    np.testing.assert_array_equal(crop[10:], image[0:22, 20:52])


def test_a_clip_has_one_box(tmp_path):
    clip = read_clip(write_video(tmp_path / "v.mp4", 8), even_plan(4))
    crops = clip_crops(clip, (8.4, 16.0, 40.4, 48.0), 32)
    assert crops.shape == (4, 32, 32, 3)
    for crop, frame in zip(crops, clip.frames(), strict=True):
        np.testing.assert_array_equal(crop, frame[8:40, 16:48])
