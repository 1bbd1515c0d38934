"""predict --annotate and --report: what is written can be held against the source."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fakedetect_jax import predict
from fakedetect_jax.outputs import annotated
from fakedetect_jax.reports.video_result import ClipResult, FaceResult
from fakedetect_jax.serving.summary import Scale
from fakedetect_jax.serving.tracks import Pending, Track
from tests.made_videos import write_video
from tests.serving.videos import all_of, rows_of
from tfds_ffpp.frames.found import PreparedWindow, StoredFace


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(faceless, tmp_path_factory):
    """(row, folder) of a video of 100 frames, three windows, and of a broken one."""
    folder = tmp_path_factory.mktemp("annotated")
    video = write_video(folder / "a b.mp4", 100)
    (folder / "broken.mp4").write_bytes(video.read_bytes()[:300])
    words = ["--model", str(faceless), str(video), str(folder / "broken.mp4")]
    words += ["--annotate", str(folder / "out"), "--report", str(folder / "pages")]
    assert predict.main([*words, "--output", str(folder / "rows.jsonl")]) == 3
    return rows_of(folder / "rows.jsonl"), folder


def test_the_row_names_the_annotated_video_and_its_stills(made):
    (row, broken), folder = made
    assert "annotated" not in broken and broken["outcome"] == "unreadable"
    found = row["annotated"]
    assert found["frames"] == 100 and found["sound"] == "none"
    assert digest(found["path"]) == found["sha256"]
    assert len(all_of(Path(found["path"]))) == 100
    scores = [still["score"] for still in found["stills"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == row["most_suspicious"]["score"]
    source = all_of(folder / "a b.mp4")
    for still in found["stills"]:
        first, last = min(
            (clip["frames"] for clip in row["faces"][still["face"]]["clips"]),
            key=lambda frames: abs(sum(frames) / 2 - still["frame"]),
        )
        assert first <= still["frame"] <= last
        assert digest(still["path"]) == still["sha256"]
        pixels = np.asarray(cv2.imread(still["path"]))[..., ::-1]
        assert np.abs(pixels.astype(int) - source[still["frame"]]).max() <= 4
    there = {p.name for p in (folder / "out").iterdir()}  # and nothing else
    paths = [found["path"], *(still["path"] for still in found["stills"])]
    assert there == {Path(p).name for p in paths}


def test_the_page_has_the_record_that_makes_the_numbers_again(made, faceless, capsys):
    (row, _), _ = made
    page = Path(row["page"]).read_text()
    for said in (
        row["file"]["sha256"],
        row["annotated"]["sha256"],
        row["annotated"]["stills"][0]["pixels_sha256"],
        str(row["score"]),
        predict.metadata.version("jax"),
    ):
        assert said in page
    (weights,) = set(re.findall(rf"{row['model']['weights']}[0-9a-f]{{48}}", page))
    assert len(weights) == 64
    links = re.findall(r'href="([^"]+\.png)"', page)
    assert len(links) == len(row["annotated"]["stills"])
    for link in links:
        assert (Path(row["page"]).parent / link).is_file()
    command = re.findall(r"<code>(python -m fakedetect_jax\.predict .*?)</code>", page)
    assert f"--model={faceless}" in command[0] and "broken" not in command[0]


def test_a_second_run_makes_what_was_taken_away(made, faceless, capsys):
    rows, folder = made
    words = ["--model", str(faceless), str(folder / "a b.mp4")]
    words += ["--output", str(folder / "rows.jsonl")]
    words += ["--annotate", str(folder / "out"), "--report", str(folder / "pages")]
    assert predict.main(words) == 0
    assert "are there already" in capsys.readouterr().out
    path = Path(rows[0]["annotated"]["path"])
    path.unlink()
    assert predict.main(words) == 0 and path.is_file()


def test_squares_carry_the_score_of_the_nearest_clip():
    stored = StoredFace(0, "", 20, [1] * 20, (1.0, 2.0, 30.0, 31.0), 1.0, 1)
    small = replace(stored, box=(0.0, 0.0, 4.0, 4.0))
    looked = list(range(0, 40, 2))
    window = PreparedWindow(0, 0, 40, 60, looked, [0.0] * 20, [small, stored])
    empty = replace(window, number=1, start=40, stop=60, faces=[])
    clips = [
        ClipResult(0, 0, 4, frames, (0.0, 1.0), 0.0, score)
        for frames, score in (((0, 6), 0.2), ((16, 22), 0.9), ((32, 38), 0.4))
    ]
    face = FaceResult("scored", 0.5, None, None, None, (0, 1), stored.box, 1.0, clips)
    video = Pending(0, "a.mp4", Path(), [window, empty])
    video.tracks = [Track(0, [small]), Track(0, [stored], clips)]
    marks = list(annotated.marks(video, [face], Scale(0.5, None, None)))
    said = [(m.first, m.last, m.words, m.high) for m in marks]
    assert said == [
        (40, 59, "no face found here", False),
        (0, 39, "not scored", False),
        (0, 11, "person 1: 0.20", False),
        (12, 27, "person 1: 0.90", True),
        (28, 39, "person 1: 0.40", False),
    ]
    # Without a number of any face, as of a model whose numbers are not finite.
    unscored = list(annotated.marks(video, [], Scale(0.5, None, None)))
    assert [m.words for m in unscored] == [said[0][2], "not scored", "not scored"]
    moments = annotated._moments([face], [window])
    assert [(m.frame, m.score) for m in moments] == [(20, 0.9)]  # all share a second
