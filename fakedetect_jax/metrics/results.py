"""One evaluation's files as numbers: the content of report.json, nothing drawn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fakedetect_jax.metrics import calibration, intervals, metrics
from tfds_ffpp.errors import DataError

FEW_CLUSTERS = 30  # below, an interval rests on few draws and is wide
# Of which most published numbers of FaceForensics++ are.
FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
CLASS_COVERAGE_GAP = 0.05  # above, missing videos can themselves tell the classes apart


class Evaluation(NamedTuple):
    """The files of an evaluation, read."""

    folder: Path
    clips: metrics.Items
    context: dict[str, Any]
    strips: list[dict[str, Any]]
    trivial: Sequence[dict[str, Any]] = ()  # of made videos: trivial.py's scores


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; raises DataError naming the line that is none."""
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); evaluate the split first"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                f"line {number} of {path} is not JSON; evaluate the split again"
            ) from error
    return rows


def read_evaluation(folder: Path) -> Evaluation:
    """Reads scores.jsonl, context.json and, where there are, strips and trivial.jsonl.

    Raises DataError for a file that is missing or damaged, or has no clip.
    """
    rows = read_lines(folder / "scores.jsonl")
    if not rows:
        raise DataError(
            f"{folder / 'scores.jsonl'} has no clip; evaluate another split"
        )
    try:
        clips = metrics.clips(rows)
        context = json.loads((folder / "context.json").read_text(encoding="utf-8"))
    except KeyError as error:
        raise DataError(
            f"a line of {folder / 'scores.jsonl'} has no field {error}; "
            "evaluate the split again"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'context.json'} cannot be read ({error}); "
            "evaluate the split again"
        ) from error
    _check_whole(folder, context, clips)
    strips, trivial = (
        read_lines(folder / name) if (folder / name).exists() else []
        for name in ("strips.jsonl", "trivial.jsonl")
    )
    return Evaluation(folder, clips, context, strips, trivial)


def recorded(folder: Path) -> dict[str, Any]:
    """What the result in a folder was scored with; empty where none is whole."""
    if not (folder / "report.json").exists():
        return {}
    return json.loads((folder / "context.json").read_text()).get("scored_with") or {}


def _check_whole(
    folder: Path, context: Mapping[str, Any], clips: metrics.Items
) -> None:
    """Raises DataError when clips are missing of those that the evaluation counted."""
    counted = context.get("num_clips")
    if counted is not None and counted != len(clips.label):
        raise DataError(
            f"{folder / 'scores.jsonl'} has {len(clips.label)} of {counted} clips; "
            "evaluate the split again"
        )


def videos_of(evaluation: Evaluation) -> metrics.Items:
    """The videos of an evaluation, those without a clip by its policy."""
    return metrics.add_unscored(
        metrics.videos(evaluation.clips),
        evaluation.context.get("unscored") or [],
        policy=policy_of(evaluation.context),
    )


def policy_of(context: Mapping[str, Any]) -> str:
    """What is done with videos that have no clip."""
    configured = (context.get("config") or {}).get("eval.unscored")
    return context.get("unscored_policy") or configured or "exclude"


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The content of report.json: a pure function of the evaluation's files."""
    context, videos = evaluation.context, videos_of(evaluation)
    threshold = context.get("threshold")
    missing = context.get("unscored") or []
    cluster_of = intervals.clusters(videos)
    report = {
        "name": _name(context),
        "split": context.get("split"),
        "step": context.get("step"),
        "dataset": context.get("dataset"),
        "trained_on": _trained_on(context),
        "datasets": sorted(set(videos.dataset.tolist())),
        "methods": {
            name: sorted(set(videos.method[videos.label == value].tolist()))
            for name, value in (("real", 0), ("fake", 1))
        },
        "compressions": sorted(set(videos.compression.tolist()) - {"", "unknown"}),
        "selected_on": context.get("selected_on"),
        "val_video_auc": context.get("val_video_auc"),
        "test_evaluations": context.get("test_evaluations"),
        "dataset_digest": context.get("dataset_digest"),
        "made": (context.get("dataset_card") or {}).get("made", False),
        "official_split": (context.get("dataset_card") or {}).get("official_split"),
        "split_source": (context.get("dataset_card") or {}).get("split_source"),
        "interval": {
            "level": intervals.LEVEL,
            "replicates": intervals.REPLICATES,
            "over": intervals.described(videos),
            "num_clusters": int(cluster_of.max()) + 1,
            "num_identities": intervals.num_identities(videos),
        },
        "coverage": metrics.coverage(metrics.videos(evaluation.clips), missing),
        "policy": policy_of(context),
        "unscored": missing,
        "clip": _with_intervals(evaluation.clips, threshold=None, of_clips=True),
        "video": _video_summary(videos, threshold=threshold),
        "trivial": trivial_summary(evaluation.trivial),
        "threshold": threshold,
        "temperature": context.get("temperature"),
        "parameters": context.get("parameters"),
        "device": context.get("device"),
        "command": context.get("command"),
        "versions": context.get("versions") or {},
        "config": context.get("config") or {},
    }
    report["calibration"] = context.get("calibration")
    used = (report["calibration"] or {}).get("used", True)
    temperature = report["temperature"] if used else None
    report["video"]["calibrated"] = _calibrated(videos, temperature)
    report["calibration_note"] = calibration.describe(report["calibration"])
    report["warnings"] = warnings(report, context.get("dataset_card") or {})
    if context.get("cut_otherwise"):
        report["warnings"].append(
            "The videos were cut otherwise than those of the training: "
            f"{context['cut_otherwise']}."
        )
    if context.get("dataset_changed"):
        report["warnings"].insert(
            0,
            "The dataset is not the one that the run was trained on: "
            f"{context['dataset_changed']}. Videos scored here may have been trained "
            "on.",
        )
    return report


def _trained_on(context: Mapping[str, Any]) -> dict[str, Any]:
    """{"dataset", "made", "same"}: same where it is the dataset that was scored."""
    config, trained = context.get("config") or {}, context.get("trained_on") or {}
    name = trained.get("dataset") or config.get("dataset.name")
    return {
        "dataset": name,
        "made": trained.get("made"),
        "same": context.get("dataset") in (None, name),
    }


def _name(context: Mapping[str, Any]) -> str:
    config = context.get("config") or {}
    parts = [config.get("model.backbone"), config.get("dataset.name")]
    return "-".join(["fakedetect", *(str(part) for part in parts if part)])


def _with_intervals(
    items: metrics.Items, *, threshold: float | None, of_clips: bool = False
) -> dict[str, Any]:
    summary = metrics.clip_summary if of_clips else metrics.summary
    spans = intervals.intervals(items, threshold=threshold)
    return {**summary(items, threshold=threshold), "intervals": spans}


def _video_summary(videos: metrics.Items, *, threshold: float | None) -> dict[str, Any]:
    """All videos; then each method against its reals, each level, each kind of real."""
    levels = sorted(set(videos.compression.tolist()) - {""})
    whole = _with_intervals(videos, threshold=threshold)
    return {
        **whole,
        "by_method": {
            name: _with_intervals(videos.take(chosen), threshold=threshold)
            for name, chosen in metrics.groups(videos).items()
        },
        "by_compression": {
            level: whole
            if len(levels) == 1
            else _with_intervals(
                videos.take(videos.compression == level), threshold=threshold
            )
            for level in levels
        },
        "by_real": _by_real(videos, threshold=threshold),
    }


def _by_real(videos: metrics.Items, *, threshold: float | None) -> dict[str, Any]:
    """How many videos of each source of reals are called real."""
    reals = videos.take(videos.label == 0)
    found = {}
    for method in dict.fromkeys(reals.method.tolist()):
        own = reals.take(reals.method == method)
        found[method] = {
            "num_real": len(own.label),
            "specificity": float(np.mean(own.score <= 0.5)),
            "specificity_at_threshold": None
            if threshold is None
            else float(np.mean(own.score <= threshold)),
        }
    return found


def trivial_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Name of the statistics -> the AUC of videos that they reach; by method too."""
    return {
        name: _trivial_areas(rows, name) for name in (rows[0]["scores"] if rows else ())
    }


def _trivial_areas(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    scores = np.array([row["scores"][name] for row in rows])
    logits = metrics.logit(scores).tolist()
    videos = metrics.clips(
        [
            {**row, "clip": 0, "score": score, "logit": logit}
            for row, score, logit in zip(rows, scores.tolist(), logits, strict=True)
        ]
    )

    def area(items: metrics.Items) -> dict[str, Any]:
        span = intervals.intervals(items).get("auc")
        return {
            "auc": metrics.auc(items.label, items.score),
            "intervals": {"auc": span},
        }

    groups = metrics.groups(videos).items()
    return {**area(videos), "by_method": {m: area(videos.take(i)) for m, i in groups}}


def _calibrated(
    videos: metrics.Items, temperature: float | None
) -> dict[str, Any] | None:
    """Loss, Brier score and ECE after the temperature; None when there is none."""
    if temperature is None:
        return None
    scored = videos.take(videos.num_clips > 0)
    scores = calibration.apply_temperature(scored.score, temperature)
    return {
        "temperature": temperature,
        "loss": metrics.log_loss(scored.label, scores),
        "brier": metrics.brier(scored.label, scores),
        "ece": metrics.ece(scored.label, scores),
    }


def warnings(report: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """What keeps the numbers from being taken at face value, a sentence each."""
    found = _training_warnings(report) + _selection_warnings(report)
    if report["official_split"] is False:
        found.append(
            "This is not the data set's official split, so the numbers do not compare "
            "with published ones."
        )
    found += _method_warnings(report)
    held_out = (report["config"] or {}).get("data.hold_out")
    if held_out:
        found.append(
            f"{', '.join(held_out)} was held out of training and validation: its "
            "numbers are of a method that the detector never saw."
        )
    found += _number_warnings(report)
    found += _trivial_warnings(report)
    found += _coverage_warnings(report)
    found += [f"Dataset: {sentence}" for sentence in card.get("warnings") or []]
    return found


def _training_warnings(report: Mapping[str, Any]) -> list[str]:
    trained = report["trained_on"]
    if not trained["made"] or report["made"]:
        return []  # on made videos the card says what they are
    return [
        f"The detector was trained on made videos (dataset {trained['dataset']}), not "
        "on real forgeries."
    ]


def _method_warnings(report: Mapping[str, Any]) -> list[str]:
    fakes = report["methods"]["fake"]
    if report["datasets"] != ["ffpp"] or not fakes or set(fakes) == set(FFPP_METHODS):
        return []
    return [
        f"All fakes here are of {', '.join(fakes)}; most published numbers of "
        f"FaceForensics++ are of {', '.join(FFPP_METHODS)}."
    ]


def _selection_warnings(report: Mapping[str, Any]) -> list[str]:
    found, split = [], str(report["split"])
    selected = str(report["selected_on"] or "")
    selected_on = selected.split(",")[0].split(" ")[0]
    if selected_on and selected_on == split:
        found.append(
            f"The checkpoint was chosen on {split} itself: these numbers are "
            "optimistic. Evaluate another split for the result."
        )
    elif selected_on == "test":
        found.append(
            "The checkpoint was chosen on test, so no test number of this run counts."
        )
    elif not selected:
        found.append("On which split the checkpoint was chosen is not recorded.")
    touched = report["test_evaluations"]
    if "test" in split and isinstance(touched, int) and touched > 1:
        found.append(
            f"This data set's test was evaluated {touched} times in this run: "
            "choosing among these results would be selection on test."
        )
    return found


def _number_warnings(report: Mapping[str, Any]) -> list[str]:
    found, video = [], report["video"]
    over, num_clusters = report["interval"]["over"], report["interval"]["num_clusters"]
    if video["undefined"]:
        reason = str(video["undefined"])
        found.append(f"{reason[0].upper()}{reason[1:]}.")
    if num_clusters < FEW_CLUSTERS:
        found.append(
            f"Only {num_clusters} {over}: the intervals are wide, and hold for people "
            "like these."
        )
    low, high = calibration.TEMPERATURE_BOUNDS
    temperature = report["temperature"]
    if temperature is not None and not 1.01 * low < temperature < 0.99 * high:
        found.append(
            f"The temperature ended at its bound ({temperature:.3g}): val's scores "
            "hardly tell the classes apart, so calibrated probabilities mean little."
        )
    total = video["num_real"] + video["num_fake"]
    constant = max(video["num_real"], video["num_fake"]) / total
    if video["accuracy"] <= constant < 1:
        found.append(
            f"An accuracy of {video['accuracy']:.1%} is no better than one answer for "
            f"every video ({constant:.1%})."
        )
    return found


def _trivial_warnings(report: Mapping[str, Any]) -> list[str]:
    span = report["video"]["intervals"].get("auc")
    reached = {name: row["auc"] or 0.0 for name, row in report["trivial"].items()}
    if not span or not reached or max(reached.values()) < span[0]:
        return []
    name = max(reached, key=lambda name: reached[name])
    return [
        f"A forest on {name} reaches a video AUC of {reached[name]:.3f}, which the "
        "detector's interval does not exclude: the number may show no more than that."
    ]


def _coverage_warnings(report: Mapping[str, Any]) -> list[str]:
    found, coverage = [], report["coverage"]
    missing = coverage["of"] - coverage["scored"]
    if missing:
        done = {
            "exclude": "left out of every number",
            "as_real": "counted as called real",
            "as_fake": "counted as called fake",
        }[report["policy"]]
        found.append(
            f"Videos without a score: {missing:,} of {coverage['of']:,}; "
            f"they are {done}."
        )
    shares = [c["share"] for c in coverage["by_class"].values()]
    if None not in shares and abs(shares[0] - shares[1]) > CLASS_COVERAGE_GAP:
        found.append(
            f"Coverage differs by class: {shares[0]:.1%} of the real and "
            f"{shares[1]:.1%} of the fake videos have a score."
        )
    return found
