"""What a run says of itself: metrics.jsonl, TensorBoard events, the terminal."""

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from fakedetect_jax.files import read_lines


class MetricsFile:
    """metrics.jsonl and events of the steps up to now, without gaps or repeats.

    Failing to write is told once and does not end a run: its metrics are worth less
    than its state.
    """

    def __init__(self, workdir: Path, *, resumed_step: int):
        """Cuts what a lost piece of the run wrote after `resumed_step`."""
        self.path = workdir / "metrics.jsonl"
        self._failed = False
        self._file = None
        self._events = None
        self._attempt(self._open, workdir, resumed_step)

    def _open(self, workdir: Path, resumed_step: int) -> None:
        if self.path.exists():
            lines = read_lines(self.path, required=("step", "kind"))
            if lines.damaged:
                Terminal().warn(lines.complaint(self.path))
            kept = [r for r in lines.rows if _is_up_to(r["step"], resumed_step)]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(temporary, self.path)
        self._file = open(self.path, "a")  # noqa: SIM115 - lives as long as the run
        self._events = _Events(workdir / "events", resumed_step)

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Adds the numbers of a step; kind is train or val."""
        self._attempt(self._write, step, kind, values)

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._events.add(step, {f"{kind}/{k}": v for k, v in numbers.items()})

    def flush(self) -> None:
        """Puts all lines on disk; called before a checkpoint that covers them."""
        self._attempt(self._flush)

    def _flush(self) -> None:
        if self._file is not None and self._events is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        self._attempt(self._close)

    def _close(self) -> None:
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()

    def _attempt(self, action, *arguments) -> None:
        try:
            action(*arguments)
        except (OSError, ValueError) as error:
            if not self._failed:
                Terminal().warn(
                    f"metrics cannot be written to {self.path} ({error}); "
                    "training goes on without them"
                )
            self._failed = True


class _Events:
    """A TensorBoard event file.

    tensorboardX's SummaryWriter would write from a thread behind a bounded queue: with
    a full disk the thread dies, the queue fills and the run hangs.
    """

    def __init__(self, folder: Path, resumed_step: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # protobuf's, from within tensorboardX
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        # TensorBoard forgets what a lost piece of the run wrote from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # pyright: ignore[reportAttributeAccessIssue]
        self._write(step=resumed_step + 1, session_log=start)

    def _write(self, **fields: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **fields))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds the scalars of a step."""
        scalars = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
        ]
        self._write(step=step, summary=self._summary(value=scalars))

    def flush(self) -> None:
        """Puts all events on disk."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _is_up_to(step: Any, last: int) -> bool:
    return isinstance(step, int) and step <= last


def clock(seconds: float) -> str:
    """A place in a video: 61.24 -> "1:01.2"."""
    tenths = round(10 * max(seconds, 0.0))
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


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
