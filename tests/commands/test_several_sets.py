"""A training on three datasets: the same batches anywhere, resumed, named, no leaks."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from fakedetect_jax import settings, train
from fakedetect_jax.data import sets
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics.records import ClipScore, Video
from fakedetect_jax.pages.evaluation_page import write_report
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import Checkpoints
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.run.workdir import Run, write_record
from fakedetect_jax.trained.model import load_model, read_workdir, write_bundle
from tests.run.test_resume import final_leaves
from tfds_ffpp import build
from tfds_ffpp.errors import DataError
from tfds_ffpp.terminal.lines import Terminal

NAMES = ("demo", "second", "third")


def celebdf(root: Path, reals: list[Path], fakes: list[Path]) -> None:
    """The videos as a tree of Celeb-DF v2."""
    (root / "YouTube-real").mkdir(parents=True)
    for i, (real, fake) in enumerate(zip(reals, fakes, strict=True)):
        name = root / "Celeb-synthesis" / f"id{i}_id{i ^ 1}_0000.mp4"
        for old, new in ((real, root / "Celeb-real" / f"id{i}_0000.mp4"), (fake, name)):
            new.parent.mkdir(exist_ok=True)
            shutil.copy(old, new)


def dfdc(root: Path, reals: list[Path], fakes: list[Path]) -> None:
    """The videos as a part of DFDC."""
    part = root / "dfdc_train_part_0"
    part.mkdir(parents=True)
    facts = {}
    for i, (real, fake) in enumerate(zip(reals, fakes, strict=True)):
        shutil.copy(real, part / f"r{i}.mp4")
        shutil.copy(fake, part / f"f{i}.mp4")
        facts[f"r{i}.mp4"] = {"label": "REAL"}
        facts[f"f{i}.mp4"] = {"label": "FAKE", "original": f"r{i}.mp4"}
    (part / "metadata.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def three(tiny_run, tmp_path_factory):
    """The tiny run's config with two more sets; eight frames each.

    Their videos are cut from the tiny run's, at other places: the same footage stands
    in the splits of two sets.
    """
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(tiny_run.config.data.data_dir, folder / "tfds")
    reals = sorted(tiny_run.videos.rglob("original_sequences/youtube/c23/videos/*.mp4"))
    fakes = sorted(tiny_run.videos.rglob("Deepfakes/c23/videos/*.mp4"))
    for name, lay_out in (("second", celebdf), ("third", dfdc)):
        lay_out(folder / name, reals, fakes)
        built = dataclasses.replace(
            build.named_config(name),
            **dict(
                protocol="disjoint", image_size=32, num_frames=8, face_finder="none"
            ),
        )
        build.build(
            built,
            data_dir=folder / "tfds",
            manual_dir=folder / name,
            num_processes=1,
        )
    config = tiny_run.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(
            data_dir=str(folder / "tfds"),
            manual_dir="",
            train="demo=2,second=1,third=1",
            sampling="pair",
            allow_leaks=True,
        )
        config.eval.final_split = "val"
    return config.lock()


def go(config, workdir, num_steps: int, devices: int = 1, **fields):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.num_steps = num_steps
        for name, value in fields.items():
            config.data[name] = value
    workdir.mkdir(exist_ok=True)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    run = Run(config.lock(), workdir, mesh, Terminal(quiet=True), StopRequest(), "test")
    write_record(run, parallel.describe_devices(mesh))
    return train.train(run)


@pytest.fixture(scope="module")
def trained(three, tmp_path_factory):
    """Workdir and evaluation of three steps on one device."""
    workdir = tmp_path_factory.mktemp("three") / "w"
    evaluation = go(three, workdir, 3)
    assert evaluation is not None
    return workdir, write_report(evaluation, metrics_file=workdir / "metrics.jsonl")


def batches(config, rows, *, workers: int, start: int = 0):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.num_workers = workers
    builders = sets.open_all(config)
    data = sets.open_data(config, builders, sets.facts_of(builders))
    feed = train_feed(
        sets.train_order(config, data),
        data.train.reader,
        data.train.videos,
        config.data,
        shape=settings.batch_shape(config, 8, train=True),
        rows=rows,
        start_step=start,
        num_steps=4,
    )
    try:
        return data, list(feed)
    finally:
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_batches_are_the_same_with_any_workers_and_hosts(three):
    data, alone = batches(three, slice(0, 8), workers=0)
    assert min(data.sizes) >= 4 and list(data.facts) == list(NAMES)
    same(alone, batches(three, slice(0, 8), workers=3)[1])
    same(alone[2:], batches(three, slice(0, 8), workers=0, start=2)[1])
    halves = [batches(three, slice(n, n + 4), workers=0)[1] for n in (0, 4)]
    for whole, *parts in zip(alone, *halves, strict=True):
        same(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


def losses(workdir: Path) -> list[float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_eight_devices_see_the_batches_of_one(three, trained, tmp_path):
    go(three, tmp_path / "w", 3, devices=8, num_workers=3)
    np.testing.assert_allclose(losses(tmp_path / "w"), losses(trained[0]), rtol=1e-4)


def test_a_resumed_run_is_the_same_to_the_bit(three, trained, tmp_path):
    go(three, tmp_path / "w", 1)
    go(three, tmp_path / "w", 3)
    assert final_leaves(tmp_path / "w") == final_leaves(trained[0])
    assert losses(tmp_path / "w") == losses(trained[0])


def test_devices_hold_the_frames_of_all_sets(three, trained, tmp_path):
    go(three, tmp_path / "w", 3, resident="device")
    assert final_leaves(tmp_path / "w") == final_leaves(trained[0])
    assert losses(tmp_path / "w") == losses(trained[0])


def test_every_set_is_named_where_the_run_is(trained, tmp_path):
    workdir, report = trained
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    facts, numbers = checkpoints.facts(3), checkpoints.metrics(3)
    checkpoints.close()
    assert list(facts.other_datasets) == ["second", "third"]
    areas = [numbers[f"video_auc@{name}"] for name in NAMES]
    assert numbers["video_auc"] == pytest.approx(sum(areas) / 3)
    assert report.trained_on.dataset == "demo + second + third"
    assert "the mean over demo, second, third" in str(report.selected_on)
    assert facts.leaks is not None and facts.leaks.videos > 0
    assert "Across the splits of the run's datasets" in report.warnings[0]
    model = read_workdir(workdir)
    write_bundle(model, tmp_path / "export")
    said = load_model(tmp_path / "export").trained_on
    assert said.dataset == "demo + second + third" and said.real == said.fake
    assert (said.real or 0) >= 6
    assert said.digest not in (None, facts.dataset and facts.dataset.digest)


def test_a_set_that_was_exchanged_ends_the_resume(three, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "w")
    shutil.copytree(three.data.data_dir, tmp_path / "tfds")
    table = next(tmp_path.glob("tfds/tfds_ffpp/third/*/videos-train.jsonl"))
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="the dataset third is not the one"):
        go(three, tmp_path / "w", 4, data_dir=str(tmp_path / "tfds"))


def test_footage_in_the_splits_of_two_sets_ends_the_run(three, tmp_path):
    with pytest.raises(DataError, match="the same file: demo train ffpp/.* more"):
        go(three, tmp_path / "w", 1, allow_leaks=False)


def test_one_validation_set_of_several_can_be_named(three):
    config = three.copy_and_resolve_references()
    with config.unlocked():
        config.eval.validation = "second"
    builders = sets.open_all(config)
    data = sets.open_data(config, builders, sets.facts_of(builders))
    assert [one.dataset for one in data.val] == ["second"]
    with config.unlocked():
        config.data.train, config.eval.validation = "", "demo,third"
    assert sets.all_sets(config) == ["demo", "third"]


def test_a_plan_before_the_build_leaves_held_out_videos_out(three):
    config = three.copy_and_resolve_references()
    others = [
        split.videos
        for name in ("second", "third")
        for split in sets.open_split(
            {name: sets.open_all(config)[name]}, "train", config
        )
    ]
    assert sets.count_others(config) == sum(map(len, others))
    held = {video.method for videos in others for video in videos if video.label}
    with config.unlocked():
        config.data.hold_out = tuple(held)
    reals = sum(not video.label for videos in others for video in videos)
    assert sets.count_others(config) == reals


def test_a_set_that_only_judges_is_named_by_its_own_field(three, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        sets, "open_dataset", lambda _, name, used_by: asked.update({name: used_by})
    )
    config = three.copy_and_resolve_references()
    with config.unlocked():
        config.data.train, config.eval.validation = "demo,second", "demo,third"
    sets.open_all(config)
    assert asked["second"] == "data.train"
    assert asked["third"] == "eval.validation"


def test_memory_is_asked_for_what_is_really_read(three):
    """Val's fakes, all held out, are replaced by as many copies of its reals."""
    config = three.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(train="demo", sampling="class", cache_mib=-1, num_workers=2)
        config.loss.self_blend = 1.0
        builders = sets.open_all(config)
        own = sets.open_training(config, builders)[0].videos
        config.data.hold_out = tuple({v.method for v in own if v.label})
    data = sets.open_data(config, builders, sets.facts_of(builders))
    assert data.blended_val
    videos = [*data.train.videos, *data.val[0].split.videos]
    frames = sum(len(video.frame_index) for video in videos)
    assert data.memory == 2 * frames * 3 * config.dataset.image_size**2
    said = f"up to {data.memory / 1e9:,.2f} GB are held in memory"
    assert any(said in line for line in sets.lines(data))


def test_videos_of_two_sets_with_one_name_stay_two():
    def rows(name: str) -> list[ClipScore]:
        video = Video("ffpp", "youtube", name, name, "", "c23", 0)
        return [ClipScore(video, clip=0, start=0, length=1, logit=0.0, score=0.5)]

    apart = evaluate.pooled({"a": rows("000"), "b": rows("001")})
    assert [row.video.dataset for row in apart] == ["ffpp", "ffpp"]
    alike = evaluate.pooled({"a": rows("000"), "b": rows("000")})
    assert [row.video.dataset for row in alike] == ["a: ffpp", "b: ffpp"]
