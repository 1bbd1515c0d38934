"""What scores are worth: video scores from clip scores, and the field's metrics.

Fake is 1, real is 0; a score is the probability of fake. A number that the data cannot
give (an AUC without a real video) is None, never an exception.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import scipy

from fakedetect_jax.metrics import ranking
from fakedetect_jax.metrics.records import ClipScore, Unscored, Video
from tfds_ffpp.errors import DataError

CALIBRATION_BINS = 15  # of equal width, as in Guo et al., ICML 2017
POLICIES = ("exclude", "as_real", "as_fake")


class Items(NamedTuple):
    """Scored clips or videos, arrays of one length; text in arrays of str."""

    dataset: np.ndarray
    method: np.ndarray
    video: np.ndarray
    target: np.ndarray  # see records.Video
    source: np.ndarray
    compression: np.ndarray
    label: np.ndarray  # int, 1 = fake
    score: np.ndarray  # float64, probability of fake
    logit: np.ndarray  # float64
    num_clips: np.ndarray  # int; 0: no clip, the score was set by a policy

    def take(self, chosen: np.ndarray) -> "Items":
        """The rows of a mask or of an array of indices."""
        return Items(*(column[chosen] for column in self))

    def keys(self) -> list[tuple[str, str, str, str]]:
        """(dataset, method, compression, video) of each row."""
        columns = (self.dataset, self.method, self.compression, self.video)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of fake."""
    return scipy.special.expit(logits)


def logit(scores: np.ndarray | float) -> np.ndarray:
    """The inverse of sigmoid, held within +-34.5: a saturated mean stays finite."""
    return scipy.special.logit(np.clip(scores, 1e-15, 1 - 1e-15))


# Grouping.


def clips(rows: Sequence[ClipScore]) -> Items:
    """The rows of scores.jsonl as columns.

    Raises DataError for a clip that occurs twice, a score that is no probability and a
    label other than 0 or 1, naming the clip.
    """
    logits = np.array([row.logit for row in rows], dtype=np.float64)
    scores = np.array([row.score for row in rows], dtype=np.float64)
    fit = np.isfinite(logits) & (scores >= 0) & (scores <= 1)
    for i in np.flatnonzero(~fit)[:1]:
        raise DataError(
            f"clip {_name(rows[i])} has score {rows[i].score} and logit "
            f"{rows[i].logit}; a score lies in [0, 1] and a logit is finite"
        )
    for row in rows:
        if row.video.label not in (0, 1):
            raise DataError(
                f"clip {_name(row)} has label {row.video.label}; fake is 1, real 0"
            )
    named = {(row.video.key, row.clip): row for row in rows}
    if len(named) < len(rows):
        twice = next(r for r in rows if named[r.video.key, r.clip] is not r)
        raise DataError(
            f"clip {_name(twice)} is scored twice; evaluate the split again"
        )
    ones = np.ones(len(rows), np.int64)
    return _items([row.video for row in rows], scores, logits, num_clips=ones)


def _name(row: ClipScore) -> str:
    return "/".join((*row.video.key, str(row.clip)))


def _items(
    videos: Sequence[Video],
    scores: np.ndarray,
    logits: np.ndarray,
    *,
    num_clips: np.ndarray,
) -> Items:
    # Text is costly to make arrays of, and the clips of a video share theirs.
    number = {video: i for i, video in enumerate(dict.fromkeys(videos))}
    of_row = np.array([number[video] for video in videos], dtype=np.int64)
    columns = zip(*number, strict=True) if number else [()] * len(Video._fields)
    dataset, method, name, target, source, compression, label = columns

    def text(column: Sequence[str]) -> np.ndarray:
        return np.array(column, dtype=str)[of_row]

    return Items(
        dataset=text(dataset),
        method=text(method),
        video=text(name),
        target=text(target),
        source=text(source),
        compression=text(compression),
        label=np.array(label, dtype=np.int64)[of_row],
        score=scores,
        logit=logits,
        num_clips=num_clips,
    )


def videos(scored: Items) -> Items:
    """The videos of clips, in the order of their first clip; a score is their mean.

    Raises DataError when the clips of a video disagree on its label.
    """
    number: dict[tuple, int] = {}
    of_clip = np.array(
        [number.setdefault(key, len(number)) for key in scored.keys()],  # noqa: SIM118
        dtype=np.int64,
    )
    num_clips = np.bincount(of_clip, minlength=len(number))
    first = np.unique(of_clip, return_index=True)[1]
    total = np.bincount(of_clip, weights=scored.score, minlength=len(number))
    fakes = np.bincount(of_clip, weights=scored.label, minlength=len(number))
    mixed = np.flatnonzero((fakes != 0) & (fakes != num_clips))
    if mixed.size:
        name = "/".join(list(number)[mixed[0]])
        raise DataError(f"the clips of video {name} have both labels; mend its records")
    score = total / np.maximum(num_clips, 1)
    return scored.take(first)._replace(
        score=score, logit=logit(score), num_clips=num_clips
    )


def add_unscored(scored: Items, missing: Sequence[Unscored], *, policy: str) -> Items:
    """The videos with those that have no clip, where the policy gives them a score.

    exclude leaves them out; as_real and as_fake decide 0 or 1 for them.
    """
    if policy not in POLICIES:
        raise DataError(
            f"unscored videos have policy {policy!r}; use {', '.join(POLICIES)}"
        )
    if policy == "exclude" or not missing:
        return scored
    scores = np.full(len(missing), float(policy == "as_fake"))
    none = np.zeros(len(missing), np.int64)
    videos = [row.video for row in missing]
    added = _items(videos, scores, logit(scores), num_clips=none)
    return Items(*(np.concatenate(pair) for pair in zip(scored, added, strict=True)))


# Metrics of labels and scores.


def has_both(labels: np.ndarray) -> bool:
    """Whether both classes occur."""
    return bool(np.any(labels == 1) and np.any(labels == 0))


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve: P(fake scores higher than real), ties counted half."""
    return _ranked("auc", labels, scores)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Mean precision over the fakes, as a step function of recall."""
    return _ranked("ap", labels, scores)


def eer(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Equal error rate: where the ROC, joined by lines, meets FPR = 1 - TPR."""
    return _ranked("eer", labels, scores)


def _ranked(name: str, labels: np.ndarray, scores: np.ndarray) -> float | None:
    return ranking.exact(labels, scores)[name] if has_both(labels) else None


def roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positive rate, true positive rate) at every threshold, from (0, 0)."""
    ranked = ranking.rank(labels, scores)
    true_positive = np.cumsum(ranked.label)[ranked.ends]
    false_positive = np.cumsum(1 - ranked.label)[ranked.ends]
    return (
        np.append(0.0, false_positive / false_positive[-1]),
        np.append(0.0, true_positive / true_positive[-1]),
    )


def confusion(
    labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> list[list[int]]:
    """[[tn, fp], [fn, tp]]; above the threshold is fake."""
    called_fake = scores > threshold
    return [
        [int(np.sum((labels == actual) & (called_fake == said))) for said in (0, 1)]
        for actual in (0, 1)
    ]


def log_loss(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Mean negative log-likelihood in nats."""
    if not len(labels):
        return None
    smallest = np.finfo(np.float64).eps
    right = np.where(labels == 1, scores, 1 - np.asarray(scores, np.float64))
    return float(-np.mean(np.log(np.clip(right, smallest, 1 - smallest))))


def brier(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Mean squared error of the probability (Brier, 1950)."""
    return float(np.mean((scores - labels) ** 2)) if len(labels) else None


class Reliability(NamedTuple):
    """One row per bin of equal width that holds a score."""

    mean_score: np.ndarray
    share_fake: np.ndarray
    count: np.ndarray


def reliability(
    labels: np.ndarray, scores: np.ndarray, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Mean score and share of fakes in each non-empty bin of [0, 1]."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    kept = count > 0
    score_sum = np.bincount(bin_of, weights=scores, minlength=bins)[kept]
    fakes = np.bincount(bin_of, weights=labels, minlength=bins)[kept]
    return Reliability(score_sum / count[kept], fakes / count[kept], count[kept])


def ece(
    labels: np.ndarray, scores: np.ndarray, bins: int = CALIBRATION_BINS
) -> float | None:
    """Expected calibration error: mean |share of fakes - mean score| over the bins."""
    if not len(labels):
        return None
    binned = reliability(labels, scores, bins)
    gap = np.abs(binned.share_fake - binned.mean_score)
    return float(np.sum(gap * binned.count) / len(labels))


# Summaries.


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class Decisions:
    """What is right when above the threshold is called fake; shares, and counts.

    confusion: [[tn, fp], [fn, tp]].
    """

    threshold: float
    accuracy: float | None
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    confusion: list[list[int]]


def decisions(
    labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> Decisions:
    """Accuracy, balanced accuracy, both recalls and the confusion matrix."""
    (tn, fp), (fn, tp) = matrix = confusion(labels, scores, threshold)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    balanced = None
    if sensitivity is not None and specificity is not None:
        balanced = (sensitivity + specificity) / 2
    return Decisions(
        threshold=threshold,
        accuracy=_ratio(tn + tp, len(labels)),
        balanced_accuracy=balanced,
        sensitivity=sensitivity,
        specificity=specificity,
        confusion=matrix,
    )


Span = list[float]  # the two ends of an interval


@dataclass(frozen=True)
class Summary:
    """The metrics of clips or videos; None where one has no value.

    The decisions are at a threshold of 0.5, and at val's, if there is one. undefined:
    why a metric is None. intervals: name of a metric -> its interval.
    """

    num_real: int
    num_fake: int
    loss: float | None
    auc: float | None
    eer: float | None
    ap: float | None
    brier: float | None
    ece: float | None
    threshold: float
    accuracy: float | None
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    confusion: list[list[int]]
    at_threshold: Decisions | None
    undefined: str | None
    intervals: dict[str, Span | None] = field(default_factory=dict)


def summary(items: Items, *, threshold: float | None = None) -> Summary:
    """All metrics of clips or videos; decisions at 0.5 and at the given threshold.

    Loss, Brier score and calibration error are over the items that have a clip: a
    policy gives the others a decision, not a probability.
    """
    labels, scores = items.label, items.score
    scored = items.num_clips > 0
    scored_labels, scored_scores = labels[scored], scores[scored]
    missing = [
        name for name, value in (("real", 0), ("fake", 1)) if value not in labels
    ]
    return Summary(
        num_real=int(np.sum(labels == 0)),
        num_fake=int(np.sum(labels == 1)),
        loss=log_loss(scored_labels, scored_scores),
        auc=auc(labels, scores),
        eer=eer(labels, scores),
        ap=average_precision(labels, scores),
        brier=brier(scored_labels, scored_scores),
        ece=ece(scored_labels, scored_scores),
        **vars(decisions(labels, scores)),
        at_threshold=None
        if threshold is None
        else decisions(labels, scores, threshold),
        undefined=f"no {' and no '.join(missing)} item: AUC, EER, AP and balanced "
        "accuracy have no value"
        if missing
        else None,
    )


def log_losses(items: Items) -> np.ndarray:
    """Each item's negative log-likelihood in nats [N], exact from its logit."""
    return np.logaddexp(0, items.logit) - items.label * items.logit


def clip_summary(scored: Items, *, threshold: float | None = None) -> Summary:
    """The summary of clips, whose loss is the exact one of their logits."""
    loss = log_losses(scored)
    exact = float(np.mean(loss)) if len(loss) else None
    return replace(summary(scored, threshold=threshold), loss=exact)


def groups(items: Items) -> dict[str, np.ndarray]:
    """Each method's fakes with the reals that they are held against, as indices.

    A method stands against all reals of its dataset and compression level, and where
    that dataset has none, against those of its level. Names are as short as they can
    be: method, with dataset/ before and @compression behind where these differ.
    """
    fake = items.label == 1
    several_datasets = len(set(items.dataset[fake])) > 1
    several_levels = len(set(items.compression[fake])) > 1
    named = {}
    columns = (items.dataset, items.method, items.compression)
    for dataset, method, level in _distinct(columns, fake):
        same_level = items.compression == level
        reals = same_level & ~fake & (items.dataset == dataset)
        if not reals.any():
            reals = same_level & ~fake
        own = fake & same_level & (items.dataset == dataset) & (items.method == method)
        name = f"{dataset}/{method}" if several_datasets else method
        name = f"{name}@{level}" if several_levels else name
        named[name] = np.flatnonzero(reals | own)
    return dict(sorted(named.items()))


def _distinct(columns: Iterable[np.ndarray], chosen: np.ndarray) -> list[tuple]:
    rows = zip(*(column[chosen].tolist() for column in columns), strict=True)
    return list(dict.fromkeys(rows))


@dataclass(frozen=True)
class Share:
    """How many of how many videos have a score, as a share too; None of none."""

    scored: int
    of: int
    share: float | None


@dataclass(frozen=True)
class Coverage(Share):
    """Of all videos, then of each class ("real", "fake") and each method."""

    by_class: dict[str, Share]
    by_method: dict[str, Share]


def coverage(scored: Items, missing: Sequence[Unscored]) -> Coverage:
    """Scored videos of all videos, for each class and each method."""
    labels = np.array([row.video.label for row in missing])
    methods = np.array([row.video.method for row in missing], dtype=str)

    def share(those: np.ndarray, others: np.ndarray) -> Share:
        count, total = int(those.sum()), int(those.sum() + others.sum())
        return Share(count, total, _ratio(count, total))

    return Coverage(
        **vars(share(np.ones_like(scored.label), np.ones_like(labels))),
        by_class={
            name: share(scored.label == value, labels == value)
            for name, value in (("real", 0), ("fake", 1))
        },
        by_method={
            name: share(scored.method == name, methods == name)
            for name in sorted({*scored.method.tolist(), *methods.tolist()})
        },
    )
