"""The folders of a tree that hold videos, and of what."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.fields import COMPRESSIONS
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES

METHODS = (
    "Deepfakes",
    "Face2Face",
    "FaceSwap",
    "NeuralTextures",
    "FaceShifter",
    "DeepFakeDetection",
)
REALS = ("youtube", "actors")
# How deep below ROOT a tree may lie: a download tool's versions/1/NAME is three.
DEPTH = 3
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


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


# Finding the tree -----------------------------------------------------------------


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir())
    except OSError:
        return []


def canonical(name: str, known: Sequence[str]) -> str:
    """The known spelling of a folder's name, whatever its case; else the name."""
    folded = {k.lower().replace("-", "").replace("_", ""): k for k in known}
    return folded.get(name.lower().replace("-", "").replace("_", ""), name)


def compression_of(name: str) -> str:
    """The level that a folder's name says: c0 is another name of raw."""
    name = name.lower()
    return "raw" if name == "c0" else name


def _official_folders(root: Path) -> list[Folder]:
    folders = []
    for top, known, label in (
        ("original_sequences", REALS, 0),
        ("manipulated_sequences", METHODS, 1),
    ):
        for method in subfolders(root / top):
            for level in subfolders(method):
                compression = compression_of(level.name)
                if compression in COMPRESSIONS and (level / "videos").is_dir():
                    name = canonical(method.name, known)
                    folders.append(Folder(level / "videos", name, compression, label))
    return folders


def _mirror_folders(root: Path) -> list[Folder]:
    """FaceForensics++_C23/{original,Deepfakes,...}/*.mp4, all of one level."""
    level = next((c for c in ("c40", "raw", "c0") if c in root.name.lower()), "c23")
    folders = []
    for sub in subfolders(root):
        method = canonical(sub.name, METHODS)
        if sub.name.lower() in ("original", "youtube", "original_sequences"):
            folders.append(Folder(sub, "youtube", compression_of(level), 0))
        elif sub.name.lower() == "actors":
            folders.append(Folder(sub, "actors", compression_of(level), 0))
        elif method in METHODS:
            folders.append(Folder(sub, method, compression_of(level), 1))
    reals = [f for f in folders if f.label == 0]
    return folders if any(_has_videos(f.path) for f in reals) else []


def _has_videos(folder: Path) -> bool:
    with readable(folder), os.scandir(folder) as entries:
        return any(Path(e.name).suffix.lower() in VIDEO_SUFFIXES for e in entries)


def _flat_folders(root: Path, compression: str) -> list[Folder]:
    """FF++/{real,fake}/*.mp4: its names say neither method nor level."""
    found = {f.name.lower(): f for f in subfolders(root)}
    real, fake = found.get("real"), found.get("fake")
    if real is None or fake is None:
        return []
    return [
        Folder(real, "youtube", compression, 0),
        Folder(fake, "unknown", compression, 1),
    ]


def parse_map(text: str) -> dict[str, str]:
    """Folder -> real, fake, a method or a kind of reals, of `a=real,b=Face2Face`.

    Raises SettingError.
    """
    known = ("real", "fake", *METHODS, *REALS)
    mapping = {}
    for pair in filter(None, text.split(",")):
        name, sign, meaning = pair.rpartition("=")
        name, meaning = name.strip().strip("/").lower(), meaning.strip()
        meaning = canonical(meaning, known)
        if not sign or not name or meaning not in known:
            raise SettingError(
                f"map={text!r}: {pair!r} is not FOLDER=MEANING, with one of "
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
        if state is not None and list_files(place):
            folders.append(state)
        for sub in subfolders(place):
            name = sub.name.lower()
            at = SPLIT_NAMES.get(name, split)
            keys = {name, str(sub.relative_to(root)).lower()} & set(mapping)
            unused.difference_update(keys)
            meaning = mapping[max(keys, key=len)] if keys else _meaning(sub.name)
            level = compression_of(sub.name)
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
        names = ", ".join(printable(f.name) for f in subfolders(root)[:8])
        raise DataError(
            f"map names {sorted(unused)[0]}, but no folder under {root} is called so; "
            f"there are {names or 'no folders'}"
        )
    return folders


def _meaning(name: str) -> str:
    """What a folder of a known name holds; "" for other names."""
    method = canonical(name, (*METHODS, *REALS))
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
            for folder in subfolders(place)
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


def find_trees(root: Path, layout: str, compression: str) -> list[Tree]:
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


def find_tree(
    root: Path, layout: str, compression: str, mapping: Mapping[str, str], folders: bool
) -> Tree | None:
    """The one tree that is meant. Raises DataError where that is a question."""
    if mapping or layout == "mapped":
        found = mapped_folders(root, compression, mapping)
        trees = [Tree("mapped", root, found)] if found else []
    else:
        trees = find_trees(root, layout, compression)
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


def list_files(folder: Path) -> list[Path]:
    """What a folder holds but other folders, by name. Raises as `readable`."""
    with readable(folder), os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if not e.is_dir())


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raises DataError where a folder may not be read: without a word a whole method
    would be missing."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{printable(folder)} cannot be read ({error.strerror}); mind its "
            "permissions"
        ) from error
