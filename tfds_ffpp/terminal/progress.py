"""How far a long task is: a bar on a terminal, elsewhere a line now and then."""

import time
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

LINE_EVERY = 30.0  # seconds, without a terminal


def bars(console: Console) -> Bars:
    """Bars that are gone when they end; their tasks have the field `note`."""
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Progress:
    """Counts the steps of a task; the time left is reckoned from those done now."""

    def __init__(
        self,
        description: str,
        total: int,
        *,
        done: int = 0,
        console: Console | None = None,
    ):
        """`done` of `total` steps are behind us; without a console it is stderr's."""
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._description, self._total = description, total
        self._first = self._done = done
        self._note = ""
        self._started = self._last = monotonic()
        self._bars = bars(self._console)
        self._task = self._bars.add_task(
            description, total=total, completed=done, note=""
        )

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def skip(self, count: int) -> None:
        """Counts steps that cost nothing."""
        self._first += count
        self._done += count
        self._bars.update(self._task, completed=self._done)

    def step(self) -> None:
        """Counts one step done."""
        self.update(self._done + 1)

    def update(self, done: int, note: str = "") -> None:
        """Shows that `done` steps are behind us."""
        self._done, self._note = done, note
        self._bars.update(self._task, completed=done, note=note)
        if monotonic() - self._last > LINE_EVERY:
            self.line()

    def resize(self, total: int) -> None:
        """Corrects the number of steps."""
        self._total = total
        self._bars.update(self._task, total=total)

    def line(self) -> None:
        """What the bar shows as a line with date and time, where there is no bar."""
        if self._console.is_terminal:
            return
        self._last = monotonic()
        spent, worked = self._last - self._started, self._done - self._first
        left = spent / max(worked, 1) * (self._total - self._done)
        self._console.print(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}  "
            f"{self._description} {self._done}/{self._total}  "
            f"{self._note or f'{worked / max(spent, 1e-9):.2f}/s'}  "
            f"{int(left // 60)}:{int(left % 60):02d} left",
            markup=False,
        )
