"""Models on a hub: pushed, loaded by revision, checked, and nothing else fetched."""

import json
import re

import jax
import pytest
import yaml

from fakedetect_jax import export, predict
from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import hub
from fakedetect_jax.trained.model import load_model
from tests.hub import Hub, serving
from tests.made_videos import write_video
from tests.serving.videos import rows_of

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hubs(tmp_path, monkeypatch):
    """A hub on this machine, with an empty cache of what was fetched."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield found


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Of huggingface_hub 2.4, whose upload hands a file to httpx as it once was.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_what_is_pushed_is_loaded_at_its_revision(
    hubs: Hub, faceless, tiny_run, tmp_path, capsys
):
    words = [str(tiny_run.workdir), str(tmp_path / "out"), "--push", "hf://me/tiny"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".env").write_text("KEY=1")
    assert export.main(words) == 0
    (tmp_path / "out" / ".env").unlink()  # it was not pushed
    address = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"hf://me/tiny@[0-9a-f]{40}", address)
    assert hubs.private == {"me/tiny": True}
    assert hubs.models["me/tiny"]["main"] == files_of(tmp_path / "out")
    card = hubs.models["me/tiny"]["main"]["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other" and front["datasets"]
    assert front["model-index"][0]["results"][0]["metrics"][0]["type"] == "roc_auc"

    hubs.commit("me/tiny", {"model.onnx": b"of other weights", "notes": b"theirs"})
    assert export.main(words) == 0
    pushed = {**files_of(tmp_path / "out"), "notes": b"theirs"}
    assert hubs.models["me/tiny"]["main"] == pushed

    hubs.commit("me/tiny", {**files_of(faceless), "evil.py": b"exit()"})
    old, new = load_model(address), load_model("hf://me/tiny")
    assert old.source == address and old.digest == load_model(tiny_run.workdir).digest
    assert old.preparation.face_finder == "dlib"
    assert new.preparation.face_finder == "none"  # the newest, its commit recorded
    assert new.source == f"hf://me/tiny@{hubs.exact('me/tiny', 'main')}"
    assert not [asked for asked in hubs.asked if "evil.py" in asked]
    before = len(hubs.asked)
    assert load_model(address).source == address  # kept: asks nothing
    assert len(hubs.asked) == before


def test_the_command_takes_an_address_and_rows_name_the_commit(
    hubs: Hub, faceless, tmp_path
):
    commit = hubs.commit("me/tiny", files_of(faceless))
    video, output = write_video(tmp_path / "a.mp4", 8), tmp_path / "rows.jsonl"
    words = ["--model", "hf://me/tiny@main", str(video), "--output", str(output)]
    assert predict.main(words) == 0
    (row,) = rows_of(output)
    assert row["model"]["source"] == f"hf://me/tiny@{commit}"
    with Detector.load(faceless, devices=jax.devices()[:1]) as local:
        assert local.score(video)["score"] == pytest.approx(row["score"], abs=1e-6)


def test_other_weights_under_the_same_name_are_found(hubs: Hub, faceless):
    """P16 Other weights under a hub's name: found by their digest, exit 4."""
    files = files_of(faceless)
    facts = json.loads(files["model.json"])
    facts["calibration"]["threshold"] = 0.01
    hubs.commit("me/bad", {**files, "model.json": json.dumps(facts).encode()})
    with pytest.raises(CheckpointError, match="digest|changed|not what"):
        load_model("hf://me/bad")
    hubs.commit("me/pickle", {"model.pkl": b"x", "README.md": b"y"})
    with pytest.raises(CheckpointError, match=r"no model\.json and no model\.safe"):
        load_model("hf://me/pickle")
    hubs.commit("me/large", {**files, "model.json": b" " * (2 << 20)})
    with pytest.raises(CheckpointError, match="more than the 1,048,576"):
        load_model("hf://me/large")


def test_what_is_not_there_is_one_sentence(hubs: Hub, faceless, tmp_path, capsys):
    """P16 A hub that lacks the model: one sentence, exit 4."""
    for address in ("hf://me/none", f"hf://me/none@{'a' * 40}", "hf://me/none@v1"):
        assert predict.main(["--model", address, __file__]) == 4
        said = capsys.readouterr().err
        assert said.startswith(f"error: {address} cannot be read (")
        assert said.count("\n") == 1
    for wrong in ("hf://me", "hf://me/../x", "hf://me/a@b c", "hf://me/a/b"):
        with pytest.raises(ConfigError, match="is no model of a hub"):
            hub.parse(wrong)
    words = ["nowhere", str(tmp_path / "out"), "--push", "hf://me/a@main"]
    assert export.main(words) != 0


def test_without_its_library_the_cure_is_said(monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fakedetect-jax\[hub\]"):
        load_model("hf://me/tiny")
