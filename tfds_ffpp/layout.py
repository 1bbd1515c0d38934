"""python -m tfds_ffpp.layout ROOT: shows what a tree of videos holds.

It changes nothing, unless asked to draft a table (--write_csv).
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfds_ffpp import system
from tfds_ffpp.errors import DataError
from tfds_ffpp.terminal import command
from tfds_ffpp.terminal.text import printable
from tfds_ffpp.tree import census, folders, hints, scan
from tfds_ffpp.tree.naming import is_utf8, parse_name
from tfds_ffpp.tree.scan import NoLevelError, OneClassError, Scan

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
            scans.append(scan.scan(root, compression=level, **options))
        except NoLevelError as error:
            absent.append(error)
        except DataError as error:
            problems.append(error)
            if not isinstance(error, OneClassError):
                break  # no other level would be better
        else:
            if scans[-1].layout != "official":
                break  # the tree does not say its level
    return scans, problems or ([] if scans else absent[:1])


def table_rows(found: Scan) -> list[tuple[str, str, int, str, int, int]]:
    """(method, level, have, of how many, missing, odd) for each method of a scan."""
    rows = []
    every = {r.method: r.compression for r in found.records}
    for method, level in found.counts:
        if level == next(iter(every.values())):
            every.setdefault(method, level)
    for method, level in sorted(every.items()):
        have = found.counts.get((method, level), 0)
        expected = (
            str(scan.EXPECTED.get(method, "?")) if found.layout == "official" else "?"
        )
        odd = sum(_folder_method(o.path) == method for o in found.odd)
        missing = len(found.missing.get(method, ()))
        rows.append((method, level, have, expected, missing, odd))
    return rows


def _folder_method(path: Path) -> str:
    """The method of the folder that a file lies in."""
    folder = path.parent.parent.parent if path.parent.name == "videos" else path.parent
    name = folders.canonical(folder.name, (*folders.METHODS, *folders.REALS))
    return "youtube" if name in ("original", "real") else name


def _options(args: argparse.Namespace) -> dict[str, object]:
    return {
        "layout": args.layout,
        "mapping": args.map,
        "folders": args.protocol == "folders",
    }


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m tfds_ffpp.layout"
) -> int:
    """Prints what a tree holds; changes nothing. Returns the exit code."""
    return command.run(lambda: _parse(argv, prog), _run)


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Shows what a tree of videos holds; changes nothing.",
    )
    parser.add_argument("root", help="the tree of videos")
    parser.add_argument("--layout", default="auto", help=", ".join(scan.LAYOUTS))
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
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    system.refuse_path("ROOT", args.root)
    if args.write_csv:
        sys.stdout.write(write_csv(Path(args.root).expanduser(), args.map))
        return 0
    scans, problems = survey(args.root, **_options(args))
    shown = scans
    if not scans and all(isinstance(p, OneClassError) for p in problems):
        # What is there is seen, and then why it will not do.
        shown, _ = survey(args.root, allow_one_class=True, **_options(args))
    for found in shown:
        _print(found)
    if not scans:
        return [command.complain(problem, debug=False) for problem in problems][0]
    sys.stdout.flush()
    for problem in problems:
        sys.stderr.write(f"note: {problem}\n")
    return 0


def _print(found: Scan) -> None:
    """The table of a scan, the account of its files and what else is to be said."""
    console = Console(highlight=False, soft_wrap=True)
    title = printable(f"{found.layout} at {found.root}")
    shown = Table(title=Text(title), title_justify="left")
    for column in ("method", "level", "have", "of", "missing", "odd"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    real = {r.method for r in found.records if r.label == 0} | set(folders.REALS)
    for method, *row in table_rows(found):
        kind = " (real)" if method in real else ""
        # A name is somebody else's text: nothing in it may steer the terminal.
        cells = (f"{method}{kind}", *row)
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(shown)
    for line in scan.account(found):
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


class _Line(NamedTuple):
    """A video of the draft; its fields are the columns of the table."""

    path: str
    label: str
    method: str
    group: str
    split: str


def write_csv(root: Path, mapping: str = "") -> str:
    """Writes root/videos.csv for the videos in folders called real or fake.

    The user fills in its column `group`. Returns what to do next. Raises DataError
    when there is such a file, or a class without videos.
    """
    path = root / "videos.csv"
    if path.exists():
        raise DataError(f"{path} is there already; move it away or change it by hand")
    if not root.is_dir():
        raise scan.nothing_found(root, "auto", None)
    rows = []
    for folder in folders.mapped_folders(root, "c23", folders.parse_map(mapping)):
        for video in folders.list_files(folder.path):
            if census.kind(video.name) != "video" or not is_utf8(str(video)):
                continue
            name = parse_name(video.stem)
            rows.append(
                _Line(
                    path=str(video.relative_to(root)),
                    label=("real", "fake")[folder.label],
                    method=folder.method if folder.label else "real",
                    group=name.target if name else "",
                    split=folder.split,
                )
            )
    real, fake = (sum(row.label == name for row in rows) for name in ("real", "fake"))
    if not real or not fake:
        there = hints.look(root, ())
        raise DataError(
            f"the folders of {root} give {real} real and {fake} "
            f"fake videos by their names; {hints.advice(root, there)}"
        )
    count = len(_Line._fields) - (not all(row.split for row in rows))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_Line._fields[:count])
        writer.writerows(row[:count] for row in rows)
    how = "" if count == len(_Line._fields) else " --protocol disjoint"
    typed = shlex.quote(str(root))
    return (
        f"wrote {path}: {real} real and {fake} fake videos; fill "
        "in the column group (who is seen: no one gets into two splits), then type\n"
        f"python -m tfds_ffpp --manual_dir {typed} --config mine{how}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
