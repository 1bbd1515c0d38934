"""`fakedetect COMMAND`: each command of the two packages under one name.

What follows the command is its own; `python -m` with the module is the same.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from fakedetect_jax.errors import ConfigError
from tfds_ffpp.terminal import command

# Nothing heavy is imported here: help must not wait for JAX, nor one command for what
# another one needs.


class Command(NamedTuple):
    """A function (argv, prog=...) of a module, what it gets first, and what it does.

    argv: words that stand before those of the user.
    """

    function: str
    argv: tuple[str, ...]
    what: str


TRAIN = "fakedetect_jax.main:run"
COMMANDS = {
    "demo": Command(TRAIN, ("--config=demo",), "make videos, train, test: 5 minutes"),
    "layout": Command("tfds_ffpp.layout:main", (), "show what a tree of videos holds"),
    "build": Command("tfds_ffpp.__main__:main", (), "make a dataset of such a tree"),
    "train": Command(TRAIN, (), "train, and build first where nothing is built"),
    "eval": Command(TRAIN, ("--mode=eval",), "score a split and write a report"),
    "robustness": Command(
        TRAIN, ("--mode=robustness",), "score a split on worse and worse videos"
    ),
    "suite": Command(
        "fakedetect_jax.suite:main", (), "run seeds, folds, other datasets: one page"
    ),
    "predict": Command("fakedetect_jax.predict:main", (), "score any videos"),
    "serve": Command("fakedetect_jax.serve:main", (), "a page and a service"),
    "report": Command("fakedetect_jax.report:main", (), "lay evaluations side by side"),
    "doctor": Command("fakedetect_jax.doctor:main", (), "say what works here"),
    "export": Command("fakedetect_jax.export:main", (), "write a model to hand over"),
}

USAGE = "\n".join(
    [
        "usage: fakedetect COMMAND ...",
        "",
        "Trains, judges and runs detectors of forged faces in video.",
        "",
        *(f"  {name:<10} {one.what}" for name, one in COMMANDS.items()),
        "",
        "fakedetect COMMAND --help shows what a command takes; --version the version.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code, 2 where there is no such command."""
    return command.run(lambda: list(sys.argv[1:] if argv is None else argv), _run)


def _run(words: list[str]) -> int:
    name = words[0] if words else ""
    if name in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"fakedetect-jax {version('fakedetect-jax')}")
        return 0
    if name not in COMMANDS:
        said = f"{name!r} is no command" if name else "a command is missing"
        raise ConfigError(f"{said}; they are {', '.join(COMMANDS)}")
    chosen = COMMANDS[name]
    module, _, function = chosen.function.partition(":")
    run = getattr(importlib.import_module(module), function)
    return run([*chosen.argv, *words[1:]], prog=f"fakedetect {name}")


if __name__ == "__main__":
    sys.exit(main())
