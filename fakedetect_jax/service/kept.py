"""What is kept of a scored video, so that evidence can be made of it later.

It lies in a folder of the job: the prepared frames, and what is known of them.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving.tracks import Pending, Track
from tfds_ffpp import records
from tfds_ffpp.files import whole
from tfds_ffpp.frames.found import PreparedWindow, StoredFace

_FACTS, _FRAMES = "kept.json", "frames"


@dataclass(frozen=True)
class _Kept:
    """All of it but the frames, which it names."""

    result: VideoResult
    windows: list[PreparedWindow]
    tracks: list[Track]


def keep(folder: Path, result: VideoResult, video: Pending) -> None:
    """Takes over the frames of a video that was just scored."""
    frames = folder / _FRAMES
    for place in (folder, frames):
        place.mkdir(mode=0o700, exist_ok=True)
    for track in video.tracks:
        for stored in track.stored:
            shutil.move(stored.entry, frames / Path(stored.entry).name)
    known = _Kept(result, video.windows, video.tracks)
    write_text(folder / _FACTS, json.dumps(records.to_json(_moved(known, Path()))))


def load(folder: Path) -> tuple[VideoResult, Pending]:
    """What was kept; the frames are there until `drop_frames`."""
    facts = json.loads((folder / _FACTS).read_text())
    frames = folder / _FRAMES
    known = _moved(records.from_json(_Kept, facts), frames)
    video = Pending(0, known.result.video, frames, known.windows, known.tracks)
    return known.result, video


def _moved(known: _Kept, frames: Path) -> _Kept:
    """The same with its frames in another folder."""

    def of(stored: StoredFace) -> StoredFace:
        return replace(stored, entry=str(frames / Path(stored.entry).name))

    windows = [replace(w, faces=[*map(of, w.faces)]) for w in known.windows]
    tracks = [Track(t.shot, [*map(of, t.stored)], t.clips) for t in known.tracks]
    return _Kept(known.result, windows, tracks)


def drop_frames(folder: Path) -> None:
    """Removes the frames: what is drawn into a video needs none."""
    shutil.rmtree(folder / _FRAMES, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with whole(path) as place:
        place.write_text(text)
