"""Scores of any other detector, from a CSV or JSON file, as rows of an evaluation."""

import collections
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.records import ClipScore, Unscored, Video
from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import COMPRESSIONS
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree import folders, naming
from tfds_ffpp.tree.census import PICTURES

# Column -> what files call it, the first that is there counts. In lower case.
COLUMNS = {
    "video": (
        *("video", "video_id", "video_name", "video_path", "path", "file"),
        *("filename", "file_name", "filepath", "file_path", "img_path", "image_path"),
        *("img_name", "img_names", "image", "frame_path", "name"),
    ),
    "score": (
        *("score", "scores", "prob", "probability", "fake_prob", "prob_fake"),
        *("fake_score", "p_fake", "pred", "preds", "prediction", "predictions"),
        *("y_score", "y_pred", "output"),
    ),
    "logit": ("logit", "logits"),
    "label": (
        *("label", "labels", "y", "y_true", "gt", "ground_truth", "is_fake", "class"),
    ),
    "part": (
        *("frame", "frame_id", "frame_idx", "frame_index", "frame_number"),
        *("clip", "clip_id", "clip_index", "window", "segment"),
    ),
    "method": ("method", "manipulation", "forgery", "type"),
    "compression": ("compression", "quality"),
    "dataset": ("dataset", "data_set"),
    "target": ("target", "target_id", "identity"),
    "source": ("source", "source_id"),
}
LABELS = {
    **dict.fromkeys(("0", "0.0", "real", "false", "original", "pristine"), 0),
    **dict.fromkeys(("1", "1.0", "fake", "true", "manipulated", "forged"), 1),
}
# Folders on the way to a file that say what is in them, beside those of methods.
REAL_FOLDERS = ("original_sequences", "original", "real", "celeb-real", "youtube-real")
FAKE_FOLDERS = ("manipulated_sequences", "manipulated", "fake", "celeb-synthesis")
CELEB_DF = re.compile(r"(?P<target>id\d+)(_(?P<source>id\d+))?_\d{4}")
UNKNOWN_METHOD = "fake"
UNSCORED = "the file of scores does not name it"
SHOWN = 3  # names that a sentence gives


class Scores(NamedTuple):
    """What a file of scores says.

    rows: one per video and part of it; notes: what a reader should know of them.
    """

    rows: list[ClipScore]
    unscored: list[Unscored]
    notes: list[str]


class _Row(NamedTuple):
    """A row as it stands in the file, its cells by the folded names of columns."""

    where: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class _Line:
    """A row of the file: what it says, and what its path does. None: not said."""

    where: str
    name: str
    part: str | None
    label: int | None
    value: float | None
    method: str
    compression: str
    dataset: str
    target: str
    source: str


def read_scores(path: Path, known: Sequence[Video] = ()) -> Scores:
    """The scores of a file, one per frame, clip or video.

    A video's score will be the mean of its parts'. Logits are taken for what they are.

    Args:
      path: CSV with a header (comma, semicolon or tab), JSON lines, or JSON: a list of
        objects, an object of columns, or one of names and scores. COLUMNS has the
        names of columns.
      known: the videos that ought to be scored; their labels and names are taken.

    Raises:
      DataError: naming the file, the line or column, and the cure.
    """
    lines, columns = _read(path)
    is_logit = "score" not in columns
    if is_logit and "logit" not in columns:
        raise DataError(_lacking(path, columns, "score"))
    for line in lines:
        if line.value is None:
            raise DataError(f"{line.where} has no score: give each row one or drop it")
    notes = [] if is_logit else _check_range(path, lines)
    is_logit = is_logit or bool(notes)
    videos = _named(lines, known, path) if known else _videos(lines)
    _check_parts(lines, videos)
    rows, count = [], collections.Counter()
    for line, video in zip(lines, videos, strict=True):
        value = float(line.value or 0)
        score = float(metrics.sigmoid(np.array(value))) if is_logit else value
        logit = value if is_logit else float(metrics.logit(value))
        rows.append(ClipScore(video, count[video], count[video], 1, logit, score))
        count[video] += 1
    missing = sorted(set(known) - set(videos))
    notes += _notes(count, missing)
    return Scores(rows, [Unscored(video, UNSCORED) for video in missing], notes)


def read_labels(path: Path) -> list[Video]:
    """The videos of a file with a label for each; the forms are those of read_scores.

    Raises DataError as read_scores does.
    """
    lines, _ = _read(path)
    return sorted(set(_videos(lines)))


# Reading ----------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[_Line], dict[str, str]]:
    """The rows, and for each column that is known the file's name for it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text: write the scores as CSV or JSON (a pickle or an "
            "array may run code or has no names)"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if not text.strip():
        raise DataError(f"{path} is empty: write one row per frame, clip or video")
    is_json = text.lstrip()[0] in "[{"
    rows = list(_json_rows(path, text) if is_json else _csv_rows(path, text))
    if not rows:
        raise DataError(f"{path} has no row: write one per frame, clip or video")
    names = [name for row in rows for name in row.cells]
    columns = _columns(names)
    if "video" not in columns:
        raise DataError(_lacking(path, columns, "video", names))
    return [_line(row, columns) for row in rows], columns


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = _read_csv(path, csv.reader(io.StringIO(text), delimiter=delimiter))
    _, header_cells = next(reader)
    names = [_folded(name) for name in header_cells]
    twice = [name for name, n in collections.Counter(names).items() if n > 1 and name]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]}: rename one")
    for where, cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(
                f"{where} has {len(cells)} cells and the header {len(names)}: quote "
                "what holds a comma"
            )
        yield _Row(where, dict(zip(names, cells, strict=True)))


def _read_csv(path: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """Each row, and where it is. Raises DataError for what is no CSV."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"line {reader.line_num} of {path} is not CSV ({error}): look for a "
                "quote without its end"
            ) from error
        yield f"line {reader.line_num} of {path}", cells


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise DataError(f"{path} is not JSON ({error}): write it again") from error
        found = _json_lines(path, text)
    if isinstance(found, dict):
        found = _from_object(path, found)
    for number, row in enumerate(found, start=1):
        where = f"row {number} of {path}"
        if not isinstance(row, dict):
            raise DataError(f"{where} is no object: give it fields video and score")
        yield _Row(where, {_folded(name): value for name, value in row.items()})


def _json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"line {number} of {path} is not JSON ({error}): write it again"
            ) from error
    return rows


def _from_object(path: Path, found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of an object of columns, or of one of names and what each has."""
    arrays = {name: v for name, v in found.items() if isinstance(v, list)}
    if arrays and "video" in _columns(arrays):
        lengths = {name: len(values) for name, values in arrays.items()}
        if len(set(lengths.values())) > 1:
            named = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(
                f"the columns of {path} differ in length ({named}): give each row one "
                "value of each"
            )
        cells = zip(*arrays.values(), strict=True)
        return [dict(zip(arrays, row, strict=True)) for row in cells]
    if "video" in _columns(found) and not arrays:
        return [dict(found)]
    rows = []
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        for part, one in enumerate(values):
            row = one if isinstance(one, dict) else {"score": one}
            part = {"frame": part} if isinstance(value, list) else {}
            rows.append({**part, **row, "video": name})
    return rows


def _folded(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _columns(names: Iterable[str]) -> dict[str, str]:
    there = {_folded(name) for name in names}
    found = {}
    for column, called in COLUMNS.items():
        if name := next((name for name in called if name in there), None):
            found[column] = name
    return found


def _lacking(path: Path, columns: Iterable[str], what: str, names=()) -> str:
    there = ", ".join(printable(n) for n in dict.fromkeys(names or columns)) or "none"
    called = ", ".join(COLUMNS[what][:6])
    return f"{path} has no column for the {what} (it has {there}): call it {called}"


def _line(row: _Row, columns: Mapping[str, str]) -> _Line:
    where = row.where

    def text(column: str) -> str:
        value = row.cells.get(columns.get(column, ""))
        return "" if value is None else str(value).strip()

    place = _place(text("video"))
    if not place.name:
        raise DataError(f"{where} names no video: give each row one or drop it")
    method = text("method")
    return _Line(
        where=where,
        name=place.name,
        part=text("part") or place.part,
        label=_label(where, text("label")) if text("label") else place.label,
        value=_number(where, text("score") or text("logit")),
        method=folders.canonical(method, folders.METHODS) if method else place.method,
        compression=folders.compression_of(text("compression")) or place.compression,
        dataset=text("dataset"),
        target=text("target"),
        source=text("source"),
    )


class _Place(NamedTuple):
    """What the path of a video or of one of its frames says."""

    name: str
    part: str | None
    label: int | None
    method: str
    compression: str


def _place(text: str) -> _Place:
    path = PurePosixPath(text.replace("\\", "/"))
    above, name, part = list(path.parts[:-1]), path.name, None
    if path.suffix.lower() in PICTURES and above:
        name, part = above.pop(), path.stem
    elif path.suffix.lower() in naming.VIDEO_SUFFIXES:
        name = path.stem
    label, method, compression = None, "", ""
    for folder in above:
        known = folders.canonical(folder, (*folders.METHODS, *folders.REALS))
        if known in folders.METHODS:
            label, method = 1, known
        elif known in folders.REALS or folder.lower() in REAL_FOLDERS:
            label, method = 0, known if known in folders.REALS else method
        elif folder.lower() in FAKE_FOLDERS:
            label = 1
        if folders.compression_of(folder) in COMPRESSIONS:
            compression = folders.compression_of(folder)
    return _Place(name, part, label, method, compression)


def _label(where: str, word: str) -> int:
    if word.lower() not in LABELS:
        raise DataError(
            f"{where} has the label {printable(word)!r}: write 0 or real, 1 or fake"
        )
    return LABELS[word.lower()]


def _number(where: str, word: str) -> float | None:
    if not word:
        return None
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where} has the score {printable(word)!r}: write a finite number, or "
            "drop the row and count the video as not scored"
        )
    return value


# Checking -----------------------------------------------------------------------------


def _check_range(path: Path, lines: Sequence[_Line]) -> list[str]:
    """A note where the scores are logits. Raises DataError where they are neither."""
    values = np.array([line.value for line in lines], dtype=np.float64)
    outside = np.flatnonzero((values < 0) | (values > 1))
    if not len(outside):
        return []
    if values.min() >= 0:
        raise DataError(
            f"{lines[outside[0]].where} has the score {values[outside[0]]:g}: a "
            "probability is at most 1; divide percentages by 100, and call the column "
            "logit if these are logits"
        )
    return [
        f"The scores of {path.name} lie between {values.min():.4g} and "
        f"{values.max():.4g}, so they were taken for logits."
    ]


def _videos(lines: Sequence[_Line]) -> list[Video]:
    """The video of each line by what the file itself says."""
    names = {line.name: naming.parse_name(line.name) for line in lines}
    is_ffpp = all(name is not None for name in names.values())
    labels: dict[tuple[str, ...], tuple[int, str]] = {}
    videos = []
    for line in lines:
        label = line.label
        if label is None:
            raise DataError(
                f"{line.where} has no label, and its path says neither real nor fake: "
                "add a column label (0 real, 1 fake), or give --labels with a file, a "
                "workdir or an evaluation that has them"
            )
        key = line.dataset, line.method, line.compression, line.name
        before = labels.setdefault(key, (label, line.where))
        if before[0] != label:
            raise DataError(
                f"{line.where} says that {printable(line.name)} is "
                f"{('real', 'fake')[label]} and {before[1]} the opposite: mend the "
                "label, or add a column method if these are two videos"
            )
        videos.append(_video(line, label, names[line.name] if is_ffpp else None))
    return videos


def _video(line: _Line, label: int, name: naming.Name | None) -> Video:
    target, source = line.target, line.source
    method = line.method or UNKNOWN_METHOD * label
    if name is not None:
        target, source = target or name.target, source or name.source
        method = method or name.kind
    elif celeb := CELEB_DF.fullmatch(line.name):
        own, other = celeb.group("target", "source")
        target, source = target or own, source or other or ""
    return Video(
        dataset=line.dataset or ("ffpp" if name is not None else "videos"),
        method=method or "real",
        name=line.name,
        target=target,
        source=source,
        compression=line.compression or "unknown",
        label=label,
    )


def _named(lines: Sequence[_Line], known: Sequence[Video], path: Path) -> list[Video]:
    """Each line's video among those known.

    Raises DataError for one that is none of them, that may be several, or whose label
    the file has otherwise.
    """
    by_name = collections.defaultdict(list)
    for video in set(known):
        by_name[video.name].append(video)
    found, strange = [], []
    for line in lines:
        fits = [v for v in by_name[line.name] if _fits(line, v)]
        if len(fits) > 1:
            raise DataError(_ambiguous(line, fits))
        if fits and line.label not in (None, fits[0].label):
            raise DataError(
                f"{line.where} says that {printable(line.name)} is "
                f"{('real', 'fake')[1 - fits[0].label]}, the labels say the opposite: "
                "fake is 1"
            )
        (found if fits else strange).append(fits[0] if fits else line.name)
    if strange:
        names = list(dict.fromkeys(map(printable, strange)))
        raise DataError(
            f"{len(names):,} videos of {path} are none of the {len(set(known)):,} that "
            f"have a label ({_some(names)}): name them alike, or drop them"
        )
    return found


def _fits(line: _Line, video: Video) -> bool:
    """Whether what a line says of its video, if anything, is so."""
    said = (line.method, line.compression, line.dataset)
    is_so = (video.method, video.compression, video.dataset)
    return all(not word or word == so for word, so in zip(said, is_so, strict=True))


def _ambiguous(line: _Line, fits: Sequence[Video]) -> str:
    for column in ("method", "compression", "dataset"):
        values = sorted({getattr(video, column) for video in fits})
        if len(values) > 1:
            break
    return (
        f"{line.where}: {printable(line.name)} is {len(fits)} videos "
        f"({column}: {_some(values)}): add a column {column}"
    )


def _check_parts(lines: Sequence[_Line], videos: Sequence[Video]) -> None:
    """Raises DataError for a part, or a video without parts, that comes twice."""
    seen: dict[tuple[Video, str | None], str] = {}
    for line, video in zip(lines, videos, strict=True):
        before = seen.setdefault((video, line.part), line.where)
        if before == line.where:
            continue
        what = f"frame or clip {printable(line.part)} of " if line.part else ""
        name = naming.parse_name(line.name)
        cure = (
            "each method has a video of this name, so add a column method"
            if name is not None and name.kind == "fake" and not line.method
            else "give each video one row, or add a column frame or clip"
        )
        raise DataError(
            f"{what}{printable(line.name)} is scored twice, by {before} and by "
            f"{line.where}: {cure}"
        )


def _notes(count: Mapping[Video, int], missing: Sequence[Video]) -> list[str]:
    """What a reader should know of videos and parts that were scored."""
    notes = []
    if missing:
        names = _some([video.name for video in missing])
        notes.append(f"{len(missing):,} videos with a label have no score ({names}).")
    sizes = {
        label: [n for v, n in count.items() if v.label == label] for label in (0, 1)
    }
    if all(sizes.values()):
        real, fake = (float(np.median(sizes[label])) for label in (0, 1))
        if max(real, fake) > 1.5 * min(real, fake):
            notes.append(
                f"A real video has {real:g} scores and a fake one {fake:g}, by their "
                "medians: were videos of several methods put together, or their frames "
                "chosen otherwise?"
            )
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more
