"""Jobs outlive whoever works on them, and have one result."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue import jobs
from fakedetect_jax.service.queue.jobs import (
    MOST_ATTEMPTS,
    NewJob,
    QueueFull,
    Scored,
    StoreFull,
    StoreGone,
)
from fakedetect_jax.service.queue.opening import open_store

SCORED = Scored("scored", '{"video": "a"}', {"score": 2.0})


@pytest.fixture
def store(tmp_path):
    store = open_store("", tmp_path)
    yield store
    store.close()


def add(store, count: int = 1, *, evidence: bool = False) -> list[str]:
    ids = [jobs.new_id() for _ in range(count)]
    for id in ids:
        store.add(NewJob(id, "a.mp4", 3, "ab", evidence), most=1000)
    return ids


def test_jobs_are_claimed_once_and_in_order(store, tmp_path):
    ids = add(store, 40)
    other = open_store("", tmp_path)
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
    monkeypatch.setattr("fakedetect_jax.service.queue.sqlite.LEASE_SECONDS", -1.0)
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
    assert store.renew("w") == {job.claim}
    assert store.delete(id) and not store.delete(id)
    assert store.renew("w") == set()
    assert not store.finish(job, SCORED)
    assert store.get(id) == {} and store.counts() == (0, 0, 0)


def test_no_more_wait_than_may(store):
    add(store, 2)
    new = NewJob(jobs.new_id(), "a", 1, "", True)
    with pytest.raises(QueueFull, match="2 videos wait already"):
        store.add(new, most=2)
    store.claim("w")
    assert store.add(new, most=2)


def test_copies_are_made_of_jobs_that_want_evidence(store):
    add(store)
    (id,) = add(store, evidence=True)
    while job := store.claim("w"):
        store.finish(job, SCORED)
    job = store.next_copy(set())
    assert job.id == id and not job.is_over
    assert store.next_copy({id}) is None
    store.finish_copy(id, reason="", start=1.5, seconds=2.0)
    done = store.get(id)[id]
    assert (done.copy, done.copy_start, done.is_over) == ("ready", 1.5, True)
    assert store.ended_before(done.finished + 1)


def test_a_store_whose_file_is_gone_says_so(store, tmp_path):
    add(store)
    (tmp_path / "jobs.sqlite").unlink()
    for ask in (store.counts, lambda: store.claim("w"), lambda: add(store)):
        with pytest.raises(StoreGone, match="the store of jobs, jobs.sqlite, cannot"):
            ask()
    with pytest.raises(StoreGone):
        open_store("sqlite:////proc/none/jobs.sqlite", tmp_path)


def test_stores_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--store redis: is not known"):
        open_store("redis://localhost", tmp_path)


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
