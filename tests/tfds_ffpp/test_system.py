"""Where Python lacks fcntl and resource, as on Windows: one sentence, or it works."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import LIMIT
from tfds_ffpp import system

# A process in which neither module can be found, from before anything else is imported.
# Nothing of the standard library that we use needs them.
LACKING = """
import runpy, sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name in ("fcntl", "resource") else found(name, package)
)
for name in ("fcntl", "resource"):
    sys.modules.pop(name, None)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def lacking(module: str, *argv: object) -> subprocess.CompletedProcess:
    """A command of ours in a Python without fcntl and resource."""
    return subprocess.run(
        [sys.executable, "-c", LACKING, module, *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},  # one device
        timeout=LIMIT,
    )


def test_training_is_refused_in_a_sentence(tiny_config, tmp_path):
    done = lacking(
        *("fakedetect_jax.main", "--config", tiny_config),
        *("--workdir", tmp_path / "w", "--tune_malloc=false"),
    )
    assert done.returncode == 2, done.stderr
    assert "training needs Linux, and Python has no module fcntl and no re" in (
        done.stderr
    )
    assert "WSL 2" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_build_is_refused_in_a_sentence(tiny_run, tmp_path):
    done = lacking(
        *("tfds_ffpp", "--manual_dir", tiny_run.videos, "--data_dir", tmp_path)
    )
    assert done.returncode == 2, done.stderr
    assert "error: building a dataset needs Linux" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["fakedetect_jax.main", "tfds_ffpp"])
def test_help_needs_nothing(module):
    assert lacking(module, "--help").returncode == 0


def test_evaluation_and_scoring_work(tiny_run, tiny_config, undisturbed, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    done = lacking(
        *("fakedetect_jax.main", "--config", tiny_config, "--workdir", workdir),
        *("--mode=eval", "--split=test", "--tune_malloc=false"),
    )
    assert done.returncode == 0, done.stderr
    assert "Test Loss" in done.stdout and "peak host memory" not in done.stdout
    video = next(tiny_run.videos.rglob("*.mp4"))
    done = lacking(
        *("fakedetect_jax.predict", "--workdir", workdir, "--output", "-"),
        *("--processes=1", "--compilation_cache=", video),
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[0])["outcome"]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_of_memory_is_in_bytes_on_each_system(monkeypatch, platform, unit):
    import resource

    monkeypatch.setattr(sys, "platform", platform)
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert system.peak_bytes() >= unit * kept
    assert system.peak_bytes() < 2 * unit * kept


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    assert system.num_cores() >= 1


@pytest.mark.parametrize("way", ["die_with_parent", "watch_parent"])
def test_a_process_ends_with_its_parent(way):
    """The fork answers when it has begun, and again if its parent's end is nothing."""
    code = (
        "import os, time\n"
        "from tfds_ffpp import system\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        f"    system.{way}(parent)\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        killed = time.monotonic()
        assert process.stdout.read() == b""  # until the fork too has closed it
        assert time.monotonic() - killed < 20


def group(root, path: str, **files: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name.replace("__", ".")).write_text(text)


def test_a_containers_share_of_the_cores_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    assert system.num_cores(tmp_path) == 64
    group(tmp_path, "proc/self", cgroup="0::/pod/box\n")
    group(tmp_path, "sys/fs/cgroup/pod/box", cpu__max="max 100000\n")
    assert system.num_cores(tmp_path) == 64
    group(tmp_path, "sys/fs/cgroup/pod", cpu__max="250000 100000\n")
    assert system.num_cores(tmp_path) == 3
    group(tmp_path, "proc/self", cgroup="4:cpu,cpuacct:/box\n0::/\n")
    old = {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}
    group(tmp_path, "sys/fs/cgroup/cpu/box", **old)
    assert system.num_cores(tmp_path) == 64
    group(tmp_path, "sys/fs/cgroup/cpu/box", cpu__cfs_quota_us="50000\n")
    assert system.num_cores(tmp_path) == 1


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_the_containers(tmp_path, version):
    two = version == 2
    group = "sys/fs/cgroup/a" if two else "sys/fs/cgroup/memory/a"
    names = ("max", "current") if two else ("limit_in_bytes", "usage_in_bytes")
    root = write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:  8000000 kB\n",
            "proc/self/cgroup": "0::/a/b\n" if two else "4:cpu:/x\n5:memory:/a/b\n",
            f"{group}/b/memory.{names[0]}": "max" if two else 1 << 62,
            f"{group}/memory.{names[0]}": 5_000_000,  # of the group that holds it
            f"{group}/memory.{names[1]}": 3_000_000,
            f"{group}/memory.stat": f"{'' if two else 'total_'}inactive_file 1000000",
        },
    )
    assert system.free_memory(root) == 3_000_000
    (root / "proc/meminfo").write_text("MemAvailable: 1000 kB\n")  # the host's
    assert system.free_memory(root) == 1000 << 10
    (root / "proc/meminfo").write_text("MemAvailable: 8000000 kB\n")
    (root / "proc/self/cgroup").unlink()
    assert system.free_memory(root) == 8_000_000 << 10
    (root / "proc/meminfo").unlink()
    assert system.free_memory(root) is None
