"""--mode robustness on made videos: whole, killed and gone on with."""

import json
import shutil
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from fakedetect_jax.augment.degrade import FAMILIES
from fakedetect_jax.evaluation import robustness
from fakedetect_jax.reports import results
from fakedetect_jax.run.hosts import Hosts
from tests.patience import LIMIT


@pytest.fixture
def workdir(tiny_run, tmp_path):
    return shutil.copytree(tiny_run.workdir, tmp_path / "w")


def test_every_family_is_scored_once_however_often_it_is_stopped(launchpad, workdir):
    command = ("--workdir", workdir, "--mode=robustness", "--split=test")
    process = launchpad.start(*command)
    end = time.monotonic() + LIMIT
    while len(list(workdir.glob("eval/test@*/robustness/*-?.jsonl"))) < 9:
        assert process.code() is None and time.monotonic() < end, process.stderr
        time.sleep(0.02)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.stderr
    assert "seconds" not in process.stdout
    (folder,) = workdir.glob("eval/test@*/robustness")
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*-?.jsonl")}
    assert 5 <= len(done) < 5 * len(FAMILIES)
    assert not (folder / "robustness.json").exists()
    code, out, err = launchpad.run(*command)
    assert code == 0, err
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    found = json.loads((folder / "robustness.json").read_text())
    assert [c["family"] for c in found["curves"]] == [f.name for f in FAMILIES]
    assert all(len(curve["levels"]) == 5 for curve in found["curves"])
    report = json.loads((folder.parent / "report.json").read_text())
    assert found["untouched"] == pytest.approx(report["video"]["auc"], abs=1e-12)
    assert found["interval"] == pytest.approx(report["video"]["intervals"]["auc"])
    means = [curve["mean"] for curve in found["curves"]]
    assert found["mean"] == pytest.approx(sum(means) / len(means))
    for level in found["curves"][0]["levels"]:
        assert level["change"] == pytest.approx(level["auc"] - found["untouched"])
    page = (folder / "robustness.html").read_text()
    assert page.count("<svg") == len(FAMILIES) and "mean of families" in out
    code, out, err = launchpad.run(*command)  # nothing is scored again
    assert code == 0 and "degrade" not in out + err, err


def test_levels_of_which_nobody_can_tell_the_settings_are_scored_anew(
    tiny_run, tmp_path
):
    run: Any = SimpleNamespace(hosts=Hosts())
    folder = tmp_path / "robustness"
    level, settings = folder / "blur-1.jsonl", folder / "scored_with.json"
    for damaged in (False, True):
        robustness._begin(run, tiny_run.evaluation, folder)
        level.write_text("")
        if damaged:
            settings.write_bytes(b"\xff" + settings.read_bytes())
        robustness._begin(run, tiny_run.evaluation, folder)
        assert level.exists() == (not damaged)
        there = json.loads(settings.read_text())
        assert there == results.recorded(tiny_run.evaluation)
