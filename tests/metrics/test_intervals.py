import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fakedetect_jax.metrics import intervals, metrics, ranking
from fakedetect_jax.metrics.records import ClipScore, Unscored
from tests.made_scores import changed, known, made_rows
from tfds_ffpp.errors import DataError
from tfds_ffpp.records import to_json


def videos_of(rows):
    return metrics.videos(metrics.clips(rows))


def made_items(labels, scores, targets):
    rows = [
        {
            "dataset": "d",
            "method": "fake" if label else "real",
            "video": str(i),
            "target": str(target),
            "compression": "c23",
            "label": int(label),
            "clip": 0,
            "logit": float(metrics.logit(score)),
            "score": float(score),
        }
        for i, (label, score, target) in enumerate(
            zip(labels, scores, targets, strict=True)
        )
    ]
    return videos_of(list(map(ClipScore.from_json, rows)))


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)),
        min_size=3,
        max_size=25,
    ),
    st.sampled_from([0.5, 1 / 3, 0.9]),
)
@settings(deadline=None, max_examples=150)
def test_a_weight_is_a_repetition(triples, threshold):
    labels, scores, weights = (
        np.array(column) for column in zip(*triples, strict=True)
    )
    scores = scores / 6
    labels, scores = labels.astype(int), scores
    found = ranking.weighted(
        ranking.rank(labels, scores),
        weights[None, :].astype(float),
        threshold=threshold,
    )
    repeated_labels, repeated = np.repeat(labels, weights), np.repeat(scores, weights)
    if not metrics.has_both(repeated_labels):
        assert np.isnan(found["auc"][0])
        return
    expected = {
        "auc": metrics.auc(repeated_labels, repeated),
        "eer": metrics.eer(repeated_labels, repeated),
        "ap": metrics.average_precision(repeated_labels, repeated),
    }
    for prefix, at in (("", 0.5), ("at_threshold.", threshold)):
        decided = metrics.decisions(repeated_labels, repeated, at)
        for name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
            expected[prefix + name] = getattr(decided, name)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        expected
    )


def test_identities_are_drawn_not_videos():
    """S7 An interval over videos: people are drawn instead.

    Copies of a target's videos tell nothing new, so intervals must not shrink.
    """
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 30)
    scores = metrics.sigmoid(rng.normal(labels, 1))
    targets = np.repeat(np.arange(30), 2)
    once = intervals.intervals(made_items(labels, scores, targets))
    labels, scores = np.tile(labels, 9), np.tile(scores, 9)
    ninefold = intervals.intervals(made_items(labels, scores, np.tile(targets, 9)))
    alone = intervals.intervals(made_items(labels, scores, np.arange(540)))

    def width(found):
        low, high = found["auc"]
        return high - low

    assert width(ninefold) == pytest.approx(width(once), rel=0.05)
    assert width(alone) < 0.5 * width(once)


def simulated(rng, num_targets, separation, spread=0.7, methods=4):
    """Labels, scores and targets; a target's videos share its ease."""
    labels = np.tile([0] + [1] * methods, num_targets)
    ease, gain = rng.normal(0, spread, (2, num_targets)).repeat(methods + 1, axis=1)
    latent = ease + labels * (separation + gain) + rng.normal(0, 1, labels.size)
    return labels, latent, np.repeat(np.arange(num_targets), methods + 1)


def true_auc(separation, spread=0.7):
    """Of a fake and a real of different targets."""
    return stats.norm.cdf(separation / np.sqrt(3 * spread**2 + 2))


@pytest.mark.parametrize(
    ("num_targets", "separation"), [(10, 3.0), (20, 4.5), (40, 3.0), (70, 1.5)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(num_targets, separation):
    """S7 Intervals that are too narrow: they hold the truth as often as they say."""
    rng = np.random.default_rng(7)
    runs, hits = 600, 0
    for seed in range(runs):
        labels, scores, targets = simulated(rng, num_targets, separation)
        ranked = ranking.rank(labels, scores)
        drawn = [
            ranking.weighted(ranked, weights)["auc"]
            for weights in intervals.draw_weights(targets, replicates=200, seed=seed)
        ]
        found = intervals.interval(
            metrics.auc(labels, scores),
            np.concatenate(drawn),
            num_clusters=num_targets,
            step=1 / int(np.sum(labels) * np.sum(1 - labels)),
        )
        assert found is not None
        hits += found[0] <= true_auc(separation) <= found[1]
    assert 0.93 <= hits / runs <= 0.97


@given(
    st.floats(0.01, 0.99).filter(lambda share: abs(share - 0.5) > 1e-3),
    st.floats(0.1, 2.0),
    st.integers(2, 200),
)
@settings(deadline=None, max_examples=100)
def test_an_interval_holds_its_estimate_and_is_longer_towards_a_half(
    share, spread, num_clusters
):
    odds = metrics.logit(share) + np.random.default_rng(0).normal(0, spread, 200)
    draws = metrics.sigmoid(odds)
    low, high = known(
        intervals.interval(share, draws, num_clusters=num_clusters, step=1e-4)
    )
    assert 0 <= low < share < high <= 1
    assert (share - low > high - share) == (share > 0.5)
    mirrored = intervals.interval(
        1 - share, 1 - draws, num_clusters=num_clusters, step=1e-4
    )
    assert mirrored == pytest.approx([1 - high, 1 - low])


@pytest.mark.parametrize(
    ("num_targets", "separation"), [(10, 1.5), (20, 3.0), (40, 4.5)]
)
def test_intervals_of_losses_hold_the_truth(num_targets, separation):
    """Also where a sample often lacks the rare large loss, so that t falls short."""
    rng = np.random.default_rng(5)

    def losses(number):
        labels, latent, targets = simulated(rng, number, separation)
        logits = latent - separation / 2
        return {
            "loss": np.logaddexp(0, logits) - labels * logits,
            "brier": (metrics.sigmoid(logits) - labels) ** 2,
        }, targets

    truth = {name: values.mean() for name, values in losses(100_000)[0].items()}
    runs, hits, plain = 2000, dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(runs):
        found, targets = losses(num_targets)
        for name, values in found.items():
            low, high = known(intervals.mean_interval(values, targets))
            hits[name] += low <= truth[name] <= high
            means = values.reshape(num_targets, -1).mean(axis=1)
            off = np.asarray(stats.ttest_1samp(means, truth[name]))[1]
            plain[name] += int(off >= 0.05)
    for name in truth:
        assert 0.93 <= hits[name] / runs <= 0.97
        assert hits[name] > plain[name]


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 5)), min_size=2, max_size=30))
@settings(deadline=None, max_examples=200)
def test_the_interval_of_a_mean_holds_it(pairs):
    values, cluster_of = (np.array(column) for column in zip(*pairs, strict=True))
    found = intervals.mean_interval(values, cluster_of)
    if found is None:
        sums, sizes = (
            np.array([total(values[cluster_of == c]) for c in set(cluster_of)])
            for total in (np.sum, len)
        )
        assert len(sizes) == 1 or sums == pytest.approx(values.mean() * sizes)
    else:
        assert 0 <= found[0] <= values.mean() < found[1]


def test_the_interval_of_a_mean_without_skewness_is_t():
    values = np.array([1.0, 2, 3, 4, 5])
    reach = stats.t.ppf(0.975, 4) * np.sqrt(2.5 / 5)
    assert intervals.mean_interval(values, np.arange(5)) == pytest.approx(
        [max(3 - reach, 0), 3 + reach]
    )
    skewed = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 5])
    low, high = known(intervals.mean_interval(skewed, np.arange(10)))
    assert high - 1.4 > 2 * (1.4 - low)


def test_the_interval_of_a_skewed_mean_solves_halls_cubic():
    """At each end T, Hall's T + gT^2/3 + g^2 T^3/27 + g/6, with g of n, is -+ t."""
    values = np.random.default_rng(4).exponential(1.0, 25)
    low, high = known(intervals.mean_interval(values, np.arange(25)))
    away = values - values.mean()
    g = np.mean(away**3) / np.mean(away**2) ** 1.5 / np.sqrt(25)
    end = (values.mean() - np.array([high, low])) * 5 / values.std(ddof=1)
    cubic = end + g * end**2 / 3 + g**2 * end**3 / 27 + g / 6
    t = stats.t.ppf(0.975, 24)
    assert g > 0.2 and cubic == pytest.approx([-t, t])


def test_the_interval_of_a_mean_has_its_unit():
    values, clusters = np.array([1.0, 2, 3, 4, 9]), np.arange(5)
    found = known(intervals.mean_interval(values, clusters))
    small = known(intervals.mean_interval(1e-7 * values, clusters))
    assert small == pytest.approx([1e-7 * end for end in found], rel=1e-6, abs=0)


def test_losses_are_of_what_was_scored():
    """A policy's 0 for a video without a clip is no probability, so has no loss."""
    rows = made_rows(num_identities=8)
    scored = videos_of(rows)
    missing = [
        Unscored(row.video._replace(name=row.video.name + "x"), "no face")
        for row in rows[:9]
    ]
    found = intervals.intervals(scored)
    padded = metrics.add_unscored(scored, missing, policy="as_fake")
    filled = intervals.intervals(padded)
    for name in ("loss", "brier"):
        low, high = known(found[name])
        assert low < getattr(metrics.summary(scored), name) < high
        assert filled[name] == pytest.approx(found[name])
    assert filled["accuracy"] != found["accuracy"]


def test_intervals_of_a_mean_count_the_part_without_an_error():
    """No false alarm on ten reals: balanced accuracy is as uncertain as that leaves."""
    labels, targets = np.tile([0, 1, 1, 1, 1], 10), np.repeat(np.arange(10), 5)
    scores = labels * 0.8 + 0.1
    scores[[1, 2, 11]] = 0.2  # three fakes missed
    found = intervals.intervals(made_items(labels, scores, targets))
    real_low = 0.025 ** (1 / 10)
    assert found["specificity"] == pytest.approx([real_low, 1])
    fake_low, fake_high = known(found["sensitivity"])
    share = 37 / 40
    low, high = known(found["balanced_accuracy"])
    reach = np.hypot(share - fake_low, 1 - real_low) / 2
    assert low == pytest.approx((share + 1) / 2 - reach)
    assert high == pytest.approx((share + 1) / 2 + (fake_high - share) / 2)


def test_equal_parts_of_a_mean_do_not_average_out():
    """Sensitivity and specificity that rise together are one draw, not two."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.8, 0.05, 300)
    span = [0.65, 0.88]
    shares, spans = (0.8, 0.8), (span, span)

    def mean(first, second):
        found = intervals.combined_interval(
            shares, spans, (first, second), sign=1, num_clusters=30
        )
        return [end / 2 for end in known(found)]

    assert mean(draws, draws) == pytest.approx(span)
    assert mean(draws, 1.6 - draws) == pytest.approx([0.8, 0.8], abs=1e-6)


def test_parts_that_rise_together_reach_as_far_as_both():
    """Where each end is t standard deviations away, however much these differ."""
    draws = np.random.default_rng(0).normal(0.0, 0.05, 300)
    halved = 0.6 + draws / 2
    reach = stats.t.ppf(0.975, 29) * draws.std(ddof=1)
    spans = [0.8 - reach, 0.8 + reach], [0.6 - reach / 2, 0.6 + reach / 2]

    def found(second, sign):
        return intervals.combined_interval(
            (0.8, 0.6), spans, (0.8 + draws, second), sign=sign, num_clusters=30
        )

    total = pytest.approx([1.4 - 1.5 * reach, 1.4 + 1.5 * reach])
    apart = pytest.approx([0.2 - 0.5 * reach, 0.2 + 0.5 * reach])
    assert found(halved, 1) == total
    assert found(halved, -1) == apart


@pytest.mark.parametrize(("num_clusters", "lacking"), [(1, 0), (30, 200)])
def test_one_cluster_or_few_draws_with_a_value_give_no_interval(num_clusters, lacking):
    draws = np.random.default_rng(0).normal(0.8, 0.05, (2, 300))
    draws[:, :lacking] = np.nan
    span = [0.65, 0.88]
    arguments = ((0.8, 0.8), (span, span), (draws[0], draws[1]))

    def found(num_clusters):
        return intervals.combined_interval(
            *arguments, sign=1, num_clusters=num_clusters
        )

    assert found(num_clusters) is None
    draws[:] = np.nan_to_num(draws, nan=0.8)
    assert found(30) is not None and found(2) is not None


def test_half_of_the_draws_with_a_value_give_an_interval():
    draws = np.random.default_rng(0).normal(0.8, 0.05, 300)

    def found(lacking: int):
        draws[:lacking] = np.nan
        return intervals.interval(0.8, draws, num_clusters=30, step=1e-3)

    assert found(150) is not None
    assert found(151) is None


def test_a_comparison_says_both_values_and_what_the_first_has_more():
    labels = np.array([0, 1] * 20)
    worse = labels * 0.8 + 0.1
    worse[1] = 0.0  # a fake below every real
    one = made_items(labels, worse, np.arange(40) // 2)
    two = made_items(labels, labels * 0.8 + 0.1, np.arange(40) // 2)
    found = known(intervals.compare(one, two).auc)
    assert (found.first, found.second) == (pytest.approx(0.95), 1.0)
    assert found.difference == pytest.approx(-0.05)


def test_few_reals_are_few_whatever_the_number_of_fakes():
    labels = np.array([0] * 3 + [1] * 97)
    found = intervals.intervals(made_items(labels, labels * 0.8 + 0.1, np.arange(100)))
    assert found["specificity"] == pytest.approx([0.025 ** (1 / 3), 1])
    assert found["auc"] == pytest.approx([0.025 ** (1 / 3), 1])
    assert found["sensitivity"] == pytest.approx([0.025 ** (1 / 97), 1])
    one_real = made_items(labels[2:], labels[2:] * 0.8 + 0.1, np.arange(98))
    found = intervals.intervals(one_real)
    assert found["auc"] is None
    assert found["sensitivity"] is not None


@pytest.mark.parametrize("separation", [2.0, 4.0])
def test_intervals_of_differences_hold_the_truth(separation):
    """S7 Differences of two runs: their intervals hold the truth.

    Also where the better detector makes no error, which draws alone cannot see.
    """
    rng = np.random.default_rng(3)

    def another(labels, latent, targets):
        likes = rng.normal(0, 0.5, (2, targets.max() + 1))[labels, targets]
        noise = rng.normal(0, 0.7, labels.size)
        return latent + likes + noise + 0.5 * labels

    def items_of(labels, latent, targets):
        return made_items(labels, metrics.sigmoid(latent - separation / 2), targets)

    labels, latent, targets = simulated(rng, 20_000, separation)
    truth = metrics.auc(labels, latent)
    other = metrics.auc(labels, another(labels, latent, targets))
    assert truth is not None and other is not None
    truth -= other
    hits = 0
    runs = 150
    for seed in range(runs):
        labels, latent, targets = simulated(rng, 20, separation)
        second = another(labels, latent, targets)
        found = intervals.compare(
            items_of(labels, latent, targets),
            items_of(labels, second, targets),
            replicates=150,
            seed=seed,
        )
        low, high = known(known(found.auc).interval)
        hits += low <= truth <= high
    assert hits / runs >= 0.93


def test_the_p_of_equal_detectors_is_uniform_over_identities():
    rng = np.random.default_rng(11)
    rejected = []
    for _ in range(600):
        labels, first, targets = simulated(rng, 40, 2.0)
        own = rng.normal(0, 1.2, (2, 40)).repeat(5, axis=1)  # each detector's likes
        signs = np.where(labels == 1, 1, -1)
        scores = [first + signs * likes for likes in own]
        found = intervals.auc_difference(labels, *scores, cluster_of=targets)
        plain = intervals.auc_difference(labels, *scores)
        rejected.append((found.p < 0.05, plain.p < 0.05))
    clustered, independent = np.mean(rejected, axis=0)
    assert 0.03 <= clustered <= 0.075
    assert independent > 0.12  # what ignoring identities would have claimed


def brute_delong(labels, first, second):
    """The variance of a difference of AUCs, pair by pair."""
    fake, real = labels == 1, labels == 0

    def components(scores):
        kernel = np.array(
            [
                [float(f > r) + 0.5 * float(f == r) for r in scores[real]]
                for f in scores[fake]
            ]
        )
        return kernel.mean(axis=1), kernel.mean(axis=0), kernel.mean()

    (f1, r1, a1), (f2, r2, a2) = components(first), components(second)
    variance = (
        np.var(f1 - f2, ddof=1) / fake.sum() + np.var(r1 - r2, ddof=1) / real.sum()
    )
    return a1 - a2, np.sqrt(variance)


@pytest.mark.parametrize("fakes", [2, 31])
def test_delong_is_its_definition_with_ties(fakes):
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(60) < fakes).astype(int)
    first = np.round(rng.normal(labels, 1), 1)
    second = np.round(rng.normal(labels * 0.5, 1), 1)
    difference, error = brute_delong(labels, first, second)
    found = intervals.auc_difference(labels, first, second)
    assert found.difference == pytest.approx(difference)
    assert found.standard_error == pytest.approx(error)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(difference) / error))
    alone = intervals.auc_difference(labels, first, second, cluster_of=np.arange(60))
    assert alone.standard_error == pytest.approx(error)


def test_a_run_does_not_differ_from_itself():
    videos = videos_of(made_rows())
    found = intervals.compare(videos, videos)
    auc = known(found.auc)
    assert auc.difference == 0
    assert auc.interval == pytest.approx([0, 0], abs=1e-6)
    assert auc.delong_p == auc.clustered_p == 1
    assert (found.num_videos, found.left_out) == (100, [0, 0])


def test_runs_are_paired_by_video_not_by_line():
    rows = made_rows(num_identities=20)
    noisy = [
        changed(row, score=(row.score + 0.3 * ((i * 7) % 5) / 5) / 1.3)
        for i, row in enumerate(rows)
    ]
    straight = intervals.compare(videos_of(rows), videos_of(noisy))
    turned = intervals.compare(videos_of(rows), videos_of(noisy[::-1]))
    assert turned == straight
    some = [row for row in noisy if row.video.target != "003"]
    assert intervals.compare(videos_of(rows), videos_of(some)).left_out == [5, 0]


def test_runs_that_disagree_on_a_label_are_not_compared():
    rows = made_rows(num_identities=4)
    turned = [changed(row, label=1 - row.video.label) for row in rows]
    with pytest.raises(DataError, match="real in one run and fake in the other"):
        intervals.compare(videos_of(rows), videos_of(turned))


def test_runs_without_a_shared_video_have_no_difference():
    one, two = made_rows(num_identities=4), made_rows(num_identities=4, dataset="dfd")
    found = intervals.compare(videos_of(one), videos_of(two))
    assert to_json(found) == {"num_videos": 0, "left_out": [20, 20]}


def test_a_flawless_result_is_not_certain():
    labels, targets = np.tile([0, 1], 10), np.repeat(np.arange(10), 2)
    found = intervals.intervals(made_items(labels, labels * 0.8 + 0.1, targets))
    least = 0.025 ** (1 / 10)  # no error among 10 targets
    assert found["auc"] == pytest.approx([least, 1])
    assert found["eer"] == pytest.approx([0, 1 - least])


def test_a_nearly_flawless_ranking_has_intervals():
    # Twelve people, four fakes each; one real lies above the lowest fake.
    labels = np.tile([0, 1, 1, 1, 1], 12)
    scores = np.where(labels == 1, 0.9 + np.arange(60) / 1000, np.arange(60) / 1000)
    scores[[5, 1]] = 0.8, 0.7
    found = intervals.intervals(made_items(labels, scores, np.arange(60) // 5))
    for name in ("auc", "ap"):
        low, high = known(found[name])
        assert 0.9 < low < high < 1


def test_one_identity_or_one_class_has_no_interval():
    labels, scores = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.1])
    one = intervals.intervals(made_items(labels, scores, ["a"] * 3))
    assert one["auc"] is None
    fakes = intervals.intervals(made_items(np.ones(3, int), scores, ["a", "b", "c"]))
    assert fakes["auc"] is None
    assert fakes["accuracy"] is not None


def test_a_number_that_no_draw_can_change_has_no_interval():
    labels, targets = np.tile([0, 1, 1, 1, 1], 8), np.repeat(np.arange(8), 5)
    found = intervals.intervals(made_items(labels, np.full(40, 0.9), targets))
    assert found["accuracy"] is None  # 0.8 in every draw: each target has its 1 : 4
    assert found["specificity"] == pytest.approx([0, 1 - 0.025 ** (1 / 8)])


def test_videos_without_a_target_stand_alone():
    items = made_items([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3], ["", "", "x", "x"])
    assert intervals.clusters(items).tolist() == [0, 1, 2, 2]


def test_people_of_two_datasets_who_share_a_name_are_two_clusters():
    rows = [
        {"dataset": d, "method": "real", "video": v, "target": "000", "source": ""}
        | {"label": 0, "clip": 0, "score": 0.5, "logit": 0.0}
        for d in ("ffpp", "celebdf")
        for v in ("a", "b")
    ]
    items = videos_of(list(map(ClipScore.from_json, rows)))
    of = dict(zip(items.dataset.tolist(), intervals.clusters(items), strict=True))
    assert len(items.label) == 4 and len(set(of.values())) == 2
    assert intervals.num_identities(items) == 2


@pytest.mark.parametrize("count", [2, 3, 17])
def test_each_replicate_draws_as_many_clusters_as_there_are(count):
    of = np.repeat(np.arange(count), 3)
    (weights,) = intervals.draw_weights(of, replicates=200)
    assert (weights.sum(axis=1) == len(of)).all()
    assert (weights[:, ::3] == weights[:, 2::3]).all()
    assert weights.var() > 0


def test_pieces_make_up_the_number_of_replicates(monkeypatch):
    monkeypatch.setattr(intervals, "CHUNK_ELEMENTS", 30)
    pieces = list(intervals.draw_weights(np.arange(4), replicates=17))
    assert [len(piece) for piece in pieces] == [7, 7, 3]


def test_the_smallest_change_of_each_metric():
    labels = np.array([1, 1, 1, 0, 0])
    steps = {
        name: 1 / intervals._step(name, labels)
        for name in ("auc", "ap", "sensitivity", "specificity", "balanced_accuracy")
    }
    assert steps == pytest.approx(
        {"auc": 6, "ap": 12, "sensitivity": 3, "specificity": 2, "balanced_accuracy": 4}
    )
    assert 1 / intervals._step("at_threshold.sensitivity", labels) == pytest.approx(3)
    assert 1 / intervals._step("accuracy", labels) == pytest.approx(5)


def test_shares_near_a_bound_count_as_half_a_step_inside():
    # Replicates at and beyond half a step from 1 are as many standard deviations off.
    high = np.repeat([1.0, 0.96, 0.9], [500, 300, 200])
    kept = np.minimum(high, 0.98)
    known = {"num_clusters": 10, "step": 0.04}
    low_end = intervals.interval(0.97, high, **known)
    t = stats.t.ppf(0.975, 9)
    variance = high.var(ddof=1)
    share = 0.97
    flat = share * (1 - share)
    trials = flat / (t * t * variance)
    spread = np.sqrt(flat / trials + 1 / (2 * trials) ** 2)
    near = (share + 1 / (2 * trials) + spread) / (1 + 1 / trials)
    logits = np.log(kept / (1 - kept))
    both = (logits.var(ddof=1) + variance / flat**2) / 2
    far = 1 / (1 + np.exp(-(np.log(share / (1 - share)) - t * np.sqrt(both))))
    assert low_end == pytest.approx([far, near], abs=1e-9)
    mirrored = intervals.interval(0.03, 1 - high, **known)
    assert mirrored == pytest.approx([1 - near, 1 - far], abs=1e-9)
    # An estimate nearer to 1 than half a step is taken there.
    nearest = intervals.interval(0.995, high, **known)
    assert nearest == pytest.approx(intervals.interval(0.98, high, **known))


def test_a_difference_without_an_error_is_certain():
    labels = np.array([0, 0, 1, 1])
    right, wrong = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 0])
    found = intervals.auc_difference(labels, right, wrong)
    assert found == (1.0, 0.0, 0.0)
    same = intervals.auc_difference(labels, right, right)
    assert same == (0.0, 0.0, 1.0)


def swapped(pairs, *, dataset="ffpp", lone=()):
    """Items of everyone's real and of the fakes (target, source); their targets."""
    people = dict.fromkeys([i for pair in pairs for i in pair])
    rows = [
        {"method": "real", "target": i, "source": "", "label": 0}
        for i in (*people, *lone)
    ]
    rows += [{"method": "swap", "target": t, "source": s, "label": 1} for t, s in pairs]
    same = {"dataset": dataset, "clip": 0, "score": 0.5, "logit": 0.0}
    named = ({**row, **same, "video": str(i)} for i, row in enumerate(rows))
    items = videos_of(list(map(ClipScore.from_json, named)))
    groups = {}
    for target, number in zip(
        items.target.tolist(), intervals.clusters(items), strict=True
    ):
        groups.setdefault(number, set()).add(target)
    return items, sorted(map(sorted, groups.values()))


def test_two_people_who_were_swapped_with_each_other_are_one_cluster():
    both_ways = [("000", "003"), ("003", "000"), ("001", "002"), ("002", "001")]
    items, groups = swapped(both_ways, lone=["009"])
    assert groups == [["000", "003"], ["001", "002"], ["009"]]
    assert intervals.described(items) == "swap pairs and target identities"
    assert intervals.num_identities(items) == 5
    assert intervals.described(swapped(both_ways)[0]) == "swap pairs"
    pairs = intervals.swap_pairs(items)
    assert sorted((a[1], b[1]) for a, b in pairs) == [("000", "003"), ("001", "002")]


def test_a_pair_of_which_one_is_not_among_the_targets_is_none():
    """Where only one of the two is scored, there is nothing to join."""
    items, _ = swapped([("000", "003"), ("001", "002")])
    shown = items.take(np.flatnonzero(items.target != "003"))
    assert {a[1] for a, _ in intervals.swap_pairs(shown)} == {"001"}


def test_people_whose_faces_go_round_are_clusters_of_their_own():
    """Else all of Celeb-DF would be one."""
    items, groups = swapped([("a", "b"), ("b", "c"), ("c", "a"), ("d", "c")])
    assert groups == [["a"], ["b"], ["c"], ["d"]]
    assert intervals.described(items) == "target identities"


def test_ids_that_were_cut_from_one_source_are_one_cluster():
    _, groups = swapped(
        [("566", "010"), ("010", "566"), ("567", "011"), ("011", "567")]
    )
    assert groups == [["010", "011", "566", "567"]]
    _, groups = swapped([], lone=["685", "686", "687", "688"])
    assert groups == [["685", "686", "687"], ["688"]]
    _, groups = swapped([], lone=["566", "567"], dataset="mine")
    assert groups == [["566"], ["567"]]


def test_errors_that_swap_pairs_share_are_covered():
    """S7 Errors that swap pairs share: the interval covers them.

    Draws of targets take a pair's two for independent, and are too narrow.
    """
    rng = np.random.default_rng(5)
    num_targets, separation = 60, 3.0
    partner = np.repeat(np.arange(num_targets) ^ 1, 5).astype(str)
    hits, runs = {"pairs": 0, "targets": 0}, 300
    truth = true_auc(separation, np.hypot(0.3, 1.5))
    for seed in range(runs):
        labels, latent, targets = simulated(rng, num_targets, separation, spread=0.3)
        shared = rng.normal(0, 1.5, (2, num_targets // 2)).repeat(10, axis=1)
        latent = latent + shared[0] + labels * shared[1]
        items = made_items(labels, metrics.sigmoid(latent), targets)
        paired = items._replace(source=np.where(labels == 1, partner, ""))
        for name, shown in (("pairs", paired), ("targets", items)):
            spans = intervals.intervals(shown, replicates=150, seed=seed)
            low, high = known(spans["auc"])
            hits[name] += int(low <= truth <= high)
    assert hits["pairs"] / runs >= 0.93
    assert hits["targets"] / runs <= 0.92


def test_equal_seeds_give_equal_intervals():
    videos = videos_of(made_rows())
    assert intervals.intervals(videos) == intervals.intervals(videos)
    assert intervals.intervals(videos) != intervals.intervals(videos, seed=1)
