"""Several datasets in one training: shares, order, reading, leaks."""

import collections
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakedetect_jax import train
from fakedetect_jax.data import leaks, sets, shares
from fakedetect_jax.data.mixture import JoinedReader, MixedOrder, joined
from fakedetect_jax.data.order import ClipRef, TrainOrder
from fakedetect_jax.data.reader import Split
from fakedetect_jax.errors import ConfigError
from tests.data.test_data import make_videos
from tests.made_records import stored_video
from tfds_ffpp.errors import DataError


def test_a_config_with_one_set_needs_no_word_of_it():
    assert shares.parse_shares("", "c23") == {"c23": 1.0}
    assert shares.parse_names("", ["c23"]) == ["c23"]


def test_shares_are_weights_of_the_whole():
    found = shares.parse_shares("c23=2, celeb=1,third", "c23")
    assert found == {"c23": 0.5, "celeb": 0.25, "third": 0.25}
    assert list(shares.parse_shares("a,b", "b")) == ["a", "b"]


def test_an_export_can_name_any_number_of_sets():
    names = [f"dataset_{number}" for number in range(60)]
    fields = {"dataset.name": names[0], "data.train": ",".join(names)}
    assert shares.sets_in_words(fields) == "dataset_0 + 59 more"
    fields["data.train"] = "dataset_7,dataset_0"
    assert shares.sets_in_words(fields) == "dataset_0 + dataset_7"


@pytest.mark.parametrize("text", ["a=0,b", "a=x,b", "a,a", "=1,b", "a=-1,b", "a=nan,b"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ConfigError, match="config.data.train is"):
        shares.parse_shares(text, "b")


def test_the_runs_own_set_must_be_among_them():
    with pytest.raises(ConfigError, match="without c23; the run's own dataset"):
        shares.parse_shares("a,b", "c23")
    with pytest.raises(ConfigError, match="config.eval.validation is"):
        shares.parse_names("a,a", ["a"])


@pytest.mark.parametrize(
    ("weights", "length"), [((1, 1), 2), ((2, 1, 1), 4), ((0.7, 0.3), 10), ((1,), 1)]
)
def test_a_cycle_is_as_short_as_the_shares_allow(weights, length):
    cycle = shares.share_cycle(weights)
    counts = np.bincount(cycle)
    np.testing.assert_allclose(counts / len(cycle), np.array(weights) / sum(weights))
    assert len(cycle) == length


def test_any_window_of_a_cycle_has_nearly_the_shares():
    weights = np.array([0.61, 0.29, 0.1])
    cycle = np.tile(shares.share_cycle(weights), 2)
    for start in range(0, 100, 7):
        got = np.bincount(cycle[start : start + 20], minlength=3)
        assert np.abs(got - 20 * weights).max() <= 2


def test_odd_shares_hold_to_a_thousandth_and_none_is_lost():
    weights = np.array([np.pi, 1.0])
    got = np.bincount(shares.share_cycle(weights)) / shares.CYCLE
    assert np.abs(got - weights / weights.sum()).max() < 1 / shares.CYCLE
    with pytest.raises(ConfigError, match="less than 1/1000"):
        shares.share_cycle([1e5, 1])


SIZES, WEIGHTS = (24, 16, 8), (2, 1, 1)


def mixed(sampling="pair", weights=WEIGHTS) -> MixedOrder:
    orders = [
        TrainOrder(
            make_videos(identities=size // 4),
            seed=3 + (number << 32),
            clip_frames=4,
            frame_stride=1,
            sampling=sampling,
        )
        for number, size in enumerate(SIZES)
    ]
    return MixedOrder(orders, SIZES, weights)


def owner(clip: ClipRef) -> int:
    return int(np.searchsorted(np.cumsum(SIZES), clip.video, side="right"))


@pytest.mark.parametrize("sampling", ["class", "method", "pair"])
def test_every_set_has_its_share_and_its_own_balance(sampling):
    videos = [video for size in SIZES for video in make_videos(size // 4)]
    order = mixed(sampling)
    clips = [order[position] for position in range(480)]
    counts = collections.Counter(map(owner, clips))
    assert counts == {0: 240, 1: 120, 2: 120}
    for number in range(3):
        own = [videos[c.video] for c in clips if owner(c) == number]
        assert sum(v.label for v in own) == len(own) / 2
        methods = collections.Counter(v.method for v in own if v.label)
        if sampling == "method":
            assert max(methods.values()) - min(methods.values()) <= 1


def test_a_fake_stays_beside_the_original_of_its_own_set():
    videos = [video for size in SIZES for video in make_videos(size // 4)]
    order = mixed("pair")
    for two in range(200):
        real, fake = order[2 * two], order[2 * two + 1]
        assert owner(real) == owner(fake)
        assert videos[fake.video].original == f"youtube/{videos[real.video].video_id}"


def test_each_set_has_each_video_once_a_round():
    order = mixed("natural")
    clips = [order[position] for position in range(4 * 24)]  # 48, 24 and 24 of each
    for number, rounds in enumerate((2, 1.5, 3)):
        seen = collections.Counter(c.video for c in clips if owner(c) == number)
        assert set(seen.values()) <= {int(rounds), int(np.ceil(rounds))}
        assert len(seen) == SIZES[number]


def test_the_order_is_a_function_of_the_position_alone():
    forward = [mixed()[position] for position in range(60)]
    order = mixed()
    assert [order[position] for position in reversed(range(60))] == forward[::-1]


def test_videos_of_one_key_are_told_apart_by_their_set():
    """As builds of two compressions have them, in what a run says of a bad batch."""
    order = mixed("natural")
    videos = [video for size in SIZES for video in make_videos(size // 4)]
    data = sets.Data(
        facts={},
        made=False,
        train=Split("train", videos, Numbered(0)),
        sizes=SIZES,
        shares=dict(zip(("c23", "c40", "raw"), WEIGHTS, strict=True)),
        val=(),
        blended_val=False,
        memory=0,
    )
    config = SimpleNamespace(batch_size=8)
    training: Any = SimpleNamespace(
        run=SimpleNamespace(config=config), order=order, data=data
    )
    said = train._name_videos(training, 3).split(", ")
    drawn = dict.fromkeys(order[position].video for position in range(16, 24))
    names = np.repeat(["c23", "c40", "raw"], SIZES)
    assert said == [f"{names[number]} {videos[number].key}" for number in drawn]
    assert len({name.split()[0] for name in said}) == 3


class Numbered:
    """A reader that writes its own number and the video's."""

    def __init__(self, number: int):
        self.number = number

    def read(self, clip, num_valid, out):
        out[:] = 10 * self.number + clip.video
        return len(out)

    def read_masks(self, clip, num_valid, out):
        out[:] = 100 + 10 * self.number + clip.video


def test_videos_are_counted_through_the_sets():
    video = stored_video(num_valid=1)
    splits = [Split("train", [video] * n, Numbered(i)) for i, n in enumerate((2, 3))]
    whole = joined(splits)
    assert len(whole.videos) == 5 and isinstance(whole.reader, JoinedReader)
    frame = np.zeros((1, 2, 2, 3), np.uint8)
    for number, wanted in enumerate((0, 1, 10, 11, 12)):
        whole.reader.read(ClipRef(number, 0, 1), 1, frame)
        assert frame.max() == frame.min() == wanted
        whole.reader.read_masks(ClipRef(number, 0, 1), 1, frame[..., 0])
        assert frame[0, 0, 0, 0] == 100 + wanted
    assert joined(splits[:1]) is splits[0]


# Leaks ---------------------------------------------------------------------------


class Pictures:
    """Videos of one smooth picture each, drawn by a number, perhaps coded badly."""

    def __init__(self, numbers, noise=0.0):
        self.numbers, self.noise = numbers, noise

    def read(self, clip, num_valid, out):
        rng = np.random.default_rng(self.numbers[clip.video])
        low = rng.normal(size=(8, 8, 3)).repeat(4, axis=0).repeat(4, axis=1)
        worse = self.noise * np.random.default_rng(1).normal(size=low.shape)
        out[:] = np.clip(128 + 40 * (low + worse), 0, 255)
        return len(out)

    def read_masks(self, clip, num_valid, out):
        raise AssertionError("no mask is asked for")


def part(dataset, split, numbers, people=None, noise=0.0) -> leaks.Part:
    videos = [
        stored_video(
            dataset=dataset,
            method="fake",
            video_id=f"v{number}",
            target=str(people[i]) if people else "",
            sha256=f"{dataset}{number}",
            num_valid=3,
            frame_index=(0, 1, 2),
            source_frames=3,
        )
        for i, number in enumerate(numbers)
    ]
    return leaks.Part(dataset, Split(split, videos, Pictures(numbers, noise)))


def test_the_same_footage_coded_anew_is_found_and_no_other():
    one, other = part("a", "train", [1, 2, 3]), part("b", "test", [4, 2, 5], noise=0.1)
    (leak,) = leaks.find_leaks([one, other], 32)
    assert leak == ("the same footage", "a train a/fake/v2", "b test b/fake/v2")
    with pytest.raises(DataError, match="1 found: the same footage: a train a/fake/v2"):
        leaks.refuse([leak], allowed=False)
    assert "was trained on" in leaks.refuse([leak], allowed=True)
    assert leaks.refuse([], allowed=False) == ""


def test_the_same_split_of_two_sets_and_two_splits_of_one_set_are_no_leak():
    same_split = [part("a", "train", [1]), part("b", "train", [1])]
    same_set = [part("a", "train", [1]), part("a", "test", [1])]
    assert leaks.find_leaks(same_split, 32) == leaks.find_leaks(same_set, 32) == []


def test_a_person_of_one_source_is_known_in_sets_that_take_from_it():
    one = part("ffpp", "train", [1, 2], people=["033", "097"])
    other = part("deeperforensics", "test", [3, 4], people=["097", "500"])
    (leak,) = leaks.find_leaks([one, other], 32)
    assert leak.shared == "person ffpp/097"
    assert leaks.count([leak]) == (1, 0)
    elsewhere = part("celebdf_v2", "test", [3], people=["097"])
    assert leaks.find_leaks([one, elsewhere], 32) == []
    third = part("df40_cdf", "val", [5], people=["097"])
    assert leaks.find_leaks([one, third], 32) == []
    (leak,) = leaks.find_leaks([elsewhere, third], 32)
    assert leak.shared == "person celebdf_v2/097"


def test_ids_of_one_source_are_one_person_in_every_set_of_faceforensics():
    one = part("ffpp", "train", [1], people=["332"])
    other = part("df40_ff", "test", [2, 3], people=["331", "333"])
    (leak,) = leaks.find_leaks([one, other], 32)
    assert leak.shared == "person ffpp/331"
    assert leak.one.endswith("v1") and leak.other.endswith("v2")
    elsewhere = [
        part("celebdf_v2", s, [n], people=[p])
        for s, n, p in (("train", 1, "331"), ("test", 2, "332"))
    ]
    elsewhere[1] = elsewhere[1]._replace(dataset="another")
    assert leaks.find_leaks(elsewhere, 32) == []


def test_made_people_are_those_of_their_own_set():
    one = part("a", "train", [1], people=["033"])
    other = part("b", "test", [2], people=["033"])
    same_source = [
        p._replace(
            split=p.split._replace(
                videos=[replace(v, dataset="ffpp") for v in p.split.videos]
            )
        )
        for p in (one, other)
    ]
    assert len(leaks.find_leaks(same_source, 32)) == 1
    made = [p._replace(made=True) for p in same_source]
    assert leaks.find_leaks(made, 32) == []


def test_a_video_without_a_face_is_like_no_other():
    dark = part("a", "train", [1]).split
    videos = [stored_video(num_valid=0, sha256="x"), *dark.videos]
    one = leaks.Part("a", dark._replace(videos=videos, reader=Pictures([0, 1])))
    other = part("b", "val", [7])
    blank = other.split._replace(videos=[stored_video(num_valid=0, sha256="y")])
    assert leaks.find_leaks([one, leaks.Part("b", blank)], 32) == []
