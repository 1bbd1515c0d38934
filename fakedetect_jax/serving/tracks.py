"""People over time: which face of one window is which of the next."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fakedetect_jax.reports.video_result import ClipResult
from tfds_ffpp.frames.found import FileSummary, PreparedWindow, StoredFace
from tfds_ffpp.frames.people.faces import going_on

# Distance of two faces' descriptors below which they are one person's. dlib's authors
# give 0.6 for pairs and take 0.5 to group faces (dlib, face_clustering.py).
SAME_PERSON = 0.5
ALIKE = 0.9


@dataclass(eq=False)
class Track:
    """One person over successive windows of a shot: where, and the scored clips."""

    shot: int
    stored: list[StoredFace] = field(default_factory=list)
    clips: list[ClipResult] = field(default_factory=list)


class Unreadable(NamedTuple):
    """Why a video could not be decoded."""

    reason: str


@dataclass(eq=False)
class Pending:
    """A video under way, and what is known of it so far.

    folder: of its stored frames; waiting: clips that are not scored yet; end: what came
    after the last window, None before; beside: how many videos share the cores that
    decode, this one too.
    """

    number: int
    name: str
    folder: Path
    windows: list[PreparedWindow] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    waiting: int = 0
    end: FileSummary | Unreadable | None = None
    beside: int = 1


def people(video: Pending, scored: Sequence[Track]) -> list[int]:
    """The number of the person of each track that has a score.

    A track joins the person whose faces are nearest to its own in the mean, if nearer
    than SAME_PERSON. Two tracks of one window are two people; where faces are so alike
    that two of these lie near each other, the limit is ALIKE of their distance. A track
    that is not described is a person of its own.
    """
    numbers = _numbers(video, scored)
    windows = [{stored.window for stored in track.stored} for track in scored]
    pairs = [
        float(np.linalg.norm(a - b))
        for (a, at), (b, also) in itertools.combinations(
            zip(numbers, windows, strict=True), 2
        )
        if a is not None and b is not None and at & also
    ]
    limit = min(SAME_PERSON, ALIKE * min(pairs, default=np.inf))
    found: list[list[int]] = []  # the tracks of each person
    for i, own in enumerate(numbers):
        best, nearest = None, limit
        for members in found if own is not None else ():
            if any(windows[i] & windows[k] for k in members):
                continue
            others = [numbers[k] for k in members]
            far = [np.linalg.norm(own - o) for o in others if o is not None]
            if far and float(np.mean(far)) < nearest:
                best, nearest = members, float(np.mean(far))
        if best is None:
            found.append([i])
        else:
            best.append(i)
    person = {i: number for number, members in enumerate(found) for i in members}
    return [person[i] for i in range(len(scored))]


def _numbers(video: Pending, scored: Sequence[Track]) -> list[np.ndarray | None]:
    """What describes each track, the mean over its parts that begin anew."""
    described = video.end.described if isinstance(video.end, FileSummary) else []
    values = {(one.window, one.face): np.array(one.values) for one in described}
    places = {
        id(stored): (window.number, number)
        for window in video.windows
        for number, stored in enumerate(window.faces)
    }
    found = []
    for track in scored:
        own = [values.get(places[id(stored)]) for stored in track.stored]
        own = [one for one in own if one is not None]
        found.append(np.mean(own, axis=0) if own else None)
    return found


def join(tracks: list[Track], window: PreparedWindow) -> list[Track]:
    """The track of each face of the next window; new ones are added to the tracks.

    After a cut another person may be in the same place, so none goes on over one.
    """
    last = window.number - 1
    open_ = [t for t in tracks if t.stored[-1].window == last and t.shot == window.shot]
    boxes = [track.stored[-1].box for track in open_]
    joined = []
    found = going_on(boxes, [face.box for face in window.faces])
    for face, number in zip(window.faces, found, strict=True):
        if number is None:
            track = Track(window.shot)
            tracks.append(track)
        else:
            track = open_[number]
        track.stored.append(face)
        joined.append(track)
    return joined
