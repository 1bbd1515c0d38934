"""Which face of one window is which of the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakedetect_jax.data import order
from tfds_ffpp.frames.faces import overlap

Row = dict[str, Any]
# Of two windows' boxes of one face.
MIN_OVERLAP = 0.2


@dataclass
class Face:
    """One face of a video over its windows: where it was and which clips show it."""

    box: list[float]
    last_window: int
    entries: list[Row] = field(default_factory=list)  # of windows, with "window"
    clips: list[Row] = field(default_factory=list)


@dataclass
class Pending:
    """A video under way."""

    name: str
    folder: Path
    windows: list[Row] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    waiting: int = 0  # clips not scored yet
    end: Row | None = None


def same_face(faces: Sequence[Face], box: list[float]) -> Face | None:
    """The face that a box of the next window shows; None for a new one."""

    def shared(face: Face) -> float:
        return overlap(tuple(face.box), tuple(box))  # pyright: ignore

    best = max(faces, key=shared, default=None)
    return best if best is not None and shared(best) >= MIN_OVERLAP else None


def span_of(window: Row, clip: order.ClipRef, length: int) -> Row:
    """Which source frames and seconds a clip reaches over."""
    last = min(clip.start + clip.stride * (length - 1), len(window["frame_index"]) - 1)
    return {
        "frames": [window["frame_index"][clip.start], window["frame_index"][last]],
        "seconds": [window["timestamp"][clip.start], window["timestamp"][last]],
    }
