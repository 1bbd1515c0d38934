"""Videos and clips of a built split, read at random."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import simplejpeg
from tensorflow_datasets.core import decode
from tensorflow_datasets.proto import tf_example_pb2

from fakedetect_jax.data import order
from fakedetect_jax.data.batch import MASK_PARTS
from fakedetect_jax.data.order import ClipRef
from tfds_ffpp.errors import DataError, reason
from tfds_ffpp.frames.stored import StoredVideo, read_table
from tfds_ffpp.system import free_memory


def no_split(place: Path, split: str, known: Sequence[str]) -> DataError:
    """What to raise where a split is missing, with the way to one."""
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


def read_videos(dataset_dir: Path, split: str) -> list[StoredVideo]:
    """What is known of each record of a split, in record order, without its frames."""
    path = Path(dataset_dir) / f"videos-{split}.jsonl"
    if not path.exists():
        known = sorted(p.stem[7:] for p in Path(dataset_dir).glob("videos-*.jsonl"))
        raise no_split(dataset_dir, split, known)
    return read_table(path)


def need_both_classes(videos: Sequence[StoredVideo], name: str, *, one_is_enough: bool):
    """Raises DataError when a split has no reals or no fakes, unless one is enough."""
    labels = [v.label for v in videos if v.num_valid > 0]
    fakes = sum(labels)
    if one_is_enough or 0 < fakes < len(labels):
        return
    lacking = "real" if fakes else "fake"
    raise DataError(
        f"the {name} split has {len(labels)} usable videos but no {lacking} one, so "
        "nothing can be learnt or judged there; build the dataset with both classes, "
        "hold out fewer methods, or go on with --config.dataset.allow_one_class=True"
    )


@dataclass
class MemoryBudget:
    """What the readers of a process may together hold of decoded videos.

    left: bytes that are not taken yet; floor: bytes that must stay free on the machine
    or in its container, where other processes take memory too.
    """

    left: int = 0
    floor: int = 0

    def take(self, size: int) -> bool:
        """Whether so many bytes may be held; counts them then."""
        if size > self.left:
            return False
        if self.floor and (free_memory() or 0) - size < self.floor:
            return False
        self.left -= size
        return True


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
        memory: MemoryBudget | None = None,
        records: Sequence[int] | None = None,
    ):
        """`records` says which record each video is, where not all of them are.

        With `memory` a video is decoded whole when it is first asked for, and held.
        """
        self._builder_source = builder.as_data_source(
            split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
        )
        self._split = split
        self._records = records
        self._image_size = image_size
        self._memory = memory
        self._held: dict[int, np.ndarray] = {}

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """Fills out uint8[T,H,W,3]; returns how many of its frames are valid.

        After them the last valid frame is repeated. Raises DataError for a record or
        an image that cannot be read.
        """
        wanted, length = order.frames_of(clip, num_valid, len(out))
        held = self._held.get(clip.video)
        images = [] if held is not None else self._images(clip.video)
        if held is None and self._memory is not None:
            held = self._hold(clip.video, images, self._memory)
        if held is not None:
            # All are there; unless asked not to, NumPy copies twice to find it out.
            np.take(held, wanted, axis=0, out=out, mode="clip")
            return length
        for row, frame in enumerate(wanted[:length]):
            self._decode(images[frame], clip.video, out[row])
        out[length:] = out[length - 1]
        return length

    def read_masks(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> None:
        """Fills out uint8[T,M,M]: the forged share of each place of the clip's frames,
        255 for all of it. For a video that is `masked`, of a dataset with masks.

        Raises DataError for a record that cannot be read, or has no masks.
        """
        wanted, _ = order.frames_of(clip, num_valid, len(out))
        masks = self._images(clip.video, "masks")
        if len(masks) == 0:
            raise DataError(
                f"record {self._record(clip.video)} of split {self._split} has no "
                "masks; build the dataset with --set=masks=True "
                "(config.dataset.masks=True)"
            )
        side = out.shape[1]
        for row, frame in enumerate(wanted):
            mask = cv2.imdecode(np.frombuffer(masks[frame], np.uint8), 0)
            if mask is None:
                raise DataError(
                    f"a mask of record {self._record(clip.video)} of split "
                    f"{self._split} is damaged; build the dataset again"
                )
            out[row] = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)

    def _record(self, video: int) -> int:
        return video if self._records is None else self._records[video]

    def _images(self, video: int, feature: str = "frames") -> Sequence[bytes]:
        number = self._record(video)
        try:
            record = self._builder_source[number]
            example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
        except MemoryError:
            raise
        except Exception as error:  # array_record and protobuf share no base class
            raise DataError(
                f"record {number} of split {self._split} cannot be read "
                f"({reason(error)}); build the dataset again"
            ) from error
        return example.features.feature[feature].bytes_list.value

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

    def _hold(
        self, video: int, images: Sequence[bytes], memory: MemoryBudget
    ) -> np.ndarray | None:
        side = self._image_size
        if not memory.take(len(images) * side * side * 3):
            return None
        frames = np.empty((len(images), side, side, 3), np.uint8)
        for image, out in zip(images, frames, strict=True):
            self._decode(image, video, out)
        first = self._held.setdefault(video, frames)
        if first is not frames:  # another thread was quicker
            memory.left += frames.nbytes
        return first

    def __getstate__(self):
        # Workers hold videos of their own, each within the whole budget.
        return {**self.__dict__, "_held": {}}


# A face's points are averaged over about this long, in seconds: a detector's box jumps
# from frame to frame, a head does not.
SMOOTH_SECONDS = 0.1


def smooth_points(video: StoredVideo) -> np.ndarray:
    """float32[N,5,2]: the face's points in the stored frames, steadied in time."""
    points = np.array(video.face_points, np.float32)
    count = max(video.num_valid, 1)
    times = np.asarray(video.timestamp[:count], np.float64)
    apart = (times[:, None] - times) / SMOOTH_SECONDS
    weight = np.exp(-0.5 * apart**2)
    weight /= weight.sum(axis=1, keepdims=True)
    points[:count] = np.einsum("ij,jkl->ikl", weight, points[:count])
    return points


class Reads(Protocol):
    """What reads the clips of a split; see FrameReader."""

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """See FrameReader.read."""
        ...

    def read_masks(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> None:
        """See FrameReader.read_masks."""
        ...


def fill_masks(
    reader: Reads, clip: ClipRef, num_valid: int, label: int, out: np.ndarray
) -> None:
    """Fills out uint8[T,M,M] with the masks of a video that is `masked`, as a Batch has
    them: in MASK_PARTS. Raises as FrameReader.read_masks."""
    out[:] = 0
    if label:  # a real is forged nowhere
        reader.read_masks(clip, num_valid, out)
        np.minimum(out, MASK_PARTS, out=out)


class Split(NamedTuple):
    """A split of one or several built datasets, ready to be read."""

    name: str
    videos: list[StoredVideo]
    reader: Reads


def read_whole(
    split: Split,
    numbers: range,
    *,
    face: np.ndarray,
    frames: np.ndarray,
    mask: np.ndarray | None,
    num_threads: int,
    done: Callable[[], None],
) -> None:
    """Fills arrays with all frames of some videos, one video behind the other.

    face: float32[R,5,2]; frames: uint8[R,S,S,3]; mask: uint8[R,M,M], left as it is for
    videos whose masks are not known. `done` is called after each video. Raises
    DataError for a frame or a mask that cannot be read.
    """

    def read(number: int, first: int) -> None:
        video = split.videos[number]
        count, clip = video.num_valid, ClipRef(number, 0, 1)
        if not count:
            return
        rows = slice(first, first + count)
        split.reader.read(clip, count, frames[rows])
        face[rows] = smooth_points(video)[:count]
        if mask is not None and video.masked:
            fill_masks(split.reader, clip, count, video.label, mask[rows])

    counts = [split.videos[number].num_valid for number in numbers]
    starts = np.cumsum([0, *counts[:-1]])
    with ThreadPoolExecutor(num_threads) as threads:
        work = [threads.submit(read, *one) for one in zip(numbers, starts, strict=True)]
        try:
            for one in work:
                one.result()
                done()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def open_split(
    builder,
    name: str,
    config,
    *,
    hold_out: Sequence[str] = (),
    videos: list[StoredVideo] | None = None,
    memory: MemoryBudget | None = None,
) -> Split:
    """A split without the fakes of the methods in `hold_out`.

    videos: what read_videos gives, where that was done. memory: see FrameReader; for
    one that is read more than once. Raises DataError when the
    dataset has no such split or method.
    """
    if videos is None:
        videos = read_videos(builder.data_dir, name)
    records = order.held_in(videos, hold_out)
    reader = FrameReader(
        builder,
        name,
        image_size=config.dataset.image_size,
        memory=memory,
        records=records,
    )
    return Split(name, [videos[i] for i in records], reader)


# What the fakes of open_blended_split are called.
SELF_BLENDED = "self-blended"


def open_blended_split(
    builder, name: str, config, memory: MemoryBudget | None = None
) -> Split:
    """The reals of a split, and each once more as a fake to be self-blended.

    For steps.blended_eval_step, which does the blending. It stands in for a split
    whose own fakes may not be looked at.
    """
    videos = read_videos(builder.data_dir, name)
    real = [i for i, video in enumerate(videos) if video.label == 0]
    blended = [replace(videos[i], label=1, method=SELF_BLENDED) for i in real]
    reader = FrameReader(
        builder,
        name,
        image_size=config.dataset.image_size,
        memory=memory,
        records=[*real, *real],
    )
    return Split(name, [*(videos[i] for i in real), *blended], reader)
