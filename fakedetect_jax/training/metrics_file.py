"""metrics.jsonl and TensorBoard's events: what training measured."""

import hashlib
import importlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfds_ffpp.fields import Fields
from tfds_ffpp.store import addresses
from tfds_ffpp.store.files import read_lines, write_lines
from tfds_ffpp.terminal.lines import Terminal

# What TensorBoard's hyperparameter page compares runs by.
COMPARED = ("val/video_auc", "val/loss")


class MetricsFile:
    """metrics.jsonl and events of the steps up to now, without gaps or repeats.

    A failure to write is said once and does not end a run: its metrics are worth less
    than its state. A bucket takes whole files only: they are written in a folder of
    this machine and sent with every flush.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resumed_step: int,
        validated: bool = True,
        fields: Fields | None = None,
        tracker: str = "",
    ):
        """Cuts what a lost piece of the run wrote after `resumed_step`.

        validated: whether that step's checkpoint has its evaluation on val, which is
          otherwise made again.
        fields: the config's, by their dotted names, to be compared with other runs'.
        tracker: "", or the package of config.tracker, which is installed.
        """
        self.path = workdir / "metrics.jsonl"
        self._failed = False
        self._staged: tempfile.TemporaryDirectory | None = None
        self._file = None
        self._events = None
        self._attempt(self._open, workdir, resumed_step, validated, fields or {})
        self._tracker = _Tracker(tracker, workdir, fields or {}) if tracker else None

    def _open(
        self, workdir: Path, resumed_step: int, validated: bool, fields: Fields
    ) -> None:
        folder = workdir
        if addresses.is_address(workdir):
            self._staged = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            folder = Path(self._staged.name)
        kept = []
        if self.path.exists():
            lines = read_lines(self.path, required=("step", "kind"))
            if lines.damaged:
                Terminal().warn(lines.complaint(self.path))
            last = {"val": resumed_step if validated else resumed_step - 1}
            kept = [
                row
                for row in lines.rows
                if _is_up_to(row["step"], last.get(row["kind"], resumed_step))
            ]
        path = folder / self.path.name
        write_lines(path, kept)
        self._file = open(path, "a")  # noqa: SIM115 - lives as long as the run
        self._events = _Events(folder / "events", resumed_step)
        self._events.add_fields(fields)

    def _send(self) -> None:
        """Puts the staged files into the bucket, each whole."""
        if self._staged is not None:
            folder = Path(self._staged.name)
            for path in (folder / self.path.name, *(folder / "events").iterdir()):
                target = self.path.parent / path.relative_to(folder).as_posix()
                target.write_bytes(path.read_bytes())

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds the numbers of a step; kind is train or val."""
        self._attempt(self._write, step, kind, values)
        if self._tracker is not None:
            self._tracker.add(step, _scalars(kind, values))

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._events is not None:
            self._events.add(step, _scalars(kind, values))

    def write_picture(self, step: int, tag: str, image: np.ndarray) -> None:
        """Adds a picture uint8[H,W,3], in the events only."""
        if self._events is not None:
            self._attempt(self._events.add_picture, step, tag, image)

    def write_curve(
        self, step: int, tag: str, labels: Sequence[int], scores: np.ndarray
    ) -> None:
        """Adds the precision-recall curve of probabilities, in the events only."""
        if self._events is not None:
            self._attempt(self._events.add_curve, step, tag, labels, scores)

    def flush(self) -> None:
        """Puts all lines on disk; called before a checkpoint that covers them."""
        self._attempt(self._flush)

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()
        self._send()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        self._attempt(self._close)
        if self._tracker is not None:
            self._tracker.close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
        if self._staged is not None:
            self._staged.cleanup()

    def _attempt(self, action, *arguments) -> None:
        try:
            action(*arguments)
        except (OSError, ValueError, *addresses.errors()) as error:
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
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        self._summaries = summary
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        folder.mkdir(exist_ok=True)
        # Its name has the second in it, and a restart may come in the same one.
        within = f".{time.time_ns() % 10**9:09d}"
        self._file = EventsWriter(str(folder / "events"), within)
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

    def add_picture(self, step: int, tag: str, image: np.ndarray) -> None:
        """Adds a picture uint8[H,W,3]."""
        summary = self._summaries.image(tag, image, dataformats="HWC")
        self._write(step=step, summary=summary)

    def add_curve(
        self, step: int, tag: str, labels: Sequence[int], scores: np.ndarray
    ) -> None:
        """Adds a precision-recall curve of probabilities."""
        curve = self._summaries.pr_curve(tag, np.asarray(labels), scores)
        self._write(step=step, summary=curve)

    def add_fields(self, fields: Fields) -> None:
        """Adds the fields of a config."""
        known = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in fields.items()
        }
        for summary in self._summaries.hparams(known, dict.fromkeys(COMPARED)):
            self._write(summary=summary)

    def flush(self) -> None:
        """Puts all events on disk."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _Tracker:
    """The run in trackio or W&B, under the name of its workdir.

    Whatever these packages raise, such as a lost network, is said once and does not end
    the run.
    """

    def __init__(self, name: str, workdir: Path, fields: Fields):
        self._name, self._run = name, None
        options = {"project": "fakedetect-jax", "name": workdir.name, "config": fields}
        if name == "wandb":
            # The same run after a resume, which trackio knows by the name.
            short = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
            options |= {"id": short}
            if not addresses.is_address(workdir):
                options |= {"dir": str(workdir)}
        try:
            self._run = importlib.import_module(name).init(resume="allow", **options)
        except Exception as error:
            self._give_up(error)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds the scalars of a step."""
        try:
            if self._run is not None:
                self._run.log(values, step=step)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Ends it; what is still to be sent is sent."""
        try:
            if self._run is not None:
                self._run.finish()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        Terminal().warn(
            f"{self._name} does not follow the run any more ({error}); training goes "
            "on without it"
        )


def first_best(workdir: Path, metric: str, last: int) -> tuple[int, float] | None:
    """Step and value of the first evaluation up to `last` that none was better than;
    None where metrics.jsonl knows none."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return None
    values = [
        (row["step"], row.get(metric))
        for row in read_lines(path, required=("step", "kind")).rows
        if row["kind"] == "val"
    ]
    known = {
        step: value
        for step, value in values
        if _is_up_to(step, last) and isinstance(value, int | float) and value == value
    }
    return max(sorted(known.items()), key=lambda one: one[1], default=None)


def _scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
    return {f"{kind}/{k}": v for k, v in numbers.items()}


def _is_up_to(step: Any, last: int) -> bool:
    return isinstance(step, int) and step <= last
