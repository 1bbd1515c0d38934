"""An evaluation anew on worse and worse videos: --mode robustness."""

import functools
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fakedetect_jax.augment.degrade import FAMILIES, Family
from fakedetect_jax.data import reader
from fakedetect_jax.data.dataset import open_dataset
from fakedetect_jax.data.reencode import Reencoded
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics.records import ClipScore
from fakedetect_jax.model import network
from fakedetect_jax.pages.robustness_page import write_robustness
from fakedetect_jax.programs import compiled
from fakedetect_jax.reports import results, robustness
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.trained import weights
from tfds_ffpp.errors import Interrupted
from tfds_ffpp.store import addresses
from tfds_ffpp.store.files import write_json, write_lines


class _Task(NamedTuple):
    """One level of a family, and where its scores belong."""

    family: Family
    strength: float
    path: Path


def measure(run: Run, evaluation: Path, split_name: str) -> robustness.Robustness:
    """Scores a split at each level of each family; writes page, figures and JSON.

    A level that was scored before is not scored again: what was stopped goes on.

    Args:
      run: the run.
      evaluation: of the same split, as evaluate.evaluate leaves it.
      split_name: as it was given there.

    Raises:
      Interrupted: when a host is asked to stop.
    """
    folder = evaluation / "robustness"
    _begin(run, evaluation, folder)
    tasks = list(_tasks(folder))
    waiting = [task for task in tasks if not task.path.exists()]
    run.hosts.meet(
        "robustness",
        {"the levels left": [str(task.path) for task in waiting]},
        code=CheckpointError.exit_code,
        cure=f"{run.workdir} must be on a file system that all hosts see",
    )
    context = results.read_evaluation(evaluation).context
    if waiting:
        _score(run, waiting, split_name, context.step)
    parallel.barrier("all levels are scored")
    scored: dict[tuple[str, str], dict[float, list[ClipScore]]] = {}
    for task in tasks:
        rows = results.read_rows(task.path, ClipScore)
        levels = scored.setdefault((task.family.name, task.family.unit), {})
        levels[task.strength] = rows
    untouched = results.read_rows(evaluation / "scores.jsonl", ClipScore)
    with run.terminal.phase("report"):
        found = robustness.summarise(
            str(context.split), context.step or 0, untouched, scored
        )
        if jax.process_index() == 0:
            write_robustness(found, folder)
    return found


def _begin(run: Run, evaluation: Path, folder: Path) -> None:
    """Empties a folder that is of other weights, data or settings."""
    wanted, path = results.recorded(evaluation), folder / "scored_with.json"
    if jax.process_index() == 0:
        is_there = path.exists()
        if not is_there or _read_json(path) != wanted:
            if is_there:
                _clear(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, wanted)
    run.hosts.meet("robustness begins")
    parallel.barrier("robustness begins")


def _read_json(path: Path) -> Any:
    """None for a damaged file, which fits nothing."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError):
        return None


def _clear(folder: Path) -> None:
    if addresses.is_address(folder):
        addresses.remove(folder)
    else:
        shutil.rmtree(folder)


def _tasks(folder: Path) -> Iterator[_Task]:
    for family in FAMILIES:
        for number, strength in enumerate(family.strengths, start=1):
            name = f"{family.name.replace(' ', '_')}-{number}.jsonl"
            yield _Task(family, strength, folder / name)


def _score(run: Run, tasks: list[_Task], split_name: str, step: int | None) -> None:
    config = run.config
    checkpoints = Checkpoints(run.workdir / "checkpoints", read_only=True)
    try:
        chosen = weights.choose_step(checkpoints, step)
        variables = weights.read_variables(config, checkpoints, chosen)
    finally:
        checkpoints.close()
    variables = parallel.put_replicated(variables, run.mesh)
    builder = open_dataset(config, config.eval.dataset or config.dataset.name)
    split = reader.open_split(builder, split_name, config)
    vote = parallel.Vote(run.mesh)
    with run.terminal.progress(f"degrade {split_name}", len(tasks)) as bar:

        def between(done: int, total: int) -> None:
            if vote(run.stop.signal is not None):
                raise Interrupted(run.stop.signal or signal.SIGTERM)

        step_of = functools.cache(functools.partial(_step, run))
        for done, task in enumerate(tasks):
            frames = split
            if task.family.apply is None:
                reencoded: Any = Reencoded(split.reader, int(task.strength))
                frames = split._replace(reader=reencoded)
            rows = evaluate.score_clips(
                step_of(task.family),
                (variables, jax.numpy.float32(task.strength)),
                frames,
                config,
                mesh=run.mesh,
                between_batches=between,
            )
            if jax.process_index() == 0:
                write_lines(task.path, rows)
            bar.update(done + 1)


def _step(run: Run, family: Family) -> Callable:
    """Compiled once a family: the strength is an input."""
    return compiled.compile_degraded_step(
        network.make_model(run.config), family, run.mesh
    )
