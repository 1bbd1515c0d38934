"""What a model was trained on, as a region of its features; outside all is foreign.

A network gives a sure score to anything (Nguyen et al., CVPR 2015). A guard measures
how far a clip's features lie from those of the training's real and fake clips: a
Gaussian for each class with one covariance (Lee et al., NeurIPS 2018), shrunk towards a
sphere (Ledoit & Wolf, J. Multivariate Anal. 88, 2004). A face's distance is the mean of
its clips'; above a threshold, which val's videos set, it is unfamiliar.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.trained.foreign import (
    Digest,
    Maybe,
    Text,
    fault_in,
    need_regular,
    parse,
    shortened,
)
from tfds_ffpp import records
from tfds_ffpp.fields import SHARE, Number, Whole
from tfds_ffpp.store.addresses import is_address

FALSE_ALARMS = 0.01  # the share of familiar videos that may be called unfamiliar
LEAST_VIDEOS = 20  # of val; below, nothing is known of so rare a distance
LEAST_CLIPS = 50  # of the training
MAX_NUMBERS = 1 << 17  # of the axes: half a MB, all of them for up to 362 features
MAX_BYTES = 4 << 20  # of a file
FAR = 1e6  # of a distance that is more, or no number
NAMES = ("means", "axes", "variances")
NOT_FITTED = (
    "none was fitted to this checkpoint: run the training's command again, or evaluate "
    "the checkpoint"
)


@dataclass(frozen=True)
class GuardFacts:
    """What is known of a guard; of none only the reason is.

    false_alarms: the share of val's videos beyond the threshold. train_clips: how many
    it was fitted to; val_videos: how many set the threshold; sha256: of its file.
    """

    reason: str = ""
    threshold: float | None = None
    false_alarms: float | None = None
    train_clips: int = 0
    val_videos: int = 0
    sha256: str | None = None


SCHEMA = {
    "reason": Text(),
    "threshold": Maybe(Number(0, FAR)),
    "false_alarms": Maybe(SHARE),
    "train_clips": Whole(0, 2**53),
    "val_videos": Whole(0, 2**53),
    "sha256": Maybe(Digest()),
}


class Guard(NamedTuple):
    """Where the features of familiar clips lie.

    means float32[C,D]: of each class; axes float32[R,D]: orthonormal, along which the
    features vary most; variances float32[R+1]: along each, and at last along any other.
    """

    facts: GuardFacts
    means: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @property
    def threshold(self) -> float:
        """The distance above which a face is unfamiliar."""
        return self.facts.threshold or 0.0

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distances float64[B] of features[B,D] from the nearest mean.

        Divided by the root of D, so that a training clip's is about 1.
        """
        means, axes, variances = (np.asarray(a, np.float64) for a in self[1:])
        with np.errstate(over="ignore", invalid="ignore"):
            off_CBD = np.asarray(features, np.float64) - means[:, None]
            along_CBR = off_CBD @ axes.T
            beside_CB = (off_CBD**2).sum(axis=2) - (along_CBR**2).sum(axis=2)
            squares = (along_CBR**2 / variances[:-1]).sum(axis=2)
            squares += np.maximum(beside_CB, 0) / variances[-1]
            found = np.sqrt(squares.min(axis=0) / means.shape[1])
        return np.nan_to_num(found, nan=FAR, posinf=FAR).clip(max=FAR)


# Fitting ---------------------------------------------------------------------------


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    val_videos: np.ndarray,
    val_people: np.ndarray | None = None,
) -> Guard | str:
    """A guard, or why there is none.

    Args:
      features, labels: [N,D] and [N] of clips of the training.
      val, val_videos: [M,D] and int[M] of val's clips: features, and whose clip it is.
      val_people: [M] of the same: who is seen; each video another one if not given.
    """
    count = len(np.unique(val_videos))
    if count < LEAST_VIDEOS or len(features) < LEAST_CLIPS:
        return too_few(count, len(features))
    if not (np.isfinite(features).all() and np.isfinite(val).all()):
        return "the features of some clips are not numbers"
    shape = Guard(GuardFacts(), *_region(np.asarray(features, np.float64), labels))
    _, first = np.unique(val_videos, return_index=True)
    people = len(first) if val_people is None else len(np.unique(val_people[first]))
    means = video_means(shape.distances(val), val_videos)
    threshold = pick_threshold(means, people)
    facts = GuardFacts(
        threshold=threshold,
        false_alarms=FALSE_ALARMS,
        train_clips=len(features),
        val_videos=count,
    )
    found = shape._replace(facts=facts)
    digest = hashlib.sha256(to_bytes(found)).hexdigest()
    return found._replace(facts=replace(facts, sha256=digest))


def too_few(videos: int, clips: int) -> str:
    """Why so many videos of val, or clips of the training, give no guard."""
    return (
        f"val has {videos} videos and the training {clips} clips, but "
        f"{FALSE_ALARMS:.0%} false alarms need {LEAST_VIDEOS} and {LEAST_CLIPS}"
    )


def _region(
    features: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, axes and variances; see Guard."""
    classes, of_class = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == c].mean(axis=0) for c in classes])
    off = features - means[of_class]
    variances, axes = np.linalg.eigh(shrunk_covariance(off))
    variances, axes = variances[::-1], axes[:, ::-1].T  # the largest first
    width = len(variances)
    kept = min(width, MAX_NUMBERS // width)
    rest = variances[kept:].mean() if kept < width else variances[-1]
    spread = np.append(variances[:kept], rest)
    return _float32(means), _float32(axes[:kept]), _float32(spread)


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def shrunk_covariance(off: np.ndarray) -> np.ndarray:
    """The covariance [D,D] of deviations [N,D], shrunk towards a multiple of one.

    By Ledoit & Wolf's (2004) equations 4 and 14, which need no choice: the less the
    samples agree on a covariance, the more it becomes a sphere of the same size.
    """
    count, width = off.shape
    found = off.T @ off / count
    size = max(np.trace(found) / width, 1e-12)
    sphere = size * np.eye(width)
    apart = np.sum((found - sphere) ** 2)
    # The mean over samples of |x x' - S|^2, without a matrix for each.
    noise = np.mean(np.sum(off**2, axis=1) ** 2) - np.sum(found**2)
    weight = min(max(noise / count, 0.0) / apart, 1.0) if apart > 0 else 1.0
    # A feature that never varied would make any other value infinitely far.
    weight = max(weight, 1e-4)
    return weight * sphere + (1 - weight) * found


def video_means(distances: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """The mean distance of each video's clips; videos: int[M], whose clip each is."""
    _, of_video = np.unique(videos, return_inverse=True)
    return np.bincount(of_video, distances) / np.bincount(of_video)


def pick_threshold(distances: Sequence[float] | np.ndarray, people: int) -> float:
    """The distance that FALSE_ALARMS of videos like these exceed.

    Of so many that one of them may, it is the distance of that rank, which holds
    whatever their distribution (Vovk et al. 2005). Of fewer the largest is too low, and
    the tail is taken for that of a lognormal distribution: the upper prediction limit
    for a video of somebody else, by Student's t, but no less than the largest. Videos
    of a person are alike, so t has as many degrees of freedom as there are `people`,
    less one.
    """
    from scipy.special import stdtrit  # a start of predict does without

    ordered = np.sort(np.asarray(distances, np.float64))
    count = len(ordered)
    rank = int(np.ceil((count + 1) * (1 - FALSE_ALARMS)))
    if rank <= count:
        return float(ordered[rank - 1])
    logs = np.log(np.maximum(ordered, 1e-12))
    people = max(people, 2)
    reach = stdtrit(people - 1, 1 - FALSE_ALARMS) * np.sqrt(1 + 1 / people)
    limit = np.exp(logs.mean() + reach * logs.std(ddof=1))
    return float(max(limit, ordered[-1]))


# Files -----------------------------------------------------------------------------


def to_bytes(guard: Guard) -> bytes:
    """The arrays as safetensors."""
    arrays = zip(NAMES, guard[1:], strict=True)
    return safetensors.numpy.save(dict(arrays))


def read_facts(path: Path) -> GuardFacts:
    """The checked facts of a guard in a workdir. Raises CheckpointError."""
    try:
        facts = parse(path.read_text("utf-8"))
        fault = fault_in(facts, SCHEMA, "guard")
    except (OSError, ValueError) as error:
        fault = str(error).splitlines()[0]
    if fault:
        raise CheckpointError(
            f"{path} is damaged ({fault}); remove it and run the training's command "
            "again, which fits the guard anew"
        )
    return records.from_json(GuardFacts, facts)


def read(path: Path, facts: GuardFacts, width: int) -> Guard:
    """The guard of these facts, whose arrays lie at `path`; width: the features'.

    Raises CheckpointError for a file that is not what the facts say.
    """
    try:
        return Guard(facts, *_checked(_content(path), facts, width))
    except CheckpointError:
        raise
    except Exception as error:  # safetensors, the file system, numpy
        said = (str(error).splitlines() or [type(error).__name__])[0]
        said = said if isinstance(error, ValueError) else shortened(said, 200)
        raise CheckpointError(
            f"{path} is not the guard of this model ({said}); copy the whole folder "
            "again"
        ) from error


def _content(path: Path) -> bytes:
    if is_address(path):
        return path.read_bytes()
    need_regular(path)
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _checked(content: bytes, facts: GuardFacts, width: int) -> Sequence[np.ndarray]:
    """Means, axes and variances. Raises ValueError for what cannot be used."""
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        raise ValueError("its digest is another")
    arrays = safetensors.numpy.load(content)
    if sorted(arrays) != sorted(NAMES):
        raise ValueError(f"it holds {shortened(', '.join(sorted(arrays)))}")
    means, axes, variances = (arrays[name] for name in NAMES)
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("its numbers are not float32")
    shapes = means.ndim == axes.ndim == 2 and 1 <= len(means) <= 2
    if not shapes or {means.shape[1], axes.shape[1]} != {width}:
        raise ValueError(f"it does not fit the model's {width} features")
    if variances.shape != (len(axes) + 1,) or len(axes) > width:
        raise ValueError("its variances do not fit its axes")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("some of its numbers are not finite")
    if not (variances > 0).all():
        raise ValueError("a variance is not above 0")
    return means, axes, variances
