"""What CONTRIBUTING says of adding things is so."""

import re
import tomllib

import jax
import pytest
from packaging.requirements import Requirement

from fakedetect_jax.model import network, pretrained
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.programs.onnx import graph
from tests.conftest import ROOT
from tests.made_videos import write_video
from tfds_ffpp.tree import other_sets, scan

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ADDING = TEXT.partition("## Adding things\n")[2].partition("\n## ")[0]
PLAIN = re.sub(r"\s+", " ", ADDING)


def test_every_file_is_there():
    names = re.findall(r"`([\w/]+\.(?:py|md))`", ADDING)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_name_stands_in_its_file():
    pairs = re.findall(r"`(\w+)` (?:in|of|beside) `([\w/]+\.py)`", PLAIN)
    assert {"BACKBONES", "STAGES", "OTHER_SETS", "OPERATIONS", "FIELDS", "RULES"} <= {
        name for name, _ in pairs
    }
    for name, file in pairs:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), (name, file)


def test_each_recipe_is_short():
    paragraphs = [p for p in ADDING.strip().split("\n\n") if p.startswith("**")]
    assert len(paragraphs) == 6
    assert max(p.count("\n") + 1 for p in paragraphs) <= 10


def test_a_resnet_of_other_depth_is_one_line(monkeypatch):
    """Weights and graph know its names and shapes from that line alone."""
    monkeypatch.setitem(resnet.BACKBONES, "resnet26", ((2, 2, 2, 2), "bottleneck"))
    model = network.FakeDetector(backbone="resnet26")
    network.check_fields(model)
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), "float32")
    length = jax.ShapeDtypeStruct((1,), "int32")
    made = jax.eval_shape(model.init, jax.random.key(0), clip, length)
    shapes = {
        (collection, *(key.key for key in path)): leaf.shape
        for collection in ("params", "batch_stats")
        for path, leaf in jax.tree.leaves_with_path(made[collection]["backbone"])
    }
    assert shapes == pretrained.backbone_shapes(model)
    assert graph.resnet_of(model) == resnet.BACKBONES["resnet26"]


@pytest.mark.parametrize("given", ["auto", "mine"])
def test_a_layout_is_one_function(monkeypatch, tmp_path, given):
    def mine(root):
        videos = [(root / n, n == "b.mp4") for n in ("a.mp4", "b.mp4")]
        if not (root / "mine.txt").exists():
            return None
        records = [
            other_sets._record(path, "mine", "m", int(fake)) for path, fake in videos
        ]
        return other_sets.OtherSet(records)

    # As where it stands in the source: LAYOUTS is made of it.
    monkeypatch.setitem(other_sets.OTHER_SETS, "mine", mine)
    monkeypatch.setattr(scan, "LAYOUTS", (*scan.LAYOUTS, "mine"))
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, 2)
    (tmp_path / "mine.txt").write_text("")
    found = scan.scan(tmp_path, layout=given)
    assert found.layout == "mine"
    assert sorted((r.path.name, r.label) for r in found.records) == [
        ("a.mp4", 0),
        ("b.mp4", 1),
    ]


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_gpus_get_no_jaxlib_that_sums_by_retries(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, project["optional-dependencies"][extra])
    allowed = {one.name: one.specifier for one in wanted}["jaxlib"]
    tried = ["0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.12.0.1"]
    assert list(allowed.filter(tried)) == ["0.10.1", "0.11.1", "0.12.0.1"]
    pins = re.findall(r"^jax-cuda.*", (ROOT / "constraints.txt").read_text(), re.M)
    assert pins and all('python_version >= "3.12"' in pin for pin in pins)
