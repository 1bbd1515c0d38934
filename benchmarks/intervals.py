"""How often the intervals of an AUC hold the truth, beside plain percentiles.

python -m benchmarks.intervals [--runs 1000]
Each run draws targets, each with one real and four fake videos that share its ease,
and asks each method for a 95 % interval. The right answer is 95 %.
"""

import argparse
import time

import numpy as np
from scipy import stats

from fakedetect_jax import intervals, metrics

SPREAD = 0.7  # of the ease of targets, in units of a video's own spread
METHODS = 4
REPLICATES = 300


def simulate(rng: np.random.Generator, num_targets: int, separation: float):
    """(labels, scores, targets) of one run."""
    labels = np.tile([0] + [1] * METHODS, num_targets)
    draws = rng.normal(0, SPREAD, (2, num_targets)).repeat(METHODS + 1, axis=1)
    latent = draws[0] + labels * (separation + draws[1])
    targets = np.repeat(np.arange(num_targets), METHODS + 1)
    return labels, latent + rng.normal(0, 1, labels.size), targets


def covered(
    rng: np.random.Generator, num_targets: int, separation: float, seed: int
) -> list[bool]:
    """Whether ours, percentiles over targets and percentiles over videos hold it."""
    truth = stats.norm.cdf(separation / np.sqrt(3 * SPREAD**2 + 2))
    labels, scores, targets = simulate(rng, num_targets, separation)
    ranked = intervals.rank(labels, scores)

    def drawn(cluster_of: np.ndarray) -> np.ndarray:
        pieces = intervals.draw_weights(cluster_of, replicates=REPLICATES, seed=seed)
        return np.concatenate([intervals.weighted(ranked, w)["auc"] for w in pieces])

    over_targets, over_videos = drawn(targets), drawn(np.arange(labels.size))
    ours = intervals.interval(
        metrics.auc(labels, scores),
        over_targets,
        num_clusters=num_targets,
        step=1 / int(np.sum(labels) * np.sum(1 - labels)),
    )
    spans = [
        ours,
        *(np.nanquantile(d, [0.025, 0.975]) for d in (over_targets, over_videos)),
    ]
    return [span is not None and span[0] <= truth <= span[1] for span in spans]


def main() -> None:
    """Prints a table of coverages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="runs per row")
    runs = parser.parse_args().runs
    print("| targets | true AUC | ours | percentiles | percentiles over videos |")
    print("|---|---|---|---|---|")
    start = time.perf_counter()
    for num_targets in (10, 20, 40, 70, 140):
        for separation in (1.5, 3.0, 4.5):
            rng = np.random.default_rng(0)
            hits = [covered(rng, num_targets, separation, seed) for seed in range(runs)]
            shares = " | ".join(f"{share:.1%}" for share in np.mean(hits, axis=0))
            truth = stats.norm.cdf(separation / np.sqrt(3 * SPREAD**2 + 2))
            print(f"| {num_targets} | {truth:.3f} | {shares} |", flush=True)
    print(f"\n{runs} runs a row, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
