"""How long until every process of a run has ended, for each way in which one can fail.

python -m benchmarks.hosts [--quick] [--out runs/hosts]

Starts the demo's run, made small, as two, three or four processes on loopback, makes
one fault, and measures the seconds from it until the last process has ended; a fault of
the command is there from the start of Python. --quick leaves out the faults that take
30 s.

--cost: instead, what it adds to the start of two processes (facts, join, meetings), the
median of ten, and the share of a core that a joined process takes when nothing happens.

--step_cost: instead, what it adds to each step of one process and of two: a small
program with and without the vote on stopping and the connection to the other, in turns,
the best of several rounds.
"""

import argparse
import itertools
import json
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

import numpy as np

from benchmarks import table

LIMIT_SECONDS = 400
MEETINGS = ("dataset", "plan", "resume", "ready for the first step")  # of a training
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
    lost = ("--config.data.data_dir=/nonexistent",)
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


def _cost_of_one(number: int, port: int, idle_seconds: float) -> None:
    """In a process of its own; process 0 prints its seconds."""
    from fakedetect_jax import settings
    from fakedetect_jax.run import hosts, workdir

    config = settings.load("configs/ffpp.py")
    marks = [time.perf_counter()]
    facts = workdir.shared_facts(config, Path("run"))
    marks.append(time.perf_counter())
    place = hosts.Place(f"localhost:{port}", 2, number)
    link = hosts.join(place, facts, cure="", say=print)
    marks.append(time.perf_counter())
    for name in MEETINGS:
        link.meet(name, {"value": 1})
    marks.append(time.perf_counter())
    busy = time.process_time()
    time.sleep(idle_seconds)
    busy = time.process_time() - busy
    link.done()
    if number == 0:
        parts = [after - before for before, after in itertools.pairwise(marks)]
        print(json.dumps([*parts, busy / max(idle_seconds, 1)]), flush=True)


def cost(times: int = 10) -> None:
    """Prints the medians."""
    rows = []
    for turn in range(times):
        port, idle = free_port(), 10.0 if turn == 0 else 0.0
        code = "import sys; from benchmarks import hosts as h; "
        code += "h._cost_of_one(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))"
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(number), str(port), str(idle)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        first, _ = [process.communicate()[0] for process in both]
        rows.append(json.loads(first.splitlines()[-1]))
    facts, join, meetings, _ = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    print(f"facts {facts:.3f} s, join {join:.3f} s (with the wait for the other), ")
    print(f"{len(MEETINGS)} meetings {meetings:.4f} s; idle {rows[0][3]:.3%} of a core")


def _step_cost_of_one(number: int, count: int, port: int) -> None:
    """In a process of its own; process 0 prints milliseconds with and without."""
    import jax
    import jax.numpy as jnp

    from fakedetect_jax.run import hosts, parallel

    place = hosts.Place(f"localhost:{port}", count, number)
    link = hosts.join(place, {}, cure="", say=print)
    if count > 1:
        parallel.join_hosts(place, [])
    mesh = parallel.make_mesh()
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    # As in a training, the processes have to sum something in each step.
    rows = jax.local_device_count() * 64
    batch = parallel.to_global(np.ones((rows, 64), np.float32), mesh)
    update = jax.jit(lambda x, y: jnp.tanh(x + (y.T @ y)), out_shardings=replicated)
    vote, state = parallel.Vote(mesh), update(jnp.zeros((64, 64)), batch)

    def seconds_per_step(guarded: bool, steps: int = 300) -> float:
        nonlocal state
        link.meet(f"turn {next(turns)}")
        began = time.perf_counter()
        for _ in range(steps):
            state = jax.block_until_ready(update(state, batch))
            if guarded:
                vote(False)
        return (time.perf_counter() - began) / steps

    turns = itertools.count()
    seconds_per_step(True)
    rounds = [(seconds_per_step(True), seconds_per_step(False)) for _ in range(20)]
    link.done()
    if number == 0:
        print(json.dumps([1e3 * min(column) for column in zip(*rounds, strict=True)]))
    sys.stdout.flush()
    os._exit(0)  # without JAX's farewell, which waits


def step_cost() -> None:
    """Prints milliseconds for one process and for two."""
    code = "import sys; from benchmarks import hosts as h; "
    code += "h._step_cost_of_one(*map(int, sys.argv[1:]))"
    for count in (1, 2):
        port = free_port()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(number), str(count), str(port)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        first = [process.communicate()[0] for process in processes][0]
        guarded, bare = json.loads(first.splitlines()[-1])
        print(f"{count} process(es): {guarded:.3f} ms a step, {bare:.3f} ms without")


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
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--step_cost", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/hosts"))
    table.add_option(parser)
    options = parser.parse_args(argv)
    if options.cost:
        cost()
        return
    if options.step_cost:
        step_cost()
        return
    out = options.out.absolute()
    os.environ["JAX_PLATFORMS"] = "cpu"
    build(out)
    with table.results(parser, options) as results:
        results.heads(
            *("fault", "processes", "s from the fault", "s from the first error"),
            *("exit codes", "first sentence"),
        )
        for fault in faults(out, options.quick):
            found = measure(fault, out)
            times = (f"{found.from_fault:.1f}", f"{found.from_error:.1f}")
            codes = ", ".join(map(str, found.codes))
            short = found.sentence.removeprefix("error: ")[:60]
            results.row(fault.name, fault.count, *times, codes, f"{short} …")


if __name__ == "__main__":
    main()
