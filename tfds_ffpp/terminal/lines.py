"""What a run says to a person, and how long its parts took."""

import time

from rich.console import Console

from tfds_ffpp.terminal.progress import Progress


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

    def progress(self, description: str, total: int, done: int = 0) -> Progress:
        """A bar of steps, with a note and the time left."""
        return Progress(description, total, done=done, console=self._console)

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
