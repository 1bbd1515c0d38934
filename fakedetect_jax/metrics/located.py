"""Does the heat lie where the forgery is? The pointing game and overlap, per frame.

A hit is a frame whose hottest place lies in the forged part (Zhang et al., "Top-down
Neural Attention", ECCV 2016). Overlap is intersection over union of the forged part
with the hottest places, as many as it has, so that a heat map's scale does not matter.
Beside both stands the middle of the crop, the guess that knows only where faces are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from fakedetect_jax.metrics import intervals, metrics
from fakedetect_jax.metrics.metrics import Span
from fakedetect_jax.metrics.records import ClipScore, Video

INSIDE = 127  # of 255: a place counts as forged when more than half of it is


class Rates(NamedTuple):
    """Means over frames, each in [0, 1].

    chance: the share of the frame that is forged, which is what a random place hits.
    """

    hits: float
    centre_hits: float
    chance: float
    overlap: float
    centre_overlap: float


class Located(NamedTuple):
    """A clip of a fake: over its frames that show what is forged and what is not."""

    video: Video
    clip: int
    frames: int
    rates: Rates
    INLINE = ("video", "rates")


def judge(heat_Thw: np.ndarray, masks_TMM: np.ndarray) -> tuple[int, Rates] | None:
    """(frames that count, their rates); None when no frame counts.

    Args:
      heat_Thw: float, of each place, at least 0; a frame without any points nowhere.
      masks_TMM: uint8, 255 where a frame is forged.
    """
    side = masks_TMM.shape[1:]
    found = []
    for heat, mask in zip(heat_Thw, masks_TMM > INSIDE, strict=True):
        if not mask.any() or mask.all():
            continue
        hot = cv2.resize(heat.astype(np.float32), side, interpolation=cv2.INTER_LINEAR)
        cold = bool(hot.max() <= 0)
        middle = -np.hypot(*(np.indices(side).T - (np.array(side) - 1) / 2).T)
        found.append(
            Rates(
                hits=float(not cold and mask.flat[hot.argmax()]),
                centre_hits=float(mask[side[0] // 2, side[1] // 2]),
                chance=float(mask.mean()),
                overlap=0.0 if cold else _overlap(hot, mask),
                centre_overlap=_overlap(middle, mask),
            )
        )
    return (len(found), Rates(*np.mean(found, axis=0).tolist())) if found else None


def _overlap(ranking: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of a mask and the highest places, as many as it has."""
    count = int(mask.sum())
    highest = np.argsort(-ranking, axis=None, kind="stable")[:count]
    both = int(mask.flat[highest].sum())
    return both / (2 * count - both)


# Of many clips ----------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The rates of some videos' frames, with intervals over their clusters.

    lead, overlap_lead: how much more often the heat hits than the centre does, and
    overlaps; above 0 it says more than where faces are.
    """

    videos: int
    frames: int
    rates: Rates
    lead: float
    overlap_lead: float
    intervals: dict[str, Span | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Localisation(Measured):
    """Of all, and of each method's."""

    by_method: dict[str, Measured] = field(default_factory=dict)


def summarise(rows: Sequence[Located]) -> Localisation | None:
    """What heat maps of fakes amount to; None without any."""
    if not rows:
        return None
    methods = list(dict.fromkeys(row.video.method for row in rows))
    own = {m: [row for row in rows if row.video.method == m] for m in methods}
    return Localisation(
        **vars(_measured(rows)),
        by_method={m: _measured(some) for m, some in own.items()},
    )


def _measured(rows: Sequence[Located]) -> Measured:
    """Frames weigh alike."""
    frames = np.array([row.frames for row in rows], float)
    values = np.array([row.rates for row in rows])
    means = frames @ values / frames.sum()
    clusters = _clusters(rows)
    draws = np.concatenate(
        [
            (weights * frames) @ values / (weights @ frames)[:, None]
            for weights in intervals.draw_weights(clusters)
        ]
    )
    count = int(clusters.max()) + 1
    step = 1 / frames.sum()
    spans = {
        name: intervals.interval(
            float(means[i]), draws[:, i], num_clusters=count, step=step
        )
        for i, name in enumerate(Rates._fields)
    }
    place = {name: i for i, name in enumerate(Rates._fields)}
    leads = {}
    for name, one, other in (
        ("lead", "hits", "centre_hits"),
        ("overlap_lead", "overlap", "centre_overlap"),
    ):
        pair = place[one], place[other]
        leads[name] = float(means[pair[0]] - means[pair[1]])
        spans[name] = intervals.combined_interval(
            (float(means[pair[0]]), float(means[pair[1]])),
            (spans[one], spans[other]),
            (draws[:, pair[0]], draws[:, pair[1]]),
            sign=-1,
            num_clusters=count,
        )
    return Measured(
        videos=len({row.video.key for row in rows}),
        frames=int(frames.sum()),
        rates=Rates(*means.tolist()),
        intervals=spans,
        **leads,
    )


def _clusters(rows: Sequence[Located]) -> np.ndarray:
    """The cluster of people of each row's video."""
    scored = [ClipScore(row.video, 0, 0, 1, 0.0, 0.5) for row in rows]
    return intervals.clusters(metrics.clips(scored))
