"""A decoder that crashes, hangs or is killed costs one video."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.made_videos import write_video
from tfds_ffpp import cache
from tfds_ffpp.errors import DataError
from tfds_ffpp.prepare import Recipe
from tfds_ffpp.video import IrregularVideoError
from tfds_ffpp.worker import fault
from tfds_ffpp.workers import Worker, run_jobs

RECIPE = {
    "num_frames": 4,
    "frame_step": 0,
    "image_size": 32,
    "crop": "face",
    "margin": 1.3,
    "detector": "none",
    "detector_model": "",
    "landmarks": "none",
    "jpeg_quality": 95,
    "jpeg_subsampling": "444",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    short = [write_video(folder / f"{i}.mp4", 4, seed=i) for i in range(6)]
    long = write_video(folder / "long.mp4", 400, size=(480, 640))
    return short, long


def job(path: Path, folder: Path, **changes) -> dict:
    return {
        "path": str(path),
        "entry": str(folder / path.name),
        "recipe": RECIPE,
        "faces": None,
        "time_limit": 60.0,
        "memory_limit": 2 << 30,
        **changes,
    }


# All frames, full size: what takes long.
SLOW = {**RECIPE, "num_frames": 400, "image_size": 1024, "crop": "full"}


def test_jobs_give_entries(videos, tmp_path):
    jobs = [job(p, tmp_path) for p in videos[0]]
    done = dict((j["path"], r) for j, r in run_jobs(jobs, 2))
    assert len(done) == 6 and all("seconds" in r for r in done.values())
    for j in jobs:
        meta = cache.read_meta(Path(j["entry"]))
        assert meta is not None and meta["num_valid"] == 4
        assert len(cache.read_frames(Path(j["entry"]))) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_recipe_has_no_other_fields():
    assert Recipe(**RECIPE).num_frames == 4


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
    done = {Path(j["path"]).name: r for j, r in run_jobs(jobs, 1)}
    assert "not a readable video" in done["bad.mp4"]["reason"]
    assert sum("seconds" in r for r in done.values()) == 4


def test_a_bug_of_a_decoder_is_told_in_a_sentence():
    for error in (AttributeError("'NoneType' has no attribute"), IrregularVideoError()):
        reason = fault(error)["reason"]
        assert reason.startswith("its frames could not be prepared (")
        assert type(error).__name__ in reason and not reason.endswith(": )")


def pid_of(worker: Worker) -> int:
    while worker._process is None:
        time.sleep(0.01)
    return worker._process.pid


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_decoder_costs_one_video(videos, tmp_path, kill):
    short, long = videos
    worker = Worker()
    results = []
    slow = job(long, tmp_path, recipe=SLOW)
    thread = threading.Thread(target=lambda: results.append(worker.run(slow)))
    thread.start()
    pid = pid_of(worker)
    time.sleep(0.5)
    os.kill(pid, kill)
    thread.join(timeout=20)
    (result,) = results
    assert result["reason"].startswith("the decoding process ")
    assert f"({kill.name})" in result["reason"]
    assert ("memory runs out" in result["reason"]) == (kill == signal.SIGKILL)
    assert "seconds" in worker.run(job(short[0], tmp_path))  # the rest goes on
    worker.close()


def test_a_hanging_decoder_costs_one_video(videos, tmp_path):
    short, long = videos
    worker = Worker()
    worker.run(job(short[0], tmp_path))
    pid = pid_of(worker)
    os.kill(pid, signal.SIGSTOP)
    result = worker.run(job(short[1], tmp_path, time_limit=1.0))
    assert result == {"reason": "took longer than 1 seconds"}
    assert not psutil.pid_exists(pid)
    assert "seconds" in worker.run(job(short[1], tmp_path))
    worker.close()
    result = Worker().run(job(long, tmp_path, time_limit=0.3, recipe=SLOW))
    assert result == {"reason": "took longer than 0.3 seconds"}


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
