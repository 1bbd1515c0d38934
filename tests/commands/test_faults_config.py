"""A wrong command line or config ends in one sentence, before any device is touched."""

import json
import re
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def refused(launchpad, tiny_config, tmp_path):
    """Runs a command that must be refused; its one sentence."""

    def run(*argv, code=2, config=tiny_config) -> str:
        command = ["--workdir", tmp_path / "w", *argv]
        if config:
            command = ["--config", config, *command]
        got, out, err = launchpad.run(*command)
        assert got == code, (got, out, err)
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert not list((tmp_path / "w").glob("checkpoints/*"))
        return err

    return run


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        # C1: a field that there is not
        ("--config.model.widht=1", "did you mean config.model.width?"),
        ("--config.learning_rate=1", "did you mean config.optimizer.learning_rate?"),
        ("--config.model=1", "config.model is a group of fields"),
        ("--config.lr=1", "did you mean config.optimizer.learning_rate?"),
        ("--config.optimizer.lr=1", "did you mean config.optimizer.learning_rate?"),
        ("--config.bs=1", "did you mean config.batch_size?"),
        ("--config.data.batch_size=1", "did you mean config.batch_size?"),
        ("--config.epochs=1", "did you mean config.num_epochs?"),
        ("--config.model.name=resnet18", "did you mean config.model.backbone?"),
        ("--batch_size=8", "no flag; did you mean --config.batch_size="),
        ("--lr=1", "no flag; did you mean --config.optimizer.learning_rate="),
        # C2: a value that cannot be
        ("--config.batch_size=abc", "config.batch_size is 'abc'; it must be a whole"),
        ("--config.batch_size=0", "config.batch_size is 0; it must be a whole number"),
        ("--config.batch_size=-8", "config.batch_size is -8"),
        ("--config.optimizer.learning_rate=nan", "is nan; it must be a number above 0"),
        ("--config.optimizer.learning_rate=inf", "is inf; it must be a number above 0"),
        (
            "--config.optimizer.b1=1.5",
            "config.optimizer.b1 is 1.5; it must be a number",
        ),
        ("--config.model.stage_sizes=(1,-1)", "a list of whole numbers of at least 1"),
        ("--config.model.backbone=resnet51", "config.model.backbone is 'resnet51'"),
        ("--config.augment.flip=2", "config.augment.flip is 2"),
        ("--config.dataset.crop=half", "config.dataset.crop is 'half'"),
        # C3: what is no flag
        ("stray", "argument 'stray' is not known"),
        ("--wrkdir=x", "Did you mean: workdir"),
        ("--mode=fly", "should be one of <train|eval>"),
        # C5: clips that the dataset does not have
        (
            "--config.data.clip_frames=9",
            "stored frames, but .*num_frames is 8",
        ),
        # C6: a device that is not there
        ("--config.accelerator=tpu", "accelerator is tpu but JAX found only cpu"),
        ("--coordinator=localhost:1", "--num_processes and --process_id belong"),
    ],
)
def test_one_sentence_with_field_value_and_cure(refused, argument, sentence):
    """C1, C2, C3, C6 A field, value, word or device that is none: one sentence names
    it and the cure; nothing runs.
    """
    assert re.search(sentence, refused(argument))


def test_a_missing_config_is_told(refused, tmp_path):
    """C3 A config file that is not there: named, with the names that exist."""
    assert "--config is missing" in refused(config=None)
    said = "does not exist; give the path of one, or one of the names demo, "
    assert said in refused(config=tmp_path / "no.py")
    assert "it has no config.json" in refused("--mode=eval", config=None, code=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\ndef get_config(:\n", "line 2: invalid syntax"),
        ("x = 1\n", "has no function get_config"),
        ("def get_config():\n    return 1 / 0\n", "line 2: division by zero"),
        ("def get_config():\n    return 5\n", "must return a ConfigDict"),
        ("import nothing_like_it\n", "line 1: No module named 'nothing_like_it'"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(
    refused, tmp_path, content, said
):
    """C3 An error in a config file: named with its file and line."""
    path = tmp_path / "mine.py"
    path.write_text(content)
    err = refused(config=path)
    assert said in err and "mine.py" in err


def test_a_batch_that_does_not_divide_names_the_nearest(
    launchpad, tiny_config, tmp_path
):
    """C4 A batch that does not divide over the devices: the nearest sizes."""
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", tmp_path, "--config.batch_size=6"),
        devices=4,
    )
    assert code == 2
    assert "batch_size 6 does not divide over 4 devices; nearest are 4 and 8" in err


def test_another_image_size_than_the_datasets_names_both_and_the_command(refused):
    """C5 An image size that the dataset has not: both sizes and the command that
    builds.
    """
    err = refused("--config.dataset.image_size=64", code=3)
    assert "32" in err and "64" in err and "python -m tfds_ffpp" in err


def test_evaluation_takes_the_runs_own_clips_and_says_so(
    launchpad, tiny_config, undisturbed, tmp_path
):
    """C5 An evaluation asked for other clips: it takes the run's own and says so."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, "--mode", "eval"),
        "--config.data.clip_frames=2",
    )
    assert code == 0, err
    assert "data.clip_frames is 4 in the run and 2 in --config" in err
    assert "Val Loss" in out


def test_evaluation_needs_no_config_and_leaves_the_runs_alone(
    launchpad, undisturbed, tmp_path
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    stored = (workdir / "config.json").read_bytes()

    def evaluate(*argv):
        return launchpad.run("--workdir", workdir, "--mode=eval", *argv)

    code, out, err = evaluate("--config.eval.batch_size=4")
    assert code == 0, err
    assert "Val Loss" in out and "the run's own config is used" not in err
    assert "taken from the command line: eval.batch_size is 4 (2 in the run)" in out
    assert (workdir / "config.json").read_bytes() == stored
    code, out, err = evaluate("--config.eval.batch_size=0")
    assert (code, out) == (2, "")
    assert "config.eval.batch_size is 0; it must be a whole number" in err
    assert "did you mean config.batch_size?" in evaluate("--config.eval.batchsize=2")[2]
    record = json.loads(stored)
    del record["config"]["eval"]["unscored"]
    (workdir / "config.json").write_text(json.dumps(record))
    code, out, err = evaluate()
    assert code == 4 and "lacks eval.unscored" in err and "give --config too" in err


def test_evaluation_without_config_or_workdir_asks_for_the_run(launchpad):
    """C9 An evaluation without a config or workdir: it asks for the run."""
    code, _, err = launchpad.run("--mode=eval")
    assert code == 2
    assert err == "error: --workdir is missing: say which run --mode eval is for\n"


def test_evaluating_a_folder_that_is_no_run_leaves_it_alone(refused, tmp_path):
    """C9 Evaluating a folder that is no run: said, and the folder is left alone."""
    assert "it has no config.json" in refused("--mode=eval", code=4)
    assert not (tmp_path / "w").exists()


def test_help_is_no_fault_and_does_not_wait_for_jax():
    code = (
        "import sys\nfrom fakedetect_jax import main\n"
        "sys.argv = ['main', '--help']\n"
        "try:\n    main.run()\n"
        "except SystemExit as end:\n    print(end.code, 'jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("0 False\n"), done.stderr
