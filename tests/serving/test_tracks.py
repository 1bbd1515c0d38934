"""Which face of a window is which of the next."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fakedetect_jax.serving import tracks
from fakedetect_jax.serving.tracks import Pending, Track
from tfds_ffpp.frames.found import Described, FileSummary, PreparedWindow, StoredFace
from tfds_ffpp.frames.people import descriptors


def box_of(window: int, box: list[float]) -> StoredFace:
    y0, x0, y1, x1 = box
    return StoredFace(
        window, "", 4, [1] * 4, (y0, x0, y1, x1), coverage=1.0, num_faces=1
    )


def faces_over(*windows: list[list[float]]) -> list[list[int]]:
    """The tracks of boxes seen in successive windows: the windows of each."""
    found: list[Track] = []
    for number, boxes in enumerate(windows):
        faces = [box_of(number, box) for box in boxes]
        window = PreparedWindow(
            number, 0, 4, 40, [0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3], faces
        )
        joined = tracks.join(found, window)
        assert [t.stored[-1] for t in joined] == faces
    return [[stored.window for stored in track.stored] for track in found]


LEFT, RIGHT = [20.0, 0.0, 120.0, 100.0], [20.0, 300.0, 120.0, 400.0]


def moved(box: list[float], by: float) -> list[float]:
    return [box[0], box[1] + by, box[2], box[3] + by]


def test_a_face_that_moves_a_little_stays_one():
    assert faces_over([LEFT], [moved(LEFT, 20)], [moved(LEFT, 40)]) == [[0, 1, 2]]
    assert faces_over([LEFT, RIGHT], [RIGHT, LEFT]) == [[0, 1], [0, 1]]


def test_a_face_elsewhere_is_another():
    """Two people that a film cuts to and fro between."""
    assert faces_over([LEFT], [RIGHT], [LEFT]) == [[0], [1], [2]]
    # Half a side away they share a third; nine tenths away hardly anything.
    assert faces_over([LEFT], [moved(LEFT, 50)]) == [[0, 1]]
    assert faces_over([LEFT], [moved(LEFT, 90)]) == [[0], [1]]


def test_a_face_does_not_go_on_over_a_window_without_it():
    assert faces_over([LEFT], [], [LEFT]) == [[0], [2]]
    assert faces_over([LEFT, RIGHT], [RIGHT], [LEFT]) == [[0], [0, 1], [2]]


def test_a_face_goes_on_as_one_face_only():
    assert faces_over([LEFT], [moved(LEFT, 10), moved(LEFT, -30)]) == [[0, 1], [1]]


def test_whose_face_it_is_is_asked_of_each_that_goes_on_as_none(monkeypatch):
    """The same faces that get tracks of their own, up to a number of them."""
    seen = [[LEFT], [moved(LEFT, 10), moved(LEFT, -30)], [RIGHT]]
    assert faces_over(*seen) == [[0, 1], [1], [2]]

    def gallery() -> descriptors.Gallery:
        found = descriptors.Gallery(wanted=True)
        for number, boxes in enumerate(seen):
            stored = [box_of(number, box) for box in boxes]
            faces: Any = [SimpleNamespace(box=None, track=None) for _ in boxes]
            found.see(nothing, 0, faces, stored)
        return found

    nothing: Any = None
    begun = [(one.window, one.face) for one in gallery()._begun]
    assert begun == [(0, 0), (1, 1), (2, 0)]
    monkeypatch.setattr(descriptors, "MOST", 2)
    assert len(gallery()._begun) == 2 and gallery().left_out == 1


def test_two_tracks_or_videos_that_hold_the_same_are_two():
    """They are keys while they change, so equal contents make no equal ones."""
    assert len({Track(0), Track(0)}) == 2
    assert len({Pending(0, "a.mp4", Path()), Pending(0, "a.mp4", Path())}) == 2


# People ----------------------------------------------------------------------------


def film(*places: list[list[float] | None]) -> tuple[Pending, list[Track]]:
    """A film of one window a shot: for each face of a window its two numbers."""
    windows, described, found = [], [], []
    for number, faces in enumerate(places):
        boxes = [LEFT, RIGHT, moved(RIGHT, 300)][: len(faces)]
        stored = [box_of(number, box) for box in boxes]
        looked = [0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3]
        window = PreparedWindow(number, 0, 4, 40, *looked, stored, shot=number)
        windows.append(window)
        tracks.join(found, window)
        described += [
            Described(number, place, values)
            for place, values in enumerate(faces)
            if values is not None
        ]
    video = Pending(0, "a.mp4", Path(), windows, found)
    video.end = FileSummary(None, None, False, described)  # pyright: ignore
    return video, found


def test_faces_near_each_other_are_one_person_over_cuts():
    video, found = film([[0.0, 0.0]], [[0.9, 0.0]], [[0.1, 0.0]], [[0.8, 0.1]])
    assert tracks.people(video, found) == [0, 1, 0, 1]


def test_two_faces_of_one_window_are_two_people_however_alike():
    video, found = film([[0.0, 0.0], [0.2, 0.0]], [[0.01, 0.0]], [[0.19, 0.0]])
    assert tracks.people(video, found) == [0, 1, 0, 1]
    alone, found = film([[0.0, 0.0]], [[0.2, 0.0]])  # here nothing says they are two
    assert tracks.people(alone, found) == [0, 0]


def test_a_face_that_is_not_described_is_a_person_of_its_own():
    video, found = film([[0.0, 0.0]], [None], [[0.1, 0.0]], [None])
    assert tracks.people(video, found) == [0, 1, 0, 2]


def test_where_two_people_look_alike_a_person_is_joined_only_from_nearer():
    """0.4 lies between the two; nine tenths of it are the limit, where 0.5 is else."""
    video, found = film([[1.0, 1.0], [1.4, 1.0]], [[1.0, 1.38]], [[1.0, 0.66]])
    assert tracks.people(video, found) == [0, 1, 2, 0]
    alone, found = film([[1.0, 1.0]], [[1.0, 1.38]])
    assert tracks.people(alone, found) == [0, 0]


def test_a_person_seen_in_the_same_window_does_not_end_the_search():
    """The first person is beside it, the second not, and the third is too far."""
    video, found = film([[0.0, 0.0]], [[0.6, 0.0]], [[0.2, 0.0], [0.5, 0.0]])
    assert tracks.people(video, found) == [0, 1, 0, 1]
