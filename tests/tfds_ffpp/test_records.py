"""A record that was JSON meanwhile is the record that it was."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from tests.made_records import stored_video
from tfds_ffpp.frames.stored import read_table, write_lines
from tfds_ffpp.records import from_json, to_json


class Point(NamedTuple):
    x: int
    y: float | None


class Name(NamedTuple):
    """Has a form of its own in files."""

    text: str

    def to_json(self) -> str:
        return self.text.upper()

    @classmethod
    def from_json(cls, value: str) -> "Name":
        return cls(value.lower())


@dataclass(frozen=True)
class Whole:
    points: list[Point]
    by_name: dict[str, Point | None]
    pair: tuple[int, ...]
    names: list[Name]
    nested: list[list[int]]
    one: Point | None = None
    words: list[str] = field(default_factory=list)


WHOLE = Whole(
    points=[Point(1, None), Point(2, 0.5)],
    by_name={"a": Point(3, 1.0), "b": None},
    pair=(1, 2),
    names=[Name("n")],
    nested=[[1], []],
)


def test_what_was_json_is_the_same_record_again():
    plain = json.loads(json.dumps(to_json(WHOLE)))
    assert plain["names"] == ["N"] and plain["points"][0] == {"x": 1, "y": None}
    assert list(plain) == list(Whole.__dataclass_fields__)
    assert from_json(Whole, plain) == WHOLE


def test_what_is_absent_or_null_has_its_default_and_more_fields_are_passed_over():
    plain = to_json(WHOLE)
    del plain["one"]
    again = from_json(Whole, {**plain, "words": None, "later": 1})
    assert again == WHOLE
    assert from_json(Point, {"x": 1, "y": None}) == (1, None)


@dataclass(frozen=True)
class Row:
    point: Point
    note: str | None = None
    more: str | None = "m"
    INLINE = ("point",)
    OMIT = ("y",)
    OMIT_NONE = True


def test_a_class_says_what_stands_in_its_place_and_what_is_left_out():
    assert to_json(Row(Point(1, None))) == {"x": 1, "more": "m"}
    assert list(to_json(Row(Point(1, None), note="n"))) == ["x", "note", "more"]
    again = from_json(Row, {"x": 1, "y": 2.0, "note": "n", "more": None})
    assert again == Row(Point(1, 2.0), "n", None)


@pytest.mark.parametrize("value", [None, 3, [], "points"])
def test_what_is_no_object_is_no_record(value):
    for kind in (Whole, Point, dict[str, int]):
        with pytest.raises(TypeError, match="is no object"):
            from_json(kind, value)
    assert from_json(Whole | None, None) is None


def test_a_field_without_a_default_is_named():
    with pytest.raises(TypeError, match="'points'"):
        from_json(Whole, {k: v for k, v in to_json(WHOLE).items() if k != "points"})


def test_a_name_with_an_unusual_line_end_stays_one_line(tmp_path):
    """U+2028 and U+0085 end no line of a table."""
    videos = [stored_video(video_id=f"a{end}b") for end in ("\u2028", "\u0085", "")]
    write_lines(tmp_path / "videos.jsonl", videos)
    found = read_table(tmp_path / "videos.jsonl")
    assert [video.video_id for video in found] == [video.video_id for video in videos]
    (tmp_path / "none.jsonl").write_text("")
    assert read_table(tmp_path / "none.jsonl") == []
