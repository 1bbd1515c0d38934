"""doctor: what works is said to work, and each fault by its own line, with a cure."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakedetect_jax import doctor
from fakedetect_jax.doctor import FAULT, OK, WARNING
from fakedetect_jax.run.checkpoint import Checkpoints
from tests.patience import LIMIT
from tfds_ffpp.tfds_ffpp_dataset_builder import Builder


def run(*words, **environ) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fakedetect_jax.doctor", *map(str, words)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def only(findings, name: str) -> doctor.Finding:
    (found,) = [one for one in findings if one.name == name]
    return found


def test_a_sane_machine_is_called_so_and_names_nobody(tiny_run, tmp_path):
    """Packages to checkpoint and dataset, the whole way included."""
    home = tmp_path / "home" / "a-private-name"
    home.mkdir(parents=True)
    dataset = Path(tiny_run.config.data.data_dir) / "tfds_ffpp" / "demo"
    dataset = dataset / str(Builder.VERSION)
    done = run(
        *("--json", "--workdir", tiny_run.workdir, "--dataset", dataset),
        HOME=str(home),
        XLA_FLAGS="",  # one device
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    states = {line["name"]: line["state"] for line in lines}
    named = ("python", "packages", "config", "decoder", "faces", "device", "whole way")
    named += ("checkpoints", "dataset")
    assert {name: states[name] for name in named} == dict.fromkeys(named, OK)
    assert FAULT not in states.values() and {"memory", "disk", "sandbox"} <= set(states)
    for private in (str(tmp_path), str(tiny_run.workdir), "a-private-name"):
        assert private not in done.stdout
    if len(getpass.getuser()) > 2:
        assert getpass.getuser() not in done.stdout


def test_a_broken_checkpoint_is_named(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    whole = only(doctor.look_at_workdir(workdir), "checkpoints")
    assert whole.state == OK and "the newest of step 2" in whole.said
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    steps = checkpoints.steps()
    checkpoints.close()
    for step in steps:
        folder = workdir / "checkpoints" / str(step)
        files = (path for path in folder.rglob("*") if path.is_file())
        path = max(files, key=lambda file: file.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    broken = only(doctor.look_at_workdir(workdir), "checkpoints")
    assert broken.state == FAULT and f"step {steps[0]}" in broken.said and broken.cure


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/w"])
def test_a_folder_that_cannot_be_written_is_a_fault(folder):
    found = only(doctor.look_at_machine(Path(folder)), "disk")
    assert found.state == FAULT and "cannot be written" in found.said and found.cure


def test_a_disk_that_takes_no_more_is_a_fault(tmp_path):
    """Of a process that may write one megabyte."""
    body = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from fakedetect_jax import doctor\n"
        "print(list(doctor.look_at_machine(Path(sys.argv[1])))[1])"
    )
    words = [sys.executable, "-c", body, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert "state='fault'" in done.stdout and "File too large" in done.stdout


def test_a_face_finder_without_its_model_is_a_fault(tmp_path):
    missing = str(tmp_path / "yunet.onnx")
    dataset = SimpleNamespace(
        face_finder="yunet", face_finder_model=missing, landmarks="none"
    )
    findings = doctor.look_at_videos(tmp_path, SimpleNamespace(dataset=dataset))
    found = only(findings, "faces")
    assert found.state == FAULT and missing in found.said and found.cure


def test_a_device_that_does_not_start_is_a_fault():
    body = "from fakedetect_jax import doctor; print(list(doctor.look_at_devices()))"
    done = subprocess.run(
        [sys.executable, "-c", body],
        env={**os.environ, "JAX_PLATFORMS": "cuda", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (
        "state='fault'" in done.stdout and "no device could be started" in done.stdout
    )


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    done = run("--dataset", tmp_path)
    assert done.returncode == 2 and "dataset_info.json" in done.stderr


def test_a_package_that_does_not_fit_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "0.0.1")
    found = only(doctor.look_at_packages(), "packages")
    assert found.state == FAULT and "jax 0.0.1" in found.said
    assert "pip install" in found.cure


def test_warnings_alone_do_not_fail(monkeypatch, capsys):
    finding = doctor.Finding("disk", WARNING, "slow", "another disk")
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([finding]))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "warning  disk         slow  -> another disk\n"
