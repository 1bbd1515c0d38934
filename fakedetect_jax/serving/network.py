"""A trained model on its devices: clips in, logits and heat maps out."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fakedetect_jax import compiled, settings
from fakedetect_jax.data import feed
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.explain import Explanation
from fakedetect_jax.model.network import make_model
from fakedetect_jax.run import parallel
from fakedetect_jax.trained.model import TrainedModel

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
    ):
        """See `detector.Detector.load`; a batch_size of 0 is one that suits."""
        refuse_fork()
        self.model = model
        self._clip_shape = settings.clip_shape(model.config)
        self._mesh = parallel.make_mesh(list(devices or jax.local_devices()))
        self.batch_size = batch_size or _default_batch_size(
            self._mesh, self._clip_shape
        )
        network = make_model(model.config)
        self._variables = parallel.put_replicated(model.variables, self._mesh)
        self._eval_step = compiled.compile_eval_step(network, self._mesh)
        self._explain_step = compiled.compile_explain_step(network, self._mesh)

    def logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Logits float32[B] of clips.

        Args:
          frames: RGB uint8[B,T,S,S,3]; T and S are the model's clip_frames and
            image_size.
          length: int[B], how many frames of each clip count.

        Raises ConfigError for frames of another shape or type, and in a fork.
        """
        refuse_fork()
        shape = self._clip_shape
        if frames.shape[1:] != shape or frames.dtype != np.uint8:
            raise ConfigError(
                f"clips are {frames.dtype}{list(frames.shape[1:])}, the model takes "
                f"uint8{list(shape)}"
            )
        found = [
            parallel.fetch(self._eval_step(self._variables, batch))[:count]
            for batch, count in self._batches(frames, length)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def explain(self, frames: np.ndarray, length: np.ndarray) -> Explanation:
        """As `logits`, with the running score and the heat map of every frame."""
        refuse_fork()
        found = []
        for batch, count in self._batches(frames, length):
            parts = parallel.fetch(self._explain_step(self._variables, batch))
            found.append([part[:count] for part in parts])
        return Explanation(*map(np.concatenate, zip(*found, strict=True)))

    def _batches(
        self, frames: np.ndarray, length: np.ndarray
    ) -> Iterator[tuple[dict[str, jax.Array], int]]:
        """(batch on the devices, how many clips are in it)."""
        for first in range(0, len(frames), self.batch_size):
            some = slice(first, first + self.batch_size)
            yield self._batch(frames[some], length[some]), len(frames[some])

    def _batch(self, frames: np.ndarray, length: np.ndarray) -> dict[str, jax.Array]:
        """Clips padded to one of few sizes, so that few programs are compiled."""
        rows = self._mesh.devices.size
        while rows < len(frames):
            rows *= 2
        batch = feed.empty_batch(rows, frames.shape[1], frames.shape[2])
        batch["frames"][: len(frames)] = frames
        batch["length"][: len(frames)] = length
        batch["valid"][: len(frames)] = True
        return parallel.to_global(batch, self._mesh)


def _default_batch_size(mesh: Mesh, clip_shape: Sequence[int]) -> int:
    """Clips per call: small on CPU, where larger ones are no faster; few large ones."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    fitting = MAX_BATCH_PIXELS // (clip_shape[0] * clip_shape[1] * clip_shape[2])
    return max(min(8 if on_cpu else 32, fitting), mesh.devices.size)


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
