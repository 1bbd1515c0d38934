"""One side of the comparison of train_step.py, in a process of its own.

Reads a request per line from stdin, answers with a line of JSON on stdout:
{"mode": "train" | "infer", "count": n} -> {"seconds": [of each step], "cpu_seconds":
of all cores in the leanest of them, "memory": peak bytes}.
"""

# pyright: reportMissingImports=false

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fakedetect_jax.data.batch import Batch

LEARNING_RATE = 1e-3
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
Step = Callable[[], float]


def make_clips(arguments) -> Batch[np.ndarray]:
    """The batch of both sides: noise frames, alternating labels."""
    shape = (arguments.clips, arguments.frames, arguments.size, arguments.size, 3)
    draw = np.random.default_rng(0)
    return Batch(
        blend=np.zeros(arguments.clips, bool),
        face=np.full((*shape[:2], 5, 2), 0.5, np.float32),
        frames=draw.integers(0, 256, shape, dtype=np.uint8),
        index=np.arange(arguments.clips, dtype=np.int32),
        label=np.arange(arguments.clips, dtype=np.float32) % 2,
        length=np.full(arguments.clips, arguments.frames, np.int32),
        valid=np.ones(arguments.clips, bool),
    )


def project_config(arguments):
    """configs/ffpp.py, or for the model "demo" the model of configs/demo.py."""
    from fakedetect_jax import settings

    demo = arguments.model == "demo"
    config = settings.load("demo" if demo else "ffpp").copy_and_resolve_references()
    with config.unlocked():
        if not demo:
            config.model.backbone = arguments.model
        config.model.dtype = {"fp32": "float32", "bf16": "bfloat16"}[
            arguments.precision
        ]
        config.augment = {}
        config.optimizer.update(schedule="constant", warmup_steps=0)
        config.optimizer.learning_rate = LEARNING_RATE
    return config


def use_flax_layers() -> None:
    """Puts flax's own convolution, BatchNorm and pooling in place of the project's."""
    from flax import linen as nn

    from fakedetect_jax.model.backbones import resnet
    from fakedetect_jax.model.kernels import max_pool

    def conv(features, size, stride=1, dtype=None, *, name, **_):  # no cpu_kernels
        return nn.Conv(
            features,
            (size, size),
            stride,
            padding=size // 2,
            use_bias=False,
            dtype=dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name=name,
        )

    def batch_norm(features, zero_scale=False, *, name, **_):  # no groups
        initial = nn.initializers.zeros if zero_scale else nn.initializers.ones
        return nn.BatchNorm(momentum=0.9, epsilon=1e-5, scale_init=initial, name=name)

    def normalised(conv, norm, x, train):
        y = conv(x)
        return norm(y, use_running_average=not train).astype(y.dtype)

    resnet.Conv = conv
    resnet.BatchNorm = batch_norm
    resnet._normalised = normalised
    pads: Any = ((1, 1), (1, 1))
    max_pool.max_pool = lambda x: nn.max_pool(x, (3, 3), (2, 2), pads)


def lower_direct(model, variables, batch):
    """The inference step whose convolutions are counted as the direct ones they
    stand for, as on the other sides: Winograd's method needs fewer products, and a
    loop's are counted once."""
    import jax

    from fakedetect_jax.model import steps
    from fakedetect_jax.model.kernels import convolution

    used = convolution._conv2d
    convolution._conv2d = convolution.plain_conv2d
    try:
        return jax.jit(lambda *args: steps.eval_step(model, *args)).lower(
            variables, batch
        )
    finally:
        convolution._conv2d = used


def jax_sides(arguments) -> tuple[dict[str, Step], dict]:
    """The project's own train and eval step; facts about them."""
    import functools

    import jax
    from flax import traverse_util

    from fakedetect_jax.model import steps

    if arguments.side == "flax":
        use_flax_layers()
    config = project_config(arguments)
    step_settings = steps.make_step_settings(config, num_steps=10**6)
    batch = jax.device_put(make_clips(arguments))
    clip_shape = batch.frames.shape[1:]
    state = jax.jit(
        functools.partial(steps.create_train_state, step_settings, clip_shape)
    )()
    if arguments.side == "project":
        flat: dict = traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
        np.savez(arguments.weights, allow_pickle=False, **flat)
    variables = jax.tree.map(
        lambda leaf: leaf.copy(),
        {"params": state.params, "batch_stats": state.batch_stats},
    )
    infer = jax.jit(functools.partial(steps.eval_step, step_settings.model))
    train = jax.jit(
        functools.partial(steps.train_step, step_settings), donate_argnums=0
    )
    forward = lower_direct(step_settings.model, variables, batch).cost_analysis() or {}
    holder = {"state": state}

    def train_once() -> float:
        holder["state"], metrics = train(holder["state"], batch)
        return float(metrics.loss)

    def infer_once() -> float:
        return float(infer(variables, batch).sum())

    size = MATMUL_SIZE[arguments.device]
    dtype = config.model.dtype
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "forward_flops": forward.get("flops", 0.0),
        "matmul": best_rate(lambda: product(a).block_until_ready(), size),
        "version": f"jax {jax.__version__}, {jax.devices()[0].device_kind}",
    }
    return {"train": train_once, "infer": infer_once}, facts


def torch_sides(arguments) -> tuple[dict[str, Step], dict]:
    """The same steps in PyTorch, each computed in the way that is the fastest."""
    import torch

    from benchmarks import torch_model

    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    with np.load(arguments.weights) as weights:
        lstm_features = weights["lstm/forward/hi/bias"].shape[0]
        model = torch_model.Detector(arguments.model, lstm_features)
        torch_model.copy_weights(model, dict(weights))
    # torch's own overloads of `to` leave the memory format out.
    model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    clips = make_clips(arguments)
    frames = torch.from_numpy(clips.frames).to(device)
    label = torch.from_numpy(clips.label).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, LEARNING_RATE, fused=True)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)
    std = torch.tensor([0.229, 0.224, 0.225], device=device)
    half = torch.autocast(
        arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16"
    )

    def logits(network) -> torch.Tensor:
        images = ((frames.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
        with half:
            return network(images).float()

    def train_with(network) -> float:
        model.train()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits(network), label
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def infer_with(network) -> float:
        model.eval()
        with torch.inference_mode():
            return float(logits(network).sum())

    size = MATMUL_SIZE[arguments.device]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]
    a = torch.randn(size, size, device=device).to(kind)

    def product() -> None:
        (a @ a)[0, 0].item()

    facts = {
        "parameters": sum(p.numel() for p in trained),
        "matmul": best_rate(product, size),
        "version": f"torch {torch.__version__}",
    }
    chosen = {"infer": model, "train": model}
    if arguments.compile:
        state = [p.detach().clone() for p in model.state_dict().values()]
        found = []
        for mode, step in (("infer", infer_with), ("train", train_with)):
            chosen[mode], said = fastest_network(torch, model, step, mode)
            found.append(f"{mode}: {said}")
        facts["compiled"] = "; ".join(found)
        with torch.no_grad():  # the trial's steps are undone
            for value, old in zip(model.state_dict().values(), state, strict=True):
                value.copy_(old)
        optimizer = torch.optim.Adam(trained, LEARNING_RATE, fused=True)
    return {
        "train": lambda: train_with(chosen["train"]),
        "infer": lambda: infer_with(chosen["infer"]),
    }, facts


def fastest_network(torch, model, step: Callable, mode: str) -> tuple[Callable, str]:
    """The model computed in the way in which a step of it is the fastest.

    Eagerly, by torch.compile and, inference, with its weights frozen into the program,
    which are those of now. A way that fails (no C++ compiler) is left out.
    """
    ways: dict[str, Callable] = {"eager": model, "compiled": torch.compile(model)}
    if mode == "infer":
        ways["frozen"] = torch.compile(copy.deepcopy(model).eval())
    seconds = {}
    for name, network in ways.items():
        try:
            with inductor_config(freezing=name == "frozen"):
                step(network)
                seconds[name] = min(timed(lambda n=network: step(n)) for _ in range(3))
        except Exception as error:  # an operator that it can't take
            print(f"torch, {name}: {type(error).__name__}", file=sys.stderr)
    best = min(seconds, key=lambda name: seconds[name])
    return ways[best], ", ".join(f"{k} {v:.2f} s" for k, v in seconds.items())


def inductor_config(*, freezing: bool) -> Any:
    """torch.compile's settings while it compiles; freezing folds weights in."""
    import torch._inductor.config as config

    return config.patch(freezing=freezing)


def timed(function: Callable) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def best_rate(function: Callable, size: int) -> float:
    """FLOP/s of the fastest of several products of square matrices."""
    function()
    return 2 * size**3 / min(timed(function) for _ in range(8))


def peak_memory(arguments) -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if arguments.device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.side == "torch":
        import torch

        return torch.cuda.max_memory_allocated()
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def serve(arguments) -> None:
    """Answers requests until stdin ends."""
    make = torch_sides if arguments.side == "torch" else jax_sides
    run, facts = make(arguments)
    for mode in ("infer", "train"):  # train changes the weights, so it comes last
        start = time.perf_counter()
        facts[f"{mode}_first"] = run[mode]()
        facts[f"{mode}_first_seconds"] = time.perf_counter() - start
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        step = run[request["mode"]]
        seconds, cores = [], []
        for _ in range(request["count"]):
            busy = time.process_time()
            seconds.append(timed(step))
            cores.append(time.process_time() - busy)
        answer = {
            "seconds": seconds,
            "cpu_seconds": min(cores),
            "memory": peak_memory(arguments),
        }
        print(json.dumps(answer), flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["project", "flax", "torch"], required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    for name in ("size", "clips", "frames"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    serve(parse())
