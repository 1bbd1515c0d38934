"""What to say of a folder that no layout fits: what it holds, and the line to type."""

import difflib
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree import census
from tfds_ffpp.tree.naming import parse_name

# Words in the names of folders as people and mirrors write them. The methods first:
# "FaceSwap" is one, "swapped" is any fake.
_METHOD_WORDS = {
    "deepfakes": "Deepfakes",
    "df": "Deepfakes",
    "face2face": "Face2Face",
    "f2f": "Face2Face",
    "faceswap": "FaceSwap",
    "fs": "FaceSwap",
    "neuraltextures": "NeuralTextures",
    "nt": "NeuralTextures",
    "faceshifter": "FaceShifter",
    "deepfakedetection": "DeepFakeDetection",
    "dfd": "DeepFakeDetection",
}
_FAKE_WORDS = ("fake", "manip", "synth", "forg", "swap", "alter", "generat", "tamper")
_REAL_WORDS = ("real", "orig", "prist", "youtube", "actor", "genuin", "authent")
_KNOWN = ("original_sequences", "manipulated_sequences", "original", "real", "fake")
MAX_FILES = 200_000  # looked at before something is said


@dataclass
class Found:
    """What lies below a folder.

    suffixes: of the files; links: to folders; videos: folder -> videos directly in it.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)
    videos: dict[Path, int] = field(default_factory=dict)
    odd_name: str = ""  # the first video in a layout's folder without an official name

    def count(self, kind: str) -> int:
        """How many of the files are of a kind, as census.kind has it."""
        return sum(
            count
            for suffix, count in self.suffixes.items()
            if census.kind(f"x{suffix}") == kind
        )


def look(root: Path, folders: Collection[Path]) -> Found:
    """What lies below root; `videos` leaves out the layout's own folders."""
    found, own = Found(), set(folders)
    for number, (path, what) in enumerate(census.walk(root, folders)):
        if what == "link":
            found.links.append(path)
        elif what == "file":
            found.suffixes[census.suffix(path.name) or "no suffix"] += 1
            if census.kind(path.name) != "video" or "masks" in path.parts:
                continue
            if path.parent not in own:
                found.videos[path.parent] = found.videos.get(path.parent, 0) + 1
            elif not found.odd_name and parse_name(path.stem) is None:
                found.odd_name = path.name
        if number == MAX_FILES:
            break
    return found


def guess(name: str) -> str:
    """What a folder of this name holds, if it can be guessed: as a map's meaning."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    if plain in _METHOD_WORDS:
        return _METHOD_WORDS[plain]
    if any(word in plain for word in _FAKE_WORDS):
        return "fake"
    return "real" if any(word in plain for word in _REAL_WORDS) else ""


def suggest_map(root: Path, dirs: Iterable[Path], lacking: str = "") -> str:
    """A value of --map for folders of videos, with placeholders where it is unclear."""
    pairs: dict[str, str] = {}
    unclear = []
    for folder in dirs:
        parts = folder.relative_to(root).parts
        named = [(p, meaning) for p in parts if (meaning := guess(p))]
        if named:
            pairs.setdefault(*named[0])
        elif parts:
            unclear.append(parts[0])
    if pairs and not lacking:
        reals = [meaning == "real" for meaning in pairs.values()]
        lacking = "fake" if all(reals) else "" if any(reals) else "real"
    pairs |= dict.fromkeys(unclear, lacking) if lacking else {}
    if len(pairs) > 8 or any("," in n or "=" in n for n in pairs):
        pairs = {}
    if not pairs:
        return "FOLDER=real,FOLDER=fake"
    ordered = sorted(pairs.items(), key=lambda p: (p[1] != "real", p[0]))
    return printable(",".join(f"{name}={meaning}" for name, meaning in ordered))


def _ways(root: Path, mapping: str, *, names: bool) -> str:
    """The lines to type: by --map, if the files' names allow it, and by a CSV."""
    typed = shlex.quote(mapping)
    csv = (
        f"`python -m tfds_ffpp.layout {shlex.quote(printable(root))} --map {typed} "
        "--write_csv`"
    )
    if not names:
        return f"list the videos in a CSV: {csv} writes its draft"
    return (
        f"say which folder holds what by `--map {typed}` (config.dataset.map), or list "
        f"the videos in a CSV: {csv} writes its draft"
    )


def not_taken(root: Path, dirs: Mapping[Path, int], lacking: str) -> str:
    """Where videos lie that may be of the class that is lacking; "" if nowhere."""
    unlikely = {"real": "fake", "fake": "real"}[lacking]
    places: Counter[str] = Counter()
    for folder, count in dirs.items():
        parts = folder.relative_to(root).parts
        meaning = next(filter(None, map(guess, parts)), lacking)
        if (meaning if meaning == "real" else "fake") != unlikely:
            places[parts[0] if parts else ""] += count
    if not places:
        return ""
    mapping = suggest_map(root, [root / p for p in places], lacking)
    names = ", ".join(printable(p) or "the folder itself" for p in list(places)[:6])
    ways = _ways(root, mapping, names=True)
    return f"{places.total()} videos in {names} are not taken: {ways}"


def advice(root: Path, there: Found) -> str:
    """What was found, and what to do with it."""
    names = _names(there, root)
    counts = ", ".join(f"{n} {s}" for s, n in there.suffixes.most_common(3))
    said = f"found {counts or 'links to folders'}{f' in {names}' if names else ''}"
    if there.count("picture") > there.suffixes.total() / 2:
        return (
            f"{said}; these are extracted frames: the videos themselves say more, but "
            "`--layout frames` (config.dataset.layout) takes each folder of them as one"
        )
    if not there.count("video") and there.count("archive"):
        return f"{said}; unpack the archives first"
    if there.odd_name:
        mapping = suggest_map(root, _tops(root))
        return (
            f"{said}; names such as {printable(there.odd_name)} do not tell who is "
            f"seen, so {_ways(root, mapping, names=False)}"
        )
    if not there.count("video") and not there.links:
        return f"{said}; none of them is a video by its name"
    mapping = suggest_map(root, [*there.videos, *there.links])
    return f"{said}{_near(_tops(root))}; {_ways(root, mapping, names=True)}"


def _tops(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir())


def _names(there: Found, root: Path) -> str:
    links = [f"{printable(p.relative_to(root))} (a link)" for p in there.links]
    links_of = {p.name for p in there.links}
    names = [printable(p.name) for p in _tops(root) if p.name not in links_of]
    return ", ".join([*names, *links][:6])


def _near(folders: Sequence[Path]) -> str:
    near = [
        f"{printable(folder.name)} (nearest to {match[0]})"
        for folder in folders
        if (match := difflib.get_close_matches(folder.name, _KNOWN, 1, 0.6))
        and match[0] != folder.name
        and guess(folder.name) not in _METHOD_WORDS.values()
    ]
    return f"; nearest match: {', '.join(near)}" if near else ""
