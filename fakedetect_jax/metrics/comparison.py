"""Several evaluations side by side, and their differences on the same videos."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.metrics import intervals, metrics, results
from tfds_ffpp.errors import DataError
from tfds_ffpp.store.addresses import absolute


class Entry(NamedTuple):
    """An evaluation in a comparison."""

    name: str
    folder: Path
    report: dict[str, Any]
    videos: metrics.Items


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
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        report = results.summarise(evaluation)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); write it with --rebuild"
        ) from error
    return Entry(name, folder, report, results.videos_of(evaluation))


def compare(entries: Sequence[Entry]) -> dict[str, Any]:
    """{"runs", "methods", "touches", "differences", "unpaired", "config"}.

    config: field -> its value in each run, where these are not all equal; touches and
    unpaired: see there. Evaluations that share most of their videos are held against
    the best one, by val, of the run that was listed first; p values are not corrected
    for their number.
    """
    sets = _same_videos(entries)
    return {
        "runs": [_run(entry) for entry in entries],
        "methods": list(
            dict.fromkeys(
                name for entry in entries for name in entry.report["video"]["by_method"]
            )
        ),
        "touches": touches(entries),
        "differences": [
            _difference(entry, reference)
            for reference, *others in sets
            for entry in others
        ],
        "unpaired": unpaired(sets),
        "config": differing_fields([entry.report["config"] for entry in entries]),
    }


def _run(entry: Entry) -> dict[str, Any]:
    kept = ("split", "step", "datasets", "selected_on", "test_evaluations", "coverage")
    return {
        "name": entry.name,
        **{field: entry.report[field] for field in kept},
        "split_source": entry.report.get("split_source"),
        "num_identities": entry.report["interval"]["num_identities"],
        "num_warnings": len(entry.report["warnings"]),
        "video": entry.report["video"],
    }


def touches(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """How often the runs that are compared evaluated each data set's test, in all.

    {"dataset", "evaluations", "runs"} for each whose test is among the evaluations; a
    run that did not record its count has done it once for each of them.
    """
    counts: dict[str, dict[Path, int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        split = str(entry.report["split"])
        if not split.endswith("test"):
            continue
        config = entry.report["config"]
        named = entry.report.get("dataset")
        if not isinstance(named, str):  # not recorded, or by another version
            named = split.removesuffix("-test")
        dataset = config.get("dataset.name", "") if named == "test" else named
        run = _run_of(entry)
        recorded = entry.report["test_evaluations"]
        own = counts[dataset]
        own[run] = max(own[run], recorded) if recorded else own[run] + 1
    return [
        {"dataset": dataset, "evaluations": sum(runs.values()), "runs": len(runs)}
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
        area = entry.report.get("val_video_auc")
        return -1.0 if area is None else area, entry.report["step"] or 0

    runs: dict[Path, list[Entry]] = defaultdict(list)
    for entry in members:
        runs[_run_of(entry)].append(entry)
    ranked = [sorted(own, key=rank, reverse=True) for own in runs.values()]
    return [own[0] for own in ranked] + [e for own in ranked for e in own[1:]]


def unpaired(sets: Sequence[Sequence[Entry]]) -> list[dict[str, Any]]:
    """Evaluations that share most of their videos with no other.

    {"run", "videos", "shared": how many with the nearest, "nearest": its name or None}.
    """
    found = []
    references = [members[0] for members in sets]
    for entry in (members[0] for members in sets if len(members) == 1):
        others = [other for other in references if other is not entry]
        nearest = max(others, key=lambda o: _shared(entry, o), default=None)
        found.append(
            {
                "run": entry.name,
                "videos": len(entry.videos.label),
                "shared": _shared(entry, nearest) if nearest else 0,
                "nearest": nearest.name if nearest else None,
            }
        )
    return found


def _difference(entry: Entry, reference: Entry) -> dict[str, Any]:
    by_method = {}
    theirs = metrics.groups(reference.videos)
    for name, chosen in metrics.groups(entry.videos).items():
        if name in theirs:
            by_method[name] = intervals.compare(
                entry.videos.take(chosen), reference.videos.take(theirs[name])
            )
    return {
        "run": entry.name,
        "reference": reference.name,
        **intervals.compare(entry.videos, reference.videos),
        "by_method": by_method,
    }


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Field -> its value in each config, where these are not all equal."""
    fields = dict.fromkeys(field for config in configs for field in config)
    values = {field: [config.get(field) for config in configs] for field in fields}
    return {f: v for f, v in values.items() if any(value != v[0] for value in v)}
