"""What depends on the order of scores: ROC, AUC, EER, AP, decisions, with weights.

One definition serves the numbers themselves (weights of one) and the replicates of
their intervals (weights of how often an item was drawn).
"""

from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """Items sorted by falling score, with the ends of runs of equal scores."""

    order: np.ndarray
    ends: np.ndarray
    label: np.ndarray
    score: np.ndarray


def rank(labels: np.ndarray, scores: np.ndarray) -> Ranked:
    """Sorts once what every replicate needs sorted."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    return Ranked(order, ends, labels[order], falling)


def weighted(
    ranked: Ranked, weights: np.ndarray, *, threshold: float | None = None
) -> dict[str, np.ndarray]:
    """Rankings and decisions under each row of weights [R, N]; nan without a class."""
    sorted_weights = weights[:, ranked.order]
    fake_weights = sorted_weights * ranked.label
    real_weights = sorted_weights - fake_weights
    with np.errstate(invalid="ignore", divide="ignore"):
        values = _ranking(fake_weights, real_weights, ranked.ends)
        values |= _decisions(fake_weights, real_weights, ranked.score, 0.5, "")
        if threshold is not None:
            values |= _decisions(
                fake_weights, real_weights, ranked.score, threshold, "at_threshold."
            )
    return values


def _ranking(
    fake_weights: np.ndarray, real_weights: np.ndarray, ends: np.ndarray
) -> dict[str, np.ndarray]:
    """AUC, EER and AP from the counts at every distinct threshold."""
    true_positive = np.cumsum(fake_weights, axis=1)[:, ends]
    false_positive = np.cumsum(real_weights, axis=1)[:, ends]
    fakes, reals = true_positive[:, -1:], false_positive[:, -1:]
    caught = np.diff(true_positive, axis=1, prepend=0)
    alarms = np.diff(false_positive, axis=1, prepend=0)
    pairs = np.sum(alarms * (true_positive - caught / 2), axis=1)
    called = true_positive + false_positive
    precision = np.divide(
        true_positive, called, out=np.zeros_like(called), where=called > 0
    )
    ap = np.sum(caught * precision, axis=1) / fakes[:, 0]
    ap[reals[:, 0] == 0] = np.nan
    return {
        "auc": pairs / (fakes * reals)[:, 0],
        "eer": _equal_error(false_positive / reals, true_positive / fakes),
        "ap": ap,
    }


def _equal_error(false_rate: np.ndarray, true_rate: np.ndarray) -> np.ndarray:
    """Where each row's curve, from (0, 0), meets FPR = 1 - TPR."""
    rows = np.arange(len(false_rate))
    gap = false_rate + true_rate - 1
    after = np.argmax(gap >= -1e-12, axis=1)
    before = np.maximum(after - 1, 0)
    start = after == 0
    gap_before = np.where(start, -1.0, gap[rows, before])
    rate_before = np.where(start, 0.0, false_rate[rows, before])
    share = -gap_before / (gap[rows, after] - gap_before)
    return rate_before + share * (false_rate[rows, after] - rate_before)


def _decisions(
    fake_weights: np.ndarray,
    real_weights: np.ndarray,
    falling: np.ndarray,
    threshold: float,
    prefix: str,
) -> dict[str, np.ndarray]:
    called = int(np.searchsorted(-falling, -threshold, side="left"))
    fakes, reals = fake_weights.sum(axis=1), real_weights.sum(axis=1)
    caught = fake_weights[:, :called].sum(axis=1)
    passed = real_weights[:, called:].sum(axis=1)
    sensitivity, specificity = caught / fakes, passed / reals
    return {
        f"{prefix}accuracy": (caught + passed) / (fakes + reals),
        f"{prefix}balanced_accuracy": (sensitivity + specificity) / 2,
        f"{prefix}sensitivity": sensitivity,
        f"{prefix}specificity": specificity,
    }


def exact(
    labels: np.ndarray, scores: np.ndarray, *, threshold: float | None = None
) -> dict[str, float]:
    """The same metrics of the items as they are; nan where one has no value."""
    ones = np.ones((1, len(labels)))
    ranked = rank(labels, scores)
    found = weighted(ranked, ones, threshold=threshold)
    return {name: float(values[0]) for name, values in found.items()}
