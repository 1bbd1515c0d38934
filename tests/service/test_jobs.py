"""Jobs outlive whoever works on them, and have one result, whichever store has them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue import jobs
from fakedetect_jax.service.queue.jobs import (
    ANNOTATED,
    COPY,
    EXPLAINED,
    KINDS,
    MOST_ATTEMPTS,
    NONE,
    READY,
    WANTED,
    Made,
    NewJob,
    QueueFull,
    Scored,
    StoreFull,
    StoreGone,
)
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places
from fakedetect_jax.service.web import watch
from tests.conftest import ROOT
from tests.patience import LIMIT

SCORED = Scored("scored", '{"video": "a"}', {"score": 2.0})


@pytest.fixture
def store(url, tmp_path):
    store = open_store(url, tmp_path)
    yield store
    store.close()


def add(store, count: int = 1, *, evidence: bool = False) -> list[str]:
    ids = [jobs.new_id() for _ in range(count)]
    for id in ids:
        store.add(NewJob(id, "a.mp4", 3, "ab", evidence), most=1000)
    return ids


def test_a_job_that_is_handed_in_again_is_one(store):
    """As where the answer to the first attempt was lost."""
    new = NewJob(jobs.new_id(), "a.mp4", 3, "ab", evidence=False)
    assert store.add(new, most=9) == store.add(new, most=9)
    assert list(store.waiting()) == [new.id]
    totals = {(t.name, t.label): t.value for t in store.totals()}
    assert totals["accepted", ""] == 1


def test_old_folders_of_no_job_go_and_those_of_jobs_stay(store, tmp_path):
    places = Places(tmp_path)
    (kept,), orphan, new = add(store), jobs.new_id(), jobs.new_id()
    for id in (kept, orphan, new):
        places.job(id).mkdir()
    for id in (kept, orphan):
        os.utime(places.job(id), (1, 1))
    watch.clean(store, places, keep_seconds=3600.0)
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {kept, new}


def test_jobs_are_claimed_once_and_in_order(store, url, tmp_path):
    ids = add(store, 40)
    other = open_store(url, tmp_path)
    got: dict[str, list[str]] = {"x": [], "y": [], "z": []}

    def work(name: str) -> None:
        with_store = store if name == "x" else other
        while job := with_store.claim(name):
            got[name].append(job.id)
            assert with_store.finish(job, SCORED)

    threads = [threading.Thread(target=work, args=[name]) for name in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(sum(got.values(), [])) == sorted(ids)
    assert all([i for i in ids if i in set(part)] == part for part in got.values())
    counted = {(t.name, t.label): t.value for t in store.totals()}
    assert counted["outcome", "scored"] == counted["accepted", ""] == 40
    assert counted["seconds", "score"] == 80.0


def test_a_lost_claim_cannot_finish_a_job(store, monkeypatch):
    (id,) = add(store)
    monkeypatch.setattr(jobs, "LEASE_SECONDS", -1.0)
    slow = store.claim("slow")
    quick = store.claim("quick")  # the lease of the first has run out
    assert slow and quick and slow.id == quick.id == id
    assert (slow.attempt, quick.attempt) == (1, 2)
    assert not store.finish(slow, SCORED)
    assert store.row(id) is None
    assert store.finish(quick, SCORED) and not store.finish(quick, SCORED)
    assert store.get(id)[id].state == jobs.DONE


def test_what_is_given_back_waits_in_its_old_place(store):
    first, second = add(store, 2)
    assert store.claim("w").id == first
    assert store.waiting() == [second]
    assert store.give_back("other", died=False) == 0
    assert store.give_back("w", died=False) == 1
    assert store.waiting() == [first, second]
    assert store.claim("w").attempt == 1  # an orderly end is no attempt


def test_a_job_at_which_processes_die_fails_in_the_end(store):
    (id,) = add(store)
    for attempt in range(MOST_ATTEMPTS):
        assert store.get(id)[id].state == jobs.WAITING
        assert store.claim("w").attempt == attempt + 1
        store.give_back("w", died=True)
    job = store.get(id)[id]
    assert job.state == jobs.FAILED and job.is_over
    assert job.reason == "the process that scores died 3 times at it"


def test_a_deleted_job_is_nobodys(store):
    (id,) = add(store)
    job = store.claim("w")
    assert store.renew("w", {job.claim, "another"}) == {job.claim}
    assert store.delete(id) and not store.delete(id)
    assert store.renew("w", {job.claim}) == set()
    assert not store.finish(job, SCORED)
    assert store.get(id) == {} and store.counts() == (0, 0, 0)


def test_no_more_wait_than_may(store):
    add(store, 2)
    new = NewJob(jobs.new_id(), "a", 1, "", True)
    with pytest.raises(QueueFull, match="2 videos wait already"):
        store.add(new, most=2)
    store.claim("w")
    assert store.add(new, most=2)


def test_more_is_made_of_jobs_that_want_evidence_and_first_what_is_asked_for(store):
    (lean,) = add(store)
    first, second = add(store, 2, evidence=True)
    store.ask(first, EXPLAINED)  # it has no result yet
    while job := store.claim("w"):
        store.finish(job, SCORED)
    assert store.counts().making == 4 and store.get(lean)[lean].is_over
    assert store.claim_task("w", KINDS, asked=True) is None
    store.ask(second, COPY)
    for _ in range(2):
        store.ask(second, ANNOTATED)
        store.ask(lean, ANNOTATED)
    task = store.claim_task("w", [COPY, ANNOTATED], asked=True)
    assert task and (task.job.id, task.kind) == (second, COPY)
    assert store.finish_task(task, Made(READY, start=1.5), 2.0)
    task = store.claim_task("w", KINDS, asked=True)
    assert task and (task.job.id, task.kind) == (second, ANNOTATED)
    assert store.finish_task(task, Made(NONE, "no sound"), 1.0)
    done = store.get(second)[second]
    assert done.made[COPY] == Made(READY, start=1.5) and not done.is_over
    assert done.made[ANNOTATED] == Made(NONE, "no sound")
    found = []
    while task := store.claim_task("w", KINDS, asked=False):
        found.append((task.job.id, task.kind))
        assert store.finish_task(task, Made(READY), 1.0)
    assert found == [(first, EXPLAINED), (second, EXPLAINED), (first, COPY)]
    done = store.get(second)[second]
    assert done.is_over and store.counts().making == 0
    store.ask(lean, ANNOTATED)
    store.ask(second, COPY)  # it is there
    assert store.counts().making == 0
    assert set(store.ended(-1.0)) == {lean, first, second} and store.ended(60.0) == []


def test_what_a_dead_worker_was_making_is_made_by_another(store, monkeypatch):
    (id,) = add(store, evidence=True)
    job = store.claim("w")
    assert job and store.finish(job, SCORED)
    slow = store.claim_task("slow", [EXPLAINED], asked=False)
    assert store.claim_task("w", [EXPLAINED], asked=False) is None
    assert store.renew("slow", {slow.job.made[EXPLAINED].claim})
    assert store.give_back("slow", died=True) == 0
    monkeypatch.setattr(jobs, "LEASE_SECONDS", -1.0)
    lost = store.claim_task("lost", [EXPLAINED], asked=False)
    monkeypatch.undo()
    quick = store.claim_task("quick", [EXPLAINED], asked=False)
    for late in (slow, lost):
        assert not store.finish_task(late, Made(READY), 1.0)
    assert store.finish_task(quick, Made(READY), 1.0)
    assert store.get(id)[id].state_of(EXPLAINED) == READY
    assert store.get(id)[id].state_of(COPY) == WANTED


def test_all_that_a_worker_makes_of_a_job_is_renewed_and_given_back(store):
    (id,) = add(store, evidence=True)
    job = store.claim("w")
    assert job and store.finish(job, SCORED)
    tasks = [store.claim_task("w", [kind], asked=False) for kind in (EXPLAINED, COPY)]
    claims = {task.job.made[task.kind].claim for task in tasks}
    before = store.get(id)[id].made
    time.sleep(0.01)
    assert store.renew("w", claims) == claims
    after = store.get(id)[id].made
    assert all(after[kind].lease > before[kind].lease for kind in (EXPLAINED, COPY))
    store.give_back("w", died=True)
    for attempt in (2, 3):
        task = store.claim_task("w", [COPY], asked=False)
        assert task.job.made[COPY].attempt == attempt
        store.give_back("w", died=True)
    assert store.claim_task("w", [COPY], asked=False) is None  # three deaths are enough
    assert store.get(id)[id].made[COPY] == Made(NONE, "the process died 3 times")
    store.claim_task("w", [EXPLAINED], asked=False)
    assert store.give_back("w", died=False) == 0  # an orderly end is no attempt
    assert (
        store.claim_task("w", [EXPLAINED], asked=False).job.made[EXPLAINED].attempt == 2
    )


CLAIMS = """
import sys, time
from pathlib import Path
from fakedetect_jax.service.queue import jobs
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places
from fakedetect_jax.service.web import watch
jobs.LEASE_SECONDS = 1.0
store = open_store(sys.argv[1], Path(sys.argv[2]))
job = store.claim("killed")
while True:
    assert store.renew("killed", {job.claim})
    print(job.id, flush=True)
    time.sleep(0.2)
"""


def test_the_job_of_a_worker_that_is_killed_is_anothers_soon(store, url, tmp_path):
    first, second = add(store, 2)
    words = [sys.executable, "-c", CLAIMS, url, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for _ in range(8):  # longer than the lease, which it renews
            assert killed.stdout.readline().strip() == first
        assert store.claim("w").id == second
        assert store.claim("w") is None
        killed.kill()
    end = time.monotonic() + LIMIT
    while (job := store.claim("w")) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (job.id, job.attempt) == (first, 2)
    assert store.finish(job, SCORED)


def test_a_reason_can_be_given_why_a_job_has_no_result(store):
    add(store)
    job = store.claim("w")
    assert store.fail(job, "its video is not there")
    assert not store.fail(job, "again") and not store.finish(job, SCORED)
    failed = store.get(job.id)[job.id]
    assert (failed.state, failed.reason) == (jobs.FAILED, "its video is not there")
    assert store.row(job.id) is None and failed.is_over


def test_a_model_is_there_as_long_as_a_worker_has_it(store, monkeypatch):
    assert store.model() == ""
    store.join("a", '{"step": 1}')
    store.join("b", '{"step": 1}')
    store.leave("a")
    assert store.model() == '{"step": 1}'
    monkeypatch.setattr(jobs, "LEASE_SECONDS", -1.0)
    store.renew("b", set())
    assert store.model() == ""  # it was not heard of
    monkeypatch.undo()
    store.renew("b", set())
    assert store.model() == '{"step": 1}'
    store.leave("b")
    store.renew("b", set())
    assert store.model() == ""


def test_a_store_belongs_to_one_folder(store):
    store.belong_to("mark")
    store.belong_to("mark")
    with pytest.raises(ConfigError, match="--data is not the folder that the jobs of"):
        store.belong_to("another")


def test_a_store_whose_file_is_gone_says_so(tmp_path):
    store = open_store("", tmp_path)
    add(store)
    (tmp_path / "jobs.sqlite").unlink()
    for ask in (store.counts, lambda: store.claim("w"), lambda: add(store)):
        with pytest.raises(StoreGone, match="the store of jobs, jobs.sqlite, cannot"):
            ask()
    store.close()
    with pytest.raises(StoreGone):
        open_store("sqlite:////proc/none/jobs.sqlite", tmp_path)


@pytest.mark.parametrize("kind", ["postgres", "redis_server"])
def test_a_server_that_was_killed_has_lost_nothing_when_it_is_back(
    kind, request, tmp_path
):
    running = request.getfixturevalue(kind)
    running.empty()
    store = open_store(running.url, tmp_path)
    first, second = add(store, 2)
    job = store.claim("w")
    assert job
    running.stop()
    for ask in (store.counts, lambda: store.finish(job, SCORED), lambda: add(store)):
        with pytest.raises(StoreGone, match="does not answer .*; start it, or give"):
            ask()
    with pytest.raises(StoreGone, match="does not answer"):
        open_store(running.url, tmp_path)
    running.start()
    assert store.waiting() == [second] and store.counts().running == 1
    assert store.finish(job, SCORED) and store.row(first) == SCORED.row
    store.close()


def test_stores_that_cannot_be_are_refused_without_their_password(tmp_path):
    for url, said in {
        "mysql://localhost": "--store mysql: is not known; give postgresql://HOST",
        "redis://a:secret@[": "--store is no address of a store",
    }.items():
        with pytest.raises(ConfigError, match=said):
            open_store(url, tmp_path)
    for scheme in ("postgresql", "redis"):
        with pytest.raises(StoreGone, match="does not answer") as error:
            open_store(f"{scheme}://a:secret@127.0.0.1:1/b", tmp_path)
        assert "secret" not in str(error.value)


def test_a_redis_that_would_forget_jobs_is_refused(redis_server, tmp_path):
    import redis

    client = redis.Redis.from_url(redis_server.url)
    for name, wrong, right in (
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendonly", "no", "yes"),
    ):
        client.config_set(name, wrong)
        with pytest.raises(ConfigError, match=f"would lose jobs; set {name} {right}"):
            open_store(redis_server.url, tmp_path)
        client.config_set(name, right)


def test_a_redis_without_memory_loses_no_accepted_job(redis_server, tmp_path):
    import redis

    redis_server.empty()
    client = redis.Redis.from_url(redis_server.url)
    store = open_store(redis_server.url, tmp_path)
    ids = add(store)
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreFull, match="no space is left for the jobs in redis://"):
        add(store)
    client.config_set("maxmemory", "0")
    ids += add(store)
    assert store.waiting() == ids
    store.close()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:  # only root may, and not in every container
        pytest.skip(f"no disk of one's own: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_no_accepted_job(small_disk):
    store = open_store("", small_disk)
    ids = add(store)
    with (small_disk / "rest").open("wb", 0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
            file.flush()
    with pytest.raises(StoreFull, match="no space is left"):
        for _ in range(2000):
            ids += add(store)
    os.unlink(small_disk / "rest")
    ids += add(store)
    assert store.waiting() == ids
    store.close()
