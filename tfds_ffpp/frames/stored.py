"""What a dataset says of its videos, a line of JSON each, and of itself: its card."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.files import Json
from tfds_ffpp.tree.naming import Keyed, VideoRecord


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What preparing a video found; lists have one item for each stored frame.

    frame_index, timestamp: the source frame, and its time in seconds. num_valid: how
    many frames are not repeats of the last; 0 without a face. box: of the crop, as y0,
    x0, y1, x1 in source pixels. angle: degrees by which it is turned clockwise round
    its middle; None in a dataset that is not aligned. coverage: share of the looked-at
    frames with the face. num_faces: different faces seen. face_seen, face_box,
    face_points: see people.track.Track. masked: 1 where it is known and stored which
    part of each frame is forged. damaged: 1 where some of the file could not be
    decoded.
    """

    frame_index: Sequence[int]
    timestamp: Sequence[float]
    num_valid: int
    box: Sequence[float]
    coverage: float
    num_faces: int
    face_seen: Sequence[int]
    face_box: Sequence[Sequence[float]]
    face_points: Sequence[Sequence[Sequence[float]]]
    angle: float | None = None
    masked: int
    damaged: int
    sha256: str
    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float
    bit_rate: int
    source_frames: int


_FACTS = tuple(f.name for f in fields(VideoFacts))


@dataclass(frozen=True, kw_only=True)
class StoredVideo(Keyed, VideoFacts):
    """One example of a dataset without its frames. See VideoRecord for the names."""

    dataset: str
    method: str
    video_id: str
    label: int
    target: str
    source: str
    original: str
    compression: str

    def to_json(self) -> Json:
        """As plain data: all features of the example but its frames."""
        facts = {name: getattr(self, name) for name in (*_NAMES, *_FACTS)}
        if self.angle is None:
            del facts["angle"]
        return facts


_NAMES = tuple(f.name for f in fields(StoredVideo) if f.name not in _FACTS)


def stored_video(record: VideoRecord, facts: VideoFacts) -> StoredVideo:
    """The example that a prepared video becomes."""
    names = {name: getattr(record, name) for name in _NAMES}
    return StoredVideo(**names, **vars(facts))


def read_table(path: Path) -> list[StoredVideo]:
    """The videos of a split, in the order of its records. Raises DataError."""
    videos = []
    # Names may hold what splitlines takes for an end.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else (), start=1):
        try:
            videos.append(StoredVideo(**json.loads(line)))
        except (ValueError, TypeError):
            raise DataError(
                f"{path}: line {number} is not what this version writes of a video; "
                "build the dataset again"
            ) from None
    return videos


@dataclass(frozen=True)
class CardFacts:
    """What models and reports repeat of a dataset's card; see tfds_ffpp.card.Card."""

    made: bool = False
    official_split: bool | None = None
    split_source: str | None = None
    warnings: list[str] = field(default_factory=list)


def read_card(folder: Path) -> CardFacts:
    """Of the card that was written with a dataset; of none, nothing."""
    path = folder / "card.json"
    if not path.exists():
        return CardFacts()
    return records.from_json(CardFacts, json.loads(path.read_text()))


@dataclass(frozen=True)
class Rejected:
    """A video that is not in the dataset. expected: it should have been one."""

    path: Path
    reason: str
    expected: bool = True
    record: VideoRecord | None = None

    def to_json(self) -> dict[str, str | int]:
        """As a line of rejected.jsonl."""
        record = self.record
        return {
            "path": os.fsencode(self.path).decode(errors="replace"),
            "reason": self.reason,
            "dataset": record.dataset if record else "",
            "method": record.method if record else "",
            "video_id": record.video_id if record else "",
            "label": record.label if record else -1,
        }


def write_lines(path: Path, rows: Iterable[StoredVideo | Rejected]) -> None:
    """Writes lines of JSON."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")
