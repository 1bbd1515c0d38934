"""How often the 95 % intervals of an evaluation hold the truth.

python -m benchmarks.intervals [--runs 4000] [--spread 0.7] [--tails normal|heavy]
                              [--pairs | --doubt]
Each run draws targets, each with one real and four fake videos that share its ease,
and asks for the intervals of a report. The right answer is 95 %; the truth is the
metric of 400,000 targets. For the AUC also: percentiles of the bootstrap over targets
and over videos, and its difference from that of a better detector on the same videos.

With --pairs targets are swapped in pairs, whose two share a part of their ease: the
intervals over swap pairs, as reports have them, beside those over targets.

With --doubt, of swap pairs too: how often the error rates that a band promises after
seeing val hold in the population, how many videos it decides, and the intervals of what
a report says of doubt for a band that is given. The truth is that of 40,000 targets.
"""

import argparse
import itertools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks import table
from fakedetect_jax.metrics import doubt, intervals, metrics, ranking
from tfds_ffpp.terminal.progress import Progress

METHODS = 4
REPLICATES = 300
TARGETS = (10, 20, 40, 70, 140)
SEPARATIONS = (1.5, 3.0, 4.5)  # of fakes from reals, in a video's own spread
POPULATION = 400_000
DIFFERENCE = "auc difference"
NAMES = {
    "auc": "AUC",
    "eer": "EER",
    "ap": "AP",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "loss": "log loss",
    "brier": "Brier",
    DIFFERENCE: "AUC difference",
}
OTHERS = ("auc over targets", "auc over videos")
PAIRED_TARGETS = (24, 140)
PAIR_SPREADS = (0.0, 0.7, 1.4)  # of what the two of a pair share
PAIRED_METRICS = ("auc", "balanced_accuracy", "loss")
MAX_ERROR = 0.05
DOUBT_TARGETS = (24, 120, 140, 300)
GIVEN_BAND = doubt.Band(
    MAX_ERROR,
    *(doubt.Side(score, 0.0, bound=0.05, num_clusters=1) for score in (0.2, 0.8)),
)
DOUBTS = {
    "uncertain": "uncertain",
    "false_alarms": "reals called fake",
    "misses": "fakes called real",
    "aurc": "area under risk-coverage",
    "accuracy_at_80": "accuracy at 80 %",
}


def simulate(
    rng: np.random.Generator,
    num_targets: int,
    separation: float,
    *,
    spread: float,
    tails: str,
    pair_spread: float | None = None,
) -> metrics.Items:
    """The videos of one run; `spread` is that of the ease of targets.

    With a `pair_spread` targets 2k and 2k+1 are a swap pair and share so much of it.
    """
    labels = np.tile([0] + [1] * METHODS, num_targets)
    people = rng.normal(0, spread, (2, num_targets))
    if pair_spread is not None:
        shared = rng.normal(0, pair_spread, (2, num_targets // 2))
        people = people + shared.repeat(2, axis=1)
    ease, gain = people.repeat(METHODS + 1, axis=1)
    own = (
        rng.normal(0, 1, labels.size)
        if tails == "normal"
        else rng.standard_t(4, labels.size) / np.sqrt(2)  # of variance 1 too
    )
    logits = ease + labels * (separation + gain) + own - separation / 2
    names = np.arange(labels.size).astype(str)
    same = np.full(labels.size, "")
    source = same
    if pair_spread is not None:
        partner = (np.arange(num_targets) ^ 1).astype(str).repeat(METHODS + 1)
        source = np.where(labels == 1, partner, "")
    return metrics.Items(
        dataset=same,
        method=same,
        video=names,
        target=names[:num_targets].repeat(METHODS + 1),
        source=source,
        compression=same,
        label=labels,
        score=metrics.sigmoid(logits),
        logit=logits,
        num_clips=np.ones(labels.size, dtype=int),
    )


def rival(rng: np.random.Generator, items: metrics.Items) -> metrics.Items:
    """The scores of a better detector that likes other videos and other targets."""
    number = np.arange(items.label.size) // (METHODS + 1)
    likes = rng.normal(0, 0.5, (2, int(number[-1]) + 1))[items.label, number]
    logits = items.logit + likes + rng.normal(0, 0.7, number.size) + 0.5 * items.label
    return items._replace(score=metrics.sigmoid(logits), logit=logits)


def truth_of(separation: float, kind: dict) -> dict[str, float]:
    """The metrics of a population, and the difference of its two AUCs."""
    rng = np.random.default_rng(0)
    items = simulate(rng, POPULATION, separation, **kind)
    found = ranking.exact(items.label, items.score) | {
        "loss": float(np.mean(metrics.log_losses(items))),
        "brier": float(np.mean((items.score - items.label) ** 2)),
    }
    other = rival(rng, items)
    better = ranking.exact(other.label, other.score)
    return found | {DIFFERENCE: found["auc"] - better["auc"]}


def covered(
    seed: int, num_targets: int, separation: float, truth: dict, kind: dict
) -> dict[str, bool]:
    """Whether each interval of one run holds the truth."""
    rng = np.random.default_rng([seed, num_targets, int(10 * separation)])
    items = simulate(rng, num_targets, separation, **kind)
    spans = intervals.intervals(items, replicates=REPLICATES, seed=seed)
    ranked = ranking.rank(items.label, items.score)
    own = np.arange(items.label.size)
    for name, clusters in zip(OTHERS, (own // (METHODS + 1), own), strict=True):
        drawn = np.concatenate(
            [
                ranking.weighted(ranked, weights)["auc"]
                for weights in intervals.draw_weights(
                    clusters, replicates=REPLICATES, seed=seed
                )
            ]
        )
        spans[name] = [float(x) for x in np.nanquantile(drawn, [0.025, 0.975])]
    compared = intervals.compare(
        items, rival(rng, items), replicates=REPLICATES, seed=seed
    )
    spans[DIFFERENCE] = compared.auc and compared.auc.interval
    found = {}
    for name, span in spans.items():
        true = truth["auc" if name in OTHERS else name]
        found[name] = span is not None and span[0] <= true <= span[1]
    return found


def covered_in_pairs(
    seed: int, num_targets: int, separation: float, truth: dict, kind: dict
) -> dict[tuple[str, str], bool]:
    """Whether each interval of one run holds the truth, over targets and over pairs."""
    rng = np.random.default_rng([seed, num_targets, int(10 * separation)])
    items = simulate(rng, num_targets, separation, **kind)
    loners = items._replace(source=np.full(items.label.size, ""))
    found = {}
    for over, shown in (("targets", loners), ("pairs", items)):
        spans = intervals.intervals(shown, replicates=REPLICATES, seed=seed)
        for name in PAIRED_METRICS:
            low, high = spans[name] or (1.0, 0.0)
            found[name, over] = low <= truth[name] <= high
    return found


def show_pairs(runs: int, kind: dict, results: table.Results) -> None:
    """A table of coverages over targets and over swap pairs."""
    columns = list(itertools.product(PAIRED_METRICS, ("targets", "pairs")))
    heads = [f"{NAMES[name]} over {over}" for name, over in columns]
    results.heads("targets", "shared by a pair", "true AUC", *heads)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for separation, spread in itertools.product(SEPARATIONS, PAIR_SPREADS):
            paired = {**kind, "pair_spread": spread}
            truth = truth_of(separation, paired)
            for num_targets in PAIRED_TARGETS:
                one = partial(
                    covered_in_pairs,
                    num_targets=num_targets,
                    separation=separation,
                    truth=truth,
                    kind=paired,
                )
                hits = list(pool.map(one, range(runs), chunksize=20))
                cells = [str(num_targets), f"{spread:g}", f"{truth['auc']:.3f}"]
                for column in columns:
                    cells.append(f"{np.mean([hit[column] for hit in hits]):.1%}")
                results.row(*cells)


class Population(NamedTuple):
    """The scores of each class, sorted, and what a report would say of GIVEN_BAND."""

    real: np.ndarray
    fake: np.ndarray
    given: doubt.Selective


def population_of(separation: float, kind: dict) -> Population:
    """Of many targets."""
    items = simulate(np.random.default_rng(0), POPULATION // 10, separation, **kind)
    given = doubt.selective(items, GIVEN_BAND, threshold=0.5, replicates=2)
    assert given is not None
    real, fake = (np.sort(items.score[items.label == value]) for value in (0, 1))
    return Population(real, fake, given)


def doubted(
    seed: int, num_targets: int, separation: float, population: Population, kind: dict
) -> dict[str, float]:
    """Whether one run's promises and intervals hold, and the share that it decides."""
    rng = np.random.default_rng([seed, num_targets, int(10 * separation)])
    items = simulate(rng, num_targets, separation, **kind)
    band = doubt.fit_band(items, MAX_ERROR)
    assert band is not None
    below, above = (
        np.searchsorted(scores, band.ends, side="right") / len(scores)
        for scores in (population.real, population.fake)
    )
    alarms, misses = 1 - below[1], above[0]
    decided = [1 - (below[1] - below[0]), 1 - (above[1] - above[0])]
    found = {
        "promised": band.is_promised,
        "alarms kept": alarms <= max(band.fake.bound, MAX_ERROR),
        "misses kept": misses <= max(band.real.bound, MAX_ERROR),
        "decided": (decided[0] + METHODS * decided[1]) / (1 + METHODS),
    }
    said = doubt.selective(
        items, GIVEN_BAND, threshold=0.5, replicates=REPLICATES, seed=seed
    )
    assert said is not None
    for name in DOUBTS:
        span = said.intervals[name]
        true = getattr(population.given, name)
        found[name] = span is not None and span[0] <= true <= span[1]
    return found


def show_doubt(runs: int, kind: dict, results: table.Results) -> None:
    """A table of promises and coverages."""
    results.heads(
        *("targets", "reals / fakes beyond 0.5", f"{MAX_ERROR:.0%} promised"),
        *("reals called fake: kept", "fakes called real: kept", "decided"),
        *(f"interval: {name}" for name in DOUBTS.values()),
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for separation, num_targets in itertools.product(SEPARATIONS, DOUBT_TARGETS):
            paired = {**kind, "pair_spread": kind["spread"]}
            population = population_of(separation, paired)
            one = partial(
                doubted,
                num_targets=num_targets,
                separation=separation,
                population=population,
                kind=paired,
            )
            hits = list(pool.map(one, range(runs), chunksize=20))
            wrong = np.mean(population.real > 0.5), np.mean(population.fake <= 0.5)
            results.row(
                num_targets,
                f"{wrong[0]:.0%} / {wrong[1]:.0%}",
                *(f"{np.mean([hit[name] for hit in hits]):.1%}" for name in hits[0]),
            )


def main() -> None:
    """Prints two tables of coverages, or the one of swap pairs, or that of doubt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, help="runs per row")
    parser.add_argument(
        "--spread", type=float, default=0.7, help="of targets, in a video's own spread"
    )
    parser.add_argument("--tails", choices=("normal", "heavy"), default="normal")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--pairs", action="store_true", help="targets in swap pairs")
    one.add_argument("--doubt", action="store_true", help="the band and its promises")
    table.add_option(parser)
    flags = parser.parse_args()
    kind = {"spread": flags.spread, "tails": flags.tails}
    start = time.perf_counter()
    show, kept = show_tables, ""
    if flags.pairs:
        show, kept = show_pairs, "pairs"
    elif flags.doubt:
        show, kept = show_doubt, "doubt"
    with table.results(parser, flags, kept) as results:
        show(flags.runs, kind, results)
        error = np.sqrt(0.95 * 0.05 / flags.runs)
        results.say()
        results.say(
            f"{flags.runs} runs a row, so a standard error of {error:.1%}; "
            f"spread {flags.spread}, {flags.tails} tails; "
            f"{time.perf_counter() - start:.0f} s"
        )


def show_tables(runs: int, kind: dict, results: table.Results) -> None:
    """The coverages of the AUC's intervals, then of the other metrics'."""
    truths = {separation: truth_of(separation, kind) for separation in SEPARATIONS}
    rows = {}
    cells = [(n, s) for n in TARGETS for s in SEPARATIONS]
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        Progress("rows", len(cells)) as bar,
    ):
        for num_targets, separation in cells:
            one = partial(
                covered,
                num_targets=num_targets,
                separation=separation,
                truth=truths[separation],
                kind=kind,
            )
            hits = list(pool.map(one, range(runs), chunksize=20))
            rows[num_targets, separation] = {
                name: f"{np.mean([hit[name] for hit in hits]):.1%}" for name in hits[0]
            }
            bar.step()
    percentiles = ("percentiles", "percentiles over videos")
    aucs = {"auc": "ours", **dict(zip(OTHERS, percentiles, strict=True))}
    others = {name: head for name, head in NAMES.items() if name != "auc"}
    for columns in (aucs, others):
        results.heads("targets", "true AUC", *columns.values())
        for (num_targets, separation), row in rows.items():
            truth = f"{truths[separation]['auc']:.3f}"
            results.row(num_targets, truth, *(row[name] for name in columns))


if __name__ == "__main__":
    main()
