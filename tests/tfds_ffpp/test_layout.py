"""Trees as they lie on people's disks: recognised, or said what they are instead."""

import os
import shutil
from pathlib import Path

import pytest

from tfds_ffpp import layout, packaging
from tfds_ffpp.errors import DataError
from tfds_ffpp.tfds_ffpp_dataset_builder import NAMED_CONFIGS
from tfds_ffpp.tree.scan import Scan, scan

REALS = "original_sequences/youtube"
FAKES = "manipulated_sequences/Deepfakes"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


@pytest.fixture
def tree(tmp_path):
    return touch(
        tmp_path / "ROOT",
        f"{REALS}/c23/videos/000.mp4",
        f"{REALS}/c23/videos/001.mp4",
        f"{FAKES}/c23/videos/000_001.mp4",
        f"{FAKES}/c23/videos/001_000.mp4",
        f"{FAKES}/masks/videos/000_001.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/"
        "01_02__outside_talking_still_laughing__YVGY8LOK.mp4",
        "original_sequences/actors/c23/videos/01__outside_talking_still_laughing.mp4",
    )


def keys(found: Scan) -> list[str]:
    return sorted(r.key for r in found.records)


def test_the_official_tree(tree):
    found = scan(tree)
    assert found.layout == "official"
    assert keys(found) == [
        "ffpp/Deepfakes/000_001",
        "ffpp/Deepfakes/001_000",
        "ffpp/youtube/000",
        "ffpp/youtube/001",
    ]
    fake = next(r for r in found.records if r.video_id == "000_001")
    assert (fake.label, fake.target, fake.source) == (1, "000", "001")
    assert fake.original_key == "ffpp/youtube/000"
    assert all(r.label == 0 for r in found.records if r.method == "youtube")


def test_deepfakedetection_comes_by_name_with_its_actors(tree):
    found = scan(tree, methods=["DeepFakeDetection"])
    assert {(r.dataset, r.method) for r in found.records} == {
        ("dfd", "DeepFakeDetection"),
        ("dfd", "actors"),
    }
    assert found.records[0].original_key in keys(found) or found.missing == {}


def test_the_named_config_of_deepfakedetection_puts_all_of_it_in_test(tree):
    """As the field tests on it; another split would leave fakes of two actors out."""
    chosen = packaging.select(NAMED_CONFIGS["dfd"], tree)
    assert {r.method for r in chosen.split.records["test"]} == {
        "DeepFakeDetection",
        "actors",
    }
    assert list(chosen.split.records) == ["test"] and not chosen.split.dropped


def test_faceshifter_comes_by_name(tree):
    touch(tree, "manipulated_sequences/FaceShifter/c23/videos/000_001.mp4")
    found = scan(tree)
    assert {r.method for r in found.records} == {"youtube", "Deepfakes"}
    assert any("FaceShifter is there but not taken" in note for note in found.notes)
    found = scan(tree, methods=["Deepfakes", "FaceShifter"])
    assert {r.method for r in found.records} == {"youtube", "Deepfakes", "FaceShifter"}
    assert not found.notes
    shutil.rmtree(tree / FAKES)
    found = scan(tree)  # the only fakes there are
    assert {r.method for r in found.records} == {"youtube", "FaceShifter"}


def test_c0_is_raw(tree):
    for folder in (REALS, FAKES):
        shutil.move(tree / folder / "c23", tree / folder / "c0")
    assert {r.compression for r in scan(tree, compression="raw").records} == {"raw"}


@pytest.mark.parametrize("place", [".", "..", REALS, f"{FAKES}/c23/videos"])
def test_one_level_off(tree, place):
    """D2 The folder above or below the root: found."""
    found = scan(tree / place)
    assert found.root.resolve() == tree
    assert len(found.records) == 4


def test_mirror_with_one_folder_per_method(tmp_path):
    """D2 A mirror with one folder per method: recognised."""
    root = touch(
        tmp_path / "FaceForensics++_C23",
        "original/000.mp4",
        "original/001.mp4",
        "Deepfakes/000_001.mp4",
        "FaceShifter/001_000.mp4",
    )
    found = scan(root)
    assert found.layout == "mirror_c23"
    assert {r.compression for r in found.records} == {"c23"}
    assert {r.method for r in found.records} == {"youtube", "Deepfakes"}


def test_mirror_of_real_and_fake(tmp_path):
    """D2 A mirror of real and fake: recognised."""
    dfd = "01_02__outside_talking__YVGY8LOK"
    root = touch(
        tmp_path / "FF++",
        "real/000.mp4",
        "real/01__outside_talking.mp4",
        "fake/000_001.mp4",
        f"fake/{dfd}.mp4",
    )
    assert keys(scan(root)) == ["ffpp/unknown/000_001", "ffpp/youtube/000"]
    found = scan(root, methods=["DeepFakeDetection"])
    assert keys(found) == [
        f"dfd/DeepFakeDetection/{dfd}",
        "dfd/actors/01__outside_talking",
    ]


def test_only_another_level(tree):
    """D2 Only another compression level is there: said."""
    with pytest.raises(DataError, match="no videos at c40; it has c23: .*--config c23"):
        scan(tree, compression="c40")


def test_frames_instead_of_videos(tmp_path):
    """D2 Frames instead of videos: said."""
    root = touch(tmp_path / "R", *(f"{REALS}/c23/images/000/{i}.png" for i in range(9)))
    with pytest.raises(DataError, match="9 .png.*extracted frames.*--layout frames"):
        scan(root)


def test_a_tree_that_is_none_names_the_nearest_match(tmp_path):
    """D2 No known tree: the nearest layout is named."""
    root = touch(tmp_path / "R", "original_sequence/youtube/c23/videos/000.mp4")
    with pytest.raises(DataError, match="nearest to original_sequences"):
        scan(root)


def test_missing_and_empty_roots(tmp_path):
    with pytest.raises(DataError, match="does not exist; expected\nROOT/original_seq"):
        scan(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty; expected\nROOT/original_sequences"):
        scan(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        scan(tmp_path / "file")


def test_a_folder_that_may_not_be_read_is_said(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):  # root, as which tests may run, reads every folder
        if str(path).endswith("Deepfakes/c23/videos"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match="Deepfakes.* cannot be read .Permission denied"
    ):
        scan(tree)


def test_a_method_asked_for_and_absent(tree):
    """D3 A method asked for and absent: named."""
    with pytest.raises(DataError, match="did you mean FaceSwap; there are .*Deepfakes"):
        scan(tree, methods=["Deepfakes", "FaceSwop"])
    (tree / "manipulated_sequences/FaceSwap/c23/videos").mkdir(parents=True)
    with pytest.raises(DataError, match="no c23 videos of FaceSwap under"):
        scan(tree, methods=["Deepfakes", "FaceSwap"])
    found = scan(tree, methods=["Deepfakes", "FaceSwap"], allow_missing=True)
    assert len(found.records) == 4


def test_no_reals(tree):
    shutil.rmtree(tree / REALS)
    with pytest.raises(DataError, match="no real videos at c23; they belong in"):
        scan(tree)


def test_leftovers_are_named_not_taken(tree):
    touch(
        tree,
        f"{REALS}/c23/videos/tmp83hf7s",
        f"{REALS}/c23/videos/tmpa81.mp4",
        f"{REALS}/c23/videos/000_001.mp4",
        f"{FAKES}/c23/videos/notes.txt",
        f"{FAKES}/c23/videos/final version.mp4",
    )
    found = scan(tree)
    assert len(found.records) == 4
    assert {o.path.name: o.reason for o in found.odd} == {
        "tmp83hf7s": "not a video by its name",
        "tmpa81.mp4": "not a video by its name",
        "000_001.mp4": "the name of a fake video in a folder of reals",
        "notes.txt": "not a video by its name",
        "final version.mp4": "not a FaceForensics++ video name",
    }


def test_a_name_that_is_not_utf8(tree):
    (tree / REALS / "c23/videos").joinpath("00\udcff.mp4").write_bytes(b"x")
    assert [o.reason for o in scan(tree).odd] == ["file name is not UTF-8"]


def test_duplicate_keys_are_named(tree):
    """D26 Two videos of one key: both files named before anything is written."""
    touch(tree, f"{REALS}/c23/videos/000.MP4")
    with pytest.raises(DataError, match=r"both ffpp/youtube/000: .*000\.MP4 and .*mp4"):
        scan(tree)


def test_what_is_missing_of_a_method(tree):
    touch(
        tree,
        "manipulated_sequences/FaceSwap/c23/videos/000_001.mp4",
        "manipulated_sequences/FaceSwap/c23/videos/002_001.mp4",
    )
    assert scan(tree).missing == {
        "Deepfakes": ("002_001",),
        "FaceSwap": ("001_000",),
        "youtube": ("002",),
    }


def test_an_unknown_method_is_taken_and_said(tree):
    touch(tree, "manipulated_sequences/MyMethod/c23/videos/000_001.mp4")
    found = scan(tree)
    assert "ffpp/MyMethod/000_001" in keys(found)
    assert any("MyMethod" in note for note in found.notes)


def test_spelling_of_known_methods(tree):
    shutil.move(tree / FAKES, tree / FAKES.replace("Deepfakes", "deep_fakes"))
    assert "ffpp/Deepfakes/000_001" in keys(scan(tree))


def test_unknown_layout_has_a_suggestion(tree):
    with pytest.raises(DataError, match="did you mean mirror_flat"):
        scan(tree, layout="mirror_flt")


def test_the_table_changes_nothing(tree, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in tree.rglob("*"))
    assert layout.main([str(tree)]) == 0
    shown = capsys.readouterr().out
    assert "Deepfakes" in shown and "DeepFakeDetection" in shown and "GB" in shown
    assert before == sorted((p, p.stat().st_mtime_ns) for p in tree.rglob("*"))


def test_the_table_of_nothing_is_one_error(tmp_path, capsys):
    assert layout.main([str(tmp_path / "none")]) == 3
    assert capsys.readouterr().err.startswith("error: the manual dir")
