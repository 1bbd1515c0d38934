"""Hosts agree, wait for each other and end together: real processes on loopback."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import tfds_ffpp.__main__
from fakedetect_jax import export, predict, report, settings
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.run import hosts, parallel
from tfds_ffpp import layout
from tfds_ffpp.errors import SettingError
from tfds_ffpp.synthetic import __main__ as synthetic

QUICK = {"NOTICE_SECONDS": 0.5, "BEAT_SECONDS": 0.3, "SILENCE_SECONDS": 3}
QUICK |= {"FAREWELL_SECONDS": 1, "LATE_SECONDS": 1}


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(launchpad, port):
    """Starts one process of several."""
    started = []

    def start(number: int, count: int = 2, **request):
        request = {
            "coordinator": f"localhost:{port}",
            "count": count,
            "id": number,
        } | request
        started.append(launchpad.start(json.dumps(request), module="tests.one_host"))
        return started[-1]

    yield start
    for process in started:
        if process.code() is None:
            process.send(signal.SIGKILL)


def ends(processes, within: float = 15) -> tuple[list[int], list[str]]:
    """The exit codes and the sentences of processes that must end by then."""
    end = time.monotonic() + within
    codes = [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
    return codes, [process.stderr.strip() for process in processes]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_join_and_the_port_is_free_for_jax(start, port, count):
    meet = {"first": {"steps": 12}, "second": {}}
    all_of_them = [start(n, count, meet=meet, seconds=1) for n in range(count)]
    for process in all_of_them:
        process.until("met second")
    with socket.create_server(("localhost", port)):
        pass  # though the connections through it are open
    assert ends(all_of_them) == ([0] * count, [""] * count)


def test_what_differs_is_named_on_every_host_with_all_values(start):
    rates = [0.002, 0.5, 0.002]
    facts = [{"config.seed": 0, "config.rate": rate} for rate in rates]
    codes, errors = ends([start(n, 3, facts=facts[n]) for n in range(3)])
    assert codes == [2, 2, 2]
    assert set(errors) == {
        "error: the hosts do not agree: config.rate is 0.002 on processes 0, 2 and "
        "0.5 on process 1; give all the same"
    }


def test_a_later_meeting_ends_with_its_own_code(start):
    both = [start(n, meet={"data": {"the digest": "ab" * (n + 1)}}) for n in range(2)]
    codes, errors = ends(both)
    assert codes == [3, 3] and errors[0] == errors[1]
    assert "the digest is ab on process 0 and abab on process 1; copy it" in errors[0]


def test_hosts_at_different_places_do_not_wait_for_ever(start):
    codes, errors = ends([start(0, meet={"a": {}}), start(1, meet={"b": {}})])
    assert codes == [2, 2]
    assert "place is a on process 0 and b on process 1" in errors[1]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_ends_all_with_its_sentence_and_code(start, failing):
    then = ["fail" if n == failing else "wait" for n in range(3)]
    codes, errors = ends([start(n, 3, then=then[n]) for n in range(3)])
    assert codes == [4, 4, 4]
    assert errors.pop(failing) == "error: the disk is full"
    assert errors == [f"error: process {failing}: the disk is full"] * 2


def test_failures_at_once_are_told_once_each(start):
    codes, errors = ends([start(n, 4, then="fail") for n in range(4)])
    assert codes == [4] * 4
    assert all(error.count("error: ") == 1 for error in errors)


@pytest.mark.parametrize("dying", [0, 1])
def test_a_death_is_noticed_at_once(start, dying):
    """H3 A process of several is killed: the others end at once, exit 4."""
    then = ["die" if n == dying else "wait" for n in range(2)]
    both = [start(n, then=then[n]) for n in range(2)]
    codes, errors = ends(both, within=5)
    assert codes[dying] == 9 and codes[1 - dying] == 4
    assert f"process {dying} of the run" in errors[1 - dying]
    assert "start the same command on all hosts again" in errors[1 - dying]


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_host_is_found_within_the_heartbeat(start, stopped):
    """H3 A host is stopped: noticed after 30 s."""
    all_of_them = [start(n, 3, then="wait", constants=QUICK) for n in range(3)]
    for process in all_of_them:
        process.until("joined")
    all_of_them[stopped].send(signal.SIGSTOP)
    left = [p for n, p in enumerate(all_of_them) if n != stopped]
    if stopped:  # the hub waits for the stopped one to hear of the end
        left.reverse()
    codes, errors = ends(left)
    assert codes == [4, 4]
    assert all(f"process {stopped} of the run" in error for error in errors)
    assert all("is stopped or cut off from the network" in e for e in errors)
    all_of_them[stopped].send(signal.SIGCONT)
    assert all_of_them[stopped].wait(15) == 4


def test_a_late_host_is_waited_for_with_a_line_now_and_then(start):
    """H4 A late host: waited for, with a line every 10 s."""
    first = start(0, 3, constants=QUICK)
    third = start(2, 3, constants=QUICK)
    first.until("waiting for process 1 of 3: ")
    third.until("waiting for process 1 of 3: ")
    second = start(1, 3)
    assert ends([first, second, third])[0] == [0, 0, 0]


def test_who_comes_before_process_0_waits_for_it(start, port):
    second = start(1, constants=QUICK)
    second.until(f"waiting for process 0 of 2 at localhost:{port} (Connection refused)")
    assert ends([start(0), second])[0] == [0, 0]


def test_who_does_not_come_is_not_waited_for_for_ever(start):
    """H4 A host that never comes: named once the time is over."""
    code, error = ends([start(0, constants=QUICK | {"JOIN_SECONDS": 2})])
    assert code == [4]
    assert "not all 2 processes came within 2 s" in error[0]


def test_wrong_counts_are_named(start):
    """H4 Wrong counts of hosts: named, exit 2."""
    codes, errors = ends([start(0, 3, constants=QUICK), start(1, 2)])
    assert codes == [2, 2] and errors[0] == errors[1]
    assert "process 1 (" in errors[0]
    assert "--num_processes 2 and process 0 with 3; give all" in errors[0]


@pytest.mark.parametrize("number", [0, 1])
def test_duplicate_numbers_are_named(start, number):
    """H4 One number for two hosts: named, exit 2."""
    first = start(0, 3, constants=QUICK)
    if number:
        start(1, 3)
    time.sleep(0.5)
    codes, errors = ends([first, start(number, 3)])
    assert codes == [2, 2] and errors[0] == errors[1]
    assert f"two processes have --process_id {number} (" in errors[0]


def test_a_wrong_command_is_told_to_who_comes_later(start):
    failing = start(1, 3, failed=["config.seed is x", 2], constants=QUICK)
    time.sleep(1)
    codes, errors = ends([start(0, 3), start(2, 3), failing])
    assert codes == [2, 2, 2]
    assert errors[:2] == ["error: process 1: config.seed is x"] * 2


def test_a_port_of_another_program_is_told(start, port):
    """H5 The port is another program's: said."""
    with socket.create_server(("localhost", port)) as other:
        mine = start(1, constants=QUICK | {"STRANGER_SECONDS": 1})
        end = time.monotonic() + 15
        while mine.code() is None and time.monotonic() < end:
            other.settimeout(0.2)
            try:
                connection, _ = other.accept()
            except TimeoutError:
                continue
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()
    assert mine.wait(1) == 4
    assert "another program has this port, or the run began" in mine.stderr


def test_strangers_do_not_disturb(start, port):
    """H5 Strangers at the port: they do not disturb."""
    first = start(0)
    while True:
        try:
            scanner = socket.create_connection(("localhost", port))
            break
        except OSError:
            time.sleep(0.05)
    with scanner:
        scanner.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert scanner.recv(10) == b""
    assert ends([first, start(1)])[0] == [0, 0]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (("host0", 2, 0), "--coordinator is 'host0'; it must be host:port"),
        (("host0:port", 2, 0), "it must be host:port"),
        (("host0:1", 2, 2), "--process_id is 2 and --num_processes 2"),
        (("host0:1", 0, 0), "--num_processes 0"),
    ],
)
def test_a_place_that_cannot_be_is_refused(place, sentence):
    with pytest.raises(ConfigError, match=sentence):
        hosts.check_place(hosts.Place(*place))


# What a cluster gives to a process ---------------------------------------------------

SLURM = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_NODELIST": "node[01-04]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_slurm_says_which_process_this_is(slurm):
    place = hosts.find_place(
        distributed=True, coordinator=None, num_processes=None, process_id=None
    )
    assert place == hosts.Place("node01:61482", 4, 2)


@pytest.mark.parametrize(
    ("changes", "wanted", "devices"),
    [
        ({}, None, []),  # one task a node: all eight
        ({}, ["0", "3"], [0, 3]),
        ({"JAX_LOCAL_DEVICE_IDS": "4,5"}, None, [4, 5]),
        # A task a GPU: its own, also where Slurm shows it no other.
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "3"}, None, [3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2),8,1", "SLURM_LOCALID": "3"}, None, [3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2),1,8"}, None, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_GPUS_PER_TASK": "1"}, None, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": "0"}, None, []),
    ],
)
def test_a_task_takes_the_gpus_that_it_was_given(slurm, changes, wanted, devices):
    for name, value in changes.items():
        slurm.setenv(name, value)
    assert parallel.local_devices(wanted) == devices


def test_a_device_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="--local_device_ids is 'gpu0'"):
        parallel.local_devices(["gpu0"])


@pytest.mark.parametrize("cluster", [SLURM, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
def test_jax_takes_all_gpus_and_looks_for_no_cluster(launchpad, port, cluster):
    """At the flag that JAX starts its GPUs by; there need be none here."""
    request = {"port": port, "env": cluster}
    code, out, err = launchpad.run(json.dumps(request), module="tests.joined_jax")
    assert code == 0, err
    assert out.split() == ["all", "1"]
    assert "jax[k8s]" not in err


# Addresses of other systems ----------------------------------------------------------


def test_addresses_are_no_paths(load_config):
    config = load_config("ffpp")
    settings.check_paths(config, "runs/a:b//c")
    for name, value in [("data_dir", "s3://b/x"), ("manual_dir", "gs://b")]:
        wrong = config.copy_and_resolve_references()
        wrong.data[name] = value
        with pytest.raises(SettingError, match=f"config.data.{name} is {value}, which"):
            settings.check_paths(wrong, None)
    with pytest.raises(SettingError, match="--workdir is s3://bucket/run.*gcsfuse"):
        settings.check_paths(config, "s3://bucket/run")


def test_nothing_of_buckets_is_imported_without_an_address():
    code = (
        "import sys, fakedetect_jax.main, fakedetect_jax.predict, tfds_ffpp.__main__\n"
        "print({'gcsfs', 'fsspec', 'aiohttp', 'google.auth'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done


@pytest.mark.parametrize("there", [True, False])
def test_a_workdir_may_be_in_a_bucket_where_gcsfs_is_there(
    load_config, monkeypatch, there
):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name == "gcsfs" and there or None
    )
    config = load_config("ffpp")
    if there:
        settings.check_paths(config, "gs://bucket/run")
    else:
        with pytest.raises(SettingError, match="need gcsfs: pip install"):
            settings.check_paths(config, "gs://bucket/run")
    wrong = ("gs://", "gs://b", "gs://bucket", "gs:/bucket/x", "gs://bucket/")
    for address in (*wrong, "gs://bucket/a*", "gs://bucket/a/../b", "gs://bucket//a"):
        with pytest.raises(SettingError, match=re.escape(f"is {address}")):
            settings.check_paths(config, address)


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (predict.main, ["--workdir=s3://b/w", "x.mp4"]),
        (predict.main, ["--model=s3://b/m", "x.mp4"]),
        (predict.main, ["--model=m", "--output=gs://b/o.jsonl", "x.mp4"]),
        (predict.main, ["--model=m", "--report=gs://b/pages", "x.mp4"]),
        (predict.main, ["--model=m", "--compilation_cache=gs://b/c", "x.mp4"]),
        (report.main, ["s3://b/w"]),
        (report.main, ["w", "--output=s3://b/page.html"]),
        (layout.main, ["gs://b/v"]),
        (layout.main, ["gs://b/v", "--write_csv"]),
        (synthetic.main, ["gs://b/v"]),
        (export.main, ["s3://b/w", "out"]),
        (export.main, ["w", "gs://b/out"]),
        (tfds_ffpp.__main__.main, ["--manual_dir=gs://b/v"]),
        (tfds_ffpp.__main__.main, ["--manual_dir=v", "--data_dir=gs://b/d"]),
    ],
)
def test_every_command_refuses_an_address_first(
    main, argv, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert "which is no folder of this machine; mount it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
