"""How an AUC falls as videos get worse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fakedetect_jax.metrics import intervals, metrics
from fakedetect_jax.metrics.metrics import Items, Span
from fakedetect_jax.metrics.records import ClipScore


@dataclass(frozen=True)
class Level:
    """Videos of one strength of a family; change: against the same ones untouched."""

    strength: float
    auc: float | None
    interval: Span | None
    change: float | None
    change_interval: Span | None


@dataclass(frozen=True)
class Curve:
    """One family, from mild to severe; mean: of its levels' AUCs."""

    family: str
    unit: str
    levels: list[Level]
    mean: float | None


@dataclass(frozen=True)
class Robustness:
    """What robustness.json says; mean: over families, each by its mean."""

    split: str
    step: int
    num_videos: int
    untouched: float | None
    interval: Span | None
    curves: list[Curve]
    mean: float | None


def level_of(untouched: Items, rows: Sequence[ClipScore], strength: float) -> Level:
    """A level from its clips' scores, beside the videos of the untouched ones."""
    videos = metrics.videos(metrics.clips(rows))
    compared = intervals.compare(videos, untouched)
    area = compared.auc
    return Level(
        strength=strength,
        auc=metrics.auc(videos.label, videos.score),
        interval=intervals.intervals(videos).get("auc"),
        change=area.difference if area else None,
        change_interval=area.interval if area else None,
    )


def summarise(
    split: str,
    step: int,
    untouched: Sequence[ClipScore],
    scored: Mapping[tuple[str, str], Mapping[float, Sequence[ClipScore]]],
) -> Robustness:
    """All curves; scored: (family, unit) -> strength -> rows of its clips."""
    videos = metrics.videos(metrics.clips(untouched))
    curves = []
    for (family, unit), levels in scored.items():
        found = [level_of(videos, rows, strength) for strength, rows in levels.items()]
        curves.append(Curve(family, unit, found, _mean([one.auc for one in found])))
    return Robustness(
        split=split,
        step=step,
        num_videos=len(videos.label),
        untouched=metrics.auc(videos.label, videos.score),
        interval=intervals.intervals(videos).get("auc"),
        curves=curves,
        mean=_mean([curve.mean for curve in curves]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
