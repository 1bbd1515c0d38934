"""A store of training frames on the devices, from which a step takes its clips.

The frames of all videos lie one behind the other, each a row, in blocks that every
device holds. The host then sends rows' numbers alone, 4 bytes for a frame.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fakedetect_jax.data.batch import UNKNOWN, Batch, ClipRows

# Places in a block are counted in 32 bits by the compilers' fast ways.
MAX_NUMBERS = 2**31 - 1

Array = TypeVar("Array")


class Block(NamedTuple, Generic[Array]):
    """R frames as a Batch has them.

    face: float32[R,5,2]; frames: RGB uint8[R,S,S,3]; mask: uint8[R,M,M], or none.
    """

    face: Array
    frames: Array
    mask: Array | None = None


class Layout(NamedTuple):
    """Which videos are in which block, and where each one's frames begin.

    first_rows: int32[V]; blocks: of each, its first video and the one after its last;
    counts: the frames of each video; size, places: S and M.
    """

    first_rows: np.ndarray
    blocks: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    size: int
    places: int

    @property
    def num_frames(self) -> int:
        """The frames of all videos."""
        return sum(self.counts)

    @property
    def num_bytes(self) -> int:
        """What all blocks take on each device."""
        a_frame = self.size**2 * 3 + self.places**2 + 5 * 2 * 4
        return self.num_frames * a_frame

    def shapes(self) -> tuple[Block[jax.ShapeDtypeStruct], ...]:
        """The blocks, without their numbers."""
        return tuple(map(self._shapes, self.blocks))

    def empty(self, block: tuple[int, int]) -> Block[np.ndarray]:
        """A block on the host, to be filled: zeros, and no mask known."""
        face, frames, mask = self._shapes(block)
        return Block(
            np.zeros(face.shape, np.float32),
            np.zeros(frames.shape, np.uint8),
            None if mask is None else np.full(mask.shape, UNKNOWN, np.uint8),
        )

    def _shapes(self, block: tuple[int, int]) -> Block[jax.ShapeDtypeStruct]:
        rows = sum(self.counts[slice(*block)])
        masks = (rows, self.places, self.places)
        return Block(
            jax.ShapeDtypeStruct((rows, 5, 2), np.float32),
            jax.ShapeDtypeStruct((rows, self.size, self.size, 3), np.uint8),
            jax.ShapeDtypeStruct(masks, np.uint8) if self.places else None,
        )


def lay_out(
    counts: Sequence[int], *, size: int, places: int = 0, limit: int = MAX_NUMBERS
) -> Layout:
    """A store of videos of so many frames of `size` pixels, and `places` of masks.

    limit: the most numbers of a block.
    """
    rows, blocks, begin, held = max(limit // (size * size * 3), 1), [], 0, 0
    for video, count in enumerate(counts):
        if held and held + count > rows:
            blocks.append((begin, video))
            begin, held = video, 0
        held += count
    blocks.append((begin, len(counts)))
    first = np.cumsum([0, *counts[:-1]]).astype(np.int32)
    return Layout(first, tuple(blocks), tuple(counts), size, places)


def gather(blocks: Sequence[Block[jax.Array]], clips: ClipRows) -> Batch[jax.Array]:
    """The batch of clips whose frames lie in the blocks; the same numbers as a feed's.

    Each device takes its own clips out of what it holds.
    """
    begin, found = 0, None
    for block in blocks:
        count = len(block.frames)
        own_BT = jnp.clip(clips.rows - begin, 0, count - 1)
        taken = jax.tree.map(
            lambda part, own=own_BT: part.at[own].get(mode="promise_in_bounds"), block
        )
        if found is None:
            found = taken
        else:
            found = jax.tree.map(_choose(clips.rows >= begin), taken, found)
        begin += count
    assert found is not None  # noqa: S101
    # What follows is compiled by itself, as for a batch that comes from the host.
    face, frames, mask = jax.lax.optimization_barrier(found)
    if mask is not None:  # what is blended into a clip later is not known here
        mask = jnp.where(clips.blend[:, None, None, None], jnp.uint8(UNKNOWN), mask)
    return Batch(
        blend=clips.blend,
        face=face,
        frames=frames,
        index=clips.index,
        label=clips.label,
        length=clips.length,
        valid=clips.valid,
        mask=mask,
    )


def _choose(mine_BT: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def choose(mine: jax.Array, before: jax.Array) -> jax.Array:
        wide = mine_BT.reshape(*mine_BT.shape, *[1] * (mine.ndim - 2))
        return jnp.where(wide, mine, before)

    return choose
