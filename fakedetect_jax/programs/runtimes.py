"""A model's ONNX graph run on CPUs by onnxruntime or OpenVINO; both are optional."""

import importlib.util
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.trained import cache

if TYPE_CHECKING:
    from fakedetect_jax.model.network import Variables

PACKAGES = ("onnxruntime", "openvino")  # and backends that compute in float32
BFLOAT16 = "openvino-bfloat16"
NAMES = (*PACKAGES, BFLOAT16)
# Logits float32[B] and features float32[B,D], see network.logits_and_features.
Outputs = tuple[np.ndarray, np.ndarray]
# frames uint8[B,T,S,S,3], length int32[B] -> both
Run = Callable[[np.ndarray, np.ndarray], Outputs]
OUTPUTS = ("logits", "features")


def installed() -> list[str]:
    """The runtimes that are there, with what writes their graph."""
    if importlib.util.find_spec("onnx") is None:
        return []
    return [name for name in PACKAGES if importlib.util.find_spec(name) is not None]


def versions() -> list[str]:
    """What is there, with versions: on these the choice of a backend depends."""
    return [f"{name} {metadata.version(name)}" for name in installed()]


def load(name: str, config: Any, variables: "Variables", folder: Path | None) -> Run:
    """A runtime with a model, in the name's precision whatever the config says.

    Args:
      name: of NAMES; those without a precision compute in float32.
      config, variables: the model; host arrays.
      folder: keeps the graph, by the digest of the weights, for the next start.

    Raises ConfigError without the runtime, or without onnx where a graph is made; for
    a model that it cannot run; and for a precision that the processor lacks.
    """
    package = "openvino" if name == BFLOAT16 else name
    if importlib.util.find_spec(package) is None:
        extra = "onnx" if package == "onnxruntime" else "openvino"
        raise ConfigError(
            f"backend {name} needs the package {package}; in the clone, "
            f"pip install -e '.[{extra}]', or use --backend jax"
        )
    if package == "openvino" and config.model.bidirectional:
        raise ConfigError(
            f"backend {name} ignores how many frames of a clip count, which a "
            "bidirectional LSTM must know; use --backend onnxruntime or jax"
        )
    return start(name, graph_of(config, variables, folder))


def start(name: str, graph: bytes) -> Run:
    """A runtime with an ONNX graph; see load."""
    return _onnxruntime(graph) if name == "onnxruntime" else _openvino(name, graph)


def graph_of(config: Any, variables: "Variables", folder: Path | None) -> bytes:
    """The graph in float32, as it was kept in the folder, else made and kept."""
    from fakedetect_jax.trained.model import weights_digest

    def make() -> bytes:
        from fakedetect_jax.model.network import make_model
        from fakedetect_jax.programs.onnx.graph import serialised

        shape = settings.clip_shape(config)
        return serialised(make_model(config), variables, shape)

    facts = config.model.to_dict(), settings.clip_shape(config)
    name = cache.name_of("onnx", *facts, weights_digest(variables))
    return cache.kept(folder, f"{name}.onnx", make)


def _onnxruntime(graph: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(frames: np.ndarray, length: np.ndarray) -> Outputs:
        feed = {"frames": frames, "length": length}
        logits, features = map(np.asarray, session.run(OUTPUTS, feed))
        return logits, features

    return run


def _openvino(name: str, graph: bytes) -> Run:
    # It would tell its makers of each graph that is read; without it nothing is sent.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    # Of itself it computes in bfloat16 where the processor can. Asked to where it
    # cannot, it rounds to bfloat16 and computes slowly.
    precise = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if name == BFLOAT16:
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError(
                f"backend {name} needs a processor that computes in bfloat16 (AVX-512 "
                "BF16 or AMX), and this one does not; use --backend openvino"
            )
        precise["INFERENCE_PRECISION_HINT"] = "bf16"
    model = core.compile_model(core.read_model(graph), "CPU", precise)
    request, lock = model.create_infer_request(), threading.Lock()

    def run(frames: np.ndarray, length: np.ndarray) -> Outputs:
        with lock:  # one request, several threads
            found = request.infer({"frames": frames, "length": length})
            logits, features = (np.array(found[name]) for name in OUTPUTS)
            return logits, features

    return run
