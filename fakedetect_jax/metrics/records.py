"""What the files of an evaluation say: rows of clips and videos, and of what they are.

Rows are written by evaluate.py; a field's name here is its name in the file.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tfds_ffpp.files import Json
from tfds_ffpp.frames.stored import StoredVideo


class Video(NamedTuple):
    """Which video a row is of; `name` is "video" in files. label: 1 = fake."""

    dataset: str
    method: str
    name: str
    target: str  # the identity whose video it is; "" when unknown
    source: str  # the identity whose face was put there; "" when unknown
    compression: str
    label: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it one video: the parts of StoredVideo.key, and the compression.

        `033_097` is four videos in FF++, one of each method, so the name alone is no
        key; nor is it across compression levels, which only evaluations put together.
        """
        return self.dataset, self.method, self.compression, self.name

    @classmethod
    def of(cls, video: StoredVideo) -> "Video":
        """The names of an example of the dataset."""
        return cls(
            dataset=video.dataset,
            method=video.method,
            name=video.video_id,
            target=video.target,
            source=video.source,
            compression=video.compression,
            label=video.label,
        )

    def to_json(self) -> dict[str, str | int]:
        """As every row begins."""
        return {
            "dataset": self.dataset,
            "method": self.method,
            "video": self.name,
            "target": self.target,
            "source": self.source,
            "compression": self.compression,
            "label": self.label,
        }

    @classmethod
    def from_json(cls, row: Json) -> "Video":
        """The video of a row. Raises KeyError naming a field that is missing."""
        return cls(
            str(row["dataset"]),
            str(row["method"]),
            str(row["video"]),
            str(row.get("target") or ""),
            str(row.get("source") or ""),
            str(row.get("compression") or ""),
            row["label"],
        )


class ClipScore(NamedTuple):
    """A clip, from `start` over `length` stored frames, and its score.

    clip: its number within the video; score: the probability of fake; distance: from
    the clips of the training, None without a guard.
    """

    video: Video
    clip: int
    start: int
    length: int
    logit: float
    score: float
    distance: float | None = None
    INLINE = ("video",)
    OMIT_NONE = True

    @classmethod
    def from_json(cls, row: Json) -> "ClipScore":
        """A row of scores.jsonl. Raises KeyError naming a field that is missing."""
        return cls(
            Video.from_json(row),
            row["clip"],
            row.get("start", 0),
            row.get("length", 0),
            float(row["logit"]),
            float(row["score"]),
            row.get("distance"),
        )


class Unscored(NamedTuple):
    """A video that no clip can be taken from."""

    video: Video
    reason: str = ""
    INLINE = ("video",)


class Strip(NamedTuple):
    """The frames of a clip that a report shows; each is text: a JPEG in base64."""

    video: Video
    clip: int
    score: float
    frames: Sequence[str] = ()
    INLINE = ("video",)
    OMIT = ("target", "source")


class TrivialScore(NamedTuple):
    """What forests give a video: name of their statistics -> score; see trivial.py."""

    video: Video
    scores: dict[str, float]
    INLINE = ("video",)
    OMIT = ("source",)
