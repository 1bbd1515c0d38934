"""How long until every process of a run has ended, for each way in which one can fail.

python -m benchmarks.hosts [--quick] [--out runs/hosts]

Starts the demo's run, made small, as two, three or four processes on loopback, makes
one fault, and measures the seconds from the fault until the last process has ended; a
fault of the command is there from the start of Python. Prints a Markdown table and
writes it to OUT/hosts.md. --quick leaves out the faults that take 30 s.

--start N: instead, the seconds from the start of two processes to the line that says
"steps", N times.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

LIMIT_SECONDS = 400
SMALL = {
    "model.stage_sizes": "(1,1)",
    "model.width": 8,
    "model.lstm_features": 8,
    "dataset.image_size": 32,
    "dataset.num_frames": 12,
    "dataset.name": "hosts",
    "batch_size": 12,
    "eval.batch_size": 12,
    "eval.final_split": "",
    "synthetic.num_identities": 12,
    "synthetic.frame_size": 128,
    "num_epochs": 100000,
    "log_every_steps": 1,
}


class Fault(NamedTuple):
    """A way to fail: how many processes, the flags of one, what is done to it."""

    name: str
    count: int
    own: tuple[int, tuple[str, ...]] = (0, ())
    strike: tuple[int, int] | None = None  # (process, signal) once training runs
    late: float = 0.0  # seconds by which the last process comes late


class Started(NamedTuple):
    """A process and the file of what it says."""

    process: subprocess.Popen
    log: Path


def flags(out: Path, **changes: object) -> list[str]:
    """The command line of the small run."""
    fields = SMALL | {
        "data.manual_dir": out / "videos",
        "data.data_dir": out / "tfds",
        "compilation_cache": out / "cache",
    }
    fields |= changes
    return ["--config=configs/demo.py", "--notune_malloc"] + [
        f"--config.{name}={value}" for name, value in fields.items()
    ]


def start(number: int, count: int, port: int, out: Path, *more: str) -> Started:
    """Starts one process of a run."""
    words = [sys.executable, "-m", "fakedetect_jax.main", *flags(out)]
    words += [f"--workdir={out / 'run'}", f"--coordinator=localhost:{port}"]
    words += [f"--num_processes={count}", f"--process_id={number}", *more]
    log = out / f"{number}-{time.monotonic_ns()}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
    return Started(process, log)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Measured(NamedTuple):
    """Seconds from the fault, and from the first error said, until the last end."""

    from_fault: float
    from_error: float
    codes: list[int | None]
    sentence: str


def measure(fault: Fault, out: Path) -> Measured:
    """Makes a fault; a fault of the command is made at the start of the processes."""
    shutil.rmtree(out / "run", ignore_errors=True)
    port, began, started = free_port(), time.monotonic(), []
    for number in range(fault.count):
        if fault.late and number == fault.count - 1:
            time.sleep(fault.late)
        own = fault.own[1] if fault.own[0] == number else ()
        started.append(start(number, fault.count, port, out, *own))
    victim, blow = fault.strike or (-1, 0)
    if fault.strike:
        wait_for(lambda: "train 3/" in started[0].log.read_text())
        began = time.monotonic()
        # The run is in a child of the process that was started.
        if blow == signal.SIGSTOP:
            stop_children(started[victim].process.pid)
        started[victim].process.send_signal(blow)
    left = [s for n, s in enumerate(started) if n != victim or blow != signal.SIGSTOP]
    wait_for(lambda: any("error: " in s.log.read_text() for s in left))
    said = time.monotonic()
    wait_for(lambda: all(s.process.poll() is not None for s in left))
    ended = time.monotonic()
    codes = [s.process.poll() for s in left]
    for one in started:
        one.process.send_signal(signal.SIGCONT)
        one.process.kill()
        one.process.wait()
    lines = [line for s in left for line in s.log.read_text().splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    sentence = errors[0] if errors else "no sentence"
    return Measured(ended - began, ended - said, codes, sentence)


def stop_children(pid: int) -> None:
    """Stops the children of a process too."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in tasks:
        os.kill(int(child), signal.SIGSTOP)


def faults(out: Path, quick: bool) -> list[Fault]:
    """What is tried."""
    lost = ("--config.data.data_dir=/nonexistent", "--config.data.manual_dir=")
    seed = ("--config.seed=7", "--config.optimizer.learning_rate=0.5")
    found = [
        Fault("another batch_size", 2, (1, ("--config.batch_size=24",))),
        Fault("another num_epochs", 2, (1, ("--config.num_epochs=2",))),
        Fault("kill -9 of process 0", 2, strike=(0, signal.SIGKILL)),
    ]
    for count in (2, 3, 4):
        last = count - 1
        found += [
            Fault("another seed and learning rate", count, (last, seed)),
            Fault("a wrong flag", count, (last, ("--config.num_epochs=abc",))),
            Fault("no dataset on one host", count, (last, lost)),
            Fault("kill -9 in training", count, strike=(last, signal.SIGKILL)),
        ]
    if not quick:
        found += [
            Fault("stopped in training", 2, strike=(1, signal.SIGSTOP)),
            Fault("process 0 stopped", 2, strike=(0, signal.SIGSTOP)),
            Fault("a minute late, then killed", 2, strike=(1, signal.SIGKILL), late=60),
        ]
    return found


def start_seconds(out: Path) -> float:
    """From the start of two processes to the line that names the steps."""
    shutil.rmtree(out / "run", ignore_errors=True)
    port, began = free_port(), time.monotonic()
    both = [start(number, 2, port, out) for number in range(2)]
    wait_for(lambda: "\nsteps " in both[0].log.read_text())
    seconds = time.monotonic() - began
    for one in both:
        one.process.kill()
        one.process.wait()
    return seconds


def build(out: Path) -> None:
    """Makes the dataset, in a run of one step."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    words = [sys.executable, "-m", "fakedetect_jax.main", *flags(out, num_steps=1)]
    subprocess.run(
        [*words, f"--workdir={out / 'first'}"], check=True, stdout=subprocess.DEVNULL
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--start", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("runs/hosts"))
    options = parser.parse_args(argv)
    out = options.out.absolute()
    os.environ["JAX_PLATFORMS"] = "cpu"
    build(out)
    if options.start:
        seconds = [start_seconds(out) for _ in range(options.start)]
        print(f"{statistics.median(seconds):.2f} s to the first line about steps")
        print(", ".join(f"{s:.2f}" for s in seconds))
        return
    rows = ["| fault | processes | s from the fault | s from the first error |"]
    rows[0] += " exit codes | first sentence |"
    rows.append("|---|---|---|---|---|---|")
    print("\n".join(rows))
    for fault in faults(out, options.quick):
        found = measure(fault, out)
        told = ", ".join(map(str, found.codes))
        short = found.sentence.removeprefix("error: ")[:60].replace("|", "/")
        rows.append(
            f"| {fault.name} | {fault.count} | {found.from_fault:.1f} | "
            f"{found.from_error:.1f} | {told} | {short} … |"
        )
        print(rows[-1], flush=True)
    (out / "hosts.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
