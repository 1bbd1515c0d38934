"""The dataset card: what a dataset holds, how it was made, what to beware of."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import Fields
from tfds_ffpp.frames.images import FRAMES
from tfds_ffpp.frames.people.finders import (
    YUNET_FILES,
    landmark_model,
    need_model,
    network_model,
)
from tfds_ffpp.frames.prepare import Preparation, file_digest
from tfds_ffpp.frames.stored import Rejected, StoredVideo
from tfds_ffpp.terminal.text import markdown
from tfds_ffpp.tree.scan import Scan
from tfds_ffpp.tree.splits import Splits

MAX_COVERAGE_GAP = 0.05  # between reals and fakes
NUMBERS = ("bit_rate", "fps", "source_frames", "width", "height")
WORDS = ("codec", "pixel_format")
PACKAGES = ("av", "dlib-bin", "opencv-python-headless", "simplejpeg", "numpy")


# What it says ----------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How many videos a split has, and how many of them are how."""

    videos: int
    real: int
    fake: int
    methods: dict[str, int]
    no_face: int
    several_faces: int
    shorter_than_asked: int
    damaged: int


@dataclass(frozen=True)
class Coverage:
    """Of a class: the share of videos without a face, the mean share of frames with."""

    no_face: float
    coverage: float


@dataclass(frozen=True)
class FileCounts:
    """What became of every file under the root: the three counts make up `found`.

    passed_over: reason -> files.
    """

    found: int
    taken: int
    rejected: int
    passed_over: dict[str, int]


@dataclass(frozen=True)
class ListFile:
    """The list that the splits come from."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a dataset holds and was made from; card.json has the fields in this order.

    made: of made videos. official_split: None where there is none to keep to. splits:
    split -> counts; coverage: real, fake -> its face coverage; dropped, rejected:
    reason -> videos; missing: method -> names; config: the builder config's fields;
    versions: what decides the stored bytes -> its version.
    """

    name: str
    version: str
    made: bool
    official_split: bool | None
    split_source: str
    splits: dict[str, Counts]
    coverage: dict[str, Coverage]
    files: FileCounts
    dropped: dict[str, int]
    rejected: dict[str, int]
    missing: dict[str, list[str]]
    warnings: list[str]
    notes: list[str]
    layout: str
    test_list: ListFile | None
    face_finder: str
    config: Fields
    versions: dict[str, str]

    def to_json(self) -> str:
        """The text of card.json."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


# What to beware of -----------------------------------------------------------------


def rank_auc(real: Sequence[float], fake: Sequence[float]) -> float:
    """Chance that a fake's value is above a real's, ties half."""
    real_, fake_ = np.sort(real), np.asarray(fake)
    below = np.searchsorted(real_, fake_, "left")
    upto = np.searchsorted(real_, fake_, "right")
    return float((below + upto).mean() / 2 / len(real_))


def shortcuts(rows: Sequence[StoredVideo]) -> list[str]:
    """Warnings about facts of the files that tell real from fake, with numbers."""
    real = [r for r in rows if r.label == 0]
    fake = [r for r in rows if r.label == 1]
    if len(real) < 2 or len(fake) < 2:
        return []
    warnings = []
    # Three standard errors of the AUC of a fact that tells nothing.
    chance = 3 * ((len(real) + len(fake) + 1) / (12 * len(real) * len(fake))) ** 0.5
    for name in NUMBERS:
        a, b = [getattr(r, name) for r in real], [getattr(r, name) for r in fake]
        auc = rank_auc(a, b)
        if abs(auc - 0.5) > max(0.2, chance):
            warnings.append(
                f"{name} alone separates real from fake with an AUC of "
                f"{max(auc, 1 - auc):.2f}: its median is {np.median(a):g} in real and "
                f"{np.median(b):g} in fake videos."
            )
    for name in WORDS:
        shares = [
            {
                k: v / len(group)
                for k, v in Counter(getattr(r, name) for r in group).items()
            }
            for group in (real, fake)
        ]
        for value in sorted(set(shares[0]) | set(shares[1])):
            a, b = (s.get(value, 0.0) for s in shares)
            if abs(a - b) > max(0.2, chance):
                warnings.append(
                    f"{name} differs by label: {100 * a:.0f} % of the real and "
                    f"{100 * b:.0f} % of the fake videos are {value}."
                )
    return warnings


def coverage_gap(rows: Sequence[StoredVideo]) -> list[str]:
    """A warning when faces are found in one class more often than in the other."""
    shares = [
        [float(r.num_valid > 0) for r in rows if r.label == label] for label in (0, 1)
    ]
    if not all(shares):
        return []
    real, fake = (1 - float(np.mean(s)) for s in shares)
    if abs(real - fake) <= MAX_COVERAGE_GAP:
        return []
    return [
        f"No face was found in {100 * real:.1f} % of the real and {100 * fake:.1f} % "
        "of the fake videos: what is left out depends on the label."
    ]


# Making it --------------------------------------------------------------------------


def versions(preparation: Preparation) -> dict[str, str]:
    """The versions of what decides the stored bytes, a user's own model included.

    Raises DataError when that model is not there.
    """
    found = {p: metadata.version(p) for p in PACKAGES}
    finder = preparation.face_finder
    models: dict[str, tuple[bool, Callable[[], Path]]] = {
        "face_finder_model": (
            finder == "yunet",
            lambda: need_model(preparation.face_finder_model),
        ),
        "face_network": (finder == "dlib_network", network_model),
        "landmarks": (preparation.landmarks == "dlib", landmark_model),
    }
    if preparation.crop == "face":
        for name, (is_used, path) in models.items():
            if is_used:
                found[name] = f"sha256 {file_digest(path())}"
    return found


def unknown_model(preparation: Preparation) -> list[str]:
    """A warning where faces are found with another file than the known ones of YuNet.

    A newer file is no fault, so it is taken: but nobody here has compared its boxes.
    """
    digest = versions(preparation).get("face_finder_model", "").removeprefix("sha256 ")
    if not digest or digest in YUNET_FILES:
        return []
    return [
        f"Faces are found with {Path(preparation.face_finder_model).name} of SHA-256 "
        f"{digest}, which is none of {' and '.join(YUNET_FILES.values())}: see where "
        "it comes from (docs/data.md, Faces)."
    ]


def _list_file(scan: Scan) -> ListFile | None:
    if scan.list_file is None:
        return None
    return ListFile(scan.list_file.name, file_digest(scan.list_file))


def _files(
    scan: Scan,
    taken: int,
    *,
    rejected: Sequence[Rejected],
    dropped: Mapping[str, int],
) -> FileCounts:
    over = Counter({p.reason: p.count for p in scan.passed})
    over.update(dropped)
    bad = len({r.path for r in rejected})
    left = scan.num_files - taken - bad - sum(over.values())
    if left:
        over[NOT_TAKEN] = left
    return FileCounts(
        found=scan.num_files,
        taken=taken,
        rejected=bad,
        passed_over=dict(over.most_common()),
    )


def _counts(rows: Sequence[StoredVideo]) -> Counts:
    return Counts(
        videos=len(rows),
        real=sum(r.label == 0 for r in rows),
        fake=sum(r.label == 1 for r in rows),
        methods=dict(sorted(Counter(r.method for r in rows).items())),
        no_face=sum(r.num_valid == 0 for r in rows),
        several_faces=sum(r.num_faces > 1 for r in rows),
        shorter_than_asked=sum(0 < r.num_valid < len(r.frame_index) for r in rows),
        damaged=sum(r.damaged for r in rows),
    )


def _coverage(rows: Sequence[StoredVideo]) -> dict[str, Coverage]:
    shares = {}
    for label, name in enumerate(("real", "fake")):
        group = [r for r in rows if r.label == label]
        if group:
            shares[name] = Coverage(
                no_face=float(np.mean([r.num_valid == 0 for r in group])),
                coverage=float(np.mean([r.coverage for r in group])),
            )
    return shares


CROP_SHARE = 0.5  # of the picture's side that a face takes in a crop of it, at least


def foreign_crops(rows: Sequence[StoredVideo], config) -> list[str]:
    """A warning where the pictures were crops of faces before they came here."""
    rows = [r for r in rows if r.num_valid and r.width and r.height]
    square = [r for r in rows if 0.8 < r.width / r.height < 1.25]
    if config.crop != "face" or 2 * len(square) < len(rows):
        return []
    if config.face_finder == "none":
        if not any(r.pixel_format == FRAMES for r in rows):
            return []
        return [
            "Where the face is was not looked for (face_finder=none): if these frames "
            f"are crops, their margin is their set's own, not {config.margin:g}, and a "
            "detector of other margins has not seen such ones."
        ]
    sides = [(r.box[2] - r.box[0]) / config.margin for r in square]
    shares = [s / min(r.width, r.height) for s, r in zip(sides, square, strict=True)]
    share = float(np.median(shares)) if shares else 0.0
    if share < CROP_SHARE:
        return []
    beyond = np.mean([s * config.margin > 1 for s in shares])
    return [
        f"The frames seem to be crops already: a face takes {share:.0%} of their side, "
        f"a margin of {1 / share:.2f}. Crops of margin {config.margin:g} reach beyond "
        f"them in {beyond:.0%} of the videos, where the border is filled up: set "
        f"margin={1 / share:.2f} or less, or face_finder=none to take each whole."
    ]


def _masks(rows: Sequence[StoredVideo], config) -> list[str]:
    fakes = [r for r in rows if r.label == 1]
    if not config.masks:
        return []
    known = sum(r.masked for r in fakes)
    return [f"Where they are forged is known of {known} of {len(fakes)} fakes."]


def _aligned(rows: Sequence[StoredVideo], config) -> list[str]:
    """How many videos with a face could be aligned."""
    rows = [r for r in rows if r.num_valid]
    if config.align == "none":
        return []
    done = sum(any(r.face_seen) for r in rows)
    rest = (
        "; the others' faces were found in none of their crops, which lean as they do"
    )
    return [
        f"Aligned are {done} of {len(rows)} videos{rest if done < len(rows) else ''}."
    ]


NOT_TAKEN = "more than the protocol or max_examples_per_split takes"
# What tfds_ffpp.synthetic leaves in a finished tree.
MADE_TREE = "synthetic.json"
MADE_WARNING = (
    "These are made videos, not FaceForensics++: results on them show that the system "
    "works and say nothing of real forgeries."
)


@dataclass(frozen=True)
class Contents:
    """What a dataset holds and what it was made from.

    videos: split -> its videos, in the order of the records. scan, split: what the
    tree held and how it was split. own_boxes: how many fakes were cropped by their own
    faces. num_taken: how many files the videos are.
    """

    videos: Mapping[str, Sequence[StoredVideo]]
    rejected: Sequence[Rejected]
    scan: Scan
    split: Splits
    own_boxes: int
    num_taken: int


def make_card(contents: Contents, config, *, most: int | None, version: str) -> Card:
    """The card of a dataset.

    Args:
      contents: of the dataset.
      config: its FfppConfig.
      most: how many videos of each split were taken; None for all.
      version: the builder's version.
    """
    videos, rejected = contents.videos, contents.rejected
    scan, split = contents.scan, contents.split
    rows = [r for part in videos.values() for r in part]
    made = (scan.root / MADE_TREE).is_file()
    warnings = [MADE_WARNING] if made else []
    warnings += [*split.warnings, *shortcuts(rows), *coverage_gap(rows)]
    warnings += foreign_crops(rows, config)
    warnings += unknown_model(config.preparation)
    missing = {m: list(names) for m, names in sorted(scan.missing.items())}
    warnings += [
        f"{m} lacks {len(names)} videos that others have, first {names[0]}."
        for m, names in missing.items()
    ]
    if contents.own_boxes:
        warnings.append(
            f"{contents.own_boxes} fakes were cropped by faces of their own, since "
            "their originals are not there or not usable."
        )
    if rejected:
        warnings.append(f"{len(rejected)} files were left out; see rejected.jsonl.")
    return Card(
        name=config.name,
        version=version,
        made=made,
        official_split=None if made else split.official,
        split_source=split.source,
        splits={s: _counts(part) for s, part in videos.items()},
        coverage=_coverage(rows),
        files=_files(
            scan, contents.num_taken, rejected=rejected, dropped=split.dropped
        ),
        dropped=dict(split.dropped),
        rejected=dict(Counter(r.reason for r in rejected).most_common()),
        missing=missing,
        warnings=warnings,
        notes=[*scan.notes, *_masks(rows, config), *_aligned(rows, config)],
        layout=scan.layout,
        test_list=_list_file(scan),
        face_finder=config.face_finder if config.crop == "face" else "none",
        config={
            "name": config.name,
            **config.content(),
            "max_examples_per_split": most,
        },
        versions=versions(config.preparation),
    )


def as_markdown(card: Card) -> str:
    """The card for a reader."""
    if card.official_split:
        official = f"the official split ({markdown(card.split_source)})"
    elif card.official_split is None and not card.made:
        official = markdown(card.split_source)
    else:
        official = f"**not the official split** ({markdown(card.split_source)})"
    lines = [
        f"# tfds_ffpp/{markdown(card.name)} {card.version}",
        "",
        f"Layout {card.layout}; {official}; faces by {card.face_finder}.",
        "",
        "| split | videos | real | fake | no face | several faces | short | damaged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for split, c in card.splits.items():
        lines.append(
            f"| {split} | {c.videos} | {c.real} | {c.fake} | {c.no_face} "
            f"| {c.several_faces} | {c.shorter_than_asked} | {c.damaged} |"
        )
    files = card.files
    over = sum(files.passed_over.values())
    lines += [
        "",
        f"Of {files.found} files {files.taken} were taken, {files.rejected} "
        f"rejected and {over} passed over.",
    ]
    methods = sorted({m for c in card.splits.values() for m in c.methods})
    lines += ["", "| method | " + " | ".join(card.splits) + " |"]
    lines.append("|---|" + "---|" * len(card.splits))
    for method in methods:
        counts = [str(c.methods.get(method, 0)) for c in card.splits.values()]
        lines.append(f"| {markdown(method)} | " + " | ".join(counts) + " |")
    for title, values in (
        ("Beware", card.warnings),
        ("Notes", card.notes),
        ("Left out", [f"{n} x {r}" for r, n in card.rejected.items()]),
        ("Passed over", [f"{n} x {r}" for r, n in files.passed_over.items()]),
        ("Config", [f"{k}: {v}" for k, v in card.config.items()]),
        ("Versions", [f"{k} {v}" for k, v in card.versions.items()]),
    ):
        if values:
            lines += ["", f"## {title}", "", *(f"- {markdown(v)}" for v in values)]
    return "\n".join(lines) + "\n"


# A finished dataset ----------------------------------------------------------------


class _Known(NamedTuple):
    """What is read again of a card, which an older version may have written."""

    config: Fields
    splits: dict[str, Counts]
    warnings: list[str]


def _read(card_file: Path) -> _Known:
    try:
        return records.from_json(_Known, json.loads(card_file.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(
            f"{card_file} is missing or damaged; "
            f"remove {card_file.parent} and build again"
        ) from None


def built_config(card_file: Path, config_class: Callable[..., Any]) -> Any:
    """The config that a dataset was built from."""
    names = {f.name for f in dataclasses.fields(config_class)}  # pyright: ignore
    known = {k: v for k, v in _read(card_file).config.items() if k in names}
    return config_class(**known)


def check_same_config(dataset_dir: Path, config) -> None:
    """Raises DataError when the dataset there was built from another config."""
    built = _read(Path(dataset_dir) / "card.json").config
    asked = {**json.loads(json.dumps(config.content())), "max_examples_per_split": None}
    # A field that was not there yet had the value that is its default now.
    built = {**type(config)(name=config.name).content(), **built}
    other = {
        k: (built.get(k), v)
        for k, v in asked.items()
        if built.get(k) != v and k not in ("max_rejected", "allow_one_class")
    }
    if other:
        said = "; ".join(f"{k} is {a!r}, not {b!r}" for k, (a, b) in other.items())
        raise DataError(
            f"the dataset in {dataset_dir} was built from another config: {said}; "
            "give the new one another name, or remove the old one"
        )


def summary(dataset_dir: str | os.PathLike) -> str:
    """What was built, in a few lines."""
    card = _read(Path(dataset_dir) / "card.json")
    counts = [f"{s} {c.real} real + {c.fake} fake" for s, c in card.splits.items()]
    warnings = "".join(f"warning: {warning}\n" for warning in card.warnings)
    return f"{dataset_dir}: {', '.join(counts)}\n{warnings}"
