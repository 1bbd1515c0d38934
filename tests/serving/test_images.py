"""Pictures: a score from a model that takes one, else an outcome that says why not."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fakedetect_jax import predict
from fakedetect_jax.model.network import make_model
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained.model import load_model, weights_digest, write_bundle
from tests.made_videos import picture, write_video
from tests.serving.videos import rows_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with pictures, an animation, a video, and what is none of these."""
    place = tmp_path_factory.mktemp("pictures") / "in"
    place.mkdir()
    still = Image.fromarray(picture(0, (64, 96)))
    for name in ("a.jpg", "b.png", "c.webp", "d.tiff"):
        still.save(place / name)
    frames = [Image.fromarray(picture(i)) for i in range(24)]
    frames[0].save(place / "e.gif", save_all=True, append_images=frames[1:])
    write_video(place / "f.mp4", 24)
    still.save(place / "g", "PNG")  # without an ending
    (place / "h.jpeg").write_bytes((place / "a.jpg").read_bytes()[:300])
    (place / "i.txt").write_text("none")
    return place


@pytest.fixture(scope="module")
def frame_model(faceless, tmp_path_factory) -> Path:
    """A model without an LSTM: the mean of its frames' logits."""
    model = load_model(faceless)
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.temporal = "none"
    side, frames = config.dataset.image_size, config.data.clip_frames
    network = make_model(config)
    clips = np.zeros((1, frames, side, side, 3), np.float32)
    made = network.init(jax.random.key(0), clips, np.array([frames]))
    variables = jax.tree.map(np.asarray, made)
    out = tmp_path_factory.mktemp("frame_model")
    digest = weights_digest(variables)
    write_bundle(
        model._replace(config=config, variables=variables, digest=digest, guard=None),
        out,
    )
    return out


def test_a_model_of_clips_says_that_it_needs_video(faceless, folder, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    code = predict.main(
        ["--model", str(faceless), str(folder), "--output", str(output)]
    )
    assert code == 3  # of h.jpeg
    found = {Path(row["video"]).name: row for row in rows_of(output)}
    outcomes = {name: row["outcome"] for name, row in found.items()}
    assert outcomes == {
        **dict.fromkeys(["a.jpg", "b.png", "c.webp", "d.tiff", "g"], "needs video"),
        **dict.fromkeys(["e.gif", "f.mp4"], "scored"),
        "h.jpeg": "unreadable",
        "i.txt": "passed over",
    }
    assert found["a.jpg"]["reason"].startswith("a picture, and the model looks at 4")
    facts = found["a.jpg"]["file"]
    assert (facts["still"], facts["width"], facts["height"]) == (True, 96, 64)
    assert found["a.jpg"]["score"] is None and found["a.jpg"]["windows"] == 0
    assert not found["e.gif"]["file"]["still"]
    assert "5 needs video" in capsys.readouterr().out


def test_a_model_of_frames_scores_pictures(frame_model, folder, tmp_path):
    words = ["--report", str(tmp_path / "pages"), "--annotate", str(tmp_path / "out")]
    output = tmp_path / "rows.jsonl"
    videos = [str(folder / name) for name in ("a.jpg", "b.png", "e.gif")]
    words += ["--output", str(output)]
    assert predict.main(["--model", str(frame_model), *videos, *words]) == 0
    photo, _, film = rows = rows_of(output)
    assert [row["outcome"] for row in rows] == ["scored"] * 3
    (clip,) = photo["faces"][0]["clips"]
    assert (clip["frames"], clip["length"]) == ([0, 0], 1)
    assert photo["score"] == clip["score"] and "part" not in photo
    assert len(film["faces"][0]["clips"]) > 1
    assert all(Path(row["page"]).is_file() for row in rows)
    drawn = photo["annotated"]
    with Image.open(drawn["path"]) as image:
        assert image.size == (96, 64)
    assert [still["frame"] for still in drawn["stills"]] == [0]
    assert film["annotated"]["frames"] == 24


def test_a_picture_is_scored_as_a_video_that_shows_it(frame_model, tmp_path):
    """Every frame's logit is that of the picture, and their mean too."""
    pixels = picture(3, (64, 64))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    lossless = {"codec": "ffv1", "options": {}, "pixel_format": "bgr0"}
    write_video(tmp_path / "a.mkv", [pixels] * 8, **lossless)
    with Detector.load(frame_model, devices=jax.devices()[:1]) as detector:
        still, film = detector.results([tmp_path / "a.png", tmp_path / "a.mkv"])
    assert still.score == pytest.approx(film.score, abs=1e-6)
    assert still.outcome == film.outcome == "scored"
