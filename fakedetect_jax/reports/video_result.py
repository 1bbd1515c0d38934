"""What is said of a video: the row that predict writes, with names for its fields."""

from dataclasses import dataclass

from tfds_ffpp import records
from tfds_ffpp.files import Json
from tfds_ffpp.frames.found import Box, FileFacts, LeftOut

Span = tuple[float, float]  # first and last


@dataclass(frozen=True)
class ClipResult:
    """A clip, from `start` over `length` stored frames of a window, and its score.

    frames, seconds: the first and the last of the source. distance: from the clips of
    the training, None without a guard.
    """

    window: int
    start: int
    length: int
    frames: tuple[int, int]
    seconds: Span
    logit: float
    score: float
    distance: float | None = None


@dataclass(frozen=True)
class FaceResult:
    """What is said of one face over its clips; box: in its first window.

    outcome: "scored" or "unfamiliar"; then there is no verdict. shot: the number of the
    one that it is seen in; person: the number of the one whose face it is.
    """

    outcome: str
    score: float
    probability: float | None
    distance: float | None
    verdict: str | None
    seconds: Span
    box: Box
    coverage: float
    clips: list[ClipResult]
    shot: int = 0
    person: int = 0


@dataclass(frozen=True)
class PersonResult:
    """What is said of one person over all clips of its faces, of which those that are
    unfamiliar count only where there are no others.

    faces: their numbers; shots: those in which they are seen. coverage: the share of
    the frames looked at in these shots in which a face was found; a window without one
    counts as none found.
    """

    outcome: str
    score: float
    probability: float | None
    verdict: str | None
    seconds: Span
    faces: tuple[int, ...]
    shots: tuple[int, ...]
    coverage: float


@dataclass(frozen=True)
class PartResult:
    """The most suspicious sustained part of a video: some seconds of one of its faces.

    verdict: "called fake" above the threshold, which allows for all parts looked_at.
    face: its number in `faces`.
    """

    verdict: str
    score: float
    probability: float | None
    threshold: float
    probability_threshold: float | None
    looked_at: int
    face: int
    shot: int
    seconds: Span


@dataclass(frozen=True)
class StillResult:
    """A frame that was kept as PNG, from a suspicious moment of a face.

    frame, seconds: of the source; sha256: of the file; pixels_sha256: of its RGB bytes,
    row by row, which do not depend on how PNG is written.
    """

    frame: int
    seconds: float
    face: int
    score: float
    path: str
    sha256: str
    pixels_sha256: str


@dataclass(frozen=True)
class AnnotatedVideo:
    """The video written anew with what was found. sound: "copied", "none", or what is
    missing of it."""

    path: str
    frames: int
    sound: str
    sha256: str
    stills: tuple[StillResult, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """Which model scored, and how: the first 16 digits of its weights' SHA-256.

    guard: of what it is, or "none" and why. window_frames, all_faces, find_shots,
    link_people, backend: see detector.Detector.load. source: on a hub.
    """

    step: int
    weights: str
    guard: str
    window_frames: int = 0
    all_faces: bool = True
    find_shots: bool = True
    link_people: bool = False
    source: str = ""
    backend: str = "jax"


@dataclass(frozen=True)
class VideoResult:
    """What is said of a video; docs/predict.md explains the fields, which are in order.

    Of a video that was refused nothing is known of the model either. verdict, score and
    probability are of the whole video; part: of its most suspicious part, None where
    the whole is no longer than one. copy_of: an earlier video with the same content.
    """

    video: str
    outcome: str
    trained_on: str | None = None
    reason: str | None = None
    verdict: str | None = None
    score: float | None = None
    probability: float | None = None
    threshold: float | None = None
    probability_threshold: float | None = None
    band: Span | None = None
    probability_band: Span | None = None
    distance: float | None = None
    distance_threshold: float | None = None
    part: PartResult | None = None
    faces: tuple[FaceResult, ...] = ()
    people: tuple[PersonResult, ...] | None = None
    warnings: tuple[str, ...] = ()
    model: ModelFacts | None = None
    file: FileFacts | None = None
    shots: int | None = None
    windows: int | None = None
    windows_without_face: int | None = None
    faces_left_out: LeftOut | None = None
    frames_looked_at: int | None = None
    most_suspicious: ClipResult | None = None
    page: str | None = None
    annotated: AnnotatedVideo | None = None
    copy_of: str | None = None

    def to_json(self) -> Json:
        """The row of --output; a field that does not apply is left out."""
        absent = {name for name in _WHERE_KNOWN if getattr(self, name) is None}
        if self.model is None:  # else null has a meaning
            absent |= {"probability_threshold", "distance", "distance_threshold"}
        return {k: v for k, v in records.by_field(self).items() if k not in absent}


_LEFT_OUT = {
    "small": "too small beside the largest",
    "seldom": "in too few frames",
    "beside": "beside the largest",
    "enlarged": "too small for the model",
    "short": "in too few frames for a clip",
}


def left_out_words(left: LeftOut) -> str:
    """How many faces were found and not scored, and why; nothing where none was."""
    counts = records.by_field(left)
    some = (f"{counts[k]} {words}" for k, words in _LEFT_OUT.items() if counts[k])
    return ", ".join(some)


_WHERE_KNOWN = (
    *("trained_on", "threshold", "band", "probability_band", "part", "model", "file"),
    "people",
    *("shots", "windows", "windows_without_face", "faces_left_out"),
    *("frames_looked_at", "most_suspicious", "page", "annotated", "copy_of"),
)
