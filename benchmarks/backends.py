"""Frames per second of the backends that score on CPUs, in turns, and how far apart.

python -m benchmarks.backends [--backbones resnet18 resnet50] [--clips 4] [--rounds 12]

Random weights, clips of 10 frames at 224 px, float32. A backend that is not installed
is left out (extras onnx, openvino).
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.model import network
from fakedetect_jax.programs import backends, runtimes
from fakedetect_jax.trained.description import Origin
from fakedetect_jax.trained.model import TrainedModel, weights_digest
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig


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


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--clips", type=int, default=4, help="of a call")
    parser.add_argument("--rounds", type=int, default=12, help="timed calls of each")
    parser.add_argument("--frames", type=int, default=10, help="of a clip")
    parser.add_argument("--size", type=int, default=224, help="of a frame, pixels")
    table.add_option(parser)
    options = parser.parse_args()
    # One folder for all: JAX goes on with the first that it is given.
    with table.results(parser, options) as results, TemporaryDirectory() as folder:
        results.say(", ".join(runtimes.versions()))
        results.heads(
            *("backbone", "backend", "frames/s (min to max)", "frames per CPU second"),
            *("load and first call, kept before", "logits from JAX's"),
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
    found: dict[str, np.ndarray] = {}
    first: dict[str, float] = {}
    loaded: dict[str, backends.JaxBackend | backends.RuntimeBackend] = {}
    for name in ("jax", *runtimes.installed()):
        for _ in range(2):  # the second finds what the first kept
            start = time.perf_counter()
            loaded[name] = backends.open_backend(name, model, folder=folder)
            found[name] = loaded[name].outputs(*batch)[0]
            first[name] = time.perf_counter() - start
    wall: dict[str, list[float]] = {name: [] for name in loaded}
    used: dict[str, list[float]] = {name: [] for name in loaded}
    for _ in range(options.rounds):
        for name, backend in loaded.items():
            start, cpu = time.perf_counter(), time.process_time()
            backend.outputs(*batch)
            wall[name].append(shape[0] * shape[1] / (time.perf_counter() - start))
            used[name].append(shape[0] * shape[1] / (time.process_time() - cpu))
    for name, rates in wall.items():
        results.row(
            model.config.model.backbone,
            name,
            f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
            f"{statistics.median(used[name]):.1f}",
            f"{first[name]:.1f} s",
            f"{np.abs(found[name] - found['jax']).max():.0e}",
        )


if __name__ == "__main__":
    main()
