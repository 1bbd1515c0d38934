"""Builds and opens datasets from Python: no TensorFlow needed."""

import os
import shlex
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_ffpp import packaging
from tfds_ffpp.errors import DataError
from tfds_ffpp.tfds_ffpp_dataset_builder import NAMED_CONFIGS, Builder, FfppConfig


def build_command(config: FfppConfig, data_dir: str | Path) -> str:
    """The command that builds this dataset."""
    told = config.content()
    base = NAMED_CONFIGS.get(config.name, FfppConfig(name=config.name)).content()
    changes = {k: v for k, v in told.items() if v != base[k]}
    words = ["--data_dir", str(data_dir), "--config", config.name]
    words += [f"--set={k}={v}" for k, v in changes.items()]
    return f"python -m tfds_ffpp --manual_dir ROOT {shlex.join(words)}"


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
        raise DataError(
            f"there is no dataset {config.name} under {data_dir}; "
            f"build it with `{build_command(config, data_dir)}`"
        )
    packaging.check_same_config(folder / version, config)
    return Builder(config=config, data_dir=data_dir)


def build(
    config: FfppConfig,
    *,
    data_dir: str | Path,
    manual_dir: str | Path,
    num_processes: int | None = None,
    keep_cache: bool = False,
    overwrite: bool = False,
    time_limit: float = packaging.TIME_LIMIT,
) -> Builder:
    """Builds the dataset unless it is there; returns its builder, ready to read.

    Args:
      config: what to build.
      data_dir: where datasets lie.
      manual_dir: the raw videos.
      num_processes: worker processes; None is one per core.
      keep_cache: keep the prepared videos after the build.
      overwrite: replace a finished dataset, once the new one is whole.
      time_limit: seconds that one video may take.

    Raises DataError in one sentence.
    """
    data_dir = Path(data_dir).expanduser()
    final = data_dir / Builder.name / config.name / str(Builder.VERSION)
    if final.exists() and not overwrite:
        return open_dataset(config, data_dir)
    # A finished dataset stays until the new one, in a folder of its own, is whole.
    place = data_dir / f".tfds_ffpp_new.{os.getpid()}" if final.exists() else data_dir
    builder = Builder(config=config, data_dir=place)
    builder.num_processes, builder.keep_cache = num_processes, keep_cache
    builder.time_limit = time_limit
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=Path(manual_dir).expanduser()
            )
        )
        if place != data_dir:
            old = final.with_name(f"{final.name}.old")
            final.rename(old)
            Path(builder.data_path).rename(final)
            shutil.rmtree(old)
    finally:
        if place != data_dir:
            shutil.rmtree(place, ignore_errors=True)
    return open_dataset(config, data_dir)
