"""Which video is what: any known tree of videos -> VideoRecords."""

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.fields import COMPRESSIONS
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree import census, hints, other_sets
from tfds_ffpp.tree.census import Passed
from tfds_ffpp.tree.folders import (
    METHODS,
    REALS,
    Folder,
    Tree,
    canonical,
    compression_of,
    find_tree,
    find_trees,
    list_files,
    parse_map,
    subfolders,
)
from tfds_ffpp.tree.frame_sets import expand
from tfds_ffpp.tree.naming import (
    VIDEO_SUFFIXES,
    OtherSet,
    VideoRecord,
    is_utf8,
    parse_name,
)
from tfds_ffpp.tree.other_sets import OTHER_SETS

BY_NAME = "FaceShifter"  # came later; most published numbers are of the other four
LAYOUTS = ("official", "mirror_c23", "mirror_flat", "mapped", *OTHER_SETS)
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


def nothing_found(root: Path, layout: str, tree: Tree | None) -> DataError:
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
    if ".." in root.parts:  # a path is known by one name
        root = Path(os.path.realpath(root))
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
    tree, meanings = None, parse_map(mapping)
    if root.is_dir() and layout not in OTHER_SETS:
        tree = find_tree(root, layout, compression, meanings, folders)
    if tree is None:
        raise nothing_found(root, layout, None)
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
        for path in list_files(folder.path)
    ]
    counts = Counter(
        (entry.method, entry.compression)
        for _, entry in read
        if isinstance(entry, VideoRecord)
    )
    if not counts:
        raise nothing_found(place, layout, tree)
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
    named = {compression_of(part) for parts in below for part in parts}
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
    tried = {
        name: read
        for name, read in OTHER_SETS.items()
        if layout == name or (layout == "auto" and name not in other_sets.ONLY_BY_NAME)
    }
    for name, read in tried.items():
        if (other := read(root)) is not None:
            return _scan_other(root, root, name, other, want)
    if not root.is_dir() or find_trees(root, layout, want.compression):
        return None
    for place in subfolders(root):
        for name, read in tried.items():
            if (other := read(place)) is not None:
                return _scan_other(root, place, name, other, want)
    return None


def _scan_other(
    root: Path, place: Path, layout: str, other: OtherSet, want: _Want
) -> Scan:
    records = other.records
    if want.methods:
        records = _wanted(
            records,
            expand(want.methods),
            place,
            "unknown",
            allow_missing=want.allow_missing,
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
    methods = [canonical(m, METHODS) for m in methods]
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
