"""The recipes for clusters in docs/cluster.md do what the text beside them says."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fakedetect_jax import errors, main
from fakedetect_jax.run import hosts
from tfds_ffpp.errors import DataError

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


def recipe(first_words: str) -> str:
    """The block that begins with these words."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(first_words)]
    return found


def test_the_image_is_made_of_what_it_copies():
    """Every file that the Dockerfile copies is there, and let in by .dockerignore."""
    root = Path(__file__).parents[2]
    lines = (root / "Dockerfile").read_text().splitlines()
    let_in = (root / ".dockerignore").read_text().splitlines()
    copied = [
        w for line in lines if line.startswith("COPY ") for w in line.split()[1:-1]
    ]
    assert "fakedetect_jax" in copied and "constraints.txt" in copied
    for name in copied:
        assert (root / name).exists() and f"!{name}" in let_in
    last = [line.split()[1] for line in lines if line.startswith("USER ")][-1]
    assert last not in ("root", "0")


def place_of(words: list[str]) -> hosts.Place:
    """What the flags of a command say of a process."""
    values = main.host_flags(["main", *words])
    return hosts.find_place(
        distributed=values.distributed,
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
    )


@pytest.mark.parametrize("code", [0, 2, 3, 4, 143])
def test_slurm_requeues_what_was_stopped_and_nothing_else(tmp_path, code):
    """With stand-ins for Slurm's commands; the script is that of the docs."""
    for name, body in {
        "srun": f'echo "$@" >> {tmp_path}/srun\nexit {code}',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol',
    }.items():
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f"#!/bin/bash\n{body}\n")
        stand_in.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(recipe("#!/bin/bash"))
    done = subprocess.run(
        ["bash", script],
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"},
        capture_output=True,
    )
    assert done.returncode == code
    words = shlex.split((tmp_path / "srun").read_text())
    assert main.host_flags(words).distributed
    requeued = tmp_path / "scontrol"
    assert requeued.exists() == (code == 143)
    if code == 143:
        assert requeued.read_text() == "requeue 42\n"


def test_the_kubernetes_job_is_whole():
    service, job = yaml.safe_load_all(recipe("apiVersion: v1"))
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["metadata"]["name"] == pod["subdomain"]
    command = container["args"][0].replace("$JOB_COMPLETION_INDEX", "3")
    place = place_of(shlex.split(command))
    assert place.address() == (f"{name}-0.{pod['subdomain']}", 9876)
    assert place.num_processes == spec["completions"] == spec["parallelism"]
    assert place.process_id == 3
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    claimed = {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == claimed and mounted["shared"] == "/shared"


def test_kubernetes_repeats_no_command_that_cannot_work():
    _, job = yaml.safe_load_all(recipe("apiVersion: v1"))
    spec = job["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # or there is no policy
    rules = spec["podFailurePolicy"]["rules"]
    codes = {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in rules
        if "onExitCodes" in rule
    }
    kinds = errors.ConfigError, DataError, errors.NonFiniteError
    assert codes["FailJob"] == {kind.exit_code for kind in kinds}
    assert codes["Ignore"] == {143}
    assert errors.PeerError.exit_code not in codes["FailJob"]
