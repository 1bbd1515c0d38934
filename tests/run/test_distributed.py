"""Several processes compute what one does, stop together and end when one is gone."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from fakedetect_jax.data import dataset
from tests.patience import LIMIT

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def hosts(launchpad, tiny_config):
    """Starts a run of several processes, with two devices each.

    own: flags of some; phases: where a signal comes to some, see launchpad.py; places:
    the folders in which some begin.
    """
    started = []

    def start(workdir, *more, count=2, own=None, phases=None, places=None):
        port = free_port()
        mine = [
            launchpad.start(
                *("--config", tiny_config, "--workdir", workdir),
                *(f"--coordinator=localhost:{port}", f"--num_processes={count}"),
                *(f"--process_id={number}", "--config.eval.batch_size=4", *more),
                *(own or {}).get(number, ()),
                devices=2,
                phase=(phases or {}).get(number),
                place=str((places or {}).get(number, "")),
            )
            for number in range(count)
        ]
        started.extend(mine)
        return mine

    yield start
    for process in started:
        if process.code() is None:
            process.send(signal.SIGKILL)


def end_within(processes, seconds: float) -> tuple[list[int], list[str]]:
    """Exit codes and errors; all have ended `seconds` after the first said "error"."""
    while not any("error: " in process.stderr for process in processes):
        codes = [process.code() for process in processes]
        assert None in codes, (codes, [p.stdout for p in processes])
        time.sleep(0.05)
    end = time.monotonic() + seconds
    codes = [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
    said = [p.stderr.splitlines() for p in processes]
    errors = [[line for line in lines if line.startswith("error: ")] for lines in said]
    assert [len(lines) for lines in errors] == [1] * len(processes), said
    return codes, [line for (line,) in errors]


def rows(workdir, kind="train"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_two_processes_then_four_devices_are_one_device(
    launchpad, tiny_config, hosts, undisturbed, tmp_path
):
    """T6 Other devices, processes, workers: the same losses to 1e-5."""
    workdir = tmp_path / "w"
    both = hosts(workdir, "--config.shard_optimizer=True")
    both[0].until("train 3/")
    both[1].send(signal.SIGTERM)  # one host alone gets it; both stop at one step
    codes = [process.wait() for process in both]
    assert codes == [143, 143], [p.stderr for p in both]
    (saved,) = re.findall(r"saved step (\d+); go on with", both[0].stdout)
    assert "saved step" not in both[1].stdout  # only the first process speaks
    assert rows(workdir)[-1]["step"] == int(saved)
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir),
        *("--config.eval.batch_size=4", "--config.data.num_workers=2"),
        devices=4,
    )
    assert code == 0, err
    assert f"from {saved}" in out
    assert "2 processes and are 4 x cpu" in err
    for kind in ("train", "val"):
        mine, alone = rows(workdir, kind), rows(undisturbed, kind)
        assert [r["step"] for r in mine] == [r["step"] for r in alone]
        np.testing.assert_allclose(
            [r["loss"] for r in mine], [r["loss"] for r in alone], atol=1e-5
        )


def test_two_processes_that_hold_all_frames_are_one_device(
    hosts, undisturbed, tmp_path
):
    """Each device of both has a copy of the frames, and gathers its rows of a batch."""
    held, stop = "--config.data.resident=device", ["train", 5, signal.SIGTERM]
    both = hosts(tmp_path / "w", held, phases={0: stop})
    codes = [process.wait() for process in both]
    assert codes == [143, 143], [p.stderr for p in both]
    assert re.search(r"frames +\d+ are decoded, .* on each device", both[0].stdout)
    mine, alone = rows(tmp_path / "w"), rows(undisturbed)
    assert len(mine) >= 4
    np.testing.assert_allclose(
        [r["loss"] for r in mine], [r["loss"] for r in alone[: len(mine)]], atol=1e-5
    )


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_dies_the_other_ends_with_a_sentence(
    hosts, undisturbed, tmp_path, victim
):
    """H3 A process of several is killed: the others end at once, exit 4."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    both = hosts(workdir, "--config.num_epochs=100000")
    both[0].until("train 15/")
    both[victim].send(signal.SIGKILL)
    codes, (error,) = end_within([both[1 - victim]], 15)
    assert codes == [4]
    assert f"process {victim} of the run" in error
    assert "goes on from the last checkpoint" in error


def test_hosts_with_other_configs_end_at_once_and_name_each_field(hosts, tmp_path):
    """H1 Hosts with other configs: each field with all values on every host, exit 2."""
    other = {
        "optimizer.learning_rate": 0.5,
        "seed": 7,
        "num_epochs": 2,
        "batch_size": 16,
        "model.width": 16,
    }
    flags = [f"--config.{field}={value}" for field, value in other.items()]
    free = ["--config.data.num_threads=2", "--config.log_every_steps=5"]
    started = time.monotonic()
    four = hosts(tmp_path / "w", count=4, own={2: flags, 1: free})
    codes, errors = end_within(four, 15)
    assert time.monotonic() - started < 30
    assert codes == [2] * 4 and len(set(errors)) == 1
    for field, value in other.items():
        assert f"config.{field} is " in errors[0]
        assert f" on processes 0, 1, 3 and {value} on process 2" in errors[0]
    assert "num_threads" not in errors[0]
    assert not list(tmp_path.glob("w/checkpoints/*"))


@pytest.mark.parametrize(
    ("failing", "flag", "sentence"),
    [
        (0, "--config.num_epochs=abc", "config.num_epochs is 'abc'; it must be"),
        (2, "--confg.seed=1", "Unknown command line flag 'confg.seed'"),
        (0, "--config.data.data_dir=s3://b/x", "which is no folder of this machine"),
    ],
)
def test_a_wrong_command_on_one_host_ends_all(hosts, tmp_path, failing, flag, sentence):
    """H2 A wrong flag on one host: all end with its sentence and exit code."""
    three = hosts(tmp_path / "w", count=3, own={failing: [flag]})
    codes, errors = end_within(three, 15)
    assert codes == [2] * 3
    assert sentence in errors[failing] and "process " not in errors[failing]
    del errors[failing]
    assert all(e.startswith(f"error: process {failing}: ") for e in errors)
    assert all(sentence in error for error in errors)


def said_by_two(config, folder: Path) -> str:
    """The error of two hosts; one of them finds in a folder first what it imports."""
    command = [sys.executable, "-m", "fakedetect_jax.main", f"--config={config}"]
    command += [f"--workdir={folder / 'w'}", "--num_processes=2"]
    command += [f"--coordinator=localhost:{free_port()}", "--notune_malloc"]
    path = os.environ.get("PYTHONPATH", "")
    both = [
        subprocess.Popen(
            [*command, f"--process_id={number}"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": f"{place}:{ROOT}:{path}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, place in enumerate([ROOT, folder])
    ]
    errors = [process.communicate(timeout=LIMIT)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], errors
    assert errors[0] == errors[1]
    return errors[0]


def test_hosts_with_other_code_end_at_once(tmp_path, tiny_config):
    """H1 Hosts with other code: said before the first step, exit 2.

    One runs a copy of the packages in which a number has another value.
    """
    for package in ("fakedetect_jax", "tfds_ffpp"):
        shutil.copytree(ROOT / package, tmp_path / package)
    changed = tmp_path / "fakedetect_jax" / "augment" / "clips.py"
    changed.write_text(changed.read_text() + "\nSPARE = 1\n")
    error = said_by_two(tiny_config, tmp_path)
    assert re.search(r"the code is .*sources (\w+) on process 0 and .*", error)


def test_hosts_with_other_packages_end_at_once(tmp_path, tiny_config):
    """H1 Hosts with other versions of a package: said before the first step, exit 2.

    One finds what an installed version says of itself, and not the package.
    """
    installed = tmp_path / "optax-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: optax\nVersion: 0.0.1\n")
    error = said_by_two(tiny_config, tmp_path)
    ours = metadata.version("optax")
    said = f"the version of optax is {ours} on process 0 and 0.0.1 on process 1"
    assert said in error and "the code" not in error


def test_hosts_that_see_other_checkpoints_end_at_once(hosts, undisturbed, tmp_path):
    """H1 Hosts whose workdirs are not one: said before the first step, exit 4."""
    for number in range(2):  # as disks of two machines, under one name
        shutil.copytree(undisturbed, tmp_path / str(number) / "w")
    shutil.rmtree(tmp_path / "1" / "w" / "checkpoints" / "12")
    places = {number: tmp_path / str(number) for number in range(2)}
    both = hosts("/proc/self/cwd/w", "--config.num_epochs=8", places=places)
    codes, errors = end_within(both, 15)
    assert codes == [4, 4] and errors[0] == errors[1]
    assert "the newest checkpoint is 12 on process 0 and 10 on process 1" in errors[0]
    assert "must be on a file system that all hosts see" in errors[0]


@pytest.fixture
def other_data(tiny_run, tmp_path):
    """A copy of the tiny dataset: (its data_dir, the dataset's folder)."""
    data_dir = tmp_path / "tfds"
    shutil.copytree(tiny_run.config.data.data_dir, data_dir)
    built = Path(dataset.open_dataset(tiny_run.config).data_dir)
    return data_dir, data_dir / built.relative_to(tiny_run.config.data.data_dir)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_hosts_with_other_data_of_the_same_size_end_at_once(
    hosts, tmp_path, other_data, undisturbed, mode
):
    """H1 Hosts with other data of the same size: said before the first step, exit 3."""
    if mode == "eval":
        shutil.copytree(undisturbed, tmp_path / "w")
    data_dir, folder = other_data
    videos = folder / "videos-train.jsonl"
    lines = videos.read_text().splitlines(keepends=True)
    videos.write_text("".join(lines[::-1]))  # the same videos, numbered otherwise
    flags = [f"--config.data.data_dir={data_dir}"]
    both = hosts(tmp_path / "w", f"--mode={mode}", own={1: flags})
    codes, errors = end_within(both, 15)
    assert codes == [3, 3] and errors[0] == errors[1]
    assert "the digest of dataset demo is " in errors[0]
    assert "copy one host's dataset to all" in errors[0]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_fault_of_one_host_in_training_ends_both_with_its_sentence(
    hosts, tmp_path, other_data, failing
):
    """H2 A damaged record on one host: all end with its sentence and exit code."""
    data_dir, folder = other_data
    (shard,) = folder.glob("*-train.array_record-*")
    content = bytearray(shard.read_bytes())
    content[10_000:30_000] = bytes(20_000)  # as a bad disk would leave it
    shard.write_bytes(content)
    flags = [f"--config.data.data_dir={data_dir}"]
    both = hosts(tmp_path / "w", own={failing: flags})
    codes, errors = end_within(both, 15)
    assert codes == [3, 3], errors
    assert re.search(r"^error: .*record \d+ of split train", errors[failing])
    assert errors[1 - failing] == errors[failing].replace(
        "error: ", f"error: process {failing}: "
    )


def test_an_exception_of_one_host_ends_both_with_its_name(hosts, tmp_path):
    """H2 An exception that nobody foresaw: the others hear what it was, exit 1."""
    both = hosts(tmp_path / "w", phases={1: ["train", 2, "raise"]})
    both[1].until("RuntimeError: made to fail")
    codes = [process.wait(timeout=15) for process in both]
    assert codes == [1, 1], [process.stderr for process in both]
    assert "Traceback" in both[1].stderr and "Traceback" not in both[0].stderr
    said = "error: process 1: it ended with RuntimeError: made to fail"
    assert said in both[0].stderr.splitlines()
