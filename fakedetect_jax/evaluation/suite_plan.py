"""What a suite is made of: trainings, each with the tests that it is judged on."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags

from fakedetect_jax import settings
from fakedetect_jax.data import dataset, order, reader
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.settings import Config
from tfds_ffpp.errors import DataError

EACH = "each"  # in place of methods to hold out: each that the dataset has
MAIN = (sys.executable, "-m", "fakedetect_jax.main")


class Asked(NamedTuple):
    """What a suite was asked for.

    configs: as --config of a training takes them. hold_out: methods, or EACH alone.
    tests: names of datasets. fields: --config.FIELD=VALUE of every training.
    """

    workdir: Path
    configs: tuple[str, ...]
    seeds: tuple[int, ...]
    hold_out: tuple[str, ...]
    tests: tuple[str, ...]
    fields: tuple[str, ...] = ()


class Trial(NamedTuple):
    """A training, and the datasets on whose test splits it is judged.

    model: the label of its config. without: the method that is held out; empty where
    none is. source: its config as --config takes it, of which `config` is made with
    `flags`.
    """

    name: str
    model: str
    seed: int
    without: str
    tests: tuple[str, ...]
    workdir: Path
    source: str
    flags: tuple[str, ...]
    config: Config

    def __str__(self) -> str:
        held = f", without {self.without}" if self.without else ""
        return f"{self.model}, seed {self.seed}{held}"

    def is_own(self, test: str) -> bool:
        """Whether a dataset is the one that the training is on."""
        return test == self.config.dataset.name

    def command(self, test: str = "") -> list[str]:
        """The words that train it, or that judge it on a dataset's test."""
        place = ("--workdir", str(self.workdir))
        if not test:
            return [*MAIN, "--config", self.source, *place, *self.flags]
        other = f"--config.eval.dataset={'' if self.is_own(test) else test}"
        return [*MAIN, *place, *self.flags, "--mode=eval", "--split=test", other]


def make_plan(asked: Asked) -> list[Trial]:
    """The trials in order: seed by seed, config by config, all methods before folds.

    Raises ConfigError for what cannot be a suite, and DataError where a method that is
    to be held out is not in the dataset, or where EACH is asked for and none is built.
    """
    labels = [_label(source) for source in asked.configs]
    _check_distinct("--config", labels)
    _check_distinct("--seeds", asked.seeds)
    _check_distinct("--test", asked.tests)
    folds = [_folds(asked, source) for source in asked.configs]
    trials = [
        _trial(asked, source, label, seed, without)
        for seed in asked.seeds
        for source, label, methods in zip(asked.configs, labels, folds, strict=True)
        for without in ("", *methods)
    ]
    _check_distinct("--hold_out", [trial.name for trial in trials])
    return trials


def with_fields(source: str, fields: Sequence[str]) -> Config:
    """A config with the values of --config.FIELD=VALUE. Raises ConfigError."""
    config, words = settings.load(source), ["suite", *fields]
    settings.check_overrides(config, words)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=words
        )
        values(words)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(settings.as_sentence(error)) from error
    settings.check(config)
    return config


def _label(source: str) -> str:
    """A config's name in the names of folders: "configs/ffpp.py:c40" -> "ffpp_c40"."""
    name, _, argument = source.partition(":")
    return _as_name("_".join([Path(name).stem, *([argument] if argument else ())]))


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


def _check_distinct(flag: str, names: Sequence[str | int]) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{flag} gives two runs the name {twice[0]}; each needs one of its own"
        )


def _folds(asked: Asked, source: str) -> list[str]:
    """The methods that are held out of a config's training, one at a time."""
    config = with_fields(source, asked.fields)
    name, held = config.dataset.name, tuple(config.data.hold_out)
    if not asked.hold_out:
        return []
    if name not in asked.tests:
        raise ConfigError(
            f"--hold_out judges on the test of {name}, which --test does not name; "
            f"test is evaluated only where it is named: add {name} to --test"
        )
    if not dataset.is_built(config):
        if EACH not in asked.hold_out:
            return list(asked.hold_out)
        raise DataError(
            f"which methods dataset {name} has is known when it is built, and it is "
            "not; build it (the suite does so when it runs), or name the methods in "
            "--hold_out"
        )
    videos = reader.read_videos(Path(dataset.open_dataset(config).data_dir), "train")
    if EACH in asked.hold_out:
        return sorted({v.method for v in videos if v.label == 1} - set(held))
    order.held_in(videos, asked.hold_out)
    return list(asked.hold_out)


def _trial(asked: Asked, source: str, model: str, seed: int, without: str) -> Trial:
    added = [f"--config.seed={seed}"]
    config = with_fields(source, asked.fields)
    if without:
        held = (*config.data.hold_out, without)
        added.append(f"--config.data.hold_out={held!r}")
    words = (*asked.fields, *added)
    name = f"{model}-seed{seed}" + (f"-without-{_as_name(without)}" if without else "")
    return Trial(
        name=name,
        model=model,
        seed=seed,
        without=without,
        tests=(config.dataset.name,) if without else asked.tests,
        workdir=asked.workdir / name,
        source=source,
        flags=words,
        config=with_fields(source, words),
    )
