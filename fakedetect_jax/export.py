"""Writes a trained model into a folder that one can hand over.

python -m fakedetect_jax.export runs/demo OUT [--stablehlo] [--onnx] [--push hf://ORG/NAME]
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.programs import portable
from tfds_ffpp import system
from tfds_ffpp.store import addresses
from tfds_ffpp.terminal import command

STABLEHLO, ONNX = "model.stablehlo", "model.onnx"


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
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
    parser.add_argument(
        "--push",
        metavar="hf://ORG/NAME",
        help="also put what is written on a hub; a model that is new there is private",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.export"
) -> int:
    """Runs the command; returns its exit code."""
    return command.run(lambda: parse_arguments(argv, prog), _run)


def _run(arguments: argparse.Namespace) -> int:
    from fakedetect_jax.trained import hub

    if arguments.push:
        hub.parse(arguments.push)  # before minutes of work
    written = _write(arguments)
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")
    if arguments.push:
        from fakedetect_jax.trained.model import GUARD

        others = (STABLEHLO, ONNX, GUARD)
        print(hub.push(written, arguments.push, others=others))
    return 0


def _write(arguments: argparse.Namespace) -> list[Path]:
    system.refuse_path("W", arguments.workdir, bucket=True)
    system.refuse_path("OUT", arguments.out)
    # Only now: --help and a wrong flag are answered without waiting for JAX.
    from fakedetect_jax.trained.model import load_model, write_bundle

    out = Path(arguments.out).expanduser()
    with addresses.one_sentence():
        model = load_model(addresses.as_path(arguments.workdir), step=arguments.step)
    # Beside OUT, which gets nothing before all of it is there.
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        if arguments.stablehlo:
            (partial / STABLEHLO).write_bytes(portable.stablehlo(model))
        if arguments.onnx:
            portable.write_onnx(model, partial / ONNX)
        write_bundle(model, partial)
        return _move(partial, out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, out: Path) -> list[Path]:
    """Puts what was written into OUT; while some of it is missing OUT is no model."""
    from fakedetect_jax.trained.model import FACTS, GUARD

    if not out.exists():
        partial.rename(out)
        return sorted(out.iterdir())
    (out / FACTS).unlink(missing_ok=True)
    for old in (STABLEHLO, ONNX, GUARD):  # of another model, perhaps
        (out / old).unlink(missing_ok=True)
    names = sorted((path.name for path in partial.iterdir()), key=FACTS.__eq__)
    return [(partial / name).replace(out / name) for name in names]


if __name__ == "__main__":
    sys.exit(main())
