"""When not to decide: two thresholds that val fixes, and what the doubt gains."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy

from fakedetect_jax.metrics import intervals, metrics

CONFIDENCE = 0.95  # that an error rate stays below its bound, each side for itself
FAKE, REAL, UNCERTAIN = "called fake", "called real", "uncertain"


@dataclass(frozen=True)
class Side:
    """A threshold beyond which a video is called fake, or real.

    error: the share of val's videos of the other class beyond it. bound: what that
    share is below for other people with CONFIDENCE; num_clusters: of people, that say
    so.
    """

    threshold: float
    error: float
    bound: float
    num_clusters: int


@dataclass(frozen=True)
class Band:
    """At or below `real` a video is called real, above `fake` fake; else uncertain.

    max_error: the share of reals called fake, and of fakes called real, that was asked
    for.
    """

    max_error: float
    real: Side
    fake: Side

    @property
    def is_promised(self) -> bool:
        """Whether val vouches for max_error on both sides."""
        return max(self.real.bound, self.fake.bound) <= self.max_error

    @property
    def ends(self) -> tuple[float, float]:
        """Both thresholds."""
        return self.real.threshold, self.fake.threshold

    def verdict(self, score: float) -> str:
        """What is said of a video's score."""
        if score > self.fake.threshold:
            return FAKE
        return REAL if score <= self.real.threshold else UNCERTAIN


def upper_bound(
    wrong: np.ndarray, cluster_of: np.ndarray, *, confidence: float = CONFIDENCE
) -> float:
    """What the rate of errors is below, from a sample of clusters.

    Clopper and Pearson's bound (Biometrika 26, 1934) for as many independent trials as
    give the variance between clusters (Korn & Graubard, Survey Methodology 24, 1998),
    at most one a cluster: a handful of errors cannot show that those of one person are
    independent.

    Args:
      wrong: which items are errors, bool [N].
      cluster_of: the number of each item's cluster, int [N].
      confidence: one-sided.
    """
    _, number = np.unique(cluster_of, return_inverse=True)
    sizes = np.bincount(number)
    rate, count = float(np.mean(wrong)), len(sizes)
    trials = float(count)
    own = np.bincount(number, weights=wrong) - rate * sizes
    variance = count / max(count - 1, 1) * float(own @ own) / len(wrong) ** 2
    if variance > 0:
        trials = min(rate * (1 - rate) / variance, trials)
    errors = rate * trials
    if errors >= trials:
        return 1.0
    return float(scipy.special.betaincinv(errors + 1, trials - errors, confidence))


def fit_band(videos: metrics.Items, max_error: float) -> Band | None:
    """The narrowest band that val's videos can vouch for; None without both classes.

    Each threshold starts where no video of the other class lies beyond it, and moves
    inwards while the bound of its error rate stays within max_error. The first that
    does not ends the search, so that no correction for the number of thresholds is
    needed (fixed sequence testing; Angelopoulos et al., Learn then Test,
    arXiv:2110.01052). Where even the first one's bound is above, val is too small for
    max_error, and `bound` says what it is good for. Then nothing is decided where val
    shows neither class: if it separates them, the gap between its highest real and its
    lowest fake is uncertain.

    Where the two cross, one threshold between them serves as both: 0.5 if it lies
    there, else their middle.
    """
    if not metrics.has_both(videos.label):
        return None
    reals, fakes = (videos.take(videos.label == value) for value in (0, 1))
    high = _search(reals, videos.score, max_error)
    # The other end is the same with real and fake exchanged.
    flipped = fakes._replace(score=1 - fakes.score)
    low = 1 - _search(flipped, 1 - videos.score, max_error)
    if low > high:
        low = high = 0.5 if high < 0.5 < low else (low + high) / 2
    return Band(
        max_error,
        real=_side(fakes, low, fakes.score <= low),
        fake=_side(reals, high, reals.score > high),
    )


def _side(others: metrics.Items, threshold: float, wrong: np.ndarray) -> Side:
    cluster_of = intervals.clusters(others)
    return Side(
        threshold=threshold,
        error=float(np.mean(wrong)),
        bound=upper_bound(wrong, cluster_of),
        num_clusters=len(np.unique(cluster_of)),
    )


def _search(reals: metrics.Items, scores: np.ndarray, max_error: float) -> float:
    """The lowest threshold above which few enough reals lie; scores: of all videos."""
    cluster_of = intervals.clusters(reals)
    found, *lower = _falling(reals.score, scores)
    if upper_bound(reals.score > found, cluster_of) > max_error:
        higher = scores[scores > reals.score.max()]
        return float(higher.min()) if len(higher) else 1.0
    for threshold in lower:
        if upper_bound(reals.score > threshold, cluster_of) > max_error:
            break
        found = threshold
    return found


def _falling(reals: np.ndarray, scores: np.ndarray) -> Iterator[float]:
    """A threshold between each real's score and the next higher one, from the top."""
    distinct = np.append(np.unique(scores), 1.0)
    for score in np.unique(reals)[::-1]:
        above = distinct[np.searchsorted(distinct, score, side="right") :]
        yield float(score + above[0]) / 2 if len(above) else 1.0


def describe(band: Band | None) -> str:
    """A sentence on what val can vouch for; "" without a band."""
    if band is None:
        return ""
    sides = (
        (band.fake, "reals called fake"),
        (band.real, "fakes called real"),
    )
    kept = [f"{what} {side.bound:.1%}" for side, what in sides]
    found = f"{kept[0]}, {kept[1]} (each with {CONFIDENCE:.0%} confidence)"
    if band.is_promised:
        return f"For people like val's the error rates are at most: {found}."
    few = min(side.num_clusters for side, _ in sides)
    return (
        f"Val is too small to promise an error rate of {band.max_error:.0%}: it has "
        f"{few} people or pairs of people, and the rates may be as high as: {found}."
    )


# What a report says. ----------------------------------------------------------------


@dataclass(frozen=True)
class Selective:
    """Decisions of the band, and how the errors fall with the share that is decided.

    uncertain: share of videos; false_alarms: share of reals called fake; misses: share
    of fakes called real; accuracy: of the videos that are decided. aurc: area under
    the risk-coverage curve; accuracy_at_80, accuracy_at_90: of the surest 80 and 90 %,
    all three for decisions at val's threshold.
    """

    uncertain: float | None
    false_alarms: float | None
    misses: float | None
    accuracy: float | None
    aurc: float
    accuracy_at_80: float
    accuracy_at_90: float
    intervals: dict[str, metrics.Span | None] = field(default_factory=dict)


class RiskCoverage(NamedTuple):
    """Error rate among the surest videos, over their share; from the surest on."""

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(videos: metrics.Items, threshold: float | None) -> RiskCoverage:
    """The curve of El-Yaniv & Wiener (JMLR 11, 2010), at each distinct confidence.

    A video is decided at the threshold (0.5 where there is none); how sure that is, is
    the distance of its logit from the threshold's.
    """
    order, ends, wrong = _surest_first(videos, threshold)
    counts = np.arange(1, len(order) + 1)[ends]
    return RiskCoverage(counts / len(order), np.cumsum(wrong)[ends] / counts)


def _surest_first(
    videos: metrics.Items, threshold: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order, ends of runs of equal confidence, which are wrong in that order)."""
    at = 0.5 if threshold is None else threshold
    sure = np.abs(metrics.logit(videos.score) - metrics.logit(at))
    order = np.argsort(-sure, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(sure[order])), len(order) - 1)
    wrong = (videos.score > at) != (videos.label == 1)
    return order, ends, wrong[order]


def selective(
    videos: metrics.Items,
    band: Band | None,
    *,
    threshold: float | None,
    replicates: int = intervals.REPLICATES,
    seed: int = 0,
) -> Selective | None:
    """What a report says of doubt, over the videos that have a clip; None of none.

    aurc: Geifman & El-Yaniv (NeurIPS 2017).
    """
    videos = videos.take(videos.num_clips > 0)
    if not len(videos.label):
        return None
    cluster_of = intervals.clusters(videos)
    ones = np.ones((1, len(videos.label)))
    exact = _weighted(videos, band, threshold, ones)
    drawn = [
        _weighted(videos, band, threshold, weights)
        for weights in intervals.draw_weights(
            cluster_of, replicates=replicates, seed=seed
        )
    ]
    found = {
        name: float(values[0]) if np.isfinite(values[0]) else None
        for name, values in exact.items()
    }
    classes = {"false_alarms": videos.label == 0, "misses": videos.label == 1}
    spans = {}
    for name, estimate in found.items():
        counted = classes.get(name, np.ones(len(videos.label), bool))
        spans[name] = intervals.interval(
            estimate,
            np.concatenate([piece[name] for piece in drawn]),
            num_clusters=len(np.unique(cluster_of[counted])),
            step=1 / max(int(counted.sum()), 1),
        )
    return Selective(**found, intervals=spans)  # pyright: ignore[reportArgumentType]


def _weighted(
    videos: metrics.Items,
    band: Band | None,
    threshold: float | None,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """Selective's numbers under each row of weights [R, N]; nan without a value."""
    low, high = (np.nan, np.nan) if band is None else band.ends
    fake = videos.label == 1
    above, below = videos.score > high, videos.score <= low
    right = np.where(fake, above, below)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        if band is None:
            return np.full(len(weights), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ (part & whole)) / (weights @ whole)

    order, ends, wrong = _surest_first(videos, threshold)
    sorted_weights = weights[:, order]
    count = np.cumsum(sorted_weights, axis=1)[:, ends]
    errors = np.cumsum(sorted_weights * wrong, axis=1)[:, ends]
    risk = np.divide(errors, count, out=np.zeros_like(count), where=count > 0)
    coverage = count / count[:, -1:]
    return {
        "uncertain": share(~above & ~below, np.ones_like(fake)),
        "false_alarms": share(above, ~fake),
        "misses": share(below, fake),
        "accuracy": share(right, above | below),
        "aurc": np.sum(np.diff(coverage, axis=1, prepend=0) * risk, axis=1),
        "accuracy_at_80": 1 - _risk_at(coverage, risk, 0.8),
        "accuracy_at_90": 1 - _risk_at(coverage, risk, 0.9),
    }


def _risk_at(coverage: np.ndarray, risk: np.ndarray, wanted: float) -> np.ndarray:
    """Each row's risk at the smallest coverage that is not below the wanted one."""
    first = np.argmax(coverage >= wanted - 1e-12, axis=1)
    return risk[np.arange(len(risk)), first]
