"""Numbers as text, for pages and the terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command that scores videos shows times, and no metric
    from fakedetect_jax.metrics.doubt import Selective
    from fakedetect_jax.metrics.intervals import AucChange, Compared
    from fakedetect_jax.metrics.located import Localisation
    from fakedetect_jax.reports.comparison import Touches, Unpaired
    from fakedetect_jax.reports.report import Area, Report, Unfamiliar
    from fakedetect_jax.reports.robustness import Robustness


MADE_WARNING = (
    "the model was trained on made videos: its scores mean nothing on real ones"
)


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


# The lines that a run prints.


def epoch_lines(
    *,
    epoch: int,
    num_epochs: int,
    loss: float,
    accuracy: float,
    validation_loss: float | None,
    validation_accuracy: float | None,
) -> str:
    """The two lines of an epoch; losses and accuracies are of clips."""
    return (
        f"Epoch {epoch}/{num_epochs}\n"
        f"Loss: {loss:.4f} - Accuracy: {accuracy:.4f} - "
        f"Validation Loss: {number(validation_loss, 4)} - "
        f"Validation Accuracy: {number(validation_accuracy, 4)}"
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


def validation_sets_line(areas: Mapping[str, float | None]) -> str:
    """The video AUC of each validation set, of which the mean stands above."""
    shown = ", ".join(f"{name} {number(area, 4)}" for name, area in areas.items())
    return f"its mean over {shown}"


def result_lines(report: "Report") -> str:
    """Loss, accuracy and confusion matrix of a report's clips, then the video AUC.

    The last line, which the original recipe did not print, is a constant answer's.
    """
    clip, video = report.clip, report.video
    (tn, fp), (fn, tp) = clip.confusion
    name = str(report.split).capitalize()
    width = max(len(str(n)) for n in (tn, fp, fn, tp, "Predicted Negative"))
    rows = [
        ("", "Predicted Negative", "Predicted Positive"),
        ("Actual Negative", tn, fp),
        ("Actual Positive", fn, tp),
    ]
    table = "\n".join(f"{a:<15}  {b!s:>{width}}  {c!s:>{width}}" for a, b, c in rows)
    interval = span(video.intervals.get("auc"))
    between = f" (95 % interval {interval})" if interval else ""
    return (
        f"{name} Loss: {number(clip.loss, 4)}, "
        f"{name} Accuracy: {100 * (clip.accuracy or 0.0):.2f}%\n"
        f"Confusion Matrix:\n{table}\n"
        f"{name} Video AUC: {number(video.auc, 4)}{between}\n"
        f"{_doubt_line(video.selective) if report.band else ''}"
        f"For comparison: {constant_line([0] * (tn + fp) + [1] * (fn + tp))}"
        f"{_trivial_lines(report.trivial)}"
        f"{_unfamiliar_line(report.unfamiliar)}"
        f"{_heat_line(report.localisation)}"
    )


def _doubt_line(found: "Selective | None") -> str:
    """What the band leaves undecided, and how often it errs."""
    if found is None:
        return ""
    return (
        f"Doubt: {percent(found.uncertain)} uncertain, "
        f"{percent(found.false_alarms)} of reals called fake, "
        f"{percent(found.misses)} of fakes called real\n"
    )


def _unfamiliar_line(far: "Unfamiliar | None") -> str:
    """How many videos are unlike those of the training, or why that is not known."""
    if far is None:
        return ""
    if far.share is None:
        return f"\nUnfamiliar: not known, guard: none ({far.reason})"
    return f"\nUnfamiliar: {far.videos} of {far.of} videos ({100 * far.share:.1f} %)"


def _heat_line(found: "Localisation | None") -> str:
    """How often heat maps point at what is forged, beside the crop's middle."""
    if found is None:
        return ""
    rates, spans = found.rates, found.intervals
    return (
        f"\nHeat: hottest in the forged part in {percent(rates.hits)} of frames "
        f"({span(spans.get('hits'))}), the middle of the crop in "
        f"{percent(rates.centre_hits)}, a place at random in {percent(rates.chance)}"
    )


def robustness_lines(found: "Robustness") -> list[str]:
    """A line per family: its AUCs from mild to severe."""
    lines = [
        f"untouched    video AUC {number(found.untouched)} {span(found.interval)}",
        *(
            f"{curve.family:<12} {' '.join(number(one.auc) for one in curve.levels)}"
            f"   mean {number(curve.mean)}"
            for curve in found.curves
        ),
    ]
    return [*lines, f"mean of families {number(found.mean)}"]


def _trivial_lines(reached: Mapping[str, "Area"]) -> str:
    """What trivial statistics reach on made videos, a line each."""
    return "".join(
        f"\n  a forest on {name} reaches {number(area.auc, 4)} "
        f"({span(area.intervals.get('auc'))})"
        for name, area in reached.items()
    )


def touch_line(touched: "Touches") -> str:
    """One sentence about how often a test was looked at."""
    times, runs = touched.evaluations, touched.runs
    name = f"test of {touched.dataset}" if touched.dataset else "test"
    if times == 1:
        return f"{name}: evaluated once"
    return (
        f"{name}: evaluated {times} times in {runs} run{'s' if runs > 1 else ''}; "
        "choosing among these results is selection on test"
    )


def difference_line(
    run: str, reference: str, videos: "Compared", area: "AucChange"
) -> str:
    """One sentence about the AUCs of two runs on the videos that both have."""
    reach = area.interval
    between = f" [{reach[0]:+.3f}, {reach[1]:+.3f}]" if reach else ""
    return (
        f"{run} against {reference}: "
        f"video AUC {area.difference:+.3f}{between}, "
        f"p = {area.clustered_p:.2g} over {videos.over} "
        f"(DeLong {area.delong_p:.2g}), {videos.num_videos} videos"
    )


def unpaired_line(alone: "Unpaired") -> str:
    """Why an evaluation has no difference to another."""
    return (
        f"{alone.run} is paired with none: {alone.shared} of its "
        f"{alone.videos} videos are in {alone.nearest}"
    )


def clock(seconds: float) -> str:
    """A place in a video: 61.24 -> "1:01.2"."""
    tenths = round(10 * max(seconds, 0.0))
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
