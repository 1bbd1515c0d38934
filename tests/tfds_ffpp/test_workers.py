"""A decoder that crashes, hangs or is killed costs one video."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import psutil
import pytest

from tests.made_videos import write_video
from tests.patience import LIMIT
from tests.serving.videos import write_long
from tfds_ffpp.errors import DataError, IrregularVideoError
from tfds_ffpp.frames import entry
from tfds_ffpp.frames.people.faces import Faces
from tfds_ffpp.frames.people.track import unknown_track
from tfds_ffpp.frames.prepare import FoundInVideo, Preparation
from tfds_ffpp.workers.child import fault
from tfds_ffpp.workers.jobs import (
    CopyJob,
    EntryJob,
    Result,
    WindowsJob,
    job_from_json,
    result_from_json,
    to_line,
)
from tfds_ffpp.workers.pool import GIVEN_UP, Pool, Worker, run_jobs

PREPARATION = Preparation(
    num_frames=4,
    frame_step=0,
    image_size=32,
    crop="face",
    margin=1.3,
    face_finder="none",
    face_finder_model="",
    landmarks="none",
    jpeg_quality=95,
    jpeg_subsampling="444",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    short = [write_video(folder / f"{i}.mp4", 4, seed=i) for i in range(6)]
    long = write_video(folder / "long.mp4", 400, size=(480, 640))
    return short, long


def job(path: Path, folder: Path, **changes) -> EntryJob:
    usual = EntryJob(
        path=str(path),
        entry=str(folder / path.name),
        preparation=PREPARATION,
        faces=None,
        time_limit=60.0,
        memory_limit=2 << 30,
    )
    return replace(usual, **changes)


# All frames, full size: what takes long.
SLOW = replace(PREPARATION, num_frames=400, image_size=1024, crop="full")


def test_jobs_give_entries(videos, tmp_path):
    jobs = [job(p, tmp_path) for p in videos[0]]
    done = dict((j.path, r) for j, r in run_jobs(jobs, 2))
    assert len(done) == 6 and all(r.seconds for r in done.values())
    for j in jobs:
        found = entry.read_found(Path(j.entry), FoundInVideo)
        assert found is not None and found.facts.num_valid == 4
        assert len(entry.read_frames(Path(j.entry))) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_processes_started_ahead_do_the_first_jobs(videos, tmp_path):
    pool, parent = Pool(2), psutil.Process()
    before = set(parent.children())
    pool.start(2)
    started = set(parent.children()) - before
    done = list(run_jobs([job(p, tmp_path) for p in videos[0]], 2, pool=pool))
    assert all(result.seconds for _, result in done)
    assert len(started) == 2 and set(parent.children()) - before == started
    pool.close()
    assert set(parent.children()) == before


def test_a_job_and_a_result_are_the_same_as_lines():
    path = Path("a.mp4")
    faces = Faces(
        (1.0, 2.0, 30.0, 40.0),
        (64, 64),
        0.5,
        2,
        unknown_track([0, 3], usual=(0.1, 0.1, 0.9, 0.9), seen=True),
    )
    windows = WindowsJob("a", "b", PREPARATION, 9, True, 60.0, 5.0, None, 7)
    for one in (job(path, path), job(path, path, faces=faces), windows):
        line = to_line(one)
        again = job_from_json(json.loads(line))
        assert to_line(again) == line and type(again) is type(one)
    for result in (Result(more=True), Result(seconds={}), Result(reason="x", memory=9)):
        assert result_from_json(json.loads(to_line(result))) == result
    for row in ({"other": 1}, [], 3, None, "reason"):
        with pytest.raises(ValueError, match="no result of a job"):
            result_from_json(row)


def test_the_bytes_do_not_depend_on_the_processes(videos, tmp_path):
    contents = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        list(run_jobs([job(p, folder) for p in videos[0]], count))
        contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert contents[0] == contents[1]


def test_a_bad_file_costs_itself(videos, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("<html>")
    jobs = [job(p, tmp_path) for p in (*videos[0][:2], bad, *videos[0][2:4])]
    done = {Path(j.path).name: r for j, r in run_jobs(jobs, 1)}
    assert "not a readable video" in done["bad.mp4"].reason
    assert sum(r.seconds is not None for r in done.values()) == 4


def test_a_bug_of_a_decoder_is_told_in_a_sentence():
    for error in (AttributeError("'NoneType' has no attribute"), IrregularVideoError()):
        reason = fault(error).reason
        assert reason.startswith("its frames could not be prepared (")
        assert type(error).__name__ in reason and not reason.endswith(": )")


def pid_of(worker: Worker) -> int:
    while worker._process is None:
        time.sleep(0.01)
    return worker._process.pid


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_decoder_costs_one_video(videos, tmp_path, kill):
    """D25 A decoder that is killed: one video is named, the rest goes on."""
    short, long = videos
    worker = Worker()
    results = []
    slow = job(long, tmp_path, preparation=SLOW)
    thread = threading.Thread(target=lambda: results.append(worker.run(slow)))
    thread.start()
    pid = pid_of(worker)
    time.sleep(0.5)
    os.kill(pid, kill)
    thread.join(timeout=LIMIT)
    (result,) = results
    assert result.reason.startswith("the decoding process ")
    assert f"({kill.name})" in result.reason
    assert ("memory runs out" in result.reason) == (kill == signal.SIGKILL)
    assert worker.run(job(short[0], tmp_path)).seconds  # the rest goes on
    worker.close()


def test_a_hanging_decoder_costs_one_video(videos, tmp_path):
    """D25 A decoder that hangs: one video is named, the rest goes on."""
    short, long = videos
    worker = Worker()
    worker.run(job(short[0], tmp_path))
    pid = pid_of(worker)
    os.kill(pid, signal.SIGSTOP)
    result = worker.run(job(short[1], tmp_path, time_limit=1.0))
    assert result.reason == "took longer than 1 seconds (--time_limit)"
    assert not psutil.pid_exists(pid)
    assert worker.run(job(short[1], tmp_path)).seconds
    worker.close()
    result = Worker().run(job(long, tmp_path, time_limit=0.3, preparation=SLOW))
    assert result.reason == "took longer than 0.3 seconds (--time_limit)"


def copy_job(path: Path, folder: Path, **changes) -> CopyJob:
    folder.mkdir(exist_ok=True)
    usual = CopyJob(
        path=str(path),
        copy=str(folder / "copy.mp4"),
        time_limit=60.0,
        stall_limit=60.0,
        memory_limit=2 << 30,
        file_limit=64 << 20,
    )
    return replace(usual, **changes)


def test_a_copy_is_one_that_browsers_play_with_the_times_of_its_source(tmp_path):
    times = [500, 504, 508, 530, 534, 538]  # hundredths: late, and with a gap
    tall = write_video(tmp_path / "tall.mp4", 6, size=(802, 602), times=times)
    good = copy_job(tall, tmp_path / "a")
    small = copy_job(tall, tmp_path / "b", file_limit=1000)
    bad = copy_job(tmp_path / "none.mp4", tmp_path / "c")
    made, too_large, absent = (result for _, result in run_jobs([good, small, bad], 1))
    assert made.copied is not None and made.copied.frames == 6
    assert made.copied.start == pytest.approx(5.0)
    with av.open(good.copy) as file:
        context = file.streams.video[0].codec_context
        said = (context.name, context.pix_fmt, context.width, context.height)
        shown = [frame.time for frame in file.decode(video=0)]
    assert said == ("h264", "yuv420p", 360, 480)
    assert shown == pytest.approx([(t - 500) / 100 for t in times], abs=2e-3)
    assert "more than 1,000 bytes" in too_large.reason
    assert "No such file" in absent.reason


def test_a_job_that_nobody_wants_any_more_is_ended(videos, tmp_path):
    long = write_long(tmp_path / "long.mp4", repeats=200)  # minutes of work
    jobs = [copy_job(long, tmp_path / "a"), copy_job(videos[0][0], tmp_path / "b")]
    done = dict(run_jobs(jobs, 1, wanted=lambda job: job is not jobs[0]))
    assert done[jobs[0]].reason == GIVEN_UP
    assert done[jobs[1]].copied


def test_what_befalls_every_video_ends_the_run(videos, tmp_path):
    jobs = [job(p, tmp_path / "none") for p in videos[0]]
    with pytest.raises(DataError, match="cannot write .*No such file"):
        list(run_jobs(jobs, 2))


def test_leaving_early_ends_the_processes(videos, tmp_path):
    before = set(psutil.Process().children())
    results = run_jobs([job(p, tmp_path) for p in videos[0]], 2)
    next(results)
    assert len(set(psutil.Process().children()) - before) == 2
    results.close()
    assert set(psutil.Process().children()) <= before
