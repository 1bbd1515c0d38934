"""What comes from the process that decodes: JSON there, fields with names here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

from fakedetect_jax.video_result import Box, FileFacts

R = TypeVar("R", "StoredFace", "Window", "FileFacts")


@dataclass(frozen=True)
class StoredFace:
    """One face of a window, prepared as the dataset stores a video.

    window: its number; entry: the file of its frames; num_valid: how many they are;
    face_seen: 1 for each in which the face was found; coverage: the share of the frames
    looked at in which it was.
    """

    window: int
    entry: str
    num_valid: int
    face_seen: list[int]
    box: Box
    coverage: float

    @property
    def side(self) -> float:
        """Of its square in the source, in pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True)
class Window:
    """A part of a video: its frames start to stop of `total`.

    frame_index and timestamp (seconds) are of the frames that were looked at.
    """

    number: int
    start: int
    stop: int
    total: int
    frame_index: list[int]
    timestamp: list[float]
    faces: list[StoredFace]

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Window":
        """What tfds_ffpp.frames.windows yields of a window."""
        number = facts["number"]
        faces = [
            _record(StoredFace, {**face, "window": number, "box": tuple(face["box"])})
            for face in facts["faces"]
        ]
        return _record(cls, {**facts, "faces": faces})


class Unreadable(NamedTuple):
    """Why a video could not be decoded."""

    reason: str


class Readable(NamedTuple):
    """A video that was decoded to its end.

    loss: what of it did not decode, in words; partial: whether that is so much that no
    dataset would take it.
    """

    file: FileFacts
    loss: str | None
    partial: bool

    @classmethod
    def from_json(cls, summary: dict[str, Any]) -> "Readable":
        """What tfds_ffpp.frames.windows yields at the end of a video."""
        return cls(_record(FileFacts, summary), summary["loss"], summary["partial"])


def _record(kind: type[R], facts: Mapping[str, Any]) -> R:
    """A record of the facts that have a field."""
    return kind(**{field.name: facts[field.name] for field in fields(kind)})
