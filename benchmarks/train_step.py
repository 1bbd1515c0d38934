"""This project's step beside the same model in PyTorch and in unmodified flax.

python -m benchmarks.train_step                                  ResNet-50, 224 px, CPU
python -m benchmarks.train_step --model resnet18 --size 112
python -m benchmarks.train_step --device cuda --precision bf16 --clips 32

Each side lives in a process of its own (benchmarks/step_workers.py); they take turns,
A B C A B C, after a warm-up, and only one works at a time. All have the memory settings
that the trainer gives itself, but for "flax as it comes". PyTorch computes training and
inference each as it is fastest there: eagerly, by torch.compile, or, inference, by
torch.compile with frozen weights. It comes with the extra `bench`; without it, or with
--no-torch, the project stands beside flax alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks import table
from fakedetect_jax.run.process import MALLOC

# What the loss of the same weights may differ by.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
MODES = ("train", "infer")
PLAIN_FLAX = "flax as it comes"


class Side:
    """A running worker."""

    def __init__(self, name: str, arguments: argparse.Namespace, weights: Path):
        """Starts it, by its first word, and waits until its first steps are done."""
        self.name = name
        fields = ("model", "size", "clips", "frames", "precision", "device", "compile")
        chosen = {field: getattr(arguments, field) for field in fields}
        python = sys.executable
        if name == "torch":
            python = arguments.torch_python or python
            chosen["precision"] = arguments.torch_precision or arguments.precision
        kind = name.split()[0]
        command = [python, "-m", "benchmarks.step_workers", "--side", kind]
        command += ["--weights", str(weights)]
        for field, value in chosen.items():
            command += [f"--{field}", str(value)]
        platforms = {"cpu": "cpu", "cuda": "cuda"}[arguments.device]
        self._process = subprocess.Popen(
            command,
            env={
                **os.environ,
                **({} if name == PLAIN_FLAX else MALLOC),
                "JAX_PLATFORMS": platforms,
                # The sides share the device's memory.
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()
        self.seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        self.cpu_seconds: dict[str, float] = {}
        self.memory = 0

    def _answer(self) -> dict:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"error: the side {self.name!r} ended; see its message above")

    def step(self, mode: str, *, count: int, keep: bool) -> None:
        """Runs `count` steps; `keep` their times."""
        assert self._process.stdin
        request = json.dumps({"mode": mode, "count": count})
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.memory = max(self.memory, answer["memory"])
        if keep:
            self.seconds[mode] += answer["seconds"]
            seen = [self.cpu_seconds[mode]] if mode in self.cpu_seconds else []
            self.cpu_seconds[mode] = min([*seen, answer["cpu_seconds"]])

    def close(self) -> None:
        """Ends the worker."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(arguments: argparse.Namespace) -> list[Side]:
    """All sides after their turns."""
    names = ["project", "torch"]
    names += ["flax", PLAIN_FLAX] if arguments.flax else []
    has_torch = arguments.torch_python or find_spec("torch") is not None
    if not arguments.torch or not has_torch or arguments.model == "demo":
        names.remove("torch")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        sides = [Side(name, arguments, weights) for name in names]
        try:
            check_equal_work(sides, TOLERANCE[arguments.precision])
            for mode in arguments.modes:
                for turn in range(arguments.pairs + 1):  # the first turn is warm-up
                    for side in sides:
                        side.step(mode, count=arguments.count, keep=turn > 0)
        finally:
            for side in sides:
                side.close()
    return sides


def check_equal_work(sides: list[Side], tolerance: float) -> None:
    """Ends the program unless all sides have equal parameters and losses."""
    first = sides[0].facts
    for side in sides[1:]:
        if side.facts["parameters"] != first["parameters"]:
            raise SystemExit(
                f"error: {side.name} has {side.facts['parameters']} parameters, the "
                f"project {first['parameters']}"
            )
        for mode in MODES:
            loss, ours = side.facts[f"{mode}_first"], first[f"{mode}_first"]
            if abs(loss - ours) > tolerance * max(1.0, abs(ours)):
                raise SystemExit(
                    f"error: with the same weights {side.name} gives {loss:.5f} in "
                    f"{mode}, the project {ours:.5f}"
                )


def rows(sides: list[Side], arguments: argparse.Namespace) -> list[dict]:
    """One row of the table per mode and side."""
    frames = arguments.clips * arguments.frames
    found = []
    for mode in arguments.modes:
        flops = sides[0].facts["forward_flops"] * (3 if mode == "train" else 1)
        project = statistics.median(sides[0].seconds[mode])
        for side in sides:
            seconds = side.seconds[mode]
            median = statistics.median(seconds)
            found.append(
                {
                    "mode": mode,
                    "side": side.name,
                    "frames_per_second": frames / median,
                    "slowest": frames / max(seconds),
                    "fastest": frames / min(seconds),
                    "project_ratio": median / project,
                    "flops_per_second": flops / median,
                    "share_of_matmul": flops / median / side.facts["matmul"],
                    "cpu_seconds": side.cpu_seconds[mode],
                    "memory_bytes": side.memory,
                    "first_step_seconds": side.facts[f"{mode}_first_seconds"],
                }
            )
    return found


def show(measured: list[dict], results: table.Results) -> None:
    """The table for people.

    `project is` how many times as fast; `CPU s` are the core seconds of a step, which
    other programs on the machine disturb less than its frames/s.
    """
    results.heads(
        *("mode", "side", "frames/s (min-max)", "project is", "GFLOP/s", "of matmul"),
        *("CPU s", "first step s"),
    )
    for row in measured:
        spread = f"({row['slowest']:.1f}-{row['fastest']:.1f})"
        results.row(
            row["mode"],
            row["side"],
            f"{row['frames_per_second']:.1f} {spread}",
            f"{row['project_ratio']:.2f} x",
            f"{row['flops_per_second'] / 1e9:.0f}",
            f"{row['share_of_matmul']:.0%}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['first_step_seconds']:.1f}",
        )
    peaks = {row["side"]: row["memory_bytes"] / 2**30 for row in measured}
    said = ", ".join(f"{side} {peak:.2f} GiB" for side, peak in peaks.items())
    results.say()
    results.say(f"Peak memory of each side's process, with all that it tried: {said}.")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet50", help="resnet18..152 | demo")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--clips", type=int, default=2, help="clips per step")
    parser.add_argument("--frames", type=int, default=10, help="frames per clip")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pairs", type=int, default=3, help="turns of every side")
    parser.add_argument("--count", type=int, default=4, help="steps per turn")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--torch", action=flag, default=True)
    parser.add_argument("--torch_python", help="the interpreter that has PyTorch")
    parser.add_argument("--torch_precision", choices=["fp32", "bf16"], help="its own")
    parser.add_argument("--flax", action=flag, default=True)
    parser.add_argument("--compile", type=int, default=1, help="0: no torch.compile")
    parser.add_argument("--json", type=Path, help="also write everything there")
    table.add_option(parser)
    return parser


def main() -> None:
    """Measures and prints."""
    parser = make_parser()
    arguments = parser.parse_args()
    with table.results(parser, arguments) as results:
        compare(arguments, results)


def compare(arguments: argparse.Namespace, results: table.Results) -> None:
    """Measures all sides; a line for each, and the table."""
    sides = measure(arguments)
    measured = rows(sides, arguments)
    chosen = {k: v for k, v in vars(arguments).items() if k not in ("json", "results")}
    results.say(", ".join(f"{name} {value}" for name, value in chosen.items()))
    results.say()
    for side in sides:
        compiled = side.facts.get("compiled", "")
        rate = side.facts["matmul"] / 1e9
        version = side.facts["version"]
        results.say(f"- {side.name}: {version}, matmul {rate:.0f} GFLOP/s {compiled}")
    results.say(f"- {sides[0].facts['parameters']} parameters on every side")
    show(measured, results)
    if arguments.json:
        facts = {
            "arguments": chosen,
            "machine": table.machine(),
            "facts": {side.name: side.facts for side in sides},
            "rows": measured,
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
