"""What files say of themselves: told as it is, and never a reason to fail."""

import ctypes
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.mutants_video import mutate
from tests.made_videos import write_video
from tests.tfds_ffpp.test_workers import PREPARATION
from tfds_ffpp.frames.found import Action, ContainerFacts, Credentials
from tfds_ffpp.frames.origin import boxes, credentials
from tfds_ffpp.frames.origin.container import container_facts
from tfds_ffpp.workers import child
from tfds_ffpp.workers.jobs import WindowsJob
from tfds_ffpp.workers.pool import Worker

pytest.importorskip("c2pa")
from tests.signed import sign  # noqa: E402

PLAIN = {"pixel_format": "yuv420p", "options": {"bf": "2", "g": "6"}}


def said(path: Path) -> ContainerFacts:
    facts = container_facts(path)
    assert facts is not None
    return facts


def test_a_sound_of_a_codec_that_is_not_known(tmp_path):
    path = with_sound(tmp_path / "a.mp4", delay=0.0)
    content = path.read_bytes()
    assert content.count(b"mp4a") and content.count(b"esds")
    path.write_bytes(content.replace(b"mp4a", b"apac").replace(b"esds", b"dapa"))
    assert said(path).sound == ("unknown",)


def with_sound(path: Path, *, delay: float) -> Path:
    """A video whose sound begins later."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("aac", rate=16000)
        for _ in range(25):
            picture = np.zeros((48, 64, 3), np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(video.encode())
        for i in range(10):
            wave = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = round(16000 * delay) + 1024 * i
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


# Containers ------------------------------------------------------------------------


def test_a_container_is_told(tmp_path):
    words = {"title": "A \x1b[31mred\x1b[0m title", "comment": "x" * 5000}
    words |= {"creation_time": "2026-01-02T03:04:05.000000Z"}
    path = write_video(tmp_path / "a.mp4", 12, metadata=words, **PLAIN)
    facts = said(path)
    assert "mp4" in facts.format and "isom" in facts.brands
    assert facts.encoder[0].startswith("Lavf")
    assert any(name.startswith("x264") for name in facts.encoder)
    assert facts.created.startswith("2026-01-02") and facts.profile == "High"
    assert facts.seconds == pytest.approx(0.48) and facts.video_bit_rate > 0
    told = {tag.name: tag.value for tag in facts.tags if tag.place == "file"}
    assert told["title"] == "A ?[31mred?[0m title" and len(told["comment"]) == 200
    assert facts.sound == ()


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts"])
def test_other_containers_have_no_edits(tmp_path, name):
    facts = said(write_video(tmp_path / name, 6, **PLAIN))
    assert facts.edits == () and facts.seconds > 0


def test_edit_lists_are_told(tmp_path):
    facts = said(with_sound(tmp_path / "a.mp4", delay=1.0))
    assert facts.sound == ("aac",)
    (waits,) = (e for e in facts.edits if e.kind == "sound" and e.source is None)
    assert waits.track == 1 and waits.seconds == pytest.approx(1.0, abs=0.1)
    (shown,) = (e for e in facts.edits if e.kind == "video")
    assert shown.source is not None and shown.seconds == pytest.approx(1.0, abs=0.1)


def test_forged_sizes_of_boxes_end_the_reading(tmp_path):
    """P18 Forged sizes in an mp4's boxes: the reading ends."""
    whole = with_sound(tmp_path / "a.mp4", delay=1.0).read_bytes()
    path = tmp_path / "b.mp4"
    rng = np.random.default_rng(0)
    start = time.monotonic()
    for _ in range(300):
        path.write_bytes(mutate(whole, rng))
        assert len(boxes.read_edits(path)) <= boxes.MAX_EDITS
        boxes.holds_manifest(path)
    place = whole.index(b"elst")
    many = whole[: place + 8] + b"\xff" * 4 + whole[place + 12 :]
    path.write_bytes(many)
    assert len(boxes.read_edits(path)) <= boxes.MAX_EDITS
    path.write_bytes(b"\0\0\0\x08free" * 100_000)
    assert boxes.read_edits(path) == ()
    assert time.monotonic() - start < 20


# Manifests -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    return sign(write_video(folder / "a.mp4", 12, **PLAIN), folder / "signed.mp4")


def read(path: Path) -> Credentials:
    found = credentials.read(path)
    assert found is not None
    return found


def test_a_manifest_is_told(signed):
    found = read(signed)
    assert (found.state, found.problems) == ("valid", ())
    assert (found.signer, found.issuer) == ("A made signer", "A test")
    assert found.generator.startswith("made_camera 1.2")
    assert found.title == "A made film" and found.reader.startswith("c2pa-python ")
    assert found.actions == (Action("c2pa.created", "", "", "trainedAlgorithmicMedia"),)


def test_what_was_changed_since_is_invalid(signed, tmp_path):
    content = signed.read_bytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = read(path)
    assert found.state == "invalid" and "assertion.bmffHash.mismatch" in found.problems
    path.write_bytes(content.replace(b"made_camera", b"fine_camera"))
    found = read(path)
    assert found.state == "invalid" and "claimSignature.mismatch" in found.problems
    assert found.generator.startswith("fine_camera")


def test_a_broken_manifest_is_unreadable_and_says_why(signed, tmp_path):
    content = bytearray(signed.read_bytes())
    place = content.index(b"jumb")
    content[place + 40 : place + 400] = b"\xff" * 360
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    found = read(path)
    assert found.state == "unreadable" and found.reason


def test_pictures_have_manifests_too(tmp_path):
    plain = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48), "red").save(plain)
    assert read(plain).state == "none"
    found = read(sign(plain, tmp_path / "b.jpg"))
    assert found.state == "valid" and found.signer == "A made signer"


def test_where_there_is_none_or_no_place_for_one(tmp_path):
    assert read(write_video(tmp_path / "a.mp4", 6, **PLAIN)).state == "none"
    assert credentials.read(write_video(tmp_path / "a.mkv", 6, **PLAIN)) is None


def test_without_the_package_it_is_said_that_there_is_one(
    signed, tmp_path, monkeypatch
):
    monkeypatch.setattr(credentials, "available", lambda: False)
    found = read(signed)
    assert found.state == "not read" and "fakedetect-jax[c2pa]" in found.reason
    assert credentials.read(write_video(tmp_path / "a.mp4", 6, **PLAIN)) is None


# In the process that decodes -------------------------------------------------------


def windows_job(path: Path, folder: Path) -> WindowsJob:
    folder.mkdir()
    return WindowsJob(
        path=str(path),
        folder=str(folder),
        preparation=replace(PREPARATION, face_finder="none"),
        window_frames=40,
        all_faces=True,
        time_limit=60.0,
        stall_limit=30.0,
        memory_limit=2 << 30,
        credentials=True,
    )


def test_damaged_files_keep_their_outcome_whatever_their_manifest(signed, tmp_path):
    """P18 A damaged C2PA manifest: a named fact; the outcome stays."""
    content, rng = signed.read_bytes(), np.random.default_rng(1)
    manifest = content.index(b"jumb"), content.index(b"mdat")
    states, worker = set(), Worker()
    for i in range(12):
        changed = bytearray(content)
        for _ in range(i):
            changed[int(rng.integers(*sorted(manifest)))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(changed)
        result = worker.run(windows_job(path, tmp_path / str(i)))
        assert result.summary or result.reason
        if result.summary:
            found = result.summary.file.credentials
            states.add(found.state if found else None)
            assert result.summary.file.frames == 12
    worker.close()
    assert "valid" in states and states & {"invalid", "unreadable"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_reader_that_dies_costs_no_score(signed, tmp_path, monkeypatch):
    """P18 A manifest that kills its reader: a named fact; the outcome stays."""
    monkeypatch.setattr(credentials, "read", lambda path: ctypes.string_at(0))
    *_, last = child.run_confined(windows_job(signed, tmp_path / "w"))
    assert last.summary is not None and not last.reason
    found = last.summary.file.credentials
    assert found is not None and found.state == "unreadable"
    assert found.reason.startswith("the decoding process died (SIGSEGV)")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_reader_reaches_no_other_file(signed, tmp_path, monkeypatch):
    """P18 A manifest whose reader was taken over: it reaches no other file."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")

    def reads(path: Path) -> Credentials:
        try:
            return Credentials("none", secret.read_text())
        except OSError as error:
            return Credentials("none", type(error).__name__)

    monkeypatch.setattr(credentials, "read", reads)
    *_, last = child.run_confined(windows_job(signed, tmp_path / "w"))
    assert last.summary is not None
    if not child.ways_left_open():
        assert last.summary.file.credentials == Credentials("none", "PermissionError")
