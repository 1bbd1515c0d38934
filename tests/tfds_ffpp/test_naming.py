"""Official file names: every one is read, none is made up."""

import string

from hypothesis import given
from hypothesis import strategies as st

from tfds_ffpp.tree.naming import Name, is_utf8, parse_name

ids = st.from_regex(r"[0-9]{3}", fullmatch=True)
actors = st.from_regex(r"[0-9]{2}", fullmatch=True)
scenes = st.text(string.ascii_lowercase + "_", min_size=1, max_size=30)


@given(ids)
def test_an_original(i):
    assert parse_name(i) == Name("youtube", i)


@given(ids, ids)
def test_a_fake_is_a_manipulated_target(target, source):
    name = Name("fake", target, source, f"youtube/{target}")
    assert parse_name(f"{target}_{source}") == name


@given(actors, scenes)
def test_an_actor(actor, scene):
    assert parse_name(f"{actor}__{scene}") == Name("actors", actor)


@given(actors, actors, scenes, st.from_regex(r"[A-Z0-9]{8}", fullmatch=True))
def test_a_fake_of_actors_names_its_original(target, source, scene, code):
    found = parse_name(f"{target}_{source}__{scene}__{code}")
    assert found == Name("dfd", target, source, f"actors/{target}__{scene}")


def test_the_documented_example():
    found = parse_name("01_02__outside_talking_still_laughing__YVGY8LOK")
    assert found is not None
    assert found.original == "actors/01__outside_talking_still_laughing"


@given(st.text(max_size=20))
def test_any_text_is_a_name_or_none(text):
    found = parse_name(text)
    assert found is None or text.startswith(found.target)


def test_no_other_name():
    for text in (
        "tmp8s7df",
        "33_97",
        "0333",
        "033_097_",
        "033-097",
        "٠٣٣",
        "033\n",
        "",
    ):
        assert parse_name(text) is None, text


def test_a_name_that_is_no_text():
    assert is_utf8("ü 日本") and not is_utf8("\udcff.mp4")
