"""A progress bar with total and time left; a line now and then without a terminal."""

import sys
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY = 30.0  # seconds, without a terminal


class Progress:
    """Counts the steps of a task on stderr."""

    def __init__(self, label: str, total: int):
        """Shows nothing when there is nothing to do."""
        self._label, self._total, self._count = label, total, 0
        self._skipped = 0
        self._start = self._last = monotonic()
        self._bar: RichProgress | None = None
        if total and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn(label),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._count > self._skipped:
            self._line()

    def skip(self, count: int) -> None:
        """Counts steps that cost nothing; the time left is not reckoned from them."""
        self._count += count
        self._skipped += count
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def step(self) -> None:
        """Counts one step done."""
        self._count += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif monotonic() - self._last > LINE_EVERY:
            self._last = monotonic()
            self._line()

    def _line(self) -> None:
        spent = monotonic() - self._start
        worked = self._count - self._skipped
        left = spent / max(worked, 1) * (self._total - self._count)
        sys.stderr.write(
            f"{self._label}: {self._count}/{self._total}, "
            f"{worked / max(spent, 1e-9):.2f}/s, {left:.0f} s left\n"
        )
