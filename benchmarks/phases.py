"""The seconds of each phase of a command, and the most memory that it held in each.

The command says by a line of its own, which `begin` prints, that a phase begins. Memory
is what it and all processes that it started hold together (proportional set size),
looked at twice a second.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MARK = "phase: "
EVERY = 0.5  # seconds between two looks at memory


class Begun(NamedTuple):
    """A phase that began, and the seconds since the command's start."""

    phase: str
    at: float


class Held(NamedTuple):
    """Bytes that were held, and the seconds since the command's start."""

    memory: int
    at: float


class Command(NamedTuple):
    """What a command did: its phases in order, its memory, seconds in all, seconds of
    processors, and its other lines."""

    begun: list[Begun]
    held: list[Held]
    seconds: float
    processor: float
    lines: list[str]

    def seconds_by_phase(self) -> dict[str, float]:
        """The seconds of each phase, however often it began."""
        found: dict[str, float] = {}
        ends = [*(one.at for one in self.begun[1:]), self.seconds]
        for one, end in zip(self.begun, ends, strict=True):
            found[one.phase] = found.get(one.phase, 0.0) + end - one.at
        return found

    def memory_by_phase(self) -> dict[str, int]:
        """The most bytes of each phase; without those that no look fell into."""
        found: dict[str, int] = {}
        starts = [one.at for one in self.begun]
        for memory, at in self.held:
            phase = self.begun[bisect(starts, at) - 1].phase
            found[phase] = max(found.get(phase, 0), memory)
        return found

    def ends_of(self, phase: str) -> list[float]:
        """When each part of a phase ended."""
        later = [*(one.at for one in self.begun[1:]), self.seconds]
        pairs = zip(self.begun, later, strict=True)
        return [end for one, end in pairs if one.phase == phase]


def begin(phase: str) -> None:
    """Says that a phase begins, to whoever runs this command."""
    print(f"{MARK}{phase}", flush=True)


def held_by(pid: int) -> int:
    """Bytes that a process and those that it started hold together."""
    total, waiting = 0, [pid]
    while waiting:
        number = waiting.pop()
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            total += 1024 * int(rollup.split("Pss:")[1].split()[0])
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue  # ended meanwhile
    return total


def run(words: Sequence[str], first: str, environ: Mapping[str, str]) -> Command:
    """Runs a module to its end; says each phase on stderr as it begins.

    first: the phase in which it begins. environ: added to this process's.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environ},
    )
    held: list[Held] = []

    def look() -> None:
        while process.poll() is None:
            at = time.perf_counter() - start
            held.append(Held(held_by(process.pid), at))
            time.sleep(EVERY)

    thread = threading.Thread(target=look)
    thread.start()
    begun, lines = [Begun(first, 0.0)], []
    assert process.stdout
    try:
        with process.stdout as said:
            for line in said:
                if not line.startswith(MARK):
                    lines.append(line.rstrip())
                    continue
                phase, at = line.removeprefix(MARK).strip(), time.perf_counter() - start
                if phase != begun[-1].phase:
                    begun.append(Begun(phase, at))
                    print(f"{at:8.1f} s  {phase}", file=sys.stderr)
        code = process.wait()
    finally:
        process.kill()  # where this process is interrupted
        thread.join()
    seconds = time.perf_counter() - start
    if code:
        said = "\n".join(lines[-20:])
        raise SystemExit(f"{said}\nerror: {' '.join(words)} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Command(begun, held, seconds, used, lines)
