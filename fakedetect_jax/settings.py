"""What each config field may be; checked in one go before any device is touched."""

import math
import re
from typing import Any, NamedTuple

from fakedetect_jax.errors import ConfigError

# Read by glibc at start: keep up to 16 GiB of freed memory, never map single arrays.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


class Whole(NamedTuple):
    """A whole number in a closed range."""

    low: int
    high: float = math.inf

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self.low <= value <= self.high:
            return None
        return f"a whole number {_range(self.low, self.high)}"


class Number(NamedTuple):
    """A finite number in a closed range, or above its lower end if `above`."""

    low: float
    high: float = math.inf
    above: bool = False

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = number and math.isfinite(value) and self.low <= value <= self.high
        if inside and not (self.above and value == self.low):
            return None
        if self.above:
            end = "" if math.isinf(self.high) else f" and at most {self.high}"
            return f"a number above {self.low}{end}"
        return f"a number {_range(self.low, self.high)}"


class Choice(NamedTuple):
    """One of some words."""

    options: tuple[str, ...]

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        return None if value in self.options else f"one of {', '.join(self.options)}"


class Kind(NamedTuple):
    """Any value of a type."""

    type: type
    words: str

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        return None if isinstance(value, self.type) else self.words


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if math.isinf(high) else f"from {low} to {high}"


TEXT = Kind(str, "a text")
SWITCH = Kind(bool, "True or False")
SHARE = Number(0, 1)

RULES: dict[str, Whole | Number | Choice | Kind] = {
    "seed": Whole(0, 2**31 - 1),
    "dataset.num_frames": Whole(1, 1000),
    "dataset.frame_step": Whole(0, 1000),
    "dataset.image_size": Whole(16, 1024),
    "dataset.crop": Choice(("face", "full")),
    "dataset.margin": Number(1, 4),
    "dataset.protocol": Choice(("official", "seed")),
    "dataset.strict": SWITCH,
    "synthetic.num_identities": Whole(0, 1000),
    "synthetic.num_frames": Whole(1, 10000),
    "synthetic.frame_size": Whole(64, 2048),
    "synthetic.difficulty": SHARE,
    "synthetic.seed": Whole(0, 2**31 - 1),
    "data.data_dir": TEXT,
    "data.manual_dir": TEXT,
    "data.clip_frames": Whole(1, 1000),
    "data.frame_stride": Whole(1, 100),
    "data.sampling": Choice(("natural", "class", "method", "pair")),
    "data.train_clips_per_video": Whole(1, 10000),
    "data.eval_clips_per_video": Whole(1, 1000),
    "data.num_workers": Whole(0, 256),
    "data.num_threads": Whole(1, 256),
    "data.prefetch_batches": Whole(1, 1000),
    "data.device_prefetch": Whole(1, 16),
    "data.cache_mib": Whole(0),
    "model.lstm_features": Whole(1, 65536),
    "model.dropout": Number(0, 0.99),
    "init_from": TEXT,
    "batch_size": Whole(1, 2**20),
    "num_epochs": Whole(1),
    "num_steps": Whole(0),
    "optimizer.learning_rate": Number(0, 10, above=True),
    "optimizer.schedule": Choice(("constant", "cosine")),
    "optimizer.warmup_steps": Whole(0),
    "optimizer.b1": Number(0, 0.9999),
    "optimizer.b2": Number(0, 0.999999),
    "optimizer.eps": Number(0, 1, above=True),
    "optimizer.weight_decay": Number(0, 10),
    "optimizer.clip_norm": Number(0),
    "optimizer.backbone_multiplier": Number(0, 100),
    "optimizer.ema_decay": Number(0, 0.99999),
    "loss.label_smoothing": Number(0, 0.9),
    "loss.frame_weight": Number(0, 100),
    "loss.self_blend": SHARE,
    "eval.every_epochs": Whole(0),
    "eval.batch_size": Whole(1, 2**20),
    "eval.final_split": TEXT,
    "eval.unscored": Choice(("exclude", "as_real", "as_fake")),
    "eval.dataset": TEXT,
    "checkpoint.every_steps": Whole(0),
    "checkpoint.keep_latest": Whole(1),
    "checkpoint.keep_best": Whole(1),
    "accelerator": Choice(("any", "cpu", "gpu", "tpu")),
    "compilation_cache": TEXT,
    "log_every_steps": Whole(1),
}


def check(config) -> None:
    """Raises ConfigError naming the first field that cannot be used, and its range."""
    for field, rule in RULES.items():
        try:
            value = config
            for name in field.split("."):
                value = value[name]
        except KeyError as error:
            raise ConfigError(
                f"config.{field} is missing; take configs/ffpp.py as the base"
            ) from error
        wanted = rule.fault(value)
        if wanted:
            raise ConfigError(f"config.{field} is {value!r}; it must be {wanted}")
    _check_together(config)


def _check_together(config) -> None:
    span = (config.data.clip_frames - 1) * config.data.frame_stride + 1
    if span > config.dataset.num_frames:
        raise ConfigError(
            f"config.data.clip_frames {config.data.clip_frames} at frame_stride "
            f"{config.data.frame_stride} needs {span} stored frames, but "
            f"config.dataset.num_frames is {config.dataset.num_frames}; shorten the "
            "clip, or build a dataset with more frames"
        )
    if config.synthetic.num_identities and not config.data.manual_dir:
        raise ConfigError(
            "config.synthetic.num_identities is set but config.data.manual_dir is not; "
            "say where the made videos shall lie"
        )


def one_line(error: BaseException) -> str:
    """The message of an error as one sentence, without its class and line breaks."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return re.sub(r"\s+", " ", text).strip()
