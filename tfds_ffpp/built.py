"""What a finished dataset says of itself."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfds_ffpp.errors import DataError


def readable_size(count: float) -> str:
    """Bytes as text, for example "1.2 GB"."""
    unit, name = next(
        u for u in ((1e9, "GB"), (1e6, "MB"), (1, "B")) if count >= u[0] or u[0] == 1
    )
    return f"{count / unit:.3g} {name}"


def _built(card_file: Path) -> dict[str, Any]:
    try:
        return json.loads(card_file.read_text())["config"]
    except (OSError, ValueError, KeyError):
        raise DataError(
            f"{card_file} is missing or damaged; "
            f"remove {card_file.parent} and build again"
        ) from None


def built_config(card_file: Path, config_class: Callable[..., Any]) -> Any:
    """The config that a dataset was built from."""
    names = {f.name for f in dataclasses.fields(config_class)}  # pyright: ignore
    told = {k: v for k, v in _built(card_file).items() if k in names}
    return config_class(**told)


def check_same_config(dataset_dir: Path, config) -> None:
    """Raises DataError when the dataset there was built from another config."""
    built = _built(Path(dataset_dir) / "card.json")
    asked = json.loads(json.dumps(config.content()))
    # A field that was not there yet had the value that is its default now.
    built = {**type(config)(name=config.name).content(), **built}
    asked["max_examples_per_split"] = None
    other = {
        k: (built.get(k), v)
        for k, v in asked.items()
        if built.get(k) != v and k not in ("max_rejected", "allow_one_class")
    }
    if other:
        said = "; ".join(f"{k} is {a!r}, not {b!r}" for k, (a, b) in other.items())
        raise DataError(
            f"the dataset in {dataset_dir} was built from another config: {said}; "
            "give the new one another name, or remove the old one"
        )


def summary(dataset_dir: str | os.PathLike) -> str:
    """What was built, in a few lines."""
    told = json.loads((Path(dataset_dir) / "card.json").read_text())
    counts = ", ".join(
        f"{split} {c['real']} real + {c['fake']} fake"
        for split, c in told["splits"].items()
    )
    warnings = "".join(f"warning: {warning}\n" for warning in told["warnings"])
    return f"{dataset_dir}: {counts}\n{warnings}"


def remove_incomplete(dataset_dir: Path) -> None:
    """Removes what builds of this dataset that were killed have left."""
    for stale in dataset_dir.parent.glob(f"incomplete.*_{dataset_dir.name}"):
        shutil.rmtree(stale, ignore_errors=True)


def writing(write: Callable[[], None], dataset_dir: Path) -> None:
    """Writes the dataset; turns a full disk into a DataError."""
    try:
        write()
    except (OSError, RuntimeError) as error:
        if "No space left" not in str(error):
            raise
        free = shutil.disk_usage(dataset_dir.parent).free
        raise DataError(
            f"the disk got full while writing {dataset_dir} ({readable_size(free)} are "
            "free); nothing half-written is left; make room and build again"
        ) from None
