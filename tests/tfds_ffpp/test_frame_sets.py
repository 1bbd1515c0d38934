"""Sets that come as frames: what their folders mean, and what is read of pictures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from fakedetect_jax.data.dataset import open_dataset
from fakedetect_jax.data.reader import read_videos
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.pages.evaluation_page import write_report
from fakedetect_jax.run import parallel
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run
from tests.made_videos import picture, write_video
from tfds_ffpp.build import build
from tfds_ffpp.errors import DataError, UnusableVideoError
from tfds_ffpp.frames import images
from tfds_ffpp.frames.prepare import file_digest
from tfds_ffpp.frames.video import even_plan, read_clip
from tfds_ffpp.terminal.lines import Terminal
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig
from tfds_ffpp.tree.frame_sets import DF40, FAMILIES, expand
from tfds_ffpp.tree.scan import account, scan


def touch(root: Path, *folders: str) -> Path:
    for folder in folders:
        for number in (0, 7):
            path = root / folder / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


def found(root: Path, layout: str = "auto", **fields) -> dict[str, tuple]:
    """key -> (label, split, key of the original)."""
    records = scan(root, layout=layout, **fields).records
    return {r.key: (r.label, r.listed, r.original_key) for r in records}


FFPP = "original_sequences/youtube/c23/frames"


def test_deepfakebench_has_frames_where_ffpp_has_videos(tmp_path):
    fakes = "manipulated_sequences/Deepfakes/c23"
    root = touch(tmp_path, f"{FFPP}/000", f"{fakes}/frames/000_003")
    touch(root, f"{fakes}/masks/000_003", f"{fakes}/landmarks/000_003")
    assert found(root) == {
        "ffpp/youtube/000": (0, "", ""),
        "ffpp/Deepfakes/000_003": (1, "", "ffpp/youtube/000"),
    }
    fake = next(r for r in scan(root).records if r.label)
    assert fake.mask == root / fakes / "masks" / "000_003"
    # A folder of frames counts as one file, the pictures beside them each.
    assert account(scan(root))[0] == "6 files: 2 taken, 0 rejected, 4 passed over"


def test_df40_has_forty_methods_in_four_families():
    assert [len(m) for m in FAMILIES.values()] == [10, 13, 12, 5]
    assert len(set(DF40)) == 40
    assert expand(["FE", "HeyGen"]) == (*FAMILIES["FE"], "HeyGen")


@pytest.fixture
def df40(tmp_path):
    return touch(
        tmp_path,
        f"FaceForensics++/{FFPP}/000",
        "Celeb-DF-v2/Celeb-real/frames/id0_0000",
        "DF40/simswap/ff/frames/000_003",
        "DF40/face_vid2vid/ff/frames/000_003",
        "DF40/simswap/cdf/frames/id0_id1_0000",
        "DF40/heygen/real/clip1",
        "DF40/heygen/fake/clip1",
    )


def test_df40_is_three_sets_by_domain(df40):
    assert found(df40, "df40_ff") == {
        "df40_ff/youtube/000": (0, "", ""),
        "df40_ff/SimSwap/000_003": (1, "", "df40_ff/youtube/000"),
        "df40_ff/FS_vid2vid/000_003": (1, "", "df40_ff/youtube/000"),
    }
    real = "df40_cdf/Celeb-real/id0_0000"
    assert found(df40, "df40_cdf") == {
        real: (0, "", ""),
        "df40_cdf/SimSwap/id0_id1_0000": (1, "", real),
    }
    assert found(df40, "df40_unknown") == {
        "df40_unknown/HeyGen real/real_clip1": (0, "", ""),
        "df40_unknown/HeyGen/fake_clip1": (1, "", ""),
    }


def test_df40s_protocols_are_families_of_methods(df40):
    swapped = found(df40, "df40_ff", methods=("FS",), allow_missing=True)
    assert sorted(swapped) == ["df40_ff/SimSwap/000_003", "df40_ff/youtube/000"]


def test_df40_without_its_reals_says_where_they_belong(df40):
    (df40 / "FaceForensics++").rename(df40.parent / "elsewhere")
    with pytest.raises(DataError, match="domain ff .* no reals; .*: put them"):
        scan(df40, layout="df40_ff")


def test_wilddeepfake_is_sequences_of_videos(tmp_path):
    root = touch(tmp_path, "real_train/1/real/0", "fake_test/1/fake/3")
    assert found(root) == {
        "wilddeepfake/real/train_1_real_0": (0, "train", ""),
        "wilddeepfake/fake/test_1_fake_3": (1, "test", ""),
    }
    people = [r.identities for r in scan(root).records]
    assert people == [("fake test 1",), ("real train 1",)]


def test_ffiw_calls_the_pristine_source(tmp_path):
    root = touch(tmp_path, "target/val/a")
    video = root / "source" / "test" / "videos" / "b.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"x")
    assert found(root) == {
        "ffiw/source/test_b": (0, "test", ""),
        "ffiw/target/val_a": (1, "val", ""),
    }


def test_celebdf_may_be_frames_too(tmp_path):
    root = touch(
        tmp_path,
        "Celeb-real/frames/id0_0000",
        "YouTube-real/frames/00170",
        "Celeb-synthesis/frames/id0_id1_0000",
    )
    (root / "List_of_testing_videos.txt").write_text("1 Celeb-real/id0_0000.mp4\n")
    keys = found(root)
    assert keys["celebdf_v2/Celeb-real/id0_0000"] == (0, "test", "")
    assert len(keys) == 3


def test_any_folder_of_frames_says_real_fake_and_split_by_its_names(tmp_path):
    root = touch(
        tmp_path / "mine",
        "train/real/000",
        "train/Face2Face/000_003",
        "test/fake/x/clip",
        "test/real/clip",
    )
    assert found(root, "frames") == {
        "mine/real/000": (0, "train", ""),
        "mine/Face2Face/000_003": (1, "train", "mine/real/000"),
        "mine/fake/test/x/clip": (1, "test", ""),
        "mine/real/test/clip": (0, "test", ""),
    }
    touch(root, "more/what")
    with pytest.raises(DataError, match="no folder above the frames in .*more/what"):
        scan(root, layout="frames")


# Pictures ------------------------------------------------------------------------


def write_frames(video: Path, folder: Path, *, step=1, name="{:03d}.png") -> None:
    """The frames of a video without loss."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = read_clip(video, lambda total: range(0, total, step))
    for i, frame in zip(clip.indices, clip.frames(), strict=True):
        cv2.imwrite(str(folder / name.format(i)), frame[..., ::-1])


def test_a_folder_gives_the_frames_of_the_video(tmp_path):
    write_video(tmp_path / "v.mp4", 12)
    write_frames(tmp_path / "v.mp4", tmp_path / "v", name="frame{}.png")
    video, folder = (
        read(tmp_path / name, even_plan(5))
        for read, name in ((read_clip, "v.mp4"), (images.read_pictures, "v"))
    )
    assert folder.indices == video.indices and folder.facts.fps == 0
    for one, other in zip(folder.frames(), video.frames(), strict=True):
        np.testing.assert_array_equal(one, other)
    region = (3, 5, 20, 30)
    np.testing.assert_array_equal(folder.rgb(2, region), video.frames()[2][3:20, 5:30])


def test_numbers_are_those_of_the_source_frames(tmp_path):
    write_video(tmp_path / "v.mp4", 12)
    write_frames(tmp_path / "v.mp4", tmp_path / "v", step=4, name="{}.png")
    clip = images.read_pictures(tmp_path / "v", even_plan(30))
    assert (clip.indices, clip.source_frames) == ([0, 4, 8], 9)
    again = images.read_numbered(tmp_path / "v", [4])
    np.testing.assert_array_equal(again.rgb(0), clip.rgb(1))
    with pytest.raises(UnusableVideoError, match="frame 5 asked for"):
        images.read_numbered(tmp_path / "v", [5])


def test_another_picture_is_another_digest_and_a_broken_one_is_named(tmp_path):
    write_video(tmp_path / "v.mp4", 3)
    write_frames(tmp_path / "v.mp4", tmp_path / "v")
    before = file_digest(tmp_path / "v")
    (tmp_path / "v" / "001.png").write_bytes(b"no picture")
    assert file_digest(tmp_path / "v") != before
    with pytest.raises(UnusableVideoError, match=r"001.png is no readable picture"):
        images.read_pictures(tmp_path / "v", even_plan(5))


def test_a_dataset_of_frames_is_that_of_the_videos(tmp_path):
    """The same shards but for what files say of themselves; and the margin is said."""
    for split in ("train", "test"):
        for name, folder in (("real", "real"), ("fake", "Face2Face")):
            video = tmp_path / "videos" / f"{split}_{name}.mp4"
            write_video(video, 8, seed=len(name + split), size=(48, 48))
            write_frames(video, tmp_path / "frames" / split / folder / "clip")
    rows = [
        f"{split}_{name}.mp4,{label},{split}"
        for split in ("train", "test")
        for label, name in enumerate(("real", "fake"))
    ]
    table = tmp_path / "videos" / "videos.csv"
    table.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    built = []
    for layout in ("csv", "frames"):
        config = FfppConfig(
            name=layout,
            layout=layout,
            face_finder="none",
            num_frames=4,
            image_size=32,
        )
        root = tmp_path / ("videos" if layout == "csv" else "frames")
        built.append(
            build(config, data_dir=tmp_path / "d", manual_dir=root, num_processes=1)
        )
    for split in ("train", "test"):
        videos, frames = (
            {int(e["label"]): e for e in b.as_data_source(split)} for b in built
        )
        for label in (0, 1):
            np.testing.assert_array_equal(
                np.stack(videos[label]["frames"]), np.stack(frames[label]["frames"])
            )
    card = json.loads((Path(built[1].data_dir) / "card.json").read_text())
    assert any("their margin is their set's own" in w for w in card["warnings"])


def forged_square(number: int, *, down: int) -> np.ndarray:
    """A mask of a frame of 48x64: a square of 16 pixels that moves aside."""
    mask = np.zeros((48, 64), np.uint8)
    mask[down : down + 16, 10 + 2 * number : 26 + 2 * number] = 255
    return mask


@pytest.mark.parametrize("side", [48, 24])
def test_masks_of_frames_are_those_of_the_stored_frames(tmp_path, side):
    """DeepfakeBench's masks are pictures, numbered as the frames beside them."""
    root, fakes = tmp_path / "set", "manipulated_sequences/Deepfakes/c23"
    numbers, seen = range(0, 12, 2), {}
    for i in range(6):
        fake = f"{i:03d}_{i ^ 1:03d}"
        for folder in (f"{FFPP}/{i:03d}", f"{fakes}/frames/{fake}"):
            for number in numbers:
                path = root / folder / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture(number, seed=i))
        for number in numbers:
            path = root / fakes / "masks" / fake / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), forged_square(number, down=4 * i))
    shutil.rmtree(root / fakes / "masks" / "004_005")
    (root / fakes / "masks" / "005_004" / "000.png").unlink()
    recipe = FfppConfig(
        name="masks",
        protocol="disjoint",
        face_finder="none",
        num_frames=4,
        image_size=side,
        masks=True,
    )
    built: Any = build(
        recipe, data_dir=tmp_path / "d", manual_dir=root, num_processes=1
    )
    for split in built.info.splits:
        for example in built.as_data_source(split):
            name, stored = example["video_id"].decode(), np.stack(example["masks"])
            seen[name] = int(example["masked"])
            if example["label"] == 0 or not example["masked"]:
                assert not stored.any()
                continue
            assert tuple(example["box"]) == (0, 8, 48, 56)  # the centred square
            true = [
                forged_square(n, down=4 * int(name[:3])) for n in example["frame_index"]
            ]
            step = 48 // side  # all edges lie on the pixels that are left
            wanted = np.stack(true)[:, ::step, 8:56:step]
            np.testing.assert_array_equal(stored[..., 0], wanted)
    fakes_seen = {name: masked for name, masked in seen.items() if "_" in name}
    assert len(seen) == 12 and fakes_seen == {
        **dict.fromkeys(("000_001", "001_000", "002_003", "003_002"), 1),
        **dict.fromkeys(("004_005", "005_004"), 0),  # none; the first frame's lacks
    }


@pytest.fixture(scope="module")
def as_frames(tiny_run, tmp_path_factory) -> Any:
    """The tiny run's dataset, built from the frames of its videos and their masks."""
    folder = tmp_path_factory.mktemp("as_frames")
    for video in sorted(tiny_run.videos.rglob("*.mp4")):
        place = video.relative_to(tiny_run.videos).parents[1]
        if place.name == "masks":  # in a set of frames beside them, not above
            frames = place.with_name("c23") / "masks"
        else:
            frames = place / "frames"
        write_frames(video, folder / "set" / frames / video.stem)
    shutil.copytree(tiny_run.videos / "splits", folder / "set" / "splits")
    videos: Any = open_dataset(tiny_run.config)
    recipe = replace(videos.builder_config, name="as_frames")
    return build(
        recipe, data_dir=folder / "d", manual_dir=folder / "set", num_processes=1
    )


def test_made_faces_as_frames_are_stored_as_their_videos_are(tiny_run, as_frames):
    videos: Any = open_dataset(tiny_run.config)
    labels, forged = [], 0
    for split in ("train", "val", "test"):
        stored = []
        for builder in (videos, as_frames):
            rows = read_videos(Path(builder.data_dir), split)
            examples = builder.as_data_source(split)
            stored.append({r.key: (r, examples[i]) for i, r in enumerate(rows)})
        assert stored[0].keys() == stored[1].keys()
        for key, (row, example) in stored[0].items():
            other, copied = stored[1][key]
            for name in ("frames", "masks"):
                np.testing.assert_array_equal(example[name], copied[name])
            assert (row.box, row.face_seen) == (other.box, other.face_seen)
            assert (row.masked, other.masked) == (1, 1)
            labels.append(row.label)
            forged += bool(row.label and np.any(example["masks"]))
    assert set(labels) == {0, 1} and len(labels) == 12 and forged == 6


def test_a_model_scores_frames_as_it_scores_their_videos(tiny_run, as_frames, tmp_path):
    """Each clip's score, and so the AUC, of a run's own test split as a frame set."""
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.data_dir = str(Path(as_frames.data_dir).parents[2])
        config.eval.dataset = "as_frames"
    shutil.copytree(tiny_run.workdir, tmp_path / "w")
    mesh = parallel.make_mesh(jax.devices()[:1])
    terminal = Terminal(quiet=True)
    run = Run(config.lock(), tmp_path / "w", mesh, terminal, StopRequest(), "test")
    found = evaluate.evaluate(run, "test")
    write_report(found, metrics_file=run.workdir / "metrics.jsonl")
    assert found.name.startswith("as_frames-test@")
    scores, reports = [], []
    for folder in (tiny_run.evaluation, found):
        scores.append((folder / "scores.jsonl").read_text())
        reports.append(json.loads((folder / "report.json").read_text()))
    assert scores[0] == scores[1] and len(set(scores[0].splitlines())) > 2
    assert reports[0]["video"]["auc"] == reports[1]["video"]["auc"]
