"""model.json, which describes an exported model: read with limits, checked whole.

It may come from a stranger, so nothing in it is believed before every field was held
against a rule: kinds, ranges, no field too many or too few. Its own digest covers all
of it, and so the digest of the weights that it names: a changed threshold is found as
a changed weight is. A digest without a signature finds accidents and swapped parts; it
does not say who made the folder.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.data.order import clip_span
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.metrics.calibration import TEMPERATURE_BOUNDS, CrossFit
from fakedetect_jax.metrics.doubt import Band
from fakedetect_jax.metrics.parts import Reals
from fakedetect_jax.model.pixels import Scale, scale_of
from fakedetect_jax.settings import ADDED, RULES, renewed
from fakedetect_jax.trained.foreign import (
    Blocks,
    Digest,
    Maybe,
    Plain,
    Table,
    Text,
    fault_in,
    parse,
    read_text,
    shortened,
)
from fakedetect_jax.trained.guard import SCHEMA as GUARD_SCHEMA
from fakedetect_jax.trained.guard import GuardFacts
from tfds_ffpp import records
from tfds_ffpp.fields import (
    FIELDS,
    SHARE,
    SWITCH,
    Choice,
    Fields,
    Kind,
    Number,
    Whole,
)
from tfds_ffpp.files import Json
from tfds_ffpp.frames.people import faces, finders
from tfds_ffpp.frames.people.track import TYPICAL_POINTS
from tfds_ffpp.frames.prepare import Preparation

PROJECT, FORMAT = "fakedetect-jax", 2
MAX_CLIP_PIXELS = 1 << 25  # of all frames of a clip: 64 frames of 512x512 are half
MAX_STORED_PIXELS = 1 << 28  # of all stored frames of a window
MAX_PATCHES = 1 << 12  # of a frame; attention takes the square of it
LEAST_PATCH = 14  # pixels, of the named transformers
# How their names begin; other backbones have no attention.
TRANSFORMERS = ("clip_", "dinov2_", "dinov3_", "siglip2_", "mae_")


# What it says ----------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """How clips are cut, as config.data has it."""

    clip_frames: int
    frame_stride: int
    eval_clips_per_video: int
    min_coverage: float


@dataclass(frozen=True)
class Groups:
    """The groups of the config that a model needs."""

    model: Fields
    dataset: Fields
    data: Clips


@dataclass(frozen=True)
class Preprocessing:
    """All that lies between a file and the network; `input` and rules() follow."""

    frames: Preparation
    window_frames: int
    input: str
    rules: Json


@dataclass(frozen=True)
class Calibration:
    """Fitted on val, None where that was not done; see calibration.calibrate."""

    temperature: float | None
    threshold: float | None
    band: Band | None
    cross_fit: CrossFit | None
    reals: Reals | None = None


@dataclass(frozen=True)
class TrainedOn:
    """The dataset that a model was trained on: its name, digest and training videos.

    None what the checkpoint does not say.
    """

    dataset: str
    digest: str | None = None
    real: int | None = None
    fake: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where a model comes from. val: what was measured on it."""

    versions: dict[str, str]
    devices: str
    val: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of model.json; SCHEMA says what each field may be."""

    project: str = PROJECT
    format: int = FORMAT
    config: Groups
    preprocessing: Preprocessing
    calibration: Calibration
    step: int
    parameters: int
    weights_sha256: str
    trained_on_made_videos: bool
    trained_on: TrainedOn
    guard: GuardFacts
    origin: Origin

    def to_json(self) -> Json:
        """With its digest, as it is written."""
        return sealed(dataclasses.asdict(self))


CLIP_FIELDS = tuple(field.name for field in dataclasses.fields(Clips))


class Backbone(NamedTuple):
    """Of the config's model, what the pixels that it takes depend on."""

    backbone: str
    vit_style: str
    patch_size: int

    @property
    def patch(self) -> int | None:
        """Pixels a side of a transformer's patch, at the least; None of others."""
        if self.backbone == "vit":
            return self.patch_size
        return LEAST_PATCH if self.backbone.startswith(TRANSFORMERS) else None


# The whole -------------------------------------------------------------------------

_MODEL = {
    **{k[6:]: rule for k, rule in RULES.items() if k.startswith("model.")},
    "stage_sizes": Blocks(),
    "width": Whole(1, 4096),
    "lstm_features": Whole(1, 16384),
    "patch_size": Whole(1, 256),
    "depth": Whole(1, 200),
    "num_heads": Whole(1, 256),
    "registers": Whole(0, 64),
    "backbone": Text(),
    "stem": Text(),
    "block": Text(),
}
_PREPARATION = {
    field.name: FIELDS[field.name] for field in dataclasses.fields(Preparation)
} | {"face_finder_model": Choice(("",))}
_SIDE = {
    **dict.fromkeys(("threshold", "error", "bound"), SHARE),
    "num_clusters": Whole(1, 2**53),
}
_CALIBRATION = {
    "temperature": Maybe(Number(*TEMPERATURE_BOUNDS)),
    "threshold": Maybe(SHARE),
    "band": Maybe({"max_error": SHARE, "real": _SIDE, "fake": _SIDE}),
    "cross_fit": Maybe(
        {
            "fitted": Number(*TEMPERATURE_BOUNDS),
            "used": SWITCH,
            "loss": Maybe(Number(0)),
            "cross_fitted_loss": Maybe(Number(0)),
        }
    ),
    "reals": Maybe(
        {
            "mean": Number(-100, 100),
            "deviation": Number(0, 100),
            "num_clusters": Whole(2, 2**53),
        }
    ),
}
_TRAINED_ON = {
    "dataset": Text(),
    "digest": Maybe(Digest()),
    "real": Maybe(Whole(0, 2**53)),
    "fake": Maybe(Whole(0, 2**53)),
}
SCHEMA = {
    "project": Choice((PROJECT,)),
    "format": Whole(FORMAT, FORMAT),
    "config": {
        "model": _MODEL,
        "dataset": Table(Plain()),
        "data": {name: RULES[f"data.{name}"] for name in CLIP_FIELDS},
    },
    "preprocessing": {
        "frames": _PREPARATION,
        "window_frames": Whole(1, 10_000_000),
        # These follow from the rest, and are compared with what they must be.
        "input": Text(),
        "rules": Kind(dict, "an object"),
    },
    "calibration": _CALIBRATION,
    "step": Whole(0, 2**53),
    "parameters": Whole(1, 2**53),
    "weights_sha256": Digest(),
    "trained_on_made_videos": SWITCH,
    "trained_on": _TRAINED_ON,
    "guard": GUARD_SCHEMA,
    "origin": {
        "versions": Table(Text()),
        "devices": Text(),
        "val": Table(Maybe(Number(-1e9, 1e9))),
    },
    "sha256": Digest(),
}


# What an export of before these fields did not say.
_EARLIER = {
    "trained_on": dataclasses.asdict(TrainedOn("")),
    "guard": dataclasses.asdict(GuardFacts("the export is older than guards")),
}


def _completed(facts: Fields) -> Fields:
    """With the fields that an earlier version did not write."""
    config = facts.get("config")
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        added = {k[6:]: v for k, v in ADDED.items() if k.startswith("model.")}
        config = renewed(config)
        config = {**config, "model": {**added, **config["model"]}}
    whole = {**_EARLIER, **facts, "config": config}
    if isinstance(whole.get("calibration"), dict):
        whole["calibration"] = {"reals": None, **whole["calibration"]}
    prepared = whole.get("preprocessing")
    if isinstance(prepared, dict) and isinstance(prepared.get("frames"), dict):
        frames = {"align": "none", **prepared["frames"]}
        whole["preprocessing"] = {**prepared, "frames": frames}
    return whole


def check(facts: Any) -> Description:
    """The record of a description. Raises ValueError, in a clause, for one that cannot
    be used."""
    if isinstance(facts, dict) and facts.get("project") != PROJECT:
        raise ValueError(f"project is {shortened(facts.get('project'))}")
    if isinstance(facts, dict) and facts.get("format") != FORMAT:
        raise ValueError(
            f"its format is {shortened(facts.get('format'))}, this version reads "
            f"{FORMAT}"
        )
    whole = _completed(facts) if isinstance(facts, dict) else facts
    if fault := fault_in(whole, SCHEMA):
        raise ValueError(fault)
    described: Description = records.from_json(Description, whole)
    fault = _misfit(described)
    if fault is None and facts.get("sha256") != digest(facts):
        fault = "it is not what was exported: its digest is another"
    if fault:
        raise ValueError(fault)
    return described


def _misfit(described: Description) -> str | None:
    """What does not fit together in fields that are each fit."""
    config, prepared = described.config, described.preprocessing
    band = described.calibration.band
    if band is not None and band.ends[0] > band.ends[1]:
        return "calibration.band calls scores both real and fake"
    for field, value in config.dataset.items():
        rule = FIELDS.get(field)
        wanted = rule and rule.fault(value)
        if wanted:
            name = f"config.dataset.{shortened(field, 40)}"
            return f"{name} is {shortened(value)}; it must be {wanted}"
    preparation, clips = prepared.frames, config.data
    side, stored, clip = (
        preparation.image_size,
        preparation.num_frames,
        clips.clip_frames,
    )
    if config.dataset.get("image_size") != side:
        return "its preprocessing does not fit its config"
    span = clip_span(clip, clips.frame_stride)
    if span > stored:
        return f"a clip spans {span} frames, but {stored} are stored"
    if clip * side**2 > MAX_CLIP_PIXELS:
        return f"clips of {clip} frames of {side} pixels are too large"
    if stored * side**2 > MAX_STORED_PIXELS:
        return f"{stored} frames of {side} pixels are too large"
    patch = records.from_json(Backbone, config.model).patch
    if patch and (side // patch) ** 2 > MAX_PATCHES:
        return f"frames of {side} pixels have too many patches"
    wanted = preprocessed(preparation, prepared.window_frames, clips, config.model)
    if dataclasses.asdict(prepared) != as_json(dataclasses.asdict(wanted)):
        return "its preprocessing is not that of this version"
    known = described.guard
    is_one = known.threshold is not None, known.sha256 is not None
    if {not known.reason, *is_one} not in ({True}, {False}):
        return "its guard is neither one nor none"
    if preparation.face_finder == "yunet":
        return (
            "its faces are found with a file of YuNet, which no export holds: score "
            "with the workdir"
        )
    return None


def preprocessed(
    preparation: Preparation, window_frames: int, clips: Clips, model: Fields
) -> Preprocessing:
    """model.json's preprocessing: all that lies between a file and the network.

    model: the fields of the config's group of that name.
    docs/predict_steps.md says the same in words; examples/score_with_onnx.py does it.
    """
    side, backbone = preparation.image_size, records.from_json(Backbone, model)
    return Preprocessing(
        # A path means nothing on another machine.
        frames=dataclasses.replace(preparation, face_finder_model=""),
        window_frames=window_frames,
        input=f"RGB uint8 [clips, {clips.clip_frames}, {side}, {side}, 3] and "
        "length int32 [clips]",
        rules=rules(
            scale_of(backbone.backbone, backbone.vit_style),
            aligned=preparation.align != "none",
            network=preparation.face_finder == "dlib_network",
        ),
    )


ALIGNED_RULES = {
    "align": "of the frames that show the face in the box's crops, the median of each "
    "of five points; the similarity that brings those of a typical face, in a crop, "
    "nearest to them (least squares) turns and places the box; its side grows where "
    "the points' mean moves off by more than the box leaves, up to twice",
    "typical_points": TYPICAL_POINTS.tolist(),
    "typical_box": "1/margin sides, in the middle of the crop; typical_points are in "
    "its sides, as y, x",
    "turned_crop": "the box turned round its middle, by INTER_CUBIC in its own size "
    "or image_size, whichever is larger, then INTER_AREA; what is outside repeats the "
    "edge",
}


NETWORK_RULES = {
    "network": "dlib's mmod_human_face_detector, not enlarged, asked where a crop "
    "shows the certain detector no face, and of the first way's looks where all tracks "
    "fail; its tracks last for lasting_looks",
    "network_box": {
        "side": finders.NETWORK_TO_HOG,
        "down": finders.NETWORK_DOWN,
        "right": finders.NETWORK_RIGHT,
    },
}


def rules(scale: Scale, *, aligned: bool = False, network: bool = False) -> Json:
    """What is the same for all models of this version, on the way to the network.

    But for the scale, which the network's backbone expects, how faces are aligned, and
    whether dlib's network helps to find them.
    Python notation; `//` is the quotient rounded down, `round` goes to the even one.
    """
    ways = [
        {
            "longest_side": side,
            "enlarged_at_most": enlarge,
            "uncertain": faint,
            "dlib_adjust_threshold": -0.2 if faint else 0.0,
        }
        for side, enlarge, faint in (
            *((*way, False) for way in faces.LOOKS),
            (*faces.LOOKS[0], True),
        )
    ]
    return {
        **(ALIGNED_RULES if aligned else {}),
        **(NETWORK_RULES if network else {}),
        "windows": "k = -(-n // window_frames) windows of a video of n frames; window "
        "i holds the frames i*n//k up to (i+1)*n//k - 1",
        "stored_frames": "of a window of n frames: all if n <= num_frames, else "
        "(2*i + 1)*n // (2*num_frames) for i < num_frames; with frame_step s: "
        "c = min(num_frames, -(-n // s)), from (n - (c-1)*s - 1) // 2 in steps of s",
        "looked_at": "of m stored frames: k = min(5, m), at (2*i + 1)*m // (2*k)",
        "ways_of_looking": ways,
        "look_scale": "min(longest_side / max(height, width), enlarged_at_most), sides "
        "rounded; resized by OpenCV's INTER_AREA if < 1, INTER_LINEAR if > 1",
        "track_overlap": faces.MIN_OVERLAP,
        "lasting_looks": faces.MIN_LOOKS,
        "uncertain_lasts": faces.MIN_LASTING,
        "crop_side": faces.CROP_SIDE,
        "confirm_frames": faces.CONFIRM_FRAMES,
        "confirmed": faces.MIN_CONFIRMED,
        "overlap_in_crop": faces.MIN_IN_CROP,
        "face": "of the certain ways the first whose tracks last for lasting_looks; "
        "else the tracks of them that their crops confirm; else uncertain ones that "
        "last; of these the track with the largest sum of areas",
        "seen": "a find in the crop of crop_side pixels, before JPEG, overlaps a box "
        "of 1/margin sides in its middle by overlap_in_crop; a track is confirmed (by "
        "a margin of 1.3) where that is so in a share of confirm_frames frames, spread "
        "as those looked at",
        "box": "a square round the middle of the union of the track's boxes; its side "
        "is margin times the median longer side, or the union's longer side where that "
        "is more, up to twice the former; shifted into the picture, or centred on it "
        "where it is larger",
        "crop": "ends rounded; what is outside repeats the edge; resized by INTER_AREA "
        "if both sides are >= image_size, else INTER_CUBIC",
        "stored_as": "JPEG of jpeg_quality and jpeg_subsampling, and back",
        "colour": "ffmpeg's scaler to rgb24 with flags=bicubic, turned upright",
        "clip_starts": "of the starts from 0 to max(m - (clip_frames-1)*frame_stride - "
        "1, 0) those whose clip shows the face in a share of min_coverage of its "
        "frames; of these the distinct ones at round(linspace(0, last, "
        "eval_clips_per_video)), at last // 2 if that is 1",
        "clip": "frames start + frame_stride*t that are below m; length says how many, "
        "and the last one is repeated; none is scored where m < clip_frames",
        "normalise": {
            "where": "in the program: (x / 255 - mean) / std",
            "mean": scale.mean,
            "std": scale.std,
        },
        "video_score": "mean over all clips of a face of sigmoid(logit); the highest "
        "of its faces",
        "probability": "sigmoid(log(score / (1 - score)) / temperature)",
    }


def as_json(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))


def digest(facts: Json) -> str:
    """SHA-256 of a description without its own digest."""
    rest = {k: v for k, v in facts.items() if k != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(facts: Json) -> Json:
    """A description with its digest, and null for numbers that JSON does not have."""
    whole = _finite({k: v for k, v in facts.items() if k != "sha256"})
    return {**whole, "sha256": digest(as_json(whole))}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Files -----------------------------------------------------------------------------


def read(path: Path) -> Description:
    """The checked content of a model.json. Raises CheckpointError."""
    try:
        return check(parse(read_text(path)))
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} is not a model of this project, or it is damaged ({said}); "
            "export the model again"
        ) from error
