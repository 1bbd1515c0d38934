"""A dataset that is built anew under a run is noticed, and the same one is not."""

import json
import shutil
from pathlib import Path

import pytest

from fakedetect_jax.data import dataset
from tests.commands.test_faults_training import latest, one_sentence
from tfds_ffpp import build


@pytest.fixture
def rebuilt(tiny_run, tmp_path):
    """Builds the tiny dataset in a folder of its own, perhaps with exchanged splits."""
    videos = tmp_path / "videos"
    shutil.copytree(tiny_run.videos, videos)
    config = tiny_run.config.copy_and_resolve_references()

    def rebuild(*, exchanged: bool = False) -> Path:
        if exchanged:
            train, test = (videos / "splits" / f"{n}.json" for n in ("train", "test"))
            texts = train.read_text(), test.read_text()
            test.write_text(texts[0])
            train.write_text(texts[1])
        builder = build.build(
            dataset.dataset_config(config),
            data_dir=tmp_path / "tfds",
            manual_dir=videos,
            options=build.BuildOptions(overwrite=True),
        )
        return Path(builder.data_dir)

    return rebuild


def test_a_dataset_that_was_exchanged_stops_the_resume_and_marks_the_evaluation(
    launchpad, tiny_config, rebuilt, tmp_path
):
    """T16 The dataset was built anew with other splits: a resume ends with exit 3, an
    evaluation warns.
    """
    workdir = tmp_path / "w"
    command = ["--config", tiny_config, "--workdir", workdir]
    command += [f"--config.data.data_dir={tmp_path / 'tfds'}"]
    before = dataset.dataset_facts(rebuilt())
    code, _, err = launchpad.run(*command, "--config.num_epochs=1")
    assert code == 0, err
    step = latest(workdir)
    code, _, err = launchpad.run(*command, "--mode=eval")
    assert code == 0 and "dataset" not in err, err
    report = json.loads((workdir / f"eval/val@{step}/report.json").read_text())
    assert report["dataset_digest"] == before.digest

    assert dataset.dataset_facts(rebuilt()) == before  # the same again is the same
    code, _, err = launchpad.run(*command, "--config.num_epochs=2")
    assert code == 0 and "dataset" not in err, err
    step = latest(workdir)

    now = dataset.dataset_facts(rebuilt(exchanged=True))
    kept = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    # With fewer epochs than were trained the run would be complete, and say nothing.
    for epochs in (3, 1):
        code, out, err = launchpad.run(*command, f"--config.num_epochs={epochs}")
        assert code == 3, (out, err)
        sentence = one_sentence(err)
        assert f"the dataset is not the one that checkpoint {step} in" in sentence
        assert dataset.describe_change(before, now) in sentence
        assert "put that dataset back, or train anew in another --workdir" in sentence
    assert {p.name for p in kept if p.read_bytes() != kept[p]} <= {"lock"}

    code, _, err = launchpad.run(*command, "--mode=eval", "--split=test")
    assert code == 0, err
    assert "warning: dataset demo is not the one that the run was trained on" in err
    report = json.loads((workdir / f"eval/test@{step}/report.json").read_text())
    assert report["dataset_digest"] == now.digest != before.digest
    assert "not the one that the run was trained on" in report["warnings"][0]
    page = (workdir / f"eval/test@{step}/report.html").read_text()
    assert "may have been trained on" in page


def test_an_old_result_is_not_shown_for_other_data(
    launchpad, tiny_config, undisturbed, rebuilt, tmp_path
):
    """T16 An old result of other data: it is not shown."""
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    command = ["--config", tiny_config, "--workdir", workdir, "--mode=eval"]
    command += [f"--config.data.data_dir={tmp_path / 'tfds'}"]
    rebuilt()
    for exchanged in (False, True):
        if exchanged:
            rebuilt(exchanged=True)
        code, out, err = launchpad.run(*command)
        assert code == 0, err
        assert ("was scored with another dataset: the new result is" in out) == (
            exchanged
        )


def test_what_changed_in_a_dataset_is_named(tiny_run, tmp_path):
    folder = tmp_path / "set"
    built = Path(dataset.open_dataset(tiny_run.config).data_dir)
    shutil.copytree(built, folder)
    before = dataset.dataset_facts(folder)
    assert before.digest == dataset.dataset_digest(folder)
    (folder / "card.md").write_text("a note")
    assert dataset.dataset_facts(folder) == before
    (shard,) = folder.glob("*-val.array_record-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole + b"x")
    now = dataset.dataset_facts(folder)
    assert now.digest != before.digest
    assert (
        dataset.describe_change(before, now) == "its frames are stored in other files"
    )
    shard.write_bytes(whole)
    train = folder / "videos-train.jsonl"
    lines = train.read_text().splitlines(keepends=True)
    train.write_text("".join(lines[1:]))
    (folder / "videos-val.jsonl").rename(folder / "videos-more.jsonl")
    change = dataset.describe_change(before, dataset.dataset_facts(folder))
    counts = before.splits["train"]
    assert f"train was {counts} and is" in change
    assert "split more is new" in change and "split val is gone" in change
