"""A trained model out of its workdir: read from one, written to and read from a folder.

A bundle is a folder with model.safetensors (parameters and BatchNorm statistics under
the names that checkpoints give them), model.json (config, preprocessing, calibration,
where it comes from, the digest of the weights) and README.md, the model card.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from fakedetect_jax import data, evaluate, steps, workdir
from fakedetect_jax.checkpoint import Checkpoints, from_leaves, to_leaves, write_json
from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.settings import Config
from tfds_ffpp.prepare import Recipe

FORMAT = 1
WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
# The longest video of FaceForensics++, for models that do not say what they saw.
DEFAULT_WINDOW_FRAMES = 1800


class Model(NamedTuple):
    """A trained model and what is needed to use it as it was trained.

    variables: {"params", "batch_stats"} of host arrays; recipe: how videos were
    prepared, the fields of tfds_ffpp.prepare.Recipe; temperature and threshold are
    fitted on val, None where the checkpoint was not validated; window_frames: source
    frames of the longest training video; card: Markdown.
    """

    config: Config
    variables: dict[str, Any]
    recipe: dict[str, Any]
    temperature: float | None
    threshold: float | None
    window_frames: int
    step: int
    digest: str
    origin: dict[str, Any]
    card: str


def load(path: str | Path, *, step: int | None = None) -> Model:
    """The model of a workdir or a bundle, whichever lies at `path`.

    Raises CheckpointError for anything else; nothing is unpickled.
    """
    path = Path(path)
    if (path / FACTS).is_file():
        if step is not None:
            raise ConfigError(f"{path} holds one model; --step is for a workdir")
        return read_bundle(path)
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return read_workdir(path, step=step)
    raise CheckpointError(f"{path} is not a model of this project: {_what_is(path)}")


def _what_is(path: Path) -> str:
    if path.is_dir():
        there = sorted(p.name for p in path.iterdir())
        held = f"it holds {', '.join(there[:5])}" if there else "it is empty"
        return (
            f"{held}, but neither config.json and checkpoints/ (a workdir) nor "
            f"{FACTS} (an export); give one of these folders"
        )
    if path.exists():
        return (
            "it is a file, and foreign weights are never opened; give a workdir, or "
            "the folder that python -m fakedetect_jax.export wrote"
        )
    return "there is nothing; give a workdir or an exported folder"


# Workdirs --------------------------------------------------------------------------


def read_workdir(path: Path, *, step: int | None = None) -> Model:
    """The best checkpoint of a run, or the one of `step`; the workdir is only read.

    Raises CheckpointError telling what is there.
    """
    folder = Path(path) / "checkpoints"
    if not folder.is_dir() or not any(folder.iterdir()):
        workdir.read_record(Path(path))  # says so where it is no workdir at all
        there = ", ".join(sorted(p.name for p in Path(path).iterdir()))
        raise CheckpointError(
            f"there is no checkpoint in {folder} ({path} holds {there}); train first"
        )
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        step = evaluate.choose_step(checkpoints, step)
        facts = checkpoints.facts(step)
        config = as_config(facts["config"])
        variables = evaluate.read_variables(config, checkpoints, step)
        measured = checkpoints.metrics(step)
    finally:
        checkpoints.close()
    _refuse_not_finite(variables, folder / str(step))
    frames = (facts.get("source_frames") or {}).get("max")
    return Model(
        config=config,
        variables=variables,
        recipe=dataclasses.asdict(data.dataset_config(config).recipe),
        temperature=facts.get("temperature"),
        threshold=facts.get("threshold"),
        window_frames=frames or DEFAULT_WINDOW_FRAMES,
        step=step,
        digest=weights_digest(variables),
        origin={
            "versions": facts["versions"],
            "devices": facts.get("devices", ""),
            "val": measured,
        },
        card=_card(Path(path), step, evaluate.checkpoint_digest(facts)),
    )


def as_config(fields: dict[str, Any]) -> Config:
    """A config out of JSON: lists become the tuples that they were."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restore(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(restore(fields)).lock()


def weights_digest(variables: dict[str, Any]) -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, leaf in sorted(to_leaves(variables).items()):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{name}{leaf.dtype.name}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _refuse_not_finite(variables: dict[str, Any], where: Path) -> None:
    for name, leaf in to_leaves(variables).items():
        if not np.isfinite(leaf).all():
            raise CheckpointError(
                f"{where} cannot be used: {name} holds values that are not finite; "
                "use another checkpoint or export the model again"
            )


def _card(path: Path, step: int, weights: str) -> str:
    """The model card of an evaluation of these weights, test before val; else a short
    one.
    """
    for split in ("test", "val"):
        plain = path / "eval" / f"{split}@{step}"
        for folder in (plain, *sorted(plain.parent.glob(f"{plain.name}-*"))):
            card = folder / "MODEL_CARD.md"
            scored = evaluate.recorded(folder).get("weights", weights)
            if card.is_file() and scored == weights:
                return card.read_text()
    return (
        f"# {path.name}\n\nA ResNet + LSTM that scores videos of faces with the "
        f"probability that the face was forged; checkpoint of step {step}.\n\n"
        "No evaluation of it is recorded: how often it is wrong is not known.\n\n"
        "A score is a hint, not a proof.\n"
    )


# Bundles ---------------------------------------------------------------------------


def write_bundle(model: Model, folder: str | Path) -> list[Path]:
    """Writes model.safetensors, model.json and README.md; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {k: np.ascontiguousarray(v) for k, v in to_leaves(model.variables).items()}
    temporary = folder / f"{WEIGHTS}.tmp"
    safetensors.numpy.save_file(leaves, temporary, {"project": "fakedetect-jax"})
    temporary.replace(folder / WEIGHTS)
    (folder / CARD).write_text(model.card)
    # Last: without it the folder is no model.
    write_json(folder / FACTS, facts_of(model))
    return [folder / name for name in (WEIGHTS, FACTS, CARD)]


def facts_of(model: Model) -> dict[str, Any]:
    """The content of model.json."""
    groups = model.config.to_dict()
    side = model.config.dataset.image_size
    return {
        "project": "fakedetect-jax",
        "format": FORMAT,
        "config": {k: groups[k] for k in ("model", "dataset")}
        | {"data": {k: groups["data"][k] for k in CLIP_FIELDS}},
        "preprocessing": {
            # A path means nothing on another machine.
            "frames": {**model.recipe, "detector_model": ""},
            "window_frames": model.window_frames,
            "input": f"RGB uint8 [clips, {model.config.data.clip_frames}, {side}, "
            f"{side}, 3] and length int32 [clips]",
            "normalise": {"scale": 1 / 255, "mean": steps.MEAN, "std": steps.STD},
            "video_score": "mean over clips of sigmoid(logit), the chance of fake",
        },
        "calibration": {"temperature": model.temperature, "threshold": model.threshold},
        "step": model.step,
        "parameters": evaluate.count_parameters(model.variables["params"]),
        "weights_sha256": model.digest,
        "origin": model.origin,
    }


CLIP_FIELDS = ("clip_frames", "frame_stride", "eval_clips_per_video", "min_coverage")


def read_bundle(folder: str | Path) -> Model:
    """The model of a folder that write_bundle wrote. Raises CheckpointError."""
    folder = Path(folder)
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["project"] != "fakedetect-jax":
            raise ValueError(f"it is of {facts['project']!r}")
        if facts["format"] > FORMAT:
            raise CheckpointError(
                f"{path} has format {facts['format']}, this version reads up to "
                f"{FORMAT}; update fakedetect-jax"
            )
        config = as_config(facts["config"])
        calibration = facts["calibration"]
        numbers = [calibration["temperature"], calibration["threshold"]]
        model = Model(
            config=config,
            variables=_read_weights(folder / WEIGHTS, config),
            recipe=_checked_recipe(facts["preprocessing"]["frames"], config),
            temperature=_positive(numbers[0]),
            threshold=_positive(numbers[1]),
            window_frames=int(facts["preprocessing"]["window_frames"]),
            step=int(facts["step"]),
            digest=facts["weights_sha256"],
            origin=facts["origin"],
            card=(folder / CARD).read_text(encoding="utf-8", errors="replace")
            if (folder / CARD).is_file()
            else "",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a model of this project, or it is damaged ({said}); "
            "export the model again"
        ) from error
    if weights_digest(model.variables) != model.digest:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not what was exported with {path}; copy the whole "
            "folder again"
        )
    return model


def _checked_recipe(told: dict[str, Any], config: Config) -> dict[str, Any]:
    """The recipe of a bundle, which names no file and fits the model's input."""
    recipe = dataclasses.asdict(Recipe(**told))
    if recipe["detector_model"] or recipe["image_size"] != config.dataset.image_size:
        raise ValueError("its preprocessing does not fit its config")
    return recipe


def _positive(value: Any) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"calibration of {value}")
    return value


def _read_weights(path: Path, config: Config) -> dict[str, Any]:
    """The variables of a config's model. Raises CheckpointError."""
    empty = evaluate.abstract_variables(config)
    wanted = to_leaves(empty)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = set(file.keys())
            if names != set(wanted):
                odd = sorted(names ^ set(wanted))[:4]
                raise CheckpointError(
                    f"{path} does not hold the weights of its config: "
                    f"{', '.join(odd)} {'is' if len(odd) == 1 else 'are'} missing or "
                    "unexpected; export the model again"
                )
            for name in names:  # before any weight is read
                stored = tuple(file.get_slice(name).get_shape())
                if stored != wanted[name].shape:
                    raise CheckpointError(
                        f"{path}: {name} has shape {stored}, its config makes it "
                        f"{wanted[name].shape}; export the model again"
                    )
            leaves = {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({str(error).splitlines()[0]}); "
            "export the model again"
        ) from error
    for name, leaf in leaves.items():
        if leaf.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{path}: {name} is {leaf.dtype}, not {wanted[name].dtype}; "
                "export the model again"
            )
    variables = from_leaves(empty, leaves)
    _refuse_not_finite(variables, path)
    return variables
