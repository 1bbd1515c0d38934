"""The page of a video: whole, offline, and safe whatever the file is called."""

import dataclasses
import html.parser
import re
from pathlib import Path

import jax
import pytest

from fakedetect_jax.model.backbones.convnext import CONVNEXTS
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS
from fakedetect_jax.model.backbones.resnet import BACKBONES
from fakedetect_jax.model.backbones.vit import VITS
from fakedetect_jax.pages import video_page
from fakedetect_jax.pages.video_page import Part, Point
from fakedetect_jax.reports.video_result import PartResult, VideoResult
from fakedetect_jax.serving import evidence
from fakedetect_jax.serving.detector import Detector


class Links(html.parser.HTMLParser):
    """Collects what a browser would load, and the tags."""

    def __init__(self):
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        self.loads += [v for k in ("src", "href", "srcset") if (v := named.get(k))]
        assert not any(name.startswith("on") for name in named)


def read(page: Path) -> tuple[str, Links]:
    links = Links()
    links.feed(text := page.read_text())
    return text, links


@pytest.fixture(scope="module")
def pages(tiny_run, tmp_path_factory) -> dict[str, Path]:
    """Pages of a real video, of the same under a hostile name, of none and of text."""
    folder = tmp_path_factory.mktemp("pages")
    detector = Detector.load(tiny_run.workdir, devices=jax.devices()[:1])
    real = min(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))
    hostile = folder / "<img src=x onerror=alert(1)>.mp4"
    hostile.write_bytes(real.read_bytes())
    broken = folder / "broken.mp4"
    broken.write_text("no video")
    written = {}

    def inspect(result, video):
        path = evidence.write_page(detector.network, result, video, folder / "out")
        written[Path(result.video).name] = path
        if result.video == str(real):
            facts = dataclasses.replace(detector.facts, backend="openvino-bfloat16")
            result = dataclasses.replace(result, model=facts)
            path = evidence.write_page(
                detector.network, result, video, folder / "rounded"
            )
            written["rounded"] = path
        return result

    (folder / "out").mkdir()
    (folder / "rounded").mkdir()
    for _ in detector.results([real, hostile, broken], inspect=inspect):
        pass
    return {
        "real": written[real.name],
        "hostile": written[hostile.name],
        "broken": written[broken.name],
        "rounded": written["rounded"],
    }


def test_a_page_says_what_else_than_jax_computed(pages):
    text, _ = read(pages["rounded"])
    assert "computed by openvino-bfloat16" in text
    assert "computed by" not in read(pages["real"])[0]


@pytest.mark.parametrize("name", ["real", "hostile", "broken"])
def test_a_page_loads_nothing_and_runs_nothing(pages, name):
    text, links = read(pages[name])
    assert all(load.startswith("data:") for load in links.loads)
    assert "script" not in links.tags and "iframe" not in links.tags
    assert not re.search(r"url\((?!data:)|@import", text)
    assert "A score is not a proof." in text


def test_a_page_shows_the_evidence(pages):
    text, links = read(pages["real"])
    assert "Over time" in text and "<polyline points=" in text
    assert "Most suspicious seconds first" in text and "heat map at" in text
    assert "What was looked at, and what was not" in text
    assert "SHA-256" in text and "card" in text and "[]" not in text
    found = re.findall(r">probability ([\d.]+)\u202f%</span>", text)
    scores = [float(s) for s in found]
    assert len(scores) >= 2 and scores == sorted(scores, reverse=True)
    assert links.tags.count("img") >= 16


def test_the_page_says_what_its_heat_is(pages, load_config):
    assert "Integrated Grad-CAM on the last feature map" in read(pages["real"])[0]
    model = load_config("ffpp").model
    model.unlock()
    for name in (*BACKBONES, *EFFICIENTNETS, *CONVNEXTS, "resnet", "convnext"):
        model.backbone = name
        assert evidence.heat_words(model).startswith("Integrated Grad-CAM")
    for name in (*VITS, "vit"):
        model.backbone = name
        assert evidence.heat_words(model).startswith("what each patch adds")
    model.patches = True
    assert "learnt from masks" in evidence.heat_words(model)


def test_a_hostile_name_is_text(pages):
    text, links = read(pages["hostile"])
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in text
    assert "x" not in links.loads
    assert re.fullmatch(r"[\w.-]+\.html", pages["hostile"].name)


def test_a_video_without_a_score_has_no_number(pages):
    text, _ = read(pages["broken"])
    assert "Unreadable" in text and "not a readable video" in text
    about_the_video = text[: text.index("<h2>The model</h2>")]
    assert "a probability of" not in about_the_video
    assert "0.5" not in about_the_video


def test_the_chart_is_to_scale():
    curve = [
        Point((0.0, 2.0), score=0.25, probability=0.1),
        Point((6.0, 10.0), score=1.0, probability=0.9),
    ]
    raw = video_page.chart(curve, 10.0, calibrated=False)
    assert raw.points == [(100.0, 75.0), (800.0, 0.0)]
    assert raw.bars == [(0.0, 75.0, 200.0), (600.0, 0.0, 400.0)]
    calibrated = video_page.chart(curve, 10.0, calibrated=True)
    assert [y for _, y in calibrated.points] == [90.0, 10.0]
    assert video_page.chart(curve, 0.0, calibrated=True).points[0][0] == 0


def test_gaps_are_the_windows_without_a_face():
    parts = [
        Part((0.0, 5.0), (0, 125), looked_at=8, faces=1),
        Part((5.0, 10.0), (125, 250), looked_at=8, faces=0),
    ]
    assert video_page.gaps(parts, 10.0) == [(50.0, 50.0)]


def test_the_cards_front_matter_is_not_shown():
    card = "---\ntags:\n- a\n---\n\n# Title\n\n---\nrest"
    assert video_page.without_front_matter(card) == "# Title\n\n---\nrest"


def test_the_index_is_sorted_without_a_script(tmp_path):
    seconds = (3.0, 8.0)
    part = PartResult("called fake", 0.9, None, 0.8, None, 7, 0, 2, seconds)
    results = [
        VideoResult("b<i>.mp4", "scored", verdict="called real", score=0.1, part=part),
        VideoResult("c.mp4", "unreadable", reason="empty file"),
        VideoResult("a.mp4", "scored", verdict="called fake", score=0.7, copy_of="d"),
    ]
    video_page.write_index(tmp_path, "three", results, [])
    text, links = read(tmp_path / "index.html")
    assert "script" not in links.tags and links.tags.count("input") == 5
    styles = re.findall(r'<tr style="([^"]+)"', text)
    found = [dict(p.split(":") for p in s.strip(";").split(";")) for s in styles]
    places = {
        name: [int(row[f"--sort{number}"]) for row in found]
        for number, name in enumerate(video_page.SORTS, start=1)
    }
    assert places == {
        "as given": [0, 1, 2],
        "name": [1, 2, 0],
        "result": [1, 2, 0],
        "fake": [1, 2, 0],
        "most suspicious part": [0, 1, 2],
    }
    assert all(f"#sort{n}:checked" in text for n in range(1, 6))
    assert "0:03.0–0:08.0" in text and "the same as d" in text
    assert "b&lt;i&gt;.mp4" in text
