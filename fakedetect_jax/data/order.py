"""Which clip comes when: pure functions of (seed, position), in numpy."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.stored import StoredVideo


class ClipRef(NamedTuple):
    """Which stored frames of which video make a clip."""

    video: int
    start: int
    stride: int
    blend: bool = False  # a real video's, to become a self-blended fake


class Seen(Protocol):
    """What decides which clips a video has; a StoredVideo, or a part of any video."""

    @property
    def num_valid(self) -> int:
        """How many of its stored frames are no repeats."""
        ...

    @property
    def face_seen(self) -> Sequence[int]:
        """For each stored frame, whether the face was found in it."""
        ...


def held_in(videos: Sequence[StoredVideo], hold_out: Sequence[str]) -> list[int]:
    """The records whose method is not held out. Raises DataError for an unknown one."""
    methods = sorted({v.method for v in videos if v.label == 1})
    unknown = sorted(set(hold_out) - set(methods))
    if unknown:
        raise DataError(
            f"config.data.hold_out names {', '.join(unknown)}, but the dataset's fakes "
            f"are of {', '.join(methods) or 'no method'}"
        )
    return [i for i, video in enumerate(videos) if video.method not in hold_out]


# Which clips show the face --------------------------------------------------------


def showing_starts(
    video: Seen, *, clip_frames: int, stride: int, min_coverage: float
) -> np.ndarray:
    """The stored frames int[N], rising, at which a clip of a video may start.

    Those are taken whose clip shows the face in at least min_coverage of its frames. A
    video without a usable frame has none; one that is shorter than a clip is a clip.
    """
    num_valid = video.num_valid
    if num_valid < 1:
        return np.zeros(0, int)
    starts = np.arange(max(num_valid - clip_span(clip_frames, stride), 0) + 1)
    if not min_coverage:
        return starts
    frames = starts[:, None] + stride * np.arange(clip_frames)
    inside = frames < num_valid
    seen = np.asarray(video.face_seen)[np.minimum(frames, num_valid - 1)]
    share = (seen * inside).sum(axis=1) / inside.sum(axis=1)
    return starts[share >= min_coverage]


def without_unseen(
    videos: Sequence[StoredVideo], *, clip_frames: int, stride: int, min_coverage: float
) -> list[StoredVideo]:
    """The videos, those without any clip that may be taken as if of no usable frame.

    A fake goes with its original, beside which it may be shown.
    """
    starts = functools.partial(
        showing_starts,
        clip_frames=clip_frames,
        stride=stride,
        min_coverage=min_coverage,
    )
    hidden = [not len(starts(v)) for v in videos]
    originals = {
        v.key
        for v, is_hidden in zip(videos, hidden, strict=True)
        if is_hidden and v.label == 0 and v.num_valid
    }
    return [
        replace(v, num_valid=0) if is_hidden or v.original_key in originals else v
        for v, is_hidden in zip(videos, hidden, strict=True)
    ]


# The train order -----------------------------------------------------------------


def _random(seed: int, stream: int, number: int) -> np.random.Generator:
    """Numbers of their own for each (seed, stream, number), however near two are.

    Hashed by SeedSequence. As the counter of one generator, neighbouring numbers would
    give one stream shifted by a few words, and so nearly the same shuffle.
    """
    return np.random.default_rng([seed, stream, number])


@functools.lru_cache(maxsize=64)
def _shuffled(seed: int, stream: int, number: int, size: int) -> np.ndarray:
    return _random(seed, stream, number).permutation(size)


class _Deck:
    """An endless order of some videos: each round holds each once, shuffled anew."""

    def __init__(self, videos: Sequence[int], seed: int, stream: int):
        self._videos = np.asarray(videos, np.int32)
        self._key = seed, stream

    def __getitem__(self, position: int) -> int:
        number, place = divmod(position, len(self._videos))
        return int(
            self._videos[_shuffled(*self._key, number, len(self._videos))[place]]
        )


def _strata(
    videos: Sequence[StoredVideo], sampling: str, self_blend: float
) -> list[list[int]]:
    """The groups that take turns in the order, all equally often.

    Everything in one group, or reals and fakes in turn. Where all fakes are
    self-blended reals, reals stand in the place of the fakes too.
    """
    # A video without a face holds no frame to learn from; its count is in the card.
    everything = [i for i, video in enumerate(videos) if video.num_valid > 0]
    real = [i for i in everything if videos[i].label == 0]
    fake = [i for i in everything if videos[i].label == 1]
    found = f"the train split has {len(real)} real and {len(fake)} fake"
    if self_blend and not (real and (fake or self_blend == 1)):
        raise DataError(
            f"loss.self_blend={self_blend:g} puts blended real videos in the place of "
            f"fakes, but {found}; set it to {0 if fake else 1}"
        )
    if sampling == "natural":
        if self_blend and not fake:
            raise DataError(
                "data.sampling=natural keeps the share of fakes, and there are none "
                "for loss.self_blend to replace; set data.sampling=class"
            )
        if not everything:
            raise DataError(
                "no video of the train split shows a face in enough of its frames; "
                "lower config.data.min_coverage"
            )
        return [everything]
    if self_blend == 1 and sampling in ("class", "pair"):
        return [real, real]
    if not real or not fake:
        raise DataError(
            f"data.sampling={sampling} needs real and fake videos, but {found}; "
            f"set data.sampling={'class' if self_blend else 'natural'}"
        )
    if sampling in ("class", "pair"):
        return [real, fake]
    methods = sorted({videos[i].method for i in fake})
    by_method = [[i for i in fake if videos[i].method == m] for m in methods]
    # Half of the clips are real; the fake half is shared equally by the methods.
    return [group for fakes in by_method for group in (real, fakes)]


def originals(videos: Sequence[StoredVideo]) -> dict[int, int]:
    """For each usable video the usable real one that it manipulates, itself if real.

    Fakes whose original is unknown or not usable are left out.
    """
    usable = [(i, v) for i, v in enumerate(videos) if v.num_valid > 0]
    real = {v.key: i for i, v in usable if v.label == 0}
    by_key = ((i, v.original_key if v.label else v.key) for i, v in usable)
    return {i: real[key] for i, key in by_key if key in real}


class TrainOrder:
    """Position -> clip, for ever; a pure function of the videos and the seed."""

    def __init__(
        self,
        videos: Sequence[StoredVideo],
        *,
        seed: int,
        clip_frames: int,
        frame_stride: int,
        max_frame_stride: int = 0,
        sampling: str = "natural",
        self_blend: float = 0.0,
        min_coverage: float = 0.0,
    ):
        """A stride is drawn for each clip where max_frame_stride is the larger one.

        self_blend is the chance of a fake's place to be taken by a real video that is
        to be blended; how many places are fakes' is the sampling's choice alone.
        No clip is drawn that shows the face in less than min_coverage of its frames.
        Raises DataError when the sampling needs videos that are not there.
        """
        videos = without_unseen(
            videos,
            clip_frames=clip_frames,
            stride=frame_stride,
            min_coverage=min_coverage,
        )
        self._videos = videos
        self._min_coverage = min_coverage
        self._seed = seed
        self._clip_frames = clip_frames
        self._strides = frame_stride, max(max_frame_stride, frame_stride)
        self._self_blend = self_blend
        groups = _strata(videos, sampling, self_blend)
        self._decks = [_Deck(g, seed, 1 + s) for s, g in enumerate(groups)]
        self._originals = originals(videos) if sampling == "pair" else None
        if self._originals is not None and not self._originals.keys() & set(groups[1]):
            raise DataError(
                "data.sampling=pair: of no training fake is the original there; "
                "set data.sampling=class"
            )
        # Whom to blend where no original stands beside the fake's place.
        real = [i for g in groups for i in g if not videos[i].label]
        self._blended = _Deck(sorted(set(real)), seed, 1 + len(groups))

    def __getitem__(self, position: int) -> ClipRef:
        turn, stratum = divmod(position, len(self._decks))
        if self._originals is not None:
            return self._pair(turn)[stratum]
        video = self._decks[stratum][turn]
        rng = _random(self._seed, 0, position)
        is_fake = stratum % 2 == 1 or self._videos[video].label == 1
        blend = is_fake and self._draw_blend(rng)
        if blend and self._videos[video].label == 1:
            # Every second place is a fake's where there are strata.
            video = self._blended[position // min(len(self._decks), 2)]
        stride, starts = self._cuts(rng, video)
        return ClipRef(video, int(rng.choice(starts)), stride, blend)

    def _draw_blend(self, rng: np.random.Generator) -> bool:
        return bool(self._self_blend and rng.random() < self._self_blend)

    def _cuts(self, rng: np.random.Generator, video: int) -> tuple[int, np.ndarray]:
        """A stride, drawn, and where a clip of it may start."""
        stride, largest = self._strides
        if largest > stride:
            num_valid = self._videos[video].num_valid
            fitting = (num_valid - 1) // max(self._clip_frames - 1, 1)
            stride = int(rng.integers(stride, max(min(largest, fitting), stride) + 1))
        starts = self._starts(video, stride)
        if len(starts):
            return stride, starts
        stride = self._strides[0]  # at the smallest there is a start
        return stride, self._starts(video, stride)

    def _starts(self, video: int, stride: int) -> np.ndarray:
        return showing_starts(
            self._videos[video],
            clip_frames=self._clip_frames,
            stride=stride,
            min_coverage=self._min_coverage,
        )

    def _pair(self, turn: int) -> tuple[ClipRef, ClipRef]:
        """A fake's own original and the fake, at the same time of the source.

        Where its original is not there, another real video and the fake.
        """
        assert self._originals is not None  # noqa: S101
        fake = self._decks[1][turn]
        real = self._originals.get(fake, self._blended[turn])
        rng = _random(self._seed, 0, turn)
        blend = self._draw_blend(rng)
        is_paired = blend or fake in self._originals
        if blend:
            fake = real
        stride, starts = self._cuts(rng, fake)
        if not is_paired:
            its_stride, its_starts = self._cuts(rng, real)
            own = ClipRef(fake, int(rng.choice(starts)), stride, blend)
            return ClipRef(real, int(rng.choice(its_starts)), its_stride), own
        if fake == real:
            clip = ClipRef(fake, int(rng.choice(starts)), stride, blend)
            return clip._replace(blend=False), clip
        times, its_times = self._times(fake), self._times(real)
        span = clip_span(self._clip_frames, stride)
        ends = np.minimum(starts + span, len(times)) - 1
        # Where a fake goes on after its original has ended, nothing could match it.
        matching = starts[times[ends] <= its_times[-1]]
        starts = matching if len(matching) else starts[:1]
        start, match = 0, (0, stride)
        for start in rng.permutation(starts):
            match = _at_times(its_times, times[start : start + span : stride], stride)
            if match[0] in self._starts(real, match[1]):
                break
        return ClipRef(real, *match), ClipRef(fake, int(start), stride, blend)

    def _times(self, video: int) -> np.ndarray:
        """int[N]: which source frame each stored frame was."""
        facts = self._videos[video]
        return np.asarray(facts.frame_index[: facts.num_valid])


def _at_times(times: np.ndarray, wanted: np.ndarray, stride: int) -> tuple[int, int]:
    """Start and stride of the stored frames that lie nearest to the wanted times.

    Equal steps, not the nearest frame of each time: frames shown twice or skipped would
    tell originals from fakes.

    Args:
      times: int[N], the source frame of each stored frame.
      wanted: int[T], ascending source frames.
      stride: taken where the video has no T frames a step apart.
    """
    count = len(wanted)
    best = np.inf, 0, stride
    steps = range(1, (len(times) - 1) // (count - 1) + 1) if count > 1 else [stride]
    for step in steps:
        starts = np.arange(len(times) - clip_span(count, step) + 1)
        shown = times[starts[:, None] + step * np.arange(count)]
        off = np.abs(shown - wanted).mean(axis=1)
        best = min(best, (off.min(), int(off.argmin()), step))
    return best[1], best[2]


def clip_span(clip_frames: int, frame_stride: int) -> int:
    """How many stored frames a clip reaches over."""
    return (clip_frames - 1) * frame_stride + 1


def covering_clips(
    videos: Sequence[Seen],
    *,
    clip_frames: int,
    frame_stride: int,
    per_video: int,
    min_coverage: float = 0.0,
) -> list[ClipRef]:
    """Fixed clips for evaluation: up to `per_video` distinct ones, spread evenly over
    those that show the face in at least min_coverage of their frames.

    A video without such a clip has none.
    """
    clips = []
    for number, video in enumerate(videos):
        starts = showing_starts(
            video,
            clip_frames=clip_frames,
            stride=frame_stride,
            min_coverage=min_coverage,
        )
        if not len(starts):
            continue
        last = len(starts) - 1
        places = np.unique(np.linspace(0, last, per_video).round().astype(int))
        if per_video == 1:
            places = np.array([last // 2])
        clips += [ClipRef(number, int(starts[p]), frame_stride) for p in places]
    return clips


# Reading -------------------------------------------------------------------------


def frames_of(
    clip: ClipRef, num_valid: int, clip_frames: int
) -> tuple[np.ndarray, int]:
    """The stored frames int[T] of a clip, the last valid one repeated; how many are."""
    wanted = clip.start + clip.stride * np.arange(clip_frames)
    length = max(int(np.sum(wanted < num_valid)), 1)
    return np.minimum(wanted, wanted[length - 1]), length
