"""Files are whole or not there, one by one and together."""

from pathlib import Path

import pytest

from tfds_ffpp.files import whole
from tfds_ffpp.store.files import write_whole


def test_a_file_that_could_not_be_written_is_as_it_was(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(OSError, match="disk is full"), whole(path) as place:
        place.write_text("half")
        assert path.read_text() == "before"
        raise OSError("disk is full")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "before")]


def test_files_come_together_and_the_last_one_last(tmp_path, monkeypatch):
    came, replace = [], Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda old, new: (came.append(new.name), replace(old, new))
    )
    write_whole(tmp_path, {"page": "text", "picture": b"bytes", "seal": "ä"})
    assert came == ["page", "picture", "seal"]
    found = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert found == {"page": b"text", "picture": b"bytes", "seal": "ä".encode()}


def test_where_one_cannot_be_written_none_is_new(tmp_path):
    write_whole(tmp_path, {"page": "before", "seal": "before"})
    for broken in ({"page": "new", "seal": None}, {"page": None, "seal": "new"}):
        with pytest.raises(TypeError):
            write_whole(tmp_path, broken)  # pyright: ignore[reportArgumentType]
        assert {p.read_text() for p in tmp_path.iterdir()} == {"before"}
        assert len(list(tmp_path.iterdir())) == 2


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    write_whole(tmp_path, {"n" * 255: "text"})
    assert [p.read_text() for p in tmp_path.iterdir()] == ["text"]
