"""A damaged line costs that line; a damaged file is named, and costs no work."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from fakedetect_jax.files import read_lines
from fakedetect_jax.run.checkpoint import Checkpoints


def test_whole_lines_are_read_and_damaged_ones_numbered(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n\xff\n12\n[]\n{"b":2}\n' + b"[" * 10**6 + b'\n{"a":3')
    lines = read_lines(path, required=("a",))
    assert lines.rows == [{"a": 1}]
    assert lines.damaged == [2, 3, 4, 5, 6] and lines.cut
    assert lines.complaint(path).startswith(f"{path}: line 2, 3, 4, 5, 6 is damaged")
    path.write_text('{"a":1}\n')
    assert read_lines(path) == ([{"a": 1}], [], False)
    assert read_lines(path).complaint(path) == ""


@pytest.fixture
def stopped(launchpad, tiny_config, undisturbed, tmp_path):
    """A run of 12 steps whose newest checkpoints are gone: it resumes before them."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    command = ("--config", tiny_config, "--workdir", workdir)

    def resume(*argv):
        return launchpad.run(*command, "--config.eval.final_split=val", *argv)

    return workdir, resume


def test_damaged_lines_of_the_metrics_cost_those_lines(stopped):
    workdir, resume = stopped
    shutil.rmtree(workdir / "checkpoints" / "12")
    (workdir / "checkpoints" / "12.digest.json").unlink()
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff\n", b'12\n{"a":1}\n', *lines[1:]]))
    code, out, err = resume()
    assert code == 0 and "Traceback" not in err, (out, err)
    assert f"{path}: line 2, 3, 4 is damaged" in err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [r["step"] for r in rows if r["kind"] == "train"]
    assert steps == list(range(1, 13))
    (page,) = workdir.glob("eval/val@*/report.html")
    assert "Training: loss" in page.read_text()


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"config":5}', '{"config":{"model":{}}}', "\udcff"]
)
def test_a_damaged_config_of_a_run_is_named(stopped, content):
    workdir, resume = stopped
    path = workdir / "config.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    code, _, err = resume("--mode", "eval")
    assert code == 4, err
    assert re.fullmatch(r"error: .*config\.json.* restore it\b.*\n", err), err


def test_a_config_of_a_run_that_lacks_a_field_is_named(stopped):
    workdir, resume = stopped
    path = workdir / "config.json"
    record = json.loads(path.read_text())
    record["config"]["model"] = {}
    path.write_text(json.dumps(record))
    code, _, err = resume("--mode", "eval")
    assert code == 4, err
    assert "lacks model.backbone" in err and err.count("\n") == 1


def test_lost_manifests_end_the_run_and_change_nothing(stopped):
    workdir, resume = stopped
    for manifest in (workdir / "checkpoints").glob("*.digest.json"):
        manifest.unlink()
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    code, _, err = resume("--config.num_epochs=8")
    assert code == 4 and err.startswith("error: no checkpoint in "), err
    before.pop(workdir / "lock", None)
    assert before == {p: p.read_bytes() for p in before}


def test_a_final_split_that_is_none_is_said_before_training(
    launchpad, tiny_config, tmp_path
):
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", tmp_path / "w"),
        "--config.eval.final_split=tset",
    )
    assert code == 3 and "train 1/" not in out
    assert err.startswith("error: ") and "has no split tset" in err


def children(pid: int) -> list[int]:
    """The processes started by one, and theirs."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry), *children(int(entry))]
    return found


def is_worker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return "spawn_main" in file.read()
    except OSError:
        return False


def test_a_killed_data_worker_is_said_with_the_command_to_go_on(
    launchpad, tiny_config, tmp_path
):
    process = launchpad.start(
        *("--config", tiny_config, "--workdir", tmp_path / "w"),
        "--config.num_epochs=100000",
        "--config.data.num_workers=2",
    )
    process.until("train 1/")
    workers = [pid for pid in children(process.pid) if is_worker(pid)]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait() == 4, process.stderr
    assert time.monotonic() - killed < 30
    errors = [x for x in process.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and "exit code -9" in errors[0]
    assert "Traceback" not in process.stderr
    assert "go on with: python -m fakedetect_jax.main" in process.stdout


def test_a_disk_that_is_full_at_the_start_is_said(launchpad, tiny_config, tmp_path):
    from tests.commands.test_faults_training import small_disk

    with small_disk(tmp_path / "disk", "3m") as disk:
        workdir = disk / "w"
        workdir.mkdir()
        # Room for the probe and the lock alone: config.json has no block left.
        (workdir / "lock").write_text("x" * 100)
        with open(disk / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        code, out, err = launchpad.run(
            *("--config", tiny_config, "--workdir", workdir), "--config.num_steps=1"
        )
    assert code == 4, (out, err)
    assert "Traceback" not in err and err.startswith("error: "), err


def test_a_disk_that_is_full_at_the_report_is_said(
    launchpad, tiny_config, undisturbed, tmp_path
):
    from tests.commands.test_faults_training import small_disk

    with small_disk(tmp_path / "disk", "30m") as disk:
        workdir = disk / "w"
        shutil.copytree(undisturbed, workdir)
        newest = Checkpoints(workdir / "checkpoints", read_only=True)
        newest.close()
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        os.truncate(filler, max(filler.stat().st_size - 64 * 1024, 0))
        code, out, err = launchpad.run(
            *("--config", tiny_config, "--workdir", workdir, "--mode", "eval")
        )
        kept = list(workdir.glob("eval/*/report.json"))
    assert code == 4, (out, err)
    assert "Traceback" not in err and "No space left on device" in err
    assert not kept
