"""The made tree: official form, reproducible, detectable faces, no cheap shortcut."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import psutil
import pytest
from av.video.frame import PictureType
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fakedetect_jax.metrics import trivial
from tests.patience import LIMIT
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.people.faces import clip_box
from tfds_ffpp.frames.people.finders import DlibFinder
from tfds_ffpp.frames.video import even_plan, read_clip
from tfds_ffpp.synthetic import forgeries, looks
from tfds_ffpp.synthetic.tree import Parameters, make_clip, write_tree

IDENTITIES = 40
TINY: dict[str, Any] = {"num_identities": 4, "num_frames": 6, "frame_size": 96}
ALL = tuple(forgeries.METHODS)


def decode(path: Path, pixel_format: str = "rgb24") -> np.ndarray:
    """All frames of a video."""
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format=pixel_format) for f in file.decode()])


class Seen(NamedTuple):
    """A video's number of frames, and four frames spread over it."""

    length: int
    frames: np.ndarray


def see(path: Path) -> Seen:
    frames = decode(path)
    return Seen(len(frames), frames[np.linspace(0, len(frames) - 1, 4).astype(int)])


def contents(root: Path) -> dict[str, bytes]:
    """Every file's bytes by its place in the tree."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Forty people and their plainest fakes, in short videos of the usual size."""
    out = tmp_path_factory.mktemp("made") / "tree"
    return write_tree(
        out, num_identities=IDENTITIES, num_frames=8, difficulty=0.0, methods=ALL
    )


@pytest.fixture(scope="module")
def videos(tree) -> dict[Path, Seen]:
    """What is seen of all videos but the masks, by path."""
    return {p: see(p) for p in sorted(tree.glob("*/*/c23/videos/*.mp4"))}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """Four people, all methods, lossless and c23, by one process."""
    out = tmp_path_factory.mktemp("tiny") / "tree"
    return write_tree(
        out, compressions=("raw", "c23"), methods=ALL, num_processes=1, **TINY
    )


def pairs_of(root: Path) -> dict[str, list[list[str]]]:
    names = ("train", "val", "test")
    return {n: json.loads((root / "splits" / f"{n}.json").read_text()) for n in names}


def test_the_tree_has_the_official_names(tree):
    pairs = [pair for part in pairs_of(tree).values() for pair in part]
    swaps = {f"{a}_{b}.mp4" for pair in pairs for a, b in (pair, pair[::-1])}
    real = tree / "original_sequences" / "youtube" / "c23" / "videos"
    assert {p.name for p in real.iterdir()} == {
        f"{i:03d}.mp4" for i in range(IDENTITIES)
    }
    manipulated = tree / "manipulated_sequences"
    assert {p.name for p in manipulated.iterdir()} == set(ALL)
    for method in ALL:
        for folder in ("c23", "masks"):
            found = {
                p.name for p in (manipulated / method / folder / "videos").iterdir()
            }
            assert found == swaps


def test_splits_hold_each_identity_once(tree):
    parts = pairs_of(tree)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [12, 4, 4]
    ids = [i for part in parts.values() for pair in part for i in pair]
    assert sorted(ids) == [f"{i:03d}" for i in range(IDENTITIES)]


def test_videos_are_coded_like_the_official_ones(tree, videos):
    for path in list(videos)[::20]:
        with av.open(str(path)) as file:
            (stream,) = file.streams.video
            assert len(file.streams) == 1
            assert stream.codec_context.name == "h264"
            assert "4:4:4" in (stream.codec_context.profile or "")
            assert stream.format.name == "yuv444p"
            kinds = {frame.pict_type for frame in file.decode(video=0)}
        assert PictureType.B in kinds


def test_lengths_vary_and_no_fake_outlasts_its_target(videos):
    real = {p.stem: v.length for p, v in videos.items() if "_" not in p.stem}
    assert min(real.values()) >= 6 and max(real.values()) <= 8
    assert len(set(real.values())) > 1
    for path, video in videos.items():
        assert video.length <= real[path.stem[:3]]


def test_the_detector_finds_the_faces(videos):
    finder = DlibFinder()
    found = {
        path: clip_box(read_clip(path, even_plan(4)), finder=finder).box is not None
        for path in videos
    }
    assert np.mean(list(found.values())) >= 0.95
    assert np.mean([f for path, f in found.items() if "_" not in path.stem]) == 1


def shortcut_features(path: Path, video: Seen) -> list[float]:
    """What a lazy finder would go by: size, bit rate, length and colour."""
    size = path.stat().st_size
    colour = video.frames.astype(np.float32)
    mean, spread = colour.mean((0, 1, 2)), np.log(colour.var((0, 1, 2)))
    return [np.log(size), np.log(size / video.length), video.length, *mean, *spread]


def test_no_cheap_shortcut_separates_the_classes(tree, videos):
    parts = [pair for part in pairs_of(tree).values() for pair in part]
    pair_of = {i: number for number, pair in enumerate(parts) for i in pair}
    features = np.array([shortcut_features(p, v) for p, v in videos.items()])
    fake = np.array(["_" in p.stem for p in videos])
    groups = [pair_of[p.stem[:3]] for p in videos]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    score = cross_val_predict(
        model,
        features,
        fake,
        groups=groups,
        cv=GroupKFold(5),
        method="decision_function",
    )
    assert roc_auc_score(fake, np.asarray(score)) < 0.65


def crop(video: Seen) -> np.ndarray:
    """The middle of the frames, where the head is, as a dataset stores it."""
    side = video.frames.shape[1]
    inner = video.frames[:, side // 5 : -side // 5, side // 5 : -side // 5]
    frames = [cv2.resize(f, (64, 64), interpolation=cv2.INTER_AREA) for f in inner]
    return np.stack(frames)


def forest_auc(tree: Path, reals: dict[Path, Seen], fakes: dict[Path, Seen]) -> float:
    """What the forest of trivial statistics reaches on people it was not trained on."""
    pairs = [pair for part in pairs_of(tree).values() for pair in part]
    pair_of = {i: number for number, pair in enumerate(pairs) for i in pair}
    paths = [*reals, *fakes]
    features = np.array(
        [
            trivial.video_features(crop(v))[trivial.MEANS]
            for v in [*reals.values(), *fakes.values()]
        ]
    )
    label = np.repeat([0, 1], [len(reals), len(fakes)])
    held = np.array([pair_of[p.stem[:3]] % 4 for p in paths])
    score = np.zeros(len(paths))
    for fold in range(4):
        known, asked = held != fold, held == fold
        score[asked] = trivial.forest_scores(
            features[known], label[known], features[asked]
        )
    return float(roc_auc_score(label, score))


def test_trivial_statistics_do_not_solve_it(tree, videos):
    reals = {p: v for p, v in videos.items() if "_" not in p.stem}
    fakes = {p: v for p, v in videos.items() if "_" in p.stem}
    assert forest_auc(tree, reals, fakes) < 0.8
    # The same forest does see the middle of the face a tenth redder.
    redder = {}
    for path, video in reals.items():
        frames = video.frames.astype(np.float32)
        frames[:, 75:150, 75:150, 0] *= 1.1
        redder[path] = Seen(video.length, np.clip(frames, 0, 255).astype(np.uint8))
    assert forest_auc(tree, reals, redder) > 0.9


@pytest.mark.parametrize("method", ALL)
def test_a_fake_differs_from_its_target_in_the_mask_alone(tiny, method):
    folder, inside = tiny / "manipulated_sequences" / method, []
    for path in sorted((folder / "raw" / "videos").iterdir()):
        fake = decode(path).astype(int)
        mask = decode(folder / "masks" / "videos" / path.name)[..., 0]
        name = f"{path.stem[:3]}.mp4"
        real = decode(tiny / "original_sequences/youtube/raw/videos" / name)
        change = np.abs(fake - real[: len(fake)]).max(axis=-1)
        assert 0.02 < np.mean(mask > 127) < 0.5
        assert change[mask < 2].mean() < 0.05
        inside.append(change[mask > 200].mean())
    assert np.mean(inside) > 3


def test_bytes_do_not_depend_on_the_number_of_processes(tiny, tmp_path):
    again = write_tree(
        tmp_path / "again",
        compressions=("raw", "c23"),
        methods=ALL,
        num_processes=2,
        **TINY,
    )
    one, two = contents(tiny), contents(again)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_the_seed_changes_every_video(tiny, tmp_path):
    other = write_tree(tmp_path / "other", seed=1, methods=(), num_processes=1, **TINY)
    ours = contents(tiny)
    for name, data in contents(other).items():
        if name.endswith(".mp4"):
            assert data != ours[name]


def test_a_look_changes_scene_light_and_camera_but_no_forgery(tiny, tmp_path):
    """Noise and colours as the look says; the same people do the same things."""
    noise = {}
    for look in looks.LOOKS:
        out = tmp_path / look
        write_tree(
            out, look=look, methods=("Deepfakes",), compressions=("raw",), **TINY
        )
        real = decode(out / "original_sequences/youtube/raw/videos/000.mp4")
        sharp = real[:, :16, :16].astype(np.float32)  # a corner, without the face
        noise[look] = np.diff(sharp, axis=0).std()
        fake = "manipulated_sequences/Deepfakes/masks/videos"
        assert {p.name for p in (out / fake).iterdir()} == {
            p.name for p in (tiny / fake).iterdir()
        }
    assert noise["street"] < noise["indoor"] < noise["webcam"]


@pytest.fixture
def small(tmp_path) -> tuple[Path, dict]:
    """A tree of two people and the arguments that made it."""
    arguments = {**TINY, "num_identities": 2, "methods": ("FaceSwap",)}
    out = write_tree(tmp_path / "small", num_processes=1, **arguments)
    return out, {**arguments, "num_processes": 1}


def test_a_complete_tree_is_left_alone(small):
    out, arguments = small
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    write_tree(out, **arguments)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times
    # One that was made before there were looks is an indoor one.
    made = out / "synthetic.json"
    facts = json.loads(made.read_text())
    assert facts.pop("look") == "indoor"
    made.write_text(json.dumps(facts))
    write_tree(out, **arguments)
    with pytest.raises(DataError, match="other values of look"):
        write_tree(out, look="street", **arguments)


def test_a_broken_off_tree_is_completed(small):
    out, arguments = small
    whole = contents(out)
    (out / "synthetic.json").rename(out / "synthetic.partial.json")
    real = out / "original_sequences" / "youtube" / "c23" / "videos"
    (real / "001.mp4").rename(real / ".1.partial")
    (real / ".0.partial").write_bytes(b"half a video")
    (out / "splits" / "val.json").unlink()
    write_tree(out, **arguments)
    assert contents(out) == whole


def test_a_killed_one_leaves_no_process(tmp_path):
    words = [str(tmp_path / "tree"), "--num_identities=20", "--num_processes=2"]
    command = [sys.executable, "-m", "tfds_ffpp.synthetic", *words]
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    while not list(tmp_path.rglob("*.mp4*")):
        assert process.poll() is None
        time.sleep(0.05)
    children = process.children(recursive=True)
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=LIMIT)
    for child in alive:
        child.kill()
    assert len(gone) >= 2 and not alive


def test_other_parameters_are_refused(small):
    out, arguments = small
    before = contents(out)
    with pytest.raises(DataError, match="other values of seed, difficulty; .*delete"):
        write_tree(out, **{**arguments, "seed": 1, "difficulty": 0.9})
    (out / "synthetic.json").rename(out / "synthetic.partial.json")
    with pytest.raises(DataError, match="other values of num_frames"):
        write_tree(out, **{**arguments, "num_frames": 7})
    (out / "synthetic.partial.json").rename(out / "synthetic.json")
    assert contents(out) == before


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match="empty folder"):
        write_tree(tmp_path, **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.mp4"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_identities", 3),
        ("num_frames", 1),
        ("frame_size", 97),
        ("difficulty", 1.5),
        ("look", "moon"),
        ("compressions", ("c99",)),
        ("methods", ("Nothing",)),
        ("split_shares", (0.5, 0.2, 0.2)),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path, field, value):
    with pytest.raises(DataError, match=f"{field} must be"):
        write_tree(tmp_path / "tree", **{**TINY, field: value})
    assert not (tmp_path / "tree").exists()


def face_brightness(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Brightness over time of a real face and of its Flicker fake, lamp alone."""
    parameters = Parameters(
        num_identities=16,
        num_frames=24,
        frame_size=96,
        seed=5,
        difficulty=0.0,
        compressions=("c23",),
        methods=("Flicker",),
        split_shares=(1.0, 0.0, 0.0),
    )
    no_lamp = replace(parameters, methods=())
    clip = make_clip(parameters, number)
    forged = forgeries.flicker(clip, clip, np.random.default_rng(number), 0.0)
    weights = np.stack(forged.masks)[..., None]

    def brightness(frames) -> np.ndarray:
        return (np.stack(frames) * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))

    # The face as it would be under a steady lamp: its pose changes the mean as well.
    steady = brightness(make_clip(no_lamp, number).frames)
    return brightness(clip.frames) / steady, brightness(forged.frames) / steady


def test_flicker_shows_in_the_order_of_frames_alone():
    clips = [face_brightness(number) for number in range(12)]
    for real, fake in clips:
        # The same brightnesses occur, to within rounding and what is cut off as white.
        np.testing.assert_allclose(np.sort(real), np.sort(fake), atol=0.03)
        assert np.std(fake) == pytest.approx(np.std(real), rel=0.1)
    steps = np.mean(
        [np.abs(np.diff(c, axis=1)).mean(1) for c in map(np.stack, clips)], 0
    )
    assert steps[1] > 4 * steps[0]


def run(*arguments: str | os.PathLike) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tfds_ffpp.synthetic", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def test_the_command_makes_a_tree_and_refuses_another(tmp_path):
    flags = ["--num_identities", "2", "--num_frames", "4", "--frame_size", "64"]
    flags += ["--methods", "Deepfakes", "--num_processes", "1"]
    made = run(tmp_path / "out", *flags)
    assert made.returncode == 0, made.stderr
    assert "6 videos" in made.stdout
    refused = run(tmp_path / "out", *flags, "--seed", "1")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: ") and "seed" in refused.stderr
    assert "Traceback" not in refused.stderr
