"""What keeps an evaluation's numbers from being taken at face value."""

from fakedetect_jax.metrics import calibration
from fakedetect_jax.reports.context import Context
from fakedetect_jax.reports.report import Report

FEW_CLUSTERS = 30  # below, an interval rests on few draws and is wide
# Of which most published numbers of FaceForensics++ are.
FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
MANY_UNFAMILIAR = 0.05  # a guard is made for a share of 0.01 of videos like val's
CLASS_COVERAGE_GAP = 0.05  # above, missing videos can themselves tell the classes apart


def warnings(report: Report, context: Context) -> list[str]:
    """What keeps the numbers from being taken at face value, a sentence each."""
    found = [*context.notes, *_training_warnings(report), *_selection_warnings(report)]
    if report.official_split is False:
        found.append(
            "This is not the data set's official split, so the numbers do not compare "
            "with published ones."
        )
    found += _method_warnings(report)
    held_out = report.config.get("data.hold_out")
    if held_out:
        found.append(
            f"{', '.join(held_out)} was held out of training and validation: its "
            "numbers are of a method that the detector never saw."
        )
    found += _number_warnings(report)
    found += _trivial_warnings(report)
    found += _coverage_warnings(report)
    found += _unfamiliar_warnings(report)
    found += [f"Dataset: {sentence}" for sentence in context.dataset_card.warnings]
    if context.cut_otherwise:
        found.append(
            "The videos were cut otherwise than those of the training: "
            f"{context.cut_otherwise}."
        )
    if context.leaks:
        found.insert(
            0,
            f"Across the splits of the run's datasets {context.leaks} are shared: what "
            "is judged here may have been trained on.",
        )
    if context.dataset_changed:
        found.insert(
            0,
            "The dataset is not the one that the run was trained on: "
            f"{context.dataset_changed}. Videos scored here may have been trained on.",
        )
    return found


def _training_warnings(report: Report) -> list[str]:
    trained = report.trained_on
    if not trained.made or report.made:
        return []  # on made videos the card says what they are
    return [
        f"The detector was trained on made videos (dataset {trained.dataset}), not "
        "on real forgeries: its scores mean nothing on real ones."
    ]


def _unfamiliar_warnings(report: Report) -> list[str]:
    far = report.unfamiliar
    if far is None or (far.share or 0.0) <= MANY_UNFAMILIAR:
        return []
    return [
        f"{far.videos:,} of {far.of:,} videos are unlike those of the training: a "
        "score says nothing of them, and predict gives them no verdict."
    ]


def _method_warnings(report: Report) -> list[str]:
    fakes = report.methods.fake
    if report.datasets != ["ffpp"] or not fakes or set(fakes) == set(FFPP_METHODS):
        return []
    return [
        f"All fakes here are of {', '.join(fakes)}; most published numbers of "
        f"FaceForensics++ are of {', '.join(FFPP_METHODS)}."
    ]


def _selection_warnings(report: Report) -> list[str]:
    found, split = [], str(report.split)
    selected = str(report.selected_on or "")
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
    touched = report.test_evaluations or 0
    if "test" in split and touched > 1:
        found.append(
            f"This data set's test was evaluated {touched} times in this run: "
            "choosing among these results would be selection on test."
        )
    return found


def _number_warnings(report: Report) -> list[str]:
    found, video = [], report.video
    over, num_clusters = report.interval.over, report.interval.num_clusters
    if video.undefined:
        found.append(f"{video.undefined[0].upper()}{video.undefined[1:]}.")
    if num_clusters < FEW_CLUSTERS:
        found.append(
            f"Only {num_clusters} {over}: the intervals are wide, and hold for people "
            "like these."
        )
    span = video.intervals.get("auc")
    if span and span[1] < 0.5:
        found.append(
            f"The AUC lies below chance ({video.auc:.3f}): the scores seem to be those "
            "of real, not of fake. Judge 1 - score, or the logit with its sign changed."
        )
    low, high = calibration.TEMPERATURE_BOUNDS
    temperature = report.temperature
    if temperature is not None and not 1.01 * low < temperature < 0.99 * high:
        found.append(
            f"The temperature ended at its bound ({temperature:.3g}): val's scores "
            "hardly tell the classes apart, so calibrated probabilities mean little."
        )
    if report.band is not None and not report.band.is_promised:
        found.append(report.band_note)
    total = video.num_real + video.num_fake
    constant = max(video.num_real, video.num_fake) / total
    if video.accuracy is not None and video.accuracy <= constant < 1:
        found.append(
            f"An accuracy of {video.accuracy:.1%} is no better than one answer for "
            f"every video ({constant:.1%})."
        )
    return found


def _trivial_warnings(report: Report) -> list[str]:
    span = report.video.intervals.get("auc")
    reached = {name: area.auc or 0.0 for name, area in report.trivial.items()}
    if not span or not reached or max(reached.values()) < span[0]:
        return []
    name = max(reached, key=lambda name: reached[name])
    return [
        f"A forest on {name} reaches a video AUC of {reached[name]:.3f}, which the "
        "detector's interval does not exclude: the number may show no more than that."
    ]


def _coverage_warnings(report: Report) -> list[str]:
    found, coverage = [], report.coverage
    missing = coverage.of - coverage.scored
    if missing:
        done = {
            "exclude": "left out of every number",
            "as_real": "counted as called real",
            "as_fake": "counted as called fake",
        }[report.policy]
        found.append(
            f"Videos without a score: {missing:,} of {coverage.of:,}; they are {done}."
        )
    real, fake = (share.share for share in coverage.by_class.values())
    if real is None or fake is None:
        return found
    if abs(real - fake) > CLASS_COVERAGE_GAP:
        found.append(
            f"Coverage differs by class: {real:.1%} of the real and "
            f"{fake:.1%} of the fake videos have a score."
        )
    return found
