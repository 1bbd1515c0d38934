"""What a checkpoint says of itself and of its run, beside the arrays."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fakedetect_jax.data.dataset import DatasetFacts
from fakedetect_jax.metrics.calibration import CrossFit
from tfds_ffpp import records
from tfds_ffpp.files import Json


class SourceFrames(NamedTuple):
    """How long the training videos were, in frames of the file."""

    median: int
    max: int


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says; None what it, or an older one, does not say.

    config: as config.to_dict() has it. val_fakes: "forged" or reader.SELF_BLENDED.
    made: whether it was trained on made videos. temperature, threshold, calibration:
    see calibration.Fitted. format, digests: of its arrays; the checkpoint adds them.
    """

    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    devices: str = ""
    source_frames: SourceFrames | None = None
    val_fakes: str | None = None
    made: bool | None = None
    dataset: DatasetFacts | None = None
    steps_per_epoch: int | None = None
    temperature: float | None = None
    threshold: float | None = None
    calibration: CrossFit | None = None
    format: int = 1
    digests: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """As plain data, without what is not known."""
        return {k: v for k, v in records.by_field(self).items() if v is not None}
