"""Files of a disk or a bucket, whole or not there; JSON lines, each by itself."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfds_ffpp.files import Json, whole
from tfds_ffpp.records import to_json
from tfds_ffpp.store import addresses


def write_whole(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes files of which each is whole or not there.

    None is there before all are written, and the last one comes last. In a bucket each
    is whole by itself, and the last one comes last.
    """
    if addresses.is_address(folder):
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (folder / name).write_bytes(data)
        return
    with contextlib.ExitStack() as stack:
        for name in reversed(list(files)):  # the stack renames the latest first
            content = files[name]
            data = content.encode() if isinstance(content, str) else content
            stack.enter_context(whole(folder / name)).write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes a record as a JSON file that is either whole or not there."""
    text = json.dumps(to_json(value), indent=1, sort_keys=True) + "\n"
    write_whole(path.parent, {path.name: text})


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes records as JSON lines to a file that is either whole or not there."""
    text = "".join(json.dumps(to_json(row)) + "\n" for row in rows)
    write_whole(path.parent, {path.name: text})


class Lines(NamedTuple):
    """The whole lines of a file, and the numbers (from 1) of the damaged ones.

    cut: whether the last line is half a line, as a killed process leaves it; it is
    not counted as damaged.
    """

    rows: list[Json]
    damaged: list[int]
    cut: bool

    def complaint(self, path: Path, fate: str = "left out") -> str:
        """One sentence that names the damaged lines; empty where there is none."""
        if not self.damaged:
            return ""
        shown = ", ".join(map(str, self.damaged[:5]))
        more = " and others" if len(self.damaged) > 5 else ""
        return f"{path}: line {shown}{more} is damaged and {fate}"


def read_lines(path: Path, *, required: tuple[str, ...] = ()) -> Lines:
    """The lines of a JSON-lines file that are objects with all `required` fields.

    Raises OSError where the file cannot be read.
    """
    rows, damaged, cut = [], [], False
    pieces = path.read_bytes().split(b"\n")
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            row = json.loads(piece)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            row = None
        if isinstance(row, dict) and row.keys() >= set(required):
            rows.append(row)
        elif row is None and number == len(pieces):
            cut = True
        else:
            damaged.append(number)
    return Lines(rows, damaged, cut)
