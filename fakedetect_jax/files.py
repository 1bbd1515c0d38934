"""Small files that outlive what damages them: JSON lines of which each stands alone."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class Lines(NamedTuple):
    """The whole lines of a file, and the numbers (from 1) of the damaged ones.

    cut: whether the last line is half a line, as a killed process leaves it; it is
    not counted as damaged.
    """

    rows: list[dict[str, Any]]
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
