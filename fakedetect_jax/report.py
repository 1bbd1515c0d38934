"""Evaluations or whole runs side by side: python -m fakedetect_jax.report RUN..."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fakedetect_jax.metrics import comparison
from fakedetect_jax.pages import comparison_page, evaluation_page, formats
from tfds_ffpp import system
from tfds_ffpp.errors import DataError
from tfds_ffpp.store import addresses
from tfds_ffpp.terminal import command


def print_comparison(compared: comparison.Comparison, console: Console) -> None:
    """The table of runs and, where videos are shared, of differences."""
    table = Table(
        Column("run", overflow="fold"), box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in ("videos", "scored", "video AUC", "EER", "bal. acc.", "test"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("chosen on")
    for run in compared.runs:
        video = run.video
        reach = formats.span(video.intervals.get("auc"))
        table.add_row(
            Text(run.name),
            f"{video.num_real + video.num_fake:,}",
            formats.share(run.coverage.share),
            formats.number(video.auc) + (f" ({reach})" if reach else ""),
            formats.percent(video.eer),
            formats.percent(video.balanced_accuracy),
            f"{run.test_evaluations}x" if run.test_evaluations else "—",
            Text((run.selected_on or "not recorded").split(",")[0]),
        )
    console.print(table)
    for touched in compared.touches:
        console.print(formats.touch_line(touched), markup=False)
    for one in compared.differences:
        if area := one.videos.auc:
            line = formats.difference_line(one.run, one.reference, one.videos, area)
            console.print(line, markup=False)
    for alone in compared.unpaired:
        if alone.nearest:
            console.print(formats.unpaired_line(alone), markup=False)


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Lays evaluations side by side and writes one page about them.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a workdir, or one evaluation"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page; comparison.html in the first RUN if not set",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="write each evaluation's own report anew from its scores",
    )
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.report"
) -> int:
    """Compares the runs named on the command line; returns the exit code."""
    return command.run(lambda: parse_arguments(argv, prog), _run)


def _run(arguments: argparse.Namespace) -> int:
    output = arguments.output or f"{arguments.runs[0]}/comparison.html"
    system.refuse_path("--output", arguments.output, bucket=True)
    for run in arguments.runs:
        system.refuse_path("RUN", run, bucket=True)
    try:
        with addresses.one_sentence():
            runs = [addresses.as_path(run) for run in arguments.runs]
            output = addresses.as_path(output)
            if arguments.rebuild:
                _rebuild(runs)
            compared = comparison_page.write_comparison(
                comparison.read_entries(runs), output
            )
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror})") from error
    console = Console(highlight=False)
    print_comparison(compared, console)
    page = addresses.absolute(output)
    console.print(f"page: {page}", markup=False, soft_wrap=True)
    return 0


def _rebuild(runs: Sequence[Path]) -> None:
    for run in runs:
        for folder in comparison.find_evaluations(run):
            workdir = addresses.absolute(folder).parent.parent
            evaluation_page.write_report(folder, metrics_file=workdir / "metrics.jsonl")


if __name__ == "__main__":
    sys.exit(main())
