"""What is found of a video of any length: its file, its windows and their faces."""

from dataclasses import dataclass, field
from typing import Protocol

Box = tuple[float, float, float, float]  # y0, x0, y1, x1 in pixels of the source


class Alive(Protocol):
    """Called often while work goes on; while shots are looked for, with the frames that
    were looked at and how many there should be."""

    def __call__(self, done: int = 0, total: int = 0) -> None:
        """Returns soon."""
        ...


def unheard(done: int = 0, total: int = 0) -> None:
    """Of an Alive whom nobody hears."""


@dataclass(frozen=True)
class Looked:
    """How far the search for shots is: frames that were looked at, of how many."""

    frames: int
    total: int


@dataclass(frozen=True)
class Tag:
    """A word that a file says of itself; place: "file", "video" or "sound"."""

    place: str
    name: str
    value: str


@dataclass(frozen=True)
class Edit:
    """A stretch that an edit list shows of a track: seconds of the film, and where they
    begin in the track's own; None for nothing, which waits."""

    track: int
    kind: str
    seconds: float
    source: float | None


@dataclass(frozen=True)
class ContainerFacts:
    """What a video's container and streams say; who wrote it may have said anything.

    brands: of mp4 and mov; encoder: the programs that are named as having written the
    container and the pictures; created: as the file says it; seconds: of the whole.
    video_bit_rate: bits per second, 0 if unsaid. sound: the codec of each track.
    """

    format: str
    brands: tuple[str, ...]
    encoder: tuple[str, ...]
    created: str
    seconds: float
    profile: str
    video_bit_rate: int
    sound: tuple[str, ...]
    tags: tuple[Tag, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Action:
    """Something that a manifest says was done: what, when, by which program, and for
    what is made newly, of which kind it is (IPTC's digital source types)."""

    action: str
    when: str
    agent: str
    source: str


@dataclass(frozen=True)
class Credentials:
    """What a file's C2PA manifest (Content Credentials) says, and what of it holds.

    state: "none"; "valid", where nothing was changed since it was signed, by somebody
    whom no list here vouches for; "invalid", with problems; "unreadable" or "not read",
    with the reason. generator: the program that made the claim; signer, issuer: as its
    certificate says; signed: when, by a time stamp. ingredients: what it was made of.
    problems: codes of the C2PA specification. reader: the package that read it.
    """

    state: str
    reason: str = ""
    generator: str = ""
    title: str = ""
    signer: str = ""
    issuer: str = ""
    signed: str = ""
    actions: tuple[Action, ...] = ()
    ingredients: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    reader: str = ""


@dataclass(frozen=True)
class FileFacts:
    """The video file.

    damaged: whether some of its frames do not decode; promised_frames: how many there
    should be; missing_from: seconds of the first that is missing, None if not known.
    still: whether it is a picture and no video. container: None of a picture;
    credentials: None where nobody looked.
    """

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    pixel_format: str
    bit_rate: int
    damaged: bool
    promised_frames: int
    missing_from: float | None
    sha256: str
    still: bool = False
    container: ContainerFacts | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True)
class Described:
    """Numbers of a face, near those of the same person's other faces; the face is
    that of this place in a window's faces."""

    window: int
    face: int
    values: list[float]


@dataclass(frozen=True)
class FileSummary:
    """A file whose windows are all prepared.

    loss: what of it did not decode, in words; partial: whether that is so much that no
    dataset would take it. described: of faces that go on with none of the window
    before, where there are several; not_described: how many more there were.
    """

    file: FileFacts
    loss: str | None
    partial: bool
    described: list[Described] = field(default_factory=list)
    not_described: int = 0


@dataclass(frozen=True)
class StoredFace:
    """One face of a window, prepared as the dataset stores a video.

    window: its number; entry: the file of its frames; num_valid: how many they are;
    face_seen: 1 for each in which the face was found; coverage: the share of the frames
    looked at in which it was; num_faces: different faces seen.
    """

    window: int
    entry: str
    num_valid: int
    face_seen: list[int]
    box: Box
    coverage: float
    num_faces: int

    @property
    def side(self) -> float:
        """Of its square in the source, in pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True)
class LeftOut:
    """How often a face of a window was found and is not scored, by the reason.

    small: too small beside the largest; seldom: in too few of the frames looked at;
    beside: the largest alone was asked for; enlarged: too few pixels for the model;
    short: too few frames for it.
    """

    small: int = 0
    seldom: int = 0
    beside: int = 0
    enlarged: int = 0
    short: int = 0


@dataclass(frozen=True)
class PreparedWindow:
    """The frames start to stop of `total`, and the faces that were stored of them.

    frame_index and timestamp (seconds) are of the frames that were looked at; shot: the
    number of the one that they lie in; left_out: faces that were not stored.
    """

    number: int
    start: int
    stop: int
    total: int
    frame_index: list[int]
    timestamp: list[float]
    faces: list[StoredFace]
    shot: int = 0
    left_out: LeftOut = LeftOut()
