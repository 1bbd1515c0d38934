"""An evaluation as one offline page, with its figures, tables and model card.

python -m fakedetect_jax.report RUN...   lays evaluations or whole runs side by side.
"""

import argparse
import base64
import csv
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fakedetect_jax import (
    calibration,
    comparison,
    figures,
    intervals,
    metrics,
    results,
)
from fakedetect_jax.files import read_lines
from tfds_ffpp import system
from tfds_ffpp.errors import DataError
from tfds_ffpp.text import cell, markdown, printable

Report = dict[str, Any]

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
      The content of report.json.

    Raises:
      DataError: when a file is missing or damaged.
    """
    folder = Path(eval_dir)
    evaluation = results.read_evaluation(folder)
    report = results.summarise(evaluation)
    with matplotlib.rc_context(figures.STYLE):
        drawn = draw(evaluation, report, read_metrics(metrics_file))
    files: dict[str, str | bytes] = {
        f"{name}.png": figures.to_png(figure) for name, (_, figure) in drawn.items()
    }
    svgs = {n: (title, figures.to_svg(f)) for n, (title, f) in drawn.items()}
    files["videos.csv"] = videos_csv(results.videos_of(evaluation), report)
    files["MODEL_CARD.md"] = render("model_card.md", report=report)
    files["report.html"] = render(
        "report.html",
        report=report,
        figures=svgs,
        strips=strips(evaluation.strips),
    )
    files["report.json"] = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_whole(folder, files)
    return report


def read_metrics(path: str | os.PathLike | None) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; a damaged one costs itself alone."""
    if path is None or not Path(path).exists():
        return []
    return read_lines(Path(path), required=("step",)).rows


def write_whole(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes files so that each is whole or absent, and the last comes last."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as scratch:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (Path(scratch) / name).write_bytes(data)
        for name in files:
            os.replace(Path(scratch) / name, folder / name)


# Figures and tables.


def draw(
    evaluation: results.Evaluation,
    report: Report,
    training_rows: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[str, Figure]]:
    """Name -> (title, figure), in the page's order."""
    videos, video = results.videos_of(evaluation), report["video"]
    scored = videos.take(videos.num_clips > 0)
    temperature = report["temperature"]
    calibrated = None
    if video["calibrated"] is not None:
        calibrated = calibration.apply_temperature(scored.score, temperature)
    loss = [("train", "loss", "train loss", "-"), ("val", "loss", "val loss", "--")]
    quality = [
        ("val", "video_auc", "val video AUC", "-"),
        ("val", "accuracy", "val accuracy (clips)", "--"),
        ("train", "accuracy", "train accuracy (clips)", ":"),
    ]
    drawn = {
        "roc": ("ROC", figures.roc(videos, evaluation.clips)),
        "methods": ("AUC by method", figures.methods(video["by_method"])),
        "confusion": ("Confusion matrix", figures.confusion(video["confusion"], 0.5)),
        "scores": ("Video scores", figures.histogram(videos, report["threshold"])),
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


def videos_csv(videos: metrics.Items, report: Report) -> str:
    """One line per video with its score and decisions, worst errors first."""
    temperature, threshold = report["temperature"], report["threshold"]
    calibrated = [""] * len(videos.score)
    if temperature is not None:
        values = calibration.apply_temperature(videos.score, temperature)
        calibrated = [f"{v:.6f}" for v in values]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["dataset", "method", "video", "compression", "target", "label", "num_clips"]
        + ["score", "calibrated", "called_fake", "called_fake_at_threshold"]
        + ["cluster"]
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
            + [int(score > 0.5), called, int(cluster_of[i])]
        )
    return out.getvalue()


def strips(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Kind -> clips to show with their frames, small, as data URIs."""

    def wrong(row: Mapping[str, Any]) -> float:
        return abs(row["label"] - row["score"])

    errors = [r for r in sorted(rows, key=wrong, reverse=True) if wrong(r) > 0.5]
    right = [r for r in sorted(rows, key=wrong) if wrong(r) <= 0.5]
    unsure = sorted(rows, key=lambda r: abs(r["score"] - 0.5))
    kinds = {
        "Worst errors": errors,
        "Surest fakes": [r for r in right if r["label"] == 1],
        "Surest reals": [r for r in right if r["label"] == 0],
        "Least certain": unsure,
    }
    return {
        kind: [_strip(row) for row in chosen[:STRIPS_PER_KIND]]
        for kind, chosen in kinds.items()
    }


def _strip(row: Mapping[str, Any]) -> dict[str, Any]:
    images = row.get("frames") or []
    if len(images) > STRIP_FRAMES:
        chosen = np.linspace(0, len(images) - 1, STRIP_FRAMES).round().astype(int)
        images = [images[i] for i in chosen]
    return {**row, "frames": [shrink(image) for image in images]}


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


# Templates.


def _safe(value: Any) -> Any:
    """Text without characters that do more than show; markup of ours as it is."""
    if type(value) is not str:
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def _safe_markdown(value: Any) -> Any:
    return markdown(value) if type(value) is str else value


def code(value: str) -> Markup:
    """Text between backticks, which end with the line or with a backtick."""
    return Markup(printable(value).replace("`", "'"))  # noqa: S704


def render(template: str, **values: Any) -> str:
    """A page or card from fakedetect_jax/templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fakedetect_jax"),
        autoescape=jinja2.select_autoescape(["html"]),
        finalize=_safe_markdown if template.endswith(".md") else _safe,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        signed=signed,
        share=share,
        count=count,
        number=number,
        percent=percent,
        span=span,
        percent_span=percent_span,
        compact=compact,
        code=code,
        touch_line=touch_line,
        unpaired_line=unpaired_line,
    )
    return environment.get_template(template).render(**values)


def number(value: float | None, digits: int = 3) -> str:
    """0.9871 -> "0.987"; None -> an em dash."""
    return "—" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.9871 -> "98.7 %", which does not break; None -> an em dash."""
    return "—" if value is None else f"{100 * value:.{digits}f}\u202f%"


def share(value: float | None) -> str:
    """A percentage that is 100 only when nothing is missing."""
    return percent(value if value is None else math.floor(1000 * value) / 1000)


def count(value: int) -> str:
    """12345 -> "12,345"."""
    return f"{value:,}"


def span(values: Sequence[float] | None, digits: int = 3) -> str:
    """[0.95, 0.99] -> "0.950–0.990"; None -> nothing."""
    return "" if not values else f"{values[0]:.{digits}f}–{values[1]:.{digits}f}"


def percent_span(values: Sequence[float] | None, digits: int = 1) -> str:
    """[0.95, 0.99] -> "95.0–99.0 %"; None -> nothing."""
    return f"{span([100 * v for v in values], digits)}\u202f%" if values else ""


def signed(value: float) -> str:
    """0.0123 -> "+0.012", -0.0123 -> "−0.012"."""
    return f"{value:+.3f}".replace("-", "−")


def compact(value: Any) -> str:
    """A config value on one line."""
    return value if isinstance(value, str) else json.dumps(value)


# The seed's printed lines.


def seed_epoch_lines(
    *,
    epoch: int,
    num_epochs: int,
    loss: float,
    accuracy: float,
    validation_loss: float,
    validation_accuracy: float,
) -> str:
    """The two lines of an epoch; losses and accuracies are of clips."""
    return (
        f"Epoch {epoch}/{num_epochs}\n"
        f"Loss: {loss:.4f} - Accuracy: {accuracy:.4f} - "
        f"Validation Loss: {validation_loss:.4f} - "
        f"Validation Accuracy: {validation_accuracy:.4f}"
    )


def constant_line(labels: Sequence[int]) -> str:
    """What one answer for all clips is right in, to stand beside an accuracy."""
    fakes = sum(labels)
    answer = "fake" if 2 * fakes > len(labels) else "real"
    right = max(fakes, len(labels) - fakes) / max(len(labels), 1)
    return f"always answering {answer} is right in {100 * right:.2f}% of clips"


def validation_line(video_auc: float | None, labels: Sequence[int]) -> str:
    """What stands below an epoch's lines: an AUC of 0 is a number, None is none."""
    return f"validation video AUC {number(video_auc, 4)}, {constant_line(labels)}"


def seed_result_lines(report: Mapping[str, Any]) -> str:
    """Loss, accuracy and confusion matrix of a report's clips, then the video AUC.

    The last line is not the seed's: a constant answer's accuracy.
    """
    clip, video = report["clip"], report["video"]
    (tn, fp), (fn, tp) = clip["confusion"]
    name = str(report["split"]).capitalize()
    width = max(len(str(n)) for n in (tn, fp, fn, tp, "Predicted Negative"))
    rows = [
        ("", "Predicted Negative", "Predicted Positive"),
        ("Actual Negative", tn, fp),
        ("Actual Positive", fn, tp),
    ]
    table = "\n".join(f"{a:<15}  {b!s:>{width}}  {c!s:>{width}}" for a, b, c in rows)
    interval = span(video["intervals"].get("auc"))
    between = f" (95 % interval {interval})" if interval else ""
    return (
        f"{name} Loss: {number(clip['loss'], 4)}, "
        f"{name} Accuracy: {100 * clip['accuracy']:.2f}%\n"
        f"Confusion Matrix:\n{table}\n"
        f"{name} Video AUC: {number(video['auc'], 4)}{between}\n"
        f"For comparison: {constant_line([0] * (tn + fp) + [1] * (fn + tp))}"
        f"{_trivial_lines(report.get('trivial') or {})}"
    )


def _trivial_lines(reached: Mapping[str, Any]) -> str:
    """What trivial statistics reach on made videos, a line each."""
    return "".join(
        f"\n  a forest on {name} reaches {number(area['auc'], 4)} "
        f"({span(area['intervals']['auc'])})"
        for name, area in reached.items()
    )


# Several runs.


def write_comparison(entries: Sequence[comparison.Entry], path: Path) -> dict[str, Any]:
    """Writes the page and, beside it, the same numbers as JSON; returns them."""
    compared = comparison.compare(entries)
    with matplotlib.rc_context(figures.STYLE):
        drawn = {
            "roc": ("ROC", figures.several_rocs({e.name: e.videos for e in entries})),
            "auc": (
                "Video AUC",
                figures.several_areas({e.name: e.report["video"] for e in entries}),
            ),
        }
    svgs = {n: (title, figures.to_svg(f)) for n, (title, f) in drawn.items()}
    page = render("comparison.html", compared=compared, figures=svgs)
    numbers = json.dumps(compared, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.parent, {path.name: page, path.stem + ".json": numbers})
    return compared


def print_comparison(compared: Mapping[str, Any], console: Console) -> None:
    """The table of runs and, where videos are shared, of differences."""
    table = Table(
        Column("run", overflow="fold"), box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in ("videos", "scored", "video AUC", "EER", "bal. acc.", "test"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("chosen on")
    for run in compared["runs"]:
        video, coverage = run["video"], run["coverage"]
        reach = span(video["intervals"].get("auc"))
        table.add_row(
            Text(run["name"]),
            f"{video['num_real'] + video['num_fake']:,}",
            share(coverage["share"]),
            number(video["auc"]) + (f" ({reach})" if reach else ""),
            percent(video["eer"]),
            percent(video["balanced_accuracy"]),
            f"{run['test_evaluations']}x" if run["test_evaluations"] else "—",
            Text(str(run["selected_on"] or "not recorded").split(",")[0]),
        )
    console.print(table)
    for touched in compared["touches"]:
        console.print(touch_line(touched), markup=False)
    for difference in compared["differences"]:
        if "auc" in difference:
            console.print(difference_line(difference), markup=False)
    for alone in compared["unpaired"]:
        if alone["nearest"]:
            console.print(unpaired_line(alone), markup=False)


def touch_line(touched: Mapping[str, Any]) -> str:
    """One sentence about how often a test was looked at."""
    times, runs = touched["evaluations"], touched["runs"]
    name = f"test of {touched['dataset']}" if touched["dataset"] else "test"
    if times == 1:
        return f"{name}: evaluated once"
    return (
        f"{name}: evaluated {times} times in {runs} run{'s' if runs > 1 else ''}; "
        "choosing among these results is selection on test"
    )


def difference_line(difference: Mapping[str, Any]) -> str:
    """One sentence about the AUCs of two runs."""
    area = difference["auc"]
    reach = area["interval"]
    between = f" [{reach[0]:+.3f}, {reach[1]:+.3f}]" if reach else ""
    return (
        f"{difference['run']} against {difference['reference']}: "
        f"video AUC {area['difference']:+.3f}{between}, "
        f"p = {area['clustered_p']:.2g} over {difference['over']} "
        f"(DeLong {area['delong_p']:.2g}), {difference['num_videos']} videos"
    )


def unpaired_line(alone: Mapping[str, Any]) -> str:
    """Why an evaluation has no difference to another."""
    return (
        f"{alone['run']} is paired with none: {alone['shared']} of its "
        f"{alone['videos']} videos are in {alone['nearest']}"
    )


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fakedetect_jax.report",
        description="Lays evaluations side by side and writes one page about them.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a workdir, or one evaluation"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page; comparison.html in the first RUN if not set",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="write each evaluation's own report anew from its scores",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the runs named on the command line; returns the exit code."""
    arguments = parse_arguments(argv)
    runs = [Path(run) for run in arguments.runs]
    output = Path(arguments.output or runs[0] / "comparison.html")
    try:
        system.refuse_address("--output", arguments.output)
        for run in arguments.runs:
            system.refuse_address("RUN", run)
        if arguments.rebuild:
            for run in runs:
                for folder in comparison.find_evaluations(run):
                    write_report(folder, metrics_file=folder / "../../metrics.jsonl")
        compared = write_comparison(comparison.read_entries(runs), output)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {output} cannot be written ({error.strerror})", file=sys.stderr)
        return 3
    console = Console(highlight=False)
    print_comparison(compared, console)
    console.print(f"page: {output.absolute()}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
