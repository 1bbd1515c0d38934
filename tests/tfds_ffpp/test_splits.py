"""Splits: nobody is on both sides, and every leak is named."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfds_ffpp.errors import DataError
from tfds_ffpp.tree.naming import VideoRecord, parse_name
from tfds_ffpp.tree.splits import (
    FFPP_IDS,
    PACKAGED,
    SAME_SOURCE,
    SPLITS,
    UNLISTED,
    assign,
    assign_all_test,
    assign_disjoint,
    assign_folders,
    assign_listed,
    assign_repeated,
    components,
)

# SHA-256 of train.json, val.json and test.json after one another.
PUBLISHED = "c6f05d5f3dc438e2a6095b14028c5e8f8650133a198266d8116de61ec9afaef2"
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def record(video_id: str, method: str = "Deepfakes") -> VideoRecord:
    name = parse_name(video_id)
    assert name is not None
    real = name.kind in ("youtube", "actors")
    return VideoRecord(
        path=Path(f"/videos/{method}/{video_id}.mp4"),
        dataset="dfd" if name.kind in ("actors", "dfd") else "ffpp",
        method=name.kind if real else method,
        video_id=video_id,
        target=name.target,
        source=name.source,
        compression="c23",
        label=0 if real else 1,
        original=name.original,
    )


def from_pairs(pairs, methods=("Deepfakes",)) -> list[VideoRecord]:
    ids = sorted({i for pair in pairs for i in pair})
    fakes = [
        record(f"{a}_{b}", m)
        for m in methods
        for x, y in pairs
        for a, b in ((x, y), (y, x))
    ]
    return [record(i) for i in ids] + fakes


def write_lists(root: Path, **pairs) -> Path:
    (root / "splits").mkdir(parents=True)
    for split in SPLITS:
        (root / "splits" / f"{split}.json").write_text(json.dumps(pairs[split]))
    return root


def people(records) -> set[str]:
    return {i for r in records for i in r.identities}


@pytest.fixture
def small(tmp_path):
    lists = {
        "train": [["000", "003"]],
        "val": [["001", "002"]],
        "test": [["004", "005"]],
    }
    return write_lists(tmp_path, **lists), from_pairs(sum(lists.values(), []))


def test_the_lists_decide(small):
    root, records = small
    splits = assign(records, root=root)
    assert not splits.warnings and not splits.dropped
    assert splits.official is False
    assert splits.source == "lists in splits/, other than the official ones"
    assert people(splits.records["val"]) == {"001", "002"}
    assert sum(len(r) for r in splits.records.values()) == len(records)


def official_lists() -> dict[str, list]:
    return {s: json.loads((PACKAGED / f"{s}.json").read_text()) for s in SPLITS}


class TestOfficial:
    @pytest.fixture
    def whole(self, tmp_path):
        """A tree without lists, and all videos of the set's five methods."""
        return tmp_path, from_pairs(sum(official_lists().values(), []), METHODS)

    def test_the_lists_are_those_of_the_set(self):
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update((PACKAGED / f"{split}.json").read_bytes())
        assert digest.hexdigest() == PUBLISHED
        assert "MIT" in (PACKAGED / "README.md").read_text()
        assert "Permission is hereby granted" in (PACKAGED / "LICENSE").read_text()

    def test_the_tree_s_own_copies_give_the_same(self, whole):
        root, records = whole
        packaged = assign(records, root=root)
        assert packaged.source == "official FaceForensics++ lists, as in the package"
        turned = {s: [p[::-1] for p in v[::-1]] for s, v in official_lists().items()}
        copied = assign(records, root=write_lists(root, **turned))
        assert copied.official is True and copied.records == packaged.records
        assert copied.source == "official FaceForensics++ lists, in splits/"

    def test_other_lists_in_the_tree_come_first(self, whole):
        root, records = whole
        lists = official_lists()
        lists["train"], lists["val"] = lists["train"][:-1], lists["train"][-1:]
        splits = assign(records, root=write_lists(root, **lists))
        assert splits.official is False and len(people(splits.records["val"])) == 2

    def test_a_part_of_the_set_will_do(self, whole):
        root, _ = whole
        lists = official_lists()
        records = from_pairs([pair for v in lists.values() for pair in v[:3]])
        splits = assign(records, root=root)
        assert splits.official is True
        assert people(splits.records["val"]) == set(sum(lists["val"][:3], []))

    @pytest.mark.parametrize(
        ("pairs", "said"),
        [
            ([("000", "003"), ("001", "870"), ("100", "101")], "100_101 swaps two"),
            ([("000", "003"), ("001", "870"), ("002", "006")], "none .* into val"),
        ],
    )
    def test_what_does_not_fit_is_named(self, pairs, said, tmp_path):
        splits = assign(from_pairs(pairs), root=tmp_path)
        assert splits.official is False and "by hash" in splits.source
        assert re.search(said, splits.warnings[0])

    def test_an_id_that_is_not_of_the_set(self, whole):
        root, records = whole
        stray = replace(record("000"), target="x1", video_id="x1")
        said = assign([*records, stray], root=root).warnings[0]
        assert "ffpp/youtube/x1 is of no one whom the official lists name" in said

    def test_with_actors_it_is_said_that_they_have_no_list(self, whole):
        root, records = whole
        dfd = [record(f"{i:02d}__scene") for i in range(1, 29)]
        splits = assign([*records, *dfd], root=root)
        assert splits.official is False
        assert splits.source.endswith("as in the package; actors by hash")

    def test_counts(self, whole):
        root, records = whole
        splits = assign(records, root=root)
        assert splits.official
        for split, count in zip(SPLITS, (720, 140, 140), strict=True):
            got = splits.records[split]
            assert sum(r.label == 0 for r in got) == count
            for method in METHODS:
                assert sum(r.method == method for r in got) == count

    def test_the_seven_overlaps_are_warned_of(self, whole):
        root, records = whole
        (warning,) = assign(records, root=root).warnings
        for pair in ("605 train/606 val", "755 test/756 train", "982 val/983 train"):
            assert pair in warning
        assert warning.startswith("7 source videos")

    def test_strict_leaves_the_train_side_out(self, whole):
        root, records = whole
        splits = assign(records, root=root, strict=True)
        assert splits.official and "without the train side" in splits.source
        train = people(splits.records["train"])
        held = people(splits.records["val"]) | people(splits.records["test"])
        for ids in map(set, SAME_SOURCE):
            assert not (ids & train and ids & held)
        assert {i for s in SPLITS for i in people(splits.records[s])} >= {"606", "755"}
        # The six or seven ids of train go with both fakes of their pair per method.
        reals = sum(r.label == 0 for r in splits.records["train"])
        assert reals == 720 - 7
        assert sum(splits.dropped.values()) == 7 * (1 + 2 * len(METHODS))

    def test_a_split_of_our_own_leaks_nobody(self, whole):
        root, records = whole
        splits = assign_disjoint(records, root=root)
        home = {i: s for s in SPLITS for i in people(splits.records[s])}
        assert len(home) == 1000
        assert all(len({home[i] for i in ids}) == 1 for ids in SAME_SOURCE)
        assert len(splits.warnings) == 1  # that it is not the official one


def test_without_lists_it_is_not_official(small):
    _, records = small
    splits = assign(records, root=Path("/nowhere"))
    assert not splits.official
    assert "not the official split" in splits.warnings[0]


def test_a_disjoint_split_does_without_the_lists_that_are_there(small):
    root, records = small
    assert "lists in splits/" in assign(records, root=root).source
    splits = assign_disjoint(records, root=root)
    assert splits.official is False and "by hash" in splits.warnings[0]


def test_what_a_sets_own_list_does_not_name_is_counted():
    records = [
        replace(r, dataset="own", listed="test") for r in from_pairs([("000", "001")])
    ]
    more = [replace(r, dataset="own") for r in from_pairs([("002", "003")])]
    splits = assign_listed([*records, *more])
    assert set(splits.records) == {"test"}
    assert set(splits.records["test"]) == set(records)
    assert splits.dropped == {"the set's own list does not name it": 4}


def test_fallback_has_the_official_proportions():
    pairs = [(f"{2 * i:03d}", f"{2 * i + 1:03d}") for i in range(500)]
    splits = assign(from_pairs(pairs), root=Path("/nowhere"))
    counts = [sum(r.label == 0 for r in splits.records[s]) for s in SPLITS]
    assert [abs(a - b) <= 2 for a, b in zip(counts, (720, 140, 140), strict=True)] == [
        True
    ] * 3
    # Whoever was cut into several ids is on one side in a split of our own.
    home = {i: s for s in SPLITS for i in people(splits.records[s])}
    assert len(home) == 1000
    assert all(len({home[i] for i in ids}) == 1 for ids in SAME_SOURCE)


# Ids of one YouTube video in conversion_dict.json of github.com/ondyari/FaceForensics.
CUT_FROM_ONE = """
331 332, 524 525, 566 567, 605 606, 614 615, 618 619, 639 640, 685 686 687,
755 756, 766 767, 769 770, 787 788, 837 838, 875 876, 883 884, 937 938, 942 943,
954 955, 967 968, 973 974, 982 983, 993 994
"""


def test_every_source_of_several_ids_is_known():
    known = [tuple(ids.split()) for ids in CUT_FROM_ONE.split(",")]
    assert len(known) == 22 and list(SAME_SOURCE) == known


@pytest.mark.parametrize(
    "ids",
    [
        ("605", "606"),
        ("639", "640"),
        ("755", "756"),
        ("837", "838"),
        ("875", "876"),
        ("954", "955"),
        ("982", "983"),
    ],
)
def test_each_source_that_the_official_split_cuts_apart_is_warned_of(tmp_path, ids):
    lists = {
        "train": [[ids[0], "100"]],
        "val": [[ids[1], "101"]],
        "test": [["102", "103"]],
    }
    root = write_lists(tmp_path, **lists)
    (warning,) = assign(from_pairs(sum(lists.values(), [])), root=root).warnings
    assert f"{ids[0]} train/{ids[1]} val" in warning


def test_all_ids_of_a_source_are_warned_of(tmp_path):
    """Also those that the official split has on one side, and all of three."""
    lists = {
        "train": [["331", "000"], ["685", "001"]],
        "val": [["332", "002"], ["687", "003"]],
        "test": [["686", "004"]],
    }
    records = from_pairs(sum(lists.values(), []))
    root = write_lists(tmp_path, **lists)
    (warning,) = assign(records, root=root).warnings
    for said in ("331 train/332 val", "685 train/686 test", "686 test/687 val"):
        assert said in warning
    strict = assign(records, root=root, strict=True).records
    kept = set().union(*map(people, strict.values()))
    assert kept & {"331", "332", "685", "686", "687"} == {"332", "686"}


@pytest.mark.parametrize("dataset", FFPP_IDS)
def test_a_set_with_faceforensics_numbers_has_its_sources(dataset):
    names = [replace(record(i), dataset=dataset) for i in ("331", "332", "333")]
    assert components(names) == [("331", "332"), ("333",)]


def test_a_video_of_nobody_known_is_counted_or_split_by_itself(small):
    """As a folder 000_copy of frames is, whose name says no person."""
    nobody = replace(record("000"), video_id="000_copy", target="", source="")
    root, records = small
    splits = assign([*records, nobody], root=root)
    assert splits.dropped[UNLISTED] >= 1
    actors = [
        replace(record(f"{i:02d}__talking"), target=f"{i:02d}", source="")
        for i in range(1, 7)
    ]
    odd = replace(actors[0], video_id="odd", target="", source="")
    taken = assign([*actors, odd], root=Path("/nowhere")).records
    assert sum(odd in part for part in taken.values()) == 1


def test_numbers_of_another_set_are_not_those_of_faceforensics():
    names = [replace(record(i), dataset="csv") for i in ("331", "332")]
    assert components(names) == [("331",), ("332",)]


number = st.integers(0, 999).map("{:03d}".format)
pairs = st.lists(
    st.tuples(number, number).filter(lambda p: p[0] != p[1]), min_size=3, max_size=40
)


@given(pairs)
def test_any_pairs_give_disjoint_people(pairs):
    records = from_pairs(dict.fromkeys(pairs))
    try:
        splits = assign(records, root=Path("/nowhere"))
    except DataError as error:
        assert len(components(records)) < 3
        assert "split has no videos" in str(error)
        return
    everyone = [people(splits.records[s]) for s in SPLITS]
    assert sum(map(len, everyone)) == len(set().union(*everyone))
    assert sorted(r.key for s in SPLITS for r in splits.records[s]) == sorted(
        r.key for r in records
    )
    again = assign(records[::-1], root=Path("/nowhere"))
    assert again.records == splits.records


actor = st.integers(1, 28).map("{:02d}".format)


@given(st.lists(st.tuples(actor, actor).filter(lambda p: p[0] != p[1]), min_size=1))
def test_actors_of_a_fake_are_on_one_side(pairs):
    ids = [f"{i:02d}__scene" for i in range(1, 29)]
    ids += [f"{a}_{b}__scene__{k:08d}" for k, (a, b) in enumerate(pairs)]
    splits = assign([record(i) for i in ids], root=Path("/nowhere"))
    everyone = [people(splits.records[s]) for s in SPLITS]
    assert sum(map(len, everyone)) == len(set().union(*everyone)) == 28
    kept = sum(len(r) for r in splits.records.values())
    assert kept + sum(splits.dropped.values()) == len(ids)
    assert f"{len(ids) - kept} fakes whose two actors" in " ".join(splits.warnings)


# Faults ---------------------------------------------------------------------------


def test_an_id_in_two_splits_stops(small):
    """D16 An identity in two splits: the build stops."""
    root, records = small
    path = root / "splits" / "test.json"
    path.write_text(json.dumps([["004", "000"]]))
    with pytest.raises(DataError, match=r"test.json: entry 0 .*000, which train.json"):
        assign(records, root=root)


def test_a_pair_across_splits_stops(small):
    """D16 A swap pair across splits: the build stops."""
    root, records = small
    crossing = record("000_001")
    with pytest.raises(
        DataError, match=r"000_001.mp4 pairs .*000 in train, 001 in val"
    ):
        assign([*records, crossing], root=root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[", "not readable JSON"),
        ("{}", "must be a list of pairs"),
        ("[]", "an empty list"),
        ('[["000", "003"], ["4", "005"]]', r'entry 1 is \["4", "005"\]'),
        ('[["000"]]', r'entry 0 is \["000"\]'),
        ("[[0, 3]]", r"entry 0 is \[0, 3\]"),
        ('["000_003"]', "entry 0 is"),
    ],
)
def test_malformed_lists_name_file_and_entry(small, text, said):
    """D17 Malformed split lists: file and entry named."""
    root, records = small
    (root / "splits" / "val.json").write_text(text)
    with pytest.raises(DataError, match=f"val.json.*{said}"):
        assign(records, root=root)


def test_bytes_that_are_no_text(small):
    root, records = small
    (root / "splits" / "val.json").write_bytes(b'[["\xff\xfe"]]')
    with pytest.raises(DataError, match=r"val.json is not readable JSON"):
        assign(records, root=root)


def test_a_missing_list_is_named(small):
    """D17 A missing split list: named."""
    root, records = small
    (root / "splits" / "val.json").unlink()
    with pytest.raises(DataError, match=r"val.json is missing; put all of"):
        assign(records, root=root)


def test_ids_without_a_video_are_named(small):
    """D17 Listed ids without a video: named."""
    root, records = small
    path = root / "splits" / "train.json"
    path.write_text(json.dumps([["000", "003"], ["777", "778"]]))
    (warning,) = assign(records, root=root).warnings
    assert "train.json lists 2 ids that no video has, first 777 in entry 1" in warning


def test_videos_that_no_list_names_are_counted(small):
    root, records = small
    splits = assign([*records, record("900")], root=root)
    assert splits.dropped == {"an id that no split lists": 1}


def test_a_split_without_videos_stops(small):
    root, records = small
    few = [
        r for r in records if "004" not in r.identities and "005" not in r.identities
    ]
    with pytest.raises(DataError, match="the test split has no videos"):
        assign(few, root=root)


# Other protocols ------------------------------------------------------------------


def test_the_seed_protocol():
    pairs = [(f"{2 * i:03d}", f"{2 * i + 1:03d}") for i in range(20)]
    splits = assign_repeated(from_pairs(pairs, METHODS[:2]), per_class=60, num_val=20)
    train, held = splits.records["train"], splits.records["val"]
    assert len(train) + len(held) == 120 and len(held) == 20
    assert sum(r.label for r in (*train, *held)) == 60
    assert splits.records["test"] == held
    assert len({r.key for r in (*train, *held)}) == 120
    assert len({r.path for r in (*train, *held) if r.label == 0}) == 40
    assert "test is the validation set" in splits.warnings[0]
    # 40 reals stand for 60, and the 80 fakes are more than enough.
    assert "original recipe: 20 videos are repetitions" in splits.warnings[0]
    assert not splits.official
    whole = assign_repeated(from_pairs(pairs, METHODS[:2]))
    sizes = {name: len(records) for name, records in whole.records.items()}
    assert sizes == {"train": 2800, "val": 200, "test": 200}
    with pytest.raises(DataError, match="repeated_val_videos 120 leaves no videos"):
        assign_repeated(from_pairs(pairs, METHODS[:2]), per_class=60, num_val=120)
    with pytest.raises(DataError, match="needs real and fake videos"):
        assign_repeated([record("000")])


def in_folders(**pairs) -> list[VideoRecord]:
    return [
        replace(r, listed=split) for split in pairs for r in from_pairs(pairs[split])
    ]


def test_folders_are_the_splits():
    records = in_folders(
        train=[("000", "003")], val=[("001", "002")], test=[("004", "005")]
    )
    splits = assign_folders(records)
    assert splits.official is False
    assert splits.source == "folders train, val and test"
    assert len(splits.warnings) == 1
    for split, found in splits.records.items():
        assert {r.listed for r in found} == {split} and len(found) == 4


def test_a_val_is_made_of_the_folder_train_by_people():
    pairs = [(f"{2 * i:03d}", f"{2 * i + 1:03d}") for i in range(40)]
    splits = assign_folders(in_folders(train=pairs[10:], test=pairs[:10]))
    train, val = splits.records["train"], splits.records["val"]
    assert len(train) + len(val) == 4 * 30 and len(train) > len(val) > 0
    assert not people(train) & people(val)
    assert people(splits.records["test"]) == {i for pair in pairs[:10] for i in pair}
    assert f"There is no folder val: {len(val)} videos" in splits.warnings[1]
    assert len(splits.warnings) == 2 and "val by hash out of train" in splits.source
    with pytest.raises(DataError, match="too few unrelated people"):
        assign_folders(in_folders(train=pairs[:1], test=pairs[1:2]))


def test_people_in_two_folders_are_warned_of():
    splits = assign_folders(
        in_folders(train=[("000", "003")], val=[("001", "002")], test=[("000", "005")])
    )
    assert len(splits.warnings) == 2 and "000" in splits.warnings[1]


CUT_APART = {
    "train": [("331", "000"), ("685", "001"), ("524", "002")],
    "val": [("332", "003"), ("686", "004")],
    "test": [("525", "005"), ("937", "006"), ("938", "007")],
}


@pytest.mark.parametrize("assigned", [assign_folders, assign_listed])
@pytest.mark.parametrize("dataset", FFPP_IDS)
def test_own_splits_warn_of_persons_cut_into_several_ids(assigned, dataset):
    records = [replace(r, dataset=dataset) for r in in_folders(**CUT_APART)]
    (warning,) = (w for w in assigned(records).warnings if "cut into two ids" in w)
    assert warning.startswith("3 source videos")
    for said in ("331 train/332 val", "524 train/525 test", "685 train/686 val"):
        assert said in warning
    assert "protocol=disjoint keeps them together" in warning
    elsewhere = [replace(r, dataset="own") for r in records]
    assert "cut into two ids" not in " ".join(assigned(elsewhere).warnings)


def test_an_id_in_two_splits_itself_crosses_with_what_was_cut_from_its_source():
    both = {"train": [("331", "000")], "test": [("331", "001"), ("332", "002")]}
    warnings = assign_listed(in_folders(**both)).warnings
    assert warnings[0].startswith("1 people stand in two splits")
    assert "331 train+test/332 test" in warnings[1]


def test_a_val_made_of_the_folder_train_keeps_a_source_together():
    pairs = [(f"{i:03d}", f"{i + 500:03d}") for i in range(20)]
    train = [*pairs, ("331", "332"), ("755", "200"), ("756", "201")]
    warnings = assign_folders(in_folders(train=train, test=[("300", "301")])).warnings
    assert "cut into two ids" not in " ".join(warnings)


def test_a_set_without_a_list_is_all_test():
    splits = assign_listed([record("000"), record("000_001")])
    assert list(splits.records) == ["test"] and not splits.official


def test_all_of_deepfakedetection_is_test():
    """As the field tests on it: no fake is left out because of its two actors."""
    reals = [f"{i % 28 + 1:02d}__scene{i // 28}" for i in range(363)]
    actors = [(k % 28 + 1, (k + 5) % 28 + 1) for k in range(3068)]
    fakes = [f"{a:02d}_{b:02d}__s__{k:08d}" for k, (a, b) in enumerate(actors)]
    splits = assign_all_test([record(i) for i in reals + fakes])
    assert list(splits.records) == ["test"] and not splits.dropped
    labels = [r.label for r in splits.records["test"]]
    assert (labels.count(0), labels.count(1)) == (363, 3068)
    assert splits.official is None and not splits.warnings


def test_all_of_faceforensics_as_test_is_warned_of():
    splits = assign_all_test(from_pairs([("000", "003")]))
    assert splits.official is False
    assert "trained on some of them" in splits.warnings[0]
