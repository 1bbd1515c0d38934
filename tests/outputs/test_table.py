"""What the terminal shows while videos are scored."""

from fakedetect_jax.outputs import table
from fakedetect_jax.outputs.table import Table
from tfds_ffpp.frames.found import Looked, PreparedWindow


def test_a_long_video_is_never_silent(capsys, monkeypatch):
    """Without a bar: lines of how far the search for shots is, then the windows."""
    now = 0.0
    monkeypatch.setattr(table.time, "monotonic", lambda: now)
    with Table(1, stderr=False) as shown:
        for i in range(1, 60):
            now += 1.0
            shown.show("a/film.mp4", Looked(1000 * i, 60_000))
        for i in range(1, 12):
            now += 1.0
            shown.show("a/film.mp4", PreparedWindow(i, 0, 100 * i, 60_000, [], [], []))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "a/film.mp4: looking for shots, frame 11,000 of 60,000"
    assert lines[-1] == "a/film.mp4: frame 700 of 60,000"


def test_a_name_does_not_steer_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(table, "LINE_SECONDS", -1.0)
    with Table(1, stderr=False) as shown:
        shown.show("a\x1b[2Jb.mp4", Looked(1, 2))
    assert "\x1b" not in capsys.readouterr().err
