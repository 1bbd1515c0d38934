"""A trained model out of its workdir: read from one, written to and read from a folder.

A bundle is a folder with model.safetensors (parameters and BatchNorm statistics under
the names that checkpoints give them), model.json (config, preprocessing, calibration,
where it comes from, the digests of weights and guard), guard.safetensors where there is
a guard, and README.md, the model card.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import safetensors.numpy

from fakedetect_jax.data import shares
from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.metrics.calibration import CrossFit
from fakedetect_jax.metrics.doubt import Band
from fakedetect_jax.metrics.parts import Reals
from fakedetect_jax.run.leaves import from_leaves, to_leaves
from fakedetect_jax.settings import Config, as_config, flatten
from fakedetect_jax.trained import description, foreign, guard, hub
from fakedetect_jax.trained.cache import abstract_variables
from fakedetect_jax.trained.description import (
    Calibration,
    Clips,
    Description,
    Groups,
    Origin,
    TrainedOn,
)
from fakedetect_jax.trained.guard import NOT_FITTED, Guard, GuardFacts
from fakedetect_jax.trained.weights import (
    checkpoint_digest,
    choose_step,
    read_variables,
)
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.store import copies
from tfds_ffpp.store.addresses import as_path, is_address
from tfds_ffpp.store.files import write_json, write_whole

# An export is read without what only a workdir takes: Orbax, TFDS, Flax.
if TYPE_CHECKING:
    from fakedetect_jax.model.network import Variables
    from fakedetect_jax.run.checkpoint import CheckpointFacts

WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
GUARD = "guard.safetensors"
# The longest video of FaceForensics++, for models that do not say what they saw.
DEFAULT_WINDOW_FRAMES = 1800
MAX_WEIGHT_BYTES = 4 << 30
# The files of an export that are fetched from a hub, and their most bytes.
HUB_LIMITS = {
    WEIGHTS: MAX_WEIGHT_BYTES + (1 << 20),
    GUARD: 64 << 20,
    CARD: foreign.MAX_BYTES,
    FACTS: foreign.MAX_BYTES,
}


class TrainedModel(NamedTuple):
    """A trained model and what is needed to use it as it was trained.

    variables: of host arrays; preparation: how videos were prepared; temperature,
    threshold and band are fitted on val, None where the checkpoint was not validated;
    reals: how val's real videos score; window_frames: source frames of the longest
    training video; made: whether it was trained on made videos; calibration: what
    calibration.calibrate found, None if not recorded; guard: what says which faces are
    unlike those of the training, None for no_guard's reason; card: Markdown;
    source: the address on a hub, with its commit.
    """

    config: Config
    variables: "Variables"
    preparation: Preparation
    temperature: float | None
    threshold: float | None
    window_frames: int
    step: int
    digest: str
    origin: Origin
    card: str
    made: bool = False
    calibration: CrossFit | None = None
    band: Band | None = None
    reals: Reals | None = None
    trained_on: TrainedOn = TrainedOn("")
    guard: Guard | None = None
    no_guard: str = NOT_FITTED
    source: str = ""

    @property
    def data(self) -> str:
        """What it was trained on, in words."""
        name = self.trained_on.dataset or self.config.dataset.name
        if self.made:
            return f"made videos ({name}): its scores mean nothing on real ones"
        return f"dataset {name}"


def load_model(
    path: str | Path, *, step: int | None = None, cache: Path | None = None
) -> TrainedModel:
    """The model of a workdir or a bundle, whichever lies at `path`.

    cache: a folder that keeps what need not be found anew at the next start.

    Raises CheckpointError for anything else; nothing is unpickled.
    """
    if hub.is_address(path):
        return _read_hub(str(path), step=step, cache=cache)
    path = as_path(path)
    in_bucket = is_address(path)
    if (path / FACTS).exists() if in_bucket else os.path.lexists(path / FACTS):
        if step is not None:
            raise ConfigError(f"{path} holds one model; --step is for a workdir")
        return read_bundle(copies.here(path), cache=cache)
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return read_workdir(path, step=step, cache=cache)
    raise CheckpointError(f"{path} is not a model of this project: {_what_is(path)}")


def _read_hub(text: str, *, step: int | None, cache: Path | None) -> TrainedModel:
    if step is not None:
        raise ConfigError(f"{text} holds one model; --step is for a workdir")
    fetched = hub.fetch(text, needed=(FACTS, WEIGHTS), limits=HUB_LIMITS)
    model = read_bundle(fetched.folder, cache=cache)
    return model._replace(source=str(fetched.address))


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


def read_workdir(
    path: Path, *, step: int | None = None, cache: Path | None = None
) -> TrainedModel:
    """The best checkpoint of a run, or the one of `step`; the workdir is only read.

    Raises CheckpointError telling what is there.
    """
    from fakedetect_jax.data import dataset
    from fakedetect_jax.run import workdir
    from fakedetect_jax.run.checkpoint import Checkpoints
    from tfds_ffpp.terminal.lines import Terminal

    folder = path / "checkpoints"
    if not folder.is_dir() or not any(folder.iterdir()):
        workdir.read_config(path)  # says so where it is no workdir at all
        there = ", ".join(sorted(p.name for p in path.iterdir()))
        raise CheckpointError(
            f"there is no checkpoint in {folder} ({path} holds {there}); train first"
        )
    with _without_notes():
        checkpoints = Checkpoints(folder, read_only=True)
    try:
        step = choose_step(checkpoints, step, warn=Terminal().warn)
        facts = checkpoints.facts(step)
        config = as_config(facts.config)
        variables = read_variables(config, checkpoints, step, cache=cache)
        measured = checkpoints.metrics(step)
    finally:
        checkpoints.close()
    _refuse_not_finite(variables, folder / str(step))
    # A checkpoint that does not say was trained where its config made videos.
    made = config.synthetic.num_identities if facts.made is None else facts.made
    made = bool(made)
    guarded = read_guard(path, step, facts, feature_width(variables))
    return TrainedModel(
        config=config,
        variables=variables,
        preparation=dataset.dataset_config(config).preparation,
        temperature=facts.temperature,
        threshold=facts.threshold,
        window_frames=facts.source_frames.max
        if facts.source_frames
        else DEFAULT_WINDOW_FRAMES,
        step=step,
        digest=weights_digest(variables),
        # The numbers of one of several validation sets stay in the workdir.
        origin=Origin(
            facts.versions,
            facts.devices,
            {name: value for name, value in measured.items() if "@" not in name},
        ),
        card=_card(path, step, checkpoint_digest(facts), made=made),
        made=made,
        calibration=facts.calibration,
        band=facts.band,
        reals=facts.reals,
        trained_on=_trained_on(config, facts),
        guard=guarded if isinstance(guarded, Guard) else None,
        no_guard="" if isinstance(guarded, Guard) else guarded,
    )


def _trained_on(config: Config, facts: "CheckpointFacts") -> TrainedOn:
    from fakedetect_jax.data import sets

    fields = flatten(config.to_dict())
    name = shares.sets_in_words(fields)
    if facts.dataset is None:
        return TrainedOn(name)
    every = {config.dataset.name: facts.dataset, **facts.other_datasets}
    every = {n: every[n] for n in shares.trained_sets(fields)}
    found = [one.splits["train"] for one in every.values() if "train" in one.splits]
    counts = (sum(f.real for f in found), sum(f.fake for f in found)) if found else ()
    return TrainedOn(name, sets.combined_digest(every), *counts)


# What takes the frames in: a layer over time, or the head itself.
_TAKE_FRAMES = tuple(
    f"params.{name}.kernel"
    for name in ("lstm.forward.ii", "hidden.in", "encoder.in", "head")
)


def feature_width(variables: "Variables") -> int:
    """How many numbers a guard knows a clip by; see network.logits_and_features."""
    leaves = to_leaves(variables)
    return next(int(leaves[n].shape[0]) for n in _TAKE_FRAMES if n in leaves)


# A guard is fitted when its checkpoint is chosen, and lies beside the checkpoints; its
# name follows from the weights.


def guard_place(workdir: Path, step: int, facts: "CheckpointFacts") -> Path:
    """Where the facts of a checkpoint's guard lie; its arrays lie beside them."""
    return workdir / "guards" / f"{step}-{checkpoint_digest(facts)[:16]}.json"


def read_guard(
    workdir: Path, step: int, facts: "CheckpointFacts", width: int
) -> Guard | str:
    """The guard of a checkpoint, or why there is none. Raises CheckpointError."""
    path = guard_place(workdir, step, facts)
    if not path.exists():
        return NOT_FITTED
    found = guard.read_facts(path)
    return found.reason or guard.read(path.with_suffix(".safetensors"), found, width)


def write_guard(
    workdir: Path, step: int, facts: "CheckpointFacts", fitted: Guard | str
) -> None:
    """Keeps the guard of a checkpoint, or why there is none."""
    path = guard_place(workdir, step, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(fitted, str):
        return write_json(path, GuardFacts(fitted))
    arrays = path.with_suffix(".safetensors").name
    write_whole(path.parent, {arrays: guard.to_bytes(fitted)})
    return write_json(path, fitted.facts)


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Orbax warns of what read_only=True means; that is not for our users."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def weights_digest(variables: "Variables") -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, leaf in sorted(to_leaves(variables).items()):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{name}{leaf.dtype.name}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _refuse_not_finite(variables: "Variables", where: Path) -> None:
    for name, leaf in to_leaves(variables).items():
        if not np.isfinite(leaf).all():
            raise CheckpointError(
                f"{where} cannot be used: {name} holds values that are not finite; "
                "use another checkpoint or export the model again"
            )


def _card(path: Path, step: int, weights: str, *, made: bool = False) -> str:
    """The model card of an evaluation of these weights, test before val; else a short
    one.
    """
    from fakedetect_jax.reports import results

    for split in ("test", "val"):
        plain = path / "eval" / f"{split}@{step}"
        for folder in (plain, *sorted(plain.parent.glob(f"{plain.name}-*"))):
            card = folder / "MODEL_CARD.md"
            scored = results.recorded(folder).get("weights", weights)
            whole = card.is_file() and not results.complaint(folder)
            if whole and scored == weights:
                return card.read_text()
    warning = "Trained on made videos: its scores mean nothing on real ones.\n\n"
    return (
        f"# {path.name}\n\n{warning if made else ''}"
        "Scores videos of faces with the probability that the face was forged; "
        f"checkpoint of step {step}.\n\n"
        "No evaluation of it is recorded: how often it is wrong is not known.\n\n"
        "A score is a hint, not a proof.\n"
    )


# Bundles ---------------------------------------------------------------------------


def write_bundle(model: TrainedModel, folder: str | Path) -> list[Path]:
    """Writes model.safetensors, model.json and README.md; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {k: np.ascontiguousarray(v) for k, v in to_leaves(model.variables).items()}
    # Not save_file, whose files nobody but their writer may read.
    content = safetensors.numpy.save(leaves, {"project": "fakedetect-jax"})
    (folder / WEIGHTS).write_bytes(content)
    (folder / CARD).write_text(model.card)
    names = [WEIGHTS, FACTS, CARD]
    if model.guard is not None:
        (folder / GUARD).write_bytes(guard.to_bytes(model.guard))
        names.append(GUARD)
    # Last: without it the folder is no model.
    write_json(folder / FACTS, describe(model))
    return [folder / name for name in names]


def describe(model: TrainedModel) -> Description:
    """The content of model.json."""
    from fakedetect_jax.model import network

    config = model.config
    clips = Clips(**{name: config.data[name] for name in description.CLIP_FIELDS})
    return Description(
        config=Groups(
            model=config.model.to_dict(),
            dataset={**config.dataset.to_dict(), "face_finder_model": ""},
            data=clips,
        ),
        preprocessing=description.preprocessed(
            model.preparation, model.window_frames, clips, config.model.to_dict()
        ),
        calibration=Calibration(
            *(model.temperature, model.threshold, model.band, model.calibration),
            reals=model.reals,
        ),
        step=model.step,
        parameters=network.count_parameters(model.variables["params"]),
        weights_sha256=model.digest,
        trained_on_made_videos=model.made,
        trained_on=model.trained_on,
        guard=model.guard.facts if model.guard else GuardFacts(model.no_guard),
        origin=model.origin,
    )


def read_bundle(folder: str | Path, *, cache: Path | None = None) -> TrainedModel:
    """The model of a folder that write_bundle wrote, every part of it checked.

    Raises CheckpointError.
    """
    folder = Path(folder)
    described = description.read(folder / FACTS)
    config, empty = _build(folder / FACTS, described.config, cache)
    calibration, facts = described.calibration, described.guard
    variables = _read_weights(folder / WEIGHTS, empty)
    guarded = None
    if not facts.reason:
        guarded = guard.read(folder / GUARD, facts, feature_width(variables))
    model = TrainedModel(
        config=config,
        variables=variables,
        preparation=described.preprocessing.frames,
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        window_frames=described.preprocessing.window_frames,
        step=described.step,
        digest=described.weights_sha256,
        origin=described.origin,
        card=_read_card(folder / CARD),
        made=described.trained_on_made_videos,
        calibration=calibration.cross_fit,
        band=calibration.band,
        reals=calibration.reals,
        trained_on=described.trained_on,
        guard=guarded,
        no_guard=facts.reason,
    )
    if weights_digest(model.variables) != model.digest:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not what was exported with {folder / FACTS}; copy "
            "the whole folder again"
        )
    return model


def _read_card(path: Path) -> str:
    if not os.path.lexists(path):
        return ""
    try:
        return foreign.read_text(path, errors="replace")
    except ValueError as error:
        raise CheckpointError(f"{error}, too many for a card; shorten it") from error


def _build(
    path: Path, groups: Groups, cache: Path | None
) -> tuple[Config, "Variables"]:
    """The config of a description and the shapes of its variables.

    Raises CheckpointError for what is no model.
    """
    try:
        config = as_config(asdict(groups))
        empty = abstract_variables(config, cache)
    except Exception as error:  # whatever comes of fields that are each in range
        said = foreign.shortened((str(error).splitlines() or ["?"])[0], 200)
        raise CheckpointError(
            f"{path} describes no model of this version ({said}); "
            "export the model again"
        ) from error
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in to_leaves(empty).values())
    if size > MAX_WEIGHT_BYTES:
        raise CheckpointError(
            f"{path} describes a model of {size / 1e9:,.0f} GB; at most "
            f"{MAX_WEIGHT_BYTES / 1e9:.0f} GB are read; use a smaller model"
        )
    return config, empty


def _read_weights(path: Path, empty: "Variables") -> "Variables":
    """The variables of a model of these shapes. Raises CheckpointError."""
    wanted = to_leaves(empty)
    foreign.need_regular(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = set(file.keys())
            if names != set(wanted):
                odd = [foreign.shortened(n) for n in sorted(names ^ set(wanted))]
                raise CheckpointError(
                    f"{path} does not hold the weights of its config: "
                    f"{', '.join(odd[:4])} {'is' if len(odd) == 1 else 'are'} missing "
                    "or unexpected; export the model again"
                )
            for name in names:  # before any weight is read
                stored = tuple(file.get_slice(name).get_shape())
                if stored != wanted[name].shape:
                    raise CheckpointError(
                        f"{path}: {name} has shape {stored}, its config makes it "
                        f"{wanted[name].shape}; export the model again"
                    )
                kind = file.get_slice(name).get_dtype()
                if kind != "F32":
                    raise CheckpointError(
                        f"{path}: {name} is {kind}, not F32; export the model again"
                    )
            leaves = {name: file.get_tensor(name) for name in names}
    except CheckpointError:
        raise
    except Exception as error:  # safetensors, the file system, or one through the other
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is not a safetensors file ({foreign.shortened(said, 200)}); "
            "export the model again"
        ) from error
    variables = from_leaves(empty, leaves)
    _refuse_not_finite(variables, path)
    return variables
