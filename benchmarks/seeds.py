"""How often equal recipes seem to differ: by people alone, and by people and seeds.

python -m benchmarks.seeds [--runs 400]

Two recipes that are one, with so many seeds each, score one real and four fakes of each
target of a test like FaceForensics++'s, whose targets come in pairs. A pair of people
has an ease of its own, for all models and, less, for each; models differ in how far
they tell fakes from reals, by so much as "spread" gives, in parts of the strength.
A p value below 0.05 is then a false alarm. About five minutes on one core.
"""

import argparse

import numpy as np

from benchmarks import table
from fakedetect_jax.evaluation import seeds
from fakedetect_jax.metrics import intervals, metrics
from fakedetect_jax.metrics.metrics import Items
from fakedetect_jax.metrics.records import ClipScore, Video

METHODS = ("", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
STRENGTH = 1.1  # of logits, between reals and fakes


def made_test(num_targets: int) -> Items:
    """One real and four fakes of each target, not scored yet."""
    rows = []
    for i in range(num_targets):
        target, source = f"{i:03d}", f"{i ^ 1:03d}"
        for method in METHODS:
            name = f"{target}_{source}" if method else target
            own = (target, source if method else "", "c23", int(bool(method)))
            video = Video("made", method or "youtube", name, *own)
            rows.append(ClipScore(video, clip=0, start=0, length=1, logit=0, score=0.5))
    return metrics.videos(metrics.clips(rows))


def trained(
    rng: np.random.Generator,
    items: Items,
    clusters: np.ndarray,
    num_seeds: int,
    spread: float,
) -> tuple[list[Items], list[Items]]:
    """The models of two recipes that are equal."""
    people = int(clusters.max()) + 1

    def ease(of_pair: float, of_video: float) -> np.ndarray:
        drawn = rng.normal(0, of_pair, people)[clusters]
        return drawn + rng.normal(0, of_video, len(clusters))

    shared, models = ease(0.7, 0.8), []
    for _ in range(2 * num_seeds):
        strength = STRENGTH * (1 + spread * rng.normal())
        logits = 2 * strength * (items.label - 0.5) + shared + ease(0.3, 0.4)
        models.append(items._replace(score=metrics.sigmoid(logits)))
    return models[:num_seeds], models[num_seeds:]


def alarms(
    num_targets: int, num_seeds: int, spread: float, runs: int
) -> tuple[float, float, float]:
    """False alarms by people alone, by both; the spread of AUC over seeds."""
    items, rng = made_test(num_targets), np.random.default_rng(0)
    clusters = intervals.clusters(items)
    alone = both = 0
    areas: list[float] = []
    for _ in range(runs):
        sides = trained(rng, items, clusters, num_seeds, spread)
        p = seeds.change(*sides).p
        both += p is not None and p < 0.05
        scores = [np.stack([model.score for model in side]) for side in sides]
        found = intervals.auc_difference(items.label, *scores, cluster_of=clusters)
        alone += found.p < 0.05
        own = [metrics.auc(items.label, row) or 0.0 for row in scores[0]]
        areas.append(float(np.var(own, ddof=1)))
    return alone / runs, both / runs, float(np.sqrt(np.mean(areas)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="of each row")
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        results.heads(
            *("targets", "seeds a side", "sd of AUC over seeds"),
            *("by people alone", "by people and seeds"),
        )
        for num_targets in (24, 140):
            for num_seeds in (2, 3, 5):
                for spread in (0.0, 0.1, 0.25):
                    case = (num_targets, num_seeds, spread)
                    alone, both, sd = alarms(*case, options.runs)
                    shares = (f"{100 * share:.1f}%" for share in (alone, both))
                    results.row(num_targets, num_seeds, f"{sd:.3f}", *shares)


if __name__ == "__main__":
    main()
