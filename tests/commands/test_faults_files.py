"""A damaged line costs that line; a damaged file is named, and costs no work."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from fakedetect_jax.pages.formats import MADE_WARNING
from fakedetect_jax.run.checkpoint import Checkpoints
from tfds_ffpp.store.files import read_lines


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
    """T19 Damaged lines in metrics.jsonl: left out, with a warning."""
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


def test_a_damaged_count_of_evaluations_is_said_and_goes_on(stopped):
    """T19 A damaged line in eval/touched.jsonl: it counts as an evaluation of test,
    with a warning.
    """
    workdir, resume = stopped
    path = workdir / "eval" / "touched.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'\xff\n{"split": "test", "step": 3}\n{"split": "te')
    code, _, err = resume("--mode=eval", "--split=test")
    assert code == 0, err
    said = f"warning: {path}: line 1, 3 is damaged and counted as an evaluation of test"
    assert err.splitlines().count(said) == 1
    (context,) = workdir.glob("eval/test@*/context.json")
    assert json.loads(context.read_text())["test_evaluations"] == 4
    assert path.read_bytes().startswith(b"\xff\n")


def may_not_be_written(folder):
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("more", [("--config.num_epochs=8",), ("--mode=eval",)])
def test_a_run_of_which_nothing_may_be_written_is_left_as_it_is(
    launchpad, tiny_config, undisturbed, tmp_path, more
):
    """T9 A run that may not be written: said, and left as it is."""
    workdir = shutil.copytree(undisturbed, tmp_path / "w")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    may_not_be_written(workdir)
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, *more), bound=True
    )
    assert code == 4 and "train " not in out
    assert err == (
        f"error: workdir {workdir} cannot be written (Permission denied); choose "
        "another --workdir\n"
    )
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_run_that_may_not_be_looked_at_is_said(
    launchpad, tiny_config, undisturbed, tmp_path, mode
):
    """T9 A run that may not be looked at: said."""
    workdir = shutil.copytree(undisturbed, tmp_path / "closed" / "w")
    command = ("--config", tiny_config, "--workdir", workdir, "--mode", mode)
    (tmp_path / "closed").chmod(0)
    code, _, err = launchpad.run(*command, bound=True)
    (tmp_path / "closed").chmod(0o755)
    assert code == 2 and err.count("\n") == 1, err
    assert "no usable path (Permission denied); give another" in err
    (workdir / "config.json").chmod(0)
    if mode == "eval":
        code, _, err = launchpad.run(*command, bound=True)
        assert (code, err.count("\n")) == (4, 1), err
        assert "config.json cannot be read (Permission denied)" in err


def of_length(folder, length: int) -> str:
    """A path of so many bytes below a folder."""
    path = str(folder)
    while (left := length - len(path)) > 250:
        path += "/" + "d" * min(200, left - 2)
    return path + "/" + "w" * (left - 1)


@pytest.mark.parametrize(
    "length, name, code, said",
    [
        (4097, "", 2, "no usable path (File name too long); give another"),
        (0, 256 * "n", 2, "no usable path (File name too long); give another"),
        (4000, "", 4, "has 4,000 bytes; its files need 200 more, and this system"),
    ],
)
def test_a_path_that_is_too_long_is_said_before_the_first_step(
    launchpad, tiny_config, tmp_path, length, name, code, said
):
    """T9 A path that is too long: exit 2 at once, or 4 before the first step."""
    workdir = of_length(tmp_path, length) if length else str(tmp_path / name)
    for more in [(), ("--mode=eval",)]:
        ended, out, err = launchpad.run(
            *("--config", tiny_config, "--workdir", workdir, *more)
        )
        assert "Traceback" not in err and err.count("\n") == 1, err
        if not more:
            assert (ended, out) == (code, "") and said in err
    assert not (tmp_path / "w").exists() and not list(tmp_path.iterdir())


def test_the_longest_path_and_name_that_fit_hold_a_run(
    launchpad, tiny_config, tmp_path
):
    for workdir in (of_length(tmp_path, 4096 - 200), str(tmp_path / (255 * "n"))):
        code, _, err = launchpad.run(
            *("--config", tiny_config, "--workdir", workdir, "--config.num_epochs=1"),
            "--config.eval.final_split=val",
        )
        said = err.replace(f"warning: {MADE_WARNING}", "")
        assert code == 0 and "warning" not in said, err[-2000:]


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"config":5}', '{"config":{"model":{}}}', "\udcff"]
)
def test_a_damaged_config_of_a_run_is_named(stopped, content):
    """T19 A damaged config.json of a run: named."""
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


def assert_ends_and_changes_nothing(stopped):
    workdir, resume = stopped
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    code, _, err = resume("--config.num_epochs=8")
    assert code == 4 and err.startswith("error: no checkpoint in "), err
    assert err.count("\n") == 1
    before.pop(workdir / "lock", None)
    assert before == {p: p.read_bytes() for p in before}


def test_lost_manifests_end_the_run_and_change_nothing(stopped):
    """T5 All manifests lost: exit 4, no file is changed."""
    for manifest in (stopped[0] / "checkpoints").glob("*.digest.json"):
        manifest.unlink()
    assert_ends_and_changes_nothing(stopped)


def test_lost_folders_of_steps_end_the_run_and_change_nothing(stopped):
    """T5 All folders of steps lost: exit 4, no file is changed."""
    for folder in (stopped[0] / "checkpoints").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    assert_ends_and_changes_nothing(stopped)


def test_a_final_split_that_is_none_is_said_before_training(
    launchpad, tiny_config, tmp_path
):
    """C7 A final split that does not exist: said before training."""
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
    """T21 A data worker is killed: one sentence and the command to go on, exit 4."""
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
    """T12 The disk is full at the start: exit 4 and a sentence."""
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
    """T12 The disk is full at the report: exit 4 and a sentence."""
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
