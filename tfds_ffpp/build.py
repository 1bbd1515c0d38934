"""Builds and opens datasets from Python: no TensorFlow needed."""

import contextlib
import dataclasses
import itertools
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_ffpp import card, packaging
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames import entry as entries
from tfds_ffpp.tfds_ffpp_dataset_builder import NAMED_CONFIGS, Builder, FfppConfig
from tfds_ffpp.workers import limits

NEW = ".tfds_ffpp_new"  # where the replacement of a finished dataset is built


def build_command(config: FfppConfig, data_dir: str | Path) -> str:
    """The command that builds this dataset."""
    values = config.content()
    base = named_config(config.name).content()
    changes = {k: v for k, v in values.items() if v != base[k]}
    words = ["--data_dir", str(data_dir), "--config", config.name]
    for name, value in changes.items():
        text = ",".join(value) if isinstance(value, list) else value
        words.append(f"--set={name}={text}")
    return f"python -m tfds_ffpp --manual_dir ROOT {shlex.join(words)}"


def is_there(config: FfppConfig, data_dir: str | Path) -> bool:
    """Whether a dataset of this name and version is there, whatever its fields."""
    folder = Path(data_dir).expanduser() / Builder.name / config.name
    return (folder / str(Builder.VERSION)).exists()


def open_dataset(config: FfppConfig, data_dir: str | Path) -> Builder:
    """The builder of a finished dataset, for reading.

    Raises DataError when it is not there, or was built from another version or config.
    """
    data_dir = Path(data_dir).expanduser()
    folder = data_dir / Builder.name / config.name
    version = str(Builder.VERSION)
    if not (folder / version / "dataset_info.json").exists():
        others = sorted(p.parent.name for p in folder.glob("*/dataset_info.json"))
        if others:
            raise DataError(
                f"{folder} holds version {', '.join(others)}, but this program reads "
                f"{version}; build it again with `{build_command(config, data_dir)}`"
            )
        there = sorted(p.parts[-3] for p in folder.parent.glob("*/*/dataset_info.json"))
        others = f" (there are {', '.join(dict.fromkeys(there))})" if there else ""
        raise DataError(
            f"there is no dataset {config.name} under {data_dir}{others}; "
            f"build it with `{build_command(config, data_dir)}`"
        )
    try:
        card.check_same_config(folder / version, config)
    except DataError as error:
        other = dataclasses.replace(config, name=_free_name(config, data_dir))
        raise DataError(
            f"{error}; under another name it is built with "
            f"`{build_command(other, data_dir)}`, and named in training by "
            f"config.dataset.name"
        ) from error
    return Builder(config=config, data_dir=data_dir)


def _free_name(config: FfppConfig, data_dir: str | Path) -> str:
    """A name like that of a config under which nothing lies yet."""
    names = (f"{config.name}_{number}" for number in itertools.count(2))
    return next(
        name
        for name in names
        if not is_there(dataclasses.replace(config, name=name), data_dir)
    )


def named_config(name: str) -> FfppConfig:
    """The config that a name has of itself."""
    return NAMED_CONFIGS.get(name, FfppConfig(name=name))


def open_named(
    name: str, *, data_dir: str | Path, missing: FfppConfig | None = None
) -> Builder:
    """The builder of a finished dataset of whatever config, by its folder's name.

    Raises DataError as open_dataset; where it is not there, with the command that
    builds `missing`, or what the name stands for.
    """
    data_dir = Path(data_dir).expanduser()
    path = data_dir / Builder.name / name / str(Builder.VERSION) / "card.json"
    if not path.exists():
        return open_dataset(
            missing or named_config(name), data_dir
        )  # says what is missing
    return open_dataset(card.built_config(path, FfppConfig), data_dir)


@dataclass(frozen=True)
class BuildOptions:
    """How to build; none of it changes what is built.

    keep_cache: keep the prepared videos after the build; overwrite: replace a finished
    dataset, once the new one is whole; time_limit, memory_limit: seconds and bytes of
    memory that one video may take, less memory where the machine's is shared by many;
    beam_options: prepare by this Apache Beam pipeline (its PipelineOptions) instead of
    by processes.
    """

    keep_cache: bool = False
    overwrite: bool = False
    time_limit: float = packaging.TIME_LIMIT
    memory_limit: int = limits.MEMORY
    beam_options: Any = None


def build(
    config: FfppConfig,
    *,
    data_dir: str | Path,
    manual_dir: str | Path,
    num_processes: int | None = None,
    options: BuildOptions = BuildOptions(),  # noqa: B008
) -> Builder:
    """Builds the dataset unless it is there; returns its builder, ready to read.

    Args:
      config: what to build.
      data_dir: where datasets lie.
      manual_dir: the raw videos.
      num_processes: worker processes; None is one per core.
      options: how.

    Raises DataError in one sentence.
    """
    data_dir = Path(data_dir).expanduser()
    final = data_dir / Builder.name / config.name / str(Builder.VERSION)
    _finish_swap(final)
    if final.exists() and not options.overwrite:
        return open_dataset(config, data_dir)
    # A finished dataset stays until the new one, in a folder beside it, is whole.
    new = data_dir / NEW / config.name  # another dataset's is another process's
    place = new if final.exists() else data_dir
    builder = Builder(config=config, data_dir=place)
    builder.stale = new  # of a build that was killed; another one may be under way
    builder.num_processes = num_processes
    builder.cache_dir = data_dir / entries.CACHE
    builder.keep_cache, builder.time_limit = options.keep_cache, options.time_limit
    builder.memory_limit = options.memory_limit
    with (
        contextlib.redirect_stdout(None),  # TFDS tells of downloads that there are not
        tempfile.TemporaryDirectory() as downloads,
    ):
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                manual_dir=Path(manual_dir).expanduser(),
                beam_options=options.beam_options,
            ),
        )
    if place != data_dir:
        final.rename(_old(final))
        Path(builder.data_path).rename(final)
        shutil.rmtree(new)
        with contextlib.suppress(OSError):  # another one is made there
            new.parent.rmdir()
        shutil.rmtree(_old(final))
    return open_dataset(config, data_dir)


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _finish_swap(final: Path) -> None:
    """Undoes a replacement that was killed between its two renames."""
    if _old(final).exists() and not final.exists():
        _old(final).rename(final)
    shutil.rmtree(_old(final), ignore_errors=True)
