"""A run's model on another dataset: by the commands of the docs and of its errors."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tfds_ffpp.__main__ import main as build

DOCS = ROOT / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def celebdf(tiny_run, tmp_path_factory) -> Path:
    """A tree like Celeb-DF v2's, of made faces; all six real and fake ones are test."""
    root = tmp_path_factory.mktemp("celebdf") / "Celeb-DF-v2"
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        (root / folder).mkdir(parents=True)
    reals = sorted(tiny_run.videos.rglob("original_sequences/youtube/c23/videos/*.mp4"))
    fakes = sorted(tiny_run.videos.rglob("Deepfakes/c23/videos/*.mp4"))
    lines = []
    for i, (real, fake) in enumerate(zip(reals, fakes, strict=True)):
        names = (
            f"Celeb-real/id{i}_0000.mp4",
            f"Celeb-synthesis/id{i}_id{i ^ 1}_0000.mp4",
        )
        shutil.copy(real, root / names[0])
        shutil.copy(fake, root / names[1])
        lines += [f"1 {names[0]}", f"0 {names[1]}"]
    (root / "List_of_testing_videos.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def moved_run(undisturbed, tiny_config, tiny_run, tmp_path):
    """A finished run whose data lay elsewhere than its config file says: (run, data).

    The run's own dataset is a copy that only config.json knows of.
    """
    workdir, data_dir = tmp_path / "w", tmp_path / "elsewhere"
    shutil.copytree(undisturbed, workdir)
    shutil.copytree(tiny_run.config.data.data_dir, data_dir)
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["data"]["data_dir"] = str(data_dir)
    (workdir / "config.json").write_text(json.dumps(record))
    return workdir, data_dir


def commands(text: str) -> list[list[str]]:
    """The words of each command in the first block of code of a text."""
    block = text.split("```")[1].replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines() if line.strip()]


def test_the_documented_commands_evaluate_another_dataset(
    launchpad, celebdf, moved_run, tiny_config
):
    workdir, data_dir = moved_run
    real = {
        "CELEBDF": str(celebdf),
        "DATA": str(data_dir),
        "configs/demo.py": str(tiny_config),
        "runs/demo": str(workdir),
        "image_size=64": "image_size=32",
    }
    section = DOCS.read_text().partition("\n## Another dataset\n")[2]
    first, second = (
        [real.get(word, word) for word in words] for words in commands(section)
    )
    assert first[:3] == ["python", "-m", "tfds_ffpp"]
    assert second[:3] == ["python", "-m", "fakedetect_jax.main"]
    assert build(first[3:]) == 0
    code, out, err = launchpad.run(*second[3:])
    assert code == 0, (out, err)
    (folder,) = workdir.glob("eval/celebdf_v2_64-test@*")
    report = json.loads((folder / "report.json").read_text())
    assert report["video"]["num_real"] == report["video"]["num_fake"] == 6
    assert report["dataset"] == "celebdf_v2_64"
    assert report["trained_on"] == {"dataset": "demo", "made": True, "same": False}
    assert any("trained on made videos" in s for s in report["warnings"])
    assert any("num_frames 30 (in training 8)" in s for s in report["warnings"])
    page = (folder / "report.html").read_text()
    assert "<h1>Deepfake detection on celebdf_v2, test split</h1>" in page
    assert "Trained on another dataset" in page and "demo (made videos)" in page
    assert "evaluated 2 times" not in page
    assert "Trained on another dataset, demo" in (folder / "MODEL_CARD.md").read_text()


def test_the_cure_of_a_dataset_that_does_not_fit_works(
    launchpad, celebdf, moved_run, tiny_config
):
    workdir, data_dir = moved_run
    run = ["--config", tiny_config, "--workdir", workdir, "--mode=eval", "--split=test"]
    command = ["--manual_dir", str(celebdf), "--data_dir", str(data_dir)]
    assert build([*command, "--config=celebdf_v2", "--set=face_finder=none"]) == 0
    code, _, err = launchpad.run(*run, "--config.eval.dataset=celebdf_v2")
    assert code == 3
    assert "holds 30 frames of 224 px, but the model takes clips over 4" in err
    follow(err, launchpad, run, celebdf)


def test_the_cure_of_a_dataset_that_is_not_there_works(
    launchpad, celebdf, moved_run, tiny_config
):
    workdir, _ = moved_run
    run = ["--config", tiny_config, "--workdir", workdir, "--mode=eval", "--split=test"]
    code, _, err = launchpad.run(*run, "--config.eval.dataset=celebdf_v2")
    assert code == 3
    assert re.search(r"there is no dataset celebdf_v2 under .* \(there are demo", err)
    follow(err, launchpad, [*run, "--config.eval.dataset=celebdf_v2"], celebdf)


def follow(err: str, launchpad, run: list, root: Path) -> None:
    """Does what a sentence says: builds by its command, evaluates by its flag."""
    (command,) = re.findall(r"`python -m tfds_ffpp (.*?)`", err)
    assert build(shlex.split(command.replace("ROOT", str(root)))) == 0
    code, out, err = launchpad.run(*run, *re.findall(r"--config\.eval\.\S+", err))
    assert code == 0, (out, err)
    assert "Celebdf_v2" in out and "cut otherwise" not in err


def test_evaluation_takes_the_data_from_the_run_and_says_so(
    launchpad, moved_run, tiny_config, tiny_run
):
    workdir, data_dir = moved_run
    run = ["--config", tiny_config, "--workdir", workdir, "--mode=eval"]
    code, out, err = launchpad.run(*run)
    assert code == 0, err
    assert f"data.data_dir is {data_dir} in the run and " in err
    shutil.rmtree(data_dir)
    old = f"--config.data.data_dir={tiny_run.config.data.data_dir}"
    code, out, err = launchpad.run(*run, old, "--config.eval.unscored=as_fake")
    assert code == 0, err
    assert "taken from the command line: data.data_dir is" in out
    assert "eval.unscored is as_fake (exclude in the run)" in out
    assert "the run's own config is used" not in err


def test_training_fields_are_no_news_to_an_evaluation(
    launchpad, moved_run, tiny_config
):
    workdir, _ = moved_run
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["optimizer"]["learning_rate"] = 0.123
    del record["config"]["data"]["cache_mib"]  # of a version that had no such field
    (workdir / "config.json").write_text(json.dumps(record))
    run = ["--config", tiny_config, "--workdir", workdir, "--mode=eval"]
    code, _, err = launchpad.run(*run)
    assert code == 0 and "learning_rate" not in err, err


def test_another_dataset_needs_none_of_the_runs_own_videos(
    launchpad, celebdf, moved_run, tiny_config, tmp_path
):
    """Neither made nor built: only the model is the run's."""
    workdir, data_dir = moved_run
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["data"]["manual_dir"] = str(tmp_path / "made")
    record["config"]["synthetic"]["num_identities"] = 4
    (workdir / "config.json").write_text(json.dumps(record))
    shutil.rmtree(data_dir)
    command = ["--manual_dir", str(celebdf), "--data_dir", str(data_dir)]
    command += ["--config=celeb", "--set=image_size=32", "--set=num_frames=8"]
    assert build(command) == 0
    code, out, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, "--mode=eval"),
        *("--split=test", "--config.eval.dataset=celeb"),
    )
    assert code == 0, (out, err)
    assert not (tmp_path / "made").exists()
    assert not (data_dir / "tfds_ffpp" / "demo").exists()


def test_a_name_that_another_dataset_has_ends_in_a_command_that_works(
    celebdf, tmp_path, capsys
):
    command = ["--manual_dir", str(celebdf), "--data_dir", str(tmp_path)]
    command += ["--set=face_finder=none", "--set=num_frames=4"]
    assert build([*command, "--config=small", "--set=image_size=32"]) == 0
    assert build([*command, "--config=small", "--set=image_size=16"]) == 3
    (cure,) = re.findall(r"`python -m tfds_ffpp (.*?)`", capsys.readouterr().err)
    assert build(shlex.split(cure.replace("ROOT", str(celebdf)))) == 0
    assert (tmp_path / "tfds_ffpp" / "small_2").exists()
