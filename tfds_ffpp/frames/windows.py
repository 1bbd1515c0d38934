"""A video of any length -> windows, each prepared as the dataset stores a video."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp.errors import IrregularVideoError, UnusableVideoError
from tfds_ffpp.frames import images
from tfds_ffpp.frames.decoding.frames import Clip
from tfds_ffpp.frames.entry import write_entry
from tfds_ffpp.frames.found import (
    Alive,
    ContainerFacts,
    FileFacts,
    FileSummary,
    LeftOut,
    PreparedWindow,
    StoredFace,
    unheard,
)
from tfds_ffpp.frames.origin.container import container_facts
from tfds_ffpp.frames.people.descriptors import Gallery
from tfds_ffpp.frames.people.faces import Faces
from tfds_ffpp.frames.people.faces import all_faces as find_all
from tfds_ffpp.frames.prepare import (
    Preparation,
    file_digest,
    finder_of,
    frame_plan,
    source_box,
    store,
    whole_frame,
    with_track,
    without_points,
)
from tfds_ffpp.frames.video import (
    MIN_DECODED,
    MIN_PARTIAL,
    Window,
    read_windows,
)

# A face beside the largest one counts when it is seen in at least this share of the
# looked-at frames, and is at least this share of the largest one's side.
MIN_COVERAGE = 0.5
MIN_RELATIVE_SIDE = 0.25


def cut_evenly(total: int, window_frames: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest equal windows of at most window_frames frames."""
    count = max(-(-total // window_frames), 1)
    bounds = [i * total // count for i in range(count + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


def cut_shots(
    total: int, cuts: Sequence[int], window_frames: int
) -> list[tuple[int, int]]:
    """As cut_evenly for each shot; cuts: the frames that begin one, but the first."""
    bounds = [0, *cuts, total]
    return [
        (begin + start, begin + stop)
        for begin, end in zip(bounds, bounds[1:], strict=False)
        for start, stop in cut_evenly(end - begin, window_frames)
    ]


def all_boxes(
    clip: Clip, preparation: Preparation, *, largest: bool = False
) -> tuple[list[Faces], LeftOut]:
    """The faces of a window that count, the largest lasting one first; and the others.

    largest: that one alone counts.
    """
    if preparation.crop == "full":
        return [whole_frame(clip)], LeftOut()
    (main, *others), seldom, small = find_all(
        clip,
        finder=finder_of(preparation),
        margin=preparation.margin,
        closer=True,
    )
    if main.box is None:
        return [], LeftOut(seldom=seldom)
    least = MIN_RELATIVE_SIDE * (main.box[2] - main.box[0])
    kept, beside = [main], 0
    for face in others:
        if face.box is None or face.box[2] - face.box[0] < least:
            small += 1
        elif face.coverage < MIN_COVERAGE:
            seldom += 1
        elif largest:
            beside += 1
        else:
            kept.append(face)
    return kept, LeftOut(small, seldom, beside)


def prepare_windows(
    path: str | Path,
    preparation: Preparation,
    *,
    window_frames: int,
    all_faces: bool,
    folder: Path,
    find_shots: bool = True,
    stills: bool = True,
    describe: bool = False,
    threads: int = 1,
    alive: Alive = unheard,
) -> Iterator[PreparedWindow | FileSummary]:
    """Prepares the windows of a video one after another, in constant memory.

    No window spans a cut, unless the video is taken for one shot (find_shots=False).

    A file with one picture is a video of one frame; without `stills` nothing is
    prepared of it.

    With `describe` the summary has the numbers of faces that may be one person's.

    Each face of a window is stored in a file of its own in `folder`, as entry.py
    writes them, with the frames that the dataset would store of such a video.

    Yields each, and at the end what is known of the file. A window numbered 0 after
    others makes those before it void. Half of the video must decode; what a dataset
    would not take for that reason is marked as partial.

    Raises UnusableVideoError with the reason.
    """
    path = Path(path)
    preparation = without_points(preparation)
    is_picture = _is_picture(path)
    read = partial(
        images.read_windows if is_picture else read_windows,
        path,
        lambda total, cuts: cut_shots(total, cuts, window_frames),
        frame_plan(preparation),
        find_shots=find_shots,
        least=MIN_PARTIAL,
        threads=threads,
        alive=alive,
    )
    how = _How(path, preparation, is_picture, all_faces, folder, describe, alive)
    if is_picture and not stills and images.is_still(path):
        yield _summary(next(read()), file_digest(path), None)
        return
    try:
        yield from _prepare(read(), how, in_order=False)
    except IrregularVideoError:
        yield from _prepare(read(in_order=True), how, in_order=True)


def _is_picture(path: Path) -> bool:
    try:
        return images.is_image(path)
    except OSError as error:
        raise UnusableVideoError(error.strerror or "cannot be read") from None


class _How(NamedTuple):
    """What prepare_windows was asked."""

    path: Path
    preparation: Preparation
    is_picture: bool
    all_faces: bool
    folder: Path
    describe: bool
    alive: Alive


def _prepare(
    windows: Iterator[Window], how: _How, *, in_order: bool
) -> Iterator[PreparedWindow | FileSummary]:
    summary: FileSummary | None = None
    gallery = Gallery(wanted=how.describe)
    for number, window in enumerate(windows):
        if summary is None:
            said = None if how.is_picture else container_facts(how.path)
            summary = _summary(window, file_digest(how.path), said)
        faces, left = all_boxes(window.clip, how.preparation, largest=not how.all_faces)
        faces = [with_track(window.clip, face, how.preparation) for face in faces]
        stored = []
        for i, face in enumerate(faces):
            entry = how.folder / f"{number}-{i}{'-in-order' * in_order}"
            one = _store_face(number, entry, window.clip, face, how.preparation)
            stored.append(one)
            how.alive()
        gallery.see(window.clip, window.shot, faces, stored)
        yield _prepared(number, window, stored, left)
    assert summary is not None  # noqa: S101  a file without frames is not usable
    described = gallery.describe(how.alive)
    yield replace(summary, described=described, not_described=gallery.left_out)


def _store_face(
    window: int,
    entry: Path,
    clip: Clip,
    face: Faces,
    preparation: Preparation,
) -> StoredFace:
    num_valid, frames, _ = store(clip, face, preparation)
    track = face.track
    assert track is not None  # noqa: S101
    stored = StoredFace(
        window=window,
        entry=str(entry),
        num_valid=num_valid,
        face_seen=track.features(preparation.num_frames).face_seen,
        box=source_box(face, clip.size(0)),
        coverage=face.coverage,
        num_faces=face.num_faces,
    )
    write_entry(entry, stored, frames)
    return stored


def _summary(
    window: Window, sha256: str, container: ContainerFacts | None
) -> FileSummary:
    facts, clip = window.clip.facts, window.clip
    file = FileFacts(
        frames=clip.source_frames,
        fps=facts.fps,
        width=facts.width,
        height=facts.height,
        codec=facts.codec,
        pixel_format=facts.pixel_format,
        bit_rate=facts.bit_rate,
        damaged=clip.loss is not None,
        promised_frames=clip.loss.promised if clip.loss else clip.source_frames,
        missing_from=clip.loss and clip.loss.first,
        sha256=sha256,
        still=facts.num_frames == 1 and not facts.fps,
        container=container,
    )
    return FileSummary(
        file,
        loss=str(clip.loss) if clip.loss else None,
        partial=clip.loss is not None and clip.loss.leaves < MIN_DECODED,
    )


def _prepared(
    number: int, window: Window, stored: list[StoredFace], left: LeftOut
) -> PreparedWindow:
    clip = window.clip
    return PreparedWindow(
        number=number,
        start=window.start,
        stop=window.stop,
        total=clip.source_frames,
        frame_index=clip.indices,
        timestamp=clip.timestamps,
        faces=stored,
        shot=window.shot,
        left_out=left,
    )
