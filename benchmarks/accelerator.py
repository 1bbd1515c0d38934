"""All that is worth knowing of a step on one accelerator, in under nine minutes.

python -m benchmarks.accelerator --json gpu.json [--budget 540]
python -m benchmarks.accelerator --size 32 --clips 8 --frames 2 --steps 3 --videos 4
    --copied 64 --product 512                                                (a try)

While the device is empty, and for its share of the budget: beside PyTorch
(torch.compile, channels_last, equal parameters and first losses) where it is installed.
Then in the order of their worth, each as long as the budget lasts: the ceilings
(copying, products); ResNet-50's training step with its share of both, MFU and memory;
the same state stepped three times, equal to the bit or not; inference; the ten longest
kernels; each lever beside the plain step, in turns: batches from the host and frames
that the device holds (config.data.resident), BatchNorm in groups (model.norm_groups)
and folded into the convolutions, blocks recomputed (model.remat), the augmentation's
products; explanations; the largest batch; ViT-B/16 and ViT-L/14. A part that would
compile beyond the budget is left out. Frames are noise, never zeros. No network is
needed.
"""

import argparse
import contextlib
import functools
import gzip
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_workers, table
from fakedetect_jax.augment import pixels
from fakedetect_jax.data.batch import ClipRows
from fakedetect_jax.model import explain, steps, store
from fakedetect_jax.model.kernels import convolution
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import memory, parallel
from fakedetect_jax.training import speed

Facts = dict[str, Any]
# Of the budget, for the comparison with PyTorch: it comes first, and where it is slow
# the other parts still have their time.
PEER_SHARE = 0.4


def seconds_of(call: Callable[[], Any], times: int) -> list[float]:
    """Seconds of each call, whose result is waited for; one before is not counted."""
    jax.block_until_ready(call())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return found


def in_turns(sides: dict[str, Callable[[], Any]], times: int) -> Facts:
    """What each side takes, one call of each after the other; to that of the first.

    Two calls of each before are not counted.
    """
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(times + 2):
        for name, call in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            took[name].append(time.perf_counter() - start)
    found = {name: shown(seconds[2:]) for name, seconds in took.items()}
    first = next(iter(found.values()))["ms"]
    to_first = {name: round(first / one["ms"], 3) for name, one in found.items()}
    return {"sides": [{"name": n, **found[n], "rate": to_first[n]} for n in sides]}


def shown(seconds: list[float]) -> Facts:
    """Milliseconds: median, least and most."""
    middle = statistics.median(seconds)
    return {
        "ms": round(1e3 * middle, 3),
        "min_ms": round(1e3 * min(seconds), 3),
        "max_ms": round(1e3 * max(seconds), 3),
    }


def run_whole(words: Sequence[str], limit: float, said: Path) -> int | None:
    """The exit code of a command whose stderr goes to a file; None if time was up.

    However it ends, the processes that it began end too: they would hold the device.
    """
    with said.open("wb") as file:  # no pipe, which a worker would keep open
        leader = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )
        try:
            return leader.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(leader.pid, signal.SIGKILL)
            leader.wait()


def share_of(value: float | None, ceiling: float | None) -> float | None:
    """None where either is not known."""
    return value / ceiling if value and ceiling else None


class Bench:
    """What the parts share: the settings, a compiled step and its state."""

    def __init__(self, options: argparse.Namespace):
        """Compiles nothing yet."""
        self.options = options
        self.mesh = parallel.make_mesh(jax.devices()[:1])
        self.ceilings: Facts = {}
        self.flops: dict[str, float] = {}  # of each backbone's training step
        self.compile_seconds = 0.0  # of ResNet-50's training step
        self.began = time.perf_counter()

    def config(self, backbone: str) -> Any:
        """configs/ffpp.py in bfloat16 with a backbone and these sizes."""
        chosen = argparse.Namespace(**vars(self.options))
        chosen.model, chosen.precision = backbone, "bf16"
        config = step_workers.project_config(chosen)
        with config.unlocked():
            config.dataset.image_size = self.options.size
            config.data.clip_frames = self.options.frames
        return config

    def batch(self, clips: int) -> Any:
        """Noise on the host."""
        sizes = argparse.Namespace(**{**vars(self.options), "clips": clips})
        return step_workers.make_clips(sizes)

    @functools.cache  # noqa: B019 - one bench a process
    def trained(self, backbone: str) -> tuple[Any, Any, Any, float]:
        """Settings, compiled step, state and the seconds of compiling."""
        settings = steps.make_step_settings(self.config(backbone), num_steps=10**6)
        batch = self.batch(self.options.clips)
        shape = batch.frames.shape[1:]
        create = functools.partial(steps.create_train_state, settings, shape)
        state = jax.jit(create)()
        step = compiled.compile_train_step(settings, self.mesh)
        start = time.perf_counter()
        lowered = step.lower(state, parallel.to_global(batch, self.mesh))
        # Of the compiled one a GPU's libraries are calls whose work nobody counts.
        cost: Any = lowered.cost_analysis() or {}
        self.flops[backbone] = float(cost.get("flops", 0.0))
        program = lowered.compile()
        spent = time.perf_counter() - start
        self.compile_seconds = self.compile_seconds or spent
        return settings, program, state, spent

    def stepper(self, program: Any, state: Any, *inputs: Any) -> Callable[[], Any]:
        """Steps from a copy of a state, each on the inputs, or on the bench's batch."""
        if not inputs:
            host = self.batch(self.options.clips)
            inputs = (parallel.to_global(host, self.mesh),)
        holder = [jax.tree.map(jnp.copy, state)]

        def once() -> Any:
            holder[0], metrics = program(holder[0], *inputs)
            return metrics.loss

        return once

    # Parts ----------------------------------------------------------------------

    def look_at_ceilings(self) -> Facts:
        """What copying and a product of bfloat16 reach here."""
        count = self.options.copied << 20
        array = jnp.ones(count // 4, jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        times = seconds_of(lambda: copy(array), 10)
        self.ceilings["copy_bytes_per_second"] = 2 * array.nbytes / min(times)
        side = self.options.product
        a = jax.random.normal(jax.random.key(0), (side, side)).astype(jnp.bfloat16)
        product = jax.jit(lambda a: a @ a)
        rate = 2 * side**3 / min(seconds_of(lambda: product(a), 10))
        self.ceilings["product_flops_per_second"] = rate
        return self.ceilings

    def look_at_training(self, backbone: str = "resnet50") -> Facts:
        """The step, its rates beside the ceilings that are known, and its memory."""
        _, program, state, compile_seconds = self.trained(backbone)
        times = seconds_of(self.stepper(program, state), self.options.steps)
        frames = self.options.clips * self.options.frames
        flops = self.flops[backbone]
        rate = flops / statistics.median(times)
        # As XLA counts them, what each fused operation reads and writes; caches serve a
        # part of it, so that it may be more than copying reaches.
        cost: Any = program.cost_analysis() or {}
        bytes_accessed = cost.get("bytes accessed")
        moved = (bytes_accessed or 0) / statistics.median(times)
        peak = speed.peak_flops(self.mesh, "bfloat16")
        found = {
            **shown(times),
            "frames_per_second": frames / statistics.median(times),
            "compile_seconds": compile_seconds,
            "flops": flops,
            "bytes_accessed": bytes_accessed,
            "mfu": share_of(rate, peak),
            "of_product": share_of(rate, self.ceilings.get("product_flops_per_second")),
            "of_copy": share_of(moved, self.ceilings.get("copy_bytes_per_second")),
            "program_bytes": memory.step_bytes(program),
            "peak_bytes": _device_memory("peak_bytes_in_use"),
        }
        return found

    def look_at_bits(self) -> Facts:
        """Whether the same state and batch give the same bits, three times."""
        _, program, state, _ = self.trained("resnet50")
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        ends = []
        for _ in range(3):
            after, _ = program(jax.tree.map(jnp.copy, state), batch)
            ends.append([np.asarray(leaf) for leaf in jax.tree.leaves(after)])
        differing = sum(
            any((end[i] != ends[0][i]).any() for end in ends[1:])
            for i in range(len(ends[0]))
        )
        return {"leaves": len(ends[0]), "differing": differing}

    def look_at_inference(self, backbone: str = "resnet50") -> Facts:
        """Logits of a batch."""
        settings, _, state, _ = self.trained(backbone)
        infer = jax.jit(functools.partial(steps.eval_step, settings.model))
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        variables = state.eval_variables()
        times = seconds_of(lambda: infer(variables, batch), self.options.steps)
        frames = self.options.clips * self.options.frames
        return {**shown(times), "frames_per_second": frames / statistics.median(times)}

    def look_at_explanations(self) -> Facts:
        """Logits, running scores and heat of a batch."""
        settings, _, state, _ = self.trained("resnet50")
        step = jax.jit(functools.partial(explain.explain_step, settings.model))
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        clips, variables = (batch.frames, batch.length), state.eval_variables()
        return shown(seconds_of(lambda: step(variables, clips), self.options.steps))

    def look_at_kernels(self) -> Facts:
        """The ten longest kernels of three steps, with their share."""
        _, program, state, _ = self.trained("resnet50")
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        state = jax.tree.map(jnp.copy, state)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, create_perfetto_trace=False):
                for _ in range(3):
                    state, metrics = program(state, batch)
                jax.block_until_ready(metrics)
            longest, total = longest_kernels(Path(folder))
        return {
            "total_ms": total / 3e3,
            "longest": [
                {"name": name, "ms": took / 3e3, "share": took / max(total, 1e-9)}
                for name, took in longest
            ],
        }

    def look_at_feed(self) -> Facts:
        """Steps on one batch of the device, on batches that come from the host, two
        ahead, and on clips out of a store of the device."""
        settings, program, state, _ = self.trained("resnet50")
        host = self.batch(self.options.clips)
        ahead = parallel.put_ahead(itertools.repeat(host), self.mesh, 2)
        holder = [jax.tree.map(jnp.copy, state)]

        def fed() -> Any:
            _, batch = next(ahead)
            holder[0], metrics = program(holder[0], batch)
            return metrics.loss

        blocks = self.blocks()
        rows = self.rows(sum(len(block.frames) for block in blocks))
        step = compiled.compile_resident_step(settings, self.mesh)
        stored = step.lower(state, blocks, rows).compile()
        sides = {
            "one batch": self.stepper(program, state),
            "fed": fed,
            "out of the store": self.stepper(stored, state, blocks, rows),
        }
        held = sum(block.frames.nbytes for block in blocks)
        sizes = {"store_bytes": held, "blocks": len(blocks)}
        return {**sizes, **in_turns(sides, self.options.steps)}

    def blocks(self) -> tuple[store.Block, ...]:
        """A store of as many videos of 30 frames as the options say, of noise."""
        counts = [30] * self.options.videos
        layout = store.lay_out(counts, size=self.options.size)
        bits = np.random.default_rng(1).integers(
            0, 256, (30, self.options.size, self.options.size, 3), dtype=np.uint8
        )

        def filled(shapes: store.Block) -> store.Block:
            times = len(shapes.frames) // 30  # of the same noise
            frames = jnp.tile(bits, (times, 1, 1, 1))
            return store.Block(jnp.full(shapes.face.shape, 0.5), frames)

        everywhere = parallel.replicated(self.mesh)
        return tuple(
            jax.jit(functools.partial(filled, shapes), out_shardings=everywhere)()
            for shapes in layout.shapes()
        )

    def rows(self, count: int) -> Any:
        """Clips anywhere in a store of so many frames."""
        host = self.batch(self.options.clips)
        rows = np.random.default_rng(2).integers(
            0, count, host.frames.shape[:2], dtype=np.int32
        )
        names = ("blend", "index", "label", "length", "valid")
        facts = {name: getattr(host, name) for name in names}
        return parallel.to_global(ClipRows(rows=rows, **facts), self.mesh)

    def look_at_step(self, **fields: Any) -> Facts:
        """The plain step beside that of a model with other fields."""
        settings, program, state, _ = self.trained("resnet50")
        other = settings._replace(model=settings.model.clone(**fields))
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        step = compiled.compile_train_step(other, self.mesh)
        changed = step.lower(state, batch).compile()
        sides = {
            "plain": self.stepper(program, state),
            ", ".join(f"{k} {v}" for k, v in fields.items()): self.stepper(
                changed, state
            ),
        }
        need = {
            "plain_bytes": memory.step_bytes(program),
            "changed_bytes": memory.step_bytes(changed),
        }
        return {**need, **in_turns(sides, self.options.steps)}

    def look_at_folding(self) -> Facts:
        """Inference with BatchNorm in a pass of its own, and folded into kernels."""
        settings, _, state, _ = self.trained("resnet50")
        batch = parallel.to_global(self.batch(self.options.clips), self.mesh)
        variables, sides = state.eval_variables(), {}
        ways = {
            "two passes": convolution.two_pass_conv2d,
            "folded": convolution.folded_conv2d,
        }
        for name, way in ways.items():
            infer = jax.jit(functools.partial(steps.eval_step, settings.model))
            with mock.patch.object(convolution, "scaled_conv2d", way):
                program = infer.lower(variables, batch).compile()
            sides[name] = functools.partial(program, variables, batch)
        return in_turns(sides, self.options.steps)

    def look_at_products(self) -> Facts:
        """The augmentation's products, exact and of three TF32 passes; how far apart
        pixels come out, in levels of 8 bits."""
        host = self.batch(self.options.clips)
        frames = jax.device_put(host.frames.astype(np.float32) / 255)
        rows = pixels.zoom_matrix(self.options.size, scale=0.9, shift=0.01)

        def resampled(clip: jax.Array) -> jax.Array:
            return pixels.resample(pixels.to_planes(clip), rows, rows)

        ways = {
            "exact": pixels.EXACT,
            "three passes": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
        }
        sides, found = {}, []
        for name, precision in ways.items():
            with mock.patch.object(pixels, "EXACT", precision):
                step = jax.jit(jax.vmap(lambda clip: resampled(clip))).lower(frames)
            try:
                sides[name] = functools.partial(step.compile(), frames)
            except jax.errors.JaxRuntimeError as error:
                return {"unknown": f"{name}: {str(error).splitlines()[0][:200]}"}
            found.append(sides[name]())
        apart = float(jnp.abs(found[0] - found[1]).max()) * 255
        return {"levels_apart": apart, **in_turns(sides, self.options.steps)}

    def look_at_largest_batch(self) -> Facts:
        """The clips that fit, by the memory that a clip takes; then tried."""
        limit = _device_memory("bytes_limit")
        settings, program, _, _ = self.trained("resnet50")
        need, clips = memory.step_bytes(program), self.options.clips
        if limit is None or need is None:
            return {"unknown": "the device does not say how much memory it has"}
        shape = (self.options.frames, self.options.size, self.options.size, 3)
        create = functools.partial(steps.create_train_state, settings, shape)
        leaves = jax.tree.leaves(jax.eval_shape(create))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        fits = int(clips * (0.9 * limit - state_bytes) / (need - state_bytes))
        fits = max(fits // 8 * 8, clips)
        batch = parallel.to_global(self.batch(fits), self.mesh)
        step = compiled.compile_train_step(settings, self.mesh)
        try:
            after, metrics = step(jax.jit(create)(), batch)
            jax.block_until_ready(metrics)
        except jax.errors.JaxRuntimeError as error:
            return {"clips": fits, "fault": str(error).splitlines()[0][:200]}
        times = []
        for _ in range(5):
            start = time.perf_counter()
            after, metrics = step(after, batch)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        rate = fits * self.options.frames / statistics.median(times)
        return {"clips": fits, **shown(times), "frames_per_second": rate}

    def look_at_torch(self) -> Facts:
        """benchmarks.train_step beside PyTorch, in processes of their own."""
        if find_spec("torch") is None:
            return {"unknown": "PyTorch is not installed (extra bench)"}
        with tempfile.TemporaryDirectory() as folder:
            out, said = Path(folder, "rows.json"), Path(folder, "stderr")
            device = jax.default_backend()
            words = [sys.executable, "-m", "benchmarks.train_step", "--no-flax"]
            words += ["--device", "cuda" if device == "gpu" else "cpu"]
            words += ["--precision", "bf16", "--json", str(out)]
            for name in ("clips", "frames", "size"):
                words += [f"--{name}", str(getattr(self.options, name))]
            left = self.options.budget - (time.perf_counter() - self.began)
            code = run_whole(words, max(PEER_SHARE * left, 0), said)
            if code is None:
                return {"fault": f"not done in its {PEER_SHARE * left:.0f} s"}
            if code:
                lines = said.read_text(errors="replace").splitlines()
                return {"fault": (lines or ["it ended"])[-1]}
            found = json.loads(out.read_text())
            facts = found["facts"]["torch"]
            named = {name: facts.get(name) for name in ("compiled", "parameters")}
            return {**named, "rows": found["rows"]}

    def parts(self) -> Iterator[tuple[str, float, Callable[[], Facts]]]:
        """What is looked at, the most worth first, and what it compiles, as a multiple
        of what the training step took to compile."""
        yield "beside PyTorch", 0, self.look_at_torch  # while the device is empty
        yield "ceilings", 0, self.look_at_ceilings
        yield "training, resnet50", 0, self.look_at_training
        yield "same bits", 0, self.look_at_bits
        yield "inference, resnet50", 0.4, self.look_at_inference
        yield "kernels", 0, self.look_at_kernels
        yield "fed and out of a store", 1, self.look_at_feed
        groups = min(8, self.options.clips)
        grouped = functools.partial(self.look_at_step, norm_groups=groups)
        yield "BatchNorm in groups", 1, grouped
        yield "BatchNorm folded", 0.8, self.look_at_folding
        yield "recomputed", 1, functools.partial(self.look_at_step, remat=True)
        yield "augmentation's products", 0.2, self.look_at_products
        yield "explanations", 0.5, self.look_at_explanations
        yield "largest batch", 1, self.look_at_largest_batch
        for backbone in ("clip_b16", "clip_l14"):
            for way, share in (("training", 1), ("inference", 0.4)):
                look = getattr(self, f"look_at_{way}")
                yield f"{way}, {backbone}", share, functools.partial(look, backbone)


def _device_memory(name: str) -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get(name)


def longest_kernels(folder: Path) -> tuple[list[tuple[str, Any]], float]:
    """The ten names that took longest on the device, in microseconds; and all.

    Of a trace of jax.profiler. On a CPU there are no kernels, so what XLA's threads
    ran is counted.
    """
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    devices = {pid for pid, name in names.items() if "GPU" in name or "TPU" in name}
    chosen = devices or set(names)
    took: Counter[str] = Counter()
    for event in events:
        kernel = devices or "hlo_op" in event.get("args", {})
        if event.get("ph") == "X" and event["pid"] in chosen and kernel:
            took[event["name"]] += event.get("dur", 0.0)
    return took.most_common(10), float(sum(took.values()))


def measure(bench: Bench, results: table.Results, budget: float) -> Iterator[Facts]:
    """Every part that the budget has time for; what was found, after each."""
    found: Facts = {}
    results.heads("part", "found", "seconds")
    for name, share, look in bench.parts():
        start = time.perf_counter()
        if start - bench.began + share * bench.compile_seconds > budget:
            results.row(name, "no time was left", "")
            continue
        try:
            found[name] = look()
        except Exception as error:  # one part that fails does not cost the others
            found[name] = {"fault": f"{type(error).__name__}: {error}"[:300]}
        spent = time.perf_counter() - start
        results.row(name, _line(found[name]), f"{spent:.0f}")
        yield found


def _line(facts: Facts) -> str:
    def one(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    plain = {k: v for k, v in facts.items() if not isinstance(v, list)}
    rows = [row for value in facts.values() if isinstance(value, list) for row in value]
    said = ", ".join(f"{k} {one(v)}" for k, v in plain.items() if v is not None)
    return "; ".join(filter(None, [said, *(_line(row) for row in rows)]))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=32, help="of a step")
    parser.add_argument("--frames", type=int, default=10, help="of a clip")
    parser.add_argument("--size", type=int, default=224, help="of a frame, pixels")
    parser.add_argument("--steps", type=int, default=20, help="timed, of each part")
    parser.add_argument("--videos", type=int, default=3600, help="of 30 frames, stored")
    parser.add_argument("--product", type=int, default=8192, help="rows of a matrix")
    parser.add_argument("--copied", type=int, default=4096, help="MiB")
    parser.add_argument("--budget", type=float, default=540, help="seconds")
    parser.add_argument("--json", type=Path, help="also write everything there")
    table.add_option(parser)
    options = parser.parse_args()
    # Else most of a GPU is held from here on, and PyTorch beside has what is left.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with table.results(parser, options) as results:
        device = jax.devices()[0]
        results.say(f"{device.device_kind} ({device.platform})")
        for found in measure(Bench(options), results, options.budget):
            if options.json:  # after each part, since the next may be the last
                options.json.write_text(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
