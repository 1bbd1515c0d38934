"""Decoding of any length and of hostile files, within limits."""

import shutil
import threading
import time
from dataclasses import replace

import av
import jax
import pytest

from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.session import Decoder, Limits
from fakedetect_jax.serving.tracks import Pending
from tests.made_videos import write_video
from tests.serving.videos import spoil, write_long
from tfds_ffpp.frames.found import PreparedWindow
from tfds_ffpp.workers.jobs import WindowsJob
from tfds_ffpp.workers.pool import Worker


def test_two_hundred_thousand_frames_in_constant_memory(central, tmp_path):
    """P5 200,000 frames: memory as for 2,000."""
    memory = {}
    for repeats in (4, 400):
        path = write_long(tmp_path / f"{repeats}.mp4", repeats=repeats)
        video = tmp_path / str(repeats)
        video.mkdir()
        job = WindowsJob(
            path=str(path),
            folder=str(video),
            preparation=central.model.preparation,
            window_frames=2048,
            all_faces=True,
            time_limit=300.0,
            stall_limit=60.0,
            memory_limit=2 << 30,
        )
        results = []
        worker = Worker()
        try:
            last = worker.run(job, results.append)
        finally:
            worker.close()
        windows = [r.window for r in results if r.window is not None]
        looks = [r.looked for r in results if r.looked is not None]
        first = results.index(next(r for r in results if r.window))
        assert all(r.looked is None for r in results[first:])
        assert [one.frames for one in looks] == sorted({one.frames for one in looks})
        assert {one.total for one in looks} <= {512 * repeats}
        assert looks or repeats == 4  # about one a second
        assert last.summary and last.summary.file.frames == 512 * repeats
        assert len(windows) == repeats // 4
        assert windows[-1].stop == 512 * repeats
        memory[repeats] = last.memory * 1024
    assert memory[400] - memory[4] < 60e6


def test_a_long_video_is_cut_into_windows_and_shows_progress(central, tmp_path):
    """P5 A long video: cut into windows, with progress."""
    path = write_video(tmp_path / "long.mp4", 100)
    seen = []

    def note(name, found):
        if isinstance(found, PreparedWindow):
            seen.append(found.stop)

    (result,) = central.results([path], on_progress=note)
    assert result.windows == 3 and seen == [33, 66, 100]
    assert result.frames_looked_at == 24
    spans = [clip.frames for clip in result.faces[0].clips]
    assert spans == sorted(spans) and spans[-1][1] > 90


def test_videos_share_the_cores_that_decode(faceless, tmp_path, monkeypatch):
    """Few have threads, many a process each; a lone one has all cores."""
    write_video(tmp_path / "0.mp4", 12)
    for i in range(1, 6):
        shutil.copy(tmp_path / "0.mp4", tmp_path / f"{i}.mp4")
    videos = sorted(tmp_path.glob("*.mp4"))
    asked = []
    make = Decoder.job

    def job(decoder, video):
        asked.append(make(decoder, video).threads)
        return make(decoder, video)

    monkeypatch.setattr(Decoder, "job", job)
    devices = jax.devices()[:1]
    with Detector.load(faceless, num_processes=4, devices=devices) as detector:
        scores = {}
        for count in (1, 2, 6):
            asked.clear()
            scores[count] = [r.score for r in detector.results(videos[:count])]
            expected = {1: [4], 2: [2, 4], 6: [1, 1, 1, 1, 2, 4]}
            assert asked == expected[count]
        assert scores[6] == pytest.approx([scores[1][0]] * 6, abs=1e-5)
        asked.clear()
        list(detector.results(iter(videos)))  # nobody knows how many come
        assert asked[0] == 4 and asked[1] in (2, 4)
        asked.clear()
        detector.score(videos[0])
        assert asked == [4]


def test_a_bomb_is_refused_from_its_header(central, tmp_path):
    """P6 A decoding bomb: refused from its header, under 1 s and 300 MB."""
    path = tmp_path / "bomb.mov"
    frame = av.VideoFrame(16384, 8192, "monob")
    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16384, 8192, "monob"
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    del frame
    worker = Worker()
    video = tmp_path / "video"
    video.mkdir()
    job = central._decoder.job(Pending(0, str(path), video))
    try:
        worker.run(replace(job, path=str(tmp_path / "none.mp4")))  # it is started now
        start = time.monotonic()
        result = worker.run(job)
    finally:
        worker.close()
    assert time.monotonic() - start < 1
    assert "16384x8192 pixels" in result.reason
    assert result.memory * 1024 < 300e6


def test_decoding_has_limits_of_time_and_memory(faceless, tmp_path):
    """P6 A video that takes too long or too much memory: stopped at the limit."""
    path = write_video(
        tmp_path / "a.mp4", 12, size=(1080, 1920), options={"preset": "ultrafast"}
    )
    for limits, reason in (
        (Limits(seconds=1e-3), "took longer"),
        (Limits(memory=128 << 20), "memory|died"),
    ):
        detector = Detector.load(faceless, limits=limits, devices=jax.devices()[:1])
        result = detector.score(path)
        assert result["outcome"] == "unreadable"
        assert any(word in result["reason"] for word in reason.split("|"))


@pytest.mark.parametrize(
    ("find_shots", "seen"),
    # Who looks at all frames first meets the damage there, else in the third window.
    [(True, [0, 1, 2]), (False, [0, 1, 0, 1, 2])],
)
def test_windows_before_a_damage_are_void(faceless, tmp_path, find_shots, seen):
    """The file is read again in order, and nothing of it is scored twice."""
    detector = Detector.load(faceless, find_shots=find_shots, devices=jax.devices()[:1])
    options = {"g": "10", "bf": "0"}
    path = write_video(tmp_path / "v.mp4", 100, options=options)
    whole = detector.score(path)
    spoil(path, 91)
    numbers = []

    def note(name, found):
        if isinstance(found, PreparedWindow):
            numbers.append(found.number)

    (result,) = detector.results([path], on_progress=note)
    result = result.to_json()
    assert numbers == seen
    assert result["file"]["damaged"] and result["windows"] == whole["windows"] == 3
    assert result["frames_looked_at"] == whole["frames_looked_at"] == 24
    (face,), (expected,) = result["faces"], whole["faces"]
    assert [c["window"] for c in face["clips"]] == [
        c["window"] for c in expected["clips"]
    ]
    assert len({tuple(c["frames"]) for c in face["clips"]}) == len(face["clips"])


def test_clips_wait_for_a_full_batch_and_no_longer(faceless, tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", 100)
    detector = Detector.load(faceless, batch_size=2, devices=jax.devices()[:1])
    sizes, judge = [], detector.network.judge

    def counted(frames, length):
        sizes.append(len(frames))
        return judge(frames, length)

    monkeypatch.setattr(detector.network, "judge", counted)
    (result,) = detector.results([path])
    clips = sum(len(face.clips) for face in result.faces)
    assert clips > 4
    assert sizes == [2] * (clips // 2) + [1] * (clips % 2)


def test_results_left_before_their_end_leave_no_thread(central, tmp_path):
    path = write_video(tmp_path / "short.mp4", 30)
    list(central.results([path]))  # what the detector keeps is there
    before = set(threading.enumerate())
    results = central.results([path] * 40)
    assert next(results).outcome == "scored"
    time.sleep(1)  # all that may be under way is, and the next one waits
    results.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
