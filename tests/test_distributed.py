"""Several processes compute what one does, stop together and end when one is gone."""

import json
import re
import shutil
import signal
import socket

import numpy as np
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def hosts(launchpad, tiny_config):
    """Starts a run of two processes with two devices each."""
    started = []

    def start(workdir, *more):
        port = free_port()
        for number in range(2):
            started.append(
                launchpad.start(
                    *("--config", tiny_config, "--workdir", workdir),
                    *(f"--coordinator=localhost:{port}", "--num_processes=2"),
                    *(f"--process_id={number}", "--config.eval.batch_size=4", *more),
                    devices=2,
                )
            )
        return started[-2:]

    yield start
    for process in started:
        if process.code() is None:
            process.send(signal.SIGKILL)


def rows(workdir, kind="train"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_two_processes_then_four_devices_are_one_device(
    launchpad, tiny_config, hosts, undisturbed, tmp_path
):
    workdir = tmp_path / "w"
    both = hosts(workdir)
    both[0].until("train 3/")
    both[1].send(signal.SIGTERM)  # one host alone is told; both stop at one step
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


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_dies_the_other_ends_with_a_sentence(
    hosts, undisturbed, tmp_path, victim
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    both = hosts(workdir, "--config.num_epochs=100000")
    both[0].until("train 15/")
    both[victim].send(signal.SIGKILL)
    survivor = both[1 - victim]
    assert survivor.wait(90) == 4
    errors = [x for x in survivor.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert "another process of the run" in errors[0]
    assert "goes on from the last checkpoint" in errors[0]
