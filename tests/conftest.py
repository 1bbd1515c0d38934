"""Eight virtual CPU devices for every test; programs are compiled once for all."""

import os
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.launchpad import Launchpad
from tfds_ffpp.synthetic import tree

# Most of these tests' time is compiling, which takes a third without LLVM's
# optimisations. Commands that are launched compile as they do for users.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"

ROOT = Path(__file__).parent.parent


# Each worker is given a file at a time (--dist loadfile): those that take longest come
# first, as .ci/check_skips.py prints them, so that no core waits for one at the end.
SLOW = (
    *("run/test_resume.py", "run/test_buckets.py", "service/test_service.py"),
    *("service/test_machines.py", "run/test_distributed.py"),
    *("evaluation/test_suite.py", "commands/test_faults_training.py"),
    *("commands/test_faults_files.py", "tfds_ffpp/test_build.py"),
    *("commands/test_evaluate.py", "commands/test_cross_dataset.py"),
    *("run/test_hosts.py", "tfds_ffpp/test_synthetic.py", "data/test_same_data.py"),
    *("evaluation/test_robustness.py", "run/test_patience.py"),
    *("service/test_page.py", "serving/test_session.py", "serving/test_films.py"),
    *("commands/test_transformer.py", "run/test_lowering.py", "model/test_kernels.py"),
)


class Failures:
    """Says what failed as soon as it does: a run that is cut short has no summary."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
            terminal.ensure_newline()
            terminal.write_line(f"{report.when} of {report.nodeid}: {reason[:1000]}")


def pytest_configure(config):
    """Has files begin in the order of their items."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(config))


def pytest_collection_modifyitems(items):
    """The slowest files first, the others as they came."""
    place = {name: number for number, name in enumerate(SLOW)}
    here = Path(__file__).parent
    items.sort(
        key=lambda item: place.get(item.path.relative_to(here).as_posix(), len(SLOW))
    )


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """Caches of commands lie in the home: not in that of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def load_config():
    """The config of a file in configs/, by its name."""

    def load(name: str, *arguments):
        return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](
            *arguments
        )

    return load


class TinyRun(NamedTuple):
    """A small run on made videos, trained for two steps and evaluated on test."""

    workdir: Path
    videos: Path  # the made tree
    config: Any
    evaluation: Path  # of test


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, load_config, keep_programs) -> TinyRun:
    """Twelve made videos, a tiny float32 model, two steps, one evaluation."""
    import jax

    from fakedetect_jax import train
    from fakedetect_jax.data import dataset
    from fakedetect_jax.pages.evaluation_page import write_report
    from fakedetect_jax.run import parallel
    from fakedetect_jax.run.process import StopRequest
    from fakedetect_jax.run.workdir import Run, write_record
    from tfds_ffpp.terminal.lines import Terminal

    folder = tmp_path_factory.mktemp("tiny_run")
    config = load_config("demo").copy_and_resolve_references()
    with config.unlocked():
        config.dataset.update(
            image_size=32, num_frames=8, methods=("Deepfakes",), masks=True
        )
        config.synthetic.num_identities = 0
        config.data.update(
            data_dir=str(folder / "tfds"),
            manual_dir=str(folder / "videos"),
            clip_frames=4,
            frame_stride=1,
            sampling="class",
            train_clips_per_video=4,
            eval_clips_per_video=2,
            num_threads=1,
        )
        config.model.update(
            backbone="resnet",
            stage_sizes=(1, 1),
            width=8,
            stem="small",
            lstm_features=8,
            pooling="last",
            dtype="float32",
        )
        config.compilation_cache = ""
        config.batch_size = config.eval.batch_size = 8
        config.num_steps = 2
        config.eval.final_split = "test"
    tree.write_tree(
        folder / "videos",
        num_identities=6,
        num_frames=20,
        frame_size=192,
        difficulty=0.3,
        methods=("Deepfakes",),
        num_processes=2,
    )
    terminal = Terminal(quiet=True)
    dataset.prepare(config, terminal)
    mesh = parallel.make_mesh(jax.devices()[:1])
    place = folder / "run"
    place.mkdir()
    run = Run(config.lock(), place, mesh, terminal, StopRequest(), "test")
    write_record(run, parallel.describe_devices(mesh))
    evaluation = train.train(run)
    assert evaluation is not None
    write_report(evaluation, metrics_file=place / "metrics.jsonl")
    return TinyRun(place, folder / "videos", config, evaluation)


@pytest.fixture(scope="session")
def launchpad(tmp_path_factory):
    """Starts commands in processes of their own; see launchpad.py."""
    with Launchpad(tmp_path_factory.mktemp("launched")) as pad:
        yield pad


@pytest.fixture(scope="session")
def compiled(tmp_path_factory, worker_id) -> Path:
    """Where all workers keep the programs that they compile, and take them from."""
    if place := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(place)
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "compiled"


@pytest.fixture(scope="session", autouse=True)
def keep_programs(compiled):
    """Before the first program: JAX opens the folder once, whatever is set later."""
    from fakedetect_jax.run import parallel

    parallel.keep_programs(str(compiled))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Those of a module take gigabytes of memory."""
    import jax

    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_config(tiny_run, tmp_path_factory, compiled) -> Path:
    """A config file for the tiny run's dataset: 12 steps in 6 epochs."""
    folder = tmp_path_factory.mktemp("tiny_config")
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.num_steps, config.num_epochs = 0, 6
        config.data.train_clips_per_video = 4
        config.eval.batch_size = 2
        config.eval.final_split = ""
        config.compilation_cache = str(compiled)
        config.data.manual_dir = ""
        config.log_every_steps = 1
    fields = {k: repr(v) for k, v in config.to_dict().items()}
    body = "".join(f"    config.{k} = {v}\n" for k, v in fields.items())
    path = folder / "tiny.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    config = ConfigDict()\n{body}    return config.lock()\n"
    )
    return path


@pytest.fixture(scope="session")
def undisturbed(launchpad, tiny_config, tmp_path_factory) -> Path:
    """The workdir of a run of tiny_config that nothing happened to; leave it so."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    code, _, err = launchpad.run("--config", tiny_config, "--workdir", workdir)
    assert code == 0, err
    return workdir
