"""What is fitted on val and kept with the model: a temperature and a threshold."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from fakedetect_jax import metrics

# Beyond these a temperature says that val cannot tell, not how sure the model is.
TEMPERATURE_BOUNDS = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that makes sigmoid(logits / T) most likely (Guo et al., ICML 2017).

    The targets are Platt's (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) instead of 1 and 0
    (Platt, 1999), so that T stays above 0 when val is told apart without an error.
    Returns 1.0 when a class is missing.
    """
    if not metrics.has_both(labels):
        return 1.0
    num_fake, num_real = np.sum(labels == 1), np.sum(labels == 0)
    target = np.where(labels == 1, (num_fake + 1) / (num_fake + 2), 1 / (num_real + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled))

    found = optimize.minimize_scalar(
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


def calibrate(rows: Sequence[metrics.Row]) -> dict[str, float]:
    """{"temperature", "threshold"} of the videos of val's scores.jsonl."""
    videos = metrics.videos(metrics.clips(rows))
    return {
        "temperature": fit_temperature(videos.logit, videos.label),
        "threshold": pick_threshold(videos.label, videos.score),
    }
