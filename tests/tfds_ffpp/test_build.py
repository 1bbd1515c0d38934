"""From a tree of videos to a whole dataset, or to one sentence and nothing else."""

# TFDS decorates as_data_source so that its arguments are lost on the type checker.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

import csv
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from tests.made_videos import FACELESS, records_of, write_tree, write_video
from tests.patience import LIMIT
from tfds_ffpp import build as build_module
from tfds_ffpp import packaging
from tfds_ffpp.__main__ import main, make_config
from tfds_ffpp.build import BuildOptions, build, open_dataset, open_named
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.frames import entry as entries
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

# 2026-11: TFDS 4.9.10 asks protobuf 6, which apache-beam wants, the old way.
pytestmark = pytest.mark.filterwarnings("ignore:label:DeprecationWarning")

LISTS = {
    "train": [["000", "001"], ["002", "003"]],
    "val": [["004", "005"]],
    "test": [["006", "007"]],
}
VIDEOS = "original_sequences/youtube/c23/videos"
FAKES = "manipulated_sequences/Deepfakes/c23/videos"


def add_lists(root: Path) -> Path:
    (root / "splits").mkdir(exist_ok=True)
    for split, pairs in LISTS.items():
        (root / "splits" / f"{split}.json").write_text(json.dumps(pairs))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An official tree of 8 reals and 16 fakes."""
    return add_lists(write_tree(tmp_path_factory.mktemp("made") / "ROOT"))


@pytest.fixture
def tree(made, tmp_path):
    """A tree of one's own to spoil."""
    return shutil.copytree(made, tmp_path / "ROOT")


def config(**changes) -> FfppConfig:
    return FfppConfig(**{"name": "t", **FACELESS, **changes})


def folder(data_dir: Path, name: str = "t") -> Path:
    return data_dir / "tfds_ffpp" / name / "1.2.0"


@pytest.fixture(scope="module")
def built(made, tmp_path_factory):
    """The data dir of an undisturbed build of the tree."""
    data_dir = tmp_path_factory.mktemp("built")
    build(config(), data_dir=data_dir, manual_dir=made, num_processes=2)
    return data_dir


def rows(data_dir: Path, split: str, name: str = "t") -> list[dict]:
    path = folder(data_dir, name) / f"videos-{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def card(data_dir: Path, name: str = "t") -> dict:
    return json.loads((folder(data_dir, name) / "card.json").read_text())


def command(tree: Path, data_dir: Path, *more: str) -> list[str]:
    sets = [f"--set={k}={v}" for k, v in FACELESS.items()]
    paths = [f"--manual_dir={tree}", f"--data_dir={data_dir}"]
    return [sys.executable, "-m", "tfds_ffpp", *paths, "--config=t", *sets, *more]


def run(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args), capture_output=True, text=True, timeout=LIMIT, check=False
    )


# What is built --------------------------------------------------------------------


def forged_square(frame: int) -> np.ndarray:
    """A mask of a frame: a square of 24 pixels that moves down."""
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[2 * frame : 2 * frame + 24, 30:54] = 255
    return mask


def test_masks_show_where_each_frame_is_forged(built, tree, tmp_path):
    """Cut as the frames are; a fake without a mask, or with a broken one, says so."""
    folder_ = tree / "manipulated_sequences/Deepfakes"
    squares = [forged_square(i) for i in range(12)]
    for path in (folder_ / "c23/videos").iterdir():
        write_video(folder_ / "masks/videos" / path.name, squares)
    write_video(folder_ / "masks/videos/000_001.mp4", squares[:6])
    (folder_ / "masks/videos/001_000.mp4").write_bytes(b"no video")
    build(config(masks=True), data_dir=tmp_path / "d", manual_dir=tree, num_processes=2)
    source = open_dataset(config(masks=True), tmp_path / "d").as_data_source("train")
    plain = open_dataset(config(), built).as_data_source("train")
    known = []
    for example, without in zip(source, plain, strict=True):
        np.testing.assert_array_equal(example["frames"], without["frames"])
        assert "masks" not in without and without["masked"] == 0
        inside = np.asarray(example["masks"])[..., 0]
        name, method = example["video_id"].decode(), example["method"].decode()
        if method != "Deepfakes" or name in ("000_001", "001_000"):
            assert example["masked"] == (example["label"] == 0) and not inside.any()
            continue
        known.append(name)
        y0, x0, y1, x1 = example["box"].astype(int)  # the largest centred square
        true = [forged_square(i)[y0:y1, x0:x1, 0] for i in example["frame_index"]]
        true = [cv2.resize(mask, inside.shape[1:]) for mask in true]
        assert example["masked"] == 1 and set(np.unique(inside)) == {0, 255}
        np.testing.assert_allclose(np.mean(true, axis=(1, 2)), inside.mean((1, 2)), 0.1)
        assert np.mean((np.stack(true) > 127) != (inside > 127)) < 0.03
    assert known == ["002_003", "003_002"]
    notes = card(tmp_path / "d")["notes"]
    assert "Where they are forged is known of 6 of 16 fakes." in notes


def test_each_example_is_a_video(built):
    builder = open_dataset(config(), built)
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {
        "train": 12,
        "val": 6,
        "test": 6,
    }
    for split in builder.info.splits:
        source = builder.as_data_source(split)
        for example, row in zip(source, rows(built, split), strict=True):
            assert example["video_id"].decode() == row["video_id"]
            assert example["method"].decode() == row["method"]
            assert example["label"] == row["label"] == (row["method"] != "youtube")
            assert example["sha256"].decode() == row["sha256"]
            assert list(example["frame_index"]) == row["frame_index"] == [1, 4, 7, 10]
            assert row["num_valid"] == 4 and row["timestamp"][0] == 0.04


def test_pixels_are_those_of_the_crop(made, built):
    from tfds_ffpp.frames.crops import clip_crops
    from tfds_ffpp.frames.video import even_plan, read_clip

    example = open_dataset(config(), built).as_data_source("val")[0]
    path = next(
        made.rglob(
            f"*/{example['method'].decode()}/*/*/{example['video_id'].decode()}.mp4"
        )
    )
    clip = read_clip(path, even_plan(4))
    crops = clip_crops(clip, tuple(example["box"]), 32)
    for crop, stored in zip(crops, example["frames"], strict=True):
        assert abs(crop.astype(int) - stored).mean() < 4


def test_the_splits_are_the_lists(built):
    for split, pairs in LISTS.items():
        ids = {i for pair in pairs for i in pair}
        assert {r["target"] for r in rows(built, split)} == ids
    told = card(built)
    assert told["official_split"] is False
    assert told["split_source"] == "lists in splits/, other than the official ones"
    assert told["splits"]["train"]["methods"] == {
        "Deepfakes": 4,
        "FaceSwap": 4,
        "youtube": 4,
    }


def test_nothing_is_left_beside_the_dataset(built):
    assert [p.name for p in built.iterdir()] == ["tfds_ffpp"]


def test_a_whole_dataset_is_not_built_again(built):
    before = folder(built).stat().st_mtime_ns
    build(config(), data_dir=built, manual_dir="/nowhere")
    assert folder(built).stat().st_mtime_ns == before


def test_tfds_reads_it_by_itself(built):
    source = tfds.builder_from_directory(folder(built)).as_data_source("test")
    assert source[0]["frames"][0].shape == (32, 32, 3)


def test_no_tensorflow_and_no_jax(built, made):
    code = (
        "import sys; from tfds_ffpp.__main__ import main; "
        f"main(['--manual_dir={made}', '--data_dir={built}/x', '--config=t', "
        "'--set=face_finder=none', '--set=image_size=32']); "
        "assert not {'tensorflow', 'jax', 'torch'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(built / "x")


def examples(data_dir: Path) -> dict:
    """(method, id) -> label, frames and facts of all splits."""
    found = {}
    source = tfds.decode.DeserializeMethod.RAW_BYTES
    builder = open_named("t", data_dir=data_dir)
    for split in builder.info.splits:
        told = rows(data_dir, split)
        for row, record in zip(
            told, builder.as_data_source(split, deserialize_method=source), strict=True
        ):
            found[row["method"], row["video_id"]] = split, row["label"], row, record
    return found


def test_every_layout_gives_the_same_examples(made, built, tmp_path):
    """D2 Another layout: the same examples."""
    mirror = add_lists_to(tmp_path / "FaceForensics++_C23")
    shutil.copytree(made / VIDEOS, mirror / "original")
    for method in ("Deepfakes", "FaceSwap"):
        shutil.copytree(made / FAKES.replace("Deepfakes", method), mirror / method)
    nested = tmp_path / "up" / "FF"
    shutil.copytree(made, nested)
    for root in (mirror, nested.parent):
        data_dir = tmp_path / f"data-{root.name}"
        build(config(), data_dir=data_dir, manual_dir=root)
        assert examples(data_dir) == examples(built)
    # Two flat folders tell neither method nor hold two fakes of one name.
    flat = add_lists_to(tmp_path / "FF++")
    shutil.copytree(made / VIDEOS, flat / "real")
    shutil.copytree(made / FAKES, flat / "fake")
    build(config(), data_dir=tmp_path / "flat", manual_dir=flat)
    expected = examples(built)
    for (method, video), (split, label, row, _) in examples(tmp_path / "flat").items():
        other = expected["Deepfakes" if label else "youtube", video]
        assert method == ("unknown" if label else "youtube")
        assert (split, label) == other[:2]
        assert {**row, "method": ""} == {**other[2], "method": ""}


def add_lists_to(root: Path) -> Path:
    root.mkdir()
    return add_lists(root)


@pytest.mark.parametrize("way", ["R", "here/../R"])
def test_a_fake_takes_the_box_of_its_original(made, tmp_path, monkeypatch, way):
    data_dir = tmp_path / "data"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    tree = Path(shutil.copytree(made, tmp_path / "R"))
    # Its own centre would be elsewhere, since it is wider.
    write_video(tree / FAKES / "004_005.mp4", 12, size=(48, 128))
    build(config(), data_dir=data_dir, manual_dir=way)
    boxes = {(r["method"], r["video_id"]): r["box"] for r in rows(data_dir, "val")}
    assert boxes["youtube", "004"] == [0, 8, 48, 56]
    assert boxes["FaceSwap", "004_005"] == [0, 8, 48, 56]
    assert boxes["Deepfakes", "004_005"] == [0, 16, 48, 112]


def test_short_videos_repeat_their_last_frame(tree, tmp_path):
    """D9 A short video in a build: the last frame is repeated, num_valid says how many
    count.
    """
    write_video(tree / VIDEOS / "004.mp4", 3)
    build(config(), data_dir=tmp_path / "d", manual_dir=tree)
    row = next(r for r in rows(tmp_path / "d", "val") if r["video_id"] == "004")
    assert row["num_valid"] == 3 and row["frame_index"] == [0, 1, 2, 2]
    number = rows(tmp_path / "d", "val").index(row)
    frames = open_dataset(config(), tmp_path / "d").as_data_source("val")[number][
        "frames"
    ]
    assert (frames[2] == frames[3]).all() and not (frames[1] == frames[2]).all()
    assert card(tmp_path / "d")["splits"]["val"]["shorter_than_asked"] == 1


def test_no_face_is_kept_and_counted(made, tmp_path):
    """D18 No face: the video is kept and counted."""
    few = config(face_finder="dlib", num_frames=2)
    build(few, data_dir=tmp_path, manual_dir=made)
    told = card(tmp_path)
    assert told["splits"]["train"]["no_face"] == 12
    assert told["coverage"]["real"] == {"no_face": 1.0, "coverage": 0.0}
    for row in rows(tmp_path, "val"):
        assert row["num_valid"] == 0 and row["box"] == [0, 0, 0, 0]
    assert "dlib" in told["face_finder"]


def test_seed_protocol_end_to_end(made, tmp_path):
    seed = config(
        protocol="repeated",
        crop="full",
        repeated_videos_per_class=20,
        repeated_val_videos=6,
    )
    build(seed, data_dir=tmp_path, manual_dir=made)
    train, val, test = (rows(tmp_path, s) for s in ("train", "val", "test"))
    assert len(train) == 34 and len(val) == 6 and val == test
    assert sum(r["label"] for r in (*train, *val)) == 20
    assert not card(tmp_path)["official_split"]
    assert train[0]["box"] == [0, 0, 48, 64]


# The same bytes, whatever happens ---------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_bytes_do_not_depend_on_the_processes(made, built, tmp_path, count):
    build(config(), data_dir=tmp_path, manual_dir=made, num_processes=count)
    assert records_of(folder(tmp_path)) == records_of(folder(built))


def test_killed_builds_finish_with_the_same_bytes(made, built, tmp_path):
    """D21 A build that was killed: the next one finishes with the same bytes."""

    def entries() -> int:
        return len(list(tmp_path.glob(".tfds_ffpp_cache/*/*")))

    for signal_number, more in ((signal.SIGKILL, 3), (signal.SIGTERM, 5)):
        process = subprocess.Popen(
            command(made, tmp_path, "--num_processes=2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        goal = entries() + more
        while entries() < goal:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal_number)
        assert process.wait() == -signal_number
        assert not folder(tmp_path).exists()
    # Killed while it writes the records, if we are quick enough.
    process = subprocess.Popen(command(made, tmp_path), stderr=subprocess.DEVNULL)
    while not list(folder(tmp_path).parent.glob("incomplete.*")):
        if process.poll() is not None:
            break
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = run(made, tmp_path)
    assert done.returncode == 0, done.stderr
    assert records_of(folder(tmp_path)) == records_of(folder(built))
    assert [p.name for p in tmp_path.iterdir()] == ["tfds_ffpp"]
    assert [p.name for p in folder(tmp_path).parent.iterdir()] == ["1.2.0"]


def test_ctrl_c_says_how_to_go_on(made, tmp_path):
    """D21 Ctrl-C in a build: the sentence says how to go on."""
    # A shell's background job ignores SIGINT, and so would all that it starts.
    heeding = "from signal import *; signal(SIGINT, SIG_DFL); import os, sys; "
    launch = [sys.executable, "-c", heeding + "os.execv(sys.argv[1], sys.argv[1:])"]
    for attempt in range(5):  # on a busy machine a build may end before the signal
        place = tmp_path / str(attempt)
        place.mkdir()
        process = subprocess.Popen(
            launch + command(made, place, "--num_processes=1"),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        while process.poll() is None and not list(place.glob(".tfds_ffpp_cache/*/*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
        if process.returncode:
            break
    assert process.returncode == 130, said
    assert said.strip().endswith("the same command goes on where this stopped")
    assert "Traceback" not in said


def test_leftovers_of_a_killed_build_are_removed(made, tmp_path):
    """D21 What a killed build left: removed."""
    stale = folder(tmp_path).parent / "incomplete.ABC123_1.2.0"
    stale.mkdir(parents=True)
    (stale / "tfds_ffpp-train.array_record-00000-of-00001").write_bytes(b"half")
    build(config(), data_dir=tmp_path, manual_dir=made)
    assert not stale.exists()


def test_a_damaged_cache_entry_is_not_packed(made, tmp_path):
    options = BuildOptions(keep_cache=True)
    build(config(), data_dir=tmp_path, manual_dir=made, options=options)
    shutil.rmtree(folder(tmp_path))
    for entry in tmp_path.glob(".tfds_ffpp_cache/*/*"):
        data = bytearray(entry.read_bytes())
        data[-100] ^= 1
        entry.write_bytes(data)
    with pytest.raises(DataError, match="is damaged and was removed; run the build"):
        build(config(), data_dir=tmp_path, manual_dir=made)
    assert not folder(tmp_path).exists()


def test_overwriting_keeps_the_old_until_the_new_is_whole(made, tmp_path):
    """D21 Overwriting: the old dataset stays until the new one is whole."""
    build(config(), data_dir=tmp_path, manual_dir=made)
    before = records_of(folder(tmp_path))
    replace = BuildOptions(overwrite=True)
    with pytest.raises(DataError):
        build(config(), data_dir=tmp_path, manual_dir="/nowhere", options=replace)
    assert records_of(folder(tmp_path)) == before
    small = config(image_size=16)
    build(small, data_dir=tmp_path, manual_dir=made, options=replace)
    assert card(tmp_path)["config"]["image_size"] == 16
    build(config(), data_dir=tmp_path, manual_dir=made, options=replace)
    assert records_of(folder(tmp_path)) == before
    assert [p.name for p in tmp_path.iterdir()] == ["tfds_ffpp"]


def test_a_build_leaves_what_another_one_makes(made, tmp_path):
    replace = BuildOptions(overwrite=True)
    build(config(), data_dir=tmp_path, manual_dir=made)
    other = tmp_path / build_module.NEW / "other" / "shard"
    other.parent.mkdir(parents=True)
    other.write_text("half")
    for options in (BuildOptions(), replace):
        build(config(), data_dir=tmp_path, manual_dir=made, options=options)
        assert other.read_text() == "half"
    build(config(name="second"), data_dir=tmp_path, manual_dir=made)
    assert other.read_text() == "half"


def test_two_builds_of_one_recipe_do_not_mix(made, tmp_path):
    place = packaging.cache_of(config(), tmp_path / entries.CACHE)
    with (
        entries.locked(place),
        pytest.raises(DataError, match="another build is working"),
    ):
        build(config(), data_dir=tmp_path, manual_dir=made)


# Faults -----------------------------------------------------------------------------


def test_missing_manual_dir_leaves_nothing(tmp_path):
    """D1 No manual dir: the expected tree and where to ask; nothing is written."""
    for root in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = run(root, tmp_path / "data")
        assert done.returncode == 3
        assert "ROOT/original_sequences" in done.stderr
        assert "github.com/ondyari/FaceForensics" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "data").exists()


def test_unusable_files_are_in_the_ledger(tree, tmp_path):
    """D4 Empty files, text, HTML, noise: in rejected.jsonl with a reason."""
    (tree / VIDEOS / "004.mp4").write_bytes(b"")
    (tree / FAKES / "006_007.mp4").write_text("<html>403 Forbidden</html>")
    (tree / FAKES / "000_001.mp4").write_bytes(b"text " * 100)
    (tree / FAKES / "tmpa8s7d").write_bytes(b"half a download")
    build(config(max_rejected=0.2), data_dir=tmp_path / "d", manual_dir=tree)
    path = folder(tmp_path / "d") / "rejected.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ledger = {Path(line["path"]).name: line for line in lines}
    assert ledger["004.mp4"]["reason"] == "empty file"
    assert ledger["tmpa8s7d"]["reason"] == "not a video by its name"
    assert "not a readable video" in ledger["006_007.mp4"]["reason"]
    assert ledger["000_001.mp4"]["method"] == "Deepfakes"
    assert len(ledger) == 4
    told = card(tmp_path / "d")
    assert sum(told["rejected"].values()) == 4
    assert any("4 files were left out" in w for w in told["warnings"])
    # The fakes of a lost original are looked at themselves, and that is said.
    assert any(
        "2 fakes were cropped by faces of their own" in w for w in told["warnings"]
    )


def sound(path: Path) -> None:
    """Writes an .mp4 of half a second of silence."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        for _ in range(20):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate = 44100
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def odd_files(folder: Path) -> set[str]:
    """Writes files that no dataset can hold; their names."""
    whole = write_video(folder / "0.mp4", 30).read_bytes()
    index_first = write_video(
        folder / "1.mp4", 30, container={"movflags": "faststart"}
    ).read_bytes()
    start = index_first.index(b"mdat") + 4
    even = {"crf": "18", "g": "5", "bf": "0"}
    matroska = write_video(folder / "2.mkv", 60, options=even).read_bytes()
    contents = {
        "empty.mp4": b"",
        "page.mp4": b"<!DOCTYPE html><html><body>403 Forbidden</body></html>",
        "text.mp4": b"text " * 100,
        "noise.mp4": random.Random(0).randbytes(5000),
        "no index.mp4": whole[: len(whole) // 2],
        "half the data.mp4": index_first[: start + (len(index_first) - start) // 2],
        # More than half of it decodes: predict scores it, a dataset does without it.
        "two thirds.mkv": matroska[: int(0.7 * len(matroska))],
        "no data.mp4": index_first[:start] + bytes(len(index_first) - start),
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n0.mp4\n",
        "concat.mp4": b"ffconcat version 1.0\nfile '0.mp4'\n",
        "picture.mp4": simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sound(folder / "sound.mp4")
    (folder / "0.mp4").unlink()
    (folder / "1.mp4").unlink()
    (folder / "2.mkv").unlink()
    return {*contents, "sound.mp4"}


def test_odd_files_are_rejected_with_a_sentence_and_odd_names_are_taken(tmp_path):
    """D4, D14 Odd files are rejected with a sentence; odd names are taken."""
    names = ["with space.mp4", "-rf.mp4", "日本 ünï.mp4", "UPPER.MP4", "$(touch x).mp4"]
    root = tmp_path / "mine"
    bad = odd_files(root)
    for i, name in enumerate(names):
        write_video(root / "v.mp4", 8, seed=i).rename(root / name)
    flipped = bytearray(write_video(root / "flipped.mp4", 30).read_bytes())
    for i in range(0, len(flipped), 97):
        flipped[i] ^= 1
    (root / "flipped.mp4").write_bytes(flipped)
    with (root / "videos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for i, name in enumerate([*names, *sorted(bad), "flipped.mp4"]):
            table.writerow([name, i % 2])
    build(config(max_rejected=1), data_dir=tmp_path / "d", manual_dir=root)
    stored = {f"{r['video_id']}" for r in rows(tmp_path / "d", "test")}
    assert (
        {Path(n).stem for n in names}
        <= stored
        <= {
            *(Path(n).stem for n in names),
            "flipped",
        }
    )
    ledger = folder(tmp_path / "d") / "rejected.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    reasons = {Path(line["path"]).name: line["reason"] for line in lines}
    assert bad <= set(reasons)
    assert re.match(r"only \d+ of about 60 frames", reasons["two thirds.mkv"])
    for reason in reasons.values():  # none is the name of an exception
        assert re.match(r"[a-z0-9]", reason) and len(reason.split()) >= 2, reason
    files = card(tmp_path / "d")["files"]
    assert files["found"] == len(names) + len(bad) + 2  # flipped.mp4, videos.csv
    assert files["taken"] + files["rejected"] == files["found"] - 1


def test_too_many_unusable_files_fail_the_build(tree, tmp_path):
    """D4 Too many unusable files: the build fails."""
    (tree / VIDEOS / "004.mp4").write_bytes(b"")
    done = run(tree, tmp_path / "d")
    assert done.returncode == 3
    assert "1 of 24 videos cannot be used, more than max_rejected=0.01" in done.stderr
    assert "'empty file'" in done.stderr and "004.mp4" in done.stderr
    assert not folder(tmp_path / "d").exists()
    ledger = tmp_path / "d" / ".tfds_ffpp_cache" / "rejected.jsonl"
    assert "004.mp4" in ledger.read_text()


def test_flipped_bits_do_not_end_the_build(tree, tmp_path):
    """D6 Flipped bits in a build: it goes on."""
    rng = random.Random(3)
    for path in sorted((tree / FAKES).iterdir()):
        data = bytearray(path.read_bytes())
        for _ in range(40):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    build(config(max_rejected=0.9), data_dir=tmp_path / "d", manual_dir=tree)
    assert len(rows(tmp_path / "d", "train")) >= 8


def test_a_hanging_decoder_costs_one_video(made, tmp_path):
    """D25 A decoder that hangs: one video is named, the rest goes on."""

    def stop_one():
        while not list(tmp_path.glob(".tfds_ffpp_cache/*/*")):
            time.sleep(0.005)
        for child in psutil.Process().children():
            if "tfds_ffpp.workers.child" in child.cmdline():
                child.send_signal(signal.SIGSTOP)

    thread = threading.Thread(target=stop_one)
    thread.start()
    build(
        config(max_rejected=0.1),
        data_dir=tmp_path,
        manual_dir=made,
        num_processes=1,
        options=BuildOptions(time_limit=2),
    )
    thread.join()
    assert card(tmp_path)["rejected"] == {
        "took longer than 2 seconds (--time_limit)": 1
    }
    assert sum(len(rows(tmp_path, s)) for s in LISTS) == 23


def kill_a_decoder(process: subprocess.Popen, began) -> None:
    """Does to a decoder of a command what the kernel does when memory runs out."""
    while not began():
        assert process.poll() is None
        time.sleep(0.005)
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            if "tfds_ffpp.workers.child" in child.cmdline():
                child.kill()
                return


def test_a_decoder_killed_for_memory_fails_the_build_and_not_the_next(made, tmp_path):
    """D25 A decoder killed for memory: the build fails with exit 3, the next one does
    not.
    """
    more = ("--num_processes=1", "--set=max_rejected=0.0")
    process = subprocess.Popen(
        command(made, tmp_path, *more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    kill_a_decoder(process, lambda: list(tmp_path.glob(".tfds_ffpp_cache/*/*")))
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 3, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "1 of 24 videos cannot be used" in error and "Traceback" not in said
    assert "as the system does when its memory runs out" in said
    assert not folder(tmp_path).exists()
    done = run(made, tmp_path, *more)
    assert done.returncode == 0, done.stderr
    left = [p.name for p in tmp_path.glob(".tfds_ffpp_cache/*")]
    assert left == ["rejected.jsonl"]  # of the first build
    assert card(tmp_path)["rejected"] == {}
    assert sum(len(rows(tmp_path, s)) for s in LISTS) == 24


@pytest.mark.parametrize("option", ["data_dir", "manual_dir"])
def test_a_path_that_is_too_long_is_said(made, tmp_path, option):
    """D28 A path that is too long: said."""
    for long in ("n" * 256, "/".join(["d" * 200] * 25)):
        places = {"manual_dir": made, "data_dir": tmp_path / "d"}
        places[option] = tmp_path / long
        done = run(places["manual_dir"], places["data_dir"])
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"error: --{option} is " in done.stderr
        assert "no usable path (File name too long); give another" in done.stderr
    assert not list(tmp_path.iterdir())


def test_videos_with_the_longest_names_are_built(tmp_path):
    lines = ["path,label,split"]
    for number, split in enumerate([*LISTS] * 2):
        name = f"{number}".ljust(251, "n") + ".mp4"
        write_video(tmp_path / "csv" / name, seed=number)
        lines.append(f"{name},{int(number < 3)},{split}")
    (tmp_path / "csv" / "videos.csv").write_text("\n".join(lines) + "\n")
    done = run(tmp_path / "csv", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    assert sum(len(rows(tmp_path / "d", split)) for split in LISTS) == 6


def test_the_same_content_in_two_splits(tree, tmp_path):
    """D16 The same content in two splits: found by its digest."""
    shutil.copy(tree / FAKES / "000_001.mp4", tree / FAKES / "006_007.mp4")
    with pytest.raises(DataError, match="1 videos stand in two splits .*Deepfakes/00"):
        build(config(), data_dir=tmp_path / "d", manual_dir=tree)
    assert not folder(tmp_path / "d").exists()


def test_a_tree_with_a_name_for_the_shell(made, tmp_path, monkeypatch):
    """D14 A tree with a name for the shell: built."""
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(made, tmp_path / "-rf $(touch x) ünï;`y`")
    name = root / VIDEOS / "004.mp4"
    name.rename(name.with_name("004.MP4"))
    build(config(), data_dir=tmp_path / "da ta", manual_dir=Path(root.name))
    assert len(rows(tmp_path / "da ta", "val")) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == [root.name, "da ta"]


def test_too_little_space_is_said_in_numbers(made, tmp_path):
    """D20 Too little space: need and have in numbers."""
    huge = config(num_frames=10_000, image_size=2048)
    with pytest.raises(DataError, match=r"need about \S+ GB .* but \S+ GB are"):
        build(huge, data_dir=tmp_path / "d", manual_dir=made)
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(
    shutil.which("unshare") is None, reason="unshare, of util-linux, is not here"
)
@pytest.mark.parametrize("kib", [60, 240, 400])
def test_a_full_disk_leaves_no_dataset(made, tmp_path, kib):
    """D20 A full disk: no half dataset."""
    mount = tmp_path / "disk"
    mount.mkdir()
    # A small disk of its own in a namespace of its own; cut before and while packing.
    inside = subprocess.list2cmdline(command(made, mount, "--num_processes=1"))
    script = (
        f"mount -t tmpfs -o size={kib}k none {mount} || exit 77; "
        f"{inside}; code=$?; find {mount}/tfds_ffpp -name '*.json*' 2>/dev/null; "
        "exit $code"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no disk of one's own can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert "No space left" in done.stderr or "free" in done.stderr
    assert "Traceback" not in done.stderr
    assert "dataset_info.json" not in done.stdout and "card.json" not in done.stdout


def test_another_version_is_refused(built, tmp_path):
    """D22 Another version: refused, both named."""
    data_dir = tmp_path / "d"
    shutil.copytree(built, data_dir)
    folder(data_dir).rename(folder(data_dir).with_name("0.9.0"))
    with pytest.raises(DataError, match="version 0.9.0, but this program reads 1.2.0"):
        open_dataset(config(), data_dir)


def test_another_config_is_refused(built, made):
    """D22 Another config: refused, both named."""
    other = config(image_size=64, crop="full")
    said = "image_size is 32, not 64; crop is 'face', not 'full'"
    with pytest.raises(DataError, match=said):
        open_dataset(other, built)
    with pytest.raises(DataError, match=said):
        build(other, data_dir=built, manual_dir=made)


def test_a_field_that_is_newer_than_a_dataset_had_its_default(built, tmp_path):
    data_dir = Path(shutil.copytree(built, tmp_path / "d"))
    told = card(data_dir)
    del told["config"]["map"], told["config"]["allow_one_class"]
    (folder(data_dir) / "card.json").write_text(json.dumps(told))
    open_dataset(config(), data_dir)
    with pytest.raises(DataError, match="map is '', not 'a=real'"):
        open_dataset(config(map="a=real"), data_dir)


def test_a_missing_dataset_names_the_command(tmp_path):
    wanted = FfppConfig(name="c23", image_size=112, methods=("Deepfakes",))
    with pytest.raises(DataError) as caught:
        open_dataset(wanted, tmp_path)
    told = str(caught.value).split("`")[1].split()
    assert told[:5] == ["python", "-m", "tfds_ffpp", "--manual_dir", "ROOT"]
    sets = [w.removeprefix("--set=") for w in told if w.startswith("--set=")]
    assert make_config("c23", sets).content() == wanted.content()


def test_a_read_only_dataset_is_read(built, tmp_path):
    """D23 A read-only dataset: read."""
    data_dir = Path(shutil.copytree(built, tmp_path / "d"))
    for path in (data_dir, *data_dir.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:  # root writes everywhere: read as nobody
        named = [p for p in tmp_path.parents if p.name.startswith("pytest-of-")]
        for folder in (tmp_path, *tmp_path.parents):
            if folder.is_relative_to(named[0] if named else tmp_path):
                folder.chmod(0o755)
    code = (
        "import os\n"
        "from tfds_ffpp.build import open_named\n"
        "def read(where):\n"
        "    source = open_named('t', data_dir=where).as_data_source('val')\n"
        "    return len(source), source[3]['frames'][0].shape\n"
        f"read({str(built)!r})\n"  # nobody may not be allowed to import
        "if os.getuid() == 0: os.setuid(65534)\n"
        f"assert not os.access({str(data_dir)!r}, os.W_OK)\n"
        f"print(*read({str(data_dir)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    for path in (data_dir, *data_dir.rglob("*")):
        path.chmod(0o755)
    assert done.stdout.strip() == "6 (32, 32, 3)", done.stderr


def test_files_that_differ_by_label_are_warned_of(tree, tmp_path):
    """D24 Files that differ by label: warned of."""
    for i, path in enumerate(sorted((tree / FAKES).iterdir())):
        write_video(
            path, 12, seed=90 + i, pixel_format="yuv420p", options={"crf": "45"}
        )
    only = config(methods=("Deepfakes",))
    build(only, data_dir=tmp_path / "d", manual_dir=tree)
    warnings = " ".join(card(tmp_path / "d")["warnings"])
    assert "bit_rate alone separates real from fake with an AUC of 1.00" in warnings
    assert "100 % of the fake videos are yuv420p" in warnings
    assert r"bit\_rate alone" in (folder(tmp_path / "d") / "card.md").read_text()


def test_settings_that_cannot_be(capsys):
    for change, said in (
        ("crop=hair", "crop='hair'; it must be one of face, full"),
        ("num_frames=0", "num_frames=0; it must be a whole number from 1"),
        ("num_frames=x", "num_frames='x'; it must be a whole number from 1"),
        ("margin=nan", "margin"),
        ("imagesize=3", "imagesize is not a field of the config"),
    ):
        assert main(["--manual_dir=x", f"--set={change}"]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SettingError, match="--config is not JSON"):
        make_config("{", ())
    assert make_config('{"name": "j", "methods": ["A"]}', ()).methods == ("A",)


# Other ways of building ---------------------------------------------------------------

has_beam = importlib.util.find_spec("apache_beam") is not None


@pytest.mark.skipif(not has_beam, reason="apache-beam is not installed")
def test_beam_gives_the_same_bytes(made, built, tmp_path):
    flags = "direct_num_workers=2,direct_running_mode=multi_processing"
    done = run(made, tmp_path, f"--beam_pipeline_options={flags}")
    assert done.returncode == 0, done.stderr
    assert records_of(folder(tmp_path)) == records_of(folder(built))


has_tfds_command = all(
    importlib.util.find_spec(m) for m in ("tensorflow", "apache_beam", "mlcroissant")
)


@pytest.mark.skipif(not has_tfds_command, reason="the extra `build` is not installed")
def test_the_tfds_command(made, built, tmp_path):
    root = Path(__file__).parents[2]
    told = json.dumps({"name": "t", **FACELESS})
    tfds_build = [Path(sys.executable).with_name("tfds"), "build", "tfds_ffpp"]
    paths = [f"--manual_dir={made}", f"--data_dir={tmp_path}"]
    done = subprocess.run(
        [*tfds_build, *paths, f"--config={told}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert records_of(folder(tmp_path)) == records_of(folder(built))
    wrong = subprocess.run(
        [*tfds_build, "--manual_dir=/nowhere", paths[1], "--config=raw"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 3
    last = [line for line in wrong.stderr.splitlines() if line.startswith("error:")]
    assert last and "Traceback" not in wrong.stderr


def test_frames_decode_one_by_one(built):
    """What a reader does that wants a few frames of a record."""
    from tensorflow_datasets.proto import tf_example_pb2

    raw = open_dataset(config(), built).as_data_source(
        "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )[0]
    images = tf_example_pb2.Example.FromString(raw).features.feature["frames"]
    assert simplejpeg.decode_jpeg(images.bytes_list.value[2], "RGB").shape == (
        32,
        32,
        3,
    )
