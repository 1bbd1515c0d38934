"""Several evaluations side by side, and their differences on the same videos."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.metrics import intervals, metrics
from fakedetect_jax.reports import results
from fakedetect_jax.reports.report import Report, VideoSummary, read_report
from tfds_ffpp.errors import DataError
from tfds_ffpp.store.addresses import absolute


class Entry(NamedTuple):
    """An evaluation in a comparison."""

    name: str
    folder: Path
    report: Report
    videos: metrics.Items


@dataclass(frozen=True)
class Run:
    """What is shown of an evaluation beside others; see report.Report."""

    name: str
    split: str | None
    step: int | None
    datasets: list[str]
    selected_on: str | None
    test_evaluations: int | None
    coverage: metrics.Coverage
    split_source: str | None
    num_identities: int
    num_warnings: int
    video: VideoSummary


@dataclass(frozen=True)
class Touches:
    """How often the runs that are compared evaluated a data set's test, in all."""

    dataset: str
    evaluations: int
    runs: int


@dataclass(frozen=True)
class Difference:
    """A run against a reference on the videos that both have; see intervals."""

    run: str
    reference: str
    videos: intervals.Compared
    by_method: dict[str, intervals.Compared]
    INLINE = ("videos",)


@dataclass(frozen=True)
class Unpaired:
    """An evaluation that shares most of its videos with no other.

    shared: how many with the nearest; nearest: its name, if there is another.
    """

    run: str
    videos: int
    shared: int
    nearest: str | None


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side: the content of comparison.json.

    methods: of any of them. config: field -> its value in each run, where these are not
    all equal.
    """

    runs: list[Run]
    methods: list[str]
    touches: list[Touches]
    differences: list[Difference]
    unpaired: list[Unpaired]
    config: dict[str, list[Any]]


def find_evaluations(run: Path) -> list[Path]:
    """A run's evaluations by name, or the evaluation itself.

    Raises DataError when the folder is neither.
    """
    if (run / "scores.jsonl").exists():
        return [run]
    found = sorted(path.parent for path in run.glob("eval/*/scores.jsonl"))
    if not found:
        there = sorted(path.name for path in run.iterdir())[:5] if run.is_dir() else []
        holds = f"it holds {', '.join(there)}" if there else "nothing is there"
        raise DataError(
            f"{run} has no evaluation ({holds}); give a workdir that was evaluated "
            "or a folder with scores.jsonl"
        )
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths that tell them apart, without the `eval` between."""
    parts = [
        [part for part in absolute(folder).parts if part != "eval"]
        for folder in folders
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_entries(runs: Sequence[Path]) -> list[Entry]:
    """Every evaluation of the runs, each once, with its report.

    A report.json that is there is taken as it is; otherwise it is computed.
    """
    folders = list(
        dict.fromkeys(folder for run in runs for folder in find_evaluations(run))
    )
    return [
        _read_entry(name, folder)
        for name, folder in zip(short_names(folders), folders, strict=True)
    ]


def _read_entry(name: str, folder: Path) -> Entry:
    evaluation = results.read_evaluation(folder)
    try:
        report = read_report(folder)
    except FileNotFoundError:
        report = results.summarise(evaluation)
    return Entry(name, folder, report, results.videos_of(evaluation))


def compare(entries: Sequence[Entry]) -> Comparison:
    """Evaluations that share most of their videos are held against the best of them.

    That is the best one, by val, of the run that was listed first; p values are not
    corrected for their number.
    """
    sets = _same_videos(entries)
    methods = (name for e in entries for name in e.report.video.by_method)
    return Comparison(
        runs=[_run(entry) for entry in entries],
        methods=list(dict.fromkeys(methods)),
        touches=touches(entries),
        differences=[
            _difference(entry, reference)
            for reference, *others in sets
            for entry in others
        ],
        unpaired=unpaired(sets),
        config=differing_fields([entry.report.config for entry in entries]),
    )


def _run(entry: Entry) -> Run:
    report = entry.report
    return Run(
        name=entry.name,
        split=report.split,
        step=report.step,
        datasets=report.datasets,
        selected_on=report.selected_on,
        test_evaluations=report.test_evaluations,
        coverage=report.coverage,
        split_source=report.split_source,
        num_identities=report.interval.num_identities,
        num_warnings=len(report.warnings),
        video=report.video,
    )


def touches(entries: Sequence[Entry]) -> list[Touches]:
    """The touches of each data set whose test is among the evaluations.

    A run that did not record its count has done it once for each of them.
    """
    counts: dict[str, dict[Path, int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        report, split = entry.report, str(entry.report.split)
        if not split.endswith("test"):
            continue
        named = report.dataset or split.removesuffix("-test")
        dataset = report.config.get("dataset.name", "") if named == "test" else named
        run, own = _run_of(entry), counts[dataset]
        recorded = report.test_evaluations
        own[run] = max(own[run], recorded) if recorded else own[run] + 1
    return [
        Touches(dataset, evaluations=sum(runs.values()), runs=len(runs))
        for dataset, runs in counts.items()
    ]


def _run_of(entry: Entry) -> Path:
    """The workdir of an evaluation, or its own folder where it lies in none."""
    inside = absolute(entry.folder).parent
    return inside.parent if inside.name == "eval" else absolute(entry.folder)


def _shared(one: Entry, other: Entry) -> int:
    return len(set(one.videos.keys()) & set(other.videos.keys()))


def _same_videos(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The evaluations in sets that share most of their videos, the reference first.

    The best evaluation of each run comes before all others of the set.
    """
    sets: list[list[Entry]] = []
    for entry in entries:
        for members in sets:
            most = max(len(entry.videos.label), len(members[0].videos.label))
            if 2 * _shared(entry, members[0]) > most:
                members.append(entry)
                break
        else:
            sets.append([entry])
    return [_best_first(members) for members in sets]


def _best_first(members: Sequence[Entry]) -> list[Entry]:
    """The best of each run, by video AUC on val, then by step; then the others."""

    def rank(entry: Entry) -> tuple[float, int]:
        area = entry.report.val_video_auc
        return -1.0 if area is None else area, entry.report.step or 0

    runs: dict[Path, list[Entry]] = defaultdict(list)
    for entry in members:
        runs[_run_of(entry)].append(entry)
    ranked = [sorted(own, key=rank, reverse=True) for own in runs.values()]
    return [own[0] for own in ranked] + [e for own in ranked for e in own[1:]]


def unpaired(sets: Sequence[Sequence[Entry]]) -> list[Unpaired]:
    """Evaluations that share most of their videos with no other."""
    found = []
    references = [members[0] for members in sets]
    for entry in (members[0] for members in sets if len(members) == 1):
        others = [other for other in references if other is not entry]
        nearest = max(others, key=lambda o: _shared(entry, o), default=None)
        found.append(
            Unpaired(
                run=entry.name,
                videos=len(entry.videos.label),
                shared=_shared(entry, nearest) if nearest else 0,
                nearest=nearest.name if nearest else None,
            )
        )
    return found


def _difference(entry: Entry, reference: Entry) -> Difference:
    by_method = {}
    theirs = metrics.groups(reference.videos)
    for name, chosen in metrics.groups(entry.videos).items():
        if name in theirs:
            by_method[name] = intervals.compare(
                entry.videos.take(chosen), reference.videos.take(theirs[name])
            )
    videos = intervals.compare(entry.videos, reference.videos)
    return Difference(entry.name, reference.name, videos, by_method)


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Field -> its value in each config, where these are not all equal."""
    fields = dict.fromkeys(field for config in configs for field in config)
    values = {field: [config.get(field) for config in configs] for field in fields}
    return {f: v for f, v in values.items() if any(value != v[0] for value in v)}
