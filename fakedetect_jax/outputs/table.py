"""What the terminal shows of results: a line for each, and how they came out."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import TaskID

from fakedetect_jax.pages.formats import clock
from fakedetect_jax.reports.video_result import PartResult, Span, VideoResult
from fakedetect_jax.serving import sources
from tfds_ffpp.frames.found import Looked
from tfds_ffpp.terminal import progress
from tfds_ffpp.terminal.text import printable

if TYPE_CHECKING:
    from tfds_ffpp.frames.found import PreparedWindow

# Outcomes that say that the work could not be done; they make the exit code 3.
FAILURES = ("unreadable", "refused")
HEADER = f"{'verdict':<15}  {'fake':>9}  {'faces':>5}  {'highest at':<15}  video"
LINE_SECONDS = 10.0  # between two lines of progress where there is no bar


def summary(results: Sequence[VideoResult]) -> str:
    """How the videos came out: "2 called fake, 1 uncertain, 3 unreadable"."""
    # Each word that there is, verdicts first and in the order of the docs' table.
    order = ["called fake", "uncertain", "called real", "not called fake"]
    order += ["unfamiliar", "no face", "too short", "needs video", "out of range"]
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


class Table:
    """A line per video as it is done, and below them a bar of what is under way."""

    def __init__(self, total: int, *, stderr: bool):
        self._console = Console(stderr=stderr, highlight=False, soft_wrap=True)
        self._bar = progress.bars(self._console)
        self._total = total
        self._windows: dict[str, TaskID] = {}
        self._next_line = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> "Table":
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

    def show(self, name: str, found: "Looked | PreparedWindow") -> None:
        """Shows how far into a long video we are: at its shots, or at its windows."""
        looks = isinstance(found, Looked)
        done, total = found.frames if looks else found.stop, found.total
        shown = printable(Path(name).name)
        if name not in self._windows:
            self._windows[name] = self._bar.add_task(shown, total=total, note="")
        note = "frames looked at for shots" if looks else "frames"
        self._bar.update(self._windows[name], completed=done, total=total, note=note)
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            what = "looking for shots, frame" if looks else "frame"
            line = f"{printable(name)}: {what} {done:,} of {total:,}"
            print(line, file=sys.stderr, flush=True)

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
