"""What scores are worth: video scores from clip scores, and the field's metrics.

Fake is 1, real is 0; a score is the probability of fake. A number that the data cannot
give (an AUC without a real video) is None, never an exception.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from fakedetect_jax.metrics import ranking
from tfds_ffpp.errors import DataError

Row = Mapping[str, Any]

CALIBRATION_BINS = 15  # of equal width, as in Guo et al., ICML 2017
POLICIES = ("exclude", "as_real", "as_fake")


class Items(NamedTuple):
    """Scored clips or videos, arrays of one length; text in arrays of str."""

    dataset: np.ndarray
    method: np.ndarray
    video: np.ndarray
    target: np.ndarray  # the identity whose video it is; "" when unknown
    source: np.ndarray  # the identity whose face was put there; "" when unknown
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
    return special.expit(logits)


def logit(scores: np.ndarray | float) -> np.ndarray:
    """The inverse of sigmoid, held within +-34.5: a saturated mean stays finite."""
    return special.logit(np.clip(scores, 1e-15, 1 - 1e-15))


# Grouping.


def video_key(row: Row) -> tuple[str, str, str, str]:
    """What makes a row's video one video.

    `033_097` is four videos in FF++, one of each method, so the name alone is no key;
    nor is it across compression levels.
    """
    return (
        str(row["dataset"]),
        str(row["method"]),
        str(row.get("compression") or ""),
        str(row["video"]),
    )


def clips(rows: Sequence[Row]) -> Items:
    """The rows of scores.jsonl as columns.

    Raises DataError for a clip that occurs twice, a score that is no probability and a
    label other than 0 or 1, naming the clip.
    """
    seen = set()
    for row in rows:
        key = (*video_key(row), row["clip"])
        name = "/".join(str(part) for part in key)
        if key in seen:
            raise DataError(f"clip {name} is scored twice; evaluate the split again")
        seen.add(key)
        if row["label"] not in (0, 1):
            raise DataError(f"clip {name} has label {row['label']}; fake is 1, real 0")
        if not (np.isfinite(row["logit"]) and 0 <= row["score"] <= 1):
            raise DataError(
                f"clip {name} has score {row['score']} and logit {row['logit']}; "
                "a score lies in [0, 1] and a logit is finite"
            )
    return _items(rows, num_clips=np.ones(len(rows), np.int64))


def _items(rows: Sequence[Row], *, num_clips: np.ndarray) -> Items:
    def text(name: str) -> np.ndarray:
        return np.array([str(row.get(name) or "") for row in rows], dtype=str)

    return Items(
        text("dataset"),
        text("method"),
        text("video"),
        text("target"),
        text("source"),
        text("compression"),
        np.array([row["label"] for row in rows], dtype=np.int64),
        np.array([row["score"] for row in rows], dtype=np.float64),
        np.array([row["logit"] for row in rows], dtype=np.float64),
        num_clips,
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


def add_unscored(scored: Items, missing: Sequence[Row], *, policy: str) -> Items:
    """The videos with those that have no clip, where the policy gives them a score.

    exclude leaves them out; as_real and as_fake decide 0 or 1 for them.
    """
    if policy not in POLICIES:
        raise DataError(
            f"unscored videos have policy {policy!r}; use {', '.join(POLICIES)}"
        )
    if policy == "exclude" or not missing:
        return scored
    score = float(policy == "as_fake")
    rows = [{**row, "score": score, "logit": float(logit(score))} for row in missing]
    added = _items(rows, num_clips=np.zeros(len(rows), np.int64))
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


def decisions(
    labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> dict[str, Any]:
    """Accuracy, balanced accuracy, both recalls and the confusion matrix."""
    (tn, fp), (fn, tp) = matrix = confusion(labels, scores, threshold)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    balanced = None
    if sensitivity is not None and specificity is not None:
        balanced = (sensitivity + specificity) / 2
    return {
        "threshold": threshold,
        "accuracy": _ratio(tn + tp, len(labels)),
        "balanced_accuracy": balanced,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "confusion": matrix,
    }


def summary(items: Items, *, threshold: float | None = None) -> dict[str, Any]:
    """All metrics of clips or videos; decisions at 0.5 and at the given threshold.

    Loss, Brier score and calibration error are over the items that have a clip: a
    policy gives the others a decision, not a probability. `undefined` says why a
    metric is None.
    """
    labels, scores = items.label, items.score
    scored = items.num_clips > 0
    scored_labels, scored_scores = labels[scored], scores[scored]
    missing = [
        name for name, value in (("real", 0), ("fake", 1)) if value not in labels
    ]
    return {
        "num_real": int(np.sum(labels == 0)),
        "num_fake": int(np.sum(labels == 1)),
        "loss": log_loss(scored_labels, scored_scores),
        "auc": auc(labels, scores),
        "eer": eer(labels, scores),
        "ap": average_precision(labels, scores),
        "brier": brier(scored_labels, scored_scores),
        "ece": ece(scored_labels, scored_scores),
        **decisions(labels, scores),
        "at_threshold": None
        if threshold is None
        else decisions(labels, scores, threshold),
        "undefined": f"no {' and no '.join(missing)} item: AUC, EER, AP and balanced "
        "accuracy have no value"
        if missing
        else None,
    }


def log_losses(items: Items) -> np.ndarray:
    """Each item's negative log-likelihood in nats [N], exact from its logit."""
    return np.logaddexp(0, items.logit) - items.label * items.logit


def clip_summary(scored: Items, *, threshold: float | None = None) -> dict[str, Any]:
    """The summary of clips, whose loss is the exact one of their logits."""
    loss = log_losses(scored)
    exact = float(np.mean(loss)) if len(loss) else None
    return {**summary(scored, threshold=threshold), "loss": exact}


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


def coverage(scored: Items, missing: Sequence[Row]) -> dict[str, Any]:
    """Scored videos of all videos, for each class and each method."""

    def share(scored_count: int, missing_count: int) -> dict[str, Any]:
        total = scored_count + missing_count
        return {
            "scored": scored_count,
            "of": total,
            "share": _ratio(scored_count, total),
        }

    by_class = {
        name: share(
            int(np.sum(scored.label == value)),
            sum(row["label"] == value for row in missing),
        )
        for name, value in (("real", 0), ("fake", 1))
    }
    methods = sorted({*scored.method.tolist(), *(r["method"] for r in missing)})
    return {
        **share(len(scored.label), len(missing)),
        "by_class": by_class,
        "by_method": {
            method: share(
                int(np.sum(scored.method == method)),
                sum(row["method"] == method for row in missing),
            )
            for method in methods
        },
    }
