import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakedetect_jax.metrics import calibration, intervals, metrics
from tests.made_scores import changed, known, made_rows


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(temperature):
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < metrics.sigmoid(honest)).astype(int)
    found = calibration.fit_temperature(honest * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)


def test_it_calibrates_and_keeps_every_rank():
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 1.5, 5000)
    labels = (rng.random(5000) < metrics.sigmoid(honest)).astype(int)
    scores = metrics.sigmoid(honest * 4)
    temperature = calibration.fit_temperature(metrics.logit(scores), labels)
    after = calibration.apply_temperature(scores, temperature)
    assert metrics.ece(labels, scores) == pytest.approx(0.19, abs=0.05)
    assert (metrics.ece(labels, after) or 0) < 0.03
    assert metrics.auc(labels, after) == pytest.approx(metrics.auc(labels, scores))


def test_an_errorless_val_does_not_drive_it_to_the_bound():
    labels = np.array([0] * 20 + [1] * 80)
    found = calibration.fit_temperature(np.where(labels == 1, 4.0, -4.0), labels)
    low, high = calibration.TEMPERATURE_BOUNDS
    assert 2 * low < found < high / 2


def test_one_class_leaves_the_scores_as_they_are():
    ones = np.ones(5, dtype=int)
    assert calibration.fit_temperature(np.arange(5.0), ones) == 1.0
    assert calibration.pick_threshold(ones, np.linspace(0, 1, 5)) == 0.5


def balanced(labels, scores, threshold):
    return known(metrics.decisions(labels, scores, threshold).balanced_accuracy)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)
)
@settings(deadline=None, max_examples=150)
def test_no_other_threshold_is_better(pairs):
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score / 8 for _, score in pairs])
    if not metrics.has_both(labels):
        return
    chosen = calibration.pick_threshold(labels, scores)
    best = balanced(labels, scores, chosen)
    for other in np.linspace(-0.05, 1.05, 45):
        assert balanced(labels, scores, other) <= best + 1e-12
    if balanced(labels, scores, 0.5) == best:
        assert chosen == 0.5


def test_among_equals_the_nearest_to_a_half():
    labels = np.array([0, 0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    chosen = calibration.pick_threshold(labels, scores)
    assert chosen == pytest.approx(0.25)  # 0.85 is as good, and farther


def test_val_rows_give_what_the_checkpoint_keeps():
    rows = made_rows(num_identities=40, sharpness=4.0)
    videos = metrics.videos(metrics.clips(rows))
    found = calibration.calibrate(rows, max_error=0.05)
    fitted = calibration.fit_temperature(videos.logit, videos.label)
    assert found.calibration.fitted == fitted == found.temperature
    assert found.threshold == calibration.pick_threshold(videos.label, videos.score)
    at_val = balanced(videos.label, videos.score, found.threshold)
    assert at_val > balanced(videos.label, videos.score, 0.5)


def overconfident(*, people: int, wrong: float, sharpness: float, seed: int):
    """Videos of people who are each right or wrong, all equally sure."""
    rng = np.random.default_rng(seed)
    rows = made_rows(num_identities=people, methods={"Deepfakes": 0.0})
    for target in {row.video.target for row in rows}:
        sign = -1 if rng.random() < wrong else 1
        for i, row in enumerate(rows):
            if row.video.target == target:
                logit = sign * sharpness * (1 if row.video.label else -1)
                score = float(metrics.sigmoid(np.array(logit)))
                rows[i] = changed(row, logit=logit, score=score)
    return rows


def test_a_temperature_that_helps_on_people_left_out_is_used():
    rows = overconfident(people=40, wrong=0.2, sharpness=6.0, seed=0)
    found = calibration.calibrate(rows, max_error=0.05)
    fit = found.calibration
    assert found.temperature == fit.fitted > 2
    assert fit.used and known(fit.cross_fitted_loss) < known(fit.loss)
    assert "is used" in calibration.describe(fit)


def test_a_temperature_that_harms_people_left_out_is_not_used():
    """An errorless val: the fit makes the scores less sure, and each person worse."""
    rows = overconfident(people=12, wrong=0.0, sharpness=6.0, seed=0)
    found = calibration.calibrate(rows, max_error=0.05)
    fit = found.calibration
    assert fit.fitted > 1.2 and found.temperature == 1.0
    assert not fit.used and known(fit.cross_fitted_loss) > known(fit.loss)
    assert "is not used" in calibration.describe(fit)


def test_nobody_is_scored_by_a_temperature_that_saw_them():
    """A person who alone is wrong is scored as sure as the others make it."""
    rows = overconfident(people=6, wrong=0.0, sharpness=6.0, seed=0)
    for i, row in enumerate(rows):
        if row.video.target == "003":
            rows[i] = changed(row, logit=-row.logit, score=1 - row.score)
    videos = metrics.videos(metrics.clips(rows))
    tried = calibration.cross_fit(videos)
    cluster_of = intervals.clusters(videos)  # with the one swapped with them
    own = cluster_of == cluster_of[videos.target == "003"][0]
    without = calibration.fit_temperature(videos.logit[~own], videos.label[~own])
    expected = calibration.apply_temperature(videos.score[own], without)
    assert tried is not None
    np.testing.assert_allclose(tried[own], expected)
    assert np.abs(tried[own] - 0.5).min() > np.abs(tried[~own] - 0.5).max()


def test_one_person_or_class_cannot_be_tried():
    one = [r for r in made_rows(num_identities=4) if r.video.target == "000"]
    reals = [r for r in made_rows(num_identities=4) if not r.video.label]
    for rows in (one, reals):
        found = calibration.calibrate(rows, max_error=0.05)
        assert found.temperature == 1.0 and not found.calibration.used
        assert "could not be tried" in calibration.describe(found.calibration)
    assert calibration.describe(None) == ""
