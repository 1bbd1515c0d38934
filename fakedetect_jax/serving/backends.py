"""What computes a model's logits in this process. Each is imported when it is used."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fakedetect_jax.serving import programs
from fakedetect_jax.trained.model import TrainedModel

if TYPE_CHECKING:
    from fakedetect_jax.model.explain import Explanation


class JaxBackend:
    """Programs of JAX on the devices of this host, or on some of them."""

    def __init__(
        self, model: TrainedModel, devices: Sequence[Any] | None, cache: Path | None
    ):
        """cache: the folder of kept programs, see programs.eval_step."""
        import jax

        from fakedetect_jax.run import parallel

        if cache and not getattr(jax.config, "jax_compilation_cache_dir", None):
            jax.config.update("jax_compilation_cache_dir", str(cache))
        self._model, self._cache = model, cache
        self._mesh = parallel.make_mesh(list(devices or jax.local_devices()))
        self._variables = parallel.put_replicated(model.variables, self._mesh)
        self._programs: dict[int, Callable] = {}
        self._lock = threading.Lock()

    @property
    def multiple(self) -> int:
        """What the number of clips of a call must be a multiple of."""
        return self._mesh.devices.size

    @property
    def on_cpu(self) -> bool:
        """Whether processors compute, no accelerator."""
        return self._mesh.devices.flat[0].platform == "cpu"

    def is_kept(self, rows: int) -> bool:
        """Whether the program for so many clips need not be made."""
        path = programs.place(self._model, self._mesh, self._cache, rows)
        return path is not None and path.exists()

    def program(self, rows: int) -> Callable:
        """(variables, batch of so many clips) -> logits, compiled."""
        from fakedetect_jax.run import parallel

        with self._lock:  # the thread that prepares may be at it
            if rows not in self._programs:
                step = programs.eval_step(self._model, self._mesh, self._cache, rows)
                spread = parallel.batch_sharded(self._mesh)
                batch = programs.abstract_batch(self._model, rows, spread)
                lowered = step.lower(self._variables, batch)
                self._programs[rows] = lowered.compile()
            return self._programs[rows]

    def logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Logits float32[B] of clips uint8[B,T,S,S,3] of int32[B] frames."""
        return self._run(self.program(len(length)), frames, length)

    def explain(self, frames: np.ndarray, length: np.ndarray) -> "Explanation":
        """As `logits`, with the running score and the heat map of every frame."""
        return self._run(self._explain_step, frames, length)

    @functools.cached_property
    def _explain_step(self) -> Callable:
        from fakedetect_jax import compiled
        from fakedetect_jax.model.network import make_model

        return compiled.compile_explain_step(make_model(self._model.config), self._mesh)

    def _run(self, program: Callable, frames: np.ndarray, length: np.ndarray) -> Any:
        from fakedetect_jax.run import parallel

        batch = parallel.to_global({"frames": frames, "length": length}, self._mesh)
        return parallel.fetch(program(self._variables, batch))
