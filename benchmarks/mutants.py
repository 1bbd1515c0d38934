"""How many small faults in the code its tests notice.

python -m benchmarks.mutants [--modules order,steps] [--sample 40] [--seed 0] [--jobs 2]

Makes one small change to a module at a time (another comparison, operator or number; a
condition turned round; a call or a raise left out), in a copy of the tree, and runs the
tests that TARGETS names for it: first those that run the changed line, the quickest
first, and all of them when these pass. Each run is a process of its own.

Never changed are strings, so neither docstrings nor messages; annotations, decorators,
what is printed, and constants that are times to wait. A larger sample holds the smaller
of its seed. What OUT holds is not tried again, so that a run can be gone on with;
--again tries those that survived once more. Tests that hang count as having noticed.

Why no kept tool: mutmut forks after JAX has started, whose threads a fork loses, and
cosmic-ray changes the working tree in place and takes no sample.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import table

# What is changed, and the test files that concern it.
TARGETS = {
    "checkpoint": (
        "fakedetect_jax/run/checkpoint.py",
        "run/test_checkpoint tfds_ffpp/test_format",
    ),
    "order": ("fakedetect_jax/data/order.py", "data/test_data"),
    "splits": ("tfds_ffpp/tree/splits.py", "tfds_ffpp/test_splits"),
    "session": (
        "fakedetect_jax/serving/session.py",
        "serving/test_session serving/test_detector",
    ),
    "intervals": ("fakedetect_jax/metrics/intervals.py", "metrics/test_intervals"),
    "steps": (
        "fakedetect_jax/model/steps.py",
        "model/test_steps model/test_trainable",
    ),
    "selfblend": ("fakedetect_jax/augment/selfblend.py", "augment/test_selfblend"),
    "evaluate": (
        "fakedetect_jax/evaluation/evaluate.py",
        "commands/test_evaluate data/test_same_data run/test_distributed",
    ),
    "detector": (
        "fakedetect_jax/serving/detector.py",
        "serving/test_detector serving/test_summary serving/test_start",
    ),
    "tracks": ("fakedetect_jax/serving/tracks.py", "serving/test_tracks"),
    "reader": (
        "fakedetect_jax/data/reader.py",
        "data/test_data data/test_shares augment/test_masks",
    ),
}
OTHER: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr},
    **{ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.MatMult: ast.Mult},
}
PRINTED = {"say", "warn", "print", "line", "phase", "add_phase", "progress"}
PYTEST = ("-n", "0", "-x", "-p", "no:cacheprovider", "--tb=short", "--no-header")


class Change(NamedTuple):
    """Bytes of a file and what they become."""

    start: int
    end: int
    line: int
    old: str
    new: str


def _unlike(node: Any, field: str, value: Any) -> str:
    changed = copy.copy(node)
    setattr(changed, field, value)
    text = ast.unparse(changed)
    return text if isinstance(node, ast.stmt) else f"({text})"


def variants(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Parts of the source and what each may be replaced by."""
    match node:
        case ast.Compare(ops=ops):
            for n, one in enumerate(ops):
                other = [*ops[:n], OTHER[type(one)](), *ops[n + 1 :]]
                yield node, _unlike(node, "ops", other)
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            yield node, _unlike(node, "op", OTHER[type(op)]())
        case ast.UnaryOp(operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield test, f"(not ({ast.unparse(test)}))"
        case ast.comprehension(ifs=tests):
            for test in tests:
                yield test, f"(not ({ast.unparse(test)}))"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(value)):
            yield node, f"({value + 1})"
        case ast.Constant(value=float(value)):
            yield node, repr(value * 2 or 1.0)
        case ast.Continue():
            yield node, "break"
        case ast.Break():
            yield node, "continue"
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield node, "pass"


def parts(node: ast.AST) -> list[ast.AST]:
    """What of a node is looked at: no text, no annotation, no decorator."""
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.arg():
            return []
        case ast.FunctionDef(args=args, body=body):
            return [*args.defaults, *filter(None, args.kw_defaults), *body]
        case ast.AnnAssign(value=value):
            return [value] if value else []
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return [] if name in PRINTED else list(ast.iter_child_nodes(node))
        case ast.Assign(targets=[ast.Name(id=name)]) if name.endswith("_SECONDS"):
            return []
    return list(ast.iter_child_nodes(node))


def changes(source: bytes) -> list[Change]:
    """All changes of a file."""
    starts, found = [0], []
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        left += parts(node)
        for part, new in variants(node):
            at: Any = part
            start = starts[at.lineno - 1] + at.col_offset
            end = starts[at.end_lineno - 1] + at.end_col_offset
            old = source[start:end].decode()
            found.append(Change(start, end, at.lineno, old, new))
    return sorted(found)


class Tree:
    """A copy of the working tree in which one change at a time is made."""

    def __init__(self, root: Path):
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others"]
        listed.append("--exclude-standard")
        names = subprocess.run(listed, check=True, capture_output=True).stdout
        for name in filter(os.path.isfile, names.decode().split("\0")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, root / name)

    def write(self, path: str, source: bytes) -> None:
        """Changes a file, and forgets what Python has compiled of it."""
        file = self.root / path
        file.write_bytes(source)
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()

    def run(self, tests: Sequence[str], limit: float, *more: str, **env: str) -> str:
        """How the tests end ("passed", "failed", "hung"); their output is in *.log."""
        words = [sys.executable, "-m", "pytest", *PYTEST, *more, *tests]
        words.append(f"--basetemp={self.root}.tmp")
        env = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **os.environ, **env}
        env["JAX_COMPILATION_CACHE_DIR"] = f"{self.root}.cache"
        env["PYTHONPATH"] = str(self.root)
        with open(f"{self.root}.log", "wb") as log:
            child = subprocess.Popen(
                words,
                cwd=self.root,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return "hung"
        return "failed" if code else "passed"


def measure(tree: Tree, name: str, out: Path) -> dict[str, Any]:
    """The tests of a module, unchanged: {test: its lines and seconds}."""
    path, tests = TARGETS[name]
    files = [f"tests/{test}.py" for test in tests.split()]
    contents = [(tree.root / file).read_bytes() for file in [path, *files]]
    key = hashlib.sha256(b"".join(contents)).hexdigest()
    kept = out / f"{name}.json"
    if kept.exists() and json.loads(kept.read_text())["key"] == key:
        return json.loads(kept.read_text())
    lines, limit = out / "lines.json", 3600
    place = {"TRACED_FILE": str(tree.root / path), "TRACED_OUT": str(lines)}
    ended = tree.run(files, limit, "-p", "benchmarks.traced", **place)
    began = time.perf_counter()
    if ended != "passed" or tree.run(files, limit) != "passed":
        sys.exit(f"the tests of {name} fail without a change; see {tree.root}.log")
    seconds = time.perf_counter() - began
    facts = {"key": key, "seconds": seconds, "files": files}
    kept.write_text(json.dumps({**facts, "tests": json.loads(lines.read_text())}))
    return json.loads(kept.read_text())


def attempt(tree: Tree, name: str, change: Change, facts: dict[str, Any]) -> str:
    """Makes a change, runs the tests, takes it back."""
    path = TARGETS[name][0]
    source = (tree.root / path).read_bytes()
    changed = source[: change.start] + change.new.encode() + source[change.end :]
    span = range(change.line, change.line + change.old.count("\n") + 1)
    tests = [t for t, v in facts["tests"].items() if set(v["lines"]) & set(span)]
    tests.sort(key=lambda test: facts["tests"][test]["seconds"])
    limit = 60 + 5 * facts["seconds"]
    tree.write(path, changed)
    try:
        ended = tree.run(tests, limit) if tests else "passed"
        return ended if ended != "passed" else tree.run(facts["files"], limit)
    finally:
        tree.write(path, source)


def show(rows: Sequence[dict[str, Any]], results: table.Results) -> None:
    """A row for each module, then the changes that no test noticed."""
    results.heads(
        *("module", "mutants", "killed", "survived", "timed out", "share killed"),
        "when first tried",
    )
    for name in TARGETS:
        ended = [row["ended"] for row in rows if row["module"] == name]
        first = [row["first"] for row in rows if row["module"] == name]
        if ended:
            counts = [ended.count(e) for e in ("failed", "passed", "hung")]
            shares = [1 - each.count("passed") / len(each) for each in (ended, first)]
            results.row(name, len(ended), *counts, *(f"{s:.0%}" for s in shares))
    results.say()
    for row in rows:
        if row["ended"] == "passed":
            old, new = (" ".join(row[k].split())[:70] for k in ("old", "new"))
            place = f"{TARGETS[row['module']][0]}:{row['line']}"
            results.say(f"- `{place}`: `{old}` -> `{new}`")


def main(argv: Sequence[str] | None = None) -> None:
    """Tries the sample, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", default=",".join(TARGETS))
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/mutants"))
    table.add_option(parser)
    options = parser.parse_args(argv)
    with table.results(parser, options) as results:
        show(judge_all(options), results)


def judge_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What came of each change of the sample, those known from before included."""
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    known: dict[str, dict[str, Any]] = {}
    for line in lines:
        row = json.loads(line)
        first = known.get(row["key"], {"first": row["ended"]})["first"]
        known[row["key"]] = {**row, "first": first}
    trees = [Tree(out / f"tree-{n}") for n in range(options.jobs)]
    rows = []
    for name in options.modules.split(","):
        facts = measure(trees[0], name, out)
        source = (trees[0].root / TARGETS[name][0]).read_bytes()
        sample = changes(source)
        random.Random(f"{options.seed} {name}").shuffle(sample)  # noqa: S311

        def judge(change: Change, name=name, facts=facts, source=source):
            text = f"{change}{hashlib.sha256(source).hexdigest()}"
            key = hashlib.sha256(text.encode()).hexdigest()
            before = known.get(key)
            row = before or {}
            if not row or (options.again and row["ended"] == "passed"):
                tree, began = trees.pop(), time.perf_counter()
                ended = attempt(tree, name, change, facts)
                trees.append(tree)
                row = {"key": key, "module": name, **change._asdict(), "ended": ended}
                row["seconds"] = round(time.perf_counter() - began, 1)
                row["first"] = before["first"] if before else ended
                with open(results, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{name} {change.line}: {ended}, {row['seconds']} s", flush=True)
            return row

        with ThreadPoolExecutor(options.jobs) as pool:
            rows += pool.map(judge, sample[: options.sample])
    return rows


if __name__ == "__main__":
    main()
