"""Films of many shots: what is said of the whole, and of the most suspicious part."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax.metrics.doubt import Band, Side
from fakedetect_jax.metrics.parts import Reals
from fakedetect_jax.outputs import table
from fakedetect_jax.pages.formats import clock
from fakedetect_jax.serving import evidence
from fakedetect_jax.serving.detector import Detector
from tests.made_videos import picture, write_video

SHOTS, FRAMES, FORGED = 60, 125, 41  # five minutes; which one is forged
SIZE = (48, 64)


def shot(seed: int, frames: int = FRAMES, *, forged: bool = False):
    for i in range(frames):
        frame = picture(i, SIZE, seed)
        yield 255 - frame // 8 if forged else frame


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Five minutes, of which five seconds look otherwise."""
    frames = [
        frame
        for number in range(SHOTS)
        for frame in shot(number, forged=number == FORGED)
    ]
    return write_video(
        tmp_path_factory.mktemp("film") / "film.mp4",
        frames,
        pixel_format="yuv420p",
        options={"preset": "ultrafast", "crf": "18"},
    )


@pytest.fixture(scope="module")
def seeing(central, tmp_path_factory) -> Detector:
    """The small model, its last layer set so that it tells the forged look."""
    folder = tmp_path_factory.mktemp("looks")
    logits = []
    for forged in (False, True):
        video = write_video(folder / f"{forged}.mp4", shot(3, forged=forged))
        (result,) = central.results([video])
        logits.append(np.mean([clip.logit for clip in result.faces[0].clips]))
    scale = 10 / (logits[1] - logits[0])
    variables = jax.tree.map(np.array, central.model.variables)
    head = variables["params"]["head"]
    head["kernel"] *= scale
    head["bias"] = scale * (head["bias"] - logits[0]) - 5
    sides = (Side(t, 0.0, bound=0.02, num_clusters=140) for t in (0.3, 0.6))
    model = central.model._replace(
        variables=variables,
        temperature=1.0,
        band=Band(0.05, *sides),
        reals=Reals(-5.0, 1.0, num_clusters=140),
    )
    return Detector(model, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def found(seeing, film):
    (result,) = seeing.results([film])
    return result


def test_a_forged_shot_in_a_long_film_is_found_where_the_mean_drowns_it(found):
    assert found.shots == SHOTS and len(found.faces) == SHOTS
    scores = [clip.score for face in found.faces for clip in face.clips]
    assert found.score == pytest.approx(np.mean(scores))
    assert found.verdict == "called real" and found.score < 0.1
    part = found.part
    assert part.verdict == "called fake" and part.score > part.threshold >= 0.6
    assert (part.shot, part.face, part.looked_at) == (FORGED, FORGED, SHOTS)
    assert part.seconds == pytest.approx((5 * FORGED, 5 * FORGED + 5), abs=0.2)
    assert part.probability == pytest.approx(part.score)


def test_the_whole_and_the_part_are_named(seeing, film, found, tmp_path):
    name, seconds = str(film), found.part.seconds
    span = f"{clock(seconds[0])}–{clock(seconds[1])}"
    line = table.line(found)
    assert line.startswith("called real") and f"part {span} called fake (" in line
    assert table.summary([found]) == "1 called real with a part called fake"
    row = found.to_json()
    assert row["verdict"] == "called real" and row["part"]["verdict"] == "called fake"
    pages = []

    def inspect(result, video):
        pages.append(evidence.write_page(seeing.network, result, video, tmp_path))
        return result

    list(seeing.results([name], inspect=inspect))
    text = re.sub(r"\s+", " ", pages[0].read_text())
    assert f"Its most suspicious part, {clock(seconds[0])} to" in text
    assert f"(face {FORGED + 1}): called fake" in text
    assert f"allows for the {SHOTS} parts" in text
    assert f"Face {FORGED + 1} (person {FORGED + 1}): called fake" in text
    assert text.count("<h2>Face ") == evidence.MAX_FACES


def test_a_real_film_has_no_part_called_fake(seeing, tmp_path):
    frames = [f for number in range(12) for f in shot(number, 30)]
    (result,) = seeing.results([write_video(tmp_path / "a.mp4", frames)])
    assert result.shots == 12 and result.part.verdict == "not called fake"
    assert table.summary([result]) == "1 called real"


def test_a_forged_stretch_of_one_long_shot_is_found(seeing, tmp_path):
    """Without a cut: the forgery comes slowly and goes again."""
    film = list(shot(0, 1200))
    for i in range(500, 700):
        share = min((i - 500) / 60, (699 - i) / 60, 1)
        other = 255 - film[i] // 8
        film[i] = ((1 - share) * film[i] + share * other).astype(np.uint8)
    video = write_video(tmp_path / "a.mp4", film)
    one = Detector(seeing.model, find_shots=False, devices=jax.devices()[:1])
    (result,) = one.results([video])
    assert result.shots == 1 and result.verdict == "called real"
    assert result.part is not None and result.part.verdict == "called fake"
    start, end = result.part.seconds
    assert 18 < start < end < 29 and end - start < 8


def test_a_video_of_one_part_has_no_other_verdict(seeing, tmp_path):
    (result,) = seeing.results([write_video(tmp_path / "a.mp4", shot(0, 40))])
    assert result.part is None and "part" not in result.to_json()
    assert result.verdict == "called real" and result.shots == 1


def test_a_page_shows_the_face_of_the_part(found):
    faces = [dataclasses.replace(face, score=0.9) for face in found.faces]
    faces[FORGED] = dataclasses.replace(faces[FORGED], score=0.1)
    shown = evidence.shown_faces(dataclasses.replace(found, faces=tuple(faces)))
    assert FORGED in shown and len(shown) == evidence.MAX_FACES
