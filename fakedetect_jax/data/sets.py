"""The datasets of a run: what it is trained on, and what chooses its checkpoint."""

import bisect
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fakedetect_jax.data import leaks, mixture, order, reader, shares
from fakedetect_jax.data.dataset import (
    DatasetFacts,
    cut_otherwise,
    dataset_facts,
    open_dataset,
)
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import TrainOrder, originals, without_unseen
from fakedetect_jax.data.reader import MemoryBudget, Split
from fakedetect_jax.errors import ConfigError
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.stored import StoredVideo, read_card
from tfds_ffpp.system import free_memory

if TYPE_CHECKING:  # it needs TFDS, which a run imports when it opens them
    from tfds_ffpp.tfds_ffpp_dataset_builder import Builder


class ValSet(NamedTuple):
    """The val of a dataset; with several each has its own numbers."""

    dataset: str
    split: Split


class Data(NamedTuple):
    """What a run is trained and validated on.

    facts: of every dataset of it, the run's own first; made: whether one is of made
    videos; train: all training videos, counted through; sizes, shares: of each dataset
    of it; blended_val: val's fakes are copies of its reals, to be self-blended;
    memory: bytes of decoded videos that this process and its workers may hold.
    """

    facts: dict[str, DatasetFacts]
    made: bool
    train: Split
    sizes: tuple[int, ...]
    shares: dict[str, float]
    val: tuple[ValSet, ...]
    blended_val: bool
    memory: int

    @property
    def own(self) -> DatasetFacts:
        """The facts of config.dataset."""
        return next(iter(self.facts.values()))

    @property
    def others(self) -> dict[str, DatasetFacts]:
        """Those of all other datasets."""
        return dict(list(self.facts.items())[1:])

    def name(self, number: int) -> str:
        """Which training video this is, for a message: its dataset and its key.

        Builds of one set, as c23 and c40, have videos of the same keys.
        """
        ends = list(itertools.accumulate(self.sizes))
        dataset = list(self.shares)[bisect.bisect_right(ends, number)]
        return f"{dataset} {self.train.videos[number].key}"


def shares_of(config) -> dict[str, float]:
    """Dataset -> its share of the training's clips. Raises ConfigError."""
    return shares.parse_shares(config.data.train, config.dataset.name)


def validation_of(config) -> list[str]:
    """The datasets whose val chooses the checkpoint. Raises ConfigError."""
    return shares.parse_names(config.eval.validation, list(shares_of(config)))


def all_sets(config) -> list[str]:
    """Every dataset of a run, its own first."""
    names = (config.dataset.name, *shares_of(config), *validation_of(config))
    return list(dict.fromkeys(names))


def open_all(config) -> "dict[str, Builder]":
    """The builders of all datasets of a run. Raises DataError for one that is not
    there, or whose frames do not fit."""
    names = all_sets(config)
    trained = shares_of(config)
    used_by = {n: "data.train" if n in trained else "eval.validation" for n in names}
    return {n: open_dataset(config, n, used_by=used_by[n]) for n in names}


def facts_of(builders: "Mapping[str, Builder]") -> dict[str, DatasetFacts]:
    """The facts of each dataset."""
    return {n: dataset_facts(Path(b.data_dir)) for n, b in builders.items()}


def combined_digest(facts: Mapping[str, DatasetFacts]) -> str:
    """One dataset's own digest, or one of the digests and names of several."""
    if len(facts) == 1:
        return next(iter(facts.values())).digest
    lines = [f"{name} {one.digest}\n" for name, one in sorted(facts.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Of what is free: how much all videos may need to be held, and how much must be left.
HELD_SHARE, LEFT_SHARE = 0.5, 0.25


def bytes_to_hold(config, splits: Sequence[Split]) -> tuple[int, int]:
    """What a MemoryBudget has for the videos of `splits`, by config.data.cache_mib.

    Where it is -1 that is what all of them need, or nothing if they do not fit: of a
    part the rest would be decoded in every epoch anyway, with less memory for the
    system to keep their records in.
    """
    if config.data.cache_mib >= 0:
        return config.data.cache_mib << 20, 0
    videos = [video for split in splits for video in split.videos]
    frames = sum(len(video.frame_index) for video in videos)
    need, free = frames * 3 * config.dataset.image_size**2, free_memory() or 0
    if need * max(config.data.num_workers, 1) > HELD_SHARE * free:
        return 0, 0
    return need, int(LEFT_SHARE * free)


def open_split(
    builders: "Mapping[str, Builder]",
    name: str,
    config,
    memory: MemoryBudget | None = None,
) -> list[Split]:
    """A split of each dataset, without the fakes of config.data.hold_out.

    memory: see reader.open_split. Raises DataError for a method that none of them has.
    """
    folders = [Path(builder.data_dir) for builder in builders.values()]
    videos = [reader.read_videos(folder, name) for folder in folders]
    hold_out = config.data.hold_out
    if hold_out:
        order.held_in([v for part in videos for v in part], hold_out)
    return [
        reader.open_split(
            builder,
            name,
            config,
            hold_out=sorted({v.method for v in part if v.label} & set(hold_out)),
            videos=part,
            memory=memory,
        )
        for builder, part in zip(builders.values(), videos, strict=True)
    ]


def open_training(
    config, builders: "Mapping[str, Builder]", memory: MemoryBudget | None = None
) -> list[Split]:
    """The train split of each training set."""
    sets = {n: builders[n] for n in shares_of(config)}
    return open_split(sets, "train", config, memory)


def open_validation(
    config, builders: "Mapping[str, Builder]", memory: MemoryBudget | None = None
) -> list[Split]:
    """The val split of each validation set."""
    sets = {n: builders[n] for n in validation_of(config)}
    return open_split(sets, "val", config, memory)


def open_data(
    config, builders: "Mapping[str, Builder]", facts: dict[str, DatasetFacts]
) -> Data:
    """What a run is trained and validated on; facts: of the builders' datasets.

    Raises DataError where a split lacks reals or fakes.
    """
    memory = MemoryBudget()
    on_devices = config.data.resident == "device"
    train = open_training(config, builders, None if on_devices else memory)
    val = open_validation(config, builders, memory)
    names = validation_of(config)
    blended_val = _needs_blended_val(config, train, val)
    if blended_val:
        val = [
            reader.open_blended_split(builders[n], "val", config, memory) for n in names
        ]
    held = val if on_devices else [*train, *val]
    memory.left, memory.floor = bytes_to_hold(config, held)
    one_is_enough = config.dataset.allow_one_class
    made_fakes = bool(config.loss.self_blend)
    for split in train:
        reader.need_both_classes(
            split.videos, "train", one_is_enough=one_is_enough or made_fakes
        )
    for split in val:
        reader.need_both_classes(split.videos, "val", one_is_enough=one_is_enough)
    cards = [read_card(Path(builder.data_dir)) for builder in builders.values()]
    return Data(
        facts=facts,
        made=any(card.made for card in cards),
        train=mixture.joined(train),
        sizes=tuple(len(split.videos) for split in train),
        shares=shares_of(config),
        val=tuple(map(ValSet, names, val)),
        blended_val=blended_val,
        memory=memory.left * max(config.data.num_workers, 1),
    )


def _needs_blended_val(config, train: Sequence[Split], val: Sequence[Split]) -> bool:
    """Whether data.hold_out leaves val no fakes, so that others must stand in.

    Val's own would tell the choice of the checkpoint about the held-out methods.
    Raises ConfigError when it leaves nothing to learn from either.
    """
    if not config.data.hold_out:
        return False

    def has_fakes(splits: Sequence[Split]) -> bool:
        return any(v.label for split in splits for v in split.videos)

    nothing_fake = not config.loss.self_blend and not has_fakes(train)
    if nothing_fake and not config.dataset.allow_one_class:
        raise ConfigError(
            "config.data.hold_out names every method, so no fake is left to train on; "
            "set config.loss.self_blend=1 and config.data.sampling=class, hold out "
            "fewer, or go on with --config.dataset.allow_one_class=True"
        )
    return bool(config.loss.self_blend) and not has_fakes(val)


def train_order(config, data: Data) -> TrainOrder | MixedOrder:
    """Which clip comes when, of all training sets in their shares."""
    orders, first = [], 0
    for number, (name, size) in enumerate(zip(data.shares, data.sizes, strict=True)):
        videos = data.train.videos[first : first + size]
        first += size
        try:
            orders.append(own_order(config, videos, number))
        except DataError as error:
            if len(data.shares) == 1:
                raise
            raise DataError(f"dataset {name}: {error}") from error
    if len(orders) == 1:
        return orders[0]
    return MixedOrder(orders, data.sizes, list(data.shares.values()))


def own_order(config, videos: Sequence[StoredVideo], number: int) -> TrainOrder:
    """Which clip comes when, of the training set of this number alone."""
    return TrainOrder(
        videos,
        # Sets of equal sizes are not to be shuffled alike.
        seed=config.seed + (number << 32),
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        max_frame_stride=config.data.max_frame_stride,
        sampling=config.data.sampling,
        self_blend=config.loss.self_blend,
        min_coverage=config.data.min_coverage,
    )


def count_unpaired(config, data: Data) -> int:
    """The training fakes beside which data.sampling=pair shows another real video, as
    their original is not there or not usable."""
    videos = without_unseen(
        data.train.videos,
        clip_frames=config.data.clip_frames,
        stride=config.data.frame_stride,
        min_coverage=config.data.min_coverage,
    )
    paired = originals(videos)
    return sum(
        video.label == 1 and video.num_valid > 0 and number not in paired
        for number, video in enumerate(videos)
    )


def count_others(config) -> int:
    """The training videos of all sets but the run's own, of no method that is held out.
    Raises DataError."""
    folders = [
        Path(open_dataset(config, name, used_by="data.train").data_dir)
        for name in shares_of(config)
        if name != config.dataset.name
    ]
    videos = [v for folder in folders for v in reader.read_videos(folder, "train")]
    return sum(video.method not in config.data.hold_out for video in videos)


def lines(data: Data) -> list[str]:
    """What a run says of its datasets before it begins."""

    def count(videos: Sequence[StoredVideo]) -> str:
        fakes = sum(video.label for video in videos)
        return f"{len(videos) - fakes} real + {fakes} fake"

    val = {one.dataset: one.split.videos for one in data.val}
    found, first = [], 0
    train = {}
    for name, size in zip(data.shares, data.sizes, strict=True):
        train[name] = data.train.videos[first : first + size]
        first += size
    for name in dict.fromkeys((*train, *val)):
        parts = []
        if name in train:
            share = f" ({data.shares[name]:.1%} of the clips)" if len(train) > 1 else ""
            parts.append(f"train {count(train[name])}{share}")
        if name in val:
            parts.append(f"val {count(val[name])}")
        found.append(f"dataset   {name}: {'; '.join(parts)} videos")
    if data.memory:
        size = f"{data.memory / 1e9:,.2f} GB"
        found.append(f"frames    once decoded, up to {size} are held in memory")
    if len(val) > 1:
        found.append(
            "val       the checkpoint is chosen by the mean of the video AUC on "
            f"{', '.join(val)}"
        )
    return found


def cut_apart(config, builders: "Mapping[str, Builder]") -> list[str]:
    """A sentence on each dataset whose frames were cut unlike the run's own."""
    found = []
    for name, builder in builders.items():
        how = cut_otherwise(config, builder.builder_config)
        if name != config.dataset.name and how:
            own = config.dataset.name
            found.append(f"dataset {name} was cut otherwise than {own}: {how}")
    return found


def find_leaks(
    config, builders: "Mapping[str, Builder]", say: Callable[[str], None]
) -> list[leaks.Leak]:
    """What stands in a split of one dataset of the run and in another of another.

    Test is looked at for this alone: its videos may not be in the training of another
    set. Reads three frames of each video. Nothing to do with one dataset.
    """
    if len(builders) == 1:
        return []
    parts = []
    for name, builder in builders.items():
        made = read_card(Path(builder.data_dir)).made
        for split in ("train", "val", "test"):
            if not (Path(builder.data_dir) / f"videos-{split}.jsonl").exists():
                continue
            if split == "train" and name not in shares_of(config):
                continue
            opened = reader.open_split(builder, split, config)
            parts.append(leaks.Part(name, opened, made))
    videos = sum(len(part.split.videos) for part in parts)
    say(f"leaks     {videos:,} videos of {len(builders)} datasets are compared")
    return leaks.find_leaks(parts, config.dataset.image_size)
