"""A batch of clips, on the host and on the devices."""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

MASK_PARTS, UNKNOWN = 254, 255

Array = TypeVar("Array")  # NumPy's on the host, JAX's on the devices


class Batch(NamedTuple, Generic[Array]):
    """B clips of T frames of S pixels a side.

    blend: bool[B], whether a clip is to be self-blended; face: float32[B,T,5,2], the
    face's points, see people.track; frames: RGB uint8[B,T,S,S,3]; index: int32[B], a
    clip's place in the order; label: float32[B], 1 = fake; length: int32[B], how many
    frames count; valid: bool[B], False for padding; mask: uint8[B,T,M,M], the forged
    share of each place in MASK_PARTS, UNKNOWN throughout a clip of which none is known,
    or no array where masks are not asked for.
    """

    blend: Array
    face: Array
    frames: Array
    index: Array
    label: Array
    length: Array
    valid: Array
    mask: Array | None = None


class ClipRows(NamedTuple, Generic[Array]):
    """B clips of T frames that the devices hold already; see model.store.

    rows: int32[B,T], where each frame lies there; all else as in Batch.
    """

    blend: Array
    index: Array
    label: Array
    length: Array
    rows: Array
    valid: Array


def empty_rows(rows: int, clip_frames: int) -> ClipRows[np.ndarray]:
    """Padding: no clip in it is valid."""
    return ClipRows(
        blend=np.zeros(rows, bool),
        index=np.zeros(rows, np.int32),
        label=np.zeros(rows, np.float32),
        length=np.ones(rows, np.int32),
        rows=np.zeros((rows, clip_frames), np.int32),
        valid=np.zeros(rows, bool),
    )


def empty_batch(
    rows: int, clip_frames: int, image_size: int, places: int = 0
) -> Batch[np.ndarray]:
    """A batch of padding: no clip in it is valid. places: M; without masks if 0."""
    side, shape = image_size, (rows, clip_frames, places, places)
    return Batch(
        blend=np.zeros(rows, bool),
        face=np.zeros((rows, clip_frames, 5, 2), np.float32),
        frames=np.zeros((rows, clip_frames, side, side, 3), np.uint8),
        index=np.zeros(rows, np.int32),
        label=np.zeros(rows, np.float32),
        length=np.ones(rows, np.int32),
        valid=np.zeros(rows, bool),
        mask=np.full(shape, UNKNOWN, np.uint8) if places else None,
    )
