"""A bundle from a stranger: every fault is one sentence and exit code 4.

FUZZ_CASES=2000 python -m pytest tests/trained/test_description.py -k fuzz
"""

import copy
import json
import math
import os
import resource
import shutil
import threading
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakedetect_jax import predict
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model.backbones.convnext import CONVNEXTS
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS
from fakedetect_jax.model.backbones.resnet import BACKBONES
from fakedetect_jax.model.backbones.vit import VITS
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import description
from fakedetect_jax.trained.model import load_model, write_bundle
from tests.made_videos import write_video
from tests.patience import LIMIT


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stranger") / "model"
    write_bundle(load_model(tiny_run.workdir), folder)
    return folder


@pytest.fixture(scope="module")
def facts(exported) -> dict:
    return json.loads((exported / "model.json").read_text())


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "model")


def put(tree: dict, path: str, value) -> dict:
    """A copy of a description with another value at "a.b.c", its digest made to fit."""
    changed = copy.deepcopy(tree)
    *above, last = path.split(".", 2 if "dataset" in path else -1)
    place = changed
    for name in above:
        place = place[name]
    place[last] = value
    return {**changed, "sha256": description.digest(changed)}


def refusal(folder: Path, text: str) -> str:
    (folder / "model.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    told = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in told and len(told) < 600
    return told


# What was typed by hand against it, and ranges ---------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config.data.eval_clips_per_video", 10**9),
        ("config.data.eval_clips_per_video", -1),
        ("config.data.clip_frames", 0),
        ("config.data.clip_frames", 9),  # more than are stored
        ("preprocessing.window_frames", 0),
        ("preprocessing.window_frames", 2.5),
        ("preprocessing.frames.image_size", 10**9),
        ("preprocessing.frames.image_size", 64),  # the config has 32
        ("preprocessing.frames.num_frames", 0),
        ("preprocessing.frames.margin", 1e300),
        ("preprocessing.frames.face_finder", "other"),
        ("preprocessing.frames.face_finder", "yunet"),
        ("preprocessing.frames.face_finder_model", "/etc/passwd"),
        ("preprocessing.rules.track_overlap", 0.9),
        ("preprocessing.rules", None),
        ("preprocessing.input", "BGR"),
        ("config.model.stage_sizes", [3000, 3000]),
        ("config.model.stage_sizes", [1] * 100),
        ("config.model.stage_sizes", []),
        ("config.model.width", 65536),
        ("config.model.backbone", "x" * 100_000),
        ("config.model.backbone", "x"),
        ("config.model.stem", "\x1b[31m"),
        ("config.model.dropout", True),
        ("config.model.extra", 1),
        ("config.dataset.image_size", "32"),
        ("config.dataset.methods", [[[1]]]),
        ("config.dataset.a.b", 1),
        ("calibration.temperature", 1e-300),
        ("calibration.temperature", -1.0),
        ("calibration.temperature", "1"),
        ("calibration.threshold", 1e300),
        ("calibration.threshold", -0.1),
        ("calibration.band", {"max_error": 0.05}),
        ("calibration.band.real.threshold", 1.0),
        ("calibration.band.fake.bound", 2.0),
        ("calibration.cross_fit", {"fitted": 1.0}),
        ("step", -1),
        ("step", 2**60),
        ("parameters", 0),
        ("weights_sha256", "0" * 63),
        ("trained_on_made_videos", 0),
        ("origin.versions", ["jax"]),
        ("origin.val", {"auc": "1"}),
        ("project", "another"),
        ("format", "x"),
        ("format", 1),
        ("format", True),
        ("config", {}),
        ("calibration", None),
    ],
)
def test_a_value_out_of_range_is_named(folder, facts, field, value):
    told = refusal(folder, json.dumps(put(facts, field, value)))
    assert "export the model again" in told or "score with the workdir" in told
    assert all(c.isprintable() for c in told)
    if field.startswith(("config.data.eval", "preprocessing.window", "calibration.t")):
        assert field in told


def test_only_of_a_transformer_patches_are_limited(facts):
    large = put(facts, "config.model.patch_size", 14)
    for place in ("config.dataset", "preprocessing.frames"):
        large = put(large, f"{place}.image_size", 1024)

    def fault(name: str) -> str:
        with pytest.raises(ValueError) as caught:
            description.check(put(large, "config.model.backbone", name))
        return str(caught.value)

    many = "frames of 1024 pixels have too many patches"
    assert {fault(name) for name in (*VITS, "vit")} == {many}
    others = (*BACKBONES, *CONVNEXTS, *EFFICIENTNETS, "resnet", "convnext")
    assert many not in {fault(name) for name in others}


def test_a_field_that_is_missing_is_named(folder, facts):
    changed = copy.deepcopy(facts)
    del changed["config"]["model"]["width"]
    assert "config.model.width is missing" in refusal(folder, json.dumps(changed))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("calibration.threshold", 0.123),
        ("calibration.temperature", 7.0),
        ("preprocessing.frames.margin", 2.0),
        ("step", 77),
        ("weights_sha256", "a" * 64),
    ],
)
def test_a_swapped_value_breaks_the_digest(folder, facts, field, value):
    changed = {**put(facts, field, value), "sha256": facts["sha256"]}
    assert "its digest is another" in refusal(folder, json.dumps(changed))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested"),
        ('{"a":' * 50_000, "nested"),
        ("[" * 12 + "]" * 12, "project is|must be an object"),
        ("", "Expecting value"),
        ("{}", "project"),
        ("[]", "must be an object"),
        ('"x"', "must be an object"),
        ('{"project": "fakedetect-jax", "step": NaN}', "no number"),
        ('{"project": "fakedetect-jax", "step": Infinity}', "no number"),
        ('{"step": 1%s}' % ("0" * 400), "too large"),  # noqa: UP031
        ('{"step": 1e400}', "project"),
        ('{"a": "%s"}' % ("x" * 2_000_000), "more than"),  # noqa: UP031
        ('"' + '\\"' * 400_000 + "\\", "Unterminated|Invalid"),
        ('{"a": "' + '\\"' * 400_000, "Unterminated"),
    ],
    ids=range(14),
)
def test_what_is_no_description_is_refused(folder, text, reason):
    told = refusal(folder, text)
    assert any(word in told for word in reason.split("|"))


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / "model.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder)


# Files that are none ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "README.md"])
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "circle", "folder"])
def test_only_files_of_the_folder_are_opened(folder, tmp_path, name, kind):
    path = folder / name
    kept = shutil.move(path, tmp_path / name)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link": kept, "circle": path}[kind])
    told: list[Exception] = []

    def load():
        try:
            load_model(folder)
        except Exception as error:
            told.append(error)

    # Where it waits for ever, the test does not.
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=LIMIT)
    assert [type(error) for error in told] == [CheckpointError]
    assert str(told[0]).startswith(f"{path} ") and "\n" not in str(told[0])


def test_a_link_within_the_folder_is_followed(folder):
    (folder / "README.md").rename(folder / "card.md")
    (folder / "README.md").symlink_to("card.md")
    assert "score" in load_model(folder).card


# Fuzzing ---------------------------------------------------------------------------

CASES = int(os.environ.get("FUZZ_CASES", "150"))
WORDS = st.sampled_from(
    ["", "resnet", "resnet50", "resnet18", "bottleneck", "mean", "last", "dlib", "none"]
    + ["full", "face", "bfloat16", "imagenet", "small2", "444", "420", "\x00", "é" * 99]
)
WHOLES = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**31, 2**63, 10**18, -(2**63), 1000, 1024, 4096, 65536]),
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
LEAVES = st.one_of(st.none(), st.booleans(), WHOLES, FLOATS, WORDS)
LISTS = st.lists(LEAVES, max_size=4)
OBJECTS = st.dictionaries(WORDS, st.one_of(LEAVES, LISTS), max_size=4)
VALUES = st.one_of(LEAVES, LISTS, OBJECTS, st.lists(OBJECTS, max_size=2))
SCORED = min(CASES // 20, 20)  # each of another shape is compiled anew


def places(tree, prefix=()) -> list[tuple]:
    """Where something can be changed in a description."""
    found = []
    for name, value in tree.items():
        found.append((*prefix, name))
        if isinstance(value, dict):
            found += places(value, (*prefix, name))
    return found


@st.composite
def changes(draw, tree):
    """Some edits of a description: (place, what, value)."""
    kinds = st.sampled_from(["put", "near", "near", "drop", "add"])
    one = st.tuples(st.sampled_from(places(tree)), kinds, VALUES, FLOATS)
    # Mostly resealed, or hardly any would be accepted.
    resealed = draw(st.sampled_from([True, True, True, False]))
    return draw(st.lists(one, min_size=1, max_size=3)), resealed


def edited(tree: dict, edits) -> dict:
    changed = copy.deepcopy(tree)
    for place, kind, value, factor in edits:
        target = changed
        for name in place[:-1]:
            target = target.get(name) if isinstance(target, dict) else None
        if not isinstance(target, dict) or place[-1] not in target:
            continue
        old = target[place[-1]]
        if kind == "drop":
            del target[place[-1]]
        elif kind == "add":
            target[str(value)[:20]] = value
        elif kind == "near" and type(old) is int:
            target[place[-1]] = old + (value if type(value) is int else 1)
        elif kind == "near" and type(old) is float:
            target[place[-1]] = old * factor
        else:
            target[place[-1]] = value
    return changed


def test_fuzz_of_descriptions(tiny_run, exported, facts, tmp_path_factory):
    """No traceback, no hang, no memory; what is accepted scores or refuses a video."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("fuzz") / "model")
    # A face that every detector and crop finds, so that accepted models do score.
    video = min(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))
    device = jax.devices()[:1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"refused": 0, "accepted": 0, "scored": 0}
    seen = set()

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(changes(facts))
    def attack(told):
        edits, resealed = told
        changed = edited(facts, edits)
        if resealed and "sha256" in changed:
            changed["sha256"] = description.digest(changed)
        (folder / "model.json").write_text(json.dumps(changed))
        try:
            model = load_model(folder)
        except CheckpointError as error:
            counts["refused"] += 1
            assert "\n" not in str(error) and len(str(error)) < 900
            return
        counts["accepted"] += 1
        key = json.dumps([changed["config"], changed["preprocessing"]], sort_keys=True)
        if key in seen or len(seen) >= SCORED:
            return
        seen.add(key)
        with Detector(model, devices=device) as detector:
            row = detector.score(video)
        json.dumps(row, allow_nan=False)
        assert row["outcome"] != "unreadable", row
        counts["scored"] += row["outcome"] == "scored"
        assert row["score"] is None or math.isfinite(row["score"])

    attack()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{counts}; {grown / 1024:.0f} MiB more at the peak")
    assert counts["refused"] > CASES / 4 and counts["accepted"]
    assert grown < 1 << 20  # KiB


def test_the_command_blames_the_model_and_not_the_video(
    folder, facts, tmp_path, capsys
):
    video = write_video(tmp_path / "a.mp4", 12)
    for field, value in (
        ("preprocessing.window_frames", 0),
        ("preprocessing.frames.image_size", 8192),
        ("config.data.eval_clips_per_video", 10**9),
    ):
        (folder / "model.json").write_text(json.dumps(put(facts, field, value)))
        assert predict.main(["--model", str(folder), str(video)]) == 4
        told = capsys.readouterr()
        assert told.err.count("\n") == 1 and "unreadable" not in told.out
