"""An evaluation as one offline page, with its figures, tables and model card."""

import base64
import csv
import io
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fakedetect_jax.metrics import calibration, intervals, metrics, results
from fakedetect_jax.metrics.doubt import Band
from fakedetect_jax.metrics.records import Strip
from fakedetect_jax.metrics.report import Report, to_text
from fakedetect_jax.pages import figures, render
from tfds_ffpp.store.addresses import as_path
from tfds_ffpp.store.files import read_lines, write_whole
from tfds_ffpp.terminal.text import cell

STRIP_HEIGHT = 96  # pixels; a page of strips at full size would weigh 5 MB
STRIP_FRAMES = 10
STRIPS_PER_KIND = 6


def write_report(
    eval_dir: str | os.PathLike, *, metrics_file: str | os.PathLike | None = None
) -> Report:
    """Writes the report of an evaluation beside its scores; report.json comes last.

    Args:
      eval_dir: folder with scores.jsonl, context.json and perhaps strips.jsonl.
      metrics_file: the run's metrics.jsonl, for the training curves.

    Returns:
      What report.json says.

    Raises:
      DataError: when a file is missing or damaged.
    """
    folder = as_path(eval_dir)
    evaluation = results.read_evaluation(folder)
    report = results.summarise(evaluation)
    with matplotlib.rc_context(figures.STYLE):
        drawn = draw(evaluation, report, read_metrics(metrics_file))
    files: dict[str, str | bytes] = {
        f"{name}.png": figures.to_png(figure) for name, (_, figure) in drawn.items()
    }
    svgs = {n: (title, figures.to_svg(f)) for n, (title, f) in drawn.items()}
    if not evaluation.context.detector:
        files |= {"MODEL_CARD.md": render.render("model_card.md", report=report)}
    files |= {
        "videos.csv": videos_csv(
            results.videos_of(evaluation),
            temperature=report.temperature,
            threshold=report.threshold,
            band=report.band,
        ),
        "report.html": render.render(
            "report.html", report=report, figures=svgs, strips=strips(evaluation.strips)
        ),
        "report.json": to_text(report),
    }
    write_whole(folder, files)
    return report


def read_metrics(path: str | os.PathLike | None) -> list[figures.Measured]:
    """The whole lines of metrics.jsonl; a damaged one costs itself alone."""
    if path is None or not as_path(path).exists():
        return []
    rows = read_lines(as_path(path), required=("step", "kind")).rows
    return [figures.Measured(r.pop("step"), r.pop("kind"), r) for r in rows]


# Figures and tables.


def draw(
    evaluation: results.Evaluation,
    report: Report,
    training_rows: Sequence[figures.Measured],
) -> dict[str, tuple[str, Figure]]:
    """Name -> (title, figure), in the page's order."""
    videos, video = results.videos_of(evaluation), report.video
    scored = videos.take(videos.num_clips > 0)
    temperature = report.temperature
    calibrated = None
    if video.calibrated is not None:
        temperature = video.calibrated.temperature
        calibrated = calibration.apply_temperature(scored.score, temperature)
    loss = [("train", "loss", "train loss", "-"), ("val", "loss", "val loss", "--")]
    quality = [
        ("val", "video_auc", "val video AUC", "-"),
        ("val", "accuracy", "val accuracy (clips)", "--"),
        ("train", "accuracy", "train accuracy (clips)", ":"),
    ]
    drawn = {
        "roc": ("ROC", figures.roc(videos, evaluation.clips)),
        "methods": ("AUC by method", figures.methods(video.by_method)),
        "confusion": ("Confusion matrix", figures.confusion(video.confusion, 0.5)),
        "scores": ("Video scores", figures.histogram(videos, report.threshold)),
        "risk_coverage": (
            "Errors among the surest videos",
            figures.risk_coverage(scored, report.threshold),
        ),
        "precision_recall": ("Precision and recall", figures.precision_recall(videos)),
        "det": ("Detection error trade-off", figures.detection_error(videos)),
        "reliability": (
            "Reliability",
            figures.reliability(scored, calibrated, temperature),
        ),
        "training_loss": ("Training: loss", figures.training(training_rows, loss)),
        "training_quality": (
            "Training: accuracy and AUC",
            figures.training(training_rows, quality),
        ),
    }
    return {n: (title, f) for n, (title, f) in drawn.items() if f is not None}


def videos_csv(
    videos: metrics.Items,
    *,
    temperature: float | None,
    threshold: float | None,
    band: Band | None,
) -> str:
    """One line per video with its score and decisions, worst errors first."""
    calibrated = [""] * len(videos.score)
    if temperature is not None:
        values = calibration.apply_temperature(videos.score, temperature)
        calibrated = [f"{v:.6f}" for v in values]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["dataset", "method", "video", "compression", "target", "label", "num_clips"]
        + ["score", "calibrated", "called_fake", "called_fake_at_threshold"]
        + ["verdict", "cluster"]
    )
    cluster_of = intervals.clusters(videos)
    for i in np.argsort(-np.abs(videos.label - videos.score), kind="stable"):
        score = float(videos.score[i])
        called = "" if threshold is None else int(score > threshold)
        names = (videos.dataset, videos.method, videos.video)
        names += (videos.compression, videos.target)
        writer.writerow(
            [cell(str(column[i])) for column in names]
            + [int(videos.label[i])]
            + [int(videos.num_clips[i]), f"{score:.6f}", calibrated[i]]
            + [int(score > 0.5), called, band.verdict(score) if band else ""]
            + [int(cluster_of[i])]
        )
    return out.getvalue()


def strips(rows: Sequence[Strip]) -> dict[str, list[Strip]]:
    """Kind -> clips to show with their frames, small, as data URIs."""

    def wrong(row: Strip) -> float:
        return abs(row.video.label - row.score)

    errors = [r for r in sorted(rows, key=wrong, reverse=True) if wrong(r) > 0.5]
    right = [r for r in sorted(rows, key=wrong) if wrong(r) <= 0.5]
    unsure = sorted(rows, key=lambda r: abs(r.score - 0.5))
    kinds = {
        "Worst errors": errors,
        "Surest fakes": [r for r in right if r.video.label == 1],
        "Surest reals": [r for r in right if r.video.label == 0],
        "Least certain": unsure,
    }
    return {
        kind: [_small(row) for row in chosen[:STRIPS_PER_KIND]]
        for kind, chosen in kinds.items()
    }


def _small(row: Strip) -> Strip:
    images = row.frames
    if len(images) > STRIP_FRAMES:
        chosen = np.linspace(0, len(images) - 1, STRIP_FRAMES).round()
        images = [images[int(i)] for i in chosen]
    return row._replace(frames=[shrink(image) for image in images])


def shrink(image: str) -> str:
    """A base64 JPEG as a data URI of at most STRIP_HEIGHT pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
        small = opened.convert("RGB")
    if small.height > STRIP_HEIGHT:
        width = max(round(small.width * STRIP_HEIGHT / small.height), 1)
        small = small.resize((width, STRIP_HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
