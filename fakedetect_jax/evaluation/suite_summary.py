"""What a suite found: the matrix over datasets, the folds, and which differences are
real. The content of suite.json, and the page of it."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.data import shares
from fakedetect_jax.evaluation import suite_runs
from fakedetect_jax.evaluation.seeds import (
    METRICS,
    Change,
    Measure,
    Scored,
    change,
    holm,
    measure,
    over_seeds,
)
from fakedetect_jax.evaluation.suite_plan import Trial
from fakedetect_jax.evaluation.suite_runs import NOT_RUN
from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.metrics import Items, Span
from fakedetect_jax.pages import render
from fakedetect_jax.reports import comparison
from fakedetect_jax.reports.comparison import Entry, Touches
from fakedetect_jax.reports.report import Report
from tfds_ffpp import records
from tfds_ffpp.errors import UserError
from tfds_ffpp.store import files

SIGNIFICANT = 0.05  # of p values after Holm's correction
LOWER_IS_BETTER = ("eer",)


@dataclass(frozen=True)
class Tested:
    """A test of a run; folder: of its report, below the suite's. problem: why none.

    values, intervals: as report.json has them, by the names of METRICS; unseen: the AUC
    of the held-out method.
    """

    test: str
    problem: str | None
    folder: str | None = None
    num_videos: int | None = None
    test_evaluations: int | None = None
    values: dict[str, float | None] | None = None
    intervals: dict[str, Span | None] | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class SuiteRun:
    """A training and its tests; problem: why it is not trained to its end."""

    name: str
    model: str
    seed: int
    without: str
    trained_on: str
    command: str
    problem: str | None
    tests: list[Tested]


@dataclass(frozen=True)
class Cell:
    """The runs of a recipe, its seeds, on one test; missing: the others, with reasons.

    measures: by the names of METRICS; empty where no seed has a result.
    """

    test: str
    seeds: list[int]
    measures: dict[str, Measure]
    missing: list[str]

    @property
    def auc(self) -> Measure | None:
        """The video AUC; None where no seed has a result."""
        return self.measures.get("auc")


@dataclass(frozen=True)
class Worst:
    """The test on which a metric is worst, and its mean over seeds there."""

    test: str
    mean: float


@dataclass(frozen=True)
class Row:
    """A recipe on all tests.

    mean: over the tests, without an interval; others: over those of them that it was
    not trained on; worst: of them all. None where a test has no number.
    """

    model: str
    trained_on: str
    cells: list[Cell]
    mean: dict[str, Measure]
    others: dict[str, Measure] | None
    worst: dict[str, Worst | None]


@dataclass(frozen=True)
class Fold:
    """A method's fakes against their reals, held out of training and trained on."""

    model: str
    method: str
    test: str
    unseen: Cell
    seen: Cell


@dataclass(frozen=True)
class Difference:
    """Two recipes on one test; method: the only one whose fakes are meant, if any.

    holm: p after correction for all differences of the suite. verdict: what that says;
    problem: why they are not compared.
    """

    first: str
    second: str
    test: str
    method: str
    change: Change | None
    problem: str | None
    holm: float | None = None
    verdict: str = "not judged"


@dataclass(frozen=True)
class Found:
    """What a suite found so far.

    problems: what failed, one sentence each. waiting: what was not run yet.
    """

    models: list[str]
    seeds: list[int]
    tests: list[str]
    runs: list[SuiteRun]
    matrix: list[Row]
    folds: list[Fold]
    differences: list[Difference]
    touches: list[Touches]
    problems: list[str]
    waiting: list[str]


# Reading -------------------------------------------------------------------------


class _Read(NamedTuple):
    """A trial and its tests, as far as they are done."""

    trial: Trial
    problem: str | None
    entries: dict[str, Entry]
    missing: dict[str, str]  # test -> why


def _read(trial: Trial) -> _Read:
    if not suite_runs.is_trained(trial):
        why = suite_runs.problem(trial)
        said = why if why == NOT_RUN else f"its training failed: {why}"
        return _Read(trial, why, {}, dict.fromkeys(trial.tests, said))
    entries, missing = {}, {}
    for test in trial.tests:
        try:
            folder = suite_runs.find_result(trial, test)
            if folder is not None:
                (entries[test],) = comparison.read_entries([folder])
            else:
                missing[test] = suite_runs.problem(trial, test)
        except UserError as error:
            missing[test] = str(error)
    return _Read(trial, None, entries, missing)


def _tested(read: _Read, test: str, suite: Path) -> Tested:
    if test not in read.entries:
        return Tested(test, problem=read.missing[test])
    entry, method = read.entries[test], read.trial.without
    video = entry.report.video
    unseen = _of_method(entry.videos, method) if method else None
    return Tested(
        test,
        problem=None,
        folder=os.path.relpath(entry.folder, suite),
        num_videos=video.num_real + video.num_fake,
        test_evaluations=entry.report.test_evaluations,
        values=_values(entry.report),
        intervals={shown: video.intervals.get(name) for shown, name in METRICS.items()},
        unseen=None if unseen is None else metrics.auc(unseen.label, unseen.score),
    )


def _values(report: Report) -> dict[str, float | None]:
    """METRICS as a report has them."""
    video = report.video
    decided = video.at_threshold
    balanced = decided.balanced_accuracy if decided else None
    return {
        "auc": video.auc,
        "eer": video.eer,
        "ap": video.ap,
        "balanced_accuracy": balanced,
    }


def _of_method(videos: Items, method: str) -> Items | None:
    """A method's fakes, of all levels, and the reals that they are held against."""
    chosen = [
        rows
        for name, rows in metrics.groups(videos).items()
        if name.partition("@")[0].rpartition("/")[2] == method
    ]
    return videos.take(np.unique(np.concatenate(chosen))) if chosen else None


# Judging -------------------------------------------------------------------------


class _Suite:
    """All that was read, and what is made of it."""

    def __init__(self, read: Sequence[_Read]):
        self.read = read
        self.folds = [
            (model, without)
            for model, without in dict.fromkeys(
                (r.trial.model, r.trial.without) for r in read
            )
            if without
        ]
        self.models = list(dict.fromkeys(one.trial.model for one in read))

    def own(self, model: str) -> str:
        """The dataset that a recipe is trained on."""
        return next(
            r.trial.config.dataset.name for r in self.read if r.trial.model == model
        )

    def of(self, model: str, without: str) -> list[_Read]:
        """The runs of a recipe, by seed."""
        wanted = (model, without)
        return [r for r in self.read if (r.trial.model, r.trial.without) == wanted]

    def scored(
        self, model: str, without: str, test: str, method: str = ""
    ) -> dict[int, Scored]:
        """Seed -> what was scored, of a method alone if one is named."""
        found = {}
        for one in self.of(model, without):
            entry = one.entries.get(test)
            videos = entry and entry.videos
            if videos and method:
                videos = _of_method(videos, method)
            if entry and videos:
                found[one.trial.seed] = Scored(videos, entry.report.threshold)
        return found

    def cell(self, model: str, without: str, test: str, method: str = "") -> Cell:
        """A recipe on a test."""
        scored = self.scored(model, without, test, method)
        missing = [
            f"seed {one.trial.seed}: "
            + one.missing.get(test, f"its test has no video of {method}")
            for one in self.of(model, without)
            if one.trial.seed not in scored
        ]
        measures = {}
        try:
            measures = measure(list(scored.values())) if scored else {}
        except UserError as error:
            missing.append(str(error))
        return Cell(test, list(scored), measures, missing)

    def row(self, model: str, tests: Iterable[str]) -> Row:
        """A recipe on all tests."""
        cells = [self.cell(model, "", test) for test in tests]
        trained = _trained_on(self.of(model, "")[0].trial)
        others = [cell for cell in cells if cell.test not in trained]
        return Row(
            model=model,
            trained_on=" + ".join(trained),
            cells=cells,
            mean=_mean_over(cells),
            others=_mean_over(others) if 0 < len(others) < len(cells) else None,
            worst={name: _worst(cells, name) for name in METRICS},
        )

    def fold(self, model: str, method: str) -> Fold:
        """A method that a recipe has not seen, and the same recipe with it."""
        test = self.own(model)
        return Fold(
            model=model,
            method=method,
            test=test,
            unseen=self.cell(model, method, test, method),
            seen=self.cell(model, "", test, method),
        )

    def differences(self, tests: Sequence[str]) -> Iterator[Difference]:
        """Each recipe against the first; each fold against all methods, and against the
        first recipe's where both are judged on one test."""
        first, *others = self.models
        for model in others:
            for test in tests:
                yield self._difference((model, ""), (first, ""), test)
        for model, method in self.folds:
            test = self.own(model)
            yield self._difference((model, method), (model, ""), test, method)
        for model, method in self.folds:
            test = self.own(model)
            there = model != first and (first, method) in self.folds
            if there and test == self.own(first):
                yield self._difference((model, method), (first, method), test, method)

    def _difference(
        self,
        first: tuple[str, str],
        second: tuple[str, str],
        test: str,
        method: str = "",
    ) -> Difference:
        sides = [self.scored(*one, test, method) for one in (first, second)]
        found, why = None, None
        for (model, without), side in zip((first, second), sides, strict=True):
            if not side:
                why = f"{_recipe(model, without)} has no result there"
        try:
            if why is None:
                found = change(*([s.videos for s in one.values()] for one in sides))
        except UserError as error:
            why = str(error)
        return Difference(_recipe(*first), _recipe(*second), test, method, found, why)


def _recipe(model: str, without: str) -> str:
    return f"{model} without {without}" if without else model


def _mean_over(cells: Sequence[Cell]) -> dict[str, Measure]:
    """Seed by seed over tests; of the seeds that have them all."""
    means = {}
    for name in METRICS:
        columns = [
            dict(zip(cell.seeds, cell.measures[name].values, strict=True))
            if cell.measures and not cell.missing
            else {}
            for cell in cells
        ]
        seeds = [s for s in columns[0] if all(s in column for column in columns)]
        rows = [over_seeds([column[s] for column in columns]).mean for s in seeds]
        means[name] = over_seeds(rows)
    return means


def _worst(cells: Sequence[Cell], name: str) -> Worst | None:
    found = [
        Worst(cell.test, mean)
        for cell in cells
        if cell.measures and (mean := cell.measures[name].mean) is not None
    ]
    if len(found) < len(cells):
        return None
    choose = max if name in LOWER_IS_BETTER else min
    return choose(found, key=lambda one: one.mean)


def _judged(differences: Sequence[Difference]) -> list[Difference]:
    """With p values corrected for all of them together, and a verdict."""
    values = [d.change.p if d.change else None for d in differences]
    corrected = iter(holm([p for p in values if p is not None]))
    return [
        one
        if p is None
        else replace(one, holm=(value := next(corrected)), verdict=_verdict(one, value))
        for one, p in zip(differences, values, strict=True)
    ]


def _verdict(one: Difference, corrected: float) -> str:
    if corrected >= SIGNIFICANT:
        return "not shown"
    is_of_recipes = one.change is not None and min(one.change.num_seeds) > 1
    return "real" if is_of_recipes else "real for these models, not for other seeds"


def summarise(trials: Sequence[Trial], tests: Sequence[str], suite: Path) -> Found:
    """All that is there of a suite; what is not there yet is a problem, with a reason.

    Args:
      trials: as make_plan has them.
      tests: the columns of the matrix.
      suite: the folder that paths are relative to.
    """
    read = [_read(trial) for trial in trials]
    whole = _Suite(read)
    runs = [_run(one, suite) for one in read]
    undone = list(_undone(runs))
    return Found(
        models=whole.models,
        seeds=list(dict.fromkeys(trial.seed for trial in trials)),
        tests=list(tests),
        runs=runs,
        matrix=[whole.row(model, tests) for model in whole.models],
        folds=[whole.fold(*fold) for fold in whole.folds],
        differences=_judged(list(whole.differences(tests))),
        touches=comparison.touches([e for one in read for e in one.entries.values()]),
        problems=[f"{of}: {why}" for of, why in undone if why != NOT_RUN],
        waiting=[of for of, why in undone if why == NOT_RUN],
    )


def _trained_on(trial: Trial) -> list[str]:
    return shares.trained_sets(settings.flatten(trial.config.to_dict()))


def _run(read: _Read, suite: Path) -> SuiteRun:
    trial = read.trial
    return SuiteRun(
        name=trial.name,
        model=trial.model,
        seed=trial.seed,
        without=trial.without,
        trained_on=" + ".join(_trained_on(trial)),
        command=shlex.join(trial.command()),
        problem=read.problem,
        tests=[_tested(read, test, suite) for test in trial.tests],
    )


def _undone(runs: Sequence[SuiteRun]) -> Iterator[tuple[str, str]]:
    """What is not there, and why."""
    for run in runs:
        if run.problem:
            yield f"training of {run.name}", run.problem
            continue
        for tested in run.tests:
            if tested.problem:
                yield f"test of {run.name} on {tested.test}", tested.problem


def write(found: Found, folder: Path) -> None:
    """Writes suite.html and, at last, suite.json."""
    numbers = json.dumps(records.to_json(found), indent=1, allow_nan=False) + "\n"
    page = render.render("suite.html", found=found, titles=TITLES)
    files.write_whole(folder, {"suite.html": page, "suite.json": numbers})


TITLES: Mapping[str, str] = {
    "auc": "Video AUC",
    "eer": "Equal error rate",
    "ap": "Average precision",
    "balanced_accuracy": "Balanced accuracy at val's threshold",
}
