"""How high the highest of many parts may score in a real video."""

import numpy as np
import pytest

from fakedetect_jax.metrics import metrics, parts
from fakedetect_jax.metrics.parts import Reals
from tests.made_scores import made_rows

REALS = Reals(-4.0, 1.0, num_clusters=140)


def score(logits) -> np.ndarray:
    return metrics.sigmoid(np.asarray(logits, float))


def test_runs_are_means_over_their_clips():
    windows = [[0.0, 0.2], [0.4], [0.9]]
    assert parts.runs(windows, 1) == pytest.approx([0.1, 0.4, 0.9])
    assert parts.runs(windows, 2) == pytest.approx([0.2, 0.65])
    assert parts.runs(windows, 9) == pytest.approx([0.375])


@pytest.mark.parametrize("count", [4, 60, 1500])
@pytest.mark.parametrize("people", [12, 140])
def test_few_real_films_have_a_part_above_however_many_are_looked_at(count, people):
    rng = np.random.default_rng(count)
    above = []
    for _ in range(600):
        val = rng.normal(-4, 1, people)
        reals = Reals(float(val.mean()), float(val.std(ddof=1)), people)
        film = score(rng.normal(-4, 1, count))
        above.append(film.max() > parts.limit(film, reals, least=0.0))
    assert np.mean(above) < 0.02
    # And it is not for nothing that it is that high: with ten times the chance
    # the same films exceed it.
    loose = [
        film.max() > parts.limit(film, REALS, least=0.0, false_alarms=0.5)
        for film in score(rng.normal(-4, 1, (300, count)))
    ]
    assert np.mean(loose) > 0.1


def test_a_film_is_held_against_itself_too():
    """What its camera does to all of its parts makes none of them stand out."""
    rng = np.random.default_rng(0)
    film = rng.normal(-4, 0.5, 60)
    film[30] = 1.0
    assert score(1.0) > parts.limit(score(film), REALS, least=0.0)
    assert score(1.0) < parts.limit(score(film), REALS, least=0.999)
    shifted = rng.normal(1.0, 0.5, 60)
    assert score(shifted).max() < parts.limit(score(shifted), REALS, least=0.0)
    few = parts.limit(score(shifted[:4]), REALS, least=0.0)
    assert few < parts.limit(score(shifted), REALS, least=0.0)


def test_forged_parts_do_not_hide_each_other():
    rng = np.random.default_rng(0)
    film = rng.normal(-4, 0.5, 60)
    film[::3] = 3.0
    assert score(3.0) > parts.limit(score(film), REALS, least=0.0)


def test_few_people_in_val_promise_little():
    few = Reals(-4.0, 1.0, num_clusters=6)
    scores = score([-4.0] * 10)
    assert parts.limit(scores, REALS, least=0.0) < parts.limit(scores, few, least=0.0)
    assert parts.limit([0.1, 0.999], None, least=0.5) == 1.0


def test_val_s_reals_are_fitted_by_video():
    videos = metrics.videos(metrics.clips(made_rows(num_identities=20)))
    found = parts.fit_reals(videos)
    logits = metrics.logit(videos.score[videos.label == 0])
    # Pairs that were swapped count once.
    assert found == Reals(logits.mean(), logits.std(ddof=1), 10)
    few = metrics.videos(metrics.clips(made_rows(num_identities=8)))
    assert parts.fit_reals(few) is None
