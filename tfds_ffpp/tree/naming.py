"""What a video is: the record every layout yields, and FaceForensics++ file names."""

import re
from dataclasses import dataclass
from pathlib import Path

# Of every container that decoding.container.FORMATS opens, as its files are called.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mj2", ".f4v", ".flv"),
    *(".mkv", ".webm", ".avi", ".asf", ".wmv"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
)

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class Keyed:
    """How a video is named, wherever it is; see VideoRecord."""

    dataset: str
    method: str
    video_id: str
    original: str

    @property
    def in_set(self) -> str:
        """method/video_id: the key without the dataset, as `original` has it."""
        return f"{self.method}/{self.video_id}"

    @property
    def key(self) -> str:
        """dataset/method/video_id: the key of the example."""
        return f"{self.dataset}/{self.in_set}"

    @property
    def original_key(self) -> str:
        """Key of the real video that this fake was made from; "" if unknown."""
        return f"{self.dataset}/{self.original}" if self.original else ""


@dataclass(frozen=True)
class VideoRecord(Keyed):
    """One video and what its place and name say about it.

    path: its file, or the folder of its frames.

    (dataset, method, video_id) is unique; label is 0 for real and 1 for fake.
    target is the identity that the video shows, source the one whose face was put
    there; both are "" where a layout does not tell. original names the real video that
    a fake was made from as "method/video_id", "" if unknown. listed is the split that
    the set's own list puts the video in, "" where it has none.
    """

    path: Path
    dataset: str
    method: str
    video_id: str
    target: str
    source: str
    compression: str
    label: int
    original: str = ""
    listed: str = ""

    @property
    def mask(self) -> Path | None:
        """The video that shows where this fake is forged; None where there is none.

        As FaceForensics++ has them: METHOD/masks/videos beside METHOD/c23/videos.
        """
        if self.label == 0 or len(self.path.parents) < 3:
            return None
        if self.path.is_dir():  # c23/masks/NAME beside c23/frames/NAME
            path = self.path.parents[1] / "masks" / self.path.name
            return path if path.is_dir() else None
        path = self.path.parents[2] / "masks" / "videos" / self.path.name
        return path if path.is_file() else None

    @property
    def identities(self) -> tuple[str, ...]:
        """The people seen or used in the video: no split may share one with another."""
        if self.dataset == "deeperforensics":
            return (self.target,)  # its few actors are in videos of every split
        return tuple(dict.fromkeys(i for i in (self.target, self.source) if i))


@dataclass(frozen=True)
class OtherSet:
    """The videos of a set; list_file is the list that `listed` comes from."""

    records: list[VideoRecord]
    missing: tuple[str, ...] = ()
    list_file: Path | None = None


@dataclass(frozen=True)
class Name:
    """What a FaceForensics++ file name says. kind: youtube, actors, fake, dfd."""

    kind: str
    target: str
    source: str = ""
    original: str = ""


_PATTERNS = (
    ("youtube", re.compile(r"(?P<target>[0-9]{3})")),
    ("fake", re.compile(r"(?P<target>[0-9]{3})_(?P<source>[0-9]{3})")),
    ("actors", re.compile(r"(?P<target>[0-9]{2})__(?P<scene>[^/]+)")),
    (
        "dfd",
        re.compile(
            r"(?P<target>[0-9]{2})_(?P<source>[0-9]{2})__(?P<scene>[^/]+)"
            r"__[A-Za-z0-9]{8}"
        ),
    ),
)


def parse_name(stem: str) -> Name | None:
    """The parts of an official file name without suffix; None for any other name."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(stem)
        if match is None:
            continue
        target = match.group("target")
        if kind == "fake":
            return Name(kind, target, match.group("source"), f"youtube/{target}")
        if kind == "dfd":
            original = f"actors/{target}__{match.group('scene')}"
            return Name(kind, target, match.group("source"), original)
        return Name(kind, target)
    return None


def is_utf8(name: str) -> bool:
    """Whether a file name can be written down; others cannot be keys."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
