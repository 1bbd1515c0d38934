"""How far a number can be trusted: intervals over people, paired comparisons.

The videos of one target person share face, background and camera, so they are not
independent: whole clusters of people are drawn with replacement, not videos (cluster
bootstrap; Field & Welsh, J. R. Statist. Soc. B 69, 2007). Where fakes are made in
pairs, two people whose faces were swapped with each other's alone, a fake shares the
face of one and the background of the other, so the pair is the cluster.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from fakedetect_jax.metrics import ranking
from fakedetect_jax.metrics.metrics import Items, Span, log_losses
from tfds_ffpp.errors import DataError
from tfds_ffpp.tree.splits import FFPP_IDS, SAME_SOURCE

REPLICATES = 1000
LEVEL = 0.95
CHUNK_ELEMENTS = 1 << 21  # of one matrix of weights: 16 MB


Person = tuple[str, str]  # (dataset, target or source)


def swap_pairs(items: Items) -> set[tuple[Person, Person]]:
    """Pairs of people whose faces were swapped with each other's and nobody else's.

    Those of FaceForensics++ are. Where faces go round (Celeb-DF, DeepFakeDetection)
    the people of a data set all hang together, and there are no pairs.
    """
    partners: dict[Person, set[Person]] = defaultdict(set)
    shown = set(zip(items.dataset.tolist(), items.target.tolist(), strict=True))
    columns = (items.dataset, items.target, items.source)
    for dataset, *ids in zip(*(c.tolist() for c in columns), strict=True):
        if all(ids) and ids[0] != ids[1]:
            target, source = ((dataset, i) for i in ids)
            partners[target].add(source)
            partners[source].add(target)
    return {
        (person, other)
        for person, others in partners.items()
        for other in others
        if person < other and {person, other} <= shown
        if len(others) == len(partners[other]) == 1
    }


def clusters(items: Items) -> np.ndarray:
    """The number of each item's cluster int[N], from 0 without a gap.

    That is its target, joined to the other of its swap pair and to the ids that were
    cut from the same source as either; a video without a target stands alone.
    """
    first: dict[Person, Person] = {}

    def find(person: Person) -> Person:
        while person in first:
            person = first[person]
        return person

    same = [((d, ids[0]), (d, i)) for d in FFPP_IDS for ids in SAME_SOURCE for i in ids]
    for one, other in [*sorted(swap_pairs(items)), *same]:
        if find(one) != find(other):
            first[find(other)] = find(one)
    numbers: dict[tuple, int] = {}
    columns = (items.dataset, items.target, items.method, items.video)
    return np.array(
        [
            numbers.setdefault(find((d, t)) if t else (d, "", m, v), len(numbers))
            for d, t, m, v in zip(*(c.tolist() for c in columns), strict=True)
        ],
        dtype=np.int64,
    )


def described(items: Items) -> str:
    """What the clusters of these items are, in the plural."""
    paired = {person for pair in swap_pairs(items) for person in pair}
    columns = (items.dataset.tolist(), items.target.tolist())
    people = {(d, t) for d, t in zip(*columns, strict=True) if t}
    if not people & paired:
        return "target identities"
    return "swap pairs" + (" and target identities" if people - paired else "")


def num_identities(items: Items) -> int:
    """How many targets there are; a video without one counts as one."""
    columns = (items.dataset, items.target, items.method, items.video)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    return len({(d, t) if t else (d, "", m, v) for d, t, m, v in rows})


def draw_weights(
    cluster_of: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Iterator[np.ndarray]:
    """How often each item occurs in each replicate: float64 [chunk, N] pieces."""
    rng = np.random.default_rng(seed)
    num_clusters = int(cluster_of.max()) + 1
    probabilities = np.full(num_clusters, 1 / num_clusters)
    chunk = max(CHUNK_ELEMENTS // len(cluster_of), 1)
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        drawn = rng.multinomial(num_clusters, probabilities, size=size)
        yield drawn.astype(np.float64)[:, cluster_of]


def bootstrap(
    items: Items,
    cluster_of: np.ndarray,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threshold: float | None = None,
) -> dict[str, np.ndarray]:
    """Each metric in each replicate: name -> float64 [replicates].

    Equal clusters and seeds give equal draws, whatever the scores.
    """
    ranked = ranking.rank(items.label, items.score)
    pieces = [
        ranking.weighted(ranked, weights, threshold=threshold)
        for weights in draw_weights(cluster_of, replicates=replicates, seed=seed)
    ]
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}


def interval(
    estimate: float | None,
    replicates: np.ndarray,
    *,
    num_clusters: int,
    step: float,
    level: float = LEVEL,
) -> list[float] | None:
    """The interval of a share in [0, 1], longer towards 0.5.

    The end on the side of the nearer bound is Wilson's (1927), of as many trials as
    give the replicates' variance. The other end is logit(estimate) -+ t * sd, where
    sd^2 is the mean of the variance of logit(replicates) and of the delta method's:
    near a bound the first is now too large, now too small, the second mostly too
    small. Both ends take t with num_clusters - 1 degrees of freedom. Plain percentiles
    of replicates cover 59 to 94 % where this covers 94 to 97 %
    (benchmarks/intervals.py). `step` is the smallest change the share can make; shares
    of 0 and 1 count as half a step inside.

    An estimate of 0 or 1 leaves the bootstrap nothing to see: the far end is then the
    largest share of clusters with an error that gives none among num_clusters with
    probability (1 - level) / 2. None with one cluster, without an estimate, and where
    every replicate gives the same (one answer for all, on clusters that are alike).
    """
    finite = replicates[np.isfinite(replicates)]
    if estimate is None or num_clusters < 2 or len(finite) * 2 < len(replicates):
        return None
    tail = (1 - level) / 2
    if min(estimate, 1 - estimate) < 1e-12:
        unseen = float(1 - tail ** (1 / num_clusters))
        return [1 - unseen, 1.0] if estimate > 0.5 else [0.0, unseen]
    variance = finite.var(ddof=1)
    if variance < 1e-18:
        return None
    t = scipy.special.stdtrit(num_clusters - 1, 1 - tail)
    share = np.clip(estimate, step / 2, 1 - step / 2)
    outwards = 1 if share > 0.5 else -1
    flat = share * (1 - share)
    trials = flat / (t * t * variance)  # in units of t^2
    root = np.sqrt(flat / trials + 1 / (2 * trials) ** 2)
    near = (share + 1 / (2 * trials) + outwards * root) / (1 + 1 / trials)
    own = scipy.special.logit(np.clip(finite, step / 2, 1 - step / 2)).var(ddof=1)
    spread = np.sqrt((own + variance / flat**2) / 2)
    far = scipy.special.expit(scipy.special.logit(share) - outwards * t * spread)
    return sorted([float(near), float(far)])


def mean_interval(
    values: np.ndarray, cluster_of: np.ndarray, *, level: float = LEVEL
) -> list[float] | None:
    """The interval of the mean of values >= 0 [N] that are mostly small, seldom large.

    A sample often lacks the rare large loss, so that its mean and its standard error
    are too small together, which neither t nor the bootstrap's spread can see. Hall
    (J. R. Statist. Soc. B 54, 1992) takes the skewness out by a cubic of the t
    statistic, which is inverted here; the cluster is the unit, by its sum's distance
    from what its size would give. With T = t - skewness / (6 sqrt n) an end is
    mean - s/sqrt(n) * 3 sqrt(n)/skewness * (cbrt(1 + skewness T / sqrt(n)) - 1), with
    t of n - 1 degrees of freedom.

    None with one cluster and where no draw changes the mean.
    """
    if len(values) == 0:
        return None
    _, number = np.unique(cluster_of, return_inverse=True)
    sizes = np.bincount(number)
    mean, n = values.mean(), len(sizes)
    if n < 2:
        return None
    own = (np.bincount(number, weights=values) - mean * sizes) * n / len(values)
    error = own.std(ddof=1) / np.sqrt(n)
    if error < 1e-9 * max(mean, 1e-9):
        return None
    slope = np.mean(own**3) / np.mean(own**2) ** 1.5 / np.sqrt(n)
    t = scipy.special.stdtrit(n - 1, (1 + level) / 2) * np.array([1, -1]) - slope / 6
    if abs(slope) > 1e-6:  # its limit without skewness is t itself
        t = 3 / slope * (np.cbrt(1 + slope * t) - 1)
    low, high = mean - t * error
    return [max(float(low), 0.0), float(high)]


def combined_interval(
    estimates: tuple[float, float],
    spans: tuple[list[float] | None, list[float] | None],
    replicates: tuple[np.ndarray, np.ndarray],
    *,
    sign: int,
    num_clusters: int,
    level: float = LEVEL,
) -> list[float] | None:
    """The interval of first + sign * second from the intervals of both shares.

    Each share's distance from estimate to end stands for t times its standard error
    (MOVER: Zou & Donner, Statistics in Medicine 27, 2008), so the doubt about a share
    without an error, of which the replicates know nothing, still counts. With r the
    correlation of sign * second with -first, s the replicates' standard deviations and
    a, b the distances: reach^2 = (1 - r) (a^2 + b^2) + r t^2 (s1 - s2)^2, which is
    MOVER's where a = t s1 and b = t s2, and 0 for the difference of a share from
    itself, however lopsided its interval.

    None with one cluster; a share that no draw changes adds nothing.
    """
    both = np.stack(replicates)
    both = both[:, np.isfinite(both).all(axis=0)]
    if num_clusters < 2 or both.shape[1] * 2 < len(replicates[0]):
        return None
    deviations = both.std(axis=1, ddof=1)
    alike = deviations.min() < 1e-9
    r = 0.0 if alike else -sign * float(np.corrcoef(both)[0, 1])
    t = scipy.special.stdtrit(num_clusters - 1, (1 + level) / 2)
    apart = r * (t * (deviations[0] - deviations[1])) ** 2
    one, two = (
        span or [estimate, estimate]
        for span, estimate in zip(spans, estimates, strict=True)
    )
    total = estimates[0] + sign * estimates[1]
    ends = []
    for end in (0, 1):
        a = one[end] - estimates[0]
        b = two[end if sign > 0 else 1 - end] - estimates[1]
        reach = np.sqrt(max((1 - r) * (a * a + b * b) + apart, 0.0))
        ends.append(float(total + (2 * end - 1) * reach))
    return ends


def _step(name: str, labels: np.ndarray) -> float:
    """The smallest change that a metric can make on these labels."""
    fakes, reals = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    counts = {
        "auc": fakes * reals,
        "ap": fakes * (fakes + 1),  # a real just above the last fake
        "sensitivity": fakes,
        "specificity": reals,
        "balanced_accuracy": 2 * min(fakes, reals),
    }
    return 1 / max(counts.get(name.removeprefix("at_threshold."), fakes + reals), 1)


def _identities(name: str, cluster_of: np.ndarray, labels: np.ndarray) -> int:
    """In how many clusters a metric has something: the rarer class where it has two.

    Three reals tell little of false alarms, however many people were faked.
    """
    fakes, reals = (len(np.unique(cluster_of[labels == label])) for label in (1, 0))
    counts = {
        "auc": min(fakes, reals),
        "eer": min(fakes, reals),
        "ap": min(fakes, reals),
        "balanced_accuracy": min(fakes, reals),
        "sensitivity": fakes,
        "specificity": reals,
    }
    everyone = int(cluster_of.max()) + 1
    return counts.get(name.removeprefix("at_threshold."), everyone)


def spans(
    estimates: dict[str, float],
    drawn: dict[str, np.ndarray],
    cluster_of: np.ndarray,
    labels: np.ndarray,
) -> dict[str, list[float] | None]:
    """The interval of each metric from its replicates: name -> float64 [replicates]."""
    found = {
        name: interval(
            estimates[name] if np.isfinite(estimates[name]) else None,
            values,
            num_clusters=_identities(name, cluster_of, labels),
            step=_step(name, labels),
        )
        for name, values in drawn.items()
    }
    for prefix in ("", "at_threshold."):
        mean, one, two = (
            prefix + name
            for name in ("balanced_accuracy", "sensitivity", "specificity")
        )
        if np.isfinite(estimates.get(mean, np.nan)):
            total = combined_interval(
                (estimates[one], estimates[two]),
                (found[one], found[two]),
                (drawn[one], drawn[two]),
                sign=1,
                num_clusters=_identities(mean, cluster_of, labels),
            )
            found[mean] = total and [max(total[0] / 2, 0.0), min(total[1] / 2, 1.0)]
    return found


def intervals(
    items: Items,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threshold: float | None = None,
) -> dict[str, list[float] | None]:
    """The 95 % interval of each metric, over clusters of people.

    Those of log loss and Brier score are over the items that have a clip, as the
    metrics are.
    """
    if len(items.label) == 0:
        return {}
    cluster_of = clusters(items)
    drawn = bootstrap(
        items, cluster_of, replicates=replicates, seed=seed, threshold=threshold
    )
    found = ranking.exact(items.label, items.score, threshold=threshold)
    found = spans(found, drawn, cluster_of, items.label)
    scored = items.num_clips > 0
    squares = (items.score - items.label) ** 2
    loss, brier = (
        mean_interval(values[scored], cluster_of[scored])
        for values in (log_losses(items), squares)
    )
    return {
        **found,
        "loss": loss,
        "brier": brier and [min(end, 1.0) for end in brier],
    }


# Two runs on the same videos.


def _components(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's structural components by midranks (Sun & Xu, IEEE SPL 21, 2014).

    For a fake, the share of reals below it; for a real, the share of fakes above it;
    ties count half. float64 [N]; of several models' scores [S, N] the mean.
    """
    if scores.ndim > 1:
        return np.mean([_components(labels, row) for row in scores], axis=0)
    components = np.empty(len(labels))
    fake = labels == 1
    ranks = scipy.stats.rankdata(scores)
    reals, fakes = np.sum(~fake), np.sum(fake)
    components[fake] = (ranks[fake] - scipy.stats.rankdata(scores[fake])) / reals
    components[~fake] = 1 - (ranks[~fake] - scipy.stats.rankdata(scores[~fake])) / fakes
    return components


class AucDifference(NamedTuple):
    """A difference of two AUCs, its standard error and two-sided p."""

    difference: float
    standard_error: float
    p: float


def auc_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    cluster_of: np.ndarray | None = None,
) -> AucDifference:
    """AUC(first) - AUC(second), its standard error and two-sided p.

    Without clusters: DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988. With them:
    Obuchowski, Biometrics 53, 1997, which lets the items of one cluster depend on each
    other, whatever their class. Both classes must be there.

    first, second: the scores of one model, float64 [N], or of several [S, N], whose
    mean AUC is meant.
    """
    parts = _components(labels, first) - _components(labels, second)
    fake = labels == 1
    difference = float(parts[fake].mean())
    spread = parts - difference
    own = np.arange(len(labels)) if cluster_of is None else cluster_of
    size = int(own.max()) + 1
    sums = [
        np.bincount(own[c], weights=spread[c], minlength=size) / c.sum()
        for c in (fake, ~fake)
    ]
    present = [len(np.unique(own[c])) for c in (fake, ~fake)]
    variance = sum(
        n / max(n - 1, 1) * float(total @ total)
        for n, total in zip(present, sums, strict=True)
    )
    if cluster_of is not None:
        everyone = len(np.unique(own))
        shared = float(sums[0] @ sums[1])
        variance += 2 * everyone / max(everyone - 1, 1) * shared
    error = float(np.sqrt(max(variance, 0.0)))
    if error == 0:
        p = 1.0 if difference == 0 else 0.0
    else:
        p = float(2 * scipy.special.ndtr(-abs(difference) / error))
    return AucDifference(difference, error, p)


def pair(first: Items, second: Items) -> tuple[Items, Items]:
    """The videos that both have, in one order.

    Raises DataError when they disagree on a label.
    """
    number = {key: i for i, key in enumerate(second.keys())}  # noqa: SIM118
    shared = [(i, number[k]) for i, k in enumerate(first.keys()) if k in number]  # noqa: SIM118
    chosen = np.array(shared, dtype=np.int64).reshape(-1, 2)
    one, two = first.take(chosen[:, 0]), second.take(chosen[:, 1])
    differ = np.flatnonzero(one.label != two.label)
    if differ.size:
        name = "/".join(one.take(differ[:1]).keys()[0])
        raise DataError(
            f"video {name} is real in one run and fake in the other; "
            "evaluate both on the same dataset"
        )
    return one, two


@dataclass(frozen=True)
class Change:
    """A metric of two runs, and first - second with its interval."""

    first: float
    second: float
    difference: float
    interval: Span | None


@dataclass(frozen=True)
class AucChange(Change):
    """An AUC of two runs; p: see auc_difference, without clusters and with them."""

    delong_p: float
    clustered_p: float


@dataclass(frozen=True)
class Compared:
    """first - second on the videos that both have, drawn together.

    left_out: videos that only the first has, and only the second. over: what the
    clusters are. None, and not in the file: what has no value on these videos.
    """

    num_videos: int
    left_out: list[int]
    num_identities: int | None = None
    num_clusters: int | None = None
    over: str | None = None
    auc: AucChange | None = None
    accuracy: Change | None = None
    balanced_accuracy: Change | None = None
    OMIT_NONE = True


def compare(
    first: Items, second: Items, *, replicates: int = REPLICATES, seed: int = 0
) -> Compared:
    """first - second on the videos that both have, drawn together."""
    one, two = pair(first, second)
    shared = len(one.label)
    left_out = [len(first.label) - shared, len(second.label) - shared]
    if not shared:
        return Compared(shared, left_out)
    cluster_of = clusters(one)
    drawn = [
        bootstrap(items, cluster_of, replicates=replicates, seed=seed)
        for items in (one, two)
    ]
    estimates = [ranking.exact(items.label, items.score) for items in (one, two)]
    reaches = [
        spans(estimate, draws, cluster_of, one.label)
        for estimate, draws in zip(estimates, drawn, strict=True)
    ]

    def change(name: str) -> Change | None:
        values = estimates[0][name], estimates[1][name]
        if not np.isfinite(values).all():
            return None
        span = combined_interval(
            values,
            (reaches[0][name], reaches[1][name]),
            (drawn[0][name], drawn[1][name]),
            sign=-1,
            num_clusters=_identities(name, cluster_of, one.label),
        )
        return Change(*values, difference=values[0] - values[1], interval=span)

    area, scores = change("auc"), (one.label, one.score, two.score)
    return Compared(
        shared,
        left_out,
        num_identities=num_identities(one),
        num_clusters=int(cluster_of.max()) + 1,
        over=described(one),
        auc=area
        and AucChange(
            **vars(area),
            delong_p=auc_difference(*scores).p,
            clustered_p=auc_difference(*scores, cluster_of=cluster_of).p,
        ),
        accuracy=change("accuracy"),
        balanced_accuracy=change("balanced_accuracy"),
    )
