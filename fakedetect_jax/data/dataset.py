"""A run's dataset: made where it is missing, opened, known by its digest."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.data import order, reader
from fakedetect_jax.data.reader import no_split
from tfds_ffpp.errors import DataError
from tfds_ffpp.store import addresses, copies


class SplitFacts(NamedTuple):
    """How many videos a split has, and the SHA-256 of their table."""

    real: int
    fake: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.real} real + {self.fake} fake"


class DatasetFacts(NamedTuple):
    """What tells whether a dataset is the one that it was. digest: dataset_digest."""

    digest: str
    splits: dict[str, SplitFacts]


def dataset_facts(dataset_dir: Path) -> DatasetFacts:
    """The facts of a built dataset. Raises DataError when it is none."""
    splits = {}
    for path in sorted(Path(dataset_dir).glob("videos-*.jsonl")):
        name = path.stem[len("videos-") :]
        labels = [video.label for video in reader.read_videos(dataset_dir, name)]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        splits[name] = SplitFacts(labels.count(0), labels.count(1), digest)
    return DatasetFacts(dataset_digest(dataset_dir), splits)


def check_unchanged(
    old: DatasetFacts | None, new: DatasetFacts, *, what: str, name: str = ""
) -> None:
    """Raises DataError when a dataset is not the one that it was, where that is known.

    what: the checkpoint that knows it; name: of the dataset, where there are several.
    """
    if change := describe_change(old, new):
        raise DataError(
            f"the dataset {name + ' ' if name else ''}is not the one that {what} was "
            f"trained on: {change}; put "
            "that dataset back, or train anew in another --workdir"
        )


def describe_change(old: DatasetFacts | None, new: DatasetFacts) -> str:
    """How a dataset differs from what it was; empty where that is not known."""
    if old is None or old.digest == new.digest:
        return ""
    changes = []
    for name in sorted(old.splits | new.splits):
        before, now = old.splits.get(name), new.splits.get(name)
        if before == now:
            continue
        if before is None or now is None:
            changes.append(f"split {name} is {'gone' if now is None else 'new'}")
            continue
        if before[:2] == now[:2]:
            changes.append(f"{name} has other videos ({now} as before)")
        else:
            changes.append(f"{name} was {before} and is {now} videos")
    return "; ".join(changes) or "its frames are stored in other files"


def dataset_digest(dataset_dir: str | os.PathLike) -> str:
    """SHA-256 over what a built dataset holds: the same on every host that has it.

    Over the lines of videos-<split>.jsonl, which have each video's own digest, and the
    names and sizes of the shards, whose content is not read: 5 ms for 5000 videos.
    Raises DataError when the folder has neither.
    """
    folder = Path(dataset_dir)
    digest = hashlib.sha256()
    tables = sorted(folder.glob("videos-*.jsonl"))
    shards = sorted(folder.glob("*.array_record*"))
    if not tables or not shards:
        raise DataError(f"{folder} is not a built dataset; build it again")
    for path in tables:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    for path in shards:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


# Getting there -------------------------------------------------------------------


def dataset_config(config):
    """The FfppConfig of a config's dataset group."""
    from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

    return FfppConfig(**config.dataset.to_dict())


def prepare(config, terminal, *, splits: Sequence[str] = ()) -> None:
    """Makes the videos that the config asks for and builds the dataset from them.

    Does nothing for what is there already, nor where data.manual_dir is not set. Raises
    DataError, before anything is built, when it would not have one of the splits.
    """
    if not config.data.manual_dir:
        return
    from tfds_ffpp import build, packaging

    manual_dir = Path(config.data.manual_dir).expanduser()
    if config.synthetic.num_identities:
        from tfds_ffpp.synthetic import tree

        with terminal.phase("make videos"):
            tree.write_tree(
                manual_dir,
                compressions=(config.dataset.compression,),
                methods=tuple(config.dataset.methods) or tree.FOUR,
                **config.synthetic.to_dict(),
            )
    wanted, data_dir = dataset_config(config), Path(config.data.data_dir).expanduser()
    with terminal.phase("build"):
        if splits and not build.is_there(wanted, data_dir):
            known = sorted(packaging.select(wanted, manual_dir).split.records)
            for split in splits:
                if split not in known:
                    raise reader.no_split(manual_dir, split, known)
        build.build(wanted, data_dir=data_dir, manual_dir=manual_dir)


def is_built(config) -> bool:
    """Whether the config's dataset is there, whatever its fields are."""
    from tfds_ffpp import build

    if addresses.is_address(config.data.data_dir):  # where nothing can be built
        return True
    data_dir = Path(config.data.data_dir).expanduser()
    return build.is_there(dataset_config(config), data_dir)


def count_videos(config, wanted: Sequence[str]) -> tuple[dict[str, int], int]:
    """How many videos each split would have if the dataset were built now, and how many
    of train's are of no method in config.data.hold_out.

    Reads no video. Raises DataError where nothing can be counted, or where a split
    that is wanted would not be there.
    """
    from tfds_ffpp import packaging

    manual_dir = config.data.manual_dir
    folder = Path(manual_dir).expanduser()
    if not manual_dir or (config.synthetic.num_identities and not folder.exists()):
        cure = "run without --dry_run, which makes" if manual_dir else "build"
        raise DataError(
            f"dataset {config.dataset.name} is not built and there are no videos to "
            f"count: {cure} it, or set config.data.manual_dir"
        )
    records = packaging.select(dataset_config(config), folder).split.records
    for name in wanted:
        if name not in records:
            raise no_split(folder, name, sorted(records))
    trained = [r for r in records["train"] if r.method not in config.data.hold_out]
    return {name: len(part) for name, part in records.items()}, len(trained)


def open_dataset(config, name: str = "", *, used_by: str = "eval.dataset"):
    """The builder of the config's dataset, or of another one by its folder name.

    used_by: the field that names another one. Of one in a bucket this machine gets a
    copy. Raises DataError with the command that builds it when it is not there.
    """
    from tfds_ffpp import build

    data_dir = _local_data_dir(config, name or config.dataset.name)
    if name and name != config.dataset.name:
        builder = build.open_named(
            name,
            data_dir=data_dir,
            missing=_cut_alike(config, build.named_config(name)),
        )
        _check_fit(config, builder.builder_config, data_dir, used_by)
        return builder
    return build.open_dataset(dataset_config(config), data_dir=data_dir)


def _local_data_dir(config, name: str) -> Path:
    """The data_dir; for one in a bucket the place of copies, with this dataset."""
    from tfds_ffpp import build

    data_dir = config.data.data_dir
    if addresses.is_address(data_dir):
        copies.here(f"{data_dir}/{build.Builder.name}/{name}")
        return copies.place(data_dir)
    return Path(data_dir).expanduser()


# How frames are taken from a video and stored: a model knows videos cut in its way.
CUT_FIELDS = (
    *("image_size", "num_frames", "frame_step", "crop", "margin", "face_finder"),
    *("face_finder_model", "align", "jpeg_quality", "jpeg_subsampling"),
)


def _cut_alike(config, other):
    """A dataset's config, with the fields of CUT_FIELDS as the model was trained on."""
    needs_points = config.dataset.align != "none"
    names = (*CUT_FIELDS, "landmarks") if needs_points else CUT_FIELDS
    return dataclasses.replace(other, **{name: config.dataset[name] for name in names})


def cut_otherwise(config, other) -> str:
    """In what another dataset's frames were cut unlike the run's; empty if in none."""
    return ", ".join(
        f"{name} {getattr(other, name)!r} (in training {config.dataset[name]!r})"
        for name in CUT_FIELDS
        if name != "face_finder_model"  # a path, which other machines have elsewhere
        if getattr(other, name) != config.dataset[name]
    )


def _check_fit(config, built, data_dir: Path, used_by: str) -> None:
    """Raises DataError unless the clips of a config can be cut from a dataset."""
    from tfds_ffpp import build

    size = config.dataset.image_size
    span = order.clip_span(config.data.clip_frames, config.data.frame_stride)
    if built.image_size == size and built.num_frames >= span:
        return
    wanted = dataclasses.replace(
        _cut_alike(config, built),
        name=f"{built.name}_{size}x{config.dataset.num_frames}",
    )
    cure = f"evaluate with --config.eval.dataset={wanted.name}"
    if used_by != "eval.dataset":
        cure = f"name {wanted.name} in config.{used_by}"
    if not build.is_there(wanted, data_dir):
        cure = f"build it as `{build.build_command(wanted, data_dir)}` and {cure}"
    raise DataError(
        f"dataset {built.name} holds {built.num_frames} frames of "
        f"{built.image_size} px, but the model takes clips over {span} frames of "
        f"{size} px; {cure}"
    )
