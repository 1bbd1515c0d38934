"""Max-pooling's gradient on a CPU: first winners, all winners, the compiler's own.

python -m benchmarks.pooling [--maps 40] [--size 56] [--rounds 10]
Prints the processor time of all threads per gradient, and how far each is from the
compiler's where a ReLU lets gradients through, in shares of its norm.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks import table
from fakedetect_jax.model.kernels import max_pool


def all_winners(x_NHWC: jax.Array, dy_NPQC: jax.Array) -> jax.Array:
    """The gradient to each of equal maxima, whatever the type."""
    return max_pool.unpool(x_NHWC, dy_NPQC, first=False)


def compilers(x_NHWC: jax.Array, dy_NPQC: jax.Array) -> jax.Array:
    """The gradient of the compiler's window reduction."""
    return jax.vjp(max_pool.plain_max_pool, x_NHWC)[1](dy_NPQC)[0]


def main() -> None:
    """Measures in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=40, help="of 64 channels")
    parser.add_argument("--size", type=int, default=56, help="pixels a side, even")
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each")
    table.add_option(parser)
    args = parser.parse_args()
    with table.results(parser, args) as results:
        measure(args, results)


def measure(args: argparse.Namespace, results: table.Results) -> None:
    """A row for each type and gradient."""
    shape = (args.maps, args.size, args.size, 64)
    x_NHWC = jax.nn.relu(jax.random.normal(jax.random.key(0), shape))
    dy_NPQC = jax.random.normal(jax.random.key(1), x_NHWC[:, ::2, ::2].shape)
    sides = {
        "the project's": jax.jit(max_pool.cpu_max_pool_gradient),
        "all winners": jax.jit(all_winners),
        "the compiler's": jax.jit(compilers),
    }
    results.heads("type", "gradient", "ms of processor time", "off")
    for dtype in ("bfloat16", "float32"):
        arguments = x_NHWC.astype(dtype), dy_NPQC.astype(dtype)
        found = {name: np.float32(side(*arguments)) for name, side in sides.items()}
        passed = np.float32(arguments[0]) > 0
        wanted = found["the compiler's"] * passed
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, side in sides.items():
                start = time.process_time()
                side(*arguments).block_until_ready()
                times[name].append(1000 * (time.process_time() - start))
        for name, gradient in found.items():
            off = np.linalg.norm(gradient * passed - wanted) / np.linalg.norm(wanted)
            median = statistics.median(times[name])
            results.row(dtype, name, f"{median:.0f}", f"{off:.2%}")


if __name__ == "__main__":
    main()
