"""Other sets of videos, for tests across sets: their trees and lists in our terms.

Their own lists call real 1 (Celeb-DF) or fake 1 (DFDC); here fake is always 1.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp.errors import DataError
from tfds_ffpp.tree import folders, frame_sets
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES, OtherSet, VideoRecord, is_utf8


def _record(path: Path, dataset: str, method: str, label: int, **kwargs) -> VideoRecord:
    names = {"video_id": path.stem, "target": "", "source": "", **kwargs}
    return VideoRecord(
        path=path,
        dataset=dataset,
        method=method,
        label=label,
        compression="unknown",
        **names,
    )


def _videos(folder: Path) -> list[Path]:
    """The videos in a folder; without one, those of its folder `frames`."""
    if not folder.is_dir():
        return []
    with folders.readable(folder):
        found = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in VIDEO_SUFFIXES and is_utf8(p.name)
        )
    return found or sorted(frame_sets.frame_folders(folder / "frames"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from None


def _read_json(path: Path) -> dict[str, dict[str, object]]:
    """Video -> its facts."""
    try:
        rows = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(rows, dict) or not all(
        isinstance(v, dict) for v in rows.values()
    ):
        raise DataError(f"{path} must map each video to its facts; copy it again")
    return rows


# Celeb-DF v2 ----------------------------------------------------------------------

_CELEBDF = (("Celeb-real", 0), ("YouTube-real", 0), ("Celeb-synthesis", 1))
_CELEBDF_LIST = "List_of_testing_videos.txt"


def _celebdf_list(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (our label, line number). A line is `1 YouTube-real/00170.mp4`, real."""
    listed = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in ("0", "1"):
            raise DataError(
                f"{path}: line {number} is {line[:60]!r}, not `1 FOLDER/NAME.mp4`"
            )
        listed[words[1]] = (1 - int(words[0]), number)
    return listed


def celebdf_v2(root: Path) -> OtherSet | None:
    """Celeb-real, YouTube-real, Celeb-synthesis and the list of 518 test videos."""
    path = root / _CELEBDF_LIST
    folders = [name for name, _ in _CELEBDF if (root / name).is_dir()]
    if len(folders) < 2:
        return None
    listed = _celebdf_list(path) if path.exists() else {}
    records = []
    for folder, label in _CELEBDF:
        for video in _videos(root / folder):
            name = f"{folder}/{video.stem}.mp4"
            if name in listed and listed[name][0] != label:
                raise DataError(
                    f"{path}: line {listed[name][1]} says {name} is "
                    f"{('real', 'fake')[1 - label]}, its folder says the opposite; "
                    "in this list 1 is real"
                )
            parts = video.stem.split("_")
            synthetic = label == 1 and len(parts) == 3
            records.append(
                _record(
                    video,
                    "celebdf_v2",
                    folder,
                    label,
                    target=parts[0] if len(parts) > 1 else video.stem,
                    source=parts[1] if synthetic else "",
                    original=f"Celeb-real/{parts[0]}_{parts[2]}" if synthetic else "",
                    listed="test" if name in listed else "",
                )
            )
    have = {f"{r.method}/{r.path.stem}.mp4" for r in records}
    return OtherSet(
        records, tuple(sorted(set(listed) - have)), path if listed else None
    )


# DFDC -----------------------------------------------------------------------------


def _label(word: object, path: Path, where: str) -> int:
    known = {"real": 0, "0": 0, "fake": 1, "1": 1}
    label = known.get(str(word).strip().lower())
    if label is None:
        raise DataError(
            f"{path}: {where} has the label {word!r}; use real or 0, fake or 1"
        )
    return label


def _dfdc_part(folder: Path) -> Iterable[VideoRecord]:
    path = folder / "metadata.json"
    known = _read_json(path)
    for video in _videos(folder):
        facts = known.get(video.name)
        if facts is None:
            continue
        label = _label(facts.get("label"), path, video.name)
        original = Path(str(facts.get("original") or "")).stem
        yield _record(
            video,
            "dfdc",
            ("original", "fake")[label],
            label,
            target=original or video.stem,
            original=f"original/{original}" if label and original else "",
        )


def _names_files(path: Path) -> bool:
    """Whether the first line of a list has DFDC's columns."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return {"filename", "label"} <= set(file.readline().strip().split(","))


def dfdc(root: Path) -> OtherSet | None:
    """dfdc_train_part_*/metadata.json, and a test list labels.csv (1 = fake)."""
    records: list[VideoRecord] = []
    for part in sorted(root.glob("dfdc_train_part_*")):
        if (part / "metadata.json").exists():
            records += _dfdc_part(part)
    lists = [root / "labels.csv", *sorted(root.glob("*/labels.csv"))]
    # Others call a list of theirs so; only beside DFDC's parts is it DFDC's by name.
    ours = [p for p in lists if p.exists() and (records or _names_files(p))]
    path = ours[0] if ours else None
    missing = []
    if path is not None:
        for row in _csv_rows(path, "filename"):
            places = [path.parent / row.video, path.parent / "videos" / row.video]
            video = next((p for p in places if p.exists()), None)
            if video is None:
                missing.append(row.video)
                continue
            label = _label(row.label, path, f"line {row.line}")
            method = ("original", "fake")[label]
            records.append(_record(video, "dfdc", method, label, listed="test"))
    return OtherSet(records, tuple(missing), path) if records else None


def dfdc_preview(root: Path) -> OtherSet | None:
    """dataset.json: path -> label and set, train or test."""
    path = root / "dataset.json"
    if not path.exists():
        return None
    records, missing = [], []
    for name, facts in sorted(_read_json(path).items()):
        video = root / name
        if not video.exists():
            missing.append(name)
            continue
        label = _label(facts.get("label"), path, name)
        listed = facts.get("set")
        if listed not in ("train", "test"):
            raise DataError(f"{path}: {name} has the set {listed!r}")
        records.append(
            _record(
                video,
                "dfdc_preview",
                name.split("/")[0] if label else "original",
                label,
                video_id=str(Path(name).with_suffix("")),
                target=str(facts.get("target_id") or ""),
                source=str(facts.get("swapped_id") or "") if label else "",
                listed=listed,
            )
        )
    return OtherSet(records, tuple(missing), path)


# DeeperForensics-1.0 --------------------------------------------------------------


def deeperforensics(root: Path) -> OtherSet | None:
    """manipulated_videos/<variant>/<target>_<actor>.mp4; reals of FaceForensics++.

    The reals lie in the same root, as original_sequences/youtube/c23/videos: the set's
    own source_videos show other people than its fakes.
    """
    folder = root / "manipulated_videos"
    if not folder.is_dir():
        return None
    reals = root / "original_sequences" / "youtube" / "c23" / "videos"
    records = [
        _record(v, "deeperforensics", "youtube", 0, target=v.stem)
        for v in _videos(reals)
    ]
    if not records:
        raise DataError(
            f"DeeperForensics takes its reals from FaceForensics++, but {reals} has no "
            "videos; put or link them there"
        )
    for variant in sorted(p for p in folder.iterdir() if p.is_dir()):
        for video in _videos(variant):
            target, _, actor = video.stem.partition("_")
            records.append(
                _record(
                    video,
                    "deeperforensics",
                    variant.name,
                    1,
                    target=target,
                    source=actor,
                    original=f"youtube/{target}",
                )
            )
    return OtherSet(records)


# Any table ------------------------------------------------------------------------


class _Row(NamedTuple):
    """A video in a CSV, and which line of the file it is; "" where it has no column."""

    line: int
    video: str
    label: str
    method: str
    group: str
    split: str


def _csv_rows(path: Path, column: str) -> Iterator[_Row]:
    """The rows of a CSV that names its videos in a column, and has their label."""
    needed = column, "label"
    text = io.StringIO(_read_text(path), newline="")
    reader = csv.DictReader(text, strict=True)
    try:
        lacking = [c for c in needed if c not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(
                f"{path} has no column {lacking[0]}; its first line must name "
                f"{','.join(needed)}"
            )
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num} is not CSV ({error}): look for a quote "
            "without its end"
        ) from error
    for line, row in rows:
        for name in needed:
            if not row[name]:
                raise DataError(f"{path}: line {line} has no {name}")
        names = *needed, "method", "group", "split"
        yield _Row(line, *(row.get(name) or "" for name in names))


def table(root: Path) -> OtherSet | None:
    """A CSV of path,label[,method][,group][,split]; paths are relative to it.

    root is the file or a folder that holds videos.csv. Videos of one group, such as
    those of one person, never get into two splits of our own.
    """
    path = root if root.is_file() else root / "videos.csv"
    if path.suffix.lower() != ".csv" or not path.exists():
        return None
    records = []
    for row in _csv_rows(path, "path"):
        video = path.parent / row.video
        if not video.exists():
            raise DataError(f"{path}: line {row.line}: {video} is not there")
        label = _label(row.label, path, f"line {row.line}")
        if row.split not in ("", "train", "val", "test"):
            raise DataError(f"{path}: line {row.line} has the split {row.split!r}")
        records.append(
            _record(
                video,
                path.parent.name if path.stem == "videos" else path.stem,
                row.method or ("real", "fake")[label],
                label,
                video_id=str(Path(row.video).with_suffix("")),
                target=row.group,
                listed=row.split,
            )
        )
    listed = any(r.listed for r in records)
    return OtherSet(records, (), path if listed else None)


OTHER_SETS: dict[str, Callable[[Path], OtherSet | None]] = {
    "celebdf_v2": celebdf_v2,
    "dfdc": dfdc,
    "dfdc_preview": dfdc_preview,
    "deeperforensics": deeperforensics,
    "csv": table,
    "deepfakebench": frame_sets.deepfakebench,
    "df40_ff": frame_sets.df40_ff,
    "df40_cdf": frame_sets.df40_cdf,
    "df40_unknown": frame_sets.df40_unknown,
    "wilddeepfake": frame_sets.wilddeepfake,
    "ffiw": frame_sets.ffiw,
    "frames": frame_sets.frames,
}
# A tree with pictures in it may be anything, and DF40 is three sets: by name alone.
ONLY_BY_NAME = ("frames", "df40_ff", "df40_cdf", "df40_unknown")
# Sets of FaceForensics++'s own people, which its official split divides.
OF_FFPP = ("deeperforensics", "deepfakebench", "df40_ff")
