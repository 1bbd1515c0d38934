"""Scores any video files with a trained model.

python -m fakedetect_jax.predict --workdir runs/demo VIDEO...

`from fakedetect_jax.predict import Detector` is the same from Python.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import TaskID

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.pages.formats import MADE_WARNING, clock
from fakedetect_jax.reports.video_result import PartResult, Span, VideoResult
from fakedetect_jax.serving import sources
from fakedetect_jax.serving.rows import Rows
from fakedetect_jax.serving.sources import Source
from tfds_ffpp import system
from tfds_ffpp.errors import DataError, Interrupted
from tfds_ffpp.store import addresses
from tfds_ffpp.terminal import command, progress
from tfds_ffpp.terminal.text import printable

if TYPE_CHECKING:
    from fakedetect_jax.serving.detector import Detector as Detector
    from fakedetect_jax.serving.session import Inspect
    from fakedetect_jax.serving.tracks import Pending
    from tfds_ffpp.frames.found import PreparedWindow

# Outcomes that say that the work could not be done; they make the exit code 3.
FAILURES = ("unreadable", "refused")


def __getattr__(name: str) -> Any:
    # Only who asks for it waits for JAX.
    if name == "Detector":
        from fakedetect_jax.serving.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Scores videos: the probability that a face in them is forged. "
        "A score is a hint, never a proof.",
        epilog="Exit codes: 0 every video has an outcome, 2 wrong usage, 3 a video "
        "could not be read, 4 the model cannot be used, 130 or 143 interrupted.",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video file, a folder of them, or a .txt with a path on each line",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workdir", metavar="W", help="the workdir of a training run")
    where.add_argument("--model", metavar="DIR", help="a folder that export wrote")
    parser.add_argument("--step", type=int, help="checkpoint; the best if not set")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="JSON lines, one per video, with a CSV of faces beside them; a second run "
        "makes what is missing; - is stdout",
    )
    parser.add_argument(
        "--shard",
        type=_share,
        default=(1, 1),
        metavar="I/N",
        help="the I-th of N parts of the videos, for arrays of jobs; the outputs of "
        "all parts one after another are those of one run",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="an HTML page per video, with the evidence, and an index of them",
    )
    parser.add_argument(
        "--faces",
        choices=("all", "largest"),
        default="all",
        help="score every face (default), or the largest as the evaluation does",
    )
    parser.add_argument(
        "--shots",
        choices=("find", "ignore"),
        default="find",
        help="look for cuts and judge each shot (default), or take each video for one "
        "shot, which saves decoding it twice",
    )
    _add_limits(parser)
    return parser.parse_args(argv)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--window-frames",
        type=_positive,
        metavar="N",
        help="cut videos into windows of at most N frames; the longest training "
        "video's length if not set",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "jax", "onnxruntime", "openvino"),
        default="jax",
        help="what computes on a CPU (jax); auto measures for a second, once",
    )
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="in clips")
    parser.add_argument(
        "--processes", type=_positive, metavar="N", help="that decode; one per core"
    )
    parser.add_argument(
        "--time-limit",
        type=_positive_number,
        metavar="SECONDS",
        default=3600.0,
        help="for decoding one video (3600)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_positive_number,
        metavar="GIB",
        default=4.0,
        help="for decoding one video (4)",
    )
    parser.add_argument(
        "--compilation-cache",
        metavar="DIR",
        default="~/.cache/fakedetect_jax",
        help='compiled programs; "" keeps none',
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _share(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 0 < int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
    return int(number), int(count)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.predict"
) -> int:
    """Runs the command; returns its exit code."""
    previous = signal.signal(signal.SIGTERM, _end_on_signal)
    try:
        return command.run(lambda: parse_arguments(argv, prog), _run)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_on_signal(*_: object) -> None:
    """Lets what is under way be cleaned up on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
    raise Interrupted(signal.SIGTERM)


def _run(arguments: argparse.Namespace) -> int:
    for option in ("workdir", "model", "output", "report", "compilation-cache"):
        path = getattr(arguments, option.replace("-", "_"))
        is_model = option in ("workdir", "model")
        system.refuse_path(f"--{option}", path, bucket=is_model)
    report = _folder(arguments.report)
    with _open_output(arguments.output) as output:
        ours = output.places if isinstance(output, Rows) else []
        asked = _asked(arguments, [*ours, *([report] if report else [])])
        return _score_all(arguments, asked, output, report)


def _asked(arguments: argparse.Namespace, ours: list[Path]) -> list[Source]:
    """What is to have a row: all that was named and lies in folders, or a share."""
    found = sources.find_all(arguments.videos, leave=ours)
    for line in sources.skipped_lines(found):
        print(line, file=sys.stderr)
    return sources.shard(sources.with_copies(found), *arguments.shard)


def _score_all(
    arguments: argparse.Namespace,
    asked: list[Source],
    output: Rows | TextIO | None,
    report: Path | None,
) -> int:
    model = addresses.as_path(arguments.workdir or arguments.model)
    with addresses.one_sentence():
        if not model.exists():  # said at once, before JAX is there
            raise CheckpointError(f"{model} is not there; give a workdir or an export")
    videos = sum(source.is_video for source in asked)
    with addresses.one_sentence():
        detector = _load(arguments, model, videos) if videos else None
    done = _kept(detector, asked, output, report)
    warnings = _warnings(detector)
    results = list(done.values())
    with _Table(len(asked) - len(done), stderr=output is sys.stdout) as table:
        for warning in warnings:
            table.say(f"warning: {warning}")
        table.head()
        if done:
            table.say(f"{len(done):,} rows are there already and stay")
        scored = _score(detector, sources.todo(asked, done), table, report)
        try:
            for result in sources.in_order(asked, done, scored):
                if isinstance(output, Rows):
                    output.add(result)
                elif output is not None:
                    row = json.dumps(result.to_json(), allow_nan=False)
                    print(row, file=output, flush=True)
                table.add(result)
                results.append(_without_clips(result))
        finally:
            scored.close()
            if report is not None and results:
                place = {source.name: number for number, source in enumerate(asked)}
                results.sort(key=lambda result: place[result.video])
                _write_index(report, results, warnings)
        if isinstance(output, Rows):
            output.finish(source.name for source in asked)
        if len(results) > 1:
            table.say(summary(results))
    failed = any(result.outcome in FAILURES for result in results)
    return DataError.exit_code if failed else 0


def _kept(
    detector: "Detector | None",
    asked: Sequence[Source],
    output: Rows | TextIO | None,
    report: Path | None,
) -> dict[str, VideoResult]:
    """The results that the file of --output has already, without their clips."""
    if detector is None or not isinstance(output, Rows):
        return {}
    found = output.kept([s.name for s in asked if s.is_video], detector.facts)
    return {
        result.video: _without_clips(result)
        for result in found
        if report is None or (result.page and Path(result.page).exists())
    }


def _warnings(detector: "Detector | None") -> list[str]:
    """Sentences on all results."""
    if detector is None:
        return []
    model = detector.model
    said = [MADE_WARNING] if model.made else []
    if model.guard is None:
        said.append(
            f"guard: none ({model.no_guard}); a face unlike all those of the training "
            "gets a verdict like any other"
        )
    return said


def _without_clips(result: VideoResult) -> VideoResult:
    """What the index and the last line need; many results with all clips are large."""
    return dataclasses.replace(result, faces=(), most_suspicious=None)


def summary(results: Sequence[VideoResult]) -> str:
    """How the videos came out: "2 called fake, 1 uncertain, 3 unreadable"."""
    # Each word that there is, verdicts first and in the order of the docs' table.
    order = ["called fake", "uncertain", "called real", "not called fake"]
    order += ["unfamiliar", "no face", "too short", "out of range"]
    counts = Counter(_words(result) for result in results)
    words = [w + part for w in order for part in ("", WITH_PART)]
    words = [w for w in words for w in (w, f"{w} {IN_PART}")]
    words += [*FAILURES, sources.PASSED_OVER]
    return ", ".join(f"{counts[word]:,} {word}" for word in words if counts[word])


IN_PART = "(in part)"
WITH_PART = " with a part called fake"


def _words(result: VideoResult) -> str:
    """The verdict on a video and on its most suspicious part, or why there is none."""
    words = result.verdict or result.outcome
    # Of a whole that is called fake it is no news.
    if result.part and result.part.verdict == "called fake" != result.verdict:
        words += WITH_PART
    return f"{words} {IN_PART}" if result.outcome == "partial" else words


def _write_index(
    report: Path, results: Sequence[VideoResult], warnings: Sequence[str]
) -> None:
    from fakedetect_jax.pages import video_page

    sentences = [f"{warning[:1].upper()}{warning[1:]}." for warning in warnings]
    video_page.write_index(report, summary(results), results, sentences)


def _load(arguments: argparse.Namespace, model: Path, videos: int) -> "Detector":
    from fakedetect_jax.serving.detector import Detector, Limits

    cache = arguments.compilation_cache
    return Detector.load(
        model,
        step=arguments.step,
        cache=Path(cache).expanduser() if cache else None,
        batch_size=arguments.batch_size or 0,
        window_frames=arguments.window_frames or 0,
        all_faces=arguments.faces == "all",
        find_shots=arguments.shots == "find",
        apart=True,  # a row is the same, to the bit, whatever is scored beside it
        num_processes=arguments.processes or os.cpu_count() or 1,
        started=videos,
        backend=arguments.backend,
        limits=Limits(arguments.time_limit, int(arguments.memory_limit * 2**30)),
    )


def _score(
    detector: "Detector | None",
    videos: Sequence[str],
    table: "_Table",
    report: Path | None,
) -> Generator[VideoResult, None, None]:
    """A result for each video; there is a detector if there are any."""
    if detector is None:
        return
    results = detector.results(
        videos,
        on_window=table.show_window,
        inspect=_page_writer(detector, report),
    )
    try:
        yield from results
    finally:
        results.close()
        detector.close()


def _page_writer(detector: "Detector", report: Path | None) -> "Inspect":
    if report is None:
        return lambda result, video: result
    from fakedetect_jax.serving import evidence

    def write(result: VideoResult, video: "Pending") -> VideoResult:
        page = evidence.write_page(detector.network, result, video, report)
        return dataclasses.replace(result, page=str(page))

    return write


def _folder(name: str | None) -> Path | None:
    if name is None:
        return None
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--report {folder} cannot be made ({error.strerror}); choose another"
        ) from error
    return folder


@contextlib.contextmanager
def _open_output(name: str | None) -> Iterator[Rows | TextIO | None]:
    """What --output names; see rows."""
    if name in (None, "-"):
        yield sys.stdout if name else None
        return
    rows = Rows(name)
    try:
        yield rows
    except KeyboardInterrupt as end:
        end.add_note(
            f"the results so far are in {rows.journal}; the same command goes on"
        )
        raise
    finally:
        rows.close()


# The terminal ----------------------------------------------------------------------

HEADER = f"{'verdict':<15}  {'fake':>9}  {'faces':>5}  {'highest at':<15}  video"
LINE_SECONDS = 10.0  # between two lines of progress where there is no bar


class _Table:
    """A line per video as it is done, and below them a bar of what is under way."""

    def __init__(self, total: int, *, stderr: bool):
        self._console = Console(stderr=stderr, highlight=False, soft_wrap=True)
        self._bar = progress.bars(self._console)
        self._total = total
        self._windows: dict[str, TaskID] = {}
        self._next_line = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> "_Table":
        self._bar.start()
        self._videos = self._bar.add_task("videos", total=self._total, note="videos")
        return self

    def head(self) -> None:
        """Prints the names of the columns."""
        self._console.print(HEADER, style="bold")

    def say(self, sentence: str) -> None:
        """Prints a sentence."""
        self._console.print(sentence, markup=False)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_window(self, name: str, window: "PreparedWindow") -> None:
        """Shows how far into a video of several windows we are."""
        stop, total = window.stop, window.total
        if name not in self._windows:
            self._windows[name] = self._bar.add_task(
                printable(Path(name).name), total=total, note="frames"
            )
        self._bar.update(self._windows[name], completed=stop)
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            print(f"{name}: frame {stop:,} of {total:,}", file=sys.stderr, flush=True)

    def add(self, result: VideoResult) -> None:
        """Prints a result."""
        task = self._windows.pop(result.video, None)
        if task is not None:
            self._bar.remove_task(task)
        self._bar.advance(self._videos)
        if result.outcome != sources.PASSED_OVER:  # they have a line of their own
            self._console.print(line(result), markup=False)


def line(result: VideoResult) -> str:
    """A result as a line of the table."""
    # A name is somebody else's text: nothing in it may steer the terminal.
    name = printable(result.video)
    top = result.most_suspicious
    if top is None:
        return f"{result.outcome:<15}  {'—':>9}  {'—':>5}  {'':<15}  {name}: " + (
            result.reason or ""
        )
    # A score that says nothing stands in brackets.
    shown = chance(result) if result.verdict else f"({chance(result)})"
    notes = []
    if part := result.part:
        notes.append(f"part {_span(part.seconds)} {part.verdict} ({chance(part)})")
    if result.reason:
        is_part = result.outcome == "partial"
        notes.append(f"partial, {result.reason}" if is_part else result.reason)
    if result.copy_of:
        notes.append(f"the same as {printable(result.copy_of)}")
    return (
        f"{result.verdict or result.outcome:<15}  {shown:>9}  {len(result.faces):5}  "
        f"{_span(top.seconds):<15}  {name}" + (": " if notes else "") + "; ".join(notes)
    )


def _span(seconds: Span) -> str:
    return f"{clock(seconds[0])}–{clock(seconds[1])}"


def chance(result: VideoResult | PartResult) -> str:
    """The one number of a video or part: the probability, or a score that is none."""
    if result.probability is None:
        return f"{result.score:.3f}"
    return f"{100 * result.probability:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
