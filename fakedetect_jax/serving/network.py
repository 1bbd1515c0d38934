"""A trained model in this process: clips in, logits and heat maps out."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.programs import backends
from fakedetect_jax.trained.model import TrainedModel, feature_width

if TYPE_CHECKING:
    from fakedetect_jax.model.explain import Explanation

# Of all frames in one call of the network: 33 clips of 10 frames of 224x224.
MAX_BATCH_PIXELS = 1 << 24


class Network:
    """Scores and explains prepared clips; several threads may use one.

    model: what runs; batch_size: clips per call.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        batch_size: int = 0,
        devices: Sequence[Any] | None = None,
        cache: Path | None = None,
        backend: str = "jax",
    ):
        """See `detector.Detector.load`; a batch_size of 0 is one that suits."""
        refuse_fork()
        self.model = model
        self._clip_shape = settings.clip_shape(model.config)
        self._backend = backends.open_backend(backend, model, devices, cache)
        self.batch_size = batch_size or self._default_batch_size()

    def _default_batch_size(self) -> int:
        """Small on a CPU, where larger ones are no faster; few large ones."""
        frames, height, width, _ = self._clip_shape
        fitting = MAX_BATCH_PIXELS // (frames * height * width)
        usual = 8 if self._backend.on_cpu else 32
        return max(min(usual, fitting), self._backend.multiple)

    @property
    def backend(self) -> str:
        """The name of what computes the logits."""
        return self._backend.name

    def prepare(self, clips: int) -> None:
        """Reads meanwhile what so many clips will need."""
        self._backend.prepare(self._backend.rows(min(clips, self.batch_size)))

    def logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Logits float32[B] of clips.

        Args:
          frames: RGB uint8[B,T,S,S,3]; T and S are the model's clip_frames and
            image_size.
          length: int[B], how many frames of each clip count.

        Raises ConfigError for frames of another shape or type, and in a fork.
        """
        return self.outputs(frames, length)[0]

    def judge(
        self, frames: np.ndarray, length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `logits`, with the guard's distances float64[B]; None without a guard."""
        logits, features = self.outputs(frames, length)
        guard = self.model.guard
        return logits, None if guard is None else guard.distances(features)

    def outputs(
        self, frames: np.ndarray, length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `logits`, with the features float32[B,D] that a guard looks at."""
        refuse_fork()
        shape = self._clip_shape
        if frames.shape[1:] != shape or frames.dtype != np.uint8:
            raise ConfigError(
                f"clips are {frames.dtype}{list(frames.shape[1:])}, the model takes "
                f"uint8{list(shape)}"
            )
        width = feature_width(self.model.variables)
        found = [(np.zeros(0, np.float32), np.zeros((0, width), np.float32))]
        for batch, count in self._batches(frames, length):
            logits, features = self._backend.outputs(*batch)
            found.append((logits[:count], features[:count]))
        logits, features = map(np.concatenate, zip(*found, strict=True))
        return logits, features

    def explain(self, frames: np.ndarray, length: np.ndarray) -> "Explanation":
        """As `logits`, with the running score and the heat map of every frame."""
        from fakedetect_jax.model.explain import Explanation

        refuse_fork()
        found = [
            [part[:count] for part in self._backend.explain(*batch)]
            for batch, count in self._batches(frames, length)
        ]
        return Explanation(*map(np.concatenate, zip(*found, strict=True)))

    def _batches(
        self, frames: np.ndarray, length: np.ndarray
    ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], int]]:
        """(frames and lengths, padded to one of few sizes; how many clips they are)."""
        for first in range(0, len(frames), self.batch_size):
            some = slice(first, first + self.batch_size)
            count = len(frames[some])
            more = (0, self._backend.rows(count) - count)
            yield (
                (
                    np.pad(frames[some], (more, *[(0, 0)] * 4)),
                    np.pad(length[some], more, constant_values=1).astype(np.int32),
                ),
                count,
            )


@functools.cache
def _first_process() -> int:
    """The process that first asked, which its forks inherit."""
    return os.getpid()


def refuse_fork() -> None:
    """Raises ConfigError in a fork of a process that has used a model.

    The threads of JAX are not in a fork, so a computation there would wait for ever.
    """
    if _first_process() != os.getpid():
        raise ConfigError(
            "this process was forked after a model was loaded, and JAX does not work "
            "in such a fork; load the model in each process after the fork, or start "
            'processes by "spawn"'
        )
