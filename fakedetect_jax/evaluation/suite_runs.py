"""The processes of a suite: what is still to be done, several at a time, resumable.

What is done is read off the workdirs themselves, so a suite that was stopped or killed
goes on where it was, and jobs of a cluster need to know nothing of each other. Every
process is a command of fakedetect_jax.main that could be typed by hand; what it prints
goes into a log in its workdir, which is also where the page finds why one failed.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from fakedetect_jax import settings
from fakedetect_jax.data import dataset
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.evaluation.suite_plan import Trial
from fakedetect_jax.reports import results
from fakedetect_jax.run import fixed, process, workdir
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.trained import weights
from tfds_ffpp.errors import DataError, Interrupted, UserError
from tfds_ffpp.fields import Fields
from tfds_ffpp.terminal.lines import Terminal

LOOK_EVERY = 0.05  # seconds between two looks at the processes
TELL_EVERY = 60.0  # seconds after which a log's last line is shown
NOT_RUN = "not run yet"


# What is done --------------------------------------------------------------------


def is_trained(trial: Trial) -> bool:
    """Whether a trial's workdir holds all of the training that the suite asks for.

    As a training itself finds when it is started again: its newest whole checkpoint
    ends the plan, was evaluated, and the report of the final split is written.
    """
    config, folder = trial.config, trial.workdir
    if not workdir.has_checkpoint(folder):
        return False
    try:
        own = workdir.read_config(folder)
        changed = settings.differences(own.to_dict(), config.to_dict())
        if changed.keys() - set(workdir.HOSTS_OWN):
            return False
        with contextlib.closing(
            Checkpoints(folder / "checkpoints", read_only=True)
        ) as checkpoints:
            step = checkpoints.latest()
            if step is None:
                return False
            per_epoch = checkpoints.facts(step).steps_per_epoch or 0
            is_evaluated = bool(checkpoints.metrics(step))
    except UserError:  # a training that is started again says what is wrong
        return False
    is_evaluated = is_evaluated or not config.eval.every_epochs
    final = config.eval.final_split
    is_reported = not final or any(folder.glob(f"eval/*{final}@*/report.json"))
    wanted = config.num_steps or config.num_epochs * per_epoch
    return 0 < wanted <= step and is_evaluated and is_reported


def find_result(trial: Trial, test: str) -> Path | None:
    """The folder of the result that a trial's test would write anew; None without one.

    Where the dataset is gone a result of whatever version of it counts, as nothing can
    contradict it. Raises DataError where there is neither result nor dataset, and
    CheckpointError where there is no model.
    """
    own = workdir.read_config(trial.workdir)
    config = fixed.as_trained(trial.config, own)[0]
    folder = trial.workdir / "checkpoints"
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
        step = weights.choose_step(checkpoints, None)
        facts = checkpoints.facts(step)
    prefix = "" if trial.is_own(test) else f"{test}-"
    plain = trial.workdir / "eval" / f"{prefix}test@{step}"
    try:
        builder = dataset.open_dataset(config, test)
    except DataError:
        for folder in sorted(plain.parent.glob(f"{plain.name}*")):
            there = results.recorded(folder)
            if there.get("weights") == weights.checkpoint_digest(facts):
                return folder
        raise
    wanted: Fields = evaluate.scored_with(config, facts, builder.data_dir)
    folder, _ = evaluate.choose_folder(plain, wanted)
    return folder if results.recorded(folder) == wanted else None


def missing_tests(trials: Sequence[Trial]) -> Iterator[str]:
    """A sentence for each test on a dataset that is not there, or does not fit."""
    of_model = {(trial.model, test): trial for trial in trials for test in trial.tests}
    for (_, test), trial in of_model.items():
        try:
            dataset.open_dataset(trial.config, test)
        except UserError as error:
            yield f"the test on {test} of {trial.model} has no dataset yet: {error}"


def log_of(trial: Trial, test: str = "") -> Path:
    """Where a trial's training, or its test on a dataset, prints."""
    return trial.workdir / (f"test-{test}.log" if test else "train.log")


def problem(trial: Trial, test: str = "") -> str:
    """Why a process has left no result, by the last attempt in its log."""
    path = log_of(trial, test)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return NOT_RUN
    last = text.rpartition("\n$ ")[2]
    said = re.findall(r"^error: (.+)$", last, re.MULTILINE)
    if said:
        return said[-1]
    ended = re.search(r"^exit code (\d+)$", last, re.MULTILINE)
    if not ended:
        return f"under way, or its machine was lost; {path} has how far it came"
    if int(ended[1]) > 128:
        return f"ended by {signal.Signals(int(ended[1]) - 128).name}; see {path}"
    return f"ended with exit code {ended[1]} and no sentence; see {path}"


# What is to be done --------------------------------------------------------------


class Task(NamedTuple):
    """A process of a trial: its training, or its test on a dataset."""

    trial: Trial
    test: str = ""

    def __str__(self) -> str:
        return f"test on {self.test}" if self.test else "training"


def tasks(trial: Trial) -> Iterator[Task]:
    """What a trial still needs; each is asked for when the one before has ended.

    A test on a dataset that is not there is no process: its log says why.
    """
    if not is_trained(trial):
        yield Task(trial)
        if not is_trained(trial):
            return
    for test in trial.tests:
        try:
            found = find_result(trial, test)
        except UserError as error:
            _write(log_of(trial, test), f"\n$ {test}\nerror: {error}\n")
            continue
        if found is None:
            yield Task(trial, test)


def _write(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


# Where ---------------------------------------------------------------------------


class Slot(NamedTuple):
    """A part of this machine: for one process at a time. cores: none means all."""

    environment: dict[str, str]
    cores: tuple[int, ...] = ()


def make_slots(jobs: int, accelerator: str) -> list[Slot]:
    """This machine in equal parts: its GPUs or, without one, its cores.

    Raises ConfigError where there are fewer of these than jobs.
    """
    if jobs == 1:
        return [Slot({})]
    if process.will_run_on_cpu(accelerator):
        kind, devices = "cores", [str(n) for n in sorted(os.sched_getaffinity(0))]
    else:
        kind, devices = "GPUs", _gpus()
    if jobs > len(devices):
        raise ConfigError(
            f"--jobs is {jobs}, and this machine has {len(devices)} {kind} to share "
            "out; give fewer, or run the lines of --list as jobs of a cluster"
        )
    shares = [devices[number::jobs] for number in range(jobs)]
    if kind == "GPUs":
        return [Slot({"CUDA_VISIBLE_DEVICES": ",".join(share)}) for share in shares]
    return [Slot({}, tuple(map(int, share))) for share in shares]


def _gpus() -> list[str]:
    """The GPUs of NVIDIA that this process may use, by their numbers or names."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


class UnderWay(NamedTuple):
    """A process that runs, the title of its trial, and what that needs afterwards."""

    title: str
    task: Task
    rest: Iterator[Task]
    slot: Slot
    running: subprocess.Popen


class Suite:
    """Runs trials on a machine; a context in which signals are passed on to them."""

    def __init__(self, terminal: Terminal):
        """Starts nothing."""
        self._terminal = terminal
        self._free: list[Slot] = []
        self._under_way: list[UnderWay] = []
        self._signal = 0
        self._told = time.monotonic()

    def __enter__(self) -> "Suite":
        self._previous = {
            number: signal.signal(number, self._stop) for number in process.FORWARDED
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Passes a signal on; the suite ends when all that it reached have ended."""
        self._signal = number
        if not self._under_way:
            raise Interrupted(number)
        for one in self._under_way:
            one.running.send_signal(number)

    def run(self, trials: Sequence[Trial], slots: Sequence[Slot]) -> int:
        """Runs what is to be done; the exit code of the first that failed, or 0.

        A failure stops what follows in its trial alone. Raises Interrupted after a
        signal, when every process has saved and ended.
        """
        self._free = list(slots)
        code, waiting = 0, iter(enumerate(trials, start=1))
        while True:
            while self._free and not self._signal and (one := next(waiting, None)):
                number, trial = one
                title = f"run {number} of {len(trials)}: {trial}"
                if not self._go_on(title, tasks(trial), self._free.pop()):
                    self._terminal.say(f"{title}: nothing is left to do")
            if not self._under_way:
                break
            time.sleep(LOOK_EVERY)
            for ended in [o for o in self._under_way if o.running.poll() is not None]:
                self._under_way.remove(ended)
                failed = self._note_end(ended)
                code = code or failed
                self._go_on(ended.title, ended.rest, ended.slot)
            self._tell()
        if self._signal:
            raise Interrupted(self._signal)
        return code

    def _go_on(self, title: str, rest: Iterator[Task], slot: Slot) -> bool:
        """Starts the next process of a trial; False, and its slot free, without one."""
        task = None if self._signal else next(rest, None)
        if task is None:
            self._free.append(slot)
            return False
        log, words = log_of(*task), task.trial.command(task.test)
        self._terminal.say(f"{title}: {task} ({log})")
        _write(log, f"\n$ {shlex.join(words)}\n")
        with log.open("a") as file:
            running = subprocess.Popen(  # noqa: S603
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment, **process.ending_with_this()},
                # Ctrl-C reaches this process, which passes it on, once.
                process_group=0,
            )
        if slot.cores:  # before its threads start: they inherit it
            os.sched_setaffinity(running.pid, slot.cores)
        self._under_way.append(UnderWay(title, task, rest, slot, running))
        if self._signal:  # it came while the process was started
            running.send_signal(self._signal)
        return True

    def _note_end(self, ended: UnderWay) -> int:
        """Writes the exit code into the log, and says what went wrong."""
        code = ended.running.returncode
        code = code if code >= 0 else 128 - code
        _write(log_of(*ended.task), f"exit code {code}\n")
        if code and not self._signal:
            why = problem(*ended.task)
            self._terminal.warn(f"{ended.title}: {ended.task} failed: {why}")
        return code

    def _tell(self) -> None:
        """Now and then shows how far each process is."""
        if time.monotonic() - self._told < TELL_EVERY:
            return
        self._told = time.monotonic()
        for one in self._under_way:
            lines = log_of(*one.task).read_text(errors="replace").splitlines()
            self._terminal.say(f"  {one.title}: {lines[-1] if lines else ''}")
