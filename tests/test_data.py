"""The order of clips is a pure function of (seed, step)."""

import collections

import numpy as np
import pytest

from fakedetect_jax import data
from tfds_ffpp.errors import DataError

METHODS = ("Deepfakes", "Face2Face", "FaceSwap")


def make_videos(identities: int = 6, num_valid: int = 12) -> list[data.Video]:
    videos = []
    for number in range(identities):
        for method in ("youtube", *METHODS):
            target, source = f"{number:03d}", f"{number ^ 1:03d}"
            fake = method != "youtube"
            videos.append(
                {
                    "dataset": "ffpp",
                    "method": method,
                    "video_id": f"{target}_{source}" if fake else target,
                    "target": target,
                    "source": source if fake else "",
                    "label": int(fake),
                    "original": f"youtube/{target}" if fake else "",
                    "num_valid": num_valid,
                    "timestamp": [0.04 * i for i in range(max(num_valid, 1))],
                    "face_seen": [1] * max(num_valid, 1),
                    "face_points": np.full((max(num_valid, 1), 5, 2), 0.5).tolist(),
                }
            )
    return videos


def make_order(
    videos,
    sampling="natural",
    seed=3,
    clip_frames=4,
    frame_stride=1,
    max_frame_stride=0,
):
    return data.TrainOrder(
        videos,
        seed=seed,
        clip_frames=clip_frames,
        frame_stride=frame_stride,
        max_frame_stride=max_frame_stride,
        sampling=sampling,
    )


def test_every_video_once_per_round_and_each_round_anew():
    videos = make_videos()
    order = make_order(videos)
    n = len(videos)
    rounds = [[order[r * n + i].video for i in range(n)] for r in range(3)]
    assert all(sorted(r) == list(range(n)) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


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
    labels = [videos[order[p].video]["label"] for p in range(400)]
    assert labels == [0, 1] * 200


def test_method_sampling_gives_each_method_the_same_share():
    videos = make_videos()
    order = make_order(videos, "method")
    counts = collections.Counter(videos[order[p].video]["method"] for p in range(600))
    assert counts == {"youtube": 300, **dict.fromkeys(METHODS, 100)}


def test_pair_sampling_puts_a_fake_beside_its_original_at_the_same_frames():
    videos = make_videos()
    order = make_order(videos, "pair")
    seen = set()
    for turn in range(len(METHODS) * 6):
        real, fake = order[2 * turn], order[2 * turn + 1]
        assert videos[real.video]["label"] == 0
        assert videos[fake.video]["label"] == 1
        assert videos[real.video]["target"] == videos[fake.video]["target"]
        assert real.start == fake.start
        seen.add(fake.video)
    assert len(seen) == len(METHODS) * 6


def test_pair_sampling_names_a_fake_without_its_original():
    videos = [v for v in make_videos() if v["video_id"] != "004"]
    with pytest.raises(DataError, match="original youtube/004 of Deepfakes/004_005"):
        make_order(videos, "pair")


@pytest.mark.parametrize("sampling", ["natural", "class", "method"])
def test_a_video_without_a_face_is_never_drawn(sampling):
    videos = make_videos()
    faceless = [0, 5]
    for number in faceless:
        videos[number]["num_valid"] = 0
    order = make_order(videos, sampling)
    drawn = {order[p].video for p in range(400)}
    assert drawn == set(range(len(videos))) - set(faceless)


def test_balanced_sampling_without_reals_says_so():
    fakes = [v for v in make_videos() if v["label"]]
    with pytest.raises(DataError, match="0 real and 18 fake"):
        make_order(fakes, "class")


def test_starts_are_spread_over_all_that_fit():
    videos = make_videos(num_valid=12)
    order = make_order(videos, clip_frames=4, frame_stride=2)
    starts = {order[p].start for p in range(500)}
    assert starts == set(range(12 - 7 + 1))


@pytest.mark.parametrize("sampling", ["natural", "pair"])
def test_strides_are_drawn_from_those_that_fit(sampling):
    videos = make_videos(num_valid=12)
    order = make_order(videos, sampling, clip_frames=4, max_frame_stride=9)
    clips = [order[p] for p in range(800)]
    counts = collections.Counter(clip.stride for clip in clips)
    # Four frames 3 apart span 10 of the 12; 4 apart would need 13.
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 800 / 3 * 0.8
    assert max(clip.start + 3 * clip.stride for clip in clips) == 11
    again = make_order(videos, sampling, clip_frames=4, max_frame_stride=9)
    assert clips == [again[p] for p in range(800)]
    if sampling == "pair":
        assert all(a[1:] == b[1:] for a, b in zip(clips[::2], clips[1::2], strict=True))


def test_videos_too_short_for_any_larger_stride_keep_the_smallest():
    videos = make_videos(num_valid=3)
    order = make_order(videos, clip_frames=4, frame_stride=2, max_frame_stride=5)
    assert {order[p].stride for p in range(100)} == {2}


# Clips that show the face ----------------------------------------------------------


def seldom_seen() -> list[data.Video]:
    """The first person's face is seen in the last five of twelve frames, the second's
    in one; their fakes as them."""
    videos = make_videos()
    for video in videos:
        if video["target"] == "000":
            video["face_seen"] = [0] * 7 + [1] * 5
        elif video["target"] == "001":
            video["face_seen"] = [0] * 11 + [1]
    return videos


@pytest.mark.parametrize("sampling", ["natural", "class", "method", "pair"])
def test_clips_without_the_face_are_not_drawn(sampling):
    videos = seldom_seen()
    order = data.TrainOrder(
        videos,
        seed=3,
        clip_frames=4,
        frame_stride=1,
        max_frame_stride=3,
        sampling=sampling,
        min_coverage=0.5,
    )
    clips = [order[p] for p in range(2000)]
    assert {videos[c.video]["target"] for c in clips} == {
        v["target"] for v in videos if v["target"] != "001"
    }
    for clip in clips:
        frames = clip.start + clip.stride * np.arange(4)
        seen = np.asarray(videos[clip.video]["face_seen"])[frames]
        assert seen.mean() >= 0.5
    first = [c for c in clips if videos[c.video]["target"] == "000"]
    assert {c.start for c in first if c.stride == 1} == {5, 6, 7, 8}


def test_without_a_bound_all_clips_are_drawn():
    order = make_order(seldom_seen())
    assert len({order[p].start for p in range(500)}) == 9


def test_evaluation_takes_clips_that_show_the_face():
    videos = seldom_seen()[:8:4]
    clips = data.covering_clips(
        videos, clip_frames=4, frame_stride=1, per_video=3, min_coverage=0.5
    )
    assert [(c.video, c.start) for c in clips] == [(0, 5), (0, 7), (0, 8)]


def test_a_split_that_shows_no_face_says_which_field_to_lower():
    videos = make_videos()
    for video in videos:
        video["face_seen"] = [0] * 12
    with pytest.raises(DataError, match="lower config.data.min_coverage"):
        data.TrainOrder(videos, seed=0, clip_frames=4, frame_stride=1, min_coverage=0.1)


def test_methods_held_out_are_named_and_leave_the_rest():
    videos = make_videos()
    kept = data.held_in(videos, ["Deepfakes"])
    assert {videos[i]["method"] for i in kept} == {"youtube", *METHODS} - {"Deepfakes"}
    assert len(kept) == len(videos) - sum(v["method"] == "Deepfakes" for v in videos)
    with pytest.raises(DataError, match="names Deepfake, but the dataset's fakes are"):
        data.held_in(videos, ["Deepfake"])


def test_covering_clips_reach_first_and_last_frame_without_repeats():
    clips = data.covering_clips(
        make_videos(num_valid=12)[:1], clip_frames=4, frame_stride=1, per_video=3
    )
    assert [c.start for c in clips] == [0, 4, 8]
    short = data.covering_clips(
        make_videos(num_valid=3)[:1], clip_frames=4, frame_stride=1, per_video=3
    )
    assert [c.start for c in short] == [0]
    none = data.covering_clips(
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
    feed = data.train_feed(
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


def stack(parts):
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def test_a_resumed_feed_goes_on_where_the_run_stopped(load_config):
    whole = batches(load_config, rows=slice(0, 8))
    rest = batches(load_config, rows=slice(0, 8), start=3)
    assert len(whole) == 5 and len(rest) == 2
    for left, right in zip(whole[3:], rest, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_the_rows_of_all_processes_are_the_global_batch(load_config):
    whole = batches(load_config, rows=slice(0, 8))
    parts = [
        batches(load_config, rows=slice(first, first + 2)) for first in (0, 2, 4, 6)
    ]
    for step, batch in enumerate(whole):
        together = stack([part[step] for part in parts])
        for name in batch:
            np.testing.assert_array_equal(batch[name], together[name])


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_give_the_same_batches(load_config, workers):
    alone = batches(load_config, rows=slice(0, 8))
    shared = batches(load_config, rows=slice(0, 8), workers=workers)
    for left, right in zip(alone, shared, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
