"""Several datasets as one: the order of their clips, and reading."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fakedetect_jax.data.order import ClipRef, TrainOrder
from fakedetect_jax.data.reader import Reads, Split
from fakedetect_jax.data.shares import share_cycle


class MixedOrder:
    """Position -> clip, for ever, of several orders in their shares.

    Each set has two clips at a time, so that a fake stays beside its original and each
    set has as many reals as its own sampling says. Which clip comes when follows from
    the orders, the shares and the position alone.
    """

    def __init__(
        self,
        orders: Sequence[TrainOrder],
        sizes: Sequence[int],
        shares: Sequence[float],
    ):
        """sizes: how many videos each order is of; ClipRefs count through them all."""
        self._orders = orders
        self._first = np.cumsum([0, *sizes[:-1]])
        self._cycle = share_cycle(shares)
        self._counts = np.bincount(self._cycle, minlength=len(orders))
        # How many twos of its own set stand before each in the cycle.
        self._rank = np.zeros(len(self._cycle), int)
        for number in range(len(orders)):
            places = np.flatnonzero(self._cycle == number)
            self._rank[places] = np.arange(len(places))

    def __getitem__(self, position: int) -> ClipRef:
        two, half = divmod(position, 2)
        round_, place = divmod(two, len(self._cycle))
        number = int(self._cycle[place])
        own = round_ * int(self._counts[number]) + int(self._rank[place])
        clip = self._orders[number][2 * own + half]
        return clip._replace(video=clip.video + int(self._first[number]))


class _Part(NamedTuple):
    reader: Reads
    first: int


class JoinedReader:
    """Reads clips of several splits, whose videos are counted through."""

    def __init__(self, splits: Sequence[Split]):
        sizes = np.cumsum([0, *(len(split.videos) for split in splits)])
        self._starts = sizes[:-1]
        self._parts = [
            _Part(split.reader, int(start))
            for split, start in zip(splits, self._starts, strict=True)
        ]

    def _own(self, clip: ClipRef) -> tuple[Reads, ClipRef]:
        number = int(np.searchsorted(self._starts, clip.video, side="right")) - 1
        reader, first = self._parts[number]
        return reader, clip._replace(video=clip.video - first)

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """See FrameReader.read."""
        reader, clip = self._own(clip)
        return reader.read(clip, num_valid, out)

    def read_masks(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> None:
        """See FrameReader.read_masks."""
        reader, clip = self._own(clip)
        reader.read_masks(clip, num_valid, out)


def joined(splits: Sequence[Split]) -> Split:
    """Splits of several datasets as one, in their order; one alone as it is."""
    if len(splits) == 1:
        return splits[0]
    videos = [video for split in splits for video in split.videos]
    return Split(splits[0].name, videos, JoinedReader(splits))
