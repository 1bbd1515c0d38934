"""Frames per second of the backends that score on CPUs, in turns, and how far apart.

python -m benchmarks.backends [--backbones resnet18 resnet50] [--clips 4] [--rounds 12]

Random weights, clips of 10 frames at 224 px. PyTorch computes the same weights eagerly
and by torch.compile with frozen weights (extra bench; it needs a C++ compiler). What is
not installed, or whose precision this processor lacks, is left out (extras onnx,
openvino). The last column is the project's fastest in a precision to PyTorch's.
"""

import argparse
import contextlib
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import network
from fakedetect_jax.programs import backends, runtimes
from fakedetect_jax.trained.description import Origin
from fakedetect_jax.trained.model import TrainedModel, weights_digest
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

PEER = "PyTorch"
# frames uint8[B,T,S,S,3], lengths int32[B] -> logits float32[B]
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def random_model(backbone: str, *, frames: int, size: int) -> TrainedModel:
    """The model of configs/ffpp.py in float32, as it is before any step."""
    config = settings.load("ffpp")
    config.model.backbone, config.model.dtype = backbone, "float32"
    config.data.clip_frames, config.dataset.image_size = frames, size
    clip = np.zeros((1, *settings.clip_shape(config)), np.float32)
    initialise = jax.jit(network.make_model(config).init, static_argnames="train")
    variables = initialise(jax.random.key(0), clip, np.ones(1, int), train=False)
    variables = jax.tree.map(np.asarray, variables)
    return TrainedModel(
        config=config,
        variables=variables,
        preparation=FfppConfig(**config.dataset.to_dict()).preparation,
        temperature=None,
        threshold=None,
        window_frames=1800,
        step=0,
        digest=weights_digest(variables),
        origin=Origin({}, "", {}),
        card="",
    )


class Way(NamedTuple):
    """One of what is compared, not opened yet."""

    dtype: str
    open: Callable[[], Score]


def own_ways(model: TrainedModel, folder: Path) -> dict[str, Way]:
    """The project's backends that can run the model here, JAX in float32 first."""

    def opened(name: str, model: TrainedModel) -> Score:
        backend = backends.open_backend(name, model, folder=folder)
        return lambda frames, length: backend.outputs(frames, length)[0]

    found = {"jax": Way("float32", lambda: opened("jax", model))}
    for name in runtimes.installed():
        found[name] = Way("float32", lambda name=name: opened(name, model))
    half = model.config.copy_and_resolve_references()
    with half.unlocked():
        half.model.dtype = "bfloat16"
    halved = model._replace(config=half)
    found["jax, bfloat16"] = Way("bfloat16", lambda: opened("jax", halved))
    if "openvino" in found:
        with contextlib.suppress(ConfigError):  # this processor lacks bfloat16
            opened(runtimes.BFLOAT16, model)
            name = runtimes.BFLOAT16
            found[name] = Way("bfloat16", lambda: opened(name, model))
    return found


def with_peers(model: TrainedModel) -> tuple[TrainedModel, dict[str, Way]]:
    """PyTorch's ways, and the model with the weights that they have."""
    if importlib.util.find_spec("torch") is None:
        return model, {}
    from benchmarks import backends_peer

    model, scorer = backends_peer.with_peer(model)
    ways = {}
    for dtype in ("float32", "bfloat16"):
        for way in ("eager", "frozen"):
            name = f"{PEER}, {way}" + (", bfloat16" if dtype == "bfloat16" else "")
            ways[name] = Way(
                dtype, functools.partial(backends_peer.open_way, scorer, way, dtype)
            )
    return model, ways


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--clips", type=int, default=4, help="of a call")
    parser.add_argument("--rounds", type=int, default=12, help="timed calls of each")
    parser.add_argument("--frames", type=int, default=10, help="of a clip")
    parser.add_argument("--size", type=int, default=224, help="of a frame, pixels")
    parser.add_argument(
        "--torch", action=argparse.BooleanOptionalAction, default=True, help="PyTorch"
    )
    table.add_option(parser)
    options = parser.parse_args()
    # One folder for all: JAX goes on with the first that it is given.
    with table.results(parser, options) as results, TemporaryDirectory() as folder:
        versions = runtimes.versions()
        if importlib.util.find_spec("torch"):
            versions.append(f"torch {metadata.version('torch')}")
        results.say(", ".join(versions))
        results.heads(
            *("backbone", "backend", "frames/s (min to max)", "frames per CPU second"),
            *("load and first call, kept before", "logits from JAX's", "to PyTorch"),
        )
        for backbone in options.backbones:
            model = random_model(backbone, frames=options.frames, size=options.size)
            measure(options, results, model, Path(folder))


def measure(
    options: argparse.Namespace,
    results: table.Results,
    model: TrainedModel,
    folder: Path,
) -> None:
    """The rows of a model."""
    shape = (options.clips, *settings.clip_shape(model.config))
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = frames, np.full(options.clips, shape[1], np.int32)
    model, peers = with_peers(model) if options.torch else (model, {})
    ways = {**own_ways(model, folder), **peers}
    found: dict[str, np.ndarray] = {}
    first: dict[str, float] = {}
    loaded: dict[str, Score] = {}
    for name, way in ways.items():
        for _ in range(2):  # the second finds what the first kept
            start = time.perf_counter()
            loaded[name] = way.open()
            found[name] = loaded[name](*batch)
            first[name] = time.perf_counter() - start
    wall: dict[str, list[float]] = {name: [] for name in loaded}
    used: dict[str, list[float]] = {name: [] for name in loaded}
    for _ in range(options.rounds):
        for name, score in loaded.items():
            start, cpu = time.perf_counter(), time.process_time()
            score(*batch)
            wall[name].append(shape[0] * shape[1] / (time.perf_counter() - start))
            used[name].append(shape[0] * shape[1] / (time.process_time() - cpu))
    medians = {name: statistics.median(rates) for name, rates in wall.items()}
    for name, rates in wall.items():
        results.row(
            model.config.model.backbone,
            name,
            f"{medians[name]:.1f} ({min(rates):.1f} to {max(rates):.1f})",
            f"{statistics.median(used[name]):.1f}",
            f"{first[name]:.1f} s",
            f"{np.abs(found[name] - found['jax']).max():.0e}",
            to_peer(name, ways, medians),
        )


def to_peer(name: str, ways: dict[str, Way], medians: dict[str, float]) -> str:
    """How the fastest of the project in a precision compares; else nothing."""
    alike = [other for other in ways if ways[other].dtype == ways[name].dtype]
    peers = [medians[other] for other in alike if other.startswith(PEER)]
    own = {other: medians[other] for other in alike if not other.startswith(PEER)}
    if not peers or max(own, key=lambda other: own[other]) != name:
        return ""
    return f"{own[name] / max(peers):.2f}"


if __name__ == "__main__":
    main()
