"""The most suspicious part of a video: how high the highest score of many may be."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import scipy

from fakedetect_jax.metrics import intervals, metrics

FALSE_ALARMS = 0.01  # of real videos, however many parts of them are looked at
LEAST_CLUSTERS = 5  # of people in val; of fewer the spread is not known
LEAST_PARTS = 8  # of a video at or below its median, to know its own spread


@dataclass(frozen=True)
class Reals:
    """The logits of the scores of val's real videos.

    mean, deviation: of them; num_clusters: of people that they are of.
    """

    mean: float
    deviation: float
    num_clusters: int


def fit_reals(videos: metrics.Items) -> Reals | None:
    """How real videos score; None where val has too few people."""
    own = (videos.label == 0) & (videos.num_clips > 0)
    count = len(np.unique(intervals.clusters(videos)[own]))
    if count < LEAST_CLUSTERS:
        return None
    logits = metrics.logit(videos.score[own])
    return Reals(float(np.mean(logits)), float(np.std(logits, ddof=1)), count)


def runs(windows: Sequence[Sequence[float]], length: int) -> list[float]:
    """The mean score of the clips of each run of so many successive windows.

    windows: the scores of each window's clips; all of fewer windows are one run.
    """
    length = min(length, len(windows))
    return [
        float(
            np.mean([score for window in windows[i : i + length] for score in window])
        )
        for i in range(len(windows) - length + 1)
    ]


def limit(
    scores: Sequence[float] | np.ndarray,
    reals: Reals | None,
    *,
    least: float,
    false_alarms: float = FALSE_ALARMS,
) -> float:
    """The score above which the highest of some parts of a video is called fake.

    The higher of two bounds on the logits, which are taken for normal: where val's real
    videos end, and, of many parts, where those of this very video do, whose camera and
    compression may shift all of them. Each is the prediction bound of one more draw
    (Hahn & Meeker, Statistical Intervals, 1991), which a real video exceeds with a
    chance of false_alarms in any of its n parts (Bonferroni: parts may depend on each
    other). Middle and spread of the video's parts are the median and the root mean
    square below it, which forged parts, as long as they are fewer than half, hardly
    change.

    Args:
      scores: of all parts that are looked at.
      reals: of the model; without it the limit is 1, which nothing exceeds.
      least: what the limit never lies below: above it a whole video is called fake.
      false_alarms: the share of real videos that may have a part above the limit.
    """
    if reals is None:
        return 1.0
    chance = false_alarms / len(scores)
    bound = _bound(*astuple(reals), chance)
    logits = metrics.logit(np.asarray(scores, float))
    middle = float(np.median(logits))
    below = logits[logits <= middle] - middle
    if len(below) >= LEAST_PARTS:
        spread = float(np.sqrt(np.mean(below**2)))
        bound = max(bound, _bound(middle, spread, len(below), chance))
    return max(least, float(metrics.sigmoid(np.array(bound))))


def _bound(mean: float, deviation: float, count: int, chance: float) -> float:
    """What one more draw of a normal variable exceeds with a chance, by a sample."""
    quantile = float(scipy.special.stdtrit(count - 1, 1 - chance))
    return mean + deviation * np.sqrt(1 + 1 / count) * quantile
