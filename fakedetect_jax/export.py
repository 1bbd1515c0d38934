"""Writes a trained model into a folder that one can hand over.

python -m fakedetect_jax.export runs/demo OUT [--stablehlo] [--onnx]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fakedetect_jax import sources
from fakedetect_jax.errors import CheckpointError, UserError
from tfds_ffpp.errors import DataError

STABLEHLO, ONNX = "model.stablehlo", "model.onnx"
PLATFORMS = ("cpu", "cuda", "tpu")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fakedetect_jax.export",
        description="Writes a model's weights (safetensors), its config, preprocessing "
        "and calibration (JSON) and its card into a folder for predict --model.",
    )
    parser.add_argument("workdir", metavar="W", help="the workdir of a training run")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--step", type=int, help="checkpoint; the best if not set")
    parser.add_argument(
        "--stablehlo", action="store_true", help="also a program for jax.export"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="also an ONNX graph (needs onnx)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = parse_arguments(argv)
    try:
        for path in _run(arguments):
            print(f"{path}  {path.stat().st_size:,} bytes")
    except (UserError, DataError) as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(arguments: argparse.Namespace) -> list[Path]:
    sources.refuse_address("W", arguments.workdir)
    sources.refuse_address("OUT", arguments.out)
    # Only now: --help and a wrong flag are answered without waiting for JAX.
    from absl import logging

    from fakedetect_jax import bundle

    logging.set_verbosity(logging.ERROR)
    out = Path(arguments.out).expanduser()
    model = bundle.load(Path(arguments.workdir).expanduser(), step=arguments.step)
    try:
        written = bundle.write_bundle(model, out)
        if arguments.stablehlo:
            written.append(out / STABLEHLO)
            written[-1].write_bytes(stablehlo(model))
        if arguments.onnx:
            written.append(out / ONNX)
            write_onnx(model, written[-1])
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}); choose another folder"
        ) from error
    return written


def stablehlo(model) -> bytes:
    """A program frames uint8[b,T,S,S,3], length int32[b] -> logits float32[b].

    b is free; the weights are in it; jax.export.deserialize reads it on a CPU, a GPU or
    a TPU, without this project.
    """
    import jax
    import numpy as np
    from jax import export

    from fakedetect_jax import evaluate, steps

    network = steps.make_model(model.config)

    def score(frames, length):
        batch = {"frames": frames, "length": length}
        return steps.eval_step(network, model.variables, batch)

    (clips,) = export.symbolic_shape("clips")
    shape = evaluate.clip_shape(model.config)
    program = export.export(jax.jit(score), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((clips, *shape), np.uint8),
        jax.ShapeDtypeStruct((clips,), np.int32),
    )
    return bytes(program.serialize())


def write_onnx(model, path: Path) -> None:
    """The same as an ONNX graph in float32. Raises ConfigError without onnx."""
    from fakedetect_jax import evaluate, onnx_graph, steps

    network = steps.make_model(model.config)
    shape = evaluate.clip_shape(model.config)
    onnx_graph.write(path, network, model.variables, shape)


if __name__ == "__main__":
    sys.exit(main())
