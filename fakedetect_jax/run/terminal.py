"""What a run says of itself: metrics.jsonl, TensorBoard events, the terminal."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Terminal:
    """Lines and a progress bar for a person; silent on all processes but the first."""

    def __init__(self, *, quiet: bool = False):
        """With quiet, nothing is printed."""
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._errors = Console(
            stderr=True, quiet=quiet, highlight=False, soft_wrap=True
        )
        self.phases: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Prints a line as it is."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Prints a warning on stderr."""
        self._errors.print(f"warning: {text}", markup=False)

    def progress(self, description: str, total: int, done: int = 0) -> "Steps":
        """A bar of steps with loss, rate and time left."""
        return Steps(self._console, description, total, done)

    def add_phase(self, name: str, seconds: float) -> None:
        """Adds seconds to a phase."""
        self.phases[name] = self.phases.get(name, 0.0) + seconds

    def phase(self, name: str) -> "Phase":
        """A context whose seconds are added to `phases`."""
        return Phase(self.phases, name)


class Phase:
    """Adds the seconds spent inside to a table."""

    def __init__(self, table: dict[str, float], name: str):
        """`table` maps names to seconds."""
        self._table, self._name = table, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_) -> None:
        spent = time.perf_counter() - self._start
        self._table[self._name] = self._table.get(self._name, 0.0) + spent


class Steps:
    """A progress bar; on something that is no terminal, a line now and then."""

    def __init__(self, console: Console, description: str, total: int, done: int):
        """`done` of `total` steps are behind us."""
        self._console, self._total = console, total
        self._description = description
        self._started, self._first = time.perf_counter(), done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            description, total=total, completed=done, note=""
        )

    def __enter__(self) -> "Steps":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Shows that `done` steps are behind us."""
        self._bar.update(self._task, completed=done, note=note)

    def resize(self, total: int) -> None:
        """Corrects the number of steps."""
        self._total = total
        self._bar.update(self._task, total=total)

    def line(self, done: int, note: str) -> None:
        """The same as a line with date and time left, where there is no bar."""
        if self._console.is_terminal:
            return
        spent = time.perf_counter() - self._started
        left = spent / max(done - self._first, 1) * (self._total - done)
        self._console.print(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}  "
            f"{self._description} {done}/{self._total}  {note}  "
            f"{int(left // 60)}:{int(left % 60):02d} left",
            markup=False,
        )
