"""Several evaluations side by side, and their differences on the same videos."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax import intervals, metrics, results
from tfds_ffpp.errors import DataError


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
        [part for part in folder.absolute().parts if part != "eval"]
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
    """{"runs", "methods", "touches", "differences", "config"}, as report.py shows them.

    config: field -> its value in each run, where these are not all equal; touches: see
    there. Each evaluation is held against the first listed one that has most of its
    videos; p values are not corrected for their number.
    """
    return {
        "runs": [_run(entry) for entry in entries],
        "methods": list(
            dict.fromkeys(
                name for entry in entries for name in entry.report["video"]["by_method"]
            )
        ),
        "touches": touches(entries),
        "differences": [
            _difference(entry, reference) for entry, reference in _pairs(entries)
        ],
        "config": differing_fields([entry.report["config"] for entry in entries]),
    }


def _run(entry: Entry) -> dict[str, Any]:
    kept = ("split", "step", "datasets", "selected_on", "test_evaluations", "coverage")
    return {
        "name": entry.name,
        **{field: entry.report[field] for field in kept},
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
        named = entry.report.get("dataset") or split.removesuffix("-test")
        dataset = config.get("dataset.name", "") if named == "test" else named
        inside = entry.folder.absolute().parent
        run = inside.parent if inside.name == "eval" else entry.folder
        recorded = entry.report["test_evaluations"]
        own = counts[dataset]
        own[run] = max(own[run], recorded) if recorded else own[run] + 1
    return [
        {"dataset": dataset, "evaluations": sum(runs.values()), "runs": len(runs)}
        for dataset, runs in counts.items()
    ]


def _pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """(evaluation, its reference) for those that have one."""
    pairs, references = [], []
    for entry in entries:
        own = set(entry.videos.keys())
        for reference in references:
            shared = len(own & set(reference.videos.keys()))
            if shared * 2 > max(len(own), len(reference.videos.label)):
                pairs.append((entry, reference))
                break
        else:
            references.append(entry)
    return pairs


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
