"""A scored video -> the video with what was found in it, and its worst frames."""

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.pages.formats import percent
from fakedetect_jax.reports.video_result import (
    AnnotatedVideo,
    ClipResult,
    FaceResult,
    StillResult,
    VideoResult,
)
from fakedetect_jax.serving import evidence
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.summary import Scale
from fakedetect_jax.serving.tracks import Pending, Track
from tfds_ffpp.frames.found import PreparedWindow, StoredFace
from tfds_ffpp.workers.annotated import Annotated, Mark, Still

MAX_STILLS = 6


class _Moment(NamedTuple):
    """A frame worth keeping: of which face, in a clip of which score."""

    frame: int
    face: int
    score: float
    seconds: tuple[float, float]


def write(
    detector: Detector, result: VideoResult, video: Pending, folder: Path
) -> VideoResult:
    """Writes the annotated video of one that was just scored, and its stills.

    Returns the result with what was written, or with a warning that says why nothing
    was. What has no file is left as it is.
    """
    if result.file is None:
        return result
    scale = Scale.of(detector.model)
    moments = _moments(result.faces, video.windows)
    place = Path(tempfile.mkdtemp(prefix=".annotate-", dir=folder))
    try:
        done = detector.annotate(
            result.video,
            place,
            title=title(result, scale),
            marks=list(marks(video, result.faces, scale)),
            stills=sorted({moment.frame for moment in moments}),
        )
        if done.annotated is None:
            said = f"the annotated video could not be written: {done.reason}"
            return replace(result, warnings=(*result.warnings, said))
        stem = evidence.page_path(result.video, folder).stem
        written = _move(done.annotated, place, folder / stem, moments)
        return replace(result, annotated=written)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(
    made: Annotated, place: Path, to: Path, moments: Sequence[_Moment]
) -> AnnotatedVideo:
    """Gives what was written its names, the video last."""
    stills = {still.number: still for still in made.stills}
    kept = [_still(m, stills[m.frame], place, to) for m in moments if m.frame in stills]
    source = place / made.name
    path = to.with_name(f"{to.name}{source.suffix}")
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source.replace(path)
    return AnnotatedVideo(str(path), made.frames, made.sound, digest, tuple(kept))


def _still(moment: _Moment, still: Still, place: Path, to: Path) -> StillResult:
    content = (place / still.name).read_bytes()
    path = to.with_name(f"{to.name}-{still.number}.png")
    path.write_bytes(content)
    return StillResult(
        frame=still.number,
        seconds=still.seconds,
        face=moment.face,
        score=moment.score,
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels_sha256=still.pixels_sha256,
    )


# What is drawn ---------------------------------------------------------------------


def _number(score: float, scale: Scale) -> str:
    """The number that is shown for a score."""
    chance = scale.calibrated(score)
    if chance is None:
        return f"{score:.2f}"
    return percent(chance, 0).replace("\u202f", " ")  # what the letters can show


def title(result: VideoResult, scale: Scale) -> str:
    """What is written over every frame."""
    said = result.verdict or result.outcome
    if result.score is None or result.verdict is None:
        return said
    return f"{said} ({_number(result.score, scale)})"


def marks(video: Pending, faces: Sequence[FaceResult], scale: Scale) -> Iterator[Mark]:
    """The squares of all faces, and the parts without one."""
    for window in video.windows:
        if not window.faces:
            yield Mark(window.start, window.stop - 1, "no face found here")
    persons = iter([face.person for face in faces])
    for track in video.tracks:
        # A video whose numbers cannot be had has clips, but no result of a face.
        number = next(persons, None) if track.clips else None
        for stored in track.stored:
            window = video.windows[stored.window]
            yield from _of_face(number, track, stored, window, scale)


def _of_face(
    number: int | None,
    track: Track,
    stored: StoredFace,
    window: PreparedWindow,
    scale: Scale,
) -> Iterator[Mark]:
    """The square of a face in a window, with the score of the nearest clip."""
    clips = [clip for clip in track.clips if clip.window == window.number]
    if number is None or not clips:
        yield Mark(window.start, window.stop - 1, "not scored", stored.box)
        return
    clips.sort(key=_middle)
    bounds = [_middle(a) + _middle(b) for a, b in itertools.pairwise(clips)]
    starts = [window.start, *(bound // 2 + 1 for bound in bounds), window.stop]
    for clip, (first, stop) in zip(clips, itertools.pairwise(starts), strict=True):
        words = f"person {number + 1}: {_number(clip.score, scale)}"
        high = clip.score > scale.fake_above
        yield Mark(first, stop - 1, words, stored.box, high)


def _middle(clip: ClipResult) -> int:
    return sum(clip.frames) // 2


def _moments(
    faces: Sequence[FaceResult], windows: Sequence[PreparedWindow]
) -> list[_Moment]:
    """The middle frames of the clips with the highest scores, that lie apart."""
    found = [
        _Moment(_middle_frame(clip, windows), number, clip.score, clip.seconds)
        for number, face in enumerate(faces)
        for clip in face.clips
    ]
    kept: list[_Moment] = []
    for moment in sorted(found, key=lambda m: (-m.score, m.frame)):
        if len(kept) < MAX_STILLS and all(_apart(moment, other) for other in kept):
            kept.append(moment)
    return kept


def _apart(a: _Moment, b: _Moment) -> bool:
    return a.seconds[1] <= b.seconds[0] or b.seconds[1] <= a.seconds[0]


def _middle_frame(clip: ClipResult, windows: Sequence[PreparedWindow]) -> int:
    """That of the frames that the model looked at."""
    looked = windows[clip.window].frame_index
    inside = [i for i in looked if clip.frames[0] <= i <= clip.frames[1]]
    return inside[len(inside) // 2]
