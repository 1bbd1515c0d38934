"""From a tree to the list of stored videos: what the builder writes and build checks.

Holds no TFDS: it prepares every video of every split into the cache, in processes or by
Beam, judges the result, and tells what stands in which shard.
"""

import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tfds_ffpp import card, system
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.entry import cache_folder, entry_name, read_found
from tfds_ffpp.frames.prepare import NOWHERE, UNKNOWN, FoundInVideo
from tfds_ffpp.frames.stored import Rejected, StoredVideo, stored_video, write_lines
from tfds_ffpp.records import to_json
from tfds_ffpp.terminal.progress import Progress
from tfds_ffpp.tree import splits
from tfds_ffpp.tree.naming import VideoRecord
from tfds_ffpp.tree.other_sets import OF_FFPP, OTHER_SETS
from tfds_ffpp.tree.scan import OFFICIAL_TREE, WHERE_TO_ASK, Scan, account
from tfds_ffpp.tree.scan import scan as scan_tree
from tfds_ffpp.workers.jobs import EntryJob, Result
from tfds_ffpp.workers.limits import MEMORY, share_memory
from tfds_ffpp.workers.pool import run_jobs

TIME_LIMIT = 300.0  # seconds for one video
MANUAL_DIR_HELP = f"manual_dir must hold\n{OFFICIAL_TREE}\n{WHERE_TO_ASK}"
# Bytes of a stored pixel, generous for JPEG of quality 95 without subsampling.
BYTES_PER_PIXEL = 0.8


@dataclass(frozen=True)
class Entry:
    """One stored video, and where its frames lie."""

    video: StoredVideo
    path: Path

    @property
    def size(self) -> int:
        """Bytes of its entry, about those of its record."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Packed:
    """All that goes into a dataset."""

    entries: dict[str, list[Entry]]
    contents: card.Contents
    seconds: Counter  # what was spent on which step of preparing

    def shards(self, shard_bytes: int) -> dict[str, list[list[Entry]]]:
        """Per split, runs of entries of about as many bytes."""
        shards: dict[str, list[list[Entry]]] = {}
        for split, entries in self.entries.items():
            runs: list[list[Entry]] = [[]]
            filled = 0
            for entry in entries:
                if filled + entry.size > shard_bytes and runs[-1]:
                    runs.append([])
                    filled = 0
                runs[-1].append(entry)
                filled += entry.size
            shards[split] = runs
        return shards

    def write_tables(
        self, folder: Path, config, *, most: int | None, version: str
    ) -> None:
        """Writes videos-<split>.jsonl, rejected.jsonl, card.json and card.md.

        most: how many videos of each split were taken; None for all.
        """
        contents = self.contents
        for split, videos in contents.videos.items():
            write_lines(folder / f"videos-{split}.jsonl", videos)
        write_lines(folder / "rejected.jsonl", contents.rejected)
        made = card.make_card(contents, config, most=most, version=version)
        (folder / "card.json").write_text(made.to_json())
        (folder / "card.md").write_text(card.as_markdown(made))


# Selecting -------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """What a tree holds and which split each video is in.

    capped: whether splits were cut short, as a try of a build does.
    """

    scan: Scan
    split: splits.Splits
    capped: bool = False

    def cap(self, most: int | None) -> "Selection":
        """At most so many videos of each split; all of them with None."""
        if not most:
            return self
        records = {s: part[:most] for s, part in self.split.records.items()}
        return replace(self, split=replace(self.split, records=records), capped=True)


def select(config, manual_dir: Path) -> Selection:
    """Reads the names of the tree, no videos. Raises DataError."""
    found = scan_tree(
        manual_dir,
        compression=config.compression,
        layout=config.layout,
        methods=config.methods,
        allow_missing=config.allow_missing,
        allow_one_class=config.allow_one_class,
        mapping=config.map,
        folders=config.protocol == "folders",
    )
    split = _split(found, config)
    if not config.allow_one_class:
        for name, records in split.records.items():
            _need_both_classes(name, [r.label for r in records], config)
    return Selection(found, split)


def _split(found: Scan, config) -> splits.Splits:
    """Which split each video is in, as the config's protocol has it."""
    if config.protocol == "repeated":
        return splits.assign_repeated(
            found.records,
            per_class=config.repeated_videos_per_class,
            num_val=config.repeated_val_videos,
        )
    if config.protocol == "all_test":
        return splits.assign_all_test(found.records)
    if config.protocol == "disjoint":
        return splits.assign_disjoint(found.records, root=found.root)
    if config.protocol == "folders":
        return splits.assign_folders(found.records)
    if found.layout in OTHER_SETS and found.layout not in OF_FFPP:
        return splits.assign_listed(found.records)
    return splits.assign(found.records, root=found.root, strict=config.strict)


def _need_both_classes(split: str, labels: Sequence[int], config) -> None:
    """Raises DataError unless a split has reals and fakes."""
    for label, name in enumerate(("real", "fake")):
        if label not in labels:
            raise DataError(
                f"none of the {len(labels)} videos of the {split} split is {name}, so "
                f"nothing can be learnt or judged there; add {name} videos or split "
                f"otherwise than by protocol={config.protocol} "
                "(allow_one_class=True goes on)"
            )


# Preparing -------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """How videos are prepared; none of it changes what is stored.

    num_processes: None is one per core. time_limit, memory_limit: seconds and bytes of
    memory that one video may take, less memory where the machine's is shared by many.
    beam_runner, beam_options: of Apache Beam, which does the work if either is given.
    """

    num_processes: int | None = None
    time_limit: float = TIME_LIMIT
    memory_limit: int = MEMORY
    beam_runner: Any = None
    beam_options: Any = None

    def shared(self) -> "Means":
        """The same, with as many processes as free memory has place for."""
        wanted = self.num_processes or system.num_cores()
        fitting, memory_limit = share_memory(wanted, most=self.memory_limit)
        if self.num_processes and fitting < wanted:
            sys.stderr.write(
                f"warning: free memory has place for {fitting} of {wanted} processes\n"
            )
        return replace(self, num_processes=fitting, memory_limit=memory_limit)

    def run(self, jobs: list[EntryJob]) -> Iterator[tuple[EntryJob, Result]]:
        """Runs jobs; yields each with its result as they come."""
        if not jobs:
            return iter(())
        if self.beam_options is not None or self.beam_runner is not None:
            from tfds_ffpp.workers import beam

            return beam.run_jobs(jobs, self.beam_runner, self.beam_options)
        return run_jobs(jobs, min(self.num_processes or 1, len(jobs)))


@dataclass(frozen=True)
class _Outcome:
    """What has become of videos so far: the entry of each, or why it has none."""

    entries: dict[Path, Path] = field(default_factory=dict)
    reasons: dict[Path, str] = field(default_factory=dict)
    seconds: Counter = field(default_factory=Counter)

    def prepared(self, path: Path) -> FoundInVideo | None:
        """What the entry of a video says of it; None when there is no whole one."""
        entry = self.entries.get(path)
        return entry and read_found(entry, FoundInVideo)


def cache_of(config, root: Path) -> Path:
    """The folder below root for the entries of a config's videos."""
    preparation = config.preparation
    return cache_folder(root, [asdict(preparation), card.versions(preparation)])


def prepare(chosen: Selection, config, *, cache: Path, means: Means) -> Packed:
    """Prepares every chosen video. Raises DataError when too many cannot be used."""
    for line in account(chosen.scan):
        sys.stderr.write(f"{line}\n")
    for warning in card.unknown_model(config.preparation):  # before hours of work
        sys.stderr.write(f"warning: {warning}\n")
    first, second, originals = _in_order(chosen, config)
    outcome, faces = _Outcome(), {}

    def job(record: VideoRecord) -> EntryJob:
        """Raises OSError where the video cannot be read."""
        path, own = os.path.abspath(record.path), faces.get(record.original_key)
        facts = [asdict(config.preparation), own and to_json(own)]
        mask = _mask_of(record) if config.masks else None
        if mask is not None:
            fixed = mask in (NOWHERE, UNKNOWN)
            facts.append(mask if fixed else entry_name(mask, None))
        return EntryJob(
            path=path,
            entry=str(cache / entry_name(path, facts)),
            preparation=config.preparation,
            faces=own,
            mask=mask,
            time_limit=means.time_limit,
            memory_limit=means.memory_limit,
        )

    with Progress("prepare videos", len(first) + len(second)) as bar:
        _run(first, job, outcome, means=means, bar=bar)
        for path, record in originals.items():
            if (found := outcome.prepared(Path(os.path.abspath(path)))) is not None:
                faces[record.key] = found.faces
        _run(second, job, outcome, means=means, bar=bar)
    return _pack(chosen, outcome, faces, config, ledger=cache.parent)


def _mask_of(record: VideoRecord) -> str:
    """See prepare.prepare."""
    if record.label == 0:
        return NOWHERE
    return os.path.abspath(record.mask) if record.mask else UNKNOWN


def _in_order(
    chosen: Selection, config
) -> tuple[list[VideoRecord], list[VideoRecord], dict[Path, VideoRecord]]:
    """Whom to prepare first, whom then, and the originals among the first.

    A fake takes its box from its original; with `strict` that is in no split.
    """
    records = {r.path: r for part in chosen.split.records.values() for r in part}
    if config.crop == "full":
        return list(records.values()), [], {}
    by_key = {r.key: r for r in chosen.scan.records}
    originals = {
        original.path: original
        for record in records.values()
        if (original := by_key.get(record.original_key)) is not None
    }
    alone = {p: r for p, r in records.items() if r.original_key not in by_key}
    first = {**originals, **alone}
    second = [r for p, r in records.items() if p not in first]
    return list(first.values()), second, originals


def _run(
    records: Sequence[VideoRecord],
    make_job: Callable[[VideoRecord], EntryJob],
    outcome: _Outcome,
    *,
    means: Means,
    bar: Progress,
) -> None:
    """Prepares the videos that have no entry yet; adds to the outcome."""
    jobs = []
    for record in records:
        try:
            job = make_job(record)
        except OSError as error:
            path = Path(os.path.abspath(record.path))
            outcome.reasons[path] = error.strerror or "cannot be read"
            continue
        if read_found(Path(job.entry), FoundInVideo) is not None:
            outcome.entries[Path(job.path)] = Path(job.entry)
        else:
            jobs.append(job)
    bar.skip(len(records) - len(jobs))
    for job, result in means.run(jobs):
        if result.reason:
            outcome.reasons[Path(job.path)] = result.reason
        else:
            outcome.entries[Path(job.path)] = Path(job.entry)
            outcome.seconds.update(result.seconds or {})
        bar.step()


# Judging ---------------------------------------------------------------------------


def _pack(
    chosen: Selection, outcome: _Outcome, faces: Container[str], config, *, ledger: Path
) -> Packed:
    """What goes into the dataset. Raises DataError when it would be no good."""
    entries, rejected = _sort(chosen, outcome)
    _refuse_many(entries, rejected, config.max_rejected, ledger / "rejected.jsonl")
    for split, kept in entries.items():
        if not kept:
            first = next(r for r in rejected if r.expected)
            raise DataError(
                f"no video of the {split} split can be used; "
                f"first {first.path}: {first.reason}"
            )
        if not config.allow_one_class and not chosen.capped:
            _need_both_classes(split, [e.video.label for e in kept], config)
    if config.protocol != "repeated":
        _refuse_shared_content(entries)
    own = 0
    if config.crop == "face":
        kept = {e.video.key for stored in entries.values() for e in stored}
        own = sum(
            r.label == 1 and r.key in kept and r.original_key not in faces
            for part in chosen.split.records.values()
            for r in part
        )
    contents = card.Contents(
        videos={s: [e.video for e in part] for s, part in entries.items()},
        rejected=rejected,
        scan=chosen.scan,
        split=chosen.split,
        own_boxes=own,
        num_taken=len({e.path for part in entries.values() for e in part}),
    )
    return Packed(entries, contents, outcome.seconds)


def _sort(
    chosen: Selection, outcome: _Outcome
) -> tuple[dict[str, list[Entry]], list[Rejected]]:
    """The entries of each split, and what is in none."""
    entries: dict[str, list[Entry]] = {}
    rejected = [Rejected(o.path, o.reason, False) for o in chosen.scan.odd]
    seen: set[Path] = set()
    for split, records in chosen.split.records.items():
        entries[split] = []
        for record in records:
            path = Path(os.path.abspath(record.path))
            found = outcome.prepared(path)
            if found is not None:
                video = stored_video(record, found.facts)
                entries[split].append(Entry(video, outcome.entries[path]))
            elif path not in seen:
                seen.add(path)
                reason = outcome.reasons.get(path, "its entry in the cache is gone")
                rejected.append(Rejected(record.path, reason, record=record))
    return entries, rejected


def _refuse_many(
    entries: dict[str, list[Entry]], rejected: list[Rejected], most: float, ledger: Path
) -> None:
    """Raises DataError when more than a share of the videos cannot be used."""
    bad = [r for r in rejected if r.expected]
    total = len(bad) + sum(len(e) for e in entries.values())
    if len(bad) <= most * total:
        return
    write_lines(ledger, rejected)
    reason, count = Counter(r.reason for r in bad).most_common(1)[0]
    raise DataError(
        f"{len(bad)} of {total} videos cannot be used, more than max_rejected={most:g} "
        f"allows; mostly {reason!r} ({count}), first {bad[0].path}; all are in {ledger}"
    )


def _refuse_shared_content(entries: dict[str, list[Entry]]) -> None:
    """Raises DataError when the same bytes stand in two splits."""
    home: dict[str, dict[str, str]] = defaultdict(dict)
    for split, kept in entries.items():
        for entry in kept:
            home[entry.video.sha256].setdefault(split, entry.video.key)
    shared = [places for places in home.values() if len(places) > 1]
    if shared:
        said = " and ".join(f"{key} ({split})" for split, key in shared[0].items())
        raise DataError(
            f"{len(shared)} videos stand in two splits under different names, first "
            f"{said}; remove one of each pair"
        )


# The disk --------------------------------------------------------------------------


def readable_size(count: float) -> str:
    """Bytes as text, for example "1.2 GB"."""
    unit, name = next(
        u for u in ((1e9, "GB"), (1e6, "MB"), (1, "B")) if count >= u[0] or u[0] == 1
    )
    return f"{count / unit:.3g} {name}"


def need_space(data_dir: Path, split: splits.Splits, config) -> None:
    """Raises DataError when the disk is too small for the cache and the dataset."""
    videos = sum(len(r) for r in split.records.values())
    pixels = videos * config.num_frames * config.image_size**2
    need = int(2 * pixels * BYTES_PER_PIXEL)
    place = data_dir
    while not place.exists():
        place = place.parent
    have = shutil.disk_usage(place).free
    if have < need:
        raise DataError(
            f"{videos} videos need about {readable_size(need)} under {data_dir} "
            "(half of it until the build ends), but "
            f"{readable_size(have)} are free; "
            "give another data_dir or a smaller num_frames or image_size"
        )


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
