"""The order of clips is a pure function of (seed, step)."""

import collections
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import simplejpeg
from tensorflow_datasets.proto import tf_example_pb2

from fakedetect_jax.data import dataset, sets
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.data.order import (
    ClipRef,
    TrainOrder,
    covering_clips,
    held_in,
    without_unseen,
)
from fakedetect_jax.data.reader import (
    FrameReader,
    MemoryBudget,
    Split,
    need_both_classes,
    read_videos,
)
from tests.made_records import stored_video
from tests.made_videos import write_video
from tests.patience import LIMIT
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.stored import StoredVideo
from tfds_ffpp.terminal.lines import Terminal

METHODS = ("Deepfakes", "Face2Face", "FaceSwap")


def make_videos(identities: int = 6, num_valid: int = 12) -> list[StoredVideo]:
    videos = []
    for number in range(identities):
        for method in ("youtube", *METHODS):
            target, source = f"{number:03d}", f"{number ^ 1:03d}"
            fake = method != "youtube"
            videos.append(
                stored_video(
                    dataset="ffpp",
                    method=method,
                    video_id=f"{target}_{source}" if fake else target,
                    target=target,
                    source=source if fake else "",
                    label=int(fake),
                    original=f"youtube/{target}" if fake else "",
                    num_valid=num_valid,
                    frame_index=list(range(num_valid)),
                    timestamp=[0.04 * i for i in range(max(num_valid, 1))],
                    face_seen=[1] * max(num_valid, 1),
                    face_points=np.full((max(num_valid, 1), 5, 2), 0.5).tolist(),
                )
            )
    return videos


def make_order(
    videos,
    sampling="natural",
    seed=3,
    clip_frames=4,
    frame_stride=1,
    max_frame_stride=0,
    self_blend=0.0,
):
    return TrainOrder(
        videos,
        seed=seed,
        clip_frames=clip_frames,
        frame_stride=frame_stride,
        max_frame_stride=max_frame_stride,
        sampling=sampling,
        self_blend=self_blend,
    )


def test_every_video_once_per_round_and_each_round_anew():
    videos = make_videos()
    order = make_order(videos)
    n = len(videos)
    rounds = [[order[r * n + i].video for i in range(n)] for r in range(3)]
    assert all(sorted(r) == list(range(n)) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def places(order: TrainOrder, number: int, size: int) -> np.ndarray:
    """The place of each video in a round of natural sampling."""
    return np.argsort([order[number * size + i].video for i in range(size)])


def correlations(rows) -> np.ndarray:
    """|rank correlation| of each two of some permutations."""
    matrix = np.corrcoef(np.stack(rows))
    return np.abs(matrix[np.triu_indices(len(rows), 1)])


# With 3200 videos independent shuffles have a correlation of 0.018 (one standard
# deviation), and two rounds share 31 * 3200 / 2 * 31 / 3199 = 481 pairs of batch-mates.
MANY, BATCH = 3200, 32


@pytest.fixture(scope="module")
def many_rounds():
    order = make_order(make_videos(identities=MANY // 4))
    return [places(order, number, MANY) for number in range(20)]


def test_neighbouring_rounds_are_shuffled_independently(many_rounds):
    assert correlations(many_rounds).max() < 0.1


def test_batch_mates_meet_again_as_often_as_by_chance(many_rounds):
    shared = []
    for before, after in itertools.combinations(many_rounds, 2):
        both = collections.Counter(
            zip((before // BATCH).tolist(), (after // BATCH).tolist(), strict=True)
        )
        shared.append(sum(count * (count - 1) // 2 for count in both.values()))
    by_chance = MANY * (BATCH - 1) / 2 * (BATCH - 1) / (MANY - 1)
    assert abs(np.mean(shared) / by_chance - 1) < 0.02  # 0.003 is one deviation
    assert max(shared) < by_chance + 6 * by_chance**0.5


def test_strata_and_seeds_are_shuffled_independently():
    videos = make_videos(identities=1600)  # 1600 reals, 1600 fakes of each method
    rows = []
    for seed in (3, 4):
        order = make_order(videos, "method", seed=seed)
        for stratum in range(6):
            deck = [order[6 * i + stratum].video for i in range(1600)]
            rows.append(np.argsort(deck))
    assert correlations(rows).max() < 0.15  # one standard deviation is 0.025


def test_starts_of_neighbouring_clips_are_drawn_independently():
    order = make_order(make_videos(num_valid=1000))
    starts = np.array([order[p].start for p in range(4000)])
    for distance in (1, 2, 4, 24):
        rho = np.corrcoef(starts[:-distance], starts[distance:])[0, 1]
        assert abs(rho) < 0.08, distance  # five standard deviations


@pytest.mark.parametrize("sampling", ["class", "pair"])
def test_strides_and_blends_of_neighbouring_clips_are_drawn_independently(sampling):
    order = make_order(
        make_videos(num_valid=40), sampling, max_frame_stride=9, self_blend=0.5
    )
    fakes = [order[2 * turn + 1] for turn in range(4000)]
    strides = np.array([clip.stride for clip in fakes])
    blends = np.array([clip.blend for clip in fakes])
    assert set(strides) == set(range(1, 10))
    assert abs(np.corrcoef(strides, blends)[0, 1]) < 0.08  # five standard deviations
    # Fakes and reals of one deck come again after 18 and 6 turns.
    for drawn, distance in itertools.product((strides, blends), (1, 2, 6, 18)):
        rho = np.corrcoef(drawn[:-distance], drawn[distance:])[0, 1]
        assert abs(rho) < 0.08, distance


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_best_config_draws_each_fake_beside_its_original(load_config, share):
    """Of 10,000 draws with its own fields, and with blends as somebody may add them."""
    config = load_config("ffpp_best").copy_and_resolve_references()
    assert config.loss.self_blend == 0
    config.loss.self_blend = share
    videos = make_videos(identities=60, num_valid=config.dataset.num_frames)
    order = sets.own_order(config, videos, 0)
    drawn = [order[position] for position in range(10_000)]
    blends = sum(clip.blend for clip in drawn)
    labels = [clip.blend or videos[clip.video].label for clip in drawn]
    assert labels == [0, 1] * 5000
    assert abs(blends - share * 5000) <= 180 * (share > 0)  # five standard deviations
    assert not any(videos[clip.video].label for clip in drawn if clip.blend)
    for real, fake in zip(drawn[::2], drawn[1::2], strict=True):
        of, own = videos[fake.video], videos[real.video].key
        assert own == (of.key if fake.blend else of.original_key)


def test_any_position_is_had_without_the_ones_before():
    videos = make_videos()
    forward = [make_order(videos)[p] for p in range(200)]
    fresh = make_order(videos)
    backward = [fresh[p] for p in reversed(range(200))]
    assert forward == backward[::-1]
    assert forward != [make_order(videos, seed=4)[p] for p in range(200)]


def test_class_sampling_gives_as_many_real_as_fake_clips():
    videos = make_videos()
    order = make_order(videos, "class")
    labels = [videos[order[p].video].label for p in range(400)]
    assert labels == [0, 1] * 200


def test_method_sampling_gives_each_method_the_same_share():
    videos = make_videos()
    order = make_order(videos, "method")
    counts = collections.Counter(videos[order[p].video].method for p in range(600))
    assert counts == {"youtube": 300, **dict.fromkeys(METHODS, 100)}


def test_pair_sampling_puts_a_fake_beside_its_original_at_the_same_frames():
    videos = make_videos()
    order = make_order(videos, "pair")
    seen = set()
    for turn in range(len(METHODS) * 6):
        real, fake = order[2 * turn], order[2 * turn + 1]
        assert videos[real.video].label == 0
        assert videos[fake.video].label == 1
        assert videos[real.video].target == videos[fake.video].target
        assert real.start == fake.start
        seen.add(fake.video)
    assert len(seen) == len(METHODS) * 6


@pytest.mark.parametrize("max_frame_stride", [0, 4])
@pytest.mark.parametrize("shorter", [0.5, 0.8, 1.0, 1.25])
def test_a_pair_is_of_one_time_of_the_source(shorter, max_frame_stride):
    """Frames are stored evenly, so a shorter fake's lie nearer to each other."""

    def lengthened(video: StoredVideo) -> StoredVideo:
        source_frames = 600 * (shorter if video.label else 1.0)
        index = np.linspace(0, source_frames - 1, 30).round().astype(int)
        return replace(video, frame_index=index.tolist())

    videos = [lengthened(v) for v in make_videos(num_valid=30)]
    order = make_order(videos, "pair", clip_frames=4, max_frame_stride=max_frame_stride)

    def times(clip):
        assert clip.start + 3 * clip.stride < 30
        return np.array(videos[clip.video].frame_index)[
            clip.start + clip.stride * np.arange(4)
        ]

    off = [times(order[2 * t]) - times(order[2 * t + 1]) for t in range(300)]
    # Stored frames of the original are 21 source frames apart. At the same place in the
    # store, clips would be up to 280 frames of the source apart.
    middle = np.abs(np.mean(off, axis=1))
    assert middle.max() < 21
    assert middle.mean() < 8
    if shorter == 1.0:
        assert not np.any(off)


def test_a_pair_shows_a_run_of_stored_frames_at_exactly_one_time():
    """Frames two apart from the middle of the video; the fake's run starts later."""
    videos = [
        replace(v, frame_index=[41 + 6 * v.label + 2 * i for i in range(20)])
        for v in make_videos(num_valid=20)
    ]
    order = make_order(videos, "pair", frame_stride=3)
    for turn in range(100):
        real, fake = order[2 * turn], order[2 * turn + 1]
        assert (real.start, real.stride) == (fake.start + 3, 3)


def two_sets() -> list[StoredVideo]:
    """Videos of two sets that have the same names, the first set's reals first."""
    videos = make_videos()
    return [*videos, *(replace(video, dataset="other") for video in videos)]


def test_a_fake_stands_beside_the_original_of_its_own_set():
    videos = two_sets()
    order = make_order(videos, "pair")
    for turn in range(len(videos)):
        real, fake = (videos[order[2 * turn + i].video] for i in range(2))
        assert real.key == fake.original_key


def test_a_real_that_is_not_shown_takes_the_fakes_of_its_own_set_along():
    videos = [
        replace(v, face_seen=[0] * 12) if v.key == "other/youtube/000" else v
        for v in two_sets()
    ]
    options = {"clip_frames": 4, "stride": 1, "min_coverage": 0.5}
    kept = without_unseen(videos, **options)
    gone = [v.key for v, now in zip(videos, kept, strict=True) if not now.num_valid]
    assert gone == [
        "other/youtube/000",
        *(f"other/{method}/000_001" for method in METHODS),
    ]


def test_a_fake_without_a_usable_original_stands_beside_another_real_video(load_config):
    videos = [
        replace(v, num_valid=0) if v.video_id == "004" else v for v in make_videos()
    ]
    videos = [replace(v, original="") if v.video_id == "002_003" else v for v in videos]
    keys = {v.key: number for number, v in enumerate(videos)}
    order, beside, drawn = make_order(videos, "pair"), {}, 0
    for turn in range(400):
        real, fake = (videos[order[2 * turn + i].video] for i in range(2))
        assert (real.label, fake.label) == (0, 1) and real.num_valid
        if fake.video_id in ("004_005", "002_003"):
            beside.setdefault(fake.video_id, set()).add(real.key)
            drawn += 1
        else:
            assert real.key == fake.original_key
    usable = {key for key in keys if videos[keys[key]].label == 0} - {
        "ffpp/youtube/004"
    }
    assert beside == {"004_005": usable, "002_003": usable}
    fakes = sum(v.label for v in videos)
    assert drawn == pytest.approx(400 * 2 * len(METHODS) / fakes, abs=20)
    config = load_config("ffpp").copy_and_resolve_references()
    config.data.update(clip_frames=4, frame_stride=1)
    data: Any = SimpleNamespace(train=SimpleNamespace(videos=videos))
    assert sets.count_unpaired(config, data) == 2 * len(METHODS)


def test_pair_sampling_refuses_fakes_of_which_no_original_is_there():
    videos = [replace(v, original="") if v.label else v for v in make_videos()]
    with pytest.raises(DataError, match="of no training fake is the original there"):
        make_order(videos, "pair")


def label_of(videos, clip: ClipRef) -> int:
    return 1 if clip.blend else videos[clip.video].label


@pytest.mark.parametrize(
    ("sampling", "share"),
    [("natural", 0.75), ("class", 0.5), ("method", 0.5), ("pair", 0.5)],
)
@pytest.mark.parametrize("self_blend", [0.0, 0.3, 1.0])
def test_self_blended_clips_leave_the_share_of_fakes(sampling, share, self_blend):
    videos = make_videos()
    order = make_order(videos, sampling, self_blend=self_blend)
    clips = [order[p] for p in range(10_000)]
    assert np.mean([label_of(videos, c) for c in clips]) == pytest.approx(share, 1e-3)
    blended = np.mean([c.blend for c in clips])
    assert abs(blended - share * self_blend) < 0.02  # four standard deviations
    assert not any(videos[c.video].label for c in clips if c.blend)
    # All reals are blended alike, and all methods replaced alike.
    counts = collections.Counter(c.video for c in clips if c.blend)
    if self_blend:
        assert len(counts) == 6
        assert min(counts.values()) > 0.75 * max(counts.values())
    methods = collections.Counter(
        videos[c.video].method for c in clips if videos[c.video].label
    )
    if self_blend < 1:
        assert set(methods) == set(METHODS)
        assert min(methods.values()) > 0.9 * max(methods.values())
    else:
        assert not methods


def test_a_blend_stands_beside_the_same_clip_of_its_real_video():
    order = make_order(make_videos(), "pair", self_blend=0.5)
    pairs = [(order[2 * t], order[2 * t + 1]) for t in range(200)]
    blends = [(real, fake) for real, fake in pairs if fake.blend]
    assert 60 < len(blends) < 140
    assert all(real == fake._replace(blend=False) for real, fake in blends)


@pytest.mark.parametrize("sampling", ["class", "pair"])
def test_reals_alone_are_enough_where_all_fakes_are_blends(sampling):
    reals = [v for v in make_videos() if not v.label]
    order = make_order(reals, sampling, self_blend=1.0)
    clips = [order[p] for p in range(12)]
    assert [c.blend for c in clips] == [False, True] * 6
    assert {c.video for c in clips[1::2]} == set(range(6))


def test_a_mix_that_cannot_be_had_says_what_to_set():
    reals = [v for v in make_videos() if not v.label]
    fakes = [v for v in make_videos() if v.label]
    with pytest.raises(DataError, match="6 real and 0 fake; set it to 1"):
        make_order(reals, "class", self_blend=0.5)
    with pytest.raises(DataError, match="0 real and 18 fake; set it to 0"):
        make_order(fakes, "natural", self_blend=0.5)
    for sampling in ("natural", "method"):
        with pytest.raises(DataError, match=r"set data\.sampling=class"):
            make_order(reals, sampling, self_blend=1.0)


@pytest.mark.parametrize("sampling", ["natural", "class", "method"])
def test_a_video_without_a_face_is_never_drawn(sampling):
    videos = make_videos()
    faceless = [0, 5]
    for number in faceless:
        videos[number] = replace(videos[number], num_valid=0)
    order = make_order(videos, sampling)
    drawn = {order[p].video for p in range(400)}
    assert drawn == set(range(len(videos))) - set(faceless)


def test_balanced_sampling_without_reals_says_so():
    fakes = [v for v in make_videos() if v.label]
    with pytest.raises(DataError, match="0 real and 18 fake"):
        make_order(fakes, "class")


def test_starts_are_spread_over_all_that_fit():
    videos = make_videos(num_valid=12)
    order = make_order(videos, clip_frames=4, frame_stride=2)
    starts = {order[p].start for p in range(500)}
    assert starts == set(range(12 - 7 + 1))


@pytest.mark.parametrize("sampling", ["natural", "pair"])
@pytest.mark.parametrize(("num_valid", "clip_frames"), [(12, 4), (10, 4), (4, 2)])
def test_strides_are_drawn_from_those_that_fit(sampling, num_valid, clip_frames):
    videos = make_videos(num_valid=num_valid)
    order = make_order(videos, sampling, clip_frames=clip_frames, max_frame_stride=9)
    clips = [order[p] for p in range(800)]
    counts = collections.Counter(clip.stride for clip in clips)
    # Frames 3 apart just fit; in the first case they span 10 of the 12.
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 800 / 3 * 0.8
    last = max(clip.start + (clip_frames - 1) * clip.stride for clip in clips)
    assert last == num_valid - 1
    again = make_order(videos, sampling, clip_frames=clip_frames, max_frame_stride=9)
    assert clips == [again[p] for p in range(800)]
    if sampling == "pair":
        assert all(a[1:] == b[1:] for a, b in zip(clips[::2], clips[1::2], strict=True))


def test_videos_too_short_for_any_larger_stride_keep_the_smallest():
    videos = make_videos(num_valid=3)
    order = make_order(videos, clip_frames=4, frame_stride=2, max_frame_stride=5)
    assert {order[p].stride for p in range(100)} == {2}


# Clips that show the face ----------------------------------------------------------


def seldom_seen() -> list[StoredVideo]:
    """The first person's face is seen in the last five of twelve frames, the second's
    in one; their fakes as them."""
    seen = {"000": [0] * 7 + [1] * 5, "001": [0] * 11 + [1]}
    return [
        replace(v, face_seen=seen.get(v.target, v.face_seen)) for v in make_videos()
    ]


@pytest.mark.parametrize("sampling", ["natural", "class", "method", "pair"])
def test_clips_without_the_face_are_not_drawn(sampling):
    videos = seldom_seen()
    order = TrainOrder(
        videos,
        seed=3,
        clip_frames=4,
        frame_stride=1,
        max_frame_stride=3,
        sampling=sampling,
        min_coverage=0.5,
    )
    clips = [order[p] for p in range(2000)]
    assert {videos[c.video].target for c in clips} == {
        v.target for v in videos if v.target != "001"
    }
    for clip in clips:
        frames = clip.start + clip.stride * np.arange(4)
        seen = np.asarray(videos[clip.video].face_seen)[frames]
        assert seen.mean() >= 0.5
    first = [c for c in clips if videos[c.video].target == "000"]
    assert {c.start for c in first if c.stride == 1} == {5, 6, 7, 8}


def test_without_a_bound_all_clips_are_drawn():
    order = make_order(seldom_seen())
    assert len({order[p].start for p in range(500)}) == 9


def test_evaluation_takes_clips_that_show_the_face():
    videos = seldom_seen()[:8:4]
    clips = covering_clips(
        videos, clip_frames=4, frame_stride=1, per_video=3, min_coverage=0.5
    )
    assert [(c.video, c.start) for c in clips] == [(0, 5), (0, 7), (0, 8)]


def test_a_split_that_shows_no_face_says_which_field_to_lower():
    videos = [replace(v, face_seen=[0] * 12) for v in make_videos()]
    with pytest.raises(DataError, match="lower config.data.min_coverage"):
        TrainOrder(videos, seed=0, clip_frames=4, frame_stride=1, min_coverage=0.1)


def test_methods_held_out_are_named_and_leave_the_rest():
    videos = make_videos()
    kept = held_in(videos, ["Deepfakes"])
    assert {videos[i].method for i in kept} == {"youtube", *METHODS} - {"Deepfakes"}
    assert len(kept) == len(videos) - sum(v.method == "Deepfakes" for v in videos)
    with pytest.raises(DataError, match="names Deepfake, but the dataset's fakes are"):
        held_in(videos, ["Deepfake"])


def test_covering_clips_reach_first_and_last_frame_without_repeats():
    clips = covering_clips(
        make_videos(num_valid=12)[:1], clip_frames=4, frame_stride=1, per_video=3
    )
    assert [c.start for c in clips] == [0, 4, 8]
    short = covering_clips(
        make_videos(num_valid=3)[:1], clip_frames=4, frame_stride=1, per_video=3
    )
    assert [c.start for c in short] == [0]
    none = covering_clips(
        make_videos(num_valid=0), clip_frames=4, frame_stride=1, per_video=3
    )
    assert none == []


class CountingReader:
    """Writes which video and start a clip came from into its pixels."""

    def read(self, clip, num_valid, out):
        out[:] = clip.video
        out[0, 0, 0, 0] = clip.start
        return min(len(out), num_valid)


def batches(load_config, *, rows, start=0, batch_size=8, steps=5, workers=0):
    config = load_config("demo")
    config.data.num_workers = workers
    videos = make_videos()
    feed = train_feed(
        make_order(videos),
        CountingReader(),  # pyright: ignore[reportArgumentType]
        videos,
        config.data,
        shape=(batch_size, 4, 16),
        rows=rows,
        start_step=start,
        num_steps=steps,
    )
    try:
        return list(feed)
    finally:
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]


def same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_feed_goes_on_where_the_run_stopped(load_config):
    whole = batches(load_config, rows=slice(0, 8))
    rest = batches(load_config, rows=slice(0, 8), start=3)
    assert len(whole) == 5 and len(rest) == 2
    for left, right in zip(whole[3:], rest, strict=True):
        same(left, right)


def test_the_rows_of_all_processes_are_the_global_batch(load_config):
    whole = batches(load_config, rows=slice(0, 8))
    parts = [
        batches(load_config, rows=slice(first, first + 2)) for first in (0, 2, 4, 6)
    ]
    for step, batch in enumerate(whole):
        rows = [part[step] for part in parts]
        same(batch, jax.tree.map(lambda *some: np.concatenate(some), *rows))


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_give_the_same_batches(load_config, workers):
    alone = batches(load_config, rows=slice(0, 8))
    shared = batches(load_config, rows=slice(0, 8), workers=workers)
    for left, right in zip(alone, shared, strict=True):
        same(left, right)


# Pixels --------------------------------------------------------------------------


def stored_frames(count: int, side: int = 16) -> list[bytes]:
    """JPEG pictures of one grey each: 20, 40, 60, …"""
    pictures = [np.full((side, side, 3), 20 * (i + 1), np.uint8) for i in range(count)]
    return [simplejpeg.encode_jpeg(p, quality=95) for p in pictures]


class Records:
    """Records as the builder stores them; counts how often each is read."""

    def __init__(self, videos: list[list[bytes]]):
        self.reads = collections.Counter()
        self._records = []
        for frames in videos:
            example = tf_example_pb2.Example()  # pyright: ignore
            example.features.feature["frames"].bytes_list.value.extend(frames)
            self._records.append(example.SerializeToString())

    def as_data_source(self, split, deserialize_method):
        return self

    def __getitem__(self, number: int) -> bytes:
        self.reads[number] += 1
        return self._records[number]


def greys(reader: FrameReader, clip: ClipRef, num_valid: int):
    out = np.zeros((4, 16, 16, 3), np.uint8)
    length = reader.read(clip, num_valid, out)
    return length, [round(float(frame.mean()) / 20) for frame in out]


@pytest.mark.parametrize("memory", [None, MemoryBudget(1 << 20)])
def test_a_short_clip_repeats_its_last_valid_frame(memory):
    records = Records([stored_frames(8)])
    reader = FrameReader(records, "train", image_size=16, memory=memory)
    assert greys(reader, ClipRef(0, 3, 1), 8) == (4, [4, 5, 6, 7])
    assert greys(reader, ClipRef(0, 3, 1), 5) == (2, [4, 5, 5, 5])
    assert greys(reader, ClipRef(0, 1, 3), 8) == (3, [2, 5, 8, 8])


def test_held_videos_stay_within_the_budget():
    """Videos of 64 frames take 48 KiB; 21 of them fit in 1 MiB."""
    count = 30
    records = Records([stored_frames(1) * 64] * count)
    memory = MemoryBudget(1 << 20)
    reader = FrameReader(records, "train", image_size=16, memory=memory)
    for _ in range(2):
        for video in range(count):
            assert greys(reader, ClipRef(video, 0, 1), 64) == (4, [1] * 4)
    once = sum(n == 1 for n in records.reads.values())
    assert once == (1 << 20) // (64 * 16 * 16 * 3) == 21
    # Beyond it every read goes to the record, once.
    assert set(records.reads.values()) == {1, 2}


def test_a_video_that_two_threads_decode_counts_once(monkeypatch):
    records, memory = Records([stored_frames(8)]), MemoryBudget(20_000)
    reader = FrameReader(records, "train", image_size=16, memory=memory)
    decode, both = reader._decode, threading.Barrier(2, timeout=LIMIT)

    def decode_together(*arguments):
        both.wait()
        decode(*arguments)

    monkeypatch.setattr(reader, "_decode", decode_together)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: greys(reader, ClipRef(0, 3, 1), 8), "ab"))
    assert found == [(4, [4, 5, 6, 7])] * 2
    assert memory.left == 20_000 - 8 * 16 * 16 * 3


def test_a_lack_of_memory_is_no_damage(monkeypatch):
    records = Records([stored_frames(1)])
    reader = FrameReader(records, "train", image_size=16)
    for error, raised in ((MemoryError(), MemoryError), (OSError(), DataError)):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(Records, "__getitem__", fail)
        with pytest.raises(raised):
            greys(reader, ClipRef(0, 0, 1), 1)


def test_what_others_take_is_left_to_them(monkeypatch):
    """Of 100 bytes that were free, 40 stay so, however many the budget names."""
    free = 100
    monkeypatch.setattr("fakedetect_jax.data.reader.free_memory", lambda: free)
    memory = MemoryBudget(80, floor=40)
    assert memory.take(30)
    free = 60  # another process took ten
    assert not memory.take(30)
    assert memory.take(20) and memory.left == 30
    free = None  # it can no longer be asked
    assert not memory.take(1)


@pytest.mark.parametrize(
    ("cache_mib", "num_workers", "free", "found"),
    [
        (3, 0, 0, (3 << 20, 0)),
        (0, 0, 1 << 40, (0, 0)),
        (-1, 0, 2 * 23040, (23040, 11520)),  # half of what is free is just enough
        (-1, 0, 2 * 23040 - 1, (0, 0)),
        (-1, 1, 2 * 23040, (23040, 11520)),
        (-1, 2, 2 * 23040, (0, 0)),  # each worker holds its own
        (-1, 0, None, (0, 0)),
    ],
)
def test_all_videos_are_held_where_they_fit(
    load_config, monkeypatch, cache_mib, num_workers, free, found
):
    """Two videos of ten and twenty frames of 16 pixels."""
    monkeypatch.setattr(sets, "free_memory", lambda: free)
    config = load_config("ffpp")
    config.dataset.image_size = 16
    config.data.update(cache_mib=cache_mib, num_workers=num_workers)
    splits = [
        Split(
            name,
            [stored_video(frame_index=list(range(count)))],
            FrameReader(Records([]), name, image_size=16),
        )
        for name, count in (("train", 10), ("val", 20))
    ]
    assert sets.bytes_to_hold(config, splits) == found


def test_a_set_that_is_all_test_says_how_it_gets_a_train_split(tmp_path):
    (tmp_path / "videos-test.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no split train; it has test: .*all test; "):
        read_videos(tmp_path, "train")
    with pytest.raises(DataError, match="column split in its CSV or .*=disjoint"):
        read_videos(tmp_path, "val")
    (tmp_path / "videos-train.jsonl").write_text("")
    with pytest.raises(DataError, match="no split tset; it has test, train: name one"):
        read_videos(tmp_path, "tset")


@pytest.mark.parametrize(("labels", "lacking"), [([0, 0], "fake"), ([1], "real")])
def test_one_class_is_not_enough_unless_asked_for(labels, lacking):
    videos = [stored_video(label=label, num_valid=3) for label in labels]
    # A video without a face teaches nothing of its class.
    videos.append(stored_video(label=1 - labels[0], num_valid=0))
    with pytest.raises(DataError, match=f"the val split .* but no {lacking} one"):
        need_both_classes(videos, "val", one_is_enough=False)
    need_both_classes(videos, "val", one_is_enough=True)
    videos[-1] = replace(videos[-1], num_valid=1)
    need_both_classes(videos, "val", one_is_enough=False)


def test_a_line_that_is_no_video_names_itself(tmp_path):
    (tmp_path / "videos-val.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(DataError, match="videos-val.jsonl: line 1 is not what"):
        read_videos(tmp_path, "val")


def test_a_build_that_would_have_no_train_split_is_not_begun(tmp_path, load_config):
    root = tmp_path / "mine"
    for i in range(2):
        write_video(root / f"{i}.mp4", 6, seed=i)
    (root / "videos.csv").write_text("path,label\n0.mp4,0\n1.mp4,1\n")
    config = load_config("ffpp").copy_and_resolve_references()
    with config.unlocked():
        config.dataset.update(name="mine", face_finder="none", image_size=32)
        config.data.update(data_dir=str(tmp_path / "d"), manual_dir=str(root))
    terminal = Terminal(quiet=True)
    with pytest.raises(DataError, match="has no split train; it has test"):
        dataset.prepare(config, terminal, splits=("train", "val"))
    assert not (tmp_path / "d").exists()
    dataset.prepare(config, terminal)  # for an evaluation all test is what is wanted
    dataset.prepare(config, terminal, splits=("train",))  # it is there: the run says it
