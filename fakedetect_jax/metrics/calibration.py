"""What is fitted on val and kept with the model: temperature, threshold and band."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from fakedetect_jax.metrics import doubt, intervals, metrics, parts
from fakedetect_jax.metrics.records import ClipScore

# Beyond these a temperature says that val cannot tell, not how sure the model is.
TEMPERATURE_BOUNDS = (0.05, 20.0)
FOLDS = 10  # over people, to see whether a temperature helps on others


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that makes sigmoid(logits / T) most likely (Guo et al., ICML 2017).

    The targets are Platt's (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) instead of 1 and 0
    (Platt, 1999), so that T stays above 0 when val is separated without an error.
    Returns 1.0 when a class is missing.
    """
    if not metrics.has_both(labels):
        return 1.0
    num_fake, num_real = np.sum(labels == 1), np.sum(labels == 0)
    target = np.where(labels == 1, (num_fake + 1) / (num_fake + 2), 1 / (num_real + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled))

    found = scipy.optimize.minimize_scalar(
        loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded"
    )
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Calibrated probabilities: sigmoid(logit(score) / T), in the order of the scores.

    For a video, the score is the mean of its clips', and T is applied after it: no AUC
    changes, and a threshold moves by the same formula.
    """
    return metrics.sigmoid(metrics.logit(scores) / temperature)


def pick_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the best balanced accuracy, among equals the nearest to 0.5.

    Candidates are 0.5, 1 (nothing is fake) and the middles between neighbouring
    scores. Returns 0.5 when a class is missing.
    """
    if not metrics.has_both(labels):
        return 0.5
    distinct = np.unique(scores)
    candidates = np.append((distinct[1:] + distinct[:-1]) / 2, [0.5, 1.0])
    real, fake = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    specificity = np.searchsorted(real, candidates, side="right") / len(real)
    sensitivity = 1 - np.searchsorted(fake, candidates, side="right") / len(fake)
    balanced = specificity + sensitivity
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def cross_fit(videos: metrics.Items) -> np.ndarray | None:
    """Calibrated scores [N], each by a temperature fitted without that person's videos.

    People are dealt into up to FOLDS groups in their order. None with a single person
    or a single class, where there is nothing to fit on or to try it on.
    """
    person = intervals.clusters(videos)
    count = min(int(person.max(initial=0)) + 1, FOLDS)
    if count < 2 or not metrics.has_both(videos.label):
        return None
    scores = np.empty(len(videos.score))
    for fold in range(count):
        own = person % count == fold
        fitted = fit_temperature(videos.logit[~own], videos.label[~own])
        scores[own] = apply_temperature(videos.score[own], fitted)
    return scores


@dataclass(frozen=True)
class CrossFit:
    """What became of a temperature on people left out.

    fitted: to all of val; used: whether it helps. loss: the log loss of val without
    it; cross_fitted_loss: with one fitted to the other people, None where that cannot
    be tried.
    """

    fitted: float
    used: bool
    loss: float | None
    cross_fitted_loss: float | None


@dataclass(frozen=True)
class Fitted:
    """What val gives; a checkpoint's facts have these fields.

    temperature: to divide logits by; 1.0 unless it helps on people left out. threshold:
    see pick_threshold. band: see doubt.fit_band; None without both classes. reals: see
    parts.fit_reals; None of too few people.
    """

    temperature: float
    threshold: float
    band: doubt.Band | None
    calibration: CrossFit
    reals: parts.Reals | None


def calibrate(rows: Sequence[ClipScore], *, max_error: float) -> Fitted:
    """What the videos of val's scores.jsonl give; max_error: see doubt.fit_band."""
    videos = metrics.videos(metrics.clips(rows))
    fitted = fit_temperature(videos.logit, videos.label)
    tried = cross_fit(videos)
    before = metrics.log_loss(videos.label, videos.score)
    after = None if tried is None else metrics.log_loss(videos.label, tried)
    used = before is not None and after is not None and after < before
    return Fitted(
        temperature=fitted if used else 1.0,
        threshold=pick_threshold(videos.label, videos.score),
        band=doubt.fit_band(videos, max_error),
        calibration=CrossFit(fitted, used, loss=before, cross_fitted_loss=after),
        reals=parts.fit_reals(videos),
    )


def describe(calibration: CrossFit | None) -> str:
    """A sentence on what became of the temperature; "" where it is not recorded."""
    if calibration is None:
        return ""
    fitted = f"The temperature {calibration.fitted:.2f} fitted to val"
    before, after = calibration.loss, calibration.cross_fitted_loss
    if before is None or after is None:
        return (
            f"{fitted} could not be tried on people left out, so it is not used: "
            "probabilities are the scores themselves."
        )
    change = f"val's log loss from {before:.3f} to {after:.3f}"
    if calibration.used:
        return f"{fitted} is used: fitted without a person, it took {change}."
    return (
        f"{fitted} is not used: fitted without a person, it took {change}. "
        "Probabilities are the scores themselves."
    )
