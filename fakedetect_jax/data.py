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


def read_videos(dataset_dir: Path, split: str) -> list[Video]:
    """What is known of each record of a split, in record order, without its frames."""
    path = Path(dataset_dir) / f"videos-{split}.jsonl"
    if not path.exists():
        known = sorted(p.stem[7:] for p in Path(dataset_dir).glob("videos-*.jsonl"))
        raise DataError(
            f"{dataset_dir} has no split {split}; "
            f"it has {', '.join(known) or 'none, so build it again'}"
        )
    return [json.loads(line) for line in path.read_text().splitlines()]


def dataset_digest(dataset_dir: Path) -> str:
    """SHA-256 over videos-*.jsonl and the names and sizes of the shards.

    It does not change when a dataset is copied, nor when the same one is built again.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(dataset_dir).iterdir()):
        if path.match("videos-*.jsonl"):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
        elif ".array_record" in path.name:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()


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


def video_key(video: Video) -> tuple[str, str, str]:
    """What makes a video one: (dataset, method, video id)."""
    return video["dataset"], video["method"], video["video_id"]


# The train order -----------------------------------------------------------------


def _random(seed: int, stream: int, counter: int) -> np.random.Generator:
    """Counter-based numbers: any position's are had without those before it."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=counter))


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


def _strata(videos: Sequence[Video], sampling: str) -> list[list[int]]:
    """The groups that take turns in the order; all equally often."""
    # A video without a face holds no frame to learn from; its count is in the card.
    everything = [i for i, video in enumerate(videos) if video["num_valid"] > 0]
    real = [i for i in everything if videos[i]["label"] == 0]
    fake = [i for i in everything if videos[i]["label"] == 1]
    if sampling == "natural":
        return [everything]
    if not real or not fake:
        raise DataError(
            f"data.sampling={sampling} needs real and fake videos, but the train split "
            f"has {len(real)} real and {len(fake)} fake; set data.sampling=natural"
        )
    if sampling in ("class", "pair"):
        return [real, fake]
    methods = sorted({videos[i]["method"] for i in fake})
    by_method = [[i for i in fake if videos[i]["method"] == m] for m in methods]
    # Half of the clips are real; the fake half is shared equally by the methods.
    return [group for fakes in by_method for group in (real, fakes)]


def _originals(videos: Sequence[Video]) -> dict[int, int]:
    """For each fake the record of the real video that it manipulates."""
    usable = [(i, v) for i, v in enumerate(videos) if v["num_valid"] > 0]
    real = {f"{v['method']}/{v['video_id']}": i for i, v in usable if v["label"] == 0}
    pairs = {}
    for i, video in usable:
        if video["label"] == 1:
            if video["original"] not in real:
                raise DataError(
                    f"data.sampling=pair: the original {video['original']} of "
                    f"{video['method']}/{video['video_id']} is not usable; "
                    "set data.sampling=method"
                )
            pairs[i] = real[video["original"]]
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
    ):
        """A stride is drawn for each clip where max_frame_stride is the larger one.

        Raises DataError when the sampling needs videos that are not there.
        """
        self._videos = videos
        self._seed = seed
        self._clip_frames = clip_frames
        self._strides = frame_stride, max(max_frame_stride, frame_stride)
        groups = _strata(videos, sampling)
        self._decks = [_Deck(g, seed, 1 + s) for s, g in enumerate(groups)]
        self._originals = _originals(videos) if sampling == "pair" else None

    def __getitem__(self, position: int) -> ClipRef:
        turn, stratum = divmod(position, len(self._decks))
        if self._originals is not None:
            # A fake and its own original stand side by side, at the same frames.
            video = fake = self._decks[1][turn]
            if stratum == 0:
                video = self._originals[fake]
            rng = _random(self._seed, 0, turn)
            shortest = min(
                self._videos[fake]["num_valid"],
                self._videos[self._originals[fake]]["num_valid"],
            )
        else:
            video = self._decks[stratum][turn]
            rng = _random(self._seed, 0, position)
            shortest = self._videos[video]["num_valid"]
        stride, largest = self._strides
        if largest > stride:
            fitting = (shortest - 1) // max(self._clip_frames - 1, 1)
            stride = int(rng.integers(stride, max(min(largest, fitting), stride) + 1))
        last = max(shortest - clip_span(self._clip_frames, stride), 0)
        return ClipRef(video, int(rng.integers(last + 1)), stride)


def clip_span(clip_frames: int, frame_stride: int) -> int:
    """How many stored frames a clip reaches over."""
    return (clip_frames - 1) * frame_stride + 1


def covering_clips(
    videos: Sequence[Video], *, clip_frames: int, frame_stride: int, per_video: int
) -> list[ClipRef]:
    """Fixed clips for evaluation: up to `per_video` distinct ones, spread evenly.

    A video without a usable frame has none.
    """
    clips = []
    for number, video in enumerate(videos):
        if video["num_valid"] < 1:
            continue
        last = max(video["num_valid"] - clip_span(clip_frames, frame_stride), 0)
        starts = np.unique(np.linspace(0, last, per_video).round().astype(int))
        if per_video == 1:
            starts = [last // 2]
        clips += [ClipRef(number, int(start), frame_stride) for start in starts]
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
        "length": np.ones(rows, np.int32),
        "label": np.zeros(rows, np.float32),
        "index": np.zeros(rows, np.int32),
        "valid": np.zeros(rows, bool),
    }


class _Batches:
    """Random access to this process's rows of each global batch; Grain's source."""

    def __init__(self, order, reader, videos, *, shape, rows: slice, num_batches: int):
        self._order = order  # position -> ClipRef
        self._reader = reader
        self._facts = [(v["num_valid"], v["label"]) for v in videos]
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
            batch["label"][row] = label
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


def _open_feed(batches: _Batches, settings, start: int = 0) -> Iterator[Batch]:
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
    return iter(dataset)


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


def prepare(config, terminal) -> None:
    """Makes the videos that the config asks for and builds the dataset from them.

    Does nothing for what is there already, nor where data.manual_dir is not set.
    """
    if not config.data.manual_dir:
        return
    from tfds_ffpp import build

    manual_dir = Path(config.data.manual_dir).expanduser()
    if config.synthetic.num_identities:
        from tfds_ffpp import synthetic

        with terminal.phase("make videos"):
            synthetic.write_tree(
                manual_dir,
                compressions=(config.dataset.compression,),
                **config.synthetic.to_dict(),
            )
    with terminal.phase("build"):
        build.build(
            dataset_config(config),
            data_dir=Path(config.data.data_dir).expanduser(),
            manual_dir=manual_dir,
        )


def open_dataset(config, name: str = ""):
    """The builder of the config's dataset, or of another one by its folder name.

    Raises DataError with the command that builds it when it is not there.
    """
    from tfds_ffpp import build

    data_dir = Path(config.data.data_dir).expanduser()
    if name and name != config.dataset.name:
        builder = build.open_named(name, data_dir=data_dir)
        _check_fit(config, builder.builder_config, data_dir)
        return builder
    return build.open_dataset(dataset_config(config), data_dir=data_dir)


def _check_fit(config, built, data_dir: Path) -> None:
    """Raises DataError unless the clips of a config can be cut from a dataset."""
    from tfds_ffpp import build

    span = clip_span(config.data.clip_frames, config.data.frame_stride)
    size = config.dataset.image_size
    if built.image_size != size or built.num_frames < span:
        wanted = dataclasses.replace(
            built, image_size=size, num_frames=max(built.num_frames, span)
        )
        raise DataError(
            f"dataset {built.name} holds {built.num_frames} frames of "
            f"{built.image_size} px, but the model takes clips over {span} frames of "
            f"{size} px; build it again under another name with "
            f"`{build.build_command(wanted, data_dir)}`"
        )
