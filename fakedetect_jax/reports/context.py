"""What an evaluation is of: the content of context.json."""

from dataclasses import dataclass, field

from fakedetect_jax.metrics.calibration import CrossFit
from fakedetect_jax.metrics.doubt import Band
from fakedetect_jax.metrics.records import Unscored
from tfds_ffpp.fields import Fields
from tfds_ffpp.frames.stored import CardFacts


@dataclass(frozen=True)
class TrainingSet:
    """Which datasets a model was trained on, as `a + b`; made: of made videos."""

    dataset: str | None = None
    made: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an evaluation is of. A field of which nothing is known has its default.

    scored_with: all that the scores depend on; config: the run's, flat.
    dataset_changed: how the run's own dataset is not what it was; cut_otherwise: how
    another one was prepared otherwise. leaks: what the run's datasets share across
    their splits. unfamiliar_above: the distance above which a video is unlike those of
    the training; no_guard: why there is none. num_clips: the rows of scores.jsonl.
    detector: one that is not of this project; notes: what was
    found in its scores.
    """

    split: str | None = None
    step: int | None = None
    selected_on: str | None = None
    test_evaluations: int | None = None
    dataset: str | None = None
    trained_on: TrainingSet = TrainingSet()
    cut_otherwise: str = ""
    val_video_auc: float | None = None
    scored_with: Fields = field(default_factory=dict)
    config: Fields = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    command: str | None = None
    parameters: int | None = None
    temperature: float | None = None
    threshold: float | None = None
    band: Band | None = None
    calibration: CrossFit | None = None
    unfamiliar_above: float | None = None
    no_guard: str = ""
    dataset_card: CardFacts = CardFacts()
    dataset_digest: str | None = None
    dataset_changed: str = ""
    leaks: str = ""
    num_clips: int | None = None
    unscored: list[Unscored] = field(default_factory=list)
    unscored_policy: str = ""
    detector: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def policy(self) -> str:
        """What is done with videos that have no clip."""
        return self.unscored_policy or self.config.get("eval.unscored") or "exclude"
