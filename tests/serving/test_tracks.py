"""Which face of a window is which of the next."""

from fakedetect_jax.serving import tracks
from fakedetect_jax.serving.tracks import Track
from tfds_ffpp.frames.found import PreparedWindow, StoredFace


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
