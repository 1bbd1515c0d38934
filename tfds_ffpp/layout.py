"""Which video is what: any known tree of videos -> VideoRecords.

`python -m tfds_ffpp.layout ROOT` shows what a tree holds and changes nothing.
"""

import argparse
import difflib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tfds_ffpp.errors import DataError
from tfds_ffpp.naming import VIDEO_SUFFIXES, VideoRecord, is_utf8, parse_name
from tfds_ffpp.other_sets import OTHER_SETS, OtherSet

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
LAYOUTS = ("official", "mirror_c23", "mirror_flat", *OTHER_SETS)
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
    """A folder of videos of one method at one compression level."""

    path: Path
    method: str
    compression: str
    label: int


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
    records' `listed` comes from.
    """

    root: Path
    layout: str
    records: tuple[VideoRecord, ...]
    odd: tuple[OddFile, ...] = ()
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    list_file: Path | None = None


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


def _candidates(root: Path) -> Iterable[Path]:
    """The root, folders up to two levels below it, then up to four above it."""
    yield root
    below = _subfolders(root)
    yield from below
    for folder in below:
        if folder.name not in ("original_sequences", "manipulated_sequences"):
            yield from _subfolders(folder)
    yield from list(root.parents)[:4]


def _find_tree(root: Path, layout: str, compression: str):
    """(layout, tree root, folders) of the first tree found, or None."""
    for place in _candidates(root):
        if layout in ("auto", "official") and (found := _official_folders(place)):
            return "official", place, found
        if place in root.parents:
            continue  # only an official tree is unmistakable from inside
        if layout in ("auto", "mirror_c23") and (found := _mirror_folders(place)):
            return "mirror_c23", place, found
        if layout in ("auto", "mirror_flat") and (
            found := _flat_folders(place, compression)
        ):
            return "mirror_flat", place, found
    return None


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


def _nothing_found(root: Path, layout: str) -> DataError:
    """Says what was found instead of a known tree."""
    if not root.is_dir():
        said = "is not a folder" if root.exists() else "does not exist"
        return DataError(
            f"the manual dir {root} {said}; expected\n{OFFICIAL_TREE}\n{WHERE_TO_ASK}"
        )
    suffixes: Counter[str] = Counter()
    for count, (_, _, files) in enumerate(os.walk(root)):
        suffixes.update(Path(f).suffix.lower() or "no suffix" for f in files)
        if count == 2000:
            break
    if not suffixes:
        return DataError(
            f"the manual dir {root} is empty; expected\n{OFFICIAL_TREE}\n{WHERE_TO_ASK}"
        )
    found = ", ".join(f"{n} {s}" for s, n in suffixes.most_common(3))
    names = [f.name for f in _subfolders(root)]
    hint = ""
    images = sum(suffixes[s] for s in (".png", ".jpg", ".jpeg"))
    if images > suffixes.total() / 2:
        hint = "; these are extracted frames, but the build takes the videos themselves"
    else:
        known = ("original_sequences", "manipulated_sequences", "original", "real")
        near = [
            f"{name} (nearest to {match[0]})"
            for name in names
            if (match := difflib.get_close_matches(name, known, 1, 0.6))
        ]
        hint = f"; nearest match: {', '.join(near)}" if near else ""
    asked = "a known layout" if layout == "auto" else f"the layout {layout}"
    return DataError(
        f"{root} is not {asked}: found {found}"
        f"{' in ' + ', '.join(names[:6]) if names else ''}{hint}; expected\n"
        f"{OFFICIAL_TREE}\nor give layout=... and a ROOT of that set"
    )


def scan(
    root: str | Path,
    *,
    compression: str = "c23",
    layout: str = "auto",
    methods: Sequence[str] = (),
    allow_missing: bool = False,
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

    Raises:
      DataError: no known tree, level, method, or no real videos.
    """
    root = Path(root).expanduser().absolute()
    if layout not in ("auto", *LAYOUTS):
        near = difflib.get_close_matches(layout, LAYOUTS, 1)
        hint = f"; did you mean {near[0]}" if near else ""
        raise DataError(f"layout {layout} is not one of {', '.join(LAYOUTS)}{hint}")
    for name, read in OTHER_SETS.items():
        if layout in ("auto", name) and (other := read(root)) is not None:
            return _scan_other(root, name, other, methods, allow_missing=allow_missing)
    tree = _find_tree(root, layout, compression) if root.is_dir() else None
    if tree is None:
        raise _nothing_found(root, layout)
    layout, place, folders = tree
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
    level = [(f, e) for f, e in read if f.compression == compression]
    every = [e for _, e in level if isinstance(e, VideoRecord)]
    if not every:
        raise _no_level(place, compression, counts)
    wanted = _wanted(every, methods, place, compression, allow_missing=allow_missing)
    refuse_duplicates(wanted)
    if not any(r.label == 0 for r in wanted):
        raise DataError(
            f"{place} has no real videos at {compression}; "
            "they belong in original_sequences/youtube or original"
        )
    left_out = {r.method for r in every} - {r.method for r in wanted}
    if not methods and BY_NAME in left_out:
        notes.append(f"{BY_NAME} is there but not taken; ask for it by methods")
    unknown = sorted({r.method for r in wanted} - {*METHODS, *REALS})
    if unknown:
        notes.append(f"not a method of FaceForensics++: {', '.join(unknown)}")
    return Scan(
        root=place,
        layout=layout,
        records=tuple(wanted),
        odd=tuple(e for _, e in level if isinstance(e, OddFile)),
        missing=_missing(wanted),
        counts=dict(counts),
        notes=tuple(notes),
    )


def _scan_other(
    root: Path,
    layout: str,
    other: OtherSet,
    methods: Sequence[str],
    *,
    allow_missing: bool,
) -> Scan:
    if methods:
        records = _wanted(
            other.records, methods, root, "unknown", allow_missing=allow_missing
        )
    else:
        records = other.records
    refuse_duplicates(records)
    if not any(r.label == 0 for r in records):
        raise DataError(f"{root} has no real videos of the layout {layout}")
    missing = {"the list": other.missing} if other.missing else {}
    return Scan(
        root=root,
        layout=layout,
        records=tuple(records),
        missing=missing,
        counts=dict(Counter((r.method, r.compression) for r in records)),
        list_file=other.list_file,
    )


def _no_level(place: Path, compression: str, counts: Counter) -> DataError:
    levels = sorted({level for _, level in counts})
    if not levels:
        return DataError(
            f"{place} has the folders of the official tree but no videos in them; "
            + WHERE_TO_ASK
        )
    return DataError(
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


def survey(root: str | Path, layout: str = "auto") -> list[Scan]:
    """A scan of every compression level that is there. Raises DataError if none is."""
    scans = []
    problem: DataError | None = None
    for level in COMPRESSIONS:
        try:
            found = scan(root, compression=level, layout=layout)
        except DataError as error:
            problem = error
            continue
        scans.append(found)
        if found.layout not in ("official",):
            break  # the level is not told by the tree
    if not scans and problem is not None:
        raise problem
    return scans


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


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what a tree holds; changes nothing. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_ffpp.layout",
        description="Shows what a tree of videos holds; changes nothing.",
    )
    parser.add_argument("root", help="the tree of videos")
    parser.add_argument("--layout", default="auto", help=", ".join(LAYOUTS))
    args = parser.parse_args(argv)
    try:
        scans = survey(args.root, args.layout)
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    console = Console()
    for found in scans:
        shown = Table(title=f"{found.layout} at {found.root}", title_justify="left")
        for column in ("method", "level", "have", "of", "missing", "odd"):
            shown.add_column(column, justify="left" if column == "method" else "right")
        for row in table_rows(found):
            shown.add_row(*(str(cell) for cell in row))
        console.print(shown)
        for note in found.notes:
            console.print(f"note: {note}")
        for odd in found.odd[:5]:
            console.print(f"odd: {odd.path}: {odd.reason}")
        videos = len(found.records)
        console.print(
            f"{videos} videos; as 30 faces of 224 pixels each about "
            f"{videos * 30 * FRAME_BYTES / 1e9:.1f} GB, and "
            f"{videos * CORE_SECONDS / 3600:.1f} core hours to build"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
