"""Other sets' trees and lists, turned into ours: fake is 1 whatever theirs say."""

import json
from pathlib import Path

import pytest

from tests.made_videos import FACELESS, write_video
from tfds_ffpp.build import build
from tfds_ffpp.errors import DataError
from tfds_ffpp.tfds_ffpp_dataset_builder import NAMED_CONFIGS, FfppConfig
from tfds_ffpp.tree.other_sets import OTHER_SETS
from tfds_ffpp.tree.scan import scan


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def labels(root: Path, layout: str = "auto") -> dict[str, tuple[int, str]]:
    """key -> (label, split of the set's own list)."""
    return {r.key: (r.label, r.listed) for r in scan(root, layout=layout).records}


@pytest.fixture
def celebdf(tmp_path):
    root = touch(
        tmp_path / "Celeb-DF-v2",
        "Celeb-real/id0_0000.mp4",
        "Celeb-real/id1_0001.mp4",
        "YouTube-real/00170.mp4",
        "Celeb-synthesis/id0_id1_0000.mp4",
        "Celeb-synthesis/id1_id0_0001.mp4",
    )
    (root / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0000.mp4\n"
        "0 Celeb-synthesis/id0_id1_0000.mp4\n1 Celeb-real/id9_0009.mp4\n"
    )
    return root


def test_celebdf_calls_real_one_and_we_call_it_zero(celebdf):
    assert labels(celebdf) == {
        "celebdf_v2/Celeb-real/id0_0000": (0, "test"),
        "celebdf_v2/Celeb-real/id1_0001": (0, ""),
        "celebdf_v2/YouTube-real/00170": (0, "test"),
        "celebdf_v2/Celeb-synthesis/id0_id1_0000": (1, "test"),
        "celebdf_v2/Celeb-synthesis/id1_id0_0001": (1, ""),
    }
    found = scan(celebdf)
    fake = next(r for r in found.records if r.label)
    assert fake.original_key == "celebdf_v2/Celeb-real/id0_0000"
    assert found.missing == {"the list": ("Celeb-real/id9_0009.mp4",)}
    assert found.list_file is not None
    assert found.list_file.name == "List_of_testing_videos.txt"


def test_celebdf_list_that_contradicts_the_folders(celebdf):
    path = celebdf / "List_of_testing_videos.txt"
    path.write_text("1 Celeb-real/id0_0000.mp4\n0 YouTube-real/00170.mp4\n")
    with pytest.raises(DataError, match="line 2 says YouTube-real.*1 is real"):
        scan(celebdf)
    path.write_text("YouTube-real/00170.mp4\n")
    with pytest.raises(DataError, match="line 1 is 'YouTube-real/00170.mp4', not"):
        scan(celebdf)


def test_dfdc_parts_and_test_list(tmp_path):
    root = touch(
        tmp_path,
        "dfdc_train_part_0/a.mp4",
        "dfdc_train_part_0/b.mp4",
        "test/x.mp4",
        "test/y.mp4",
    )
    (root / "dfdc_train_part_0" / "metadata.json").write_text(
        json.dumps(
            {
                "a.mp4": {"label": "REAL", "split": "train"},
                "b.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"},
            }
        )
    )
    (root / "test" / "labels.csv").write_text(
        "filename,label\nx.mp4,1\ny.mp4,0\nz.mp4,1\n"
    )
    assert labels(root) == {
        "dfdc/original/a": (0, ""),
        "dfdc/fake/b": (1, ""),
        "dfdc/fake/x": (1, "test"),
        "dfdc/original/y": (0, "test"),
    }
    found = scan(root)
    assert next(r for r in found.records if r.video_id == "b").target == "a"
    assert found.missing == {"the list": ("z.mp4",)}


def test_dfdc_preview(tmp_path):
    root = touch(tmp_path, "method_A/1/v.mp4", "original_videos/2/w.mp4")
    told = {
        "method_A/1/v.mp4": {"label": "fake", "set": "test", "target_id": 1},
        "original_videos/2/w.mp4": {"label": "real", "set": "train"},
        "method_B/3/u.mp4": {"label": "fake", "set": "train"},
    }
    (root / "dataset.json").write_text(json.dumps(told))
    assert labels(root) == {
        "dfdc_preview/method_A/method_A/1/v": (1, "test"),
        "dfdc_preview/original/original_videos/2/w": (0, "train"),
    }
    (root / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="must map each video"):
        scan(root)


def test_deeperforensics_takes_ffpp_reals(tmp_path):
    root = touch(
        tmp_path,
        "manipulated_videos/end_to_end/000_M101.mp4",
        "source_videos/M101/x.mp4",
    )
    with pytest.raises(DataError, match="takes its reals from FaceForensics"):
        scan(root)
    touch(root, "original_sequences/youtube/c23/videos/000.mp4")
    found = {r.key: r for r in scan(root).records}
    assert set(found) == {
        "deeperforensics/end_to_end/000_M101",
        "deeperforensics/youtube/000",
    }
    fake = found["deeperforensics/end_to_end/000_M101"]
    assert fake.original_key in found and fake.identities == ("000",)


def test_any_table(tmp_path):
    root = touch(tmp_path / "mine", "a/x.mp4", "y.mp4", "z 1.mp4")
    (root / "videos.csv").write_text(
        "path,label,method,group\na/x.mp4,real,,p1\ny.mp4,FAKE,swap,p1\nz 1.mp4,1,,p2\n"
    )
    assert (
        labels(root)
        == labels(root / "videos.csv")
        == {
            "mine/real/a/x": (0, ""),
            "mine/swap/y": (1, ""),
            "mine/fake/z 1": (1, ""),
        }
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\nx.mp4,1\n", "has no column path; its first line must name"),
        ("path,label\nx.mp4,maybe\n", "line 2 has the label 'maybe'"),
        ("path,label\nx.mp4,\n", "line 2 has no label"),
        ("path,label\nnone.mp4,1\n", "line 2: .*none.mp4 is not there"),
        ("path,label,split\nx.mp4,1,dev\n", "line 2 has the split 'dev'"),
        ('path,label\nx.mp4,"fake\ny.mp4,0\n', "is not CSV .*quote without its end"),
        ('path,label\n"x.mp4,0' + "\n" + "x.mp4,0\n" * 20_000, "is not CSV .*quote"),
        ("path,label\nx.mp4,0\nx.mp4,1\n", None),
    ],
)
def test_tables_that_cannot_be(tmp_path, text, said):
    touch(tmp_path, "x.mp4")
    (tmp_path / "videos.csv").write_text(text)
    if said is None:
        assert len(scan(tmp_path).records) == 2  # two methods: two keys
        return
    with pytest.raises(DataError, match=said):
        scan(tmp_path)


def test_the_same_key_twice_in_a_table(tmp_path):
    """D26 Two videos of one key: both files named before anything is written."""
    touch(tmp_path, "x.mp4", "x.MP4")
    (tmp_path / "videos.csv").write_text("path,label\nx.mp4,0\nx.MP4,0\n")
    with pytest.raises(DataError, match="two files are both .*/real/x: "):
        scan(tmp_path)


def test_every_set_has_a_config():
    named = {c.layout for c in NAMED_CONFIGS.values()}
    assert set(OTHER_SETS) - {"csv", "frames", "deepfakebench"} <= named


def test_celebdf_is_built_as_a_test_split(celebdf, tmp_path):
    for i, path in enumerate(sorted(celebdf.rglob("*.mp4"))):
        write_video(path, 8, seed=i)
    config = FfppConfig(name="celebdf_v2", layout="celebdf_v2", **FACELESS)
    builder = build(config, data_dir=tmp_path / "d", manual_dir=celebdf)
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {"test": 3}
    told = json.loads((Path(builder.data_path) / "card.json").read_text())
    assert told["test_list"]["name"] == "List_of_testing_videos.txt"
    assert told["splits"]["test"] | {"real": 2, "fake": 1} == told["splits"]["test"]
    assert told["dropped"] == {"the set's own list does not name it": 2}


def test_a_table_is_split_by_group_when_asked(tmp_path):
    root = tmp_path / "mine"
    lines = ["path,label,group"]
    for i in range(10):
        write_video(root / f"{i}.mp4", 6, seed=i)
        lines.append(f"{i}.mp4,{i % 2},person{i // 2}")
    (root / "videos.csv").write_text("\n".join(lines) + "\n")
    config = FfppConfig(name="mine", protocol="disjoint", **FACELESS)
    builder = build(config, data_dir=tmp_path / "d", manual_dir=root)
    groups = []
    for split in builder.info.splits:
        path = Path(builder.data_path) / f"videos-{split}.jsonl"
        lines = path.read_text().splitlines()
        groups.append({json.loads(line)["target"] for line in lines})
    assert len(groups) == 3 and sum(map(len, groups)) == len(set().union(*groups)) == 5
