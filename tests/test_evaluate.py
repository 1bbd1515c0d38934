"""One number whatever computes it, from scores that hold each clip exactly once."""

import json
import shutil

import jax
import numpy as np
import pytest

from fakedetect_jax import data, evaluate, parallel, steps, train
from fakedetect_jax.checkpoint import Checkpoints
from fakedetect_jax.report import write_report
from tests.test_distributed import free_port
from tfds_ffpp import build
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig


def read_scores(folder):
    lines = (folder / "scores.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def numbers(report):
    """The clip and video numbers of a report, flat."""
    flat = {}
    for level in ("clip", "video"):
        for name, value in report[level].items():
            if isinstance(value, int | float) or name == "confusion":
                flat[f"{level}.{name}"] = value
    return flat


@pytest.fixture(scope="module")
def evaluated(launchpad, tiny_config, undisturbed, tmp_path_factory):
    """Evaluates test in a copy of a finished run: its folder, what was printed."""

    def evaluate(name, *more, devices=1):
        workdir = tmp_path_factory.mktemp(name) / "w"
        shutil.copytree(undisturbed, workdir)
        command = ("--config", tiny_config, "--workdir", workdir)
        command += ("--mode=eval", "--split=test", "--config.eval.batch_size=8")
        code, out, err = launchpad.run(*command, *more, devices=devices)
        assert code == 0, err
        return next(workdir.glob("eval/*test@*")), out

    return evaluate


@pytest.fixture(scope="module")
def alone(evaluated):
    return evaluated("alone")


def test_one_and_eight_devices_report_the_same(evaluated, alone):
    (folder, _), (eight, _) = alone, evaluated("eight", devices=8)
    left, right = read_scores(folder), read_scores(eight)
    assert [r["video"] for r in left] == [r["video"] for r in right]
    np.testing.assert_allclose(
        [r["logit"] for r in left], [r["logit"] for r in right], atol=1e-5
    )
    one, many = (json.loads((f / "report.json").read_text()) for f in (folder, eight))
    assert numbers(one).keys() == numbers(many).keys()
    for name, value in numbers(one).items():
        np.testing.assert_allclose(value, numbers(many)[name], atol=1e-5, err_msg=name)


def test_one_and_two_processes_report_the_same(
    launchpad, tiny_config, undisturbed, alone, tmp_path
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    port = free_port()
    both = [
        launchpad.start(
            *("--config", tiny_config, "--workdir", workdir, "--mode=eval"),
            *("--split=test", "--config.eval.batch_size=8", f"--process_id={number}"),
            *(f"--coordinator=localhost:{port}", "--num_processes=2"),
        )
        for number in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0], [p.stderr for p in both]
    (folder,) = workdir.glob("eval/test@*")
    one, two = (json.loads((f / "report.json").read_text()) for f in (alone[0], folder))
    for name, value in numbers(one).items():
        np.testing.assert_allclose(value, numbers(two)[name], atol=1e-5, err_msg=name)
    assert [(r["video"], r["clip"]) for r in read_scores(folder)] == [
        (r["video"], r["clip"]) for r in read_scores(alone[0])
    ]


def test_every_clip_is_scored_once_and_the_lines_are_the_originals(alone):
    folder, out = alone
    rows = read_scores(folder)
    keys = {(r["method"], r["video"], r["clip"]) for r in rows}
    assert len(keys) == len(rows) == 2 * 4  # two clips of four videos
    context = json.loads((folder / "context.json").read_text())
    assert context["num_clips"] == len(rows)
    assert context["selected_on"].startswith("val, by video AUC")
    report = json.loads((folder / "report.json").read_text())
    line = f"Test Loss: {report['clip']['loss']:.4f}, Test Accuracy: "
    assert line + f"{100 * report['clip']['accuracy']:.2f}%" in out


def test_a_second_evaluation_is_the_first_and_a_report_comes_from_its_files(
    launchpad, tiny_config, alone
):
    folder, _ = alone
    before = (folder / "scores.jsonl").stat().st_mtime_ns
    workdir = folder.parent.parent
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", workdir, "--mode=eval", "--split=test")
    )
    assert code == 0, err
    assert (folder / "scores.jsonl").stat().st_mtime_ns == before
    told = json.loads((folder / "report.json").read_text())
    again = write_report(folder, metrics_file=workdir / "metrics.jsonl")
    assert numbers(again) == numbers(told)


def test_another_dataset_is_evaluated_under_its_name(evaluated, tiny_run):
    fields = {**tiny_run.config.dataset.to_dict(), "name": "other"}
    build.build(
        FfppConfig(**fields),
        data_dir=tiny_run.config.data.data_dir,
        manual_dir=tiny_run.videos,
    )
    folder, _ = evaluated("cross", "--config.eval.dataset=other")
    assert folder.name.startswith("other-test@")
    report = json.loads((folder / "report.json").read_text())
    assert report["split"] == "other-test"
    assert report["video"]["num_real"] == 2


def test_a_checkpoint_that_is_not_there_names_those_that_are(
    launchpad, tiny_config, undisturbed
):
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", undisturbed),
        *("--mode=eval", "--step=77"),
    )
    assert code == 4
    assert "has no checkpoint 77; it has" in err


def test_a_split_without_a_method_keeps_to_its_records(tiny_run):
    config = tiny_run.config
    builder = data.open_dataset(config)
    whole = evaluate.open_split(builder, "train", config)
    part = evaluate.open_split(builder, "train", config, hold_out=("Deepfakes",))
    assert part.videos == [v for v in whole.videos if v["label"] == 0]
    records = [3, 1]
    reader = data.FrameReader(builder, "train", image_size=32, records=records)
    for place, number in enumerate(records):
        frames = np.zeros((2, 4, 32, 32, 3), np.uint8)
        reader.read(data.ClipRef(place, 1, 1), 8, frames[0])
        whole.reader.read(data.ClipRef(number, 1, 1), 8, frames[1])
        np.testing.assert_array_equal(*frames)
        assert frames[0].any()


@pytest.fixture(scope="module")
def all_held_out():
    """Flags that keep every fake of the tiny run's dataset from train and val."""
    return ("--config.data.hold_out=('Deepfakes',)", "--config.data.sampling=natural")


def test_without_any_fake_a_checkpoint_is_chosen_by_self_blended_reals(
    launchpad, tiny_config, all_held_out, tmp_path
):
    command = ("--config", tiny_config, "--workdir", tmp_path / "w", *all_held_out)
    command += ("--config.loss.self_blend=0.5", "--config.num_epochs=3")
    code, out, err = launchpad.run(*command, "--config.eval.final_split=test")
    assert code == 0, err
    assert "its real videos against self-blended copies" in out
    rows = map(json.loads, (tmp_path / "w" / "metrics.jsonl").read_text().splitlines())
    aucs = {row["step"]: row["video_auc"] for row in rows if row["kind"] == "val"}
    assert None not in aucs.values()
    checkpoints = Checkpoints(tmp_path / "w" / "checkpoints", read_only=True)
    best = checkpoints.best()
    assert best is not None and aucs[best] == max(aucs.values())
    facts = checkpoints.facts(best)
    checkpoints.close()
    assert facts["val_fakes"] == "self-blended"
    assert facts["temperature"] != 1.0  # 1 where a class is missing
    (context,) = (tmp_path / "w" / "eval").glob("*/context.json")
    told = json.loads(context.read_text())["selected_on"]
    assert told.endswith("of its real videos against self-blended copies of them")
    assert "self-blended" not in context.with_name("scores.jsonl").read_text()


def test_the_blends_of_val_are_the_same_at_each_look(tiny_run):
    config = tiny_run.config
    split = evaluate.open_blended_split(data.open_dataset(config), "val", config)
    half = len(split.videos) // 2
    assert [v["label"] for v in split.videos] == [0] * half + [1] * half
    assert [v["video_id"] for v in split.videos[:half]] == [
        v["video_id"] for v in split.videos[half:]
    ]
    mesh = parallel.make_mesh(jax.devices()[:1])
    recipe = steps.make_recipe(config, num_steps=1)
    shape = evaluate.clip_shape(config)
    state = train.first_state(recipe, shape, config, mesh)

    def score(blend_seed):
        step = evaluate.compile_eval_step(recipe.model, mesh, blend_seed=blend_seed)
        variables = state.eval_variables()
        rows = evaluate.score_clips(step, variables, split, config, mesh=mesh)
        return np.array([row["logit"] for row in rows])

    first, plain = score(3), score(None)
    np.testing.assert_array_equal(first, score(3))
    reals = len(first) // 2
    np.testing.assert_allclose(first[:reals], plain[:reals], atol=1e-6)
    assert (first[reals:] != plain[reals:]).all()
    np.testing.assert_allclose(plain[reals:], plain[:reals], atol=1e-6)


def test_nothing_to_learn_from_is_told(launchpad, tiny_config, all_held_out, tmp_path):
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", tmp_path / "w", *all_held_out)
    )
    assert code == 2
    assert "no fake is left to train on; set config.loss.self_blend" in err
