"""The annotated copy of a video: boxes where they belong, times, sound, stills."""

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.made_videos import write_video
from tests.serving.videos import all_of, write_long
from tfds_ffpp.workers.annotated import Mark
from tfds_ffpp.workers.jobs import AnnotateJob, Result
from tfds_ffpp.workers.pool import run_jobs


def job(path: Path, folder: Path, *marks: Mark, **changes) -> AnnotateJob:
    folder.mkdir(exist_ok=True)
    usual = {
        "title": "called real (3 %)",
        "stills": [],
        "threads": 1,
        "time_limit": 60.0,
        "stall_limit": 60.0,
        "memory_limit": 2 << 30,
        "file_limit": 64 << 20,
    }
    return AnnotateJob(
        str(path), str(folder), marks=list(marks), **{**usual, **changes}
    )


def run(*jobs: AnnotateJob) -> list[Result]:
    return [result for _, result in run_jobs(jobs, 1) if not result.more]


def with_sound(path: Path, codec: str) -> Path:
    """A film of one second of 101x67 pixels, 4:4:4, with a tone."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 101, 67, "yuv444p"
        sound: Any = file.add_stream(codec, rate=48_000)
        sound.layout = "stereo"
        for i in range(25):
            picture = np.full((67, 101, 3), 90 + i, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
        tone = np.sin(np.arange(48_000) / 20).astype(np.float32)
        kind = sound.codec_context.format.name
        wave = tone if kind.startswith("flt") else (9000 * tone).astype(np.int16)
        wave = np.stack([wave, wave])
        wave = wave if kind.endswith("p") else wave.T.reshape(1, -1)
        made: Any = wave
        frame = av.AudioFrame.from_ndarray(made, format=kind, layout="stereo")
        frame.rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, tuple[Path, Path, Result]]:
    """By codec of the sound: the source, the folder and what came of it."""
    folder = tmp_path_factory.mktemp("films")
    jobs = {}
    for codec, suffix in (("aac", "mp4"), ("pcm_s16le", "mov")):
        source = with_sound(folder / f"{codec}.{suffix}", codec)
        mark = Mark(5, 9, "face 1: 97 %", (20.0, 30.0, 60.0, 80.0), high=True)
        jobs[codec] = job(source, folder / codec, mark, stills=[7, 20])
    results = run(*jobs.values())
    return {
        codec: (Path(one.path), one.place, result)
        for (codec, one), result in zip(jobs.items(), results, strict=True)
    }


@pytest.mark.parametrize(
    ("codec", "name"), [("aac", "video.mp4"), ("pcm_s16le", "video.mkv")]
)
def test_the_sound_is_the_sources_to_the_byte(films, codec, name):
    source, place, result = films[codec]
    made = result.annotated
    assert made is not None, result.reason
    assert (made.name, made.sound, made.frames) == (name, "copied", 25)
    sound = sound_of(place / name)
    assert b"".join(sound) == b"".join(sound_of(source)) and len(sound) > 10
    with av.open(str(place / name)) as file:
        context = file.streams.video[0].codec_context
        said = (context.name, context.pix_fmt, context.width, context.height)
        times = [frame.time for frame in file.decode(video=0)]
    assert said == ("h264", "yuv420p", 102, 68)
    assert times == pytest.approx([i / 25 for i in range(25)], abs=1e-3)


def test_a_box_is_drawn_over_its_frames_alone_and_the_rest_is_as_it_was(films):
    _, place, _ = films["aac"]
    shown = all_of(place / "video.mp4")
    edge = [bool(f[35:55, 30].mean() - (90 + i) > 20) for i, f in enumerate(shown)]
    assert edge == [5 <= i <= 9 for i in range(25)]
    for i, frame in enumerate(shown):  # beside words and boxes
        assert np.abs(frame[40:65, 82:100].mean((0, 1)) - (90 + i)).max() < 3


def test_stills_are_the_sources_pixels_with_their_digest(films):
    source, place, result = films["aac"]
    assert result.annotated is not None
    seconds = {s.number: s.seconds for s in result.annotated.stills}
    assert seconds == pytest.approx({7: 0.28, 20: 0.8}, abs=1e-6)
    for still in result.annotated.stills:
        pixels = np.asarray(cv2.imread(str(place / still.name)))[..., ::-1]
        assert np.abs(pixels.astype(int) - (90 + still.number)).max() <= 2
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        assert digest == still.pixels_sha256


def test_late_times_sizes_and_limits(tmp_path):
    times = [500, 504, 508, 530]  # hundredths: late, and with a gap
    late = write_video(tmp_path / "late.mp4", 4, times=times)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(late.read_bytes()[:300])
    kept, small, bad = run(
        job(late, tmp_path / "a"),
        job(late, tmp_path / "b", file_limit=500),
        job(broken, tmp_path / "c"),
    )
    assert kept.annotated is not None and kept.annotated.sound == "none"
    with av.open(str(tmp_path / "a" / "video.mp4")) as file:
        shown = [frame.time for frame in file.decode(video=0)]
    assert shown == pytest.approx([t / 100 for t in times], abs=1e-3)
    assert "more than 500 bytes" in small.reason
    assert bad.annotated is None and bad.reason


def test_a_long_film_takes_the_memory_of_a_short_one(tmp_path):
    memory = []
    for repeats in (1, 8):
        path = write_long(tmp_path / f"{repeats}.mp4", repeats=repeats)
        marks = [Mark(i, i, "face 1", (1.0, 1.0, 9.0, 9.0)) for i in range(0, 512, 9)]
        (result,) = run(job(path, tmp_path / str(repeats), *marks))
        assert result.annotated and result.annotated.frames == 512 * repeats
        memory.append(result.memory * 1024)
    assert memory[1] - memory[0] < 20e6
