"""Results of a benchmark: Markdown that is printed, and kept with what made it.

The file of a benchmark is benchmarks/results/NAME.md; its first lines are the command,
the commit, the date, the machine with its load, and the versions. A full run, which is
the command without options, replaces it; --results FILE keeps what another run finds.
"""

import argparse
import contextlib
import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tfds_ffpp import system
from tfds_ffpp.files import whole

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("jax", "flax", "numpy")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds --results to a benchmark's options."""
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="keep the tables there; in benchmarks/results without other options",
    )


class Results:
    """Lines of Markdown, each printed as soon as it is known."""

    def __init__(self):
        """Empty."""
        self._lines: list[str] = []

    def say(self, line: str = "") -> None:
        """A line of its own; an empty one ends a table or paragraph."""
        self._lines.append(line)
        print(line, flush=True)

    def heads(self, *names: str) -> None:
        """Begins a table."""
        if self._lines and self._lines[-1]:
            self.say()
        self.row(*names)
        self.say("|---" * len(names) + "|")

    def row(self, *cells: object) -> None:
        """A row of the table."""
        self.say(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")

    def text(self) -> str:
        """All lines."""
        return "\n".join(self._lines) + "\n"


@contextlib.contextmanager
def results(
    parser: argparse.ArgumentParser, options: argparse.Namespace, mode: str = ""
) -> Iterator[Results]:
    """Results, headed by what makes them, and kept if the block ends well.

    mode: the option that makes the benchmark another one, with a file of its own.
    """
    name, found = Path(sys.argv[0]).stem, Results()
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    found.say(f"# {name.replace('_', ' ')}{f', {mode}' if mode else ''}")
    found.say()
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    for line in (f"`{command}`", _source(), f"{machine()}, {load}", versions()):
        found.say(f"- {line}")
    found.say()
    yield found
    path = options.results or _place(parser, options, name, mode)
    if path is None:
        print("not kept, as it is no full run; --results FILE keeps it")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(found.text())
    print(f"kept in {path}")


def _place(
    parser: argparse.ArgumentParser, options: argparse.Namespace, name: str, mode: str
) -> Path | None:
    """The file of a full run; None where another option than the mode was given.

    Arguments that are no options say on what it ran.
    """
    # A benchmark may add others.
    known = {action.dest for action in parser._actions if action.option_strings}
    chosen = {k: v for k, v in vars(options).items() if k in known}
    given = {k for k, v in chosen.items() if v != parser.get_default(k)}
    if given - {mode}:
        return None
    return FOLDER / (f"{name}_{mode}.md" if mode else f"{name}.md")


def machine() -> str:
    """CPU, cores and memory of this machine, in a line."""
    memory = _proc("/proc/meminfo", "MemTotal").removesuffix(" kB")
    size = f", {int(memory) / 2**20:.0f} GiB of memory" if memory else ""
    cpu = _proc("/proc/cpuinfo", "model name") or platform.processor()
    return f"{cpu or platform.machine()}, {system.num_cores()} cores{size}"


def _proc(path: str, field: str) -> str:
    """The first value of a field of a file of the kernel; empty where there is none."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


def versions() -> str:
    """Python's version and those of the packages that numbers depend on most."""
    found = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", *found])


def commit() -> str:
    """The commit, and whether files differ from it."""
    known = _git("rev-parse", "--short", "HEAD") or "no commit"
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", ":!benchmarks/results"
    )
    return f"{known}{' with changes' if changed else ''}"


def _source() -> str:
    """The commit, and today's date."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"commit {commit()}, {day}"


def _git(*words: str) -> str:
    """What git answers about this folder; nothing where it has no answer."""
    command = ["git", "-C", str(Path(__file__).parent.parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
