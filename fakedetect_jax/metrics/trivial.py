"""What trivial statistics reach on made videos: a forest on block energies and colours.

Made forgeries could give themselves away by how sharp, bright or coloured an area is.
A random forest on such means, which sees neither shapes nor boundaries nor the order
of frames, says how much of a detector's number needs no more than that.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fakedetect_jax.data import order
from fakedetect_jax.data.reader import Reads
from fakedetect_jax.metrics.records import TrivialScore, Video
from tfds_ffpp.frames.stored import StoredVideo

BLOCKS = 8  # per side of a frame
SEEDS = 5  # forests, whose scores are averaged
TREES = 100  # of each
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
MEANS = "block energies and colours"
SPREAD = "block energies and colours, and their spread over time"


def block_statistics(frames: np.ndarray) -> np.ndarray:
    """Each frame's block means: uint8[T, H, W, 3] -> float32[T, 4 * BLOCKS**2].

    Of the log of the absolute Laplacian, the log of the brightness, and the logs of
    red and of blue over green.
    """
    luma = frames.astype(np.float32) @ LUMA
    padded = np.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    beside = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    above = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    energy = _block_means(np.log1p(np.abs(beside + above - 4 * luma))[..., None])
    red, green, blue = np.split(np.log1p(_block_means(frames)), 3, axis=-1)
    brightness = np.log1p(_block_means(luma[..., None]))
    columns = np.concatenate([energy, brightness, red - green, blue - green], axis=-1)
    return columns.reshape(len(frames), -1)


def _block_means(frames: np.ndarray) -> np.ndarray:
    """[T, H, W, C] -> float32[T, BLOCKS, BLOCKS, C]; the last pixels may be cut."""
    height, width = (side // BLOCKS for side in frames.shape[1:3])
    kept = frames[:, : height * BLOCKS, : width * BLOCKS]
    tiles = kept.reshape(len(frames), BLOCKS, height, BLOCKS, width, -1)
    return tiles.mean((2, 4), dtype=np.float32)


def video_features(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Name of the statistics -> a video's features float32[F]."""
    blocks = block_statistics(frames)
    means = blocks.mean(0)
    return {MEANS: means, SPREAD: np.concatenate([means, blocks.std(0)])}


def forest_scores(
    features: np.ndarray, labels: np.ndarray, unknown: np.ndarray
) -> np.ndarray:
    """Trains on features[N, F] and labels[N]; the scores float64[M] of unknown[M, F].

    The mean of SEEDS forests; classes count alike, however many fakes there are.
    """
    from sklearn.ensemble import RandomForestClassifier  # a second that training saves

    scores = np.zeros(len(unknown))
    for seed in range(SEEDS):
        forest = RandomForestClassifier(
            TREES,
            min_samples_leaf=2,
            class_weight="balanced_subsample",
            random_state=seed,
        )
        scores += forest.fit(features, labels).predict_proba(unknown)[:, 1] / SEEDS
    return scores


Stored = Iterable[tuple[StoredVideo, np.ndarray]]  # see stored_frames


def score_videos(train: Stored, evaluated: Stored) -> list[TrivialScore]:
    """A row per evaluated video, with a score by each of the statistics.

    None where the training videos are not of both classes.
    """
    known, asked = ([(v, video_features(f)) for v, f in s] for s in (train, evaluated))
    labels = np.array([video.label for video, _ in known])
    if not asked or set(labels.tolist()) != {0, 1}:
        return []
    scores = {
        name: forest_scores(
            np.stack([features[name] for _, features in known]),
            labels,
            np.stack([features[name] for _, features in asked]),
        )
        for name in (MEANS, SPREAD)
    }
    return [
        TrivialScore(
            Video.of(video), {name: float(column[i]) for name, column in scores.items()}
        )
        for i, (video, _) in enumerate(asked)
    ]


def stored_frames(
    videos: Sequence[StoredVideo], reader: Reads, *, image_size: int
) -> Iterator[tuple[StoredVideo, np.ndarray]]:
    """Each video that has a usable frame, with all of them uint8[T, H, W, 3]."""
    for number, video in enumerate(videos):
        if video.num_valid > 0:
            count = video.num_valid
            frames = np.empty((count, image_size, image_size, 3), np.uint8)
            reader.read(order.ClipRef(number, 0, 1), count, frames)
            yield video, frames
