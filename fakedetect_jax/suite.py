"""Many trainings and tests by one command: seeds, held-out methods, other datasets.

python -m fakedetect_jax.suite --config CONFIG --seeds 0,1,2 --hold_out each --test NAME
"""

import argparse
import json
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fakedetect_jax.errors import ConfigError
from tfds_ffpp import system
from tfds_ffpp.errors import DataError, UserError
from tfds_ffpp.fields import Fields
from tfds_ffpp.terminal import command

if TYPE_CHECKING:  # --help is there before JAX
    from fakedetect_jax.evaluation.suite_plan import Asked, Trial
    from fakedetect_jax.evaluation.suite_summary import Found
    from tfds_ffpp.terminal.lines import Terminal

NAMES = ("workdir", "config", "seeds", "hold_out", "test", "jobs")
PROG = "python -m fakedetect_jax.suite"


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line, with what FILE says where it says nothing.

    Raises ConfigError for a file that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Runs the trainings and tests that are not there yet, each in a "
        "workdir of its own under --workdir, then writes suite.html and suite.json. "
        "Run again after whatever stopped it: it goes on. --config.FIELD=VALUE holds "
        "for all trainings.",
        epilog="Test splits are looked at only where --test names them, and each "
        "evaluation is counted: the page says how often each test was evaluated.",
    )
    parser.add_argument(
        "--file", help="TOML or JSON with these names, and [fields] of the configs"
    )
    parser.add_argument("--workdir", help="folder of the suite; runs/suite if not set")
    parser.add_argument(
        "--config",
        action="append",
        help="as in training; several are compared, each with the first",
    )
    parser.add_argument("--seeds", type=_words, help="for example 0,1,2; 0 if not set")
    parser.add_argument(
        "--hold_out",
        type=_words,
        metavar="each|METHOD,...",
        help="train also without each named method, and judge on its test videos",
    )
    parser.add_argument(
        "--test",
        type=_words,
        metavar="NAME,...",
        help="datasets whose test split judges every model: the training's own by its "
        "name, others built as for --config.eval.dataset",
    )
    parser.add_argument("--jobs", type=int, help="processes at a time; 1 if not set")
    parser.add_argument(
        "--only", action="append", metavar="RUN", help="this run of --list alone"
    )
    parser.add_argument(
        "--list", action="store_true", help="show each run and its command; run nothing"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    words = sys.argv[1:] if argv is None else argv
    arguments, arguments.fields = parser.parse_known_args(words)
    arguments.typed = [word for word in words if word != "--list"]
    _take_file(arguments)
    return arguments


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _take_file(arguments: argparse.Namespace) -> None:
    given = _read_file(arguments.file) if arguments.file else {}
    fields = given.pop("fields", {})
    unknown = sorted(given.keys() - set(NAMES))
    if unknown or not isinstance(fields, dict):
        raise ConfigError(
            f"{arguments.file} has {', '.join(unknown) or 'fields that are no table'}; "
            f"it may have {', '.join(NAMES)} and a table [fields]"
        )
    for name, value in given.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.fields = [*_as_flags(fields), *arguments.fields]
    for name in ("config", "seeds", "hold_out", "test"):
        value = getattr(arguments, name)
        if not isinstance(value, list):
            value = [] if value is None else _words(str(value))
        setattr(arguments, name, value)


def _read_file(name: str) -> Fields:
    system.refuse_path("--file", name)
    try:
        text = Path(name).read_text(encoding="utf-8")
        given = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{name} cannot be read ({error})") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{name} holds no object; docs/comparing.md has an example")
    return given


def _as_flags(fields: Mapping[str, Any]) -> list[str]:
    """Fields of a file as a training takes them."""
    from fakedetect_jax import settings

    return [
        f"--config.{name}={tuple(value) if isinstance(value, list) else value}"
        for name, value in settings.flatten(fields).items()
    ]


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs a suite; returns the exit code, that of the first run that failed."""
    return command.run(lambda: parse_arguments(argv, prog), _run)


def _run(arguments: argparse.Namespace) -> int:
    system.need_posix("a suite")
    asked = _asked(arguments)

    import jax
    from absl import logging

    from fakedetect_jax.evaluation import suite_plan, suite_runs, suite_summary
    from tfds_ffpp.terminal.lines import Terminal

    logging.set_verbosity(logging.FATAL)  # as in a training
    # This process reads what the others wrote, and leaves the devices to them.
    jax.config.update("jax_platforms", "cpu")
    terminal = Terminal()
    try:
        with suite_runs.Suite(terminal) as suite:
            if not arguments.list:
                _prepare(asked, terminal)
            trials = suite_plan.make_plan(asked)
            chosen = _choose(trials, arguments.only)
            if arguments.list:
                _list(chosen, arguments.typed)
                return 0
            for sentence in suite_runs.missing_tests(chosen):
                terminal.warn(sentence)
            accelerator = trials[0].config.accelerator
            slots = suite_runs.make_slots(arguments.jobs or 1, accelerator)
            code = suite.run(chosen, slots)
            found = suite_summary.summarise(trials, asked.tests, asked.workdir)
            suite_summary.write(found, asked.workdir)
    except KeyboardInterrupt as end:
        end.add_note("the same command goes on where this stopped")
        raise
    _show(found, terminal)
    terminal.say(f"page: {asked.workdir / 'suite.html'}")
    _end(found, chosen, code)
    return 0


def _asked(arguments: argparse.Namespace) -> "Asked":
    """Raises ConfigError for what cannot be asked for, whatever the configs."""
    from fakedetect_jax.evaluation.suite_plan import EACH, Asked

    for word in arguments.fields:
        if not word.startswith("--config.") or "=" not in word:
            raise ConfigError(f"argument {word!r} is not known; see --help")
        if word.startswith(("--config.seed=", "--config.eval.dataset=")):
            flag = "--seeds" if "seed=" in word else "--test"
            raise ConfigError(f"{word} is what {flag} says for all runs: give it there")
    for name in ("config", "test"):
        if not getattr(arguments, name):
            raise ConfigError(f"--{name} is missing; see --help")
    if EACH in arguments.hold_out and len(arguments.hold_out) > 1:
        raise ConfigError(f"--hold_out is {EACH}, or methods by name; not both")
    if arguments.jobs is not None and not _is_count(arguments.jobs, least=1):
        raise ConfigError(f"--jobs is {arguments.jobs!r}; it must be 1 or more")
    workdir = arguments.workdir or "runs/suite"
    system.refuse_path("--workdir", workdir)
    return Asked(
        workdir=Path(workdir).expanduser().absolute(),
        configs=tuple(map(str, arguments.config)),
        seeds=tuple(map(_seed, arguments.seeds or [0])),
        hold_out=tuple(map(str, arguments.hold_out)),
        tests=tuple(map(str, arguments.test)),
        fields=tuple(arguments.fields),
    )


def _is_count(value: Any, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _seed(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"--seeds has {value!r}; seeds are whole numbers") from None


def _prepare(asked: "Asked", terminal: "Terminal") -> None:
    """Builds what the trainings need, once, before several would at a time.

    What cannot be built is left to each training, which says why.
    """
    from fakedetect_jax.data import dataset
    from fakedetect_jax.evaluation.suite_plan import with_fields

    for source in asked.configs:
        config = with_fields(source, asked.fields)
        try:
            dataset.prepare(config, terminal, splits=("train", "val"))
        except DataError:
            if asked.hold_out:
                raise


def _choose(trials: "Sequence[Trial]", only: Sequence[str] | None) -> "list[Trial]":
    """The trials of --only, or all. Raises ConfigError for a name that is none."""
    unknown = [n for n in only or () if n not in {trial.name for trial in trials}]
    if unknown:
        raise ConfigError(
            f"--only is {unknown[0]}, which is no run of this suite; they are "
            f"{', '.join(trial.name for trial in trials)}"
        )
    return [t for t in trials if not only or t.name in only]


def _list(trials: "Sequence[Trial]", typed: Sequence[str]) -> None:
    """A line for each run: its name, a tab, the command that runs it alone."""
    words = ["python", "-m", "fakedetect_jax.suite", *typed]
    for trial in trials:
        print(f"{trial.name}\t{shlex.join([*words, f'--only={trial.name}'])}")


def _show(found: "Found", terminal: "Terminal") -> None:
    """The matrix of AUCs and the verdicts, a line each."""
    from fakedetect_jax.pages import formats

    for row in found.matrix:
        shown = [
            f"{cell.test} {formats.number(cell.auc.mean)} "
            f"{formats.span(cell.auc.interval)}".strip()
            for cell in row.cells
            if cell.auc
        ]
        terminal.say(f"{row.model}: video AUC on {'; '.join(shown) or 'no test'}")
    for fold in found.folds:
        unseen = fold.unseen.auc
        if unseen:
            terminal.say(
                f"{fold.model} without {fold.method}: {formats.number(unseen.mean)} "
                f"{formats.span(unseen.interval)} on it"
            )
    for one in found.differences:
        if one.change and one.holm is not None:
            method = f", {one.method} alone" if one.method else ""
            terminal.say(
                f"{one.first} against {one.second} on {one.test}{method}: video AUC "
                f"{formats.signed(one.change.difference)}, p = {one.holm:.2g} of "
                f"{len(found.differences)}: {one.verdict}"
            )


def _end(found: "Found", chosen: "Sequence[Trial]", code: int) -> None:
    """Raises UserError where one of the chosen runs could not be done."""
    names = {trial.name for trial in chosen}
    runs = [run for run in found.runs if run.name in names]
    failed = [r for r in runs if r.problem or any(t.problem for t in r.tests)]
    if not failed:
        return
    error = UserError(
        f"{len(failed)} of {len(runs)} runs could not be done "
        f"({', '.join(run.name for run in failed)}); suite.html says why, and the same "
        "command tries again"
    )
    error.exit_code = code or DataError.exit_code
    raise error


def run() -> NoReturn:
    """Entry point; ends with main's exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
