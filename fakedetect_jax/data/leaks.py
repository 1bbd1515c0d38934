"""Who or what stands in the training of one dataset and in the val or test of another.

A build keeps the splits of its own dataset apart; nobody keeps those of two apart. A
person is known where the dataset names them. The same footage is known by its file's
digest and, coded anew or cut to another size, by a perceptual hash of stored frames.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from fakedetect_jax.data.order import ClipRef
from fakedetect_jax.data.reader import Split
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.stored import StoredVideo
from tfds_ffpp.tree.splits import first_id

MOMENTS = (0.25, 0.5, 0.75)  # of a video; hashed is the stored frame nearest to each
SIDE, LOW = 64, 16  # pixels a side; lowest frequencies a side
BITS = LOW * LOW - 1  # the mean brightness tells nothing
# Bits in which two videos may differ and be the same footage, on average over their
# frames. Measured by benchmarks/leaks.py, see docs/data.md.
SAME_BITS = 45
# Sets whose people are those of another set, by that one's names.
PEOPLE_OF = {
    "deeperforensics": "ffpp",
    "df40_ff": "ffpp",
    "df40_cdf": "celebdf_v2",
}
SHOWN = 4  # leaks that a sentence names


class LeakCounts(NamedTuple):
    """How many people and how many videos stand where they should not."""

    people: int
    videos: int

    def __str__(self) -> str:
        return f"{self.people:,} people and {self.videos:,} videos"


class Part(NamedTuple):
    """A split of a dataset; made: of made videos, whose people are those of no other
    set though they are numbered alike."""

    dataset: str
    split: Split
    made: bool = False


class Leak(NamedTuple):
    """Two videos that should not stand where they do; shared: what they share."""

    shared: str
    one: str
    other: str


def frame_hash(frame: np.ndarray) -> np.ndarray:
    """bool[BITS] of RGB uint8[S,S,3]: which low frequencies are above their median.

    Of the discrete cosine transform, as in pHash (Zauner 2010), on 16 x 16 of them.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:LOW, :LOW].ravel()[1:]
    return low > np.median(low)


def video_hashes(split: Split, image_size: int) -> np.ndarray:
    """bool[N, len(MOMENTS), BITS] of a split's videos; all False without a frame."""
    hashes = np.zeros((len(split.videos), len(MOMENTS), BITS), bool)
    frame = np.empty((1, image_size, image_size, 3), np.uint8)
    for number, video in enumerate(split.videos):
        if video.num_valid < 1:
            continue
        times = np.asarray(video.frame_index[: video.num_valid])
        for row, moment in enumerate(MOMENTS):
            stored = int(np.abs(times - moment * video.source_frames).argmin())
            split.reader.read(ClipRef(number, stored, 1), video.num_valid, frame)
            hashes[number, row] = frame_hash(frame[0])
    return hashes


def bits_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float[N,M]: how many bits differ, on average over the frames of two videos."""
    length = len(MOMENTS) * BITS
    signs = [2 * x.reshape(-1, length).astype(np.float32) - 1 for x in (one, other)]
    return (length - signs[0] @ signs[1].T) / 2 / len(MOMENTS)


def near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int[K,2]: which two videos of video_hashes are the same footage."""
    found = []
    known = np.any(other, axis=(1, 2))
    for start in range(0, len(one), 512):
        mine = one[start : start + 512]
        same = (
            (bits_apart(mine, other) <= SAME_BITS)
            & known
            & np.any(mine, axis=(1, 2))[:, None]
        )
        found.append(np.argwhere(same) + (start, 0))
    return np.concatenate(found) if found else np.zeros((0, 2), int)


def people(part: Part, video: StoredVideo) -> set[str]:
    """Who is seen in a video, or lends it a face; empty where the set does not say.

    Ids of FaceForensics++ that were cut from one source are one person.
    """
    whose = PEOPLE_OF.get(video.dataset, video.dataset)
    whose = f"{part.dataset}/{whose}" if part.made else whose
    names = (name for name in (video.target, video.source) if name)
    return {f"{whose}/{first_id(video.dataset, name)}" for name in names}


def find_leaks(parts: Sequence[Part], image_size: int) -> list[Leak]:
    """What stands in a split of one dataset and in another split of another."""
    leaks = []
    for one, other in _apart(parts):
        leaks += _by_people(one, other)
        leaks += _by_digest(one, other)
    hashes = {id(p): video_hashes(p.split, image_size) for p in parts}
    named = {(leak.one, leak.other) for leak in leaks}
    for one, other in _apart(parts):
        for i, j in near(hashes[id(one)], hashes[id(other)]):
            names = _name(one, one.split.videos[i]), _name(other, other.split.videos[j])
            if names not in named:
                leaks.append(Leak("the same footage", *names))
    return leaks


def _apart(parts: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    for number, one in enumerate(parts):
        for other in parts[number + 1 :]:
            if one.dataset != other.dataset and one.split.name != other.split.name:
                yield one, other


def _name(part: Part, video: StoredVideo) -> str:
    return f"{part.dataset} {part.split.name} {video.key}"


def _by_people(one: Part, other: Part) -> Iterator[Leak]:
    """One leak for each person."""
    seen: dict[str, StoredVideo] = {}
    for video in one.split.videos:
        for person in people(one, video):
            seen.setdefault(person, video)
    named = set()
    for video in other.split.videos:
        for person in sorted(people(other, video) & seen.keys() - named):
            named.add(person)
            names = _name(one, seen[person]), _name(other, video)
            yield Leak(f"person {person}", *names)


def _by_digest(one: Part, other: Part) -> Iterator[Leak]:
    files = {video.sha256: video for video in one.split.videos if video.sha256}
    for video in other.split.videos:
        if video.sha256 in files:
            names = _name(one, files[video.sha256]), _name(other, video)
            yield Leak("the same file", *names)


def count(leaks: Sequence[Leak]) -> LeakCounts:
    """How many leaks there are of each kind."""
    of_people = sum(leak.shared.startswith("person ") for leak in leaks)
    return LeakCounts(of_people, len(leaks) - of_people)


def describe(leaks: Sequence[Leak]) -> str:
    """Some leaks as a clause, and how many there are."""
    shown = [f"{leak.shared}: {leak.one} and {leak.other}" for leak in leaks[:SHOWN]]
    more = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
    return f"{len(leaks)} found: {'; '.join(shown)}{more}"


def refuse(leaks: Sequence[Leak], *, allowed: bool) -> str:
    """A sentence on the leaks; "" without one. Raises DataError unless allowed."""
    if not leaks:
        return ""
    if not allowed:
        raise DataError(
            "the datasets of this run share people or footage across their splits "
            f"({describe(leaks)}), so that what is judged was trained on; build one of "
            "them with splits that agree, or go on with "
            "--config.data.allow_leaks=True, and reports will say so"
        )
    return (
        f"the datasets of this run share people or footage across their splits "
        f"({describe(leaks)}): what is judged there was trained on"
    )
