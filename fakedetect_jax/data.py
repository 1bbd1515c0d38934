"""Clips from a built dataset: a pure function (seed, step) -> batch, in numpy.

Position p of the endless train order is clip p; global batch s holds positions
s*B .. s*B+B-1, and process k of n feeds the k-th of n equal runs of its rows. Nothing
else decides what a batch holds, so neither workers, threads, hosts nor devices change
it, and a resumed run starts reading at its step.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import simplejpeg
from absl import flags
from tensorflow_datasets.core import decode
from tensorflow_datasets.proto import tf_example_pb2

from fakedetect_jax.errors import WorkerError
from tfds_ffpp.errors import DataError

Batch = dict[str, np.ndarray]

# A run that was asked to stop has ended by then; see interrupt.DEADLINE_SECONDS.
GRACE_SECONDS = 30
Facts = dict[str, Any]  # of a dataset, see dataset_facts
Video = dict[str, Any]  # a line of videos-<split>.jsonl: an example without its frames


class ClipRef(NamedTuple):
    """Which stored frames of which video make a clip."""

    video: int
    start: int
    stride: int
    blend: bool = False  # a real video's, to become a self-blended fake


def _no_split(place: Path, split: str, known: Sequence[str]) -> DataError:
    if not known:
        return DataError(f"{place} has no split {split} and no other; build it again")
    cure = "name one of these"
    if "train" not in known:
        cure = (
            "a set without a list of its own is all test; build it under another name "
            "with a column split in its CSV or with --set=protocol=disjoint "
            "(config.dataset.protocol=disjoint)"
        )
    return DataError(f"{place} has no split {split}; it has {', '.join(known)}: {cure}")


def read_videos(dataset_dir: Path, split: str) -> list[Video]:
    """What is known of each record of a split, in record order, without its frames."""
    path = Path(dataset_dir) / f"videos-{split}.jsonl"
    if not path.exists():
        known = sorted(p.stem[7:] for p in Path(dataset_dir).glob("videos-*.jsonl"))
        raise _no_split(dataset_dir, split, known)
    return [json.loads(line) for line in path.read_text().splitlines()]


def need_both_classes(videos: Sequence[Video], name: str, *, one_is_enough: bool):
    """Raises DataError when a split has no reals or no fakes, unless one is enough."""
    labels = [v["label"] for v in videos if v["num_valid"] > 0]
    fakes = sum(labels)
    if one_is_enough or 0 < fakes < len(labels):
        return
    lacking = "real" if fakes else "fake"
    raise DataError(
        f"the {name} split has {len(labels)} usable videos but no {lacking} one, so "
        "nothing can be learnt or judged there; build the dataset with both classes, "
        "hold out fewer methods, or go on with --config.dataset.allow_one_class=True"
    )


def dataset_facts(dataset_dir: Path) -> Facts:
    """What tells whether a dataset is the one that it was: {"digest", "splits"}.

    "splits" maps each name to {"real", "fake", "sha256"}.
    """
    splits = {}
    for path in sorted(Path(dataset_dir).glob("videos-*.jsonl")):
        name = path.stem[len("videos-") :]
        labels = [video["label"] for video in read_videos(dataset_dir, name)]
        splits[name] = {
            "real": labels.count(0),
            "fake": labels.count(1),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    return {"digest": dataset_digest(dataset_dir), "splits": splits}


def check_unchanged(old: Facts | None, new: Facts, *, what: str) -> None:
    """Raises DataError when a dataset is not what it was; `old` None is not known."""
    if old is not None and old["digest"] != new["digest"]:
        raise DataError(
            f"the dataset is not the one that {what} was trained on: "
            f"{describe_change(old, new)}; put that dataset back, or train anew in "
            "another --workdir"
        )


def describe_change(old: Facts, new: Facts) -> str:
    """How a dataset differs from what it was; both as dataset_facts has them."""
    changes = []
    for name in sorted(old["splits"] | new["splits"]):
        before, now = old["splits"].get(name), new["splits"].get(name)
        if before == now:
            continue
        if before is None or now is None:
            changes.append(f"split {name} is {'gone' if now is None else 'new'}")
            continue
        counts = [f"{s['real']} real + {s['fake']} fake" for s in (before, now)]
        if counts[0] == counts[1]:
            changes.append(f"{name} has other videos ({counts[0]} as before)")
        else:
            changes.append(f"{name} was {counts[0]} and is {counts[1]} videos")
    return "; ".join(changes) or "its frames are stored in other files"


def held_in(videos: Sequence[Video], hold_out: Sequence[str]) -> list[int]:
    """The records whose method is not held out. Raises DataError for an unknown one."""
    methods = sorted({v["method"] for v in videos if v["label"] == 1})
    unknown = sorted(set(hold_out) - set(methods))
    if unknown:
        raise DataError(
            f"config.data.hold_out names {', '.join(unknown)}, but the dataset's fakes "
            f"are of {', '.join(methods) or 'no method'}"
        )
    return [i for i, video in enumerate(videos) if video["method"] not in hold_out]


def dataset_digest(dataset_dir: str | os.PathLike) -> str:
    """SHA-256 over what a built dataset holds: the same on every host that has it.

    Over the lines of videos-<split>.jsonl, which have each video's own digest, and the
    names and sizes of the shards, whose content is not read: 5 ms for 5000 videos.
    Raises DataError when the folder has neither.
    """
    folder = Path(dataset_dir)
    digest = hashlib.sha256()
    tables = sorted(folder.glob("videos-*.jsonl"))
    shards = sorted(folder.glob("*.array_record*"))
    if not tables or not shards:
        raise DataError(f"{folder} is not a built dataset; build it again")
    for path in tables:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    for path in shards:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


# Which clips show the face --------------------------------------------------------


def showing_starts(
    video: Video, *, clip_frames: int, stride: int, min_coverage: float
) -> np.ndarray:
    """The stored frames int[N], rising, at which a clip of a video may start.

    Those are taken whose clip shows the face in at least min_coverage of its frames. A
    video without a usable frame has none; one that is shorter than a clip is a clip.
    """
    num_valid = video["num_valid"]
    if num_valid < 1:
        return np.zeros(0, int)
    starts = np.arange(max(num_valid - clip_span(clip_frames, stride), 0) + 1)
    if not min_coverage:
        return starts
    frames = starts[:, None] + stride * np.arange(clip_frames)
    inside = frames < num_valid
    seen = np.asarray(video["face_seen"])[np.minimum(frames, num_valid - 1)]
    share = (seen * inside).sum(axis=1) / inside.sum(axis=1)
    return starts[share >= min_coverage]


def without_unseen(
    videos: Sequence[Video], *, clip_frames: int, stride: int, min_coverage: float
) -> list[Video]:
    """The videos, those without any clip that may be taken as if of no usable frame.

    A fake goes with its original, beside which it may be shown.
    """
    cut: dict[str, Any] = {"clip_frames": clip_frames, "stride": stride}
    hidden = [
        not len(showing_starts(v, **cut, min_coverage=min_coverage)) for v in videos
    ]
    originals = {
        f"{v['method']}/{v['video_id']}"
        for v, is_hidden in zip(videos, hidden, strict=True)
        if is_hidden and v["label"] == 0 and v["num_valid"]
    }
    return [
        {**v, "num_valid": 0} if is_hidden or v["original"] in originals else v
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
    videos: Sequence[Video], sampling: str, self_blend: float
) -> list[list[int]]:
    """The groups that take turns in the order, all equally often.

    Everything in one group, or reals and fakes in turn. Where all fakes are
    self-blended reals, reals stand in the place of the fakes too.
    """
    # A video without a face holds no frame to learn from; its count is in the card.
    everything = [i for i, video in enumerate(videos) if video["num_valid"] > 0]
    real = [i for i in everything if videos[i]["label"] == 0]
    fake = [i for i in everything if videos[i]["label"] == 1]
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
    methods = sorted({videos[i]["method"] for i in fake})
    by_method = [[i for i in fake if videos[i]["method"] == m] for m in methods]
    # Half of the clips are real; the fake half is shared equally by the methods.
    return [group for fakes in by_method for group in (real, fakes)]


def _originals(videos: Sequence[Video], fakes: Sequence[int]) -> dict[int, int]:
    """For each of these videos the record of the real one that it manipulates.

    A real video stands for itself.
    """
    usable = [(i, v) for i, v in enumerate(videos) if v["num_valid"] > 0]
    real = {f"{v['method']}/{v['video_id']}": i for i, v in usable if v["label"] == 0}
    pairs = {}
    for i in fakes:
        video = videos[i]
        original = video["original"] if video["label"] else None
        if original is not None and original not in real:
            raise DataError(
                f"data.sampling=pair: the original {original} of "
                f"{video['method']}/{video['video_id']} is not usable; "
                "set data.sampling=method"
            )
        pairs[i] = i if original is None else real[original]
    return pairs


class TrainOrder:
    """Position -> clip, for ever; a pure function of the videos and the seed."""

    def __init__(
        self,
        videos: Sequence[Video],
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
        self._originals = _originals(videos, groups[1]) if sampling == "pair" else None
        # Whom to blend where no original stands beside the fake's place.
        real = [i for g in groups for i in g if not videos[i]["label"]]
        self._blended = _Deck(sorted(set(real)), seed, 1 + len(groups))

    def __getitem__(self, position: int) -> ClipRef:
        turn, stratum = divmod(position, len(self._decks))
        if self._originals is not None:
            return self._pair(turn)[stratum]
        video = self._decks[stratum][turn]
        rng = _random(self._seed, 0, position)
        is_fake = stratum % 2 == 1 or self._videos[video]["label"] == 1
        blend = is_fake and self._draw_blend(rng)
        if blend and self._videos[video]["label"] == 1:
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
            num_valid = self._videos[video]["num_valid"]
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
        """A fake's own original and the fake, at the same time of the source."""
        assert self._originals is not None  # noqa: S101
        fake = self._decks[1][turn]
        real = self._originals[fake]
        rng = _random(self._seed, 0, turn)
        blend = self._draw_blend(rng)
        if blend:
            fake = real
        stride, starts = self._cuts(rng, fake)
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
        return np.asarray(facts["frame_index"][: facts["num_valid"]])


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
    videos: Sequence[Video],
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


class FrameReader:
    """Decodes the frames of a clip straight out of its record.

    Only the frames asked for are decoded. Opens its files on first use, in whichever
    process that is; safe to use from several threads.
    """

    def __init__(
        self,
        builder,
        split: str,
        *,
        image_size: int,
        cache_mib: int = 0,
        records: Sequence[int] | None = None,
    ):
        """`records` says which record each video is, where not all of them are."""
        self._builder_source = builder.as_data_source(
            split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
        )
        self._split = split
        self._records = records
        self._image_size = image_size
        self._cache_bytes = cache_mib << 20
        self._cache: dict[int, np.ndarray] = {}

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """Fills out uint8[T,H,W,3]; returns how many of its frames are valid.

        After them the last valid frame is repeated. Raises DataError for a record or
        an image that cannot be read.
        """
        wanted, length = frames_of(clip, num_valid, len(out))
        cached = self._cache.get(clip.video)
        if cached is None and self._cache_bytes:
            cached = self._remember(clip.video)
        if cached is not None:
            np.take(cached, wanted, axis=0, out=out)
            return length
        images = self._images(clip.video)
        for row, frame in enumerate(wanted[:length]):
            self._decode(images[frame], clip.video, out[row])
        out[length:] = out[length - 1]
        return length

    def _record(self, video: int) -> int:
        return video if self._records is None else self._records[video]

    def _images(self, video: int) -> Sequence[bytes]:
        number = self._record(video)
        try:
            record = self._builder_source[number]
            example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:  # array_record and protobuf share no base class
            raise DataError(
                f"record {number} of split {self._split} cannot be read "
                f"({str(error).splitlines()[0]}); build the dataset again"
            ) from error
        return example.features.feature["frames"].bytes_list.value

    def _decode(self, image: bytes, video: int, out: np.ndarray) -> None:
        try:
            frame = simplejpeg.decode_jpeg(image, "RGB", buffer=out)
        except ValueError as error:
            raise DataError(
                f"a frame of record {self._record(video)} of split {self._split} is "
                f"damaged ({error}); build the dataset again"
            ) from error
        if frame.shape != out.shape:
            raise DataError(
                f"record {self._record(video)} of split {self._split} holds frames of "
                f"{frame.shape[0]}x{frame.shape[1]} pixels, not {self._image_size}; "
                "build the dataset again"
            )

    def _remember(self, video: int) -> np.ndarray | None:
        side = self._image_size
        images = self._images(video)
        size = len(images) * side * side * 3
        if (len(self._cache) + 1) * size > self._cache_bytes:
            return None
        frames = np.empty((len(images), side, side, 3), np.uint8)
        for image, out in zip(images, frames, strict=True):
            self._decode(image, video, out)
        self._cache[video] = frames
        return frames

    def __getstate__(self):
        # Workers fill caches of their own.
        return {**self.__dict__, "_cache": {}}


def empty_batch(rows: int, clip_frames: int, image_size: int) -> Batch:
    """A batch of padding: no clip in it is valid."""
    side = image_size
    return {
        "frames": np.zeros((rows, clip_frames, side, side, 3), np.uint8),
        "face": np.zeros((rows, clip_frames, 5, 2), np.float32),
        "length": np.ones(rows, np.int32),
        "label": np.zeros(rows, np.float32),
        "index": np.zeros(rows, np.int32),
        "blend": np.zeros(rows, bool),
        "valid": np.zeros(rows, bool),
    }


# A face's points are averaged over about this long, in seconds: a detector's box jumps
# from frame to frame, a head does not.
SMOOTH_SECONDS = 0.1


def smooth_points(video: Video) -> np.ndarray:
    """float32[N,5,2]: the face's points in the stored frames, steadied in time."""
    points = np.array(video["face_points"], np.float32)
    count = max(video["num_valid"], 1)
    times = np.asarray(video["timestamp"][:count], np.float64)
    apart = (times[:, None] - times) / SMOOTH_SECONDS
    weight = np.exp(-0.5 * apart**2)
    weight /= weight.sum(axis=1, keepdims=True)
    points[:count] = np.einsum("ij,jkl->ikl", weight, points[:count])
    return points


class _Batches:
    """Random access to this process's rows of each global batch; Grain's source."""

    def __init__(self, order, reader, videos, *, shape, rows: slice, num_batches: int):
        self._order = order  # position -> ClipRef
        self._reader = reader
        self._facts = [(v["num_valid"], v["label"]) for v in videos]
        self._faces = [smooth_points(video) for video in videos]
        self._batch_size, self._clip_frames, self._image_size = shape
        self._rows = rows
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, number: int) -> Batch:
        first = int(number) * self._batch_size + self._rows.start
        count = self._rows.stop - self._rows.start
        batch = empty_batch(count, self._clip_frames, self._image_size)
        for row in range(count):
            position = first + row
            clip = self._order[position]
            if clip is None:
                continue
            num_valid, label = self._facts[clip.video]
            batch["length"][row] = self._reader.read(
                clip, num_valid, batch["frames"][row]
            )
            frames, _ = frames_of(clip, num_valid, self._clip_frames)
            batch["face"][row] = self._faces[clip.video][frames]
            batch["label"][row] = 1 if clip.blend else label
            batch["blend"][row] = clip.blend
            batch["index"][row] = position % 2**31
            batch["valid"][row] = True
        return batch


class _Padded:
    """A finite list of clips, None past its end."""

    def __init__(self, clips: Sequence[ClipRef]):
        self._clips = clips

    def __getitem__(self, position: int) -> ClipRef | None:
        return self._clips[position] if position < len(self._clips) else None


def _begin_worker(number: int, count: int) -> None:
    """In a worker: outlives a signal to the whole group, but never the run itself.

    The run needs its batches up to the step that it stops at, then ends its workers.
    """
    del number, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_after(GRACE_SECONDS))
    watch = threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True)
    watch.start()


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


class _Feed:
    """Grain's iterator; a worker that was ended from outside is said in a sentence."""

    def __init__(self, batches: Any):
        self._batches = batches

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> Batch:
        try:
            return next(self._batches)
        except RuntimeError as error:
            code = re.search(r"terminated unexpectedly.* (-?\d+)", str(error))
            if not code:
                raise
            raise WorkerError(
                f"a data worker was ended from outside (exit code {code[1]}; -9 is "
                "mostly the system's memory limit): lower data.num_workers or "
                "data.cache_mib, and run the same command again: it goes on from the "
                "last checkpoint"
            ) from error

    def close(self) -> None:
        """Ends the workers."""
        self._batches.close()


def _open_feed(batches: _Batches, settings, start: int = 0) -> _Feed:
    if not flags.FLAGS.is_parsed():
        # Grain reads flags of its own; as a library there is no command line.
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(  # pyright: ignore[reportArgumentType]
        grain.ReadOptions(
            num_threads=settings.num_threads,
            prefetch_buffer_size=settings.prefetch_batches,
        )
    )
    if settings.num_workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=settings.num_workers,
                per_worker_buffer_size=settings.prefetch_batches,
            ),
            worker_init_fn=_begin_worker,
        )
    return _Feed(iter(dataset))


def train_feed(
    order: TrainOrder,
    reader: FrameReader,
    videos: Sequence[Video],
    settings,
    *,
    shape: tuple[int, int, int],
    rows: slice,
    start_step: int,
    num_steps: int,
) -> Iterator[Batch]:
    """The batches of steps start_step .. num_steps-1, this process's rows of each.

    Args:
      order: position -> clip.
      reader: decodes clips.
      videos: the records of the split.
      settings: the config's data group: num_workers, num_threads, prefetch_batches.
      shape: (global batch size, frames per clip, image size).
      rows: this process's rows of the global batch.
      start_step: the number of completed steps.
      num_steps: the number of steps of the whole run.
    """
    batches = _Batches(
        order, reader, videos, shape=shape, rows=rows, num_batches=num_steps
    )
    return _open_feed(batches, settings, start_step)


def eval_feed(
    clips: Sequence[ClipRef],
    reader: FrameReader,
    videos: Sequence[Video],
    settings,
    *,
    shape: tuple[int, int, int],
    rows: slice,
) -> Iterator[Batch]:
    """Each clip exactly once in order; the last batch padded with valid=False.

    Every process gets the same number of batches. Threads only: a pass over an
    evaluation split is too short to be worth starting workers.
    """
    num_batches = -(-len(clips) // shape[0])
    batches = _Batches(
        _Padded(clips), reader, videos, shape=shape, rows=rows, num_batches=num_batches
    )
    in_process = type(settings)(settings)
    with in_process.unlocked():
        in_process.num_workers = 0
    return _open_feed(batches, in_process)


# Getting there -------------------------------------------------------------------


def dataset_config(config):
    """The FfppConfig of a config's dataset group."""
    from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

    return FfppConfig(**config.dataset.to_dict())


def prepare(config, terminal, *, splits: Sequence[str] = ()) -> None:
    """Makes the videos that the config asks for and builds the dataset from them.

    Does nothing for what is there already, nor where data.manual_dir is not set. Raises
    DataError, before anything is built, when it would not have one of the splits.
    """
    if not config.data.manual_dir:
        return
    from tfds_ffpp import build, packaging

    manual_dir = Path(config.data.manual_dir).expanduser()
    if config.synthetic.num_identities:
        from tfds_ffpp import synthetic

        with terminal.phase("make videos"):
            synthetic.write_tree(
                manual_dir,
                compressions=(config.dataset.compression,),
                methods=tuple(config.dataset.methods) or synthetic.FOUR,
                **config.synthetic.to_dict(),
            )
    wanted, data_dir = dataset_config(config), Path(config.data.data_dir).expanduser()
    with terminal.phase("build"):
        if splits and not build.is_there(wanted, data_dir):
            known = sorted(packaging.select(wanted, manual_dir)[1].records)
            for split in splits:
                if split not in known:
                    raise _no_split(manual_dir, split, known)
        build.build(wanted, data_dir=data_dir, manual_dir=manual_dir)


def open_dataset(config, name: str = ""):
    """The builder of the config's dataset, or of another one by its folder name.

    Raises DataError with the command that builds it when it is not there.
    """
    from tfds_ffpp import build

    data_dir = Path(config.data.data_dir).expanduser()
    if name and name != config.dataset.name:
        builder = build.open_named(
            name,
            data_dir=data_dir,
            missing=_cut_alike(config, build.named_config(name)),
        )
        _check_fit(config, builder.builder_config, data_dir)
        return builder
    return build.open_dataset(dataset_config(config), data_dir=data_dir)


# How frames are taken from a video and stored: a model knows videos cut in its way.
CUT_FIELDS = (
    *("image_size", "num_frames", "frame_step", "crop", "margin", "detector"),
    *("detector_model", "jpeg_quality", "jpeg_subsampling"),
)


def _cut_alike(config, other):
    """A dataset's config, with the fields of CUT_FIELDS as the model was trained on."""
    own = {name: config.dataset[name] for name in CUT_FIELDS}
    return dataclasses.replace(other, **own)


def cut_otherwise(config, other) -> str:
    """In what another dataset's frames were cut unlike the run's; empty if in none."""
    return ", ".join(
        f"{name} {getattr(other, name)!r} (in training {config.dataset[name]!r})"
        for name in CUT_FIELDS
        if name != "detector_model"  # a path, which other machines have elsewhere
        if getattr(other, name) != config.dataset[name]
    )


def _check_fit(config, built, data_dir: Path) -> None:
    """Raises DataError unless the clips of a config can be cut from a dataset."""
    from tfds_ffpp import build

    size = config.dataset.image_size
    span = clip_span(config.data.clip_frames, config.data.frame_stride)
    if built.image_size == size and built.num_frames >= span:
        return
    wanted = dataclasses.replace(
        _cut_alike(config, built),
        name=f"{built.name}_{size}x{config.dataset.num_frames}",
    )
    cure = f"evaluate with --config.eval.dataset={wanted.name}"
    if not build.is_there(wanted, data_dir):
        cure = f"build it as `{build.build_command(wanted, data_dir)}` and {cure}"
    raise DataError(
        f"dataset {built.name} holds {built.num_frames} frames of "
        f"{built.image_size} px, but the model takes clips over {span} frames of "
        f"{size} px; {cure}"
    )
