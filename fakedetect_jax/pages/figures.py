"""The report's figures: numbers in, matplotlib figures out, as SVG text or PNG bytes.

Drawn without pyplot, so that nothing is global. Classes and curves differ by line style
or hatch as well as by colour, for print in black and white.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.special import ndtri

from fakedetect_jax.metrics import doubt, metrics
from fakedetect_jax.reports.robustness import Curve
from tfds_ffpp.terminal.text import printable

# Stand for the page's text and paper; in SVG they become its CSS variables.
INK, PAPER = "#010203", "#fefdfc"
FAKE, REAL, THIRD = "#c9541f", "#2b7bba", "#6b8e23"  # legible on white and on black
SIZE = (4.4, 3.5)  # inches; text of 9 points stays readable at a phone's width
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.borderpad": 0.2,
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "fakedetect-jax",
}
MAX_POINTS = 400  # of a curve; more are below a pixel


def to_svg(figure: Figure) -> str:
    """SVG for inlining in a page, in the page's colours and font."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg)
    return svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)").strip()


def to_png(figure: Figure) -> bytes:
    """PNG on white, for slides and papers."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def _plot(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    return figure, figure.subplots()


def _legend_above(figure: Figure) -> None:
    """For curves that leave no corner free."""
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1, handlelength=1.6)


def _unit_square(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=horizontal, ylabel=vertical)


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most MAX_POINTS points that follows its own length."""
    if len(x) <= MAX_POINTS:
        return x, y
    steps = np.abs(np.diff(x)) + np.abs(np.diff(y))
    along = np.append(0, np.cumsum(steps))
    wanted = np.linspace(0, along[-1], MAX_POINTS)
    kept = np.unique(np.append(np.searchsorted(along, wanted), len(x) - 1))
    kept = kept[kept < len(x)]
    return x[kept], y[kept]


def roc(videos: metrics.Items, clips: metrics.Items) -> Figure:
    """ROC of videos and of clips."""
    figure, axes = _plot()
    for items, name, style, colour, width in (
        (videos, "videos", "-", FAKE, 2.0),
        (clips, "clips", "--", REAL, 1.3),
    ):
        if metrics.has_both(items.label):
            area = metrics.auc(items.label, items.score)
            curve = thin(*metrics.roc(items.label, items.score))
            label = f"{name}, AUC {area:.3f}"
            axes.plot(*curve, style, color=colour, lw=width, label=label)
    axes.plot([0, 1], [0, 1], ":", color=INK, lw=1, label="chance")
    _unit_square(axes, "real called fake (FPR)", "fake called fake (TPR)")
    axes.legend(loc="lower right")
    return figure


LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


def _plain(name: str) -> str:
    """A name as the page's text shows it: Matplotlib takes dollars for formulas, and
    leaves out of a legend what begins with an underscore."""
    name = printable(name).replace("$", r"\$")
    return f"\u200b{name}" if name.startswith("_") else name


def several_rocs(named: Mapping[str, metrics.Items]) -> Figure:
    """ROC of the videos of each run."""
    figure, axes = _plot()
    for i, (name, videos) in enumerate(named.items()):
        if metrics.has_both(videos.label):
            area = metrics.auc(videos.label, videos.score)
            curve = thin(*metrics.roc(videos.label, videos.score))
            style = LINES[i % len(LINES)]
            colour = (FAKE, REAL, THIRD)[(i + i // len(LINES)) % 3]
            label = f"{_plain(name)}, {area:.3f}"
            axes.plot(*curve, ls=style, color=colour, lw=1.6, label=label)
    axes.plot([0, 1], [0, 1], ":", color=INK, lw=0.8)
    _unit_square(axes, "real called fake (FPR)", "fake called fake (TPR)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", title="video AUC")
    return figure


def several_areas(named: Mapping[str, metrics.Summary]) -> Figure:
    """Video AUC of each run with its interval."""
    figure, axes = _plot((SIZE[0], max(1.2 + 0.5 * len(named), 2.2)))
    for row, (name, video) in enumerate(named.items()):
        if video.auc is None:
            continue
        reach = video.intervals.get("auc")
        if reach:
            axes.plot(reach, [row, row], "|-", color=INK, lw=1.4, ms=8)
        axes.plot(video.auc, row, "o", color=FAKE, ms=7)
        label = f"{_plain(name)}  {video.auc:.3f}"
        axes.annotate(
            label, (video.auc, row), (0, 7), textcoords="offset points", ha="right"
        )
    axes.set(ylim=(len(named) - 0.5, -0.8), xlabel="video AUC, 95 % interval")
    left, _ = axes.get_xlim()
    axes.set_xlim(min(left, 0.9), 1.005)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    return figure


def degraded(curve: Curve, untouched: float | None) -> Figure:
    """AUC of a family's levels with their intervals, beside that of the untouched."""
    figure, axes = _plot((SIZE[0] * 0.8, SIZE[1] * 0.75))
    for place, level in enumerate(curve.levels, start=1):
        if level.interval:
            axes.plot([place] * 2, level.interval, "_-", color=INK, lw=1.2, ms=7)
    areas = [math.nan if one.auc is None else one.auc for one in curve.levels]
    axes.plot(range(1, len(areas) + 1), areas, "o-", color=FAKE, lw=1.8)
    if untouched is not None:
        axes.axhline(untouched, ls="--", color=REAL, lw=1.2, label="untouched")
    axes.axhline(0.5, ls=":", color=INK, lw=0.8, label="chance")
    axes.set(xlabel=curve.unit, ylabel="video AUC", ylim=(0.3, 1.02))
    names = [f"{level.strength:g}" for level in curve.levels]
    axes.set_xticks(range(1, len(names) + 1), names)
    axes.legend(loc="lower left")
    return figure


def precision_recall(videos: metrics.Items) -> Figure:
    """Precision over recall of videos, with what chance gives."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = _plot()
    if metrics.has_both(videos.label):
        precision, recall, _ = precision_recall_curve(videos.label, videos.score)
        curve = thin(recall[::-1], precision[::-1])
        value = metrics.average_precision(videos.label, videos.score)
        label = f"videos, AP {value:.3f}"
        axes.step(*curve, "-", where="pre", color=FAKE, lw=2, label=label)
    share = float(np.mean(videos.label))
    axes.axhline(share, ls=":", color=INK, lw=1, label=f"chance, {share:.2f}")
    _unit_square(axes, "recall of fakes", "precision")
    axes.legend(loc="lower left")
    return figure


def detection_error(videos: metrics.Items) -> Figure:
    """Both error rates on normal-deviate axes (Martin et al., Eurospeech 1997)."""
    figure, axes = _plot()
    ticks = np.array([0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95])
    low, high = ndtri([0.0008, 0.97])
    if metrics.has_both(videos.label):
        false_alarm, hit = thin(*metrics.roc(videos.label, videos.score))
        rates = np.clip([false_alarm, 1 - hit], 1e-6, 1 - 1e-6)
        axes.plot(*ndtri(rates), "-", color=FAKE, lw=2, label="videos")
        rate = metrics.eer(videos.label, videos.score)
        assert rate is not None  # noqa: S101 - both classes are there
        point = float(np.clip(ndtri(np.clip(rate, 1e-6, 1)), low, high))
        label = f"EER {rate:.1%}"
        axes.plot(
            point, point, "o", color=INK, ms=6, mfc=PAPER, label=label, clip_on=False
        )
    axes.plot([low, high], [low, high], ":", color=INK, lw=1)
    names = [f"{tick:.1%}".replace(".0%", "%") for tick in ticks]
    axes.set_xticks(ndtri(ticks), names)
    axes.set_yticks(ndtri(ticks), names)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="real called fake", ylabel="fake called real")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")
    return figure


def confusion(matrix: Sequence[Sequence[int]], threshold: float) -> Figure:
    """Counts, shaded by their share of the row."""
    figure, axes = _plot()
    axes.grid(False)
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            share = count / max(sum(counts), 1)
            corner = (column - 0.48, row - 0.48)
            colour, hatch = (REAL, None) if row == column else (FAKE, "///")
            shade = {"facecolor": colour, "alpha": 0.12 + 0.5 * share}
            axes.add_patch(Rectangle(corner, 0.96, 0.96, **shade))
            edge = {"facecolor": "none", "edgecolor": colour, "hatch": hatch}
            axes.add_patch(Rectangle(corner, 0.96, 0.96, **edge))
            axes.text(column, row, f"{count:,}", ha="center", va="center", size=15)
            axes.text(column, row + 0.26, f"{share:.1%}", ha="center", va="center")
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    axes.set_xticks([0, 1], ["called real", "called fake"])
    axes.set_yticks([0, 1], ["real", "fake"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"fake above {threshold:.2f}")
    return figure


def methods(by_method: Mapping[str, metrics.Summary]) -> Figure:
    """AUC of each method against the reals, from chance, with its interval."""
    named = {
        name: (m.auc, m.intervals.get("auc"))
        for name, m in by_method.items()
        if m.auc is not None
    }
    figure, axes = _plot((SIZE[0], max(1.3 + 0.36 * len(named), 2.2)))
    hatches = ("", "///", "\\\\\\", "xxx", "...", "---")
    for row, (name, (area, span)) in enumerate(named.items()):
        bar = {"y": row, "width": area - 0.5, "left": 0.5, "height": 0.6}
        axes.barh(**bar, color=FAKE, alpha=0.45)
        hatch = hatches[row % len(hatches)]
        axes.barh(**bar, facecolor="none", edgecolor=FAKE, hatch=hatch)
        if span:
            axes.plot(span, [row, row], "|-", color=INK, lw=1.4, ms=8)
        axes.text(
            0.515, row, f"{_plain(name)}  {area:.3f}", va="center", size=9
        ).set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.85})
    lowest = [float(span[0] if span else area) for area, span in named.values()]
    left = min([0.5, *lowest])
    axes.set(xlim=(left - 0.01, 1.005), ylim=(len(named) - 0.4, -0.6))
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlabel("video AUC against the reals; chance is 0.5")
    return figure


def histogram(videos: metrics.Items, threshold: float | None) -> Figure:
    """How each class's video scores are spread."""
    figure, axes = _plot()
    edges = np.linspace(0, 1, 26)
    for value, name, colour, hatch in (
        (0, "real", REAL, "\\\\\\"),
        (1, "fake", FAKE, "///"),
    ):
        scores = videos.score[videos.label == value]
        if len(scores):
            share = np.histogram(scores, edges)[0] / len(scores)
            label = f"{name} ({len(scores):,})"
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(
                share,
                edges,
                fill=True,
                facecolor="none",
                edgecolor=colour,
                lw=1.4,
                hatch=hatch,
                label=label,
            )
    axes.axvline(0.5, ls=":", color=INK, lw=1)
    if threshold is not None and abs(threshold - 0.5) > 1e-9:
        label = f"val's threshold {threshold:.2f}"
        axes.axvline(threshold, ls="--", color=INK, lw=1, label=label)
    axes.set(xlim=(0, 1), xlabel="video score", ylabel="share of the class")
    _legend_above(figure)
    return figure


def risk_coverage(videos: metrics.Items, threshold: float | None) -> Figure:
    """Error rate among the surest videos, over their share."""
    figure, axes = _plot()
    if len(videos.label):
        curve = doubt.risk_coverage(videos, threshold)
        shown = thin(*(np.append(part[:1], part) for part in curve))
        axes.step(*shown, "-", where="post", color=FAKE, lw=2)
        axes.axhline(curve.risk[-1], ls=":", color=INK, lw=1, label="all decided")
        axes.legend(loc="upper left")
    axes.set(xlim=(0, 1.01), xlabel="share of videos decided, the surest first")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of them decided wrongly")
    return figure


def reliability(
    videos: metrics.Items, calibrated: np.ndarray | None, temperature: float | None
) -> Figure:
    """Share of fakes over the score, before and after the temperature.

    Few videos are drawn in fewer bins than their ECE has.
    """
    figure, axes = _plot()
    curves = [(videos.score, "as scored", "o--", REAL)]
    if calibrated is not None:
        label = f"with T = {temperature:.2f}"
        curves.append((calibrated, label, "s-", FAKE))
    bins = int(np.clip(len(videos.label) // 20, 4, metrics.CALIBRATION_BINS))
    for scores, name, style, colour in curves:
        binned = metrics.reliability(videos.label, scores, bins)
        error = metrics.ece(videos.label, scores)
        label = f"{name}, ECE {error:.3f}"
        axes.plot(
            binned.mean_score, binned.share_fake, style, color=colour, ms=4, label=label
        )
        sizes = 8 + 160 * binned.count / binned.count.sum()
        axes.scatter(
            binned.mean_score, binned.share_fake, s=sizes, color=colour, alpha=0.25
        )
    axes.plot([0, 1], [0, 1], ":", color=INK, lw=1)
    _unit_square(axes, "mean score", "share of fakes")
    _legend_above(figure)
    return figure


def _averaged(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal runs of steps, at most MAX_POINTS / 4 of them."""
    pieces = np.array_split(np.arange(len(steps)), min(len(steps), MAX_POINTS // 4))
    return (
        np.array([steps[p].mean() for p in pieces]),
        np.array([values[p].mean() for p in pieces]),
    )


class Measured(NamedTuple):
    """A line of metrics.jsonl; kind: train or val."""

    step: int
    kind: str
    values: Mapping[str, Any]


def _series(
    rows: Sequence[Measured], kind: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    found = [
        (row.step, row.values[name])
        for row in rows
        if row.kind == kind and isinstance(row.values.get(name), int | float)
    ]
    table = np.array(found, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def training(
    rows: Sequence[Measured], names: Sequence[tuple[str, str, str, str]]
) -> Figure | None:
    """Curves over the steps; names are (kind, field, label, line style).

    None when metrics.jsonl has none of them.
    """
    series = [(_series(rows, kind, field), kind) for kind, field, _, _ in names]
    if not any(len(steps) for (steps, _), _ in series):
        return None
    figure, axes = _plot()
    colours = (REAL, FAKE, THIRD)
    for (curve, kind), (_, _, label, style), colour in zip(
        series, names, colours, strict=False
    ):
        if len(curve[0]):
            averaged = _averaged(*curve)
            marker = "o" if len(averaged[0]) <= 60 and kind == "val" else None
            axes.plot(
                *averaged, style, color=colour, marker=marker, ms=3.5, label=label
            )
    axes.set_xlabel("step")
    axes.legend(loc="best")
    return figure
