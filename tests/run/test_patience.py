"""config.eval.patience: training ends when val gets no better, and stays ended."""

import shutil
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from ml_collections import ConfigDict

from fakedetect_jax.training import metrics_file, resume
from fakedetect_jax.training.metrics_file import first_best
from tests.run.test_resume import final_leaves, lines
from tfds_ffpp.store.files import write_lines

# Nothing moves: every evaluation is equal to the first.
STILL = ("--config.optimizer.learning_rate=1e-12", "--config.model.freeze_stages=2")
ENDED = "training ends with step 6: none of 2 evaluations (eval.patience) was better"


def steps_of(workdir, kind: str) -> list[int]:
    return [row["step"] for row in lines(workdir, kind)]


@pytest.fixture(scope="module")
def ended(launchpad, tiny_config, tmp_path_factory):
    """The words of a run that ended early, without --workdir, and its workdir."""
    workdir = tmp_path_factory.mktemp("patience") / "w"
    words = ("--config", tiny_config, *STILL, "--config.eval.patience=2")
    code, out, err = launchpad.run(*words, "--workdir", workdir)
    assert code == 0, err
    assert f"{ENDED} than that of step 2" in out
    return words, workdir


def test_equal_evaluations_are_no_better(ended):
    """Epochs of two steps: the first evaluation is the best, two more end it."""
    _, workdir = ended
    assert steps_of(workdir, "val") == [2, 4, 6]
    assert steps_of(workdir, "train") == list(range(1, 7))
    assert len({row["video_auc"] for row in lines(workdir, "val")}) == 1


def test_the_same_command_trains_no_further(ended, launchpad):
    words, workdir = ended
    before = (workdir / "metrics.jsonl").read_bytes()
    code, out, err = launchpad.run(*words, "--workdir", workdir)
    assert code == 0, err
    assert ENDED in out and (workdir / "metrics.jsonl").read_bytes() == before


def test_killed_on_the_way_it_ends_at_the_same_step(ended, launchpad, tmp_path):
    words, whole = ended
    workdir = tmp_path / "w"
    for place, nth in (("validate", 2), ("save", 1), ("commit", 1)):
        kill = [place, nth, signal.SIGKILL]
        assert launchpad.run(*words, "--workdir", workdir, phase=kill)[0] == 137
    code, out, err = launchpad.run(*words, "--workdir", workdir)
    assert code == 0 and ENDED in out, err
    assert steps_of(workdir, "val") == [2, 4, 6]
    assert final_leaves(workdir) == final_leaves(whole)


def test_without_patience_it_goes_on(ended, launchpad, tmp_path):
    words, whole = ended
    shutil.copytree(whole, tmp_path / "w")
    more = ("--workdir", tmp_path / "w", "--config.eval.patience=0")
    code, _, err = launchpad.run(*words, *more)
    assert code == 0, err
    assert steps_of(tmp_path / "w", "train") == list(range(1, 13))


def test_what_could_not_be_written_counts_too(tmp_path):
    """The checkpoints know of an evaluation that metrics.jsonl lacks."""
    aucs = {100: 0.7, 300: 0.9}
    write_lines(
        tmp_path / "metrics.jsonl",
        [{"step": step, "kind": "val", "video_auc": 0.7} for step in (100, 200)],
    )
    checkpoints: Any = SimpleNamespace(
        finish=int,
        ranked=lambda: sorted(aucs, key=lambda step: -aucs[step]),
        metrics=lambda step: {"video_auc": aucs[step]},
    )
    evaluation = ConfigDict({"patience": 2, "every_epochs": 1})
    run: Any = SimpleNamespace(
        config=ConfigDict({"eval": evaluation}), workdir=tmp_path
    )
    plan: Any = SimpleNamespace(steps_per_epoch=100)
    assert resume.ended_early(run, plan, checkpoints, 300) == 0
    aucs[300] = 0.7
    assert resume.ended_early(run, plan, checkpoints, 300) == 100


def test_lines_are_written_where_events_cannot_be(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("no space")

    monkeypatch.setattr(metrics_file, "_Events", refuse)
    file = metrics_file.MetricsFile(tmp_path, resumed_step=0)
    file.write(1, "val", {"video_auc": 0.5})
    file.close()
    assert lines(tmp_path, "val") == [{"step": 1, "kind": "val", "video_auc": 0.5}]
    assert capsys.readouterr().err.count("metrics cannot be written") == 1


def test_it_ends_where_val_says(launchpad, tiny_config, undisturbed, tmp_path):
    """Against the evaluations of a run that went to its end."""
    aucs = {row["step"]: row["video_auc"] for row in lines(undisturbed, "val")}
    wanted = 12
    for step in aucs:
        best = max((s for s in aucs if s <= step), key=lambda s: (aucs[s], -s))
        assert first_best(undisturbed, "video_auc", step) == (best, aucs[best])
        if step - best >= 2:  # an epoch, which is a patience of one
            wanted = step
            break
    words = ("--config", tiny_config, "--config.eval.patience=1")
    code, _, err = launchpad.run(*words, "--workdir", tmp_path / "w")
    assert code == 0, err
    assert steps_of(tmp_path / "w", "train")[-1] == wanted
