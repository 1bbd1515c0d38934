"""One name for all commands, and configs that are found from any folder."""

import os
import subprocess
import sys
import time

import pytest

from fakedetect_jax import settings
from fakedetect_jax.__main__ import COMMANDS, main
from fakedetect_jax.errors import ConfigError
from tests.conftest import ROOT

MOST_SECONDS = 0.3  # of `fakedetect --help`


def fakedetect(*argv, cwd=None) -> subprocess.CompletedProcess:
    """Runs a command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fakedetect_jax", *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_help_names_every_command_and_is_there_at_once(tmp_path):
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        done = fakedetect("--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0
        for name, command in COMMANDS.items():
            assert f"  {name:<10} {command.what}\n" in done.stdout
        if min(seconds) < MOST_SECONDS:
            return
    pytest.fail(f"help took {min(seconds):.2f} s or more")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom fakedetect_jax.__main__ import main\nmain(['--help'])\n"
        "print(*{'jax', 'numpy', 'rich', 'absl', 'argparse'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help(name, tmp_path):
    done = fakedetect(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fakedetect {name}" in done.stdout
    trains = "--workdir: Folder of the run" in done.stdout
    assert trains == (name in ("demo", "train", "eval", "robustness"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is missing; they are demo, layout, "),
        (["trian"], "'trian' is no command; they are demo, layout, "),
    ],
)
def test_a_wrong_command_is_one_sentence(argv, said, capsys):
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"error: {said}")


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "fakedetect-jax 0.1.0\n"


@pytest.mark.parametrize(
    ("argv", "said", "code"),
    [
        (["train"], "--config is missing; for example --config demo", 2),
        (["eval"], "--workdir is missing: say which run --mode eval is for", 2),
        (["demo", "--config.lr=1"], "did you mean config.optimizer.learning_rate?", 2),
        (["train", "--config=ffpp:c41"], "compression", 2),
        (["layout", "none"], "none", 3),
        (["predict", "--workdir=none", "x.mp4"], "none", 4),
        (["export", "none", "out"], "none", 4),
        (["report", "none"], "none", 3),
        (["suite"], "--config is missing", 2),
        (["build", "--manual_dir=none", "--data_dir=d"], "none", 3),
    ],
)
def test_a_command_ends_as_its_module_does(argv, said, code, tmp_path):
    done = fakedetect(*argv, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and said in done.stderr


# Configs by name --------------------------------------------------------------------


@pytest.mark.parametrize("name", settings.shipped())
def test_a_shipped_config_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    path = ROOT / "configs" / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    assert settings.load(name).to_dict() == settings.load(str(path)).to_dict()
    assert settings.config_file(name) == path


def test_a_name_takes_an_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load("ffpp:c40").dataset.compression == "c40"


def test_a_child_of_ones_own_takes_a_shipped_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from fakedetect_jax import settings\n\n\n"
        "def get_config():\n"
        '    config = settings.load("ffpp:c40")\n'
        "    with config.unlocked():\n"
        "        config.batch_size = 8\n"
        "    return config\n"
    )
    mine = settings.load("mine.py")
    assert (mine.batch_size, mine.dataset.compression) == (8, "c40")


def test_a_name_that_is_none_says_which_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "demo, demo_masks, demo_vit, ffpp, ffpp_best, "
    with pytest.raises(ConfigError, match=f"names {names}"):
        settings.load("ffp")


def test_a_run_by_name_has_the_workdir_of_that_name(tmp_path):
    """Ends at the workdir, which is a file here, before anything is made."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").write_text("")
    done = fakedetect("demo", "--notune_malloc", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert str(tmp_path / "runs" / "demo") in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
