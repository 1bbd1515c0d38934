"""Evaluations side by side, and scores of other detectors.

python -m fakedetect_jax.report RUN... [--scores FILE]...
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.evaluation import foreign
from fakedetect_jax.metrics.records import ClipScore, Video
from fakedetect_jax.pages import comparison_page, evaluation_page, formats
from fakedetect_jax.reports import comparison, results
from fakedetect_jax.reports.context import Context
from tfds_ffpp import records, system
from tfds_ffpp.errors import DataError
from tfds_ffpp.store import addresses
from tfds_ffpp.store.files import write_whole
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
        description="Lays evaluations side by side and writes one page about them. "
        "Scores of any detector are evaluated first, with the same numbers.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a workdir, or one evaluation"
    )
    parser.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="FILE",
        help="CSV or JSON with a score per frame, clip or video, of any detector: its "
        "report goes into FILE.report",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="which videos there are and what they are: CSV or JSON, a workdir or an "
        "evaluation; what --scores says, or else the first RUN, if not set",
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
    arguments = parser.parse_args(argv)
    if not arguments.runs and not arguments.scores:
        parser.error("give a RUN or --scores")
    return arguments


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.report"
) -> int:
    """Compares the runs named on the command line; returns the exit code."""
    return command.run(lambda: parse_arguments(argv, prog), _run)


def _run(arguments: argparse.Namespace) -> int:
    system.refuse_path("--output", arguments.output, bucket=True)
    if arguments.output and arguments.output.endswith(".json"):
        raise ConfigError(
            f"--output {arguments.output} is to be the page: name it .html, and the "
            "numbers are written beside it as .json"
        )
    for run in arguments.runs:
        system.refuse_path("RUN", run, bucket=True)
    for name in [*arguments.scores, *([arguments.labels] if arguments.labels else ())]:
        system.refuse_path("--scores and --labels", name)
    try:
        with addresses.one_sentence():
            runs = [addresses.as_path(run) for run in arguments.runs]
            if arguments.scores:
                known = _known_videos(arguments.labels, runs)
                runs += [evaluate_scores(Path(f), known) for f in arguments.scores]
            output = addresses.as_path(arguments.output or runs[0] / "comparison.html")
            if arguments.rebuild:
                _rebuild(runs)
            compared = comparison_page.write_comparison(
                comparison.read_entries(runs), output
            )
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be written ({error.strerror})"
        ) from error
    console = Console(highlight=False)
    print_comparison(compared, console)
    page = addresses.absolute(output)
    console.print(f"page: {page}", markup=False, soft_wrap=True)
    return 0


def _known_videos(labels: str | None, runs: Sequence[Path]) -> list[Video]:
    """The videos that ought to be scored; none where only the scores say it."""
    if labels is not None and not Path(labels).is_dir():
        return foreign.read_labels(Path(labels))
    run = Path(labels) if labels is not None else next(iter(runs), None)
    if run is None:
        return []
    folder, *others = comparison.find_evaluations(run)
    if others:
        names = ", ".join(one.name for one in (folder, *others))
        raise DataError(
            f"{run} has several evaluations ({names}): give one of them as --labels"
        )
    rows = results.read_rows(folder / "scores.jsonl", ClipScore)
    missing = results.read_evaluation(folder).context.unscored
    return sorted({row.video for row in [*rows, *missing]})


def evaluate_scores(path: Path, known: Sequence[Video] = ()) -> Path:
    """Evaluates a file of any detector's scores; the folder with its report.

    Raises DataError as foreign.read_scores does.
    """
    scores = foreign.read_scores(path, known)
    folder = path.with_name(f"{path.name}.report")
    folder.mkdir(exist_ok=True)
    context = Context(
        detector=path.stem,
        num_clips=len(scores.rows),
        unscored=scores.unscored,
        notes=scores.notes,
    )
    lines = [json.dumps(records.to_json(row)) + "\n" for row in scores.rows]
    write_whole(
        folder,
        {
            "scores.jsonl": "".join(lines),
            "context.json": json.dumps(records.to_json(context), indent=1) + "\n",
        },
    )
    evaluation_page.write_report(folder)
    return folder


def _rebuild(runs: Sequence[Path]) -> None:
    for run in runs:
        for folder in comparison.find_evaluations(run):
            workdir = addresses.absolute(folder).parent.parent
            evaluation_page.write_report(folder, metrics_file=workdir / "metrics.jsonl")


if __name__ == "__main__":
    sys.exit(main())
