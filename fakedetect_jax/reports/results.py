"""One evaluation's files as numbers: a report, with nothing drawn."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fakedetect_jax.data import shares
from fakedetect_jax.metrics import calibration, doubt, intervals, located, metrics
from fakedetect_jax.metrics.located import Located
from fakedetect_jax.metrics.records import ClipScore, Strip, TrivialScore
from fakedetect_jax.reports import caveats
from fakedetect_jax.reports.context import Context
from fakedetect_jax.reports.report import (
    Area,
    Calibrated,
    CalledReal,
    Draws,
    Methods,
    Report,
    TrainedOn,
    TrivialArea,
    Unfamiliar,
    VideoSummary,
)
from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import Fields

Row = TypeVar("Row")


class Evaluation(NamedTuple):
    """The files of an evaluation, read."""

    folder: Path
    clips: metrics.Items
    context: Context
    strips: Sequence[Strip]
    trivial: Sequence[TrivialScore] = ()  # of made videos
    located: Sequence[Located] = ()  # where it is known what is forged
    unfamiliar: Unfamiliar | None = None  # not known of foreign scores


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The records of a JSON-lines file.

    Raises DataError naming the line that gives none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); evaluate the split first"
        ) from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(records.from_json(kind, json.loads(line)))
            continue
        except json.JSONDecodeError:
            fault = "is not JSON"
        except KeyError as error:
            fault = f"has no field {error}"
        except (TypeError, ValueError, AttributeError):
            fault = "is not what evaluations write"
        raise DataError(f"line {number} of {path} {fault}; evaluate the split again")
    return rows


def read_evaluation(folder: Path) -> Evaluation:
    """Reads scores.jsonl, context.json and, where there are, the other lists.

    Raises DataError for a file that is missing or damaged, or has no clip.
    """
    rows = read_rows(folder / "scores.jsonl", ClipScore)
    if not rows:
        raise DataError(
            f"{folder / 'scores.jsonl'} has no clip; evaluate another split"
        )
    clips, context = metrics.clips(rows), _read_context(folder / "context.json")
    _check_whole(folder, context, clips)

    def read(name: str, kind: Any) -> list:
        path = folder / name
        return read_rows(path, kind) if path.exists() else []

    return Evaluation(
        folder,
        clips,
        context,
        strips=read("strips.jsonl", Strip),
        trivial=read("trivial.jsonl", TrivialScore),
        located=read("located.jsonl", Located),
        unfamiliar=unfamiliar(rows, context),
    )


def unfamiliar(rows: Sequence[ClipScore], context: Context) -> Unfamiliar | None:
    """How many videos are unfamiliar; one's distance is the mean of its clips'."""
    found: dict[tuple, list[float]] = {}
    for row in rows:
        if row.distance is not None:
            found.setdefault(row.video.key, []).append(row.distance)
    above, videos = context.unfamiliar_above, len({row.video.key for row in rows})
    if above is None or len(found) < videos:
        reason = context.no_guard
        return Unfamiliar(None, videos, None, reason) if reason else None
    far = sum(float(np.mean(distances)) > above for distances in found.values())
    return Unfamiliar(far, videos, above)


def _read_context(path: Path) -> Context:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return records.from_json(Context, row)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); evaluate the split again"
        ) from error


def recorded(folder: Path) -> Fields:
    """What the result in a folder was scored with; empty where none is whole."""
    return _recorded(folder) or {}


def complaint(folder: Path) -> str:
    """A sentence where nobody can tell what a result was scored with; else empty."""
    damaged = _recorded(folder) is None
    return f"{folder / 'context.json'} is missing or damaged" if damaged else ""


def _recorded(folder: Path) -> Fields | None:
    """Empty where there is no result, or an old one that does not say; None: damage."""
    if not (folder / "report.json").exists():
        return {}
    try:
        found = json.loads((folder / "context.json").read_text(encoding="utf-8"))
        scored_with = found.get("scored_with") or {}
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return None
    return scored_with if isinstance(scored_with, dict) else None


def _check_whole(folder: Path, context: Context, clips: metrics.Items) -> None:
    """Raises DataError when clips are missing of those that the evaluation counted."""
    if context.num_clips not in (None, len(clips.label)):
        raise DataError(
            f"{folder / 'scores.jsonl'} has {len(clips.label)} of {context.num_clips} "
            "clips; evaluate the split again"
        )


def videos_of(evaluation: Evaluation) -> metrics.Items:
    """The videos of an evaluation, those without a clip by its policy."""
    return metrics.add_unscored(
        metrics.videos(evaluation.clips),
        evaluation.context.unscored,
        policy=evaluation.context.policy,
    )


def summarise(evaluation: Evaluation) -> Report:
    """The content of report.json: a pure function of the evaluation's files."""
    context, videos = evaluation.context, videos_of(evaluation)
    card, missing = context.dataset_card, context.unscored
    report = Report(
        name=_name(context),
        split=context.split,
        step=context.step,
        dataset=context.dataset,
        trained_on=_trained_on(context),
        datasets=sorted(set(videos.dataset.tolist())),
        methods=Methods(
            *(sorted(set(videos.method[videos.label == v].tolist())) for v in (0, 1))
        ),
        compressions=sorted(set(videos.compression.tolist()) - {"", "unknown"}),
        selected_on=context.selected_on,
        val_video_auc=context.val_video_auc,
        test_evaluations=context.test_evaluations,
        dataset_digest=context.dataset_digest,
        made=card.made,
        official_split=card.official_split,
        split_source=card.split_source,
        interval=_draws(videos),
        coverage=metrics.coverage(metrics.videos(evaluation.clips), missing),
        policy=context.policy,
        unscored=missing,
        clip=_with_intervals(evaluation.clips, threshold=None, of_clips=True),
        video=_video_summary(videos, context),
        trivial=trivial_summary(evaluation.trivial),
        threshold=context.threshold,
        band=context.band,
        temperature=context.temperature,
        parameters=context.parameters,
        device=context.device,
        command=context.command,
        versions=context.versions,
        config=context.config,
        calibration=context.calibration,
        calibration_note=calibration.describe(context.calibration),
        band_note=doubt.describe(context.band),
        unfamiliar=evaluation.unfamiliar,
        localisation=located.summarise(evaluation.located),
    )
    return replace(report, warnings=caveats.warnings(report, context))


def _draws(videos: metrics.Items) -> Draws:
    return Draws(
        level=intervals.LEVEL,
        replicates=intervals.REPLICATES,
        over=intervals.described(videos),
        num_clusters=int(intervals.clusters(videos).max()) + 1,
        num_identities=intervals.num_identities(videos),
    )


def _trained_on(context: Context) -> TrainedOn:
    trained = context.trained_on
    names = [trained.dataset or context.config.get("dataset.name")]
    if "dataset.name" in context.config:
        names += shares.trained_sets(context.config)
    return TrainedOn(names[0], trained.made, same=context.dataset in (None, *names))


def _name(context: Context) -> str:
    if context.detector:
        return context.detector
    parts = map(context.config.get, ("model.backbone", "dataset.name"))
    return "-".join(["fakedetect", *(str(part) for part in parts if part)])


def _with_intervals(
    items: metrics.Items, *, threshold: float | None, of_clips: bool = False
) -> metrics.Summary:
    summary = metrics.clip_summary if of_clips else metrics.summary
    spans = intervals.intervals(items, threshold=threshold)
    return replace(summary(items, threshold=threshold), intervals=spans)


def _video_summary(videos: metrics.Items, context: Context) -> VideoSummary:
    """All videos; then each method against its reals, each level, each kind of real."""
    levels = sorted(set(videos.compression.tolist()) - {""})

    def of(chosen: np.ndarray) -> metrics.Summary:
        return _with_intervals(videos.take(chosen), threshold=context.threshold)

    whole = _with_intervals(videos, threshold=context.threshold)
    return VideoSummary(
        **vars(whole),
        by_method={m: of(chosen) for m, chosen in metrics.groups(videos).items()},
        by_compression={
            level: whole if len(levels) == 1 else of(videos.compression == level)
            for level in levels
        },
        by_real=_by_real(videos, threshold=context.threshold),
        calibrated=_calibrated(videos, context),
        selective=doubt.selective(videos, context.band, threshold=context.threshold),
    )


def _by_real(
    videos: metrics.Items, *, threshold: float | None
) -> dict[str, CalledReal]:
    """How many videos of each source of reals are called real."""
    reals = videos.take(videos.label == 0)
    found = {}
    for method in dict.fromkeys(reals.method.tolist()):
        own = reals.take(reals.method == method)
        found[method] = CalledReal(
            num_real=len(own.label),
            specificity=float(np.mean(own.score <= 0.5)),
            specificity_at_threshold=None
            if threshold is None
            else float(np.mean(own.score <= threshold)),
        )
    return found


def trivial_summary(rows: Sequence[TrivialScore]) -> dict[str, TrivialArea]:
    """Name of the statistics -> the AUC of videos that they reach; by method too."""
    return {
        name: _trivial_areas(rows, name) for name in (rows[0].scores if rows else ())
    }


def _trivial_areas(rows: Sequence[TrivialScore], name: str) -> TrivialArea:
    scores = [row.scores[name] for row in rows]
    logits = metrics.logit(np.array(scores)).tolist()
    videos = metrics.clips(
        [
            ClipScore(row.video, clip=0, start=0, length=1, logit=logit, score=score)
            for row, logit, score in zip(rows, logits, scores, strict=True)
        ]
    )

    def area(items: metrics.Items) -> Area:
        span = intervals.intervals(items).get("auc")
        return Area(metrics.auc(items.label, items.score), {"auc": span})

    groups = metrics.groups(videos).items()
    return TrivialArea(
        **vars(area(videos)), by_method={m: area(videos.take(i)) for m, i in groups}
    )


def _calibrated(videos: metrics.Items, context: Context) -> Calibrated | None:
    """What the temperature makes of the scores; None where it is not used."""
    fitted, temperature = context.calibration, context.temperature
    if temperature is None or (fitted is not None and not fitted.used):
        return None
    scored = videos.take(videos.num_clips > 0)
    scores = calibration.apply_temperature(scored.score, temperature)
    return Calibrated(
        temperature=temperature,
        loss=metrics.log_loss(scored.label, scores),
        brier=metrics.brier(scored.label, scores),
        ece=metrics.ece(scored.label, scores),
    )
