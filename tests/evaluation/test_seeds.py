"""Several seeds: means as reports have them, differences that hold for other seeds."""

import numpy as np
import pytest

from fakedetect_jax.evaluation import seeds
from fakedetect_jax.metrics import intervals, metrics
from fakedetect_jax.reports import results
from tests.made_scores import known, made_rows, write_run
from tfds_ffpp.errors import DataError


def videos(seed: int = 0, **options) -> metrics.Items:
    return metrics.videos(metrics.clips(made_rows(seed=seed, **options)))


def test_one_seed_has_the_numbers_and_intervals_of_its_report(tmp_path):
    evaluation = results.read_evaluation(write_run(tmp_path, strips=False))
    report = results.summarise(evaluation)
    scored = seeds.Scored(results.videos_of(evaluation), report.threshold)
    found = seeds.measure([scored])
    video, decided = report.video, known(report.video.at_threshold)
    expected = {
        "auc": (video.auc, "auc"),
        "eer": (video.eer, "eer"),
        "ap": (video.ap, "ap"),
        "balanced_accuracy": (
            decided.balanced_accuracy,
            "at_threshold.balanced_accuracy",
        ),
    }
    assert found.keys() == expected.keys()
    for name, (value, long) in expected.items():
        assert found[name].values == pytest.approx([value], abs=1e-12)
        assert found[name].interval == pytest.approx(video.intervals[long], abs=1e-12)
        assert found[name].sd is None


def test_several_seeds_are_one_mean_drawn_together():
    models = [seeds.Scored(videos(seed), 0.5) for seed in range(3)]
    turned = models[1].videos.take(np.arange(100)[::-1])
    found = seeds.measure([models[0], seeds.Scored(turned, 0.5), models[2]])["auc"]
    areas = [known(metrics.auc(m.videos.label, m.videos.score)) for m in models]
    assert found.values == pytest.approx(areas, abs=1e-12)
    assert found.mean == pytest.approx(np.mean(areas), abs=1e-12)
    assert found.sd == pytest.approx(np.std(areas, ddof=1), abs=1e-12)
    low, high = known(found.interval)
    widest = max(np.ptp(known(seeds.measure([m])["auc"].interval)) for m in models)
    assert low < known(found.mean) < high and high - low < widest


def test_a_mean_of_unlike_videos_or_of_a_missing_number_is_refused():
    part = videos().take(np.arange(60))
    with pytest.raises(DataError, match="60 of 100 are shared"):
        seeds.measure([seeds.Scored(videos(), None), seeds.Scored(part, None)])
    assert seeds.over_seeds([0.5, None]).mean is None
    assert seeds.measure([seeds.Scored(videos(), None)])[
        "balanced_accuracy"
    ].values == [None]


def same_recipe(rng, items, clusters, count, spread):
    """So many models of one recipe, whose strength varies by `spread`."""
    people = int(clusters.max()) + 1
    ease = rng.normal(0, 0.7, people)[clusters] + rng.normal(0, 0.8, len(clusters))
    models = []
    for _ in range(count):
        own = rng.normal(0, 0.3, people)[clusters] + rng.normal(0, 0.4, len(clusters))
        strength = 1.6 + spread * rng.normal()
        logit = strength * (items.label - 0.5) * 1.4 + ease + own
        models.append(items._replace(score=metrics.sigmoid(logit)))
    return models


def test_equal_recipes_are_seldom_told_apart_though_their_seeds_differ():
    """By people alone, as between two models, more than half would be."""
    items, rng = videos(num_identities=40, num_clips=1), np.random.default_rng(0)
    clusters = intervals.clusters(items)
    alarms = alone = 0
    for _ in range(60):
        models = same_recipe(rng, items, clusters, 6, spread=0.4)
        found = seeds.change(models[:3], models[3:])
        alarms += known(found.p) < 0.05
        scores = [
            np.stack([m.score for m in side]) for side in (models[:3], models[3:])
        ]
        plain = intervals.auc_difference(items.label, *scores, cluster_of=clusters)
        assert plain.difference == pytest.approx(found.difference)
        alone += plain.p < 0.05
    assert alarms <= 7 and alone >= 25


def test_a_difference_of_recipes_is_found_and_counts_both_doubts():
    items, rng = videos(num_identities=60, num_clips=1), np.random.default_rng(0)
    clusters = intervals.clusters(items)
    models = same_recipe(rng, items, clusters, 6, spread=0.05)
    sharper = [m._replace(score=m.score**0.5 * items.label) for m in models[:3]]
    found = seeds.change(sharper, models[3:])
    assert known(found.p) < 0.01 and found.num_seeds == [3, 3]
    low, high = known(found.interval)
    assert low < found.difference < high and low > 0
    both = np.hypot(found.people_error, known(found.seeds_error))
    assert both > found.people_error > 0 and found.num_videos == len(items.label)
    assert found.first - found.second == pytest.approx(found.difference)
    single = seeds.change(sharper[:1], models[3:])
    assert single.seeds_error is None and single.num_seeds == [1, 3]
    plain = intervals.auc_difference(
        items.label,
        sharper[0].score,
        np.stack([m.score for m in models[3:]]),
        cluster_of=clusters,
    )
    assert single.people_error == pytest.approx(plain.standard_error)


def test_what_cannot_be_judged_says_why():
    same = videos()
    assert seeds.change([same], [same]).p is None
    other = same._replace(dataset=np.full_like(same.dataset, "other"))
    with pytest.raises(DataError, match="none of them shared"):
        seeds.change([same], [other])
    fakes = same.take(same.label == 1)
    with pytest.raises(DataError, match="lack reals or fakes"):
        seeds.change([fakes], [same])


def test_p_values_are_corrected_as_in_holms_paper():
    assert seeds.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert seeds.holm([0.7, 0.6]) == [1.0, 1.0] and seeds.holm([]) == []
