"""Whatever ends a run, the same command gives the run that would have been."""

import json
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.run import fixed
from fakedetect_jax.run.checkpoint import CheckpointFacts, Checkpoints
from fakedetect_jax.training.resume import check_resume


def final_leaves(workdir) -> dict[str, str]:
    """The digests of all leaves of a workdir's newest checkpoint, by name."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        step = checkpoints.latest()
        assert step is not None
        return checkpoints.facts(step).digests
    finally:
        checkpoints.close()


def lines(workdir, kind="train") -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, text) if row["kind"] == kind]


def losses(workdir) -> list[float]:
    return [row["loss"] for row in lines(workdir)]


def assert_same_run(workdir, undisturbed):
    assert [r["step"] for r in lines(workdir)] == list(range(1, 13))
    assert losses(workdir) == losses(undisturbed)
    for kind in ("train", "val"):
        mine, theirs = lines(workdir, kind), lines(undisturbed, kind)
        assert [r["step"] for r in mine] == [r["step"] for r in theirs]
        assert [r["loss"] for r in mine] == [r["loss"] for r in theirs]
    assert final_leaves(workdir) == final_leaves(undisturbed)
    shutil.rmtree(workdir)


def test_stopped_in_every_phase_the_run_is_the_same(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T2, T3 SIGTERM or SIGINT in any phase: saved, the command to go on printed, exit
    143 or 130.
    """
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    for place, nth, number in [
        ("compile", 1, signal.SIGTERM),
        ("data wait", 3, signal.SIGINT),
        ("train", 2, signal.SIGTERM),
        ("validate", 1, signal.SIGINT),
        ("save", 1, signal.SIGTERM),
        ("commit", 2, signal.SIGTERM),
    ]:
        code, out, err = launchpad.run(*command, phase=[place, nth, number])
        assert code == 128 + number, (place, out, err)
        assert f"{number.name}: saving at the next boundary" in err
        assert "Traceback" not in err
        if place != "compile":  # where there was nothing to save
            assert "go on with: python -m fakedetect_jax.main --tune_malloc" in out
            assert f"--workdir {workdir}" in out
    code, _, err = launchpad.run(*command)
    assert code == 0, err
    assert_same_run(workdir, undisturbed)


def test_on_frames_that_devices_hold_the_run_is_the_same(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """Stopped while they are read, while it trains, and ended on frames of the host."""
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    held = (*command, "--config.data.resident=device")
    code, out, err = launchpad.run(*held, phase=["data wait", 3, signal.SIGTERM])
    assert code == 143 and "Traceback" not in err, err
    assert not list((workdir / "checkpoints").iterdir())
    code, out, err = launchpad.run(*held, phase=["train", 5, signal.SIGTERM])
    assert code == 143, err
    assert re.search(r"frames +\d+ are decoded, 0.00 GB on each device", out), out
    code, _, err = launchpad.run(*held, phase=["train", 4, signal.SIGTERM])
    assert code == 143, err
    code, _, err = launchpad.run(*command)
    assert code == 0, err
    assert "data.resident was device and is host" in err
    assert_same_run(workdir, undisturbed)


def test_averaged_weights_and_statistics_are_resumed_to_the_bit(
    launchpad, tiny_config, tmp_path
):
    def command(name):
        averaged = "--config.optimizer.ema_decay=0.99"
        return ("--config", tiny_config, "--workdir", tmp_path / name, averaged)

    code, _, err = launchpad.run(*command("whole"))
    assert code == 0, err
    stop = ["train", 5, signal.SIGTERM]
    assert launchpad.run(*command("parts"), phase=stop)[0] == 143
    code, _, err = launchpad.run(*command("parts"))
    assert code == 0, err
    names = final_leaves(tmp_path / "whole")
    assert any(name.startswith("ema_batch_stats.") for name in names)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_killed_at_any_moment_the_run_is_the_same(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T4 kill -9 at any moment, saves included: losses and all leaves bit-equal."""
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    for place, nth in [("compile", 1), ("save", 2), ("commit", 3), ("train", 4)]:
        code, _, err = launchpad.run(*command, phase=[place, nth, signal.SIGKILL])
        assert code == 137, err
    code, _, err = launchpad.run(*command)
    assert code == 0, err
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_same_run(workdir, undisturbed)


def test_killed_while_old_checkpoints_are_removed_the_run_is_the_same(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T4 kill -9 while old checkpoints are removed: losses and all leaves bit-equal."""
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    left = []
    # A checkpoint has some 25 files; the manifest without a folder goes last.
    for nth in (10, 25, 28):
        kill = ["remove", nth, signal.SIGKILL]
        assert launchpad.run(*command, phase=kill)[0] == 137
        folders = [p for p in (workdir / "checkpoints").iterdir() if p.is_dir()]
        oldest = min(folders, key=lambda path: int(path.name))
        left.append(sum(path.is_file() for path in oldest.rglob("*")))
    assert min(left) < 20, left  # one was half gone
    code, _, err = launchpad.run(*command)
    assert code == 0, err
    assert_same_run(workdir, undisturbed)


def test_killed_while_the_only_checkpoint_is_written_anew_it_is_not_lost(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T4 kill -9 while the only checkpoint is written anew: it, or the new one, is
    used.
    """
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    # It is saved without numbers of val, and again when it has them.
    stop = ["validate", 1, signal.SIGTERM]
    assert launchpad.run(*command, phase=stop)[0] == 143
    left = []
    # Written, not sealed; while that one is removed again; not written; sealed, while
    # the one before is removed.
    for place, nth in [("seal", 1), ("remove", 10), ("write", 1), ("remove", 15)]:
        code, out, err = launchpad.run(*command, phase=[place, nth, signal.SIGKILL])
        assert code == 137 and "from 0" not in out, (place, out, err)
        folders = [workdir / "checkpoints" / name for name in ("2", "2.before")]
        left.append([sum(p.is_file() for p in f.rglob("*")) for f in folders])
    anew, before = left[0]
    assert 0 < left[1][0] < anew and left[1][1] == before, left
    assert left[2] == [0, before], left
    assert left[3][0] and 0 < left[3][1] < before, left
    code, out, err = launchpad.run(*command)
    assert code == 0 and "from 2" in out and "warning" not in err, (out, err)
    assert_same_run(workdir, undisturbed)


def test_a_clock_that_goes_back_changes_nothing(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T20 The clock goes back: the newest checkpoint is that of the most steps; rates
    stay right.
    """
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    stop = ["train", 7, signal.SIGTERM]
    assert launchpad.run(*command, phase=stop)[0] == 143
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.is_dir()]
    # All was written next week, and the older the later.
    for path in workdir.rglob("*"):
        older = next((int(x) for x in path.parts if x in map(str, steps)), 0)
        when = time.time() + 7 * 86_400 - older
        os.utime(path, times=(when, when))
    code, out, err = launchpad.run(*command, backwards=True)
    assert code == 0 and "Traceback" not in err, err
    assert f"from {max(steps)}" in out
    assert all(row["clips_per_second"] > 0 for row in lines(workdir))
    assert re.findall(r"\d:\d\d left", out) and not re.search(r"-\d+:|-\d+ s\b", out)
    assert_same_run(workdir, undisturbed)


def test_a_second_signal_ends_at_once(launchpad, tiny_config, tmp_path):
    """T2 A second signal: the process ends at once; the last checkpoint stands."""
    command = ("--config", tiny_config, "--workdir", tmp_path / "w")
    # It hangs in a step, so that the first signal alone ends it after 25 seconds.
    process = launchpad.start(*command, phase=["train", 5, 0])
    process.until("it hangs")
    process.send(signal.SIGTERM)
    process.until("SIGTERM: saving")
    time.sleep(0.6)  # two within half a second are one request
    assert process.code() is None
    process.send(signal.SIGTERM)
    assert process.wait(10) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_the_whole_group_spares_the_workers(
    launchpad, tiny_config, undisturbed, tmp_path, number
):
    """T3 Ctrl-C to the whole process group: data workers live until all is saved."""
    workdir = tmp_path / "w"
    command = ("--config", tiny_config, "--workdir", workdir)
    workers = "--config.data.num_workers=2"
    code, _, err = launchpad.run(*command, workers, phase=["train", 3, -number])
    assert code == 128 + number and "Traceback" not in err, err
    code, _, err = launchpad.run(*command)
    assert code == 0, err
    assert_same_run(workdir, undisturbed)


@pytest.mark.parametrize("victims, bit", [("d/*", 4), ("metrics/metrics", 128)])
def test_a_flipped_bit_costs_a_few_steps_and_is_told(
    launchpad, tiny_config, undisturbed, tmp_path, victims, bit
):
    """T5 A flipped bit in a checkpoint: a warning, and the one before is used."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    command = ("--config", tiny_config, "--workdir", workdir)
    newest = workdir / "checkpoints" / "12"
    victim = max(newest.rglob(victims), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= bit
    victim.write_bytes(bytes(content))
    code, out, err = launchpad.run(*command)
    assert code == 0, err
    assert "warning: checkpoint 12 is skipped: its file " in err
    assert "from 10" in out
    assert_same_run(workdir, undisturbed)


def test_when_every_checkpoint_is_damaged_nothing_starts_anew(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T5 Every checkpoint damaged: exit 4, nothing starts anew."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    for manifest in (workdir / "checkpoints").glob("*.digest.json"):
        manifest.write_text("{}")
    before = (workdir / "metrics.jsonl").read_bytes()
    code, _, err = launchpad.run("--config", tiny_config, "--workdir", workdir)
    assert code == 4
    assert "error: no checkpoint in" in err and "choose another --workdir" in err
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_model_is_refused_by_field_and_nothing_is_written(
    launchpad, tiny_config, undisturbed
):
    """T7 A checkpoint of another model: fields named, nothing written."""
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    code, _, err = launchpad.run(
        "--config", tiny_config, "--workdir", undisturbed, "--config.model.width=16"
    )
    assert code == 4
    assert "model.width was 8 and is 16" in err and err.count("\n") == 1
    after = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    assert {p.name for p in after if after[p] != before.get(p)} <= {"lock"}


def test_changed_fields_versions_and_devices_are_told_one_by_one(
    launchpad, tiny_config, undisturbed, tmp_path
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, "--config.num_epochs=7"),
        "--config.optimizer.learning_rate=0.004",
        devices=2,
    )
    assert code == 0, err
    assert "num_epochs was 6 and is 7" in err
    assert "optimizer.learning_rate was 0.002 and is 0.004" in err
    assert "devices were 1 x cpu (cpu), 1 process and are 2 x cpu" in err
    assert "steps     14, 2 per epoch; from 12" in out


def test_a_result_of_more_steps_is_not_that_of_the_fewer_asked_for(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T17 Resumed with fewer steps than it has: the result is said to be of all its
    steps.
    """
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, "--config.batch_size=16"),
        *("--config.eval.final_split=val", "--config.num_epochs=6"),
    )
    assert code == 0, err
    assert "batch_size was 8 and is 16" in err
    assert "an epoch was 2 steps and is 1: step 12 is 6.0 epochs of before and" in err
    assert "nothing is trained: the run has 12 steps and this config asks for 6" in out
    assert "what follows is of the 12 steps" in out and "training is complete" not in (
        out
    )
    assert out.index("what follows is of the 12 steps") < out.index("Val Loss")


def test_a_result_that_was_there_is_shown_as_such(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """T17 A result that was there: shown as such."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    command = ["--config", tiny_config, "--workdir", workdir]
    command += ["--config.eval.final_split=val"]
    said = "was scored before with these weights, this dataset and these settings"
    for seen in (False, True):
        code, out, err = launchpad.run(*command)
        assert code == 0, err
        assert "training is complete: 12 of 12 steps" in out
        assert (said in out) == seen


OTHER_TASKS = [
    ("model.width", 16),
    ("dataset.image_size", 48),
    ("data.clip_frames", 3),
    ("data.frame_stride", 2),
    ("data.hold_out", ("Deepfakes",)),
    ("data.train", "demo=2,celebdf_v2=1"),
    ("optimizer.ema_decay", 0.5),
    ("eval.max_error", 0.01),
    ("eval.validation", "celebdf_v2"),
    ("trainable", "lora"),
    ("adapter.last_n", 7),
    ("adapter.rank", 7),
    ("adapter.alpha", 7.0),
]


def test_every_field_that_a_model_fixes_is_tried():
    assert {field for field, _ in OTHER_TASKS} >= set(fixed.TRAINED_FIELDS)


@pytest.mark.parametrize("field, value", OTHER_TASKS)
def test_fields_that_make_another_model_or_task_are_refused(tiny_run, field, value):
    """As a checkpoint tells them: through JSON."""
    recorded = json.loads(json.dumps(tiny_run.config.to_dict()))
    config = tiny_run.config.copy_and_resolve_references()
    group, _, name = field.rpartition(".")
    with config.unlocked():
        (config[group] if group else config)[name] = value
    run = SimpleNamespace(config=config.lock(), workdir=tiny_run.workdir)
    with pytest.raises(CheckpointError, match=f"another config: {field} was "):
        check_resume(run, CheckpointFacts(config=recorded), None, 2, None)  # pyright: ignore
