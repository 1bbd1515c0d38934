"""People over time: which face of one window is which of the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.reports.video_result import Box, ClipResult
from tfds_ffpp.frames.faces import overlap
from tfds_ffpp.frames.found import FileSummary, PreparedWindow, StoredFace

# Of two windows' boxes of one face.
MIN_OVERLAP = 0.2


@dataclass(eq=False)
class Track:
    """One person over successive windows of a shot: where, and the scored clips."""

    shot: int = 0
    stored: list[StoredFace] = field(default_factory=list)
    clips: list[ClipResult] = field(default_factory=list)


class Unreadable(NamedTuple):
    """Why a video could not be decoded."""

    reason: str


@dataclass(eq=False)
class Pending:
    """A video under way, and what is known of it so far.

    folder: of its stored frames; waiting: clips that are not scored yet; end: what came
    after the last window, None before.
    """

    number: int
    name: str
    folder: Path
    windows: list[PreparedWindow] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    waiting: int = 0
    end: FileSummary | Unreadable | None = None


def join(tracks: list[Track], window: PreparedWindow) -> list[Track]:
    """The track of each face of the next window; new ones are added to the tracks.

    After a cut another person may be in the same place, so none goes on over one.
    """
    last = window.number - 1
    free = [t for t in tracks if t.stored[-1].window == last and t.shot == window.shot]
    joined = []
    for face in window.faces:
        track = _same(free, face.box)
        if track is None:
            track = Track(window.shot)
            tracks.append(track)
        else:
            free.remove(track)
        track.stored.append(face)
        joined.append(track)
    return joined


def _same(tracks: Sequence[Track], box: Box) -> Track | None:
    """The track that a box of the next window goes on with; None for a new one."""

    def shared(track: Track) -> float:
        return overlap(track.stored[-1].box, box)

    best = max(tracks, key=shared, default=None)
    return best if best is not None and shared(best) >= MIN_OVERLAP else None
