"""The band between real and fake: what it promises, and what the doubt costs."""

import numpy as np
import pytest
from scipy import stats

from fakedetect_jax.metrics import doubt, intervals, metrics
from fakedetect_jax.metrics.metrics import Items


def made(rng, num_pairs, separation, *, spread=1.0, methods=3):
    """Videos of swap pairs: each person has a real, and fakes that pairs make alike."""
    people = np.arange(2 * num_pairs)
    per_person = 1 + methods
    target = np.repeat(people, per_person)
    label = np.tile([0] + [1] * methods, len(people))
    own = rng.normal(0, spread, len(people))[target]
    pair = rng.normal(0, spread, num_pairs)[target // 2]
    logit = rng.normal(own, 1) + np.where(label == 1, separation + pair, -separation)
    names = np.char.zfill(target.astype(str), 5)
    others = np.char.zfill((target ^ 1).astype(str), 5)
    count = len(label)
    return Items(
        dataset=np.full(count, "made"),
        method=np.tile(["real", *map(str, range(methods))], len(people)),
        video=np.arange(count).astype(str),
        target=names,
        source=np.where(label == 1, others, ""),
        compression=np.full(count, "c23"),
        label=label,
        score=metrics.sigmoid(logit),
        logit=logit,
        num_clips=np.ones(count, np.int64),
    )


def simple(labels, scores):
    """Videos of as many people as there are."""
    rng = np.random.default_rng(0)
    items = made(rng, -(-len(labels) // 2), 0.0, methods=0).take(np.arange(len(labels)))
    scores = np.array(scores)
    return items._replace(
        label=np.array(labels), score=scores, logit=metrics.logit(scores)
    )


def error_rates(band, videos):
    """(reals called fake, fakes called real) of many videos."""
    verdicts = np.array([band.verdict(score) for score in videos.score.tolist()])
    real, fake = videos.label == 0, videos.label == 1
    return (
        float(np.mean(verdicts[real] == doubt.FAKE)),
        float(np.mean(verdicts[fake] == doubt.REAL)),
    )


@pytest.mark.parametrize("separation", [0.5, 1.5, 2.5])
def test_the_promised_error_rate_is_kept_by_95_of_100_detectors(separation):
    rng = np.random.default_rng(3)
    others = made(rng, 3000, separation)
    kept, promised = np.zeros(2), 0
    for _ in range(200):
        band = doubt.fit_band(made(rng, 75, separation), 0.05)
        assert band is not None
        promised += band.is_promised
        kept += np.array(error_rates(band, others)) <= 0.05
    assert promised == 200
    assert (kept >= 0.95 * 200).all(), kept


@pytest.mark.parametrize("num_pairs", [3, 10, 25])
def test_a_val_too_small_says_what_it_can_promise_and_keeps_that(num_pairs):
    rng = np.random.default_rng(4)
    others = made(rng, 2000, 1.0)
    kept = np.zeros(2)
    for _ in range(200):
        band = doubt.fit_band(made(rng, num_pairs, 1.0), 0.05)
        assert band is not None and not band.is_promised
        assert "too small to promise an error rate of 5%" in doubt.describe(band)
        bounds = band.fake.bound, band.real.bound
        kept += np.array(error_rates(band, others)) <= bounds
    assert (kept >= 0.93 * 200).all(), kept


def test_the_demo_s_six_pairs_exclude_no_rate_below_39_percent():
    band = doubt.fit_band(made(np.random.default_rng(0), 6, 9.0, spread=0.1), 0.05)
    assert band is not None
    assert band.real.num_clusters == 6
    assert band.fake.num_clusters == 12
    assert band.real.bound == pytest.approx(0.39304, abs=1e-5)
    assert band.fake.bound == pytest.approx(1 - 0.05 ** (1 / 12))


def test_a_small_val_that_is_told_apart_leaves_its_gap_uncertain():
    """Between its highest real and lowest fake it shows neither: nothing is said."""
    band = doubt.fit_band(
        simple([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), max_error=0.05
    )
    assert band is not None and not band.is_promised
    assert band.ends == pytest.approx((0.3, 0.7))
    verdicts = [band.verdict(score) for score in (0.29, 0.31, 0.5, 0.69, 0.71)]
    assert verdicts == [doubt.REAL, *3 * [doubt.UNCERTAIN], doubt.FAKE]
    # Where it does not tell them apart they are uncertain from the first wrong one on.
    mixed = doubt.fit_band(
        simple([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.75, 0.25, 0.8, 0.9]), max_error=0.05
    )
    assert mixed is not None
    assert mixed.ends == pytest.approx((0.2, 0.8))


def test_without_an_error_the_bound_is_that_of_as_many_clusters():
    clusters = np.repeat(np.arange(59), 3)
    right = np.zeros(len(clusters), bool)
    assert doubt.upper_bound(right, clusters) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert doubt.upper_bound(right, clusters) < 0.05
    assert doubt.upper_bound(right[3:], clusters[3:]) > 0.05


def test_errors_of_independent_videos_have_clopper_and_pearson_s_bound():
    wrong = np.arange(200) < 7
    exact = stats.binomtest(7, 200, alternative="less").proportion_ci(0.95).high
    assert doubt.upper_bound(wrong, np.arange(200)) == pytest.approx(exact, rel=2e-3)


def test_errors_that_people_share_count_for_more():
    wrong = np.arange(400) < 20
    apart = doubt.upper_bound(wrong, np.arange(400) % 100)
    together = doubt.upper_bound(wrong, np.arange(400) // 20)
    assert together > 1.5 * apart


def test_detectors_that_tell_the_classes_apart_are_never_in_doubt():
    rng = np.random.default_rng(1)
    videos = made(rng, 80, 12.0, spread=0.1)
    band = doubt.fit_band(videos, 0.05)
    assert band is not None and band.is_promised
    low, high = band.ends
    assert low == high == 0.5
    assert error_rates(band, videos) == (0.0, 0.0)


def test_a_detector_that_knows_nothing_is_mostly_in_doubt():
    band = doubt.fit_band(made(np.random.default_rng(2), 100, 0.0), 0.05)
    assert band is not None
    verdicts = [band.verdict(score) for score in np.linspace(0, 1, 101).tolist()]
    assert verdicts.count(doubt.UNCERTAIN) > 80
    assert verdicts[0] == doubt.REAL and verdicts[-1] == doubt.FAKE


def test_scores_at_the_bounds_and_equal_ones_have_a_band():
    for scores in ([0.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]):
        band = doubt.fit_band(simple([0, 0, 1, 1], scores), 0.05)
        assert band is not None
        low, high = band.ends
        assert 0 <= low <= high <= 1


def test_one_class_gives_no_band():
    assert doubt.fit_band(simple([1, 1, 1], [0.2, 0.5, 0.9]), 0.05) is None
    assert doubt.describe(None) == ""


def test_the_risk_coverage_curve_by_hand():
    videos = simple([1, 0, 1, 0, 0], [0.99, 0.05, 0.3, 0.6, 0.5 + 1e-9])
    curve = doubt.risk_coverage(videos, None)
    # The surest first: 0.99 right, 0.05 right, 0.3 wrong, 0.6 wrong, 0.5 wrong.
    np.testing.assert_allclose(curve.coverage, [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(curve.risk, [0, 0, 1 / 3, 2 / 4, 3 / 5])
    found = doubt.selective(videos, None, threshold=None)
    assert found is not None and found.uncertain is None
    assert found.aurc == pytest.approx(0.2 * (1 / 3 + 1 / 2 + 3 / 5))
    assert found.accuracy_at_80 == pytest.approx(0.5)
    assert found.accuracy_at_90 == pytest.approx(0.4)


def test_selective_numbers_count_what_the_band_says():
    videos = simple([0, 0, 0, 0, 1, 1, 1, 1], [0.1, 0.2, 0.5, 0.9, 0.1, 0.5, 0.8, 0.9])
    side = {"error": 0.0, "bound": 0.1, "num_clusters": 4}
    band = doubt.Band(0.1, doubt.Side(0.3, **side), doubt.Side(0.7, **side))
    found = doubt.selective(videos, band, threshold=0.5)
    assert found is not None
    assert found.uncertain == pytest.approx(2 / 8)
    assert found.false_alarms == found.misses == pytest.approx(1 / 4)
    assert found.accuracy == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    "name", ["uncertain", "false_alarms", "aurc", "accuracy_at_80"]
)
def test_intervals_of_doubt_hold_the_truth(name):
    rng = np.random.default_rng(9)
    side = {"error": 0.0, "bound": 0.1, "num_clusters": 4}
    band = doubt.Band(0.1, doubt.Side(0.25, **side), doubt.Side(0.75, **side))
    many = doubt.selective(made(rng, 6000, 1.0), band, threshold=0.5, replicates=4)
    runs, hits = 200, 0
    for seed in range(runs):
        found = doubt.selective(
            made(rng, 60, 1.0), band, threshold=0.5, replicates=200, seed=seed
        )
        assert found is not None
        low, high = found.intervals[name]  # pyright: ignore[reportGeneralTypeIssues]
        hits += low <= getattr(many, name) <= high
    assert 0.91 <= hits / runs <= 0.99, hits / runs


def test_the_curve_at_full_coverage_is_the_error_rate_at_the_threshold():
    videos = made(np.random.default_rng(5), 40, 1.0)
    curve = doubt.risk_coverage(videos, 0.4)
    accuracy = metrics.decisions(videos.label, videos.score, 0.4).accuracy
    assert accuracy is not None
    assert curve.risk[-1] == pytest.approx(1 - accuracy)
    assert curve.coverage[-1] == 1.0


def test_clusters_of_one_class_are_counted_apart():
    videos = made(np.random.default_rng(5), 10, 1.0)
    reals, fakes = (videos.take(videos.label == value) for value in (0, 1))
    assert len(np.unique(intervals.clusters(reals))) == 20
    assert len(np.unique(intervals.clusters(fakes))) == 10
