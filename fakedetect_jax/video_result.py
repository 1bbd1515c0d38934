"""What is said of a video: the row that predict writes, with names for its fields."""

from dataclasses import dataclass

from tfds_ffpp import records
from tfds_ffpp.files import Json
from tfds_ffpp.frames.found import Box, FileFacts

Span = tuple[float, float]  # first and last


@dataclass(frozen=True)
class ClipResult:
    """A clip, from `start` over `length` stored frames of a window, and its score.

    frames, seconds: the first and the last of the source.
    """

    window: int
    start: int
    length: int
    frames: tuple[int, int]
    seconds: Span
    logit: float
    score: float


@dataclass(frozen=True)
class FaceResult:
    """What is said of one face over its clips; box: in its first window."""

    score: float
    probability: float | None
    verdict: str
    seconds: Span
    box: Box
    coverage: float
    clips: list[ClipResult]


@dataclass(frozen=True)
class ModelFacts:
    """Which model scored: the first 16 digits of its weights' SHA-256."""

    step: int
    weights: str


@dataclass(frozen=True)
class VideoResult:
    """What is said of a video; docs/predict.md explains the fields, which are in order.

    Of a video that was refused nothing is known of the model either.
    """

    video: str
    outcome: str
    reason: str | None = None
    verdict: str | None = None
    score: float | None = None
    probability: float | None = None
    threshold: float | None = None
    probability_threshold: float | None = None
    band: Span | None = None
    probability_band: Span | None = None
    faces: tuple[FaceResult, ...] = ()
    warnings: tuple[str, ...] = ()
    model: ModelFacts | None = None
    file: FileFacts | None = None
    windows: int | None = None
    windows_without_face: int | None = None
    frames_looked_at: int | None = None
    most_suspicious: ClipResult | None = None
    page: str | None = None

    def to_json(self) -> Json:
        """The row of --output; a field that does not apply is left out."""
        absent = {name for name in _WHERE_KNOWN if getattr(self, name) is None}
        if self.model is None:
            absent.add("probability_threshold")  # else null has a meaning
        return {k: v for k, v in records.by_field(self).items() if k not in absent}


_WHERE_KNOWN = (
    *(
        "threshold",
        "band",
        "probability_band",
        "model",
        "file",
        "windows",
        "windows_without_face",
    ),
    *("frames_looked_at", "most_suspicious", "page"),
)
