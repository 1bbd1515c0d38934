"""From a video's clip scores to its result, with what to be careful about."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fakedetect_jax.metrics import doubt, parts
from fakedetect_jax.metrics.calibration import apply_temperature
from fakedetect_jax.pages.formats import MADE_WARNING
from fakedetect_jax.reports.video_result import (
    FaceResult,
    ModelFacts,
    PartResult,
    PersonResult,
    VideoResult,
    left_out_words,
)
from fakedetect_jax.serving import clips
from fakedetect_jax.serving.clips import MAX_ENLARGEMENT, enlargement
from fakedetect_jax.serving.tracks import Pending, Track, Unreadable, people
from fakedetect_jax.settings import Config
from fakedetect_jax.trained.model import TrainedModel
from tfds_ffpp import records
from tfds_ffpp.frames.found import FileSummary, LeftOut, PreparedWindow
from tfds_ffpp.frames.people import descriptors

NOT_FAKE = "not called fake"
UNFAMILIAR = "unfamiliar"
NEEDS_VIDEO = "needs video"
WARN_ENLARGEMENT = 2.0
WARN_COVERAGE = 0.6
PART_SECONDS = 5.0  # of the parts of which the most suspicious one is judged


class Scale(NamedTuple):
    """How the scores of a model are read.

    threshold: between fake and real; band: None where val could not give one.
    temperature: None without calibration.
    """

    threshold: float
    band: doubt.Band | None
    temperature: float | None

    @classmethod
    def of(cls, model: TrainedModel) -> "Scale":
        """The threshold that was chosen on val, else 0.5."""
        chosen = 0.5 if model.threshold is None else model.threshold
        return cls(chosen, model.band, model.temperature)

    def calibrated(self, score: float) -> float | None:
        """The probability of fake behind a score; None without a temperature."""
        if self.temperature is None:
            return None
        return float(apply_temperature(np.array([score]), self.temperature)[0])

    @property
    def calibrated_band(self) -> tuple[float, float] | None:
        """The band's ends as probabilities; None without a band or temperature."""
        if self.band is None or self.temperature is None:
            return None
        low, high = apply_temperature(np.array(self.band.ends), self.temperature)
        return float(low), float(high)

    @property
    def fake_above(self) -> float:
        """Above it a score is called fake."""
        return self.threshold if self.band is None else self.band.fake.threshold

    def verdict(self, score: float) -> str:
        """What is said of a score: by the band, else by the threshold alone.

        Without a band nobody knows how often fakes lie below, so nothing is called
        real.
        """
        if self.band is not None:
            return self.band.verdict(score)
        return doubt.FAKE if score > self.threshold else NOT_FAKE


def summarise(video: Pending, model: TrainedModel, facts: ModelFacts) -> VideoResult:
    """The result of a video whose clips are all scored; facts: of the model."""
    scale = Scale.of(model)
    result = VideoResult(
        video.name,
        "scored",
        trained_on=model.data,
        threshold=scale.threshold,
        probability_threshold=scale.calibrated(scale.threshold),
        band=scale.band and scale.band.ends,
        probability_band=scale.calibrated_band,
        distance_threshold=model.guard and model.guard.threshold,
        warnings=(MADE_WARNING,) if model.made else (),
        model=facts,
    )
    end = video.end
    if end is None or isinstance(end, Unreadable):
        return replace(result, outcome="unreadable", reason=end and end.reason)
    result = replace(
        result,
        file=end.file,
        shots=1 + max((window.shot for window in video.windows), default=0),
        windows=len(video.windows),
        windows_without_face=_without_face(video),
        faces_left_out=_left_out(video, model.config),
        frames_looked_at=sum(len(w.frame_index) for w in video.windows),
    )
    tracks = [track for track in video.tracks if track.clips]
    if not tracks:
        if end.file.still and not clips.takes_stills(model.config):
            outcome, reason = NEEDS_VIDEO, _why_video(model.config)
        else:
            outcome, reason = _why_unscored(video, model.config)
        reason = f"{reason}; {end.loss}" if end.loss else reason
        return replace(result, outcome=outcome, reason=reason)
    persons = people(video, tracks)
    faces = tuple(
        replace(_face_result(track, scale, model), person=person)
        for track, person in zip(tracks, persons, strict=True)
    )
    if not all(np.isfinite(face.score) for face in faces):
        reason = "the network's output is not a number"
        return replace(result, outcome="out of range", reason=reason)
    if end.partial:
        result = replace(result, outcome="partial", reason=end.loss)
    result = _with_faces(result, faces, scale, _warnings(video, end.loss, model))
    result = _with_people(result, video, tracks, scale)
    part = _part(result, video.windows, scale, model.reals)
    if part is not None and part.threshold >= 1:
        said = "how val's real videos score is not known, so no part is called fake"
        result = replace(result, warnings=(*result.warnings, said))
    return replace(result, part=part)


def guard_of(model: TrainedModel) -> str:
    """What a model's guard is, or "none" and why."""
    if model.guard is None:
        return f"none ({model.no_guard})"
    facts = model.guard.facts
    alarms = 100 * (facts.false_alarms or 0)
    return f"{alarms:.0f} % false alarms on {facts.val_videos:,} videos of val"


def _highest(faces: Sequence[FaceResult]) -> FaceResult:
    return max(faces, key=lambda face: face.score)


def _whole(faces: Sequence[FaceResult]) -> tuple[float, float | None]:
    """Score and distance of a video: the means over the clips of each shot's highest
    face. Of a single shot they are that face's."""
    shots = sorted({face.shot for face in faces})
    if len(shots) == 1:
        top = _highest(faces)
        return top.score, top.distance
    tops = [_highest([face for face in faces if face.shot == shot]) for shot in shots]
    clips = [clip for top in tops for clip in top.clips]
    distances = [clip.distance for clip in clips if clip.distance is not None]
    far = float(np.mean(distances)) if distances else None
    return float(np.mean([clip.score for clip in clips])), far


def _with_faces(
    result: VideoResult,
    faces: tuple[FaceResult, ...],
    scale: Scale,
    warnings: list[str],
) -> VideoResult:
    # An unfamiliar face's score counts only where there is no other.
    familiar = [face for face in faces if face.outcome != UNFAMILIAR]
    score, distance = _whole(familiar or faces)
    clips = [clip for face in familiar or faces for clip in face.clips]
    if not familiar:
        limit = result.distance_threshold or 0.0
        reason = (
            "the face is unlike those of the training (distance "
            f"{distance:.3g}, limit {limit:.3g}), so its score means nothing"
        )
        reasons = [reason, *([result.reason] if result.reason else [])]
        result = replace(result, outcome=UNFAMILIAR, reason="; ".join(reasons))
    elif len(familiar) < len(faces):
        warnings = [
            f"{len(faces) - len(familiar)} of {len(faces)} faces are unlike those of "
            "the training: no verdict is given on them",
            *warnings,
        ]
    return replace(
        result,
        score=score,
        probability=scale.calibrated(score),
        distance=distance,
        verdict=scale.verdict(score) if familiar else None,
        faces=faces,
        most_suspicious=max(clips, key=lambda clip: clip.score),
        warnings=(*result.warnings, *warnings),
    )


# People ----------------------------------------------------------------------------


def _with_people(
    result: VideoResult, video: Pending, tracks: Sequence[Track], scale: Scale
) -> VideoResult:
    count = 1 + max(face.person for face in result.faces)
    found = tuple(_person(n, result.faces, tracks, video, scale) for n in range(count))
    linked = result.model is not None and result.model.link_people
    if len(result.faces) > 1 and not linked:
        said = (
            "which faces are one person's was not looked at, so after a cut or a gap a "
            "face is a person of its own"
        )
        result = replace(result, warnings=(*result.warnings, said))
    elif isinstance(video.end, FileSummary) and (more := video.end.not_described):
        said = (
            f"the faces after the first {descriptors.MOST} ({more:,} more) were not "
            "compared with others, so each counts as a person of its own"
        )
        result = replace(result, warnings=(*result.warnings, said))
    return replace(result, people=found)


def _person(
    number: int,
    faces: Sequence[FaceResult],
    tracks: Sequence[Track],
    video: Pending,
    scale: Scale,
) -> PersonResult:
    own = [i for i, face in enumerate(faces) if face.person == number]
    familiar = [i for i in own if faces[i].outcome != UNFAMILIAR]
    clips = [clip for i in familiar or own for clip in faces[i].clips]
    score = float(np.mean([clip.score for clip in clips]))
    shots = sorted({faces[i].shot for i in own})
    looked = sum(window.shot in shots for window in video.windows)
    # A window has one face of a person at the most.
    seen = sum(stored.coverage for i in own for stored in tracks[i].stored)
    return PersonResult(
        outcome="scored" if familiar else UNFAMILIAR,
        score=score,
        probability=scale.calibrated(score),
        verdict=scale.verdict(score) if familiar else None,
        seconds=(
            min(faces[i].seconds[0] for i in own),
            max(faces[i].seconds[1] for i in own),
        ),
        faces=tuple(own),
        shots=tuple(shots),
        coverage=seen / max(looked, 1),
    )


# The most suspicious part ----------------------------------------------------------


class _Run(NamedTuple):
    """Some seconds of a face: its number, and the first and last window with it."""

    face: int
    first: int
    last: int
    score: float


def _runs(result: VideoResult, windows: Sequence[PreparedWindow]) -> Iterator[_Run]:
    """Every stretch of PART_SECONDS of each familiar face, or all of a shorter shot."""
    fps = (result.file and result.file.fps) or 25.0
    for number, face in enumerate(result.faces):
        if face.outcome == UNFAMILIAR:
            continue
        scores: dict[int, list[float]] = defaultdict(list)
        for clip in face.clips:
            scores[clip.window].append(clip.score)
        seen = sorted(scores)
        frames = np.mean([windows[w].stop - windows[w].start for w in seen])
        length = max(round(PART_SECONDS * fps / float(frames)), 1)
        found = parts.runs([scores[w] for w in seen], length)
        for i, score in enumerate(found):
            last = seen[min(i + length, len(seen)) - 1]
            yield _Run(number, seen[i], last, score)


def _part(
    result: VideoResult,
    windows: Sequence[PreparedWindow],
    scale: Scale,
    reals: parts.Reals | None,
) -> PartResult | None:
    """The run with the highest score; None where the video is one run."""
    found = list(_runs(result, windows))
    if len(found) < 2:
        return None
    top = max(found, key=lambda run: run.score)
    limit = parts.limit([run.score for run in found], reals, least=scale.fake_above)
    return PartResult(
        verdict=doubt.FAKE if top.score > limit else NOT_FAKE,
        score=top.score,
        probability=scale.calibrated(top.score),
        threshold=limit,
        probability_threshold=scale.calibrated(limit),
        looked_at=len(found),
        face=top.face,
        shot=result.faces[top.face].shot,
        seconds=(windows[top.first].timestamp[0], windows[top.last].timestamp[-1]),
    )


# Faces -----------------------------------------------------------------------------


def _face_result(track: Track, scale: Scale, model: TrainedModel) -> FaceResult:
    # The mean over clips, as metrics.videos has it.
    score = float(np.mean([clip.score for clip in track.clips]))
    distance, far = None, False
    if model.guard is not None:
        distance = float(np.mean([clip.distance or 0.0 for clip in track.clips]))
        far = distance > model.guard.threshold
    return FaceResult(
        outcome=UNFAMILIAR if far else "scored",
        score=score,
        probability=scale.calibrated(score),
        distance=distance,
        verdict=None if far else scale.verdict(score),
        seconds=(track.clips[0].seconds[0], track.clips[-1].seconds[1]),
        box=track.stored[0].box,
        coverage=float(np.mean([stored.coverage for stored in track.stored])),
        clips=track.clips,
        shot=track.shot,
    )


def _left_out(video: Pending, config: Config) -> LeftOut:
    """The faces that were found in some window and not scored there."""
    counts: Counter[str] = Counter()
    for window in video.windows:
        counts.update(records.by_field(window.left_out))
    for track in video.tracks:
        scored = {clip.window for clip in track.clips}
        for stored in track.stored:
            if stored.window not in scored:
                is_still = video.windows[stored.window].total == 1
                counts[clips.lacks(stored, config, is_still=is_still) or "seldom"] += 1
    return LeftOut(**counts)


def _without_face(video: Pending) -> int:
    return sum(not window.faces for window in video.windows)


def _why_video(config: Config) -> str:
    frames = config.data.clip_frames
    return f"a picture, and the model looks at {frames} frames one after another"


def _why_unscored(video: Pending, config: Config) -> tuple[str, str]:
    """(outcome, reason) of a video without a clip."""
    stored = [face for window in video.windows for face in window.faces]
    if not stored:
        looked = len(video.windows)
        where = f" in any of {looked} windows" if looked > 1 else ""
        return "no face", f"no face was found{where}"
    frames = config.data.clip_frames
    longest = max(face.num_valid for face in stored)
    if longest < frames:
        several = len({window.shot for window in video.windows}) > 1
        what = "its longest shot" if several else "the video"
        return (
            "too short",
            f"{what} has {longest} frames, a clip of the model takes {frames}",
        )
    side = max(face.side for face in stored)
    least = config.dataset.image_size / MAX_ENLARGEMENT
    if side >= least:
        needed = config.data.min_coverage
        return (
            "no face",
            f"no clip shows a face in {needed:.0%} of its frames, as the model needs",
        )
    return (
        "out of range",
        f"the face's square is {side:.0f} pixels wide, the model needs {least:.0f}",
    )


def _warnings(video: Pending, loss: str | None, model: TrainedModel) -> list[str]:
    stored = [
        face
        for track in video.tracks
        for face in track.stored
        if face.window in {clip.window for clip in track.clips}
    ]
    warnings = []
    blurred = max(enlargement(face, model.config) for face in stored)
    if blurred > WARN_ENLARGEMENT:
        warnings.append(
            f"a face is small: its crop was enlarged {blurred:.1f} times, so fine "
            "traces are lost"
        )
    least = min(face.coverage for face in stored)
    if least < WARN_COVERAGE:
        warnings.append(
            f"a face was seen in only {least:.0%} of the frames looked at: the crop "
            "may show something else in the others"
        )
    if without := _without_face(video):
        warnings.append(f"{without} of {len(video.windows)} windows show no face")
    if words := left_out_words(_left_out(video, model.config)):
        warnings.append(f"faces found and not scored, once for each window: {words}")
    if loss:
        warnings.append(f"the file is damaged: {loss}")
    return warnings + _warnings_of_model(model)


def _warnings_of_model(model: TrainedModel) -> list[str]:
    warnings = []
    if model.temperature is None:
        warnings.append("the model was not calibrated: its score is no probability")
    elif model.calibration is not None and not model.calibration.used:
        warnings.append(
            "no calibration helped on people left out, so none is used: the "
            "probability is the score itself"
        )
    if model.band is not None and not model.band.is_promised:
        few = doubt.describe(model.band)
        warnings.append(f"{few[0].lower()}{few[1:].removesuffix('.')}")
    return warnings
