"""What computes a model's logits in this process. Each is imported when it is used."""

import contextlib
import functools
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.programs import portable, runtimes
from fakedetect_jax.run import process
from fakedetect_jax.trained import cache
from fakedetect_jax.trained.model import TrainedModel
from tfds_ffpp import system

if TYPE_CHECKING:
    from fakedetect_jax.model.explain import Explanation


NAMES = ("auto", "jax", *runtimes.NAMES)
MOST_APART = 1e-4  # of two backends' logits, to be taken for each other
LEAST_GAIN = 1.1  # of frames per second, to leave JAX for another


def open_backend(
    name: str,
    model: TrainedModel,
    devices: Sequence[Any] | None = None,
    folder: Path | None = None,
) -> "JaxBackend | RuntimeBackend":
    """The backend of a name, with a model; auto is the fastest, see `choose`.

    Raises ConfigError where its packages are not there.
    """
    if name not in NAMES:
        raise ConfigError(f"backend {name} is none of {', '.join(NAMES)}")
    if name == "auto":
        name = choose(model, devices, folder)
    if name == "jax":
        return JaxBackend(model, devices, folder)
    return RuntimeBackend(name, model, folder)


def choose(
    model: TrainedModel, devices: Sequence[Any] | None, folder: Path | None
) -> str:
    """The backend that a second of measuring finds the fastest for a model here.

    JAX, where it computes on an accelerator, or where none of the others is there, or
    a tenth faster, or its logits lie further than MOST_APART from JAX's in float32, in
    which these others compute; one of less precision is never taken. What was found is
    kept in the folder for this machine, these versions and these weights, as logits of
    others may lie further apart; a machine that gets a GPU is measured again.
    """
    there = runtimes.installed()
    if not there:
        return "jax"

    def measured() -> bytes:
        jax = JaxBackend(model, devices, folder)
        if not jax.on_cpu:
            return b"jax"
        others = {}
        for name in there:
            with contextlib.suppress(ConfigError):  # it cannot run this model
                others[name] = RuntimeBackend(name, model, folder)
        exact = jax
        if model.config.model.dtype != "float32":
            exact = JaxBackend(in_float32(model), devices, folder)
        shape = settings.clip_shape(model.config)
        return _fastest(jax, others, shape, exact).encode()

    on_cpu = process.will_run_on_cpu("any")
    where = (platform.node(), system.num_cores(), on_cpu, runtimes.versions())
    shape = settings.clip_shape(model.config)
    facts = (model.config.model.to_dict(), shape, model.digest, where)
    found = cache.kept(folder, f"{cache.name_of('backend', *facts)}.choice", measured)
    return found.decode()


def in_float32(model: TrainedModel) -> TrainedModel:
    """The model as JAX computes it in float32, whatever its config says."""
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dtype = "float32"
    return model._replace(config=config)


def _fastest(
    jax: "JaxBackend",
    others: "dict[str, RuntimeBackend]",
    clip_shape: Sequence[int],
    exact: "JaxBackend",
) -> str:
    rows = max(4, jax.multiple)
    frames = np.random.default_rng(0).integers(0, 256, (rows, *clip_shape), np.uint8)
    batch = frames, np.maximum(clip_shape[0] - np.arange(rows, dtype=np.int32), 1)
    jax.outputs(*batch)  # compiles
    expected, _ = exact.outputs(*batch)
    backends: dict[str, JaxBackend | RuntimeBackend] = {jax.name: jax}
    for name, other in others.items():
        if np.abs(other.outputs(*batch)[0] - expected).max() <= MOST_APART:
            backends[name] = other
    seconds = dict.fromkeys(backends, float("inf"))
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end or min(seconds.values()) == float("inf"):
        for name, backend in backends.items():  # in turns
            start = time.perf_counter()
            backend.outputs(*batch)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    best = min(seconds, key=lambda name: seconds[name])
    slow = seconds[jax.name] >= LEAST_GAIN * seconds[best]
    return best if slow else jax.name


class RuntimeBackend:
    """A runtime of ONNX graphs on the processors of this host.

    What explains a score is JAX's.
    """

    multiple, on_cpu = 1, True

    def __init__(self, name: str, model: TrainedModel, folder: Path | None):
        """folder: keeps the graph, see runtimes.load."""
        self.name, self._model, self._folder = name, model, folder
        self._run = runtimes.load(name, model.config, model.variables, folder)

    def rows(self, clips: int) -> int:
        """The clips of a call: no more than there are."""
        return clips

    def prepare(self, rows: int) -> None:
        """Nothing: all is there."""

    def outputs(self, frames: np.ndarray, length: np.ndarray) -> runtimes.Outputs:
        """Of clips uint8[B,T,S,S,3] of int32[B] frames."""
        return self._run(frames, length)

    def explain(self, frames: np.ndarray, length: np.ndarray) -> "Explanation":
        """The logits, with the running score and the heat map of every frame."""
        return self._jax.explain(frames, length)

    @functools.cached_property
    def _jax(self) -> "JaxBackend":
        import jax

        return JaxBackend(self._model, jax.local_devices()[:1], self._folder)


class JaxBackend:
    """Programs of JAX on the devices of this host, or on some of them."""

    name = "jax"

    def __init__(
        self, model: TrainedModel, devices: Sequence[Any] | None, folder: Path | None
    ):
        """folder: of kept programs, see portable.eval_step."""
        import jax

        from fakedetect_jax.run import parallel

        if folder and not getattr(jax.config, "jax_compilation_cache_dir", None):
            parallel.keep_programs(str(folder))
        self._model, self._folder = model, folder
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

    def rows(self, clips: int) -> int:
        """The clips of a call: one of few sizes, so that few programs are compiled."""
        rows = self.multiple
        while rows < clips:
            rows *= 2
        return rows

    def prepare(self, rows: int) -> None:
        """Reads the program for so many clips, if it is kept, in a thread.

        What is wrong with it is said when it is used.
        """

        def load() -> None:
            with contextlib.suppress(Exception):
                self.program(rows)

        path = portable.place(self._model, self._mesh, self._folder, rows)
        if path is not None and path.exists():
            threading.Thread(target=load).start()

    def program(self, rows: int) -> Callable:
        """(variables, so many clips) -> logits and features, compiled."""
        from fakedetect_jax.run import parallel

        with self._lock:  # the thread that prepares may be at it
            if rows not in self._programs:
                step = portable.eval_step(self._model, self._mesh, self._folder, rows)
                spread = parallel.batch_sharded(self._mesh)
                clips = portable.abstract_clips(self._model, rows, spread)
                lowered = step.lower(self._variables, clips)
                self._programs[rows] = lowered.compile()
            return self._programs[rows]

    def outputs(self, frames: np.ndarray, length: np.ndarray) -> runtimes.Outputs:
        """Of clips uint8[B,T,S,S,3] of int32[B] frames."""
        logits, features = self._run(self.program(len(length)), frames, length)
        return logits, features

    def explain(self, frames: np.ndarray, length: np.ndarray) -> "Explanation":
        """The logits, with the running score and the heat map of every frame."""
        return self._run(self._explain_step, frames, length)

    @functools.cached_property
    def _explain_step(self) -> Callable:
        from fakedetect_jax.model.network import make_model
        from fakedetect_jax.programs import compiled

        return compiled.compile_explain_step(make_model(self._model.config), self._mesh)

    def _run(self, program: Callable, frames: np.ndarray, length: np.ndarray) -> Any:
        from fakedetect_jax.run import parallel

        clips = parallel.to_global((frames, length), self._mesh)
        return parallel.fetch(program(self._variables, clips))
