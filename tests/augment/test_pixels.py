"""Pixel arithmetic against OpenCV, libjpeg and its own laws."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from fakedetect_jax.augment import pixels


def picture(side: int = 64, *, width: int | None = None, seed: int = 0) -> np.ndarray:
    """uint8[side,width,3] with smooth regions, edges and fine grain."""
    rng = np.random.default_rng(seed)
    size = (width or side, side)
    layers = [
        cv2.resize(rng.uniform(size=(n, n, 3)), size, interpolation=cv2.INTER_CUBIC)
        for n in (3, 9, 24)
    ]
    mixed = 0.5 * layers[0] + 0.35 * layers[1] + 0.15 * layers[2]
    return np.clip(255 * mixed, 0, 255).round().astype(np.uint8)


def planes_of(image: np.ndarray):
    return pixels.to_planes(jnp.asarray(image)[None] / 255.0)


def image_of(planes) -> np.ndarray:
    return np.asarray(pixels.to_frames(planes))[0]


def libjpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """Through a real JPEG file and back."""
    factor = {
        "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    }[subsampling]
    flags = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        factor,
    ]
    written, data = cv2.imencode(".jpg", image[..., ::-1], flags)
    assert written
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]


@pytest.mark.parametrize("subsampling", ["420", "444"])
@pytest.mark.parametrize("width", [64, 50])
def test_jpeg_is_libjpegs_to_half_a_level(subsampling, width):
    """Mean over pictures; a single coefficient that rounds the other way shows."""
    ours_of = jax.jit(
        functools.partial(pixels.jpeg, subsample=subsampling == "420"),
    )
    for quality in (40, 75, 90, 100):
        off, loss = [], []
        for seed in range(4):
            image = picture(width=width, seed=seed)
            wanted = libjpeg(image, quality, subsampling).astype(np.float32)
            ours = 255 * image_of(ours_of(planes_of(image), quality))
            np.testing.assert_allclose(ours, ours.round(), atol=1e-3)
            off.append(np.abs(ours - wanted).mean())
            loss.append(np.abs(wanted - image).mean())
        assert np.mean(off) < 0.5, quality
        # Far nearer to the file than the file is to the picture.
        share = 0.15 if quality < 100 else 0.6
        assert np.mean(off) < share * np.mean(loss), quality


@pytest.mark.parametrize("subsampling", ["420", "444"])
def test_jpeg_of_stored_frames_is_libjpegs_to_a_level(subsampling):
    """Frames come from JPEG files, whose coefficients lie on the edge of rounding.

    Of quality 95, 4:4:4, so that another such JPEG changes next to nothing.
    """
    ours_of = jax.jit(
        functools.partial(pixels.jpeg, subsample=subsampling == "420"),
    )
    for quality in (40, 75, 90, 95, 100):
        off, loss = [], []
        for seed in range(4):
            data = simplejpeg.encode_jpeg(
                picture(seed=seed), quality=95, colorsubsampling="444", fastdct=False
            )
            stored = simplejpeg.decode_jpeg(data, "RGB")
            wanted = libjpeg(stored, quality, subsampling).astype(np.float32)
            ours = 255 * image_of(ours_of(planes_of(stored), quality))
            off.append(np.abs(ours - wanted).mean())
            loss.append(np.abs(wanted - stored).mean())
        assert np.mean(off) < 0.9, quality
        # Four times nearer to the file than the file is to the frame; less than three
        # times at 90, and where the file changes nothing ours does not, either.
        share = 0.25 if quality < 90 else 0.45
        assert np.mean(off) < max(share * np.mean(loss), 0.3), quality


def test_the_dct_is_orthonormal():
    basis = pixels.dct_basis()
    np.testing.assert_allclose(basis @ basis.T, np.eye(64), atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    side=st.sampled_from([17, 32]),
    scale=st.floats(0.5, 2),
    shift=st.floats(-1, 1),
    sigma=st.floats(0, 8),
    factor=st.floats(1, 16),
)
def test_matrices_are_weights(side, scale, shift, sigma, factor):
    for matrix in (
        pixels.zoom_matrix(side, scale=scale, shift=shift),
        pixels.blur_matrix(side, sigma=sigma),
        pixels.rescale_matrix(side, factor=factor),
    ):
        assert np.min(matrix) >= 0
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-5)


def test_matrices_at_strength_zero_are_the_identity():
    for matrix in (
        pixels.zoom_matrix(33, scale=1.0, shift=0.0),
        pixels.blur_matrix(33, sigma=0.0),
        pixels.rescale_matrix(33, factor=1.0),
    ):
        np.testing.assert_allclose(matrix, np.eye(33), atol=1e-6)


def test_a_shift_moves_whole_pixels_and_repeats_the_edge():
    values = jnp.arange(16.0)
    moved = pixels.zoom_matrix(16, scale=1.0, shift=3 / 16) @ values
    np.testing.assert_allclose(moved, np.minimum(np.arange(16) + 3, 15), atol=1e-4)


def test_blur_is_opencvs_inside():
    image = picture().astype(np.float32) / 255
    wanted = cv2.GaussianBlur(image, (25, 25), 2.0)
    matrix = pixels.blur_matrix(64, sigma=2.0)
    planes = pixels.to_planes(jnp.asarray(image)[None])
    ours = image_of(pixels.resample(planes, matrix, matrix))
    np.testing.assert_allclose(ours[12:-12, 12:-12], wanted[12:-12, 12:-12], atol=1e-4)


def test_rows_and_columns_may_differ_by_frame():
    planes = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 2, 6, 5)))
    rows = jnp.stack([jnp.eye(6), jnp.eye(6)[::-1]])
    columns = jnp.stack([jnp.eye(5)[::-1], jnp.eye(5)])
    out = pixels.resample(planes.astype(jnp.float32), rows, columns)
    np.testing.assert_allclose(out[:, 0], planes[:, 0, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(out[:, 1], planes[:, 1, ::-1], atol=1e-6)


def test_a_third_of_a_turn_makes_red_green():
    turned = pixels.colour_matrix(hue=1 / 3) @ jnp.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-6)


@given(saturation=st.floats(0, 2), hue=st.floats(-0.5, 0.5))
@settings(deadline=None, max_examples=20)
def test_grey_has_no_hue_and_no_saturation(saturation, hue):
    matrix = pixels.colour_matrix(saturation=saturation, hue=hue)
    np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-5)
