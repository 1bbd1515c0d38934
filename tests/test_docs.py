"""The docs: generated pages are fresh, links hold, sentences and words are plain."""

import re
import runpy
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from fakedetect_jax import settings
from fakedetect_jax.run import workdir
from tests.conftest import ROOT

GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
DRAW = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
CHECK = runpy.run_path(str(ROOT / "docs" / "check_links.py"))
WORDS = runpy.run_path(str(ROOT / ".ci" / "check_words.py"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("name", GENERATE["PAGES"])
def test_a_generated_page_is_fresh(name):
    """If not: `make docs` writes it anew."""
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert written == GENERATE["PAGES"][name]()


@pytest.mark.parametrize("page", GENERATE["WITH_TABLES"], ids=lambda page: page.name)
def test_measured_tables_are_those_of_the_results(page):
    """If not: `make docs` writes them anew."""
    text = page.read_text()
    assert GENERATE["PLACE"].search(text)
    assert text == GENERATE["with_tables"](text, GENERATE["RESULTS"])


def test_a_table_is_written_from_its_results(tmp_path):
    (tmp_path / "feed.md").write_text(
        "# feed\n\n- a command\n\n| clips/s | median | min | max |\n|---|---|---|---|\n"
        "| PNG | 79 | 60 | 94 |\n| JPEG | 5 | 4 | 6 |\n\nA remark.\n"
    )
    page = "Above\n\n<!-- table: feed -->\nold\n<!-- end -->\n\nBelow\n"
    assert GENERATE["with_tables"](page, tmp_path) == (
        "Above\n\n<!-- table: feed -->\n| clips/s | median (least–most) |\n"
        "|---|---|\n| PNG | 79 (60–94) |\n| JPEG | 5 (4–6) |\n<!-- end -->\n\nBelow\n"
    )
    (tmp_path / "feed.md").write_text("# feed\n\nnothing\n")
    with pytest.raises(ValueError, match="no table that begins with 'clips/s'"):
        GENERATE["with_tables"](page, tmp_path)


def test_the_drawing_shows_the_layers():
    """If not: python docs/architecture.py."""
    assert (ROOT / "docs" / "architecture.svg").read_text() == DRAW["drawing"]()


def test_every_field_is_explained_once():
    groups = GENERATE["config_groups"](settings.config_file("ffpp").read_text())
    fields = [field for group in groups for field in group.fields]
    assert sorted(field.name for field in fields) == sorted(settings.RULES)
    assert [field.name for field in fields if not field.meaning] == []


def test_the_fields_of_a_hosts_own_are_all_named():
    text = " ".join((ROOT / "docs" / "resilience.md").read_text().split())
    (named,) = re.findall(r"Only ([^.]*(?:\.\w[^.]*)*) are a host's own\.", text)
    own = [name.removeprefix("data.") for name in workdir.HOSTS_OWN]
    assert [n.removeprefix("data.") for n in re.findall("`([^`]+)`", named)] == own


def test_a_comment_is_that_of_its_field():
    source = (
        "config.group = ConfigDict(\n    {\n        # above\n        # it\n"
        '        "a": 1,  # beside\n        "b": (\n            2,\n        ),  # c\n'
        '        "c": 3,\n    }\n)\nconfig.own = 4  # of the run\n'
    )
    run, group = GENERATE["config_groups"](source)
    assert [tuple(field) for field in group.fields] == [
        ("group.a", "above it beside"),
        ("group.b", "c"),
        ("group.c", ""),
    ]
    assert [tuple(field) for field in run.fields] == [("own", "of the run")]


def test_faults_are_those_of_the_docstrings(tmp_path):
    (tmp_path / "test_a.py").write_text(
        'def test_one():\n    """C1, T2 A fault:\n    what happens.\n\n    More."""\n'
        'class TestTwo:\n    """P8 Another."""\n'
        'def test_none():\n    """No id: a test like others."""\n'
    )
    assert [tuple(fault) for fault in GENERATE["faults"](tmp_path)] == [
        ("C1, T2", "A fault:\nwhat happens.", "test_a.py::test_one"),
        ("P8", "Another.", "test_a.py::TestTwo"),
    ]


def anchor(heading: str) -> str:
    """What a code host calls a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower().strip())
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    pairs = zip(tokens, tokens[1:], strict=False)
    return {anchor(b.content) for a, b in pairs if a.type == "heading_open"}


def links(page: Path) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    found = []
    for child in (c for token in tokens for c in token.children or ()):
        target = child.attrGet("href") or child.attrGet("src")
        if target and not re.match(r"[a-z]+:", str(target)):
            found.append(str(target))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_on_a_code_host(page):
    lost = []
    for link in links(page):
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (place and place not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_has_its_place_in_the_site():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$", index, re.MULTILINE), name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Word " * 30 + "end. Another one.", ["31 words"]),
        ("Word " * 20 + "e.g. five. " + "Word " * 20 + "end.", []),
        ("A `code of many words` counts as " + "one " * 26 + "word.", ["31 words"]),
        ("- " + "word " * 31 + "\n- short\n", ["31 words"]),
        ("It is told at once.", ["'is told'"]),
        ("```\nis told\n```\n", []),
        ("| a | b |\n|---|---|\n| " + "word " * 31 + " | x |\n", ["31 words"]),
    ],
)
def test_long_sentences_and_words_of_our_own_are_found(text, found):
    faults = list(WORDS["faults"]("docs/x.md", text))
    assert len(faults) == len(found)
    assert all(part in fault for part, fault in zip(found, faults, strict=True))


def test_the_readme_has_shorter_sentences():
    text = "Word " * 27 + "end."
    assert list(WORDS["faults"]("README.md", text))
    assert not list(WORDS["faults"]("docs/x.md", text))


def test_a_link_of_the_site_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="here">A</h1><a href="b/c.html#there"></a><a href="#here"></a>'
        '<a href="https://example.org/x"></a><img src="none.png">'
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.html").write_text('<a href="../a.html#gone">x</a>')
    assert CHECK["broken"](tmp_path) == [
        "a.html: b/c.html#there",
        "a.html: none.png",
        "b/c.html: ../a.html#gone",
    ]
