"""One number whatever computes it, from scores that hold each clip exactly once."""

import functools
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax import settings
from fakedetect_jax.data import dataset, order
from fakedetect_jax.data.reader import FrameReader, open_blended_split, open_split
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.evaluation.evaluate import (
    SELDOM_SEEN,
    _count_touch,
    choose_folder,
    score_clips,
    unscored,
)
from fakedetect_jax.model import steps
from fakedetect_jax.pages.evaluation_page import write_report
from fakedetect_jax.programs import compiled
from fakedetect_jax.reports import results
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import CheckpointFacts, Checkpoints
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.trained import weights
from fakedetect_jax.training.start import first_state
from tests.run.test_distributed import free_port
from tfds_ffpp import build
from tfds_ffpp.errors import DataError
from tfds_ffpp.records import to_json
from tfds_ffpp.terminal.lines import Terminal
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig


def test_a_video_that_seldom_shows_its_face_is_unscored_with_a_reason(tiny_run):
    config = tiny_run.config.copy_and_resolve_references()
    builder = dataset.open_dataset(config)
    split = open_split(builder, "test", config)
    split.videos[0] = replace(split.videos[0], face_seen=[1] + 7 * [0])
    split.videos[1] = replace(split.videos[1], num_valid=0)
    with config.unlocked():
        config.data.min_coverage = 0.5
    missing = unscored(split, config)
    found = [(row.video.name, row.reason) for row in missing]
    assert found == [
        (split.videos[0].video_id, SELDOM_SEEN),
        (split.videos[1].video_id, "no usable frame"),
    ]
    clips = order.covering_clips(
        split.videos,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=2,
        min_coverage=0.5,
    )
    assert {c.video for c in clips} == set(range(2, len(split.videos)))


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

    def start(name, *more, devices=1):
        workdir = tmp_path_factory.mktemp(name) / "w"
        shutil.copytree(undisturbed, workdir)
        command = ("--config", tiny_config, "--workdir", workdir)
        # Eight clips: the last batch is not full, of two hosts one has none of it.
        command += ("--mode=eval", "--split=test", "--config.eval.batch_size=6")
        code, out, err = launchpad.run(*command, *more, devices=devices)
        assert code == 0, err
        return next(workdir.glob("eval/*test@*")), out

    return start


@pytest.fixture(scope="module")
def alone(evaluated):
    return evaluated("alone")


@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
def test_another_backend_reports_the_same(evaluated, alone, backend):
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    folder, out = evaluated(backend, f"--backend={backend}")
    left, right = read_scores(alone[0]), read_scores(folder)
    assert [r["video"] for r in left] == [r["video"] for r in right]
    np.testing.assert_allclose(
        [r["logit"] for r in left], [r["logit"] for r in right], atol=1e-4
    )
    scored_with = json.loads((folder / "context.json").read_text())["scored_with"]
    chosen = scored_with.get("backend", "jax")
    assert (
        chosen == "onnxruntime" if backend != "auto" else f"backend   {chosen}" in out
    )


def test_an_evaluation_in_bfloat16_is_another_one(evaluated, alone):
    if find_spec("openvino") is None or find_spec("onnx") is None:
        pytest.skip("the extra [openvino] is not installed")
    try:
        folder, _ = evaluated("bfloat16", "--backend=openvino-bfloat16")
    except AssertionError as error:
        if "needs a processor" in str(error):
            pytest.skip("no bfloat16 on this processor")
        raise
    left, right = ([r["logit"] for r in read_scores(f)] for f in (alone[0], folder))
    apart = np.abs(np.subtract(left, right))
    assert 1e-5 < apart.max() < 0.03 * np.abs(left).max()
    of_float32, found = (
        json.loads((f / "context.json").read_text())["scored_with"]
        for f in (alone[0], folder)
    )
    assert found == of_float32 | {"backend": "openvino-bfloat16"}


def test_one_and_eight_devices_report_the_same(evaluated, alone):
    (folder, _), (eight, _) = (
        alone,
        evaluated("eight", "--config.eval.batch_size=16", devices=8),
    )
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
            *("--split=test", "--config.eval.batch_size=6", f"--process_id={number}"),
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
    assert [r["clip"] for r in rows] == [0, 1] * 4
    trivial = (folder / "trivial.jsonl").read_text().splitlines()
    assert len(trivial) > 0 and {json.loads(row)["label"] for row in trivial} == {0, 1}
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
    first = json.loads((folder / "report.json").read_text())
    again = write_report(folder, metrics_file=workdir / "metrics.jsonl")
    assert numbers(to_json(again)) == numbers(first)


def evaluate_again(launchpad, tiny_config, workdir, *more):
    """What a command printed, and the folders of results that there are then."""
    command = ("--config", tiny_config, "--workdir", workdir, "--mode=eval")
    code, out, err = launchpad.run(*command, "--split=test", *more)
    assert code == 0, err
    return out, sorted(path.name for path in workdir.glob("eval/*test@*"))


def test_only_a_result_of_the_same_settings_is_shown_again(
    launchpad, tiny_config, alone, tmp_path
):
    """S5 An old report under new settings: only one of the same settings is shown
    again.
    """
    workdir = tmp_path / "w"
    shutil.copytree(alone[0].parent.parent, workdir)
    again = functools.partial(evaluate_again, launchpad, tiny_config, workdir)
    plain = alone[0].name
    out, folders = again("--config.eval.batch_size=4")
    assert folders == [plain]
    assert f"{plain} was scored before" in out
    fewer = "--config.data.eval_clips_per_video=1"
    out, folders = again(fewer)
    assert len(folders) == 2 and folders[1].startswith(f"{plain}-")
    assert f"{plain} was scored with another data.eval_clips_per_video" in out
    assert len(read_scores(workdir / "eval" / folders[1])) == 4
    assert len(read_scores(workdir / "eval" / plain)) == 8
    out, shown = again(fewer)
    assert shown == folders and f"{folders[1]} was scored before" in out
    out, folders = again("--config.eval.unscored=as_fake")
    assert len(folders) == 3 and "with another eval.unscored" in out


def test_a_damaged_context_costs_a_warning_and_one_more_evaluation(
    launchpad, tiny_config, alone, tmp_path
):
    """T19 A damaged context.json of an evaluation: a warning, and it is made anew."""
    workdir = tmp_path / "w"
    shutil.copytree(alone[0].parent.parent, workdir)
    path = workdir / "eval" / alone[0].name / "context.json"
    whole = json.loads(path.read_text())
    path.write_bytes(b"\xff" + path.read_bytes())
    command = ("--config", tiny_config, "--workdir", workdir, "--mode=eval")
    for warnings in (1, 0):
        code, out, err = launchpad.run(*command, "--split=test")
        assert code == 0 and "Traceback" not in err, err
        said = f"warning: {path} is missing or damaged: test is evaluated anew"
        assert err.splitlines().count(said) == warnings
        assert ("was scored before" in out) == (not warnings)
    assert [p.name for p in workdir.glob("eval/test@*")] == [path.parent.name]
    assert json.loads(path.read_text())["scored_with"] == whole["scored_with"]


def test_another_coverage_or_threshold_is_scored_anew(load_config, tmp_path):
    config, facts = load_config("demo"), CheckpointFacts(threshold=0.5)
    for name in ("videos-test.jsonl", "test.array_record-00000-of-00001"):
        (tmp_path / name).touch()
    plain = tmp_path / "test@5"
    plain.mkdir()
    wanted = evaluate.scored_with(config, facts, tmp_path)
    (plain / "context.json").write_text(json.dumps({"scored_with": wanted}))
    (plain / "report.json").write_text("{}")

    def differing(facts):
        wanted = evaluate.scored_with(config, facts, tmp_path)
        return choose_folder(plain, wanted)[1]

    assert differing(facts) == []
    assert differing(replace(facts, threshold=0.4)) == ["threshold"]
    with config.unlocked():
        config.data.min_coverage = 0.9
    assert differing(facts) == ["data.min_coverage"]


def test_a_rebuilt_dataset_or_another_checkpoint_is_scored_anew(
    tiny_run, tmp_path, monkeypatch
):
    workdir = tmp_path / "w"
    shutil.copytree(tiny_run.workdir, workdir)
    lines = []
    run = Run(
        tiny_run.config,
        workdir,
        parallel.make_mesh(jax.devices()[:1]),
        Terminal(quiet=True),
        StopRequest(),
        "test",
    )
    monkeypatch.setattr(run.terminal, "say", lines.append)
    first = evaluate.evaluate(run, "test")
    assert "was scored before" in lines.pop()
    for name, part in (("dataset_digest", "dataset"), ("checkpoint_digest", "weights")):
        owner = evaluate if name == "dataset_digest" else weights
        monkeypatch.setattr(owner, name, lambda *_: "another")
        found = evaluate.evaluate(run, "test")
        assert found.name.startswith(f"{first.name}-")
        assert lines.pop() == (
            f"{first.name} was scored with another {part}: the new result is "
            f"{found.name}"
        )
        monkeypatch.undo()
        monkeypatch.setattr(run.terminal, "say", lines.append)
    context = json.loads((found / "context.json").read_text())
    assert context["test_evaluations"] == 3


def test_a_half_written_result_is_written_anew(tmp_path):
    plain = tmp_path / "test@5"
    wanted = {"data.clip_frames": 10, "weights": "a"}
    assert choose_folder(plain, wanted) == (plain, [])
    plain.mkdir()
    (plain / "context.json").write_text(json.dumps({"scored_with": {"weights": "b"}}))
    assert choose_folder(plain, wanted) == (plain, [])
    (plain / "report.json").write_text("{}")
    folder, differing = choose_folder(plain, wanted)
    assert differing == ["data.clip_frames", "weights"]
    assert folder.name.startswith("test@5-") and folder.parent == tmp_path
    (plain / "context.json").write_text(json.dumps({"scored_with": wanted}))
    assert choose_folder(plain, wanted) == (plain, [])


@pytest.mark.parametrize(
    "content", [b"", b'{"scored_with": {"a', b"\xff", b"[]", b'{"scored_with": 3}']
)
def test_of_a_damaged_context_nothing_is_believed(tmp_path, content):
    plain = tmp_path / "test@5"
    plain.mkdir()
    (plain / "report.json").write_text("{}")
    assert results.complaint(plain)  # it is missing
    (plain / "context.json").write_bytes(content)
    assert results.recorded(plain) == {}
    assert results.complaint(plain).startswith(f"{plain / 'context.json'} is ")
    assert choose_folder(plain, {"weights": "a"}) == (plain, [])
    (plain / "context.json").write_text("{}")  # of an old one, which does not say
    assert (results.recorded(plain), results.complaint(plain)) == ({}, "")


def test_each_dataset_has_a_test_of_its_own(tmp_path):
    (tmp_path / "eval").mkdir()
    count = functools.partial(_count_touch, tmp_path, step=5)
    assert count("val", test="test") == (0, "")
    assert count("test", test="test") == (1, "")
    assert count("celebdf_v2-test", test="celebdf_v2-test") == (1, "")
    assert count("dfdc-test", test="dfdc-test") == (1, "")
    assert count("test", test="test") == (2, "")
    assert count("val", test="test") == (2, "")


def test_the_digest_of_a_dataset_is_that_of_its_content(tiny_run, tmp_path):
    folder = Path(dataset.open_dataset(tiny_run.config).data_dir)
    digest = dataset.dataset_digest(folder)
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert dataset.dataset_digest(copy) == digest
    table = copy / "videos-val.jsonl"
    text = table.read_text()
    table.write_text(text.replace('"label": 1', '"label": 0', 1))
    assert dataset.dataset_digest(copy) != digest
    table.write_text(text)
    assert dataset.dataset_digest(copy) == digest
    shard = next(copy.glob("*.array_record*"))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert dataset.dataset_digest(copy) != digest
    with pytest.raises(DataError, match="is not a built dataset"):
        dataset.dataset_digest(tmp_path)


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
    builder = dataset.open_dataset(config)
    whole = open_split(builder, "train", config)
    part = open_split(builder, "train", config, hold_out=("Deepfakes",))
    assert part.videos == [v for v in whole.videos if v.label == 0]
    records = [3, 1]
    reader = FrameReader(builder, "train", image_size=32, records=records)
    for place, number in enumerate(records):
        frames = np.zeros((2, 4, 32, 32, 3), np.uint8)
        reader.read(order.ClipRef(place, 1, 1), 8, frames[0])
        whole.reader.read(order.ClipRef(number, 1, 1), 8, frames[1])
        np.testing.assert_array_equal(frames[0], frames[1])
        assert frames[0].any()


def test_a_damaged_count_of_test_evaluations_never_restarts(tmp_path):
    count = functools.partial(_count_touch, tmp_path, step=5)
    path = tmp_path / "eval" / "touched.jsonl"
    path.parent.mkdir()
    assert count(split="test", test="test") == (1, "")
    with open(path, "a") as file:
        file.write('{"split": "te')  # a disk was full
    said = f"{path}: line 2 is damaged and counted as an evaluation of test"
    assert count(split="test", test="test") == (3, said)
    assert count(split="val", test="test") == (3, said)
    path.write_bytes(b"\xff\n12\n")
    assert count(split="test", test="test") == (3, said.replace("line 2", "line 1, 2"))


@pytest.fixture(scope="module")
def all_held_out():
    """Flags that keep every fake of the tiny run's dataset from train and val."""
    return ("--config.data.hold_out=('Deepfakes',)", "--config.data.sampling=class")


def test_without_any_fake_a_checkpoint_is_chosen_by_self_blended_reals(
    launchpad, tiny_config, all_held_out, tmp_path
):
    command = ("--config", tiny_config, "--workdir", tmp_path / "w", *all_held_out)
    command += ("--config.loss.self_blend=1.0", "--config.num_epochs=3")
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
    assert facts.val_fakes == "self-blended"
    assert (
        facts.calibration and facts.calibration.fitted != 1.0
    )  # 1 where a class is missing
    (context,) = (tmp_path / "w" / "eval").glob("*/context.json")
    choice = json.loads(context.read_text())["selected_on"]
    assert choice.endswith("of its real videos against self-blended copies of them")
    assert "self-blended" not in context.with_name("scores.jsonl").read_text()


def test_the_blends_of_val_are_the_same_at_each_look(tiny_run):
    config = tiny_run.config
    split = open_blended_split(dataset.open_dataset(config), "val", config)
    half = len(split.videos) // 2
    assert [v.label for v in split.videos] == [0] * half + [1] * half
    assert [v.video_id for v in split.videos[:half]] == [
        v.video_id for v in split.videos[half:]
    ]
    mesh = parallel.make_mesh(jax.devices()[:1])
    step_settings = steps.make_step_settings(config, num_steps=1)
    shape = settings.clip_shape(config)
    state = first_state(step_settings, shape, config, mesh)

    def score(blends):
        step = compiled.compile_eval_step(step_settings.model, mesh, blends=blends)
        variables = state.eval_variables()
        rows = score_clips(step, variables, split, config, mesh=mesh)
        return np.array([row.logit for row in rows])

    first, plain = score((3, step_settings.stored)), score(None)
    np.testing.assert_array_equal(first, score((3, step_settings.stored)))
    reals = len(first) // 2
    assert (first != plain).all()  # reals pass all but the blending, too
    np.testing.assert_allclose(plain[reals:], plain[:reals], atol=1e-6)


def test_nothing_to_learn_from_is_told(launchpad, tiny_config, all_held_out, tmp_path):
    code, _, err = launchpad.run(
        *("--config", tiny_config, "--workdir", tmp_path / "w", *all_held_out)
    )
    assert code == 2
    assert "no fake is left to train on; set config.loss.self_blend" in err
