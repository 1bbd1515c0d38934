"""From a tree to the list of stored videos: what the builder writes and build checks.

Holds no TFDS: it prepares every video of every split into the cache, in processes or by
Beam, judges the result, and tells what stands in which shard.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfds_ffpp import built, card
from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.entry import entry_name, read_meta
from tfds_ffpp.progress import Progress
from tfds_ffpp.tree import splits
from tfds_ffpp.tree.naming import VideoRecord
from tfds_ffpp.tree.other_sets import OTHER_SETS
from tfds_ffpp.tree.scan import OFFICIAL_TREE, WHERE_TO_ASK, Scan, account
from tfds_ffpp.tree.scan import scan as scan_tree
from tfds_ffpp.workers.limits import MEMORY, share_memory
from tfds_ffpp.workers.pool import run_jobs

TIME_LIMIT = 300.0  # seconds for one video
MANUAL_DIR_HELP = f"manual_dir must hold\n{OFFICIAL_TREE}\n{WHERE_TO_ASK}"
CACHE = ".tfds_ffpp_cache"
# Bytes of a stored pixel, generous for JPEG of quality 95 without subsampling.
BYTES_PER_PIXEL = 0.8


@dataclass(frozen=True)
class Entry:
    """One stored video: facts are all features but the frames, which lie at path."""

    key: str
    path: Path
    facts: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its entry, about those of its record."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Rejected:
    """A video that is not in the dataset. expected: it should have been one."""

    path: Path
    reason: str
    expected: bool = True
    record: VideoRecord | None = None

    def line(self) -> dict[str, Any]:
        """As a line of rejected.jsonl."""
        record = self.record
        return {
            "path": os.fsencode(self.path).decode(errors="replace"),
            "reason": self.reason,
            "dataset": record.dataset if record else "",
            "method": record.method if record else "",
            "video_id": record.video_id if record else "",
            "label": record.label if record else -1,
        }


@dataclass
class Packed:
    """All that goes into a dataset."""

    entries: dict[str, list[Entry]]
    rejected: list[Rejected]
    scan: Scan
    split: splits.Splits
    own_boxes: int = 0  # fakes that were cropped by their own faces
    seconds: Counter = field(default_factory=Counter)

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
        self, folder: Path, *, config: dict[str, Any], version: str
    ) -> None:
        """Writes videos-<split>.jsonl, rejected.jsonl, card.json and card.md."""
        for split, entries in self.entries.items():
            _write_lines(folder / f"videos-{split}.jsonl", (e.facts for e in entries))
        _write_lines(folder / "rejected.jsonl", (r.line() for r in self.rejected))
        told = card.make_card(
            {s: [e.facts for e in es] for s, es in self.entries.items()},
            rejected=[r.line() for r in self.rejected],
            scan=self.scan,
            split=self.split,
            own_boxes=self.own_boxes,
            num_taken=len({e.path for es in self.entries.values() for e in es}),
            config=config,
            version=version,
        )
        (folder / "card.json").write_text(json.dumps(told, indent=1) + "\n")
        (folder / "card.md").write_text(card.as_markdown(told))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def select(config, manual_dir: Path) -> tuple[Scan, splits.Splits]:
    """What the tree holds and which split each video is in. Reads names only."""
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
    if config.protocol == "repeated":
        split = splits.assign_repeated(
            found.records,
            per_class=config.repeated_videos_per_class,
            num_val=config.repeated_val_videos,
        )
    elif config.protocol == "all_test":
        split = splits.assign_all_test(found.records)
    elif config.protocol == "disjoint":
        split = splits.assign_disjoint(found.records, root=found.root)
    elif config.protocol == "folders":
        split = splits.assign_folders(found.records)
    elif found.layout in OTHER_SETS and found.layout != "deeperforensics":
        split = splits.assign_listed(found.records)
    else:
        split = splits.assign(found.records, root=found.root, strict=config.strict)
    if not config.allow_one_class:
        for name, records in split.records.items():
            _need_both_classes(name, [r.label for r in records], config)
    return found, split


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


class Work:
    """The preparing of one dataset; a context that holds its cache locked."""

    def __init__(
        self,
        config,
        *,
        manual_dir: Path,
        data_dir: Path,
        dataset_dir: Path,
        cache_dir: Path | None = None,
        download_config: Any = None,
        num_processes: int | None = None,
        time_limit: float = TIME_LIMIT,
        memory_limit: int = MEMORY,
    ):
        """Reads the names of the tree; writes nothing. Raises DataError."""
        self._config = config
        self._recipe = dataclasses.asdict(config.preparation)
        self._scan, self._split = select(config, manual_dir)
        self._data_dir = data_dir.expanduser()
        self._dataset_dir = dataset_dir
        wanted = num_processes or os.cpu_count() or 1
        self._num_processes, self._memory_limit = share_memory(
            wanted, most=memory_limit
        )
        if num_processes and self._num_processes < wanted:
            sys.stderr.write(
                f"warning: free memory has place for {self._num_processes} of "
                f"{wanted} processes\n"
            )
        self._time_limit = time_limit
        self._limit = limit = getattr(download_config, "max_examples_per_split", None)
        if limit:
            self._split = dataclasses.replace(
                self._split,
                records={s: r[:limit] for s, r in self._split.records.items()},
            )
        self._beam_options = getattr(download_config, "beam_options", None)
        self._beam_runner = getattr(download_config, "beam_runner", None)
        told = json.dumps([self._recipe, card.versions(self._recipe)], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        self._cache = (cache_dir or self._data_dir / CACHE) / digest
        self._lock: Any = None

    def __enter__(self) -> "Work":
        import fcntl  # the builder has asked for it; reading a dataset does without

        _need_space(self._data_dir, self._split, self._config)
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            self._lock = (self._cache.parent / f"{self._cache.name}.lock").open("w")
        except OSError as error:
            raise DataError(
                f"cannot write to {self._data_dir} ({error.strerror}); "
                "give a data_dir that can be written"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise DataError(
                f"another build is working in {self._cache}; wait for it to end"
            ) from None
        for stale in self._dataset_dir.parent.glob(
            f"incomplete.*_{self._dataset_dir.name}"
        ):
            shutil.rmtree(stale, ignore_errors=True)
        return self

    def __exit__(self, *error: object) -> None:
        import fcntl

        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()

    def forget(self) -> None:
        """Removes the cache of a dataset that is whole."""
        shutil.rmtree(self._cache, ignore_errors=True)
        (self._cache.parent / f"{self._cache.name}.lock").unlink(missing_ok=True)
        try:
            self._cache.parent.rmdir()
        except OSError:
            return  # others' caches are there

    # Preparing --------------------------------------------------------------------

    def prepare(self) -> Packed:
        """Prepares every video. Raises DataError when too many cannot be used."""
        for line in account(self._scan):
            sys.stderr.write(f"{line}\n")
        chosen = {
            r.path: r for records in self._split.records.values() for r in records
        }
        by_key = {r.key: r for r in self._scan.records}
        # Of the videos that fakes take their boxes from; of no split, with `strict`.
        originals = {
            o.path: o
            for r in chosen.values()
            if (o := by_key.get(r.original_key)) is not None
        }
        if self._config.crop == "full":
            originals = {}
        first = {
            **originals,
            **{
                p: r
                for p, r in chosen.items()
                if not originals or r.original_key not in by_key
            },
        }
        seconds: Counter = Counter()
        done: dict[Path, Path] = {}  # video -> entry
        reasons: dict[Path, str] = {}
        self._run("1/2", list(first.values()), {}, (done, reasons, seconds))
        faces = {}
        for path, original in originals.items():
            meta = read_meta(done[path]) if path in done else None
            if meta is not None:
                faces[original.key] = meta["faces"]
        second = [r for p, r in chosen.items() if p not in first]
        self._run("2/2", second, faces, (done, reasons, seconds))
        return self._pack(done, reasons, faces, seconds)

    def _run(self, label: str, records: Sequence[VideoRecord], faces, results) -> None:
        """Prepares records that have no entry yet; fills results."""
        done, reasons, seconds = results
        jobs = []
        for record in records:
            told = faces.get(record.original_key) if record.original else None
            job = self._job(record, told)
            if isinstance(job, str):
                reasons[record.path] = job
            elif read_meta(Path(job["entry"])) is not None:
                done[record.path] = Path(job["entry"])
            else:
                jobs.append(job)
        with Progress(f"Preparing videos {label}", len(jobs)) as progress:
            for job, result in self._results(jobs):
                path = Path(job["path"])
                if "reason" in result:
                    reasons[path] = result["reason"]
                else:
                    done[path] = Path(job["entry"])
                    seconds.update(result["seconds"])
                progress.step()

    def _results(self, jobs: list[dict]) -> Iterator[tuple[dict, dict]]:
        if not jobs:
            return iter(())
        if self._beam_options is not None or self._beam_runner is not None:
            from tfds_ffpp.workers import beam

            return beam.run_jobs(jobs, self._beam_runner, self._beam_options)
        return run_jobs(jobs, min(self._num_processes, len(jobs)))

    def _job(self, record: VideoRecord, faces) -> dict[str, Any] | str:
        path = os.path.abspath(record.path)
        try:
            name = entry_name(path, [self._recipe, faces])
        except OSError as error:
            return error.strerror or "cannot be read"
        return {
            "path": path,
            "entry": str(self._cache / name),
            "preparation": self._recipe,
            "faces": faces,
            "time_limit": self._time_limit,
            "memory_limit": self._memory_limit,
        }

    # Judging ----------------------------------------------------------------------

    def _pack(self, done, reasons, faces, seconds: Counter) -> Packed:
        entries: dict[str, list[Entry]] = {}
        rejected = [Rejected(o.path, o.reason, False) for o in self._scan.odd]
        seen: set[Path] = set()
        for split, records in self._split.records.items():
            entries[split] = []
            for record in records:
                path = Path(os.path.abspath(record.path))
                meta = read_meta(done[path]) if path in done else None
                if meta is not None:
                    facts = _facts(record, meta)
                    entries[split].append(Entry(record.key, done[path], facts))
                elif path not in seen:
                    seen.add(path)
                    reason = reasons.get(path, "its entry in the cache is gone")
                    rejected.append(Rejected(record.path, reason, record=record))
        self._judge(entries, rejected)
        own = 0
        if self._config.crop == "face":
            kept = {e.key for stored in entries.values() for e in stored}
            chosen = (r for part in self._split.records.values() for r in part)
            own = sum(
                r.label == 1 and r.key in kept and r.original_key not in faces
                for r in chosen
            )
        return Packed(entries, rejected, self._scan, self._split, own, seconds)

    def _judge(self, entries, rejected: list[Rejected]) -> None:
        bad = [r for r in rejected if r.expected]
        total = len(bad) + sum(len(e) for e in entries.values())
        if len(bad) > self._config.max_rejected * total:
            ledger = self._cache.parent / "rejected.jsonl"
            _write_lines(ledger, (r.line() for r in rejected))
            common = Counter(r.reason for r in bad).most_common(1)[0]
            raise DataError(
                f"{len(bad)} of {total} videos cannot be used, more than "
                f"max_rejected={self._config.max_rejected:g} allows; mostly "
                f"{common[0]!r} ({common[1]}), first {bad[0].path}; all are in {ledger}"
            )
        for split, kept in entries.items():
            if not kept:
                raise DataError(
                    f"no video of the {split} split can be used; "
                    f"first {bad[0].path}: {bad[0].reason}"
                )
            if not self._config.allow_one_class and not self._limit:
                labels = [e.facts["label"] for e in kept]
                _need_both_classes(split, labels, self._config)
        if self._config.protocol != "repeated":
            _refuse_shared_content(entries)


def _facts(record: VideoRecord, meta: dict[str, Any]) -> dict[str, Any]:
    told = {k: v for k, v in meta.items() if k != "faces"}
    return {
        "dataset": record.dataset,
        "method": record.method,
        "video_id": record.video_id,
        "label": record.label,
        "target": record.target,
        "source": record.source,
        "original": record.original,
        "compression": record.compression,
        **told,
    }


def _refuse_shared_content(entries: dict[str, list[Entry]]) -> None:
    """Raises DataError when the same bytes stand in two splits."""
    home: dict[str, dict[str, str]] = defaultdict(dict)
    for split, kept in entries.items():
        for entry in kept:
            home[entry.facts["sha256"]].setdefault(split, entry.key)
    shared = [places for places in home.values() if len(places) > 1]
    if shared:
        said = " and ".join(f"{key} ({split})" for split, key in shared[0].items())
        raise DataError(
            f"{len(shared)} videos stand in two splits under different names, first "
            f"{said}; remove one of each pair"
        )


def _need_space(data_dir: Path, split: splits.Splits, config) -> None:
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
            f"{videos} videos need about {built.readable_size(need)} under {data_dir} "
            "(half of it until the build ends), but "
            f"{built.readable_size(have)} are free; "
            "give another data_dir or a smaller num_frames or image_size"
        )
