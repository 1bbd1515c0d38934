"""Which video is what: any known tree of videos -> VideoRecords.

`python -m tfds_ffpp.layout ROOT` shows what a tree holds and changes nothing.
"""

import argparse
import csv
import difflib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfds_ffpp import census, hints, system
from tfds_ffpp.census import Passed
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.naming import (
    VIDEO_SUFFIXES,
    VideoRecord,
    is_utf8,
    parse_name,
)
from tfds_ffpp.other_sets import OTHER_SETS, OtherSet
from tfds_ffpp.text import printable

METHODS = (
    "Deepfakes",
    "Face2Face",
    "FaceSwap",
    "NeuralTextures",
    "FaceShifter",
    "DeepFakeDetection",
)
REALS = ("youtube", "actors")
COMPRESSIONS = ("raw", "c23", "c40")
BY_NAME = "FaceShifter"  # came later; most published numbers are of the other four
LAYOUTS = ("official", "mirror_c23", "mirror_flat", "mapped", *OTHER_SETS)
# How deep below ROOT a tree may lie: a download tool's versions/1/NAME is three.
DEPTH = 3
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# How many videos the whole set has.
EXPECTED = {**dict.fromkeys((*METHODS, "youtube"), 1000)}
EXPECTED |= {"DeepFakeDetection": 3068, "actors": 363}

OFFICIAL_TREE = """\
ROOT/original_sequences/{youtube,actors}/{raw,c23,c40}/videos/*.mp4
ROOT/manipulated_sequences/<Method>/{raw,c23,c40}/videos/*.mp4
ROOT/splits/{train,val,test}.json"""
WHERE_TO_ASK = (
    "request the videos with the form linked from github.com/ondyari/FaceForensics"
)


@dataclass(frozen=True)
class Folder:
    """A folder of videos of one method at one compression level.

    split: the one that a folder above it is named after, "" if none is.
    """

    path: Path
    method: str
    compression: str
    label: int
    split: str = ""


class Tree(NamedTuple):
    """A tree of folders that is known by its layout."""

    layout: str
    place: Path
    folders: list[Folder]


@dataclass(frozen=True)
class OddFile:
    """A file among the videos that is not taken, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Scan:
    """What a tree holds of one compression level.

    missing: method -> names that another method or the original makes one expect.
    counts: (method, compression) -> videos, of all levels. list_file: where the
    records' `listed` comes from. passed: the files that are neither records nor odd;
    num_files: all of them, below top (root, or a folder above it).
    """

    root: Path
    layout: str
    records: tuple[VideoRecord, ...]
    odd: tuple[OddFile, ...] = ()
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    list_file: Path | None = None
    passed: tuple[Passed, ...] = ()
    num_files: int = 0
    top: Path = Path()

    @property
    def num_taken(self) -> int:
        """How many files the records are."""
        return len({r.path for r in self.records})


# Finding the tree -----------------------------------------------------------------


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir())
    except OSError:
        return []


def _canonical(name: str, known: Sequence[str]) -> str:
    """The known spelling of a folder's name, whatever its case; else the name."""
    folded = {k.lower().replace("-", "").replace("_", ""): k for k in known}
    return folded.get(name.lower().replace("-", "").replace("_", ""), name)


def _compression(name: str) -> str:
    name = name.lower()
    return "raw" if name == "c0" else name


def _official_folders(root: Path) -> list[Folder]:
    folders = []
    for top, known, label in (
        ("original_sequences", REALS, 0),
        ("manipulated_sequences", METHODS, 1),
    ):
        for method in _subfolders(root / top):
            for level in _subfolders(method):
                compression = _compression(level.name)
                if compression in COMPRESSIONS and (level / "videos").is_dir():
                    name = _canonical(method.name, known)
                    folders.append(Folder(level / "videos", name, compression, label))
    return folders


def _mirror_folders(root: Path) -> list[Folder]:
    """FaceForensics++_C23/{original,Deepfakes,...}/*.mp4, all of one level."""
    level = next((c for c in ("c40", "raw", "c0") if c in root.name.lower()), "c23")
    folders = []
    for sub in _subfolders(root):
        method = _canonical(sub.name, METHODS)
        if sub.name.lower() in ("original", "youtube", "original_sequences"):
            folders.append(Folder(sub, "youtube", _compression(level), 0))
        elif sub.name.lower() == "actors":
            folders.append(Folder(sub, "actors", _compression(level), 0))
        elif method in METHODS:
            folders.append(Folder(sub, method, _compression(level), 1))
    reals = [f for f in folders if f.label == 0]
    return folders if any(_has_videos(f.path) for f in reals) else []


def _has_videos(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(Path(e.name).suffix.lower() in VIDEO_SUFFIXES for e in entries)


def _flat_folders(root: Path, compression: str) -> list[Folder]:
    """FF++/{real,fake}/*.mp4: neither the method nor the level is told."""
    found = {f.name.lower(): f for f in _subfolders(root)}
    if not {"real", "fake"} <= set(found):
        return []
    return [
        Folder(found["real"], "youtube", compression, 0),
        Folder(found["fake"], "unknown", compression, 1),
    ]


def parse_map(told: str) -> dict[str, str]:
    """Folder -> real, fake, a method or a kind of reals, of `a=real,b=Face2Face`.

    Raises SettingError.
    """
    known = ("real", "fake", *METHODS, *REALS)
    mapping = {}
    for pair in filter(None, told.split(",")):
        name, sign, meaning = pair.rpartition("=")
        name, meaning = name.strip().strip("/").lower(), meaning.strip()
        meaning = _canonical(meaning, known)
        if not sign or not name or meaning not in known:
            raise SettingError(
                f"map={told!r}: {pair!r} is not FOLDER=MEANING, with one of "
                f"{', '.join(known)} as the meaning"
            )
        mapping[name] = meaning
    return mapping


_KNOWN_FOLDERS = {
    **dict.fromkeys(("real", "original", "youtube", "original_sequences"), "real"),
    **dict.fromkeys(("fake", "manipulated_sequences"), "fake"),
}


def mapped_folders(
    root: Path, compression: str, mapping: Mapping[str, str]
) -> list[Folder]:
    """Every folder below one that the mapping, or a known name, calls real or fake.

    Of nested names the innermost decides. Raises DataError for a name that is nowhere.
    """
    folders: list[Folder] = []
    unused = set(mapping)

    def enter(place: Path, state: Folder | None, split: str, above: frozenset) -> None:
        real_place = os.path.realpath(place)
        if real_place in above or place.name.lower() == "masks":
            return  # a link to where we came from
        if state is not None and _list_files(place):
            folders.append(state)
        for sub in _subfolders(place):
            name = sub.name.lower()
            at = SPLIT_NAMES.get(name, split)
            keys = {name, str(sub.relative_to(root)).lower()} & set(mapping)
            unused.difference_update(keys)
            meaning = mapping[max(keys, key=len)] if keys else _meaning(sub.name)
            level = _compression(sub.name)
            if level not in COMPRESSIONS:
                level = state.compression if state else compression
            below = None
            if meaning:
                method = {"real": "youtube", "fake": "unknown"}.get(meaning, meaning)
                label = int(meaning not in ("real", *REALS))
                below = Folder(sub, method, level, label, at)
            elif state is not None:
                below = Folder(sub, state.method, level, state.label, at)
            enter(sub, below, at, above | {real_place})

    enter(root, None, "", frozenset())
    if unused:
        names = ", ".join(printable(f.name) for f in _subfolders(root)[:8])
        raise DataError(
            f"map names {sorted(unused)[0]}, but no folder under {root} is called so; "
            f"there are {names or 'no folders'}"
        )
    return folders


def _meaning(name: str) -> str:
    """What a folder of a known name holds; "" for other names."""
    method = _canonical(name, (*METHODS, *REALS))
    if method in (*METHODS, *REALS):
        return "real" if method == "youtube" else method
    return _KNOWN_FOLDERS.get(name.lower(), "")


def _below(root: Path) -> Iterable[list[Path]]:
    """The root, its folders, their folders and so on; no system's own ones."""
    level = [root]
    for _ in range(DEPTH + 1):
        yield level
        level = [
            folder
            for place in level
            if place.name not in ("original_sequences", "manipulated_sequences")
            for folder in _subfolders(place)
            if not folder.name.startswith((".", "__")) and folder.name != "tfds_ffpp"
        ]


def _tree_at(
    place: Path, layout: str, compression: str, *, is_root: bool
) -> Tree | None:
    """The tree whose top this is, if any."""
    if layout in ("auto", "official") and (found := _official_folders(place)):
        return Tree("official", place, found)
    found = _mirror_folders(place) if layout in ("auto", "mirror_c23") else []
    # Reals alone are found where the user points, not somewhere below.
    if found and (is_root or any(f.label for f in found)):
        return Tree("mirror_c23", place, found)
    if layout in ("auto", "mirror_flat") and (
        found := _flat_folders(place, compression)
    ):
        return Tree("mirror_flat", place, found)
    return None


def _find_trees(root: Path, layout: str, compression: str) -> list[Tree]:
    """The trees that lie highest below root; else the one that root is inside of."""
    for places in _below(root):
        trees, seen = [], set()
        for place in places:
            tree = _tree_at(place, layout, compression, is_root=place == root)
            if tree is not None and os.path.realpath(place) not in seen:
                seen.add(os.path.realpath(place))
                trees.append(tree)
        if trees:
            return trees
    for place in list(root.parents)[:4]:
        # Only an official tree is unmistakable from inside.
        if layout in ("auto", "official") and (found := _official_folders(place)):
            return [Tree("official", place, found)]
    return []


def _find_tree(
    root: Path, layout: str, compression: str, mapping: Mapping[str, str], folders: bool
) -> Tree | None:
    """The one tree that is meant. Raises DataError where that is a question."""
    if mapping or layout == "mapped":
        found = mapped_folders(root, compression, mapping)
        trees = [Tree("mapped", root, found)] if found else []
    else:
        trees = _find_trees(root, layout, compression)
        if len(trees) > 1 or folders:
            trees = [_with_split(tree, root) for tree in trees]
    splits = {f.split for tree in trees for f in tree.folders}
    several = len(trees) > 1 or len(splits) > 1
    if several and not any(_has_videos(f.path) for t in trees for f in t.folders):
        return None
    if folders:
        return _only_splits(root, trees, splits)
    named = sorted(splits - {""})
    if len(named) > 1 and "" not in splits:
        raise DataError(
            f"{root} has videos in folders of their own for {' and '.join(named)}; "
            "shall these be the splits? Then say --protocol folders "
            "(config.dataset.protocol=folders); else give one of the folders as ROOT"
        )
    if len(trees) > 1:
        names = ", ".join(f"{printable(t.place)} ({t.layout})" for t in trees[:6])
        raise DataError(f"{root} holds {len(trees)} trees, {names}; give one as ROOT")
    return trees[0] if trees else None


def _with_split(tree: Tree, root: Path) -> Tree:
    """The tree with the split that a folder between root and it is named after."""
    parts = tree.place.parts[len(root.parts) :]
    splits = [s for part in parts if (s := SPLIT_NAMES.get(part.lower()))]
    if not splits:
        return tree
    named = [replace(folder, split=splits[-1]) for folder in tree.folders]
    return tree._replace(folders=named)


def _only_splits(root: Path, trees: list[Tree], splits: set[str]) -> Tree | None:
    """The trees as one, without what is in no split's folder."""
    if not trees:
        return None
    if not {"train", "test"} <= splits:
        there = ", ".join(sorted(splits - {""})) or "none of them"
        raise DataError(
            "protocol=folders needs folders train and test (val is optional) with real "
            f"and fake videos in {root}, but there is {there}; leave the protocol out "
            "to split by hash"
        )
    kept = [f for tree in trees for f in tree.folders if f.split]
    return Tree(trees[0].layout, root, kept)


# Reading the tree -----------------------------------------------------------------


def _list_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if not e.is_dir())


def _record(path: Path, folder: Folder) -> VideoRecord | OddFile:
    """The record of one file of a FaceForensics++ folder, or why it has none."""
    if not is_utf8(path.name):
        return OddFile(path, "file name is not UTF-8")
    if path.suffix.lower() not in VIDEO_SUFFIXES or path.name.startswith("tmp"):
        return OddFile(path, "not a video by its name")
    if path.is_symlink() and not path.exists():
        return OddFile(path, "a link to a file that is not there")
    name = parse_name(path.stem)
    if name is None:
        return OddFile(path, "not a FaceForensics++ video name")
    method = folder.method
    if method == "unknown" and name.kind == "dfd":
        method = "DeepFakeDetection"
    elif folder.label == 0 and method in REALS and name.kind == "actors":
        method = "actors"
    if (folder.label == 0) != (name.kind in REALS):
        said = "real" if name.kind in REALS else "fake"
        kind = "reals" if folder.label == 0 else "fakes"
        return OddFile(path, f"the name of a {said} video in a folder of {kind}")
    return VideoRecord(
        path=path,
        dataset="dfd" if name.kind in ("dfd", "actors") else "ffpp",
        method=method,
        video_id=path.stem,
        target=name.target,
        source=name.source,
        compression=folder.compression,
        label=folder.label,
        original=name.original,
        listed=folder.split,
    )


def _missing(records: Sequence[VideoRecord]) -> dict[str, tuple[str, ...]]:
    """Per method the names that it lacks and another method has."""
    fakes: dict[str, set[str]] = {}
    for record in records:
        if record.dataset == "ffpp" and record.label == 1:
            fakes.setdefault(record.method, set()).add(record.video_id)
    every = set().union(*fakes.values()) if fakes else set()
    missing = {m: tuple(sorted(every - names)) for m, names in fakes.items()}
    have = {r.key for r in records}
    wanted = {r.original_key for r in records if r.original}
    for key in sorted(wanted - have):
        _, method, name = key.split("/", 2)
        missing[method] = (*missing.get(method, ()), name)
    return {method: names for method, names in missing.items() if names}


def refuse_duplicates(records: Iterable[VideoRecord]) -> None:
    """Raises DataError when two files would get one key."""
    seen: dict[str, VideoRecord] = {}
    for record in records:
        if record.key in seen:
            raise DataError(
                f"two files are both {record.key}: {seen[record.key].path} and "
                f"{record.path}; move one of them away"
            )
        seen[record.key] = record


def _nothing_found(root: Path, layout: str, tree: Tree | None) -> DataError:
    """Says what was found instead of a known tree, or of the videos in one."""
    expected = f"; expected\n{OFFICIAL_TREE}\n"
    if not root.is_dir():
        said = "is not a folder" if root.exists() else "does not exist"
        return DataError(f"the manual dir {root} {said}{expected}{WHERE_TO_ASK}")
    if tree is not None:
        said = f"{root} has the folders of the layout {tree.layout}, but no videos of"
        said += " FaceForensics++ in them"
    elif layout == "auto":
        said = f"{root} is not a known layout"
    else:
        said = f"{root} is not the layout {layout}"
    there = hints.look(root, [f.path for f in tree.folders] if tree else [])
    if not there.suffixes and not there.links:
        if tree is not None:
            return DataError(f"{said}; {WHERE_TO_ASK}")
        return DataError(f"the manual dir {root} is empty{expected}{WHERE_TO_ASK}")
    return DataError(
        f"{said}: {hints.advice(root, there)}{expected}or another layout "
        "by its name, as --layout (config.dataset.layout)"
    )


class OneClassError(DataError):
    """The videos are all real or all fake."""


def _one_class(
    place: Path,
    compression: str,
    lacking: str,
    *,
    top: Path,
    other_levels: Sequence[str],
    unwanted: Sequence[str],
    dirs: Mapping[Path, int],
) -> DataError:
    """Says where the videos of the class that is lacking may be, and what to do."""
    said = f"{place} has no {lacking} videos at {compression}"
    if other_levels:
        said += (
            f", only at {', '.join(other_levels)}; a detector would learn the "
            "compression, so get both classes at one level"
        )
    elif unwanted:
        said += (
            f" but those of {', '.join(unwanted)}, which are taken when asked for: "
            f"--set methods={','.join(unwanted)}"
        )
    elif there := hints.not_taken(top, dirs, lacking):
        said += f"; {there}"
    elif lacking == "real":
        said += "; they belong in original_sequences/youtube or original"
    else:
        said += "; they belong in manipulated_sequences/<Method> or <Method>"
    return OneClassError(f"{said} (allow_one_class=True goes on with one class)")


def scan(
    root: str | Path,
    *,
    compression: str = "c23",
    layout: str = "auto",
    methods: Sequence[str] = (),
    allow_missing: bool = False,
    allow_one_class: bool = False,
    mapping: str = "",
    folders: bool = False,
) -> Scan:
    """Lists the videos under root; reads names only.

    Args:
      root: the tree, the folder above it or one inside it.
      compression: raw, c23 or c40.
      layout: auto, or one of LAYOUTS.
      methods: the methods wanted; () is all that are there but two, which are had by
        name: FaceShifter, which published numbers of FaceForensics++ mostly leave out,
        and DeepFakeDetection (with its actors), which has no official split.
      allow_missing: go on without a method that was asked for.
      allow_one_class: go on without reals or without fakes.
      mapping: what folders of other names hold, as in original=real,manipulated=fake.
      folders: folders train, val and test are the splits (`listed` of the records).

    Raises:
      DataError: no known tree, level, method or class; or several trees.
    """
    root = Path(root).expanduser().absolute()
    if layout not in ("auto", *LAYOUTS):
        near = difflib.get_close_matches(layout, LAYOUTS, 1)
        hint = f"; did you mean {near[0]}" if near else ""
        raise DataError(f"layout {layout} is not one of {', '.join(LAYOUTS)}{hint}")
    if layout in OTHER_SETS and (mapping or folders):
        raise SettingError(
            f"map and protocol=folders are for trees of folders, not for the layout "
            f"{layout}; leave them out, or the layout"
        )
    want = _Want(compression, tuple(methods), allow_missing, allow_one_class)
    if not mapping and not folders:
        found = _scan_others(root, layout, want)
        if found is not None:
            return found
    tree = None
    told = parse_map(mapping)
    if root.is_dir() and layout not in OTHER_SETS:
        tree = _find_tree(root, layout, compression, told, folders)
    if tree is None:
        raise _nothing_found(root, layout, None)
    return _scan_tree(root, tree, want)


class _Want(NamedTuple):
    """What is to be taken of a tree."""

    compression: str
    methods: Sequence[str]
    allow_missing: bool
    allow_one_class: bool


def _scan_tree(root: Path, tree: Tree, want: _Want) -> Scan:
    layout, place, folders = tree
    compression = want.compression
    top = root if place.is_relative_to(root) else place
    notes = [] if place == root else [f"the tree was found at {place}, not at {root}"]
    read = [
        (folder, _record(path, folder))
        for folder in folders
        for path in _list_files(folder.path)
    ]
    counts = Counter(
        (entry.method, entry.compression)
        for _, entry in read
        if isinstance(entry, VideoRecord)
    )
    if not counts:
        raise _nothing_found(place, layout, tree)
    level = [(f, e) for f, e in read if f.compression == compression]
    every = [e for _, e in level if isinstance(e, VideoRecord)]
    if not every:
        raise _no_level(place, compression, counts)
    wanted = _wanted(
        every, want.methods, place, compression, allow_missing=want.allow_missing
    )
    refuse_duplicates(wanted)
    known = _why_passed_over(read, wanted, compression)
    if not want.allow_one_class:
        _need_both_classes(tree, top, wanted, [e for _, e in read], compression)
    left_out = {r.method for r in every} - {r.method for r in wanted}
    if not want.methods and BY_NAME in left_out:
        notes.append(f"{BY_NAME} is there but not taken; ask for it by methods")
    unknown = sorted({r.method for r in wanted} - {*METHODS, *REALS})
    if unknown:
        notes.append(f"not a method of FaceForensics++: {', '.join(unknown)}")
    below = [f.path.relative_to(place).parts for f in folders]
    named = {_compression(part) for parts in below for part in parts}
    if layout in ("mirror_flat", "mapped") and not named & set(COMPRESSIONS):
        notes.append(
            f"the tree does not say its compression; {compression} is taken for it"
        )
    passed, total = census.take(
        top, known=known, folders=[f.path for f in folders], layout=layout
    )
    return Scan(
        root=place,
        layout=layout,
        records=tuple(wanted),
        odd=tuple(e for _, e in level if isinstance(e, OddFile)),
        missing=_missing(wanted),
        counts=dict(counts),
        notes=tuple(notes),
        passed=passed,
        num_files=total,
        top=top,
    )


def _need_both_classes(
    tree: Tree,
    top: Path,
    wanted: Sequence[VideoRecord],
    entries: Sequence[VideoRecord | OddFile],
    compression: str,
) -> None:
    """Raises OneClassError, saying where videos of the other class may be."""
    lacking = _lacking(wanted)
    if not lacking:
        return
    label = ("real", "fake").index(lacking)
    others = [e for e in entries if isinstance(e, VideoRecord) and e.label == label]
    here = {e.method for e in others if e.compression == compression}
    raise _one_class(
        tree.place,
        compression,
        lacking,
        top=top,
        other_levels=sorted({e.compression for e in others} - {compression}),
        unwanted=sorted(here) if label else (),  # reals are not asked for by methods
        dirs=hints.look(top, [f.path for f in tree.folders]).videos,
    )


def _why_passed_over(
    read: Sequence[tuple[Folder, VideoRecord | OddFile]],
    wanted: Sequence[VideoRecord],
    compression: str,
) -> dict[Path, str]:
    """Each file of the layout's folders -> why it is passed over; "" if it is not."""
    taken = {r.path for r in wanted}
    known = {}
    for folder, entry in read:
        reason = ""
        if folder.compression != compression:
            reason = f"at {folder.compression}, not {compression}"
        elif isinstance(entry, VideoRecord) and entry.path not in taken:
            reason = f"{printable(entry.method)}: taken only when asked for by methods"
        known[entry.path] = reason
    return known


def _lacking(records: Iterable[VideoRecord]) -> str:
    """The class that no video is of; "" when both are there."""
    labels = {r.label for r in records}
    return "" if labels == {0, 1} else ("real", "fake")[int(0 in labels)]


def _scan_others(root: Path, layout: str, want: _Want) -> Scan | None:
    """A scan of another set's tree, at root or in a folder of it; None if none is."""
    for name, read in OTHER_SETS.items():
        if layout in ("auto", name) and (other := read(root)) is not None:
            return _scan_other(root, root, name, other, want)
    if not root.is_dir() or _find_trees(root, layout, want.compression):
        return None
    for place in _subfolders(root):
        for name, read in OTHER_SETS.items():
            if layout in ("auto", name) and (other := read(place)) is not None:
                return _scan_other(root, place, name, other, want)
    return None


def _scan_other(
    root: Path, place: Path, layout: str, other: OtherSet, want: _Want
) -> Scan:
    records = other.records
    if want.methods:
        records = _wanted(
            records, want.methods, place, "unknown", allow_missing=want.allow_missing
        )
    refuse_duplicates(records)
    lacking = _lacking(records)
    if lacking and not want.allow_one_class:
        raise OneClassError(
            f"{place} has no {lacking} videos of the layout {layout}; add them "
            "(allow_one_class=True goes on with one class)"
        )
    taken = {r.path for r in records}
    known = {
        r.path: ""
        if r.path in taken
        else f"{printable(r.method)}: taken only when asked for by methods"
        for r in other.records
    }
    passed, total = census.take(
        root if root.is_dir() else None,
        known=known,
        folders=[r.path.parent for r in other.records],
        layout=layout,
    )
    missing = {"the list": other.missing} if other.missing else {}
    return Scan(
        root=place,
        layout=layout,
        records=tuple(records),
        missing=missing,
        counts=dict(Counter((r.method, r.compression) for r in records)),
        notes=()
        if place == root
        else (f"the tree was found at {place}, not at {root}",),
        list_file=other.list_file,
        passed=passed,
        num_files=total,
        top=root if root.is_dir() else root.parent,
    )


class NoLevelError(DataError):
    """The tree has videos, but none at the level asked for."""


def _no_level(place: Path, compression: str, counts: Counter) -> DataError:
    levels = sorted({level for _, level in counts})
    return NoLevelError(
        f"{place} has no videos at {compression}; it has {', '.join(levels)}: "
        f"ask for one of them, as in --config {levels[0]}"
    )


def _wanted(
    records: Sequence[VideoRecord],
    methods: Sequence[str],
    place: Path,
    compression: str,
    *,
    allow_missing: bool,
) -> list[VideoRecord]:
    """The records of the methods asked for, with the reals that belong to them."""
    have = sorted({r.method for r in records if r.label == 1})
    if not methods:
        left_out = {BY_NAME} if set(have) - {BY_NAME, "DeepFakeDetection"} else set()
        return [
            r
            for r in records
            if r.method not in left_out
            and (r.dataset == "ffpp" or not _has_ffpp(records))
        ]
    methods = [_canonical(m, METHODS) for m in methods]
    for method in methods:
        if method not in have and not allow_missing:
            near = difflib.get_close_matches(method, (*METHODS, *have), 1)
            hint = f", did you mean {near[0]}" if near and near[0] != method else ""
            raise DataError(
                f"no {compression} videos of {method} under {place}{hint}; there are "
                f"{', '.join(have) or 'no fakes'} (allow_missing=True goes on without)"
            )
    datasets = {r.dataset for r in records if r.label == 1 and r.method in methods}
    return [
        r
        for r in records
        if (r.method in methods if r.label == 1 else r.dataset in datasets)
    ]


def _has_ffpp(records: Sequence[VideoRecord]) -> bool:
    return any(r.dataset == "ffpp" for r in records)


# The table ------------------------------------------------------------------------

# Of a 224-pixel crop as JPEG 95 without subsampling, measured; see docs/data.md.
FRAME_BYTES = 22_000
CORE_SECONDS = 0.5  # to prepare a 300-frame 720p video, measured


def survey(root: str | Path, **options) -> tuple[list[Scan], list[DataError]]:
    """A scan of every compression level that is there, and what stops other levels.

    options: as of `scan`. The list of problems is not empty if that of scans is.
    """
    scans, problems, absent = [], [], []
    for level in ("c23", "raw", "c40"):
        try:
            scans.append(scan(root, compression=level, **options))
        except NoLevelError as error:
            absent.append(error)
        except DataError as error:
            problems.append(error)
            if not isinstance(error, OneClassError):
                break  # no other level would be better
        else:
            if scans[-1].layout != "official":
                break  # the level is not told by the tree
    return scans, problems or ([] if scans else absent[:1])


def account(found: Scan) -> list[str]:
    """Lines that say what becomes of each file: taken, rejected or passed over."""
    over = sum(p.count for p in found.passed)
    lines = [
        f"{found.num_files} files: {found.num_taken} taken, {len(found.odd)} rejected, "
        f"{over} passed over"
    ]
    reasons = Counter(odd.reason for odd in found.odd)
    first = {odd.reason: odd.path for odd in reversed(found.odd)}
    rows = [("rejected", n, reason, first[reason]) for reason, n in reasons.items()]
    rows += [("passed over", p.count, p.reason, p.first) for p in found.passed]
    lines += [
        f"  {count} {what}: {reason} (first {printable(_from(found.top, path))})"
        for what, count, reason, path in rows
    ]
    return lines


def _from(root: Path, path: Path) -> Path:
    """The path without the root in front, if it has that."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def table_rows(found: Scan) -> list[tuple[str, str, int, str, int, int]]:
    """(method, level, have, of how many, missing, odd) for each method of a scan."""
    rows = []
    every = {r.method: r.compression for r in found.records}
    for method, level in found.counts:
        if level == next(iter(every.values())):
            every.setdefault(method, level)
    for method, level in sorted(every.items()):
        have = found.counts.get((method, level), 0)
        expected = str(EXPECTED.get(method, "?")) if found.layout == "official" else "?"
        odd = sum(_folder_method(o.path) == method for o in found.odd)
        missing = len(found.missing.get(method, ()))
        rows.append((method, level, have, expected, missing, odd))
    return rows


def _folder_method(path: Path) -> str:
    """The method of the folder that a file lies in."""
    folder = path.parent.parent.parent if path.parent.name == "videos" else path.parent
    name = _canonical(folder.name, (*METHODS, *REALS))
    return "youtube" if name in ("original", "real") else name


def _options(args: argparse.Namespace) -> dict[str, object]:
    return {
        "layout": args.layout,
        "mapping": args.map,
        "folders": args.protocol == "folders",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what a tree holds; changes nothing. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_ffpp.layout",
        description="Shows what a tree of videos holds; changes nothing.",
    )
    parser.add_argument("root", help="the tree of videos")
    parser.add_argument("--layout", default="auto", help=", ".join(LAYOUTS))
    parser.add_argument(
        "--map",
        default="",
        metavar="A=real,B=fake",
        help="what folders of other names hold: real, fake or a method",
    )
    parser.add_argument(
        "--protocol",
        default="",
        help="folders: those called train, val and test are the splits",
    )
    parser.add_argument(
        "--write_csv",
        action="store_true",
        help="write ROOT/videos.csv, the draft of a table, and nothing else",
    )
    args = parser.parse_args(argv)
    try:
        system.refuse_address("ROOT", args.root)
        if args.write_csv:
            sys.stdout.write(write_csv(Path(args.root).expanduser(), args.map))
            return 0
        scans, problems = survey(args.root, **_options(args))
        shown = scans
        if not scans and all(isinstance(p, OneClassError) for p in problems):
            # What is there is seen, and then why it will not do.
            shown, _ = survey(args.root, allow_one_class=True, **_options(args))
    except DataError as error:
        scans, shown, problems = [], [], [error]
    for found in shown:
        _print(found)
    for problem in problems:
        sys.stdout.flush()
        sys.stderr.write(f"{'note' if scans else 'error'}: {problem}\n")
    return 0 if scans else problems[0].exit_code


def _print(found: Scan) -> None:
    """The table of a scan, the account of its files and what else is to be said."""
    console = Console(highlight=False, soft_wrap=True)
    title = printable(f"{found.layout} at {found.root}")
    shown = Table(title=Text(title), title_justify="left")
    for column in ("method", "level", "have", "of", "missing", "odd"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    real = {r.method for r in found.records if r.label == 0} | set(REALS)
    for method, *row in table_rows(found):
        kind = " (real)" if method in real else ""
        # A name is somebody else's text: nothing in it may steer the terminal.
        cells = (f"{method}{kind}", *row)
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(shown)
    for line in account(found):
        console.print(line, markup=False)
    for note in found.notes:
        console.print(f"note: {printable(note)}", markup=False)
    videos = len(found.records)
    console.print(
        f"{videos} videos; as 30 faces of 224 pixels each about "
        f"{videos * 30 * FRAME_BYTES / 1e9:.1f} GB, and "
        f"{videos * CORE_SECONDS / 3600:.1f} core hours to build"
    )


# A table of any videos ------------------------------------------------------------


def write_csv(root: Path, mapping: str = "") -> str:
    """Writes root/videos.csv for the videos in folders called real or fake.

    The user fills in its column `group`. Returns what to do next. Raises DataError
    when there is such a file, or a class without videos.
    """
    path = root / "videos.csv"
    if path.exists():
        raise DataError(f"{path} is there already; move it away or change it by hand")
    if not root.is_dir():
        raise _nothing_found(root, "auto", None)
    rows = []
    for folder in mapped_folders(root, "c23", parse_map(mapping)):
        for video in _list_files(folder.path):
            if census.kind(video.name) != "video" or not is_utf8(str(video)):
                continue
            name = parse_name(video.stem)
            rows.append(
                {
                    "path": str(video.relative_to(root)),
                    "label": ("real", "fake")[folder.label],
                    "method": folder.method if folder.label else "real",
                    "group": name.target if name else "",
                    "split": folder.split,
                }
            )
    counts = Counter(row["label"] for row in rows)
    if len(counts) < 2:
        there = hints.look(root, ())
        raise DataError(
            f"the folders of {root} give {counts['real']} real and {counts['fake']} "
            f"fake videos by their names; {hints.advice(root, there)}"
        )
    columns = list(rows[0])
    if not all(row["split"] for row in rows):
        columns.remove("split")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    how = "" if "split" in columns else " --protocol disjoint"
    told = shlex.quote(str(root))
    return (
        f"wrote {path}: {counts['real']} real and {counts['fake']} fake videos; fill "
        "in the column group (who is seen: no one gets into two splits), then type\n"
        f"python -m tfds_ffpp --manual_dir {told} --config mine{how}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
