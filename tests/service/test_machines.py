"""Several workers behind one queue, as on several machines that share a folder."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.service import making, scoring, worker
from fakedetect_jax.service.making import Copier, Maker, MakingLimits
from fakedetect_jax.service.queue import jobs
from fakedetect_jax.service.queue.jobs import COPY, Made, NewJob, Scored
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places
from fakedetect_jax.service.web.answers import ModelAnswer
from fakedetect_jax.serving import session, sources
from fakedetect_jax.serving.summary import Scale
from tests.made_videos import write_video
from tests.patience import LIMIT
from tests.service.server import Server, command, environment
from tests.serving.videos import write_long
from tfds_ffpp.workers.jobs import Result


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{i}.mp4", 10 + i, seed=i) for i in range(6)]


class Worker:
    """A worker on its own, as another machine would run it."""

    def __init__(self, data: Path, log: Path, *options: object):
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command(data, "--role=worker", "--processes=1", *options),
                env=environment(),
                stderr=file,
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=LIMIT) in (0, -9)

    def says(self, text: str) -> None:
        end = time.monotonic() + LIMIT
        while text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)


def test_workers_share_a_queue_and_one_that_is_killed_loses_no_job(
    url, faceless, videos, tmp_path
):
    data = tmp_path / "data"
    options = [f"--store={url}"] if url else []
    web = Server(data, "--role=web", "--uploads_per_minute=0", *options)
    long = write_long(tmp_path / "long.mp4", repeats=12)
    options += [f"--model={faceless}"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(web)
        workers = [
            stack.enter_context(Worker(data, tmp_path / f"{i}.log", *options))
            for i in range(2)
        ]
        web.until_ready()
        ids = [web.hand_in(long, "?evidence=0") for _ in range(2)]
        ids += [web.hand_in(path, "?evidence=0") for path in videos]
        store = open_store(url, data)
        web.until_begun(ids[0])
        by_process = {str(one.process.pid): one for one in workers}
        killed = by_process[store.get(ids[0])[ids[0]].worker.rsplit("-", 1)[1]]
        family = psutil.Process(killed.process.pid).children(recursive=True)
        killed.process.kill()
        done = [web.until(id) for id in ids]
        assert {job["outcome"] for job in done} == {"scored"}
        assert done[0]["attempt"] == 2
        assert web.metric("fakedetect_outcomes_total") == len(ids)
        assert web.metric("fakedetect_accepted_total") == len(ids)
        _, alive = psutil.wait_procs(family, timeout=LIMIT)
        assert not alive
        store.close()
    assert web.log.read_text().count("Traceback") == 0


@pytest.mark.parametrize("kind", ["postgres", "redis_server"])
def test_a_store_that_stops_is_said_and_work_goes_on_when_it_is_back(
    kind, request, faceless, videos, tmp_path
):
    running = request.getfixturevalue(kind)
    running.empty()
    long = write_long(tmp_path / "long.mp4", repeats=12)
    options = [f"--store={running.url}", f"--model={faceless}", "--processes=1"]
    with Server(tmp_path / "data", *options) as server:
        server.until_ready()
        first, second = server.hand_in(long), server.hand_in(videos[0])
        server.until_begun(first)
        running.stop()
        for answer in (
            server.upload(videos[1]),
            server.get(f"/v1/jobs/{first}"),
            server.get("/metrics"),
            server.ask("DELETE", f"/v1/jobs/{second}"),
        ):
            assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
            said = answer.json["error"]
            assert "the store of jobs" in said and "does not answer" in said
        assert server.get("/").status == 200
        end = time.monotonic() + LIMIT
        while "does not answer" not in (health := server.get("/healthz")).json["store"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert health.status == 503
        assert os.listdir(server.data / "incoming") == []
        running.start()
        server.until_ready()
        for id in (first, second):
            assert server.until(id, whole=True)["outcome"] == "scored"
            assert server.job(id)["explained"] == "ready"
        assert server.metric("fakedetect_outcomes_total") == 2


def test_a_worker_that_sees_another_folder_is_refused(
    redis_server, faceless, videos, tmp_path
):
    redis_server.empty()
    options = [f"--store={redis_server.url}"]
    with Server(tmp_path / "data", "--role=web", *options):
        words = command(tmp_path / "other", "--role=worker", f"--model={faceless}")
        done = subprocess.run(
            [*words, *options], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: --data is not the folder that the jobs")
        assert done.stderr.count("\n") == 1


def test_a_worker_that_does_not_see_the_video_says_so(faceless, videos, tmp_path):
    data, away = tmp_path / "data", tmp_path / "away"
    with (
        Server(data, "--role=web") as web,
        Worker(data, tmp_path / "worker.log", f"--model={faceless}") as worker,
    ):
        web.until_ready()
        places, store = Places(data), open_store("", data)
        away.mkdir()
        for name in ("jobs", "folder"):  # as where a disk of the network is not mounted
            (data / name).rename(away / name)
        (data / "jobs").mkdir()
        id = jobs.new_id()
        (away / "jobs" / id).mkdir()
        shutil.copy(videos[0], away / "jobs" / id / "video")
        store.add(NewJob(id, "a.mp4", 3, "ab", False), most=10)
        worker.says("cannot be seen; jobs wait until it is there again")
        (data / "jobs").rmdir()
        for name in ("jobs", "folder"):
            (away / name).rename(data / name)
        done = web.until(id)
        assert (done["outcome"], done["attempt"]) == ("scored", 1)
        id = jobs.new_id()  # of which somebody removed the video alone
        store.add(NewJob(id, "a.mp4", 3, "ab", False), most=10)
        failed = web.until(id)
        assert failed["state"] == "failed"
        assert (
            failed["reason"] == "its video is not in the folder of the service any more"
        )
        assert places.is_there()
        store.close()


def test_workers_of_one_queue_have_one_model(tmp_path):
    store = open_store("", tmp_path)
    scoring._join(store, "a", ModelAnswer(ready=True, weights="abc"))
    scoring._join(store, "b", ModelAnswer(ready=True, weights="abc"))
    with pytest.raises(ConfigError, match="model abc, and this one has def; end them"):
        scoring._join(store, "c", ModelAnswer(ready=True, weights="def"))
    store.leave("a")
    store.leave("b")
    scoring._join(store, "c", ModelAnswer(ready=True, weights="def"))
    store.close()


# What is made afterwards -----------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:  # only root may, and not in every container
        pytest.skip(f"no disk of one's own: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_copy_for_which_there_is_no_space_is_said(
    small_disk, tmp_path, central, videos, monkeypatch
):
    monkeypatch.setattr(making, "REST_SECONDS", 0.1)
    places, store = Places(small_disk / "data"), open_store("", tmp_path)
    copier = Copier(Scale.of(central.model), places, MakingLimits(60.0, 1 << 30))
    maker = Maker(
        *({COPY: copier.copy},),
        store=store,
        places=places,
        name="w",
        is_busy=lambda: False,
        end=copier.close,
    )
    stopped = threading.Event()
    thread = threading.Thread(target=maker.run, args=[stopped])
    ids = []

    def hand_in() -> str:
        id = jobs.new_id()
        places.job(id).mkdir()
        shutil.copy(videos[5], places.video(id))
        store.add(NewJob(id, "a.mp4", 3, "ab", True), most=10)
        job = store.claim("w")
        assert job and store.finish(job, Scored("scored", "{}", {}))
        ids.append(id)
        return id

    def until(id: str) -> Made:
        end = time.monotonic() + LIMIT
        while (made := store.get(id)[id].made[COPY]).state == jobs.WANTED:
            assert time.monotonic() < end
            time.sleep(0.05)
        return made

    first = hand_in()
    rest = small_disk / "rest"
    with rest.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    thread.start()
    said = "there is no space for it on the disk of the service"
    assert until(first) == Made(jobs.NONE, said)
    rest.unlink()
    second = hand_in()
    assert until(second).state == jobs.READY and places.copy(second).exists()
    assert set(os.listdir(places.job(second))) == {"video", "copy"}
    stopped.set()
    thread.join()
    assert not places.copy(first).exists()
    store.close()


class Undecoded:
    """A process that would decode, which finds every video unreadable at once."""

    started = True

    def run(self, *_) -> Result:
        return Result(reason="damaged")

    def close(self) -> None:
        pass


class Undecoding:
    """What hands such processes out, and scores what they found."""

    def take(self) -> Undecoded:
        return Undecoded()

    def give_back(self, _: Undecoded) -> None:
        pass

    def results(self, videos, **asked) -> Iterator[VideoResult]:
        pool: Any = self
        nothing: Any = None
        network: Any = SimpleNamespace(model=None, batch_size=8)
        decoder = session.Decoder(pool, 1, nothing, 10, True, session.Limits())
        return session.Session(
            network, decoder, facts=nothing, apart=True, **asked
        ).run(map(sources.check, videos))


def test_no_job_is_left_to_a_round_that_has_ended(tmp_path, monkeypatch):
    """A fault in the thread that scores, while another waits for the next job."""
    monkeypatch.setattr(
        session, "summarise", lambda video, *_: VideoResult(video.name, "unreadable")
    )
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(worker, "REST_SECONDS", 0.1)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # of the lost round
    places, store = Places(tmp_path), open_store("", tmp_path)
    finish, away = store.finish, [jobs.StoreGone("away")]

    def finish_later(job, scored):
        if away:
            raise away.pop()
        return finish(job, scored)

    monkeypatch.setattr(store, "finish", finish_later)

    def add() -> str:
        id = jobs.new_id()
        places.job(id).mkdir()
        shutil.copyfile(first, places.video(id))
        store.add(NewJob(id, "a.mp4", 1, "ab", evidence=False), most=9)
        return id

    first = write_video(tmp_path / "a.mp4", 3)
    detector: Any = Undecoding()
    scoring_worker = worker.ScoringWorker(detector, store, places, name="w")
    thread = threading.Thread(target=scoring_worker.run, daemon=True)
    id = add()
    thread.start()
    end = time.monotonic() + LIMIT
    while store.get(id)[id].state != "done":
        assert time.monotonic() < end, store.get(id)[id]
        time.sleep(0.1)
    other = add()  # and the worker is as before
    while store.get(other)[other].state != "done":
        assert time.monotonic() < end, store.get(other)[other]
        time.sleep(0.1)
    scoring_worker.drain()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_second_signal_ends_a_worker_that_waits_for_its_store(tmp_path):
    code = f"""
import os, signal, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from fakedetect_jax.service import scoring
from fakedetect_jax.service.queue.opening import open_store

scoring.GIVE_UP_SECONDS = 1.0
store = open_store("", Path({str(tmp_path)!r}))
give_back = lambda: store.give_back("w", died=False)
scoring._end_on_signals(SimpleNamespace(give_back=give_back, drain=int), 60.0)
os.kill(os.getpid(), signal.SIGTERM)
with store._database.reading():  # as in a call that the signal interrupts
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=LIMIT)
    assert done.returncode == 0
    assert time.monotonic() - began < 20
