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
        """What makes it one video.

        `033_097` is four videos in FF++, one of each method, so the name alone is no
        key; nor is it across compression levels.
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

    def to_json(self) -> Json:
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

    clip: its number within the video; score: the probability of fake.
    """

    video: Video
    clip: int
    start: int
    length: int
    logit: float
    score: float

    def to_json(self) -> Json:
        """A row of scores.jsonl."""
        return {
            **self.video.to_json(),
            "clip": self.clip,
            "start": self.start,
            "length": self.length,
            "logit": self.logit,
            "score": self.score,
        }

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
        )


class Unscored(NamedTuple):
    """A video that no clip can be taken from."""

    video: Video
    reason: str

    def to_json(self) -> Json:
        """As context.json has it."""
        return {**self.video.to_json(), "reason": self.reason}

    @classmethod
    def from_json(cls, row: Json) -> "Unscored":
        """As context.json has it. Raises KeyError naming a field that is missing."""
        return cls(Video.from_json(row), row.get("reason", ""))


class Strip(NamedTuple):
    """The frames of a clip that a report shows; each is text: a JPEG in base64."""

    video: Video
    clip: int
    score: float
    frames: Sequence[str]

    def to_json(self) -> Json:
        """A row of strips.jsonl."""
        video = self.video
        return {
            "dataset": video.dataset,
            "method": video.method,
            "video": video.name,
            "compression": video.compression,
            "label": video.label,
            "clip": self.clip,
            "score": self.score,
            "frames": self.frames,
        }

    @classmethod
    def from_json(cls, row: Json) -> "Strip":
        """A row of strips.jsonl. Raises KeyError naming a field that is missing."""
        frames = row.get("frames") or []
        return cls(Video.from_json(row), row["clip"], row["score"], frames)


class TrivialScore(NamedTuple):
    """What forests give a video: name of their statistics -> score; see trivial.py."""

    video: Video
    scores: dict[str, float]

    def to_json(self) -> Json:
        """A row of trivial.jsonl."""
        video = {k: v for k, v in self.video.to_json().items() if k != "source"}
        return {**video, "scores": self.scores}

    @classmethod
    def from_json(cls, row: Json) -> "TrivialScore":
        """A row of trivial.jsonl. Raises KeyError naming a field that is missing."""
        return cls(Video.from_json(row), row["scores"])
