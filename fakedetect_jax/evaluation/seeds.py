"""Recipes by several trainings each, which differ in their seeds: means, differences.

A number of one training has two doubts: other people would have been tested, and
another seed would have made another model. Both are measured here, each by its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from fakedetect_jax.metrics import intervals, metrics, ranking
from fakedetect_jax.metrics.metrics import Items, Span
from tfds_ffpp.errors import DataError

# What is shown -> its name in ranking.exact.
METRICS = {
    "auc": "auc",
    "eer": "eer",
    "ap": "ap",
    "balanced_accuracy": "at_threshold.balanced_accuracy",
}


class Scored(NamedTuple):
    """The videos of a test as one model scored them; threshold: val's."""

    videos: Items
    threshold: float | None


@dataclass(frozen=True)
class Measure:
    """A metric of several seeds: its mean and the doubts about that.

    interval: over people, of the mean of just these models, drawn together. sd: over
    seeds, of one model; None with one. values: of each seed.
    """

    mean: float | None
    interval: Span | None
    sd: float | None
    values: list[float | None]


def over_seeds(values: Sequence[float | None], interval: Span | None = None) -> Measure:
    """The mean and spread of what each seed has; no mean where one has nothing."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values) > 0
    return Measure(
        mean=float(np.mean(known)) if whole else None,
        interval=interval if whole else None,
        sd=float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
        values=list(values),
    )


def measure(models: Sequence[Scored]) -> dict[str, Measure]:
    """METRICS of the models of one recipe; of one model they are those of its report.

    The same people are drawn for all models, and the replicates' means make the
    interval. Raises DataError where the models did not score the same videos.
    """
    first = max((one.videos for one in models), key=lambda v: len(v.label))
    videos = [in_order(one.videos, first) for one in models]
    exact = [
        ranking.exact(items.label, items.score, threshold=one.threshold)
        for items, one in zip(videos, models, strict=True)
    ]
    cluster_of = intervals.clusters(first)
    drawn = [
        intervals.bootstrap(items, cluster_of, threshold=one.threshold)
        for items, one in zip(videos, models, strict=True)
    ]
    names = [name for name in exact[0] if all(name in found for found in exact)]
    spans = intervals.spans(
        {name: float(np.mean([found[name] for found in exact])) for name in names},
        {name: np.mean([found[name] for found in drawn], axis=0) for name in names},
        cluster_of,
        first.label,
    )
    return {
        shown: over_seeds([_finite(found, name) for found in exact], spans.get(name))
        for shown, name in METRICS.items()
    }


def _finite(found: Mapping[str, float], name: str) -> float | None:
    value = found.get(name, np.nan)
    return float(value) if np.isfinite(value) else None


def in_order(items: Items, like: Items) -> Items:
    """The videos of others in their order. Raises DataError where one is missing."""
    found = intervals.pair(like, items)[1]
    if len(found.label) < len(like.label):
        raise DataError(
            f"the seeds were not tested on the same videos ({len(found.label)} of "
            f"{len(like.label)} are shared); test all on one version of the dataset"
        )
    return found


@dataclass(frozen=True)
class Change:
    """The mean AUC of one recipe's models less that of another's, on the same videos.

    people_error, seeds_error: standard errors of the difference by what is drawn; that
    of seeds is None where a side has one. p: two-sided; None where nothing varies.
    """

    first: float
    second: float
    difference: float
    interval: Span | None
    people_error: float
    seeds_error: float | None
    degrees: float
    p: float | None
    num_seeds: list[int]
    num_videos: int
    num_clusters: int
    over: str


def change(first: Sequence[Items], second: Sequence[Items]) -> Change:
    """Judges a difference by people and by seeds at once.

    The variance over people, of these models, is Obuchowski's for clusters (1997), with
    the models' mean components in place of one model's; to it is added the variance of
    each side's seeds over their number, as both are random (Obuchowski & Rockette,
    Commun. Stat. Simul. 24, 1995). What people and seeds have in common is in both, so
    the sum errs on the wide side. Student's t has the degrees of freedom of
    Satterthwaite (Biometrics Bulletin 2, 1946). With one seed on a side its spread is
    not known, and the answer is about people alone.

    Raises DataError where no video is shared, or the shared ones lack reals or fakes.
    """
    one, _ = intervals.pair(first[0], second[0])
    if not len(one.label):
        raise DataError("they were tested on different videos, none of them shared")
    if not metrics.has_both(one.label):
        raise DataError("the videos that they share lack reals or fakes")
    scores = [
        np.stack([in_order(items, one).score for items in side])
        for side in (first, second)
    ]
    cluster_of = intervals.clusters(one)
    people = intervals.auc_difference(one.label, *scores, cluster_of=cluster_of)
    parts = [_Part(people.standard_error**2, _clusters(cluster_of, one.label) - 1)]
    counts = [len(side) for side in scores]
    seeds = [_seed_variance(one.label, side) for side in scores]
    if min(counts) > 1:
        parts += [_Part(v, n - 1) for v, n in zip(seeds, counts, strict=True)]
    total = sum(part.variance for part in parts)
    error, degrees = float(np.sqrt(total)), 0.0
    if total and parts[0].degrees:
        degrees = total**2 / sum(p.variance**2 / p.degrees for p in parts)
    p = interval = None
    if degrees:
        far = -abs(people.difference) / error
        p = float(2 * scipy.special.stdtr(degrees, far))
        reach = error * float(scipy.special.stdtrit(degrees, (1 + intervals.LEVEL) / 2))
        ends = people.difference - reach, people.difference + reach
        interval = [max(ends[0], -1.0), min(ends[1], 1.0)]
    means = [float(np.mean([_auc(one.label, row) for row in side])) for side in scores]
    return Change(
        first=means[0],
        second=means[1],
        difference=people.difference,
        interval=interval,
        people_error=people.standard_error,
        seeds_error=float(np.sqrt(sum(seeds))) if min(counts) > 1 else None,
        degrees=degrees,
        p=p,
        num_seeds=counts,
        num_videos=len(one.label),
        num_clusters=int(cluster_of.max()) + 1,
        over=intervals.described(one),
    )


class _Part(NamedTuple):
    """A part of a variance and its degrees of freedom."""

    variance: float
    degrees: int


def _clusters(cluster_of: np.ndarray, labels: np.ndarray) -> int:
    """Of people, in the class that has fewer."""
    return min(len(np.unique(cluster_of[labels == label])) for label in (0, 1))


def _seed_variance(labels: np.ndarray, scores: np.ndarray) -> float:
    """Of the mean AUC of a side's models, as far as seeds go; 0 with one."""
    areas = [_auc(labels, row) for row in scores]
    return float(np.var(areas, ddof=1)) / len(areas) if len(areas) > 1 else 0.0


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    return ranking.exact(labels, scores)["auc"]


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, Scand. J. Stat. 6, 1979)."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, number in enumerate(np.argsort(values, kind="stable")):
        highest = max(highest, min((len(values) - rank) * values[number], 1.0))
        corrected[number] = highest
    return corrected
