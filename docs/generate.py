"""Writes the pages of docs/reference that follow from the code, and measured tables.

python docs/generate.py

config.md: every config field, from the comments of configs/ffpp.py and the ranges that
settings.py holds. commands.md: what --help prints. api.md: docstrings. faults.md: the
docstrings of tests that begin with the id of a fault, such as "C1 An unknown field: …".
In other pages, what stands between a line `<!-- table: NAME -->` and the next
`<!-- end -->` is written from benchmarks/results.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax import __main__ as commands
from fakedetect_jax import settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = "<!-- Written by docs/generate.py: change what it reads, then `make docs`. -->"


def cell(text: str) -> str:
    """Text within a table: in one line, bars and angles as themselves."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


# The config ----------------------------------------------------------------------


class Field(NamedTuple):
    """A field of a config, and what the comments beside or above it say."""

    name: str
    meaning: str


class Group(NamedTuple):
    """Fields under one name, "" for those of the run, and the comment above them."""

    name: str
    meaning: str
    fields: list[Field]


def config_groups(source: str) -> list[Group]:
    """The groups of a config file, in its order; fields of the run come first."""
    lines = source.splitlines()
    run = Group("", "Fields of the run itself.", [])
    groups = [run]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target, value = node.targets[0], node.value
        if not isinstance(target, ast.Attribute):
            continue
        if isinstance(value, ast.Call) and value.args:
            entries = value.args[0]
            if isinstance(entries, ast.Dict):
                above = _comments(lines, node.lineno, node.lineno)
                fields = list(_fields(lines, target.attr, entries))
                groups.append(Group(target.attr, above, fields))
                continue
        end = node.end_lineno or node.lineno
        run.fields.append(Field(target.attr, _comments(lines, node.lineno, end)))
    return groups


def _fields(lines: list[str], group: str, entries: ast.Dict) -> Iterator[Field]:
    for key, value in zip(entries.keys, entries.values, strict=True):
        if isinstance(key, ast.Constant):
            end = value.end_lineno or key.lineno
            yield Field(f"{group}.{key.value}", _comments(lines, key.lineno, end))


def _comments(lines: list[str], first: int, last: int) -> str:
    """The comments directly above line `first`, then the one that ends line `last`."""
    above: list[str] = []
    number = first - 1
    while number and lines[number - 1].strip().startswith("#"):
        number -= 1
        above.insert(0, lines[number].strip().removeprefix("#").strip())
    beside = re.search(r"\s{2}# (.*)$", lines[last - 1])
    return " ".join([*above, *([beside[1]] if beside else [])])


def config_page() -> str:
    """docs/reference/config.md."""
    config = settings.flatten(settings.load("ffpp").to_dict())
    groups = config_groups(settings.config_file("ffpp").read_text())
    parts = [
        HEAD,
        "# Config fields",
        "Every field, as `configs/ffpp.py` has it. Change one on the command line, as "
        "in\n`--config.model.backbone=resnet18`, or in a config of your own. What is "
        "out of range is\nrefused before anything starts.",
    ]
    for group in groups:
        title = f"`{group.name}`" if group.name else "The run"
        rows = ["| field | default | meaning | range |", "|---|---|---|---|"]
        for field in group.fields:
            wanted = settings.RULES[field.name].fault(object()) or ""
            wanted = wanted.replace("one of , ", "empty, or one of ")
            default = _shown(config[field.name])
            cells = (f"`{field.name}`", default, cell(field.meaning), cell(wanted))
            rows.append(f"| {' | '.join(cells)} |")
        parts += [f"## {title}", cell(group.meaning), "\n".join(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(value: Any) -> str:
    if value == "":
        return "empty"
    return f"`{tuple(value)!r}`" if isinstance(value, list) else f"`{value!r}`"


# Commands ------------------------------------------------------------------------


def help_of(words: list[str]) -> str:
    """What a command prints for --help, in lines of 88 characters."""
    done = subprocess.run(  # noqa: S603 - this project's own commands
        [sys.executable, *words, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "88", "JAX_PLATFORMS": "cpu"},
    )
    if not done.stdout:
        raise SystemExit(f"{' '.join(words)} --help prints nothing: {done.stderr}")
    text = done.stdout.partition("\nflags:\n")
    return (text[2] or text[0]).strip("\n").replace("Try --helpfull", "--helpfull")


def commands_page() -> str:
    """docs/reference/commands.md."""
    rows = ["| command | what it does | the same as |", "|---|---|---|"]
    shown, blocks = set(), []
    for name, one in commands.COMMANDS.items():
        module = one.function.partition(":")[0].removesuffix(".__main__")
        same = " ".join(["python -m", module, *one.argv])
        rows.append(f"| `fakedetect {name}` | {cell(one.what)} | `{same}` |")
        if module in shown:
            continue
        shown.add(module)
        text = help_of(["-m", "fakedetect_jax", name])
        if module == "fakedetect_jax.main":
            name, text = "train", text.replace("fakedetect demo", "fakedetect train")
        blocks.append(f"## {name}\n\n```text\n{text}\n```")
    made = help_of(["-m", "tfds_ffpp.synthetic"])
    blocks.append(f"## Made videos\n\n```text\n{made}\n```")
    intro = (
        "`fakedetect COMMAND` and `python -m` with the module are the same. `demo`, "
        "`train`, `eval` and\n`robustness` take the flags of `train`, and every config "
        "field as `--config.FIELD=VALUE`."
    )
    parts = [HEAD, "# Commands", intro, "\n".join(rows), *blocks]
    return "\n\n".join(parts) + "\n"


# Python --------------------------------------------------------------------------


def _entry(name: str, thing: Callable[..., Any], depth: int) -> str:
    """The signature of a function or method, and its docstring as it stands."""
    sign = re.sub(r"\bnumpy\.", "np.", str(inspect.signature(thing)))
    sign = re.sub(r"<function \S+ at 0x\w+>", "…", sign).replace("'", "")
    sign = re.sub(r"\b(?:[a-z_]+\.)+([A-Z])", r"\1", sign)
    text = inspect.cleandoc(thing.__doc__ or "")
    block = textwrap.fill(
        f"{name}{sign}", 84, subsequent_indent="    ", break_long_words=False
    )
    return f"{'#' * depth} {name}\n\n```text\n{block}\n\n{text}\n```"


def _class(kind: type, names: list[str]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    parts = [f"## {kind.__name__}", f"```text\n{text}\n```"]
    return "\n\n".join(parts + [_entry(n, getattr(kind, n), 3) for n in names])


def _record(kind: Any) -> str:
    """A record's fields with their types, and its docstring."""
    types = inspect.get_annotations(kind)
    rows = [f"| `{n}` | `{cell(_type(t))}` |" for n, t in types.items()]
    text = inspect.cleandoc(kind.__doc__ or "")
    table = "\n".join(["| field | type |", "|---|---|", *rows])
    return f"## {kind.__name__}\n\n```text\n{text}\n```\n\n{table}"


def _type(found: Any) -> str:
    plain = isinstance(found, type) and not getattr(found, "__args__", ())
    text = found.__name__ if plain else str(found)
    return re.sub(r"\b(?:[a-z_]+\.)+([A-Za-z])", r"\1", text)


def api_page() -> str:
    """docs/reference/api.md."""
    from fakedetect_jax import report as report_command
    from fakedetect_jax.reports import comparison, report, results, video_result
    from fakedetect_jax.serving.detector import Detector

    methods = ["load", "score", "score_all", "results", "logits", "explain", "close"]
    parts = [
        HEAD,
        "# Python",
        "What other programs may build on. All else may change between versions.",
        "```python\nfrom fakedetect_jax.predict import Detector\n"
        "from fakedetect_jax.reports import comparison, report, results\n"
        "from fakedetect_jax.report import evaluate_scores\n```",
        _class(Detector, methods),
        *map(_record, (video_result.VideoResult, video_result.FaceResult)),
        *map(_record, (video_result.PartResult, video_result.ClipResult)),
        "## Reports",
        _entry("report.read_report", report.read_report, 3),
        _entry("results.read_evaluation", results.read_evaluation, 3),
        _entry("results.summarise", results.summarise, 3),
        _entry("comparison.read_entries", comparison.read_entries, 3),
        _entry("comparison.compare", comparison.compare, 3),
        _entry("evaluate_scores", report_command.evaluate_scores, 3),
    ]
    return "\n\n".join(parts) + "\n"


# Faults --------------------------------------------------------------------------

KINDS = {
    "C": "Config and command line",
    "D": "Data",
    "H": "Several hosts",
    "P": "Scoring videos",
    "S": "Numbers that mislead",
    "T": "Training and checkpoints",
}
FAULT = re.compile(r"((?:[A-Z]\d+(?:, )?)+) (.+?)(?:\n\n|\Z)", re.DOTALL)


class Fault(NamedTuple):
    """Faults that a test makes: ids such as "C1, C2", what happens, and the test."""

    ids: str
    what: str
    test: str


def faults(folder: Path) -> Iterator[Fault]:
    """Every fault that a docstring of a test names."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if not node.name.lower().startswith("test"):
                continue
            said = FAULT.match(ast.get_docstring(node) or "")
            if said:
                place = path.relative_to(folder).as_posix()
                yield Fault(said[1], said[2], f"{place}::{node.name}")


def faults_page() -> str:
    """docs/reference/faults.md."""
    tests: dict[tuple[str, str], list[str]] = {}
    for fault in faults(ROOT / "tests"):
        tests.setdefault((fault.ids, fault.what), []).append(f"`{fault.test}`")
    found = sorted(tests, key=lambda f: (_place(f[0]), tests[f]))
    parts = [
        HEAD,
        "# Faults, and the tests that make them",
        "Every test makes the real fault: a process of its own, a signal, a file, a "
        "full disk.\nThe last column is the test below `tests/`. Not run for want of "
        "the hardware: GPUs and\nTPUs, several machines.",
    ]
    for letter, title in KINDS.items():
        rows = [
            f"| {ids} | {cell(what)} | {', '.join(tests[ids, what])} |"
            for ids, what in found
            if ids[0] == letter
        ]
        head = ["| # | fault: what happens | test |", "|---|---|---|"]
        parts += [f"## {title}", "\n".join([*head, *rows])]
    return "\n\n".join(parts) + "\n"


def _place(ids: str) -> tuple[str, int]:
    first = ids.partition(",")[0]
    return first[0], int(first[1:])


# Measured tables -----------------------------------------------------------------

# What a train_step measured -> its file's name after train_step_.
STEPS = {
    "ResNet-18, 112 px, 8 clips": "resnet18_112",
    "ResNet-18, 224 px, 2 clips": "resnet18_224",
    "ResNet-50, 112 px, 4 clips": "resnet50_112",
    "ResNet-50, 224 px, 2 clips": "resnet50_224",
}


def table_of(text: str, first: str) -> list[dict[str, str]]:
    """Rows of the table in a results file whose first heading this is, by heading.

    Raises ValueError if there is none.
    """
    lines = iter(text.splitlines())
    heads = next((h for line in lines if (h := _cells(line))[:1] == [first]), None)
    if heads is None:
        raise ValueError(f"no table that begins with {first!r}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(heads, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def steps_table(folder: Path) -> str:
    """The step's rates beside its peers'."""
    rows = [
        "| float32 | project | PyTorch | flax | to PyTorch | to flax |",
        "|---|---|---|---|---|---|",
    ]
    for mode in ("train", "infer"):
        for name, file in STEPS.items():
            path = folder / f"train_step_{file}.md"
            found = {
                row["side"]: row
                for row in table_of(path.read_text(), "mode")
                if row["mode"] == mode
            }
            rates = [
                found[side]["frames/s (min-max)"].replace("-", "–")
                for side in ("project", "torch", "flax")
            ]
            times = [
                found[s]["project is"].removesuffix(" x") for s in ("torch", "flax")
            ]
            link = f"{mode} [{name}](../benchmarks/results/{path.name})"
            rows.append(f"| {' | '.join([link, *rates, *times])} |")
    return "\n".join(rows)


def feed_table(folder: Path) -> str:
    """The feed's rates beside those of other ways to store frames."""
    rows = ["| clips/s | median (least–most) |", "|---|---|"]
    for row in table_of((folder / "feed.md").read_text(), "clips/s"):
        rate = f"{row['median']} ({row['min']}–{row['max']})"
        rows.append(f"| {row['clips/s']} | {rate} |")
    return "\n".join(rows)


# Arms of benchmarks.learning by their names, in words.
ARMS = {
    "original": "the original recipe",
    "best": "`ffpp_best` as it was",
    "classes": "halves: as many reals as fakes",
    "pairs": "pairs: each fake beside its original",
    "augmented": "pairs, augmentation",
    "blended": "pairs, half of the fakes self-blended",
    "two_looks": "pairs, of two looks",
    "transformer": "pairs, a transformer",
}


def learning_table(folder: Path) -> str:
    """The AUCs of each recipe on seen and unseen looks and forgeries."""
    text = (folder / "learning.md").read_text()
    found = {row["recipe"]: row for row in table_of(text, "recipe")}
    heads = [head for head in next(iter(found.values())) if "look, " in head]
    rows = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for arm, words in ARMS.items():
        cells = [found[arm][head].replace(" to ", "–") for head in heads]
        rows.append(f"| {' | '.join([words, *cells])} |")
    return "\n".join(rows)


def contrasts_table(folder: Path) -> str:
    """The contrasts of benchmarks.learning, as it prints them."""
    first = "with it minus without"
    found = table_of((folder / "learning.md").read_text(), first)
    rows = [f"| {' | '.join(found[0])} |", "|---" * len(found[0]) + "|"]
    return "\n".join([*rows, *(f"| {' | '.join(row.values())} |" for row in found)])


TABLES = {
    "steps": steps_table,
    "feed": feed_table,
    "learning": learning_table,
    "contrasts": contrasts_table,
}
WITH_TABLES = ROOT / "docs" / "performance.md", ROOT / "docs" / "learning.md"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str, folder: Path) -> str:
    """A page with its tables as the results in a folder have them."""
    return PLACE.sub(lambda m: f"{m[1]}{TABLES[m[2]](folder)}\n{m[3]}", text)


PAGES = {
    "config.md": config_page,
    "commands.md": commands_page,
    "api.md": api_page,
    "faults.md": faults_page,
}


def main() -> None:
    """Writes all pages and tables."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
    for path in WITH_TABLES:
        path.write_text(with_tables(path.read_text(), RESULTS))


if __name__ == "__main__":
    main()
