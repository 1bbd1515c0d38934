"""A guard's distances, threshold and file, held against what they are by definition."""

import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from sklearn.covariance import LedoitWolf

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.trained import guard
from fakedetect_jax.trained.guard import Guard

WIDTH = 12


def features(rng, count: int, label: int, width: int = WIDTH) -> np.ndarray:
    """Correlated features of a class, some of which hardly vary."""
    mixed = np.random.default_rng(5).normal(size=(width, width))
    scale = np.geomspace(1, 1e-3, width)
    return label + rng.normal(size=(count, width)) @ mixed * scale


def fitted(width: int = WIDTH, videos: int = 60) -> Guard:
    rng = np.random.default_rng(0)
    train = [features(rng, 400, label, width) for label in (0, 1)]
    val = [features(rng, videos, label, width) for label in (0, 1)]
    of_video = np.repeat(np.arange(videos), 2)
    found = guard.fit(
        np.concatenate(train),
        np.repeat([0, 1], 400),
        np.stack(val, axis=1).reshape(-1, width),
        of_video,
    )
    assert isinstance(found, Guard)
    return found


def test_shrinking_is_ledoits_and_wolfs():
    rng = np.random.default_rng(1)
    for count in (15, 300):
        off = features(rng, count, 0)
        expected = LedoitWolf(assume_centered=True).fit(off).covariance_
        np.testing.assert_allclose(guard.shrunk_covariance(off), expected, rtol=1e-6)
    # Without any spread a distance is still a number.
    assert np.linalg.eigvalsh(guard.shrunk_covariance(np.zeros((5, 3))))[0] > 0


@pytest.mark.parametrize("width", [WIDTH, 500])
def test_a_distance_is_mahalanobis_from_the_nearer_class(width, monkeypatch):
    if width > WIDTH:  # not all axes are kept, and those that are not are all alike
        monkeypatch.setattr(
            guard,
            "shrunk_covariance",
            lambda off: np.diag(np.geomspace(1, 1e-3, width).clip(0.1)),
        )
    found = fitted(width)
    assert len(found.axes) == min(width, guard.MAX_NUMBERS // width)
    rng = np.random.default_rng(0)
    train = [features(rng, 400, label, width) for label in (0, 1)]
    off = np.concatenate([part - part.mean(axis=0) for part in train])
    inverse = np.linalg.inv(guard.shrunk_covariance(off))
    asked = features(rng, 7, 1, width) * 3
    apart = np.stack([asked - part.mean(axis=0) for part in train])
    squares = np.einsum("cbi,ij,cbj->cb", apart, inverse, apart).min(axis=0)
    np.testing.assert_allclose(
        found.distances(asked), np.sqrt(squares / width), rtol=1e-4
    )


def test_what_is_no_number_is_far():
    found = fitted()
    asked = np.full((3, WIDTH), np.nan)
    asked[1], asked[2] = np.inf, 1e38
    assert (found.distances(asked) == guard.FAR).all()
    assert found.threshold < guard.FAR


def test_a_threshold_keeps_its_false_alarms():
    """Of 150 videos by their ranks; of 30 by the tail of a lognormal distribution."""
    rng = np.random.default_rng(2)
    for count, most in ((150, 0.012), (30, 0.012)):
        logs = rng.normal(size=(4000, count + 20)) * 0.3
        limits = [guard.pick_threshold(np.exp(row[:count]), count) for row in logs]
        alarms = np.mean(np.exp(logs[:, count:]) > np.array(limits)[:, None])
        assert 0.003 < alarms < most
    few = rng.uniform(1, 2, 30)
    assert guard.pick_threshold([*few, 9.0], 31) >= 9.0


def test_videos_of_one_person_are_no_independent_ones():
    """Of twelve people, six videos each: the alarms on six videos of somebody else."""
    rng = np.random.default_rng(3)
    of_person = rng.normal(size=(4000, 13, 1)) * 0.08
    logs = of_person + rng.normal(size=(4000, 13, 6)) * 0.05
    known, other = logs[:, :12].reshape(4000, -1), logs[:, 12]

    def alarms(people: int) -> float:
        limits = [guard.pick_threshold(np.exp(row), people) for row in known]
        return float(np.mean(np.exp(other) > np.array(limits)[:, None]))

    assert alarms(72) > 0.014
    assert 0.003 < alarms(12) < 0.012


def test_a_videos_distance_is_the_mean_of_its_clips():
    means = guard.video_means(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9]))
    assert means.tolist() == [2.0, 5.0]


def test_too_little_gives_a_reason():
    rng = np.random.default_rng(0)
    train, labels = features(rng, 100, 0), np.zeros(100)
    val, of_video = features(rng, 38, 0), np.repeat(np.arange(19), 2)
    said = guard.fit(train, labels, val, of_video)
    assert said == (
        "val has 19 videos and the training 100 clips, but 1% false alarms need 20 "
        "and 50"
    )
    said = guard.fit(train[:49], labels[:49], val, np.arange(38))
    assert "the training 49 clips" in str(said)
    val[3] = np.nan
    assert "not numbers" in str(guard.fit(train, labels, val, np.arange(38)))


def test_a_file_gives_the_guard_back(tmp_path):
    found = fitted()
    path = tmp_path / "guard.safetensors"
    path.write_bytes(guard.to_bytes(found))
    again = guard.read(path, found.facts, WIDTH)
    asked = features(np.random.default_rng(3), 9, 1)
    np.testing.assert_array_equal(again.distances(asked), found.distances(asked))
    assert again.facts == found.facts and path.stat().st_size < 3000


def test_a_guard_is_small_whatever_the_network():
    width = 2048  # of a ResNet-50
    kept = guard.MAX_NUMBERS // width
    arrays = (np.zeros(n, np.float32) for n in ((2, width), (kept, width), kept + 1))
    assert len(guard.to_bytes(Guard(guard.GuardFacts(), *arrays))) < 1 << 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "does not fit the model's 13 features"),  # asked for another width
        ({"means": np.zeros((3, WIDTH), np.float32)}, "does not fit"),
        ({"means": np.full((2, WIDTH), np.nan, np.float32)}, "not finite"),
        ({"means": np.zeros((2, WIDTH))}, "float32"),
        ({"variances": np.zeros(WIDTH + 1, np.float32)}, "above 0"),
        ({"variances": np.ones(WIDTH, np.float32)}, "do not fit"),
        ({"more": np.ones(1, np.float32)}, "it holds"),
        (b"\x80\x04cposix\nsystem\n", "guard of this model"),
        ("link", "link out of its folder"),
        ("gone", "cannot be read"),
        ("fifo", "is not a regular file; copy the whole folder again"),
        ("digest", "its digest is another"),
    ],
    ids=str,
)
def test_a_file_of_another_is_refused(tmp_path, change, said):
    """P3 A guard that is damaged, of another model or no file: refused, exit 4."""
    found = fitted()
    path = tmp_path / "model" / "guard.safetensors"
    path.parent.mkdir()
    if isinstance(change, dict):
        arrays: dict[str, np.ndarray] = dict(zip(guard.NAMES, found[1:], strict=True))
        arrays |= change
        content = save(arrays)
    else:
        content = change if isinstance(change, bytes) else guard.to_bytes(found)
    path.write_bytes(content)
    digest = guard.hashlib.sha256(content).hexdigest()
    if change == "link":
        path.rename(tmp_path / "other")
        path.symlink_to(tmp_path / "other")
    elif change in ("gone", "fifo"):
        os.unlink(path)
    if change == "fifo":  # where it is opened, that waits for ever
        os.mkfifo(path)
    if change == "digest":
        digest = "0" * 64
    facts = replace(found.facts, sha256=digest)
    with pytest.raises(CheckpointError, match=said) as caught:
        guard.read(path, facts, WIDTH if change != {} else WIDTH + 1)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"threshold": -1.0}', "guard.reason is missing"),
        ("[" * 99, "nested"),
        ("{", "Expecting"),
        ("3", "must be an object"),
    ],
)
def test_damaged_facts_are_named(tmp_path, text, said):
    path = tmp_path / "3-ab.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=said) as caught:
        guard.read_facts(path)
    assert "remove it and run the training's command again" in str(caught.value)
