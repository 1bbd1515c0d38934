"""Trees as mirrors and download tools leave them: no file is lost without a word."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_videos import FACELESS, write_video
from tfds_ffpp import layout
from tfds_ffpp.build import build
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig
from tfds_ffpp.tree.scan import Scan, scan

REALS = ("000.mp4", "001.mp4", "002.mp4", "003.mp4")
FAKES = ("000_001.mp4", "001_000.mp4", "002_003.mp4", "003_002.mp4")
YOUTUBE = "original_sequences/youtube"
METHOD = "manipulated_sequences/Deepfakes"


def put(root: Path, folder: str, names=("x.mp4",)) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / name).write_bytes(b"x")


def files_below(root: Path) -> int:
    """All that is no folder; a link to a folder is one thing, whatever is behind."""
    count = 0
    for place, folders, names in os.walk(root):
        count += len(names) + sum(os.path.islink(Path(place, f)) for f in folders)
    return count


def counts(found: Scan) -> tuple[int, int, int]:
    """(taken, rejected, passed over) by their own lists."""
    taken = {r.path for r in found.records}
    rejected = {o.path for o in found.odd}
    assert not taken & rejected and len(rejected) == len(found.odd)
    return len(taken), len(rejected), sum(p.count for p in found.passed)


# The trees --------------------------------------------------------------------------


def train_and_test(root: Path) -> None:
    for split, part in (("train", slice(2)), ("test", slice(2, 4))):
        put(root, f"{split}/real", REALS[part])
        put(root, f"{split}/fake", FAKES[part])
    put(root, "extra", ["100.mp4"])


def real_train_and_real_test(root: Path) -> None:
    for split, part in (("train", slice(2)), ("test", slice(2, 4))):
        put(root, f"real/{split}", REALS[part])
        put(root, f"fake/{split}", FAKES[part])


def beside_another_set(root: Path) -> None:
    put(root, "FF/real", REALS)
    put(root, "FF/fake", FAKES)
    put(root, "CelebDF/real", ["id0_0000.mp4", "id1_0000.mp4"])


def two_whole_trees(root: Path) -> None:
    beside_another_set(root)
    put(root, "FF-c40/real", REALS)
    put(root, "FF-c40/fake", FAKES)


def original_and_manipulated(root: Path) -> None:
    put(root, "original", REALS)
    put(root, "manipulated", FAKES)
    put(root, ".", ["readme.txt"])


def levels_apart(root: Path) -> None:
    put(root, f"{YOUTUBE}/c23/videos", REALS)
    put(root, f"{METHOD}/c40/videos", FAKES)


def levels_mixed(root: Path) -> None:
    levels_apart(root)
    put(root, f"{METHOD}/c23/videos", FAKES[:2])
    put(root, f"{YOUTUBE}/c0/videos", REALS[:1])


def zip_beside_folders(root: Path) -> None:
    put(root, "original", REALS)
    put(root, "Deepfakes", FAKES)
    put(root, ".", ["Face2Face.zip", "FaceSwap.tar.gz"])


def lone_zip(root: Path) -> None:
    put(root, ".", ["FaceForensics.zip"])


def official_download(root: Path) -> None:
    """What the set's own script leaves, with what it leaves when it is interrupted."""
    put(root, f"{YOUTUBE}/c23/videos", [*REALS, "tmp8h2k", "tmpq1.mp4"])
    put(root, f"{METHOD}/c23/videos", FAKES)
    put(root, f"{METHOD}/masks/videos", FAKES)
    put(root, "original_sequences/actors/c23/videos", ["01__talking.mp4"])
    dfd = "manipulated_sequences/DeepFakeDetection/c23/videos"
    put(root, dfd, ["01_02__talking__YVGY8LOK.mp4"])
    put(root, ".", ["downloaded_youtube_videos_info.zip", "download.log"])


def kaggle_download(root: Path) -> None:
    """What kagglehub leaves of the commonest mirror."""
    top = "versions/1/FaceForensics++_C23"
    put(root, f"{top}/original", REALS)
    put(root, f"{top}/Deepfakes", FAKES)
    put(root, f"{top}/csv", ["original.csv", "Deepfakes.csv"])
    put(root, "versions/1/__MACOSX/original", ["._000.mp4"])
    put(root, "versions/1/__MACOSX/Deepfakes", ["._000_001.mp4"])
    put(root, ".", [".DS_Store", "1.complete"])


def list_of_another_kind(root: Path) -> None:
    put(root, "real", REALS)
    put(root, "fake", FAKES)
    (root / "labels.csv").write_text("name,y\n000.mp4,0\n")


def linked_folders(root: Path) -> None:
    store = root.parent / "store"
    put(store, "a", REALS)
    put(store, "b", FAKES)
    put(root, ".", ["notes.md"])
    (root / "original").symlink_to(store / "a")
    (root / "Deepfakes").symlink_to(store / "b")
    (root / "again").symlink_to(root)
    (root / "gone").symlink_to(store / "nothing")


def links_of_unknown_names(root: Path) -> None:
    linked_folders(root)
    (root / "original").rename(root / "authentic")
    (root / "Deepfakes").rename(root / "spoofs")


def linked_files(root: Path) -> None:
    put(root.parent / "store", "a", (*REALS, *FAKES))
    for folder, names in (("real", REALS), ("fake", FAKES)):
        put(root, folder, ())
        for name in names:
            (root / folder / name).symlink_to(root.parent / "store" / "a" / name)
    (root / "fake" / "004_005.mp4").symlink_to(root.parent / "store" / "gone.mp4")


def nested_twice(root: Path) -> None:
    put(root, "original/original", REALS)
    put(root, "Deepfakes/Deepfakes", FAKES)


def frames(root: Path) -> None:
    for split in ("train", "test"):
        put(root, f"{split}/real", ["a.jpg", "b.jpg"])
        put(root, f"{split}/fake", ["a.jpg", "c.jpg"])


def names_of_anyone(root: Path) -> None:
    put(root, "Real", ["anna.mp4", "bert.mp4"])
    put(root, "Fake", ["anna (1).mp4", "clara.mp4"])


def names_of_anyone_in_two_folders(root: Path) -> None:
    put(root, "original", ("1.mp4", "2.mp4"))
    put(root, "manipulated", ("1.mp4", "2.mp4"))


def celebdf_one_too_deep(root: Path) -> None:
    put(root, "Celeb-DF-v2/Celeb-real", ["id0_0000.mp4", "id1_0000.mp4"])
    put(root, "Celeb-DF-v2/Celeb-synthesis", ["id0_id1_0000.mp4", "notes.txt"])
    put(root, "Celeb-DF-v2", ["readme.pdf"])


def table_of_some(root: Path) -> None:
    put(root, "videos", ["a.mp4", "b.mp4", "c.mp4"])
    lines = "path,label\nvideos/a.mp4,real\nvideos/b.mp4,fake\n"
    (root / "videos.csv").write_text(lines)


class Case(NamedTuple):
    """A tree, how it is asked for, and what becomes of its files or what is said.

    behind: files behind links to folders of the layout, less the links themselves.
    """

    make: Callable[[Path], None]
    options: dict[str, Any]
    result: tuple[int, int, int] | str
    behind: int = 0


FOLDERS = {"folders": True}
CASES = [
    Case(train_and_test, {}, r"test and train; shall these be .*--protocol folders"),
    Case(train_and_test, FOLDERS, (8, 0, 1)),
    Case(real_train_and_real_test, {}, r"--map real=real,fake=fake"),
    Case(real_train_and_real_test, {"mapping": "real=real"}, "--protocol folders"),
    Case(real_train_and_real_test, {"mapping": "real=real"} | FOLDERS, (8, 0, 0)),
    Case(beside_another_set, {}, (8, 0, 2)),
    Case(two_whole_trees, {}, "holds 2 trees, .*FF .*FF-c40 .*give one as ROOT"),
    Case(original_and_manipulated, {}, r"4 videos in manipulated are .*--map manip"),
    Case(
        original_and_manipulated,
        {"mapping": "original=real,manipulated=fake"},
        (8, 0, 1),
    ),
    Case(levels_apart, {}, "no fake videos at c23, only at c40; a detector would"),
    Case(levels_apart, {"compression": "c40"}, "no real videos at c40, only at c23"),
    Case(levels_mixed, {}, (6, 0, 5)),
    Case(zip_beside_folders, {}, (8, 0, 2)),
    Case(lone_zip, {}, r"found 1 \.zip; unpack the archives first"),
    Case(official_download, {}, (8, 2, 8)),
    Case(kaggle_download, {}, (8, 0, 6)),
    Case(list_of_another_kind, {}, (8, 0, 1)),
    Case(linked_folders, {}, (8, 0, 3), behind=6),
    Case(links_of_unknown_names, {}, r"--map authentic=real,again=fake,spoofs=fake"),
    Case(
        links_of_unknown_names,
        {"mapping": "authentic=real,spoofs=fake"},
        (8, 0, 3),
        behind=6,
    ),
    Case(linked_files, {}, (8, 1, 0)),
    Case(nested_twice, {}, "--map original=real,Deepfakes=Deepfakes"),
    Case(nested_twice, {"mapping": "original=real"}, (8, 0, 0)),
    Case(frames, {}, r"found 8 \.jpg in test, train; these are extracted frames"),
    Case(names_of_anyone, {}, "names such as anna .* who is seen, .*--write_csv"),
    Case(
        names_of_anyone_in_two_folders,
        {},
        "names such as 1.mp4 .*--map original=real,manipulated=fake --write_csv",
    ),
    Case(celebdf_one_too_deep, {}, (3, 0, 2)),
    Case(table_of_some, {}, (2, 0, 2)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.make.__name__}-{c.options}")
def test_every_file_has_its_place_or_a_sentence_says_why_not(tmp_path, case):
    """D2 Any tree: every file has its place, or a sentence says why not."""
    root = tmp_path / "ROOT"
    root.mkdir()
    case.make(root)
    if isinstance(case.result, str):
        with pytest.raises(DataError, match=case.result):
            scan(root, **case.options)
        return
    found = scan(root, **case.options)
    assert counts(found) == case.result
    assert found.num_files == sum(case.result)
    assert found.num_files == files_below(root) + case.behind


def test_twelve_kinds_of_trees_are_among_them():
    assert len({case.make for case in CASES}) >= 12


# Any tree at all --------------------------------------------------------------------

FOLDER_NAMES = (
    *("real", "fake", "original", "Deepfakes", "train", "test", "val", "Real"),
    *("original_sequences", "manipulated_sequences", "youtube", "FaceSwap"),
    *("c23", "c40", "c0", "videos", "masks", "manipulated", "Celeb-real", "a b"),
)
FILE_NAMES = (
    *("000.mp4", "001.MP4", "000_001.mp4", "001_000.mp4", "01__talk.mp4", "x.mp4"),
    *("tmp123.mp4", "0.png", "all.zip", "notes", "labels.csv", "é\udcff.mp4"),
)
BASES = (
    {f"{YOUTUBE}/c23/videos": REALS, f"{METHOD}/c23/videos": FAKES},
    {"original": REALS, "Deepfakes": FAKES},
    {"real": REALS, "fake": FAKES},
    {"train/real": REALS[:2], "train/fake": FAKES[:2]}
    | {"test/real": REALS[2:], "test/fake": FAKES[2:]},
    {"Celeb-real": ("id0_0.mp4",), "Celeb-synthesis": ("id0_id1_0.mp4",)},
    {},
)
NESTED = st.lists(st.sampled_from(FOLDER_NAMES), max_size=4).map(tuple)
CLUTTER = st.lists(st.tuples(NESTED, st.sampled_from(FILE_NAMES)), max_size=14)
OPTIONS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(("c23", "c23", "c40")),
        "layout": st.sampled_from(("auto", "auto", "mapped")),
        "mapping": st.sampled_from(("", "", "", "manipulated=fake")),
        "folders": st.integers(0, 3).map(lambda n: n == 3),
        "allow_one_class": st.booleans(),
    }
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(BASES), CLUTTER, OPTIONS)
def test_of_any_tree_every_file_is_counted_once(
    tmp_path_factory, base, clutter, options
):
    """D2 Any tree: every file is counted once."""
    root = tmp_path_factory.mktemp("any")
    for folder, names in base.items():
        put(root, folder, names)
    for folders, name in clutter:
        put(root, "/".join(folders), [name])
    try:
        found = scan(root, **options)
    except DataError as error:
        assert re.match(r"\S", str(error))
        return
    assert sum(counts(found)) == found.num_files == files_below(root)
    assert {r.label for r in found.records} == {0, 1} or options["allow_one_class"]


# What is shown and built ------------------------------------------------------------


def test_the_table_accounts_for_every_file(tmp_path, capsys):
    official_download(tmp_path)
    assert layout.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "18 files: 8 taken, 2 rejected, 8 passed over" in shown
    assert "4 passed over: a mask (first manipulated_sequences/Deepfakes/" in shown
    assert "1 passed over: DeepFakeDetection: taken only when asked for" in shown
    assert "1 passed over: an archive; unpack it" in shown
    assert "2 rejected: not a video by its name" in shown
    assert "youtube (real)" in shown


def test_a_class_that_is_lost_is_an_error_below_the_table(tmp_path, capsys):
    original_and_manipulated(tmp_path)
    assert layout.main([str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "4 passed over: a video in manipulated/" in said.out
    assert said.err.startswith("error: ") and "--map manipulated=fake" in said.err
    assert layout.main([str(tmp_path), "--map", "manipulated=fake"]) == 0


def test_the_level_that_a_tree_does_not_say_is_not_made_up(tmp_path, capsys):
    put(tmp_path, "real", REALS)
    put(tmp_path, "fake", FAKES)
    assert layout.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "raw" not in shown and " c23 " in shown  # as it would be built
    assert "does not say its compression; c23 is taken for it" in shown


def test_names_do_not_steer_the_terminal(tmp_path, capsys):
    put(tmp_path, ".", ["a.mp4", "b.mp4"])
    put(tmp_path, "\x1b[32mfolder", ["c.mp4"])
    (tmp_path / "videos.csv").write_text(
        "path,label,method\na.mp4,real,\nb.mp4,fake,m]|(x)\x1b[31m[bold]\n"
    )
    assert layout.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "m]|(x)?[31m[bold]" in shown


def test_a_map_that_cannot_be(tmp_path):
    original_and_manipulated(tmp_path)
    for told, said in (
        ("original", "'original' is not FOLDER=MEANING"),
        ("original=reel", "with one of real, fake, Deepfakes"),
    ):
        with pytest.raises(SettingError, match=said):
            scan(tmp_path, mapping=told)
        with pytest.raises(SettingError, match=said):
            FfppConfig(name="t", map=told)
    with pytest.raises(DataError, match="map names orig, but no folder under .* is"):
        scan(tmp_path, mapping="orig=real")


def test_a_map_takes_methods_levels_and_paths(tmp_path):
    put(tmp_path, "a/c40", REALS)
    put(tmp_path, "b/NT/c40", FAKES)
    put(tmp_path, "b/Face2Face/c40", FAKES)
    put(tmp_path, "b/Face2Face/c23", FAKES[:1])
    found = scan(
        tmp_path, mapping="a=real,b=fake,b/NT=NeuralTextures", compression="c40"
    )
    methods = {r.method for r in found.records if r.label}
    assert methods == {"NeuralTextures", "Face2Face"}
    assert counts(found) == (12, 0, 1)


def test_a_drafted_table_is_the_way_for_any_names(tmp_path, capsys):
    names_of_anyone(tmp_path)
    put(tmp_path, "Fake", ["thumbs.db"])
    assert layout.main([str(tmp_path), "--write_csv"]) == 0
    assert "2 real and 2 fake videos" in capsys.readouterr().out
    found = scan(tmp_path)
    assert found.layout == "csv"
    labels = {r.path.name: r.label for r in found.records}
    fakes = {"anna (1).mp4": 1, "clara.mp4": 1}
    assert labels == {"anna.mp4": 0, "bert.mp4": 0, **fakes}
    assert layout.main([str(tmp_path), "--write_csv"]) == 3
    assert "is there already" in capsys.readouterr().err
    empty = tmp_path / "Real"
    assert layout.main([str(empty), "--write_csv"]) == 3
    assert not (empty / "videos.csv").exists()


def test_a_drafted_table_has_the_splits_of_the_folders(tmp_path):
    train_and_test(tmp_path)
    layout.write_csv(tmp_path)
    listed = {(r.path.parts[-3], r.listed) for r in scan(tmp_path).records}
    assert listed == {("train", "train"), ("test", "test")}


def videos(root: Path) -> None:
    """Turns the files of a tree that are called so into videos, each another."""
    for i, path in enumerate(sorted(root.rglob("*.mp4"))):
        if not path.is_symlink():
            write_video(path, 6, seed=i)


def card_of(builder) -> dict[str, Any]:
    return json.loads((Path(builder.data_path) / "card.json").read_text())


def command(root: Path, data_dir: Path, *more: str) -> subprocess.CompletedProcess:
    sets = [f"--set={k}={v}" for k, v in FACELESS.items()]
    told = [f"--manual_dir={root}", f"--data_dir={data_dir}", "--config=t", *sets]
    return subprocess.run(
        [sys.executable, "-m", "tfds_ffpp", *told, *more],
        capture_output=True,
        text=True,
        check=False,
    )


def test_folders_become_splits_when_asked(tmp_path):
    root = tmp_path / "ROOT"
    for split, ids in (("train", range(8)), ("test", range(8, 12))):
        put(root, f"{split}/real", [f"{i:03d}.mp4" for i in ids])
        fakes = [f"{i:03d}_{i + 1:03d}.mp4" for i in ids if i % 2 == 0]
        put(root, f"{split}/fake", fakes)
    videos(root)
    told = command(root, tmp_path / "d", "--protocol=folders")
    assert told.returncode == 0, told.stderr
    card = json.loads(next((tmp_path / "d").rglob("card.json")).read_text())
    sizes = {s: c["videos"] for s, c in card["splits"].items()}
    assert sizes["test"] == 6 and sizes["train"] + sizes["val"] == 12 and sizes["val"]
    assert not card["official_split"]
    assert any("There is no folder val" in w for w in card["warnings"])
    rows = next((tmp_path / "d").rglob("videos-test.jsonl")).read_text().splitlines()
    assert {json.loads(row)["target"] for row in rows} <= {"008", "009", "010", "011"}


def test_the_build_begins_with_the_account_and_the_card_ends_with_it(tmp_path):
    root = tmp_path / "ROOT"
    original_and_manipulated(root)
    more = [f"{i:03d}.mp4" for i in range(4, 8)]
    put(root, "original", more)
    put(root, "manipulated", ["004_005.mp4", "006_007.mp4", "notes.txt", "old.zip"])
    videos(root)
    (root / "original/003.mp4").write_bytes(b"")
    told = command(root, tmp_path / "d")
    assert told.returncode == 3 and "--map manipulated=fake" in told.stderr
    assert not (tmp_path / "d" / "tfds_ffpp").exists()
    told = command(
        root, tmp_path / "d", "--map=manipulated=fake", "--set=max_rejected=0.1"
    )
    assert told.returncode == 0, told.stderr
    first = told.stderr.splitlines()[0]
    assert first == "17 files: 14 taken, 2 rejected, 1 passed over"
    place = next((tmp_path / "d").rglob("card.json"))
    files = json.loads(place.read_text())["files"]
    assert files["found"] == files_below(root) == 17
    assert (files["taken"], files["rejected"]) == (13, 3)
    assert files["passed_over"] == {"not a video by its name": 1}
    assert "Of 17 files 13 were taken, 3 rejected and 1 passed over." in (
        place.with_suffix(".md").read_text()
    )


@pytest.mark.parametrize("labels", [[0] * 6, [1] * 6])
def test_one_class_alone_is_not_built_unless_asked_for(tmp_path, labels):
    """D3 One class alone: not built unless asked for."""
    root = tmp_path / "mine"
    put(root, ".", [f"{i}.mp4" for i in range(6)])
    videos(root)
    lines = [f"{i}.mp4,{label},p{i}" for i, label in enumerate(labels)]
    (root / "videos.csv").write_text("\n".join(["path,label,group", *lines, ""]))
    fields = {"name": "t", "protocol": "disjoint", **FACELESS}
    lacking = "fake" if labels[0] == 0 else "real"
    with pytest.raises(DataError, match=f"has no {lacking} videos .*allow_one_class"):
        build(FfppConfig(**fields), data_dir=tmp_path / "d", manual_dir=root)
    asked = FfppConfig(**fields, allow_one_class=True)
    card = card_of(build(asked, data_dir=tmp_path / "d", manual_dir=root))
    assert sum(c["videos"] for c in card["splits"].values()) == 6


def test_a_split_without_a_class_is_not_built(tmp_path):
    """D3 A split without a class: not built."""
    root = tmp_path / "mine"
    put(root, ".", [f"{i}.mp4" for i in range(6)])
    videos(root)
    rows = ["0,train", "1,train", "0,val", "1,val", "0,test", "0,test"]
    lines = [f"{i}.mp4,{row}" for i, row in enumerate(rows)]
    (root / "videos.csv").write_text("\n".join(["path,label,split", *lines, ""]))
    with pytest.raises(DataError, match="none of the 2 videos of the test split is f"):
        build(
            FfppConfig(name="t", **FACELESS), data_dir=tmp_path / "d", manual_dir=root
        )
    assert not (tmp_path / "d").exists()  # before any video was opened


def test_of_a_table_elsewhere_only_its_own_videos_count(tmp_path):
    put(tmp_path, "far", ["a.mp4", "b.mp4", "c.mp4", "d.mp4"])
    put(tmp_path, "lists", ["other.mp4"])
    path = tmp_path / "lists" / "mine.csv"
    rows = ["a,real,", "b,fake,swap", "c,fake,blend"]
    lines = [f"../far/{row.replace(',', '.mp4,', 1)}" for row in rows]
    path.write_text("\n".join(["path,label,method", *lines, ""]))
    assert counts(scan(path)) == (3, 0, 0)
    found = scan(path, methods=["swap"])
    assert counts(found) == (2, 0, 1) and found.num_files == 3
    assert found.passed[0].reason == "blend: taken only when asked for by methods"


def test_a_class_that_cannot_be_read_is_absent_too(tmp_path):
    """D3 A class whose videos cannot be read: absent too."""
    root = tmp_path / "mine"
    put(root, ".", [f"{i}.mp4" for i in range(6)])
    videos(root)
    for i in (1, 3, 5):
        (root / f"{i}.mp4").write_bytes(b"")
    lines = [f"{i}.mp4,{i % 2}" for i in range(6)]
    (root / "videos.csv").write_text("\n".join(["path,label", *lines, ""]))
    config = FfppConfig(name="t", max_rejected=1.0, **FACELESS)
    with pytest.raises(DataError, match="none of the 3 videos of the test split is f"):
        build(config, data_dir=tmp_path / "d", manual_dir=root)


def test_without_groups_people_are_not_said_to_be_apart(tmp_path):
    root = tmp_path / "mine"
    put(root, ".", [f"{i}.mp4" for i in range(40)])
    videos(root)
    lines = [f"{i}.mp4,{i % 2}" for i in range(40)]
    (root / "videos.csv").write_text("\n".join(["path,label", *lines, ""]))
    config = FfppConfig(name="t", protocol="disjoint", **FACELESS)
    card = card_of(build(config, data_dir=tmp_path / "d", manual_dir=root))
    warnings = " ".join(card["warnings"])
    assert "identities were split" not in warnings
    assert "identity-disjoint" not in card["split_source"]
    assert "40 of 40 videos do not say who is seen in them" in warnings
    assert "the same person may stand in two splits" in warnings
