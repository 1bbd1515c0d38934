"""What each config field may be; checked in one go before any device is touched."""

import difflib
import re
import runpy
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fakedetect_jax.augment import fields as augment
from fakedetect_jax.data import shares
from fakedetect_jax.errors import ConfigError
from tfds_ffpp import fields
from tfds_ffpp.errors import SettingError
from tfds_ffpp.fields import (
    SHARE,
    SWITCH,
    TEXT,
    Choice,
    Fields,
    Number,
    Rule,
    Texts,
    Whole,
    Wholes,
)
from tfds_ffpp.store.addresses import is_address
from tfds_ffpp.system import refuse_path


def clip_shape(config) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of a clip."""
    size = config.dataset.image_size
    return (config.data.clip_frames, size, size, 3)


PLACE = 8  # pixels a side of a place of the masks that a step sees


def batch_shape(
    config, batch_size: int, *, train: bool = False
) -> tuple[int, int, int, int]:
    """(B, T, S, M) of a batch, as the feeds take it: S pixels and M places a side.

    M is 0 without masks; only those of a training have some, where the loss asks.
    """
    size = config.dataset.image_size
    places = max(size // PLACE, 1) if train and config.loss.mask_weight else 0
    return (batch_size, config.data.clip_frames, size, places)


# A ConfigDict; the types of its fields are held by RULES, not by a type checker.
Config = Any


# Of the whole run. A dataset's stand in tfds_ffpp.fields, an augmentation's in
# augment.fields: what those accept is accepted here.
RULES: dict[str, Rule] = {
    "seed": Whole(0, 2**31 - 1),
    **{f"dataset.{name}": rule for name, rule in fields.FIELDS.items()},
    "synthetic.num_identities": Whole(0, 1000),
    "synthetic.num_frames": Whole(1, 10000),
    "synthetic.frame_size": Whole(64, 2048),
    "synthetic.difficulty": SHARE,
    "synthetic.look": Choice(("indoor", "street", "webcam")),
    "synthetic.seed": Whole(0, 2**31 - 1),
    "data.data_dir": TEXT,
    "data.manual_dir": TEXT,
    "data.train": TEXT,  # read by data.shares
    "data.allow_leaks": SWITCH,
    "data.clip_frames": Whole(1, 1000),
    "data.frame_stride": Whole(1, 100),
    "data.max_frame_stride": Whole(0, 100),
    "data.hold_out": Texts(),
    "data.sampling": Choice(("natural", "class", "method", "pair")),
    "data.train_clips_per_video": Whole(1, 10000),
    "data.eval_clips_per_video": Whole(1, 1000),
    "data.min_coverage": SHARE,
    "data.num_workers": Whole(0, 256),
    "data.num_threads": Whole(1, 256),
    "data.prefetch_batches": Whole(1, 1000),
    "data.device_prefetch": Whole(1, 16),
    "data.cache_mib": Whole(-1),
    "data.resident": Choice(("host", "device")),
    "model.backbone": TEXT,
    "model.stage_sizes": Wholes(1),
    "model.width": Whole(1, 65536),
    "model.stem": TEXT,
    "model.block": TEXT,
    "model.lstm_features": Whole(1, 65536),
    "model.bidirectional": SWITCH,
    "model.pooling": Choice(("last", "mean", "attention")),
    "model.dropout": Number(0, 0.99),
    "model.temporal": Choice(("lstm", "mean", "attention", "transformer", "none")),
    "model.freeze_stages": Whole(0, 4),
    "model.remat": SWITCH,
    "model.patches": SWITCH,
    "model.dtype": Choice(("bfloat16", "float32")),
    "model.cpu_kernels": SWITCH,
    "model.norm_groups": Whole(1, 2**16),
    "model.vit_style": Choice(("plain", "clip", "dinov2", "dinov3", "siglip2")),
    "model.patch_size": Whole(1, 1024),
    "model.depth": Whole(1, 1000),
    "model.num_heads": Whole(1, 1024),
    "model.registers": Whole(0, 1024),
    "model.embedding": Choice(("linear", "convolutions")),
    "model.unit_features": SWITCH,
    **{f"augment.{name}": rule for name, rule in augment.FIELDS.items()},
    "init_from": TEXT,
    "trainable": Choice(("all", "head", "norms", "lora", "svd", "last_n")),
    "adapter.last_n": Whole(1, 1000),
    "adapter.rank": Whole(1, 1024),
    "adapter.alpha": Number(0, 10_000, above=True),
    "adapter.orthogonality": Number(0, 1e6),
    "adapter.size": Number(0, 1e6),
    "batch_size": Whole(1, 2**20),
    "accumulate": Whole(1, 2**16),
    "shard_optimizer": SWITCH,
    "num_epochs": Whole(1),
    "num_steps": Whole(0),
    "optimizer.kind": Choice(("adam", "sgd")),
    "optimizer.momentum": Number(0, 0.9999),
    "optimizer.sam_radius": Number(0, 10),
    "optimizer.learning_rate": Number(0, 10, above=True),
    "optimizer.schedule": Choice(("constant", "cosine")),
    "optimizer.warmup_steps": Whole(0),
    "optimizer.b1": Number(0, 0.9999),
    "optimizer.b2": Number(0, 0.999999),
    "optimizer.eps": Number(0, 1, above=True),
    "optimizer.weight_decay": Number(0, 10),
    "optimizer.clip_norm": Number(0),
    "optimizer.backbone_multiplier": Number(0, 100),
    "optimizer.layer_decay": Number(0, 1, above=True),
    "optimizer.ema_decay": Number(0, 0.99999),
    "loss.label_smoothing": Number(0, 0.9),
    "loss.frame_weight": Number(0, 100),
    "loss.mask_weight": Number(0, 100),
    "loss.self_blend": SHARE,
    "loss.alignment": Number(0, 100),
    "loss.uniformity": Number(0, 100),
    "eval.every_epochs": Whole(0),
    "eval.batch_size": Whole(1, 2**20),
    "eval.final_split": TEXT,
    "eval.unscored": Choice(("exclude", "as_real", "as_fake")),
    "eval.dataset": TEXT,
    "eval.validation": TEXT,
    "eval.patience": Whole(0),
    "eval.max_error": Number(0.001, 0.5),
    "checkpoint.every_steps": Whole(0),
    # With one alone, a kill while a new one is sealed could leave no whole checkpoint.
    "checkpoint.keep_latest": Whole(2),
    "checkpoint.keep_best": Whole(1),
    "checkpoint.delta": SWITCH,
    "accelerator": Choice(("any", "cpu", "gpu", "tpu")),
    "deterministic": SWITCH,
    "compilation_cache": TEXT,
    "tracker": Choice(("", "trackio", "wandb")),
    "log_clips": Whole(0, 1000),
    "log_every_steps": Whole(1),
}
# What runs and exports of before there were these fields had, without saying so.
ADDED: Fields = {
    "data.resident": "host",
    "model.norm_groups": 1,
    "deterministic": False,
    "synthetic.look": "indoor",
    "dataset.masks": False,
    "dataset.align": "none",
    "data.train": "",
    "data.allow_leaks": False,
    "eval.validation": "",
    "eval.patience": 0,
    "optimizer.kind": "adam",
    "optimizer.momentum": 0.9,
    "optimizer.sam_radius": 0.0,
    "model.patches": False,
    "model.temporal": "lstm",
    "loss.mask_weight": 0.0,
    "model.vit_style": "plain",
    "model.patch_size": 16,
    "model.depth": 12,
    "model.num_heads": 4,
    "model.registers": 0,
    "model.embedding": "linear",
    "model.unit_features": False,
    "trainable": "all",
    "adapter.last_n": 1,
    "adapter.rank": 8,
    "adapter.alpha": 16.0,
    "adapter.orthogonality": 1.0,
    "adapter.size": 1.0,
    "checkpoint.delta": False,
    "loss.alignment": 0.0,
    "loss.uniformity": 0.0,
}


def check(config) -> None:
    """Raises ConfigError naming the first field that cannot be used, and its range."""
    names = field_names(config)
    for field in names:
        if field not in RULES:
            raise ConfigError(f"config.{field} is no field{_nearest(field, RULES)}")
    for field, rule in RULES.items():
        if field not in names:
            raise ConfigError(
                f"config.{field} is missing; take {config_file('ffpp')} as the base"
            )
        value = config
        for name in field.split("."):
            value = value[name]
        wanted = rule.fault(value)
        if wanted:
            raise ConfigError(f"config.{field} is {value!r}; it must be {wanted}")
    _check_together(config)


def check_paths(config, workdir: str | None) -> None:
    """Raises SettingError for a path that cannot be one.

    A workdir, a data_dir and an init_from may be gs://BUCKET/FOLDER.
    """
    refuse_path("--workdir", workdir, bucket=True)
    refuse_path("config.data.data_dir", config.data.data_dir, bucket=True)
    refuse_path("config.data.manual_dir", config.data.manual_dir)
    refuse_path("config.init_from", config.init_from, bucket=True)
    refuse_path("config.compilation_cache", config.compilation_cache)
    if config.data.manual_dir and is_address(config.data.data_dir):
        raise SettingError(
            f"config.data.data_dir is {config.data.data_dir}, and a dataset cannot be "
            "built into a bucket; build it into a folder, copy that "
            "(gcloud storage cp -r), and set config.data.manual_dir=''"
        )


def field_names(config, prefix: str = "") -> list[str]:
    """The dotted names of all fields of a config."""
    names = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


# What other programs call a field; the whole name is looked up before its last part.
OTHER_NAMES = {
    "model.name": "model.backbone",
    "name": "dataset.name",
    "dataset": "dataset.name",
    "arch": "model.backbone",
    "backbone": "model.backbone",
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "ema": "optimizer.ema_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "batchsize": "batch_size",
    "epochs": "num_epochs",
    "epoch": "num_epochs",
    "steps": "num_steps",
    "max_steps": "num_steps",
    "workers": "data.num_workers",
    "weights": "init_from",
    "pretrained": "init_from",
}


def _nearest(field: str, known: Iterable[str]) -> str:
    """Which known field was probably meant, as the end of a sentence."""
    meant = _meant(field, list(known))
    if meant is None:
        return f"; {config_file('ffpp')} lists them all"
    return f"; did you mean config.{meant}?"


def _meant(field: str, known: Sequence[str]) -> str | None:
    """The known field that a wrong name stands for, if one is near."""
    last = field.rpartition(".")[2]
    other = OTHER_NAMES.get(field) or OTHER_NAMES.get(last)
    if other in known:
        return other
    # The same name elsewhere: of the whole run before of one part of it.
    same = [k for k in known if k.rpartition(".")[2] == last]
    if same:
        return min(same, key=lambda k: k.count("."))
    leaves = {k.rpartition(".")[2]: k for k in known}
    near = difflib.get_close_matches(field, known, n=1, cutoff=0.6)
    near += [leaves[m] for m in difflib.get_close_matches(last, leaves, n=1)]
    return near[0] if near else None


# The command line ----------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The configs that come with the program: name -> file.

    An installed package holds them, a clone has them beside it.
    """
    package = Path(__file__).parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def config_file(name: str) -> Path:
    """The file that --config means: a path, or the name of a shipped one."""
    return shipped().get(name, Path(name))


def load(source: str) -> Config:
    """The config of FILE, NAME, FILE:ARGUMENT or NAME:ARGUMENT.

    NAME is that of a shipped one, wherever the command is typed: `load("ffpp")` is how
    a config of one's own takes it as its base. Raises ConfigError with file and line.
    """
    name, _, argument = source.partition(":")
    refuse_path("--config", name)
    path = config_file(name)
    if not path.is_file():
        raise ConfigError(
            f"the config file {path} does not exist; give the path of one, or one of "
            f"the names {', '.join(shipped())}"
        )
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config(argument) if argument else get_config()
    except KeyError as error:
        if error.args != ("get_config",):
            raise ConfigError(_at_line(path, error)) from error
        raise ConfigError(
            f"the config file {path} has no function get_config; "
            f"see {config_file('demo')} for how one looks"
        ) from error
    except Exception as error:  # whatever a user's file may raise
        raise ConfigError(_at_line(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config of {path} returns a {type(config).__name__}; "
            "it must return a ConfigDict"
        )
    return config.lock()


def _at_line(path: Path, error: Exception) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            line = frame.lineno
    place = f"{path}, line {line}" if line else str(path)
    return f"the config file cannot be used: {place}: {one_line(error)}"


OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def check_overrides(config, argv: Iterable[str]) -> None:
    """Raises ConfigError for a --config.FIELD that the config does not have."""
    known = field_names(config)
    for argument in argv:
        match = OVERRIDE.match(argument)
        if not match or match[1] in known:
            continue
        group = [k for k in known if k.startswith(match[1] + ".")]
        if group:
            raise ConfigError(
                f"config.{match[1]} is a group of fields; "
                f"set one of them, for example --config.{group[0]}"
            )
        raise ConfigError(f"config.{match[1]} is no field{_nearest(match[1], known)}")


def overridden(argv: Iterable[str]) -> set[str]:
    """The config fields that a command line sets."""
    return {match[1] for match in map(OVERRIDE.match, argv) if match}


def as_sentence(error: BaseException) -> str:
    """An error of parsing flags as a sentence with field, value and range."""
    text = one_line(error)
    match = re.match(r"flag --config\.(\S+?)=(.*?): ", text)
    if match and match[1] in RULES:
        wanted = RULES[match[1]].fault(object())
        return f"config.{match[1]} is {match[2]!r}; it must be {wanted}"
    unknown = re.match(r"Unknown command line flag '([^']+)'", text)
    if unknown and "Did you mean" not in text:  # a flag, but perhaps a field
        meant = _meant(unknown[1].removeprefix("no"), list(RULES))
        if meant:
            return f"--{unknown[1]} is no flag; did you mean --config.{meant}=…?"
    return f"{text}; see --help"


def _check_together(config) -> None:
    parts = shares.parse_shares(config.data.train, config.dataset.name)
    shares.share_cycle(list(parts.values()))
    shares.parse_names(config.eval.validation, list(parts))
    if config.eval.patience and not config.eval.every_epochs:
        raise ConfigError(
            f"config.eval.patience is {config.eval.patience}, but nothing is evaluated "
            "while training; set config.eval.every_epochs"
        )
    span = (config.data.clip_frames - 1) * config.data.frame_stride + 1
    if span > config.dataset.num_frames:
        raise ConfigError(
            f"config.data.clip_frames {config.data.clip_frames} at frame_stride "
            f"{config.data.frame_stride} needs {span} stored frames, but "
            f"config.dataset.num_frames is {config.dataset.num_frames}; shorten the "
            "clip, or build a dataset with more frames"
        )
    part, groups = config.batch_size // config.accumulate, config.model.norm_groups
    if part % groups:
        whose = "a part of the batch" if config.accumulate > 1 else "a batch"
        raise ConfigError(
            f"config.model.norm_groups is {groups}, and {whose} has {part} clips; take "
            "a number that divides them"
        )
    if config.model.patches != (config.loss.mask_weight > 0):
        raise ConfigError(
            f"config.model.patches is {config.model.patches} and "
            f"config.loss.mask_weight {config.loss.mask_weight}: the head that says "
            "where a clip is forged is learnt from masks; set both or neither"
        )
    if config.loss.mask_weight and not config.dataset.masks:
        raise ConfigError(
            f"config.loss.mask_weight is {config.loss.mask_weight}, but the dataset "
            "has no masks; set config.dataset.masks=True"
        )
    if config.loss.alignment or config.loss.uniformity:
        if not config.model.unit_features:
            raise ConfigError(
                "config.loss.alignment and config.loss.uniformity are of points on a "
                "sphere; set config.model.unit_features=True"
            )
        if config.loss.frame_weight:
            raise ConfigError(
                "config.loss.frame_weight goes with neither config.loss.alignment nor "
                "config.loss.uniformity; set it to 0"
            )
    if config.checkpoint.delta and (config.trainable == "all" or not config.init_from):
        raise ConfigError(
            "config.checkpoint.delta leaves out frozen weights, which are those of a "
            "file; set config.init_from to it, and config.trainable to what is trained"
        )
    if config.synthetic.num_identities and not config.data.manual_dir:
        raise ConfigError(
            "config.synthetic.num_identities is set but config.data.manual_dir is not; "
            "say where the made videos shall lie"
        )


def one_line(error: BaseException) -> str:
    """The message of an error as one sentence, without line breaks."""
    if isinstance(error, KeyError) or not error.args:
        return f"{type(error).__name__} {error}".strip()
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return re.sub(r"\s+", " ", text).strip()


def renewed(config: Mapping[str, Any]) -> Fields:
    """A config's groups, of whatever version, with the names that fields have now."""
    model = config.get("model")
    if not isinstance(model, Mapping) or "frame_only" not in model:
        return dict(config)
    model = dict(model)
    frames_alone = model.pop("frame_only")
    model.setdefault("temporal", "none" if frames_alone else "lstm")
    return {**config, "model": model}


def as_config(tree: Fields) -> Config:
    """A config out of JSON: lists become the tuples that they were."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restore(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(restore(renewed(tree))).lock()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Fields:
    """{"model": {"width": 64}} -> {"model.width": 64}; lists for tuples, as in JSON."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple]:
    """The fields of two configs that differ: field -> (old value, new value)."""
    before, after = (ADDED | flatten(renewed(config)) for config in (old, new))
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    }
