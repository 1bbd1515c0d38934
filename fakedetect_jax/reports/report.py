"""What report.json says; docs/files.md explains the fields, which are in order."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from fakedetect_jax.metrics.calibration import CrossFit
from fakedetect_jax.metrics.doubt import Band, Selective
from fakedetect_jax.metrics.located import Localisation
from fakedetect_jax.metrics.metrics import Coverage, Span, Summary
from fakedetect_jax.metrics.records import Unscored
from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import Fields


@dataclass(frozen=True)
class TrainedOn:
    """A model's training set; same: it is the dataset that was scored."""

    dataset: str | None
    made: bool | None
    same: bool


@dataclass(frozen=True)
class Methods:
    """The methods of reals and of fakes."""

    real: list[str]
    fake: list[str]


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn; over: what their clusters are, in the plural."""

    level: float
    replicates: int
    over: str
    num_clusters: int
    num_identities: int


@dataclass(frozen=True)
class CalledReal:
    """How many of some reals are called real; at val's threshold, if there is one."""

    num_real: int
    specificity: float
    specificity_at_threshold: float | None


@dataclass(frozen=True)
class Calibrated:
    """What a temperature makes of videos' scores."""

    temperature: float
    loss: float | None
    brier: float | None
    ece: float | None


@dataclass(frozen=True)
class Area:
    """An AUC with its interval."""

    auc: float | None
    intervals: dict[str, Span | None]


@dataclass(frozen=True)
class TrivialArea(Area):
    """What a trivial statistic reaches: on all videos, then against each method."""

    by_method: dict[str, Area]


@dataclass(frozen=True)
class Unfamiliar:
    """How many scored videos are unlike those of the training, by a guard.

    Without one only the reason is known.
    """

    videos: int | None
    of: int
    threshold: float | None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Of the scored videos."""
        return None if self.videos is None or not self.of else self.videos / self.of


@dataclass(frozen=True, kw_only=True)
class VideoSummary(Summary):
    """The metrics of all videos, and of parts of them.

    by_method: each one's fakes against their reals; by_real: source of reals.
    """

    by_method: dict[str, Summary]
    by_compression: dict[str, Summary]
    by_real: dict[str, CalledReal]
    calibrated: Calibrated | None
    selective: Selective | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluation in numbers; None where something is not recorded."""

    name: str
    split: str | None
    step: int | None
    dataset: str | None
    trained_on: TrainedOn
    datasets: list[str]
    methods: Methods
    compressions: list[str]
    selected_on: str | None
    val_video_auc: float | None
    test_evaluations: int | None
    dataset_digest: str | None
    made: bool
    official_split: bool | None
    split_source: str | None
    interval: Draws
    coverage: Coverage
    policy: str
    unscored: list[Unscored]
    clip: Summary
    video: VideoSummary
    trivial: dict[str, TrivialArea]
    threshold: float | None
    band: Band | None
    temperature: float | None
    parameters: int | None
    device: str | None
    command: str | None
    versions: dict[str, str]
    config: Fields
    calibration: CrossFit | None
    calibration_note: str
    band_note: str
    unfamiliar: Unfamiliar | None = None
    localisation: Localisation | None = None
    warnings: list[str] = field(default_factory=list)


def to_text(report: Report) -> str:
    """The content of report.json."""
    plain = records.to_json(report)
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def read_report(folder: Path) -> Report:
    """The report of an evaluation.

    Raises FileNotFoundError without one, and DataError for one that is damaged.
    """
    path = folder / "report.json"
    try:
        return records.from_json(Report, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is damaged or of another version ({error}); write it with "
            f"`python -m fakedetect_jax.report --rebuild {folder}`"
        ) from error
