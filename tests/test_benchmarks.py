"""Benchmarks: what they find is kept with what made it; peers are what they say."""

import argparse
import contextlib
import functools
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
import pytest

from benchmarks import (
    accelerator,
    augment,
    backends,
    edited,
    end_to_end,
    growth,
    mutants_video,
    phases,
    precision,
    recipe,
    step_workers,
    table,
)
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.order import ClipRef, frames_of
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics import metrics
from fakedetect_jax.model import network
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.model.kernels import max_pool
from fakedetect_jax.programs import runtimes
from fakedetect_jax.programs.backends import JaxBackend
from fakedetect_jax.run import parallel
from fakedetect_jax.trained.model import load_model
from tests.data.test_data import make_videos


def run(monkeypatch, folder, *argv, error=None) -> None:
    """A benchmark called pooling, with an option, a mode and a table of one row."""
    monkeypatch.setattr(table, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["/x/benchmarks/pooling.py", *argv])
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true")
    table.add_option(parser)
    options = parser.parse_args(argv)
    mode = "cpu" if options.cpu else ""
    with table.results(parser, options, mode) as results:
        results.say(f"{options.rounds} rounds")
        results.heads("name", "ms")
        results.row("a|b", 7)
        if error:
            raise error


def test_a_file_says_what_made_it_and_has_what_was_printed(
    monkeypatch, tmp_path, capsys
):
    run(monkeypatch, tmp_path, "--cpu")
    text = (tmp_path / "pooling_cpu.md").read_text()
    title, _, command, source, machine, versions, _, *found = text.splitlines()
    assert (title, command) == (
        "# pooling, cpu",
        "- `python -m benchmarks.pooling --cpu`",
    )
    assert source.startswith("- commit ") and " cores, " in machine
    assert versions.startswith("- Python ") and " jax " in versions
    assert found == ["5 rounds", "", "| name | ms |", "|---|---|", "| a/b | 7 |"]
    assert capsys.readouterr().out.startswith(text)


def test_what_a_benchmark_decides_itself_is_no_option(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args([])
    options.steps = 7
    assert table._place(parser, options, "a", "") == table.FOLDER / "a.md"
    options.rounds = 6
    assert table._place(parser, options, "a", "") is None


def test_what_grows_with_the_number_has_a_slope_of_one():
    sizes = (100, 1000, 10_000)
    used = [growth.Used(3 + 0.01 * n, 0.0) for n in sizes]
    assert growth.slope(sizes, used) == "1.00"
    flat = [growth.Used(1.0, 200.0), growth.Used(1.0, 250.0), growth.Used(1.0, 295.0)]
    assert growth.memory_growth((100, 1000, 10_000), flat) == "+5.00"


def test_the_step_beside_augmentation_trains():
    update: Any = augment.training_step("demo", image_size=32, clips=8)
    _, metrics = update()
    assert np.isfinite(metrics.loss) and metrics.finite


def test_only_a_full_run_replaces_a_file(monkeypatch, tmp_path):
    file = tmp_path / "pooling.md"
    file.write_text("before")
    run(monkeypatch, tmp_path, "--rounds=2")
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, tmp_path, error=ZeroDivisionError())
    other = tmp_path / "there" / "mine.md"
    run(monkeypatch, tmp_path, "--rounds=2", f"--results={other}")
    assert file.read_text() == "before" and "\n2 rounds\n" in other.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"pooling.md", "there"}
    run(monkeypatch, tmp_path)
    assert "\n5 rounds\n" in file.read_text()


@pytest.mark.parametrize("train", [False, True])
def test_flaxs_own_layers_are_the_same_network(monkeypatch, train):
    """Same variables, same logits and statistics: the peer of benchmarks.train_step."""
    for module, name in (
        *((resnet, name) for name in ("Conv", "BatchNorm", "_normalised")),
        (max_pool, "max_pool"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    sizes = {"stage_sizes": (1, 1), "width": 8, "lstm_features": 8}
    model = network.FakeDetector(backbone="resnet", dtype="float32", **sizes)
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(2, 3, 32, 32, 3)).astype(np.float32), np.array([3, 2])
    variables = model.init(jax.random.key(0), *clips)

    def outputs():
        return model.apply(variables, *clips, train=train, mutable=["batch_stats"])

    own = outputs()
    step_workers.use_flax_layers()
    flax = outputs()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), own, flax)


def test_backends_are_timed_and_compared(tmp_path, capsys):
    options = argparse.Namespace(clips=8, rounds=2, torch=False)  # a clip a device
    model = backends.random_model("resnet18", frames=2, size=32)
    backends.measure(options, table.Results(), model, tmp_path)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    names = [row[1].strip() for row in rows]
    assert names[:4] == ["jax", "onnxruntime", "openvino", "jax, bfloat16"]
    assert all(float(row[-2]) < 1e-4 for row in rows[:3])
    assert all(float(row[-2]) < 1e-2 for row in rows[3:])


@pytest.mark.parametrize(("backbone", "size"), [("resnet18", 32), ("dinov2_s14", 28)])
def test_the_peer_of_backends_has_their_logits(backbone, size):
    pytest.importorskip("torch", reason="of the extra bench")
    model = backends.random_model(backbone, frames=3, size=size)
    model, ways = backends.with_peers(model)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, size, size, 3), np.uint8)
    batch = frames, np.full(2, 3, np.int32)
    wanted = JaxBackend(model, jax.devices()[:1], None).outputs(*batch)[0]
    assert ways["PyTorch, frozen"].dtype == "float32"
    found = ways["PyTorch, eager"].open()(*batch)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max() + 1e-6
    half = ways["PyTorch, eager, bfloat16"].open()(*batch)
    assert 0 < np.abs(half - wanted).max() < 0.05


def test_the_projects_fastest_is_held_against_the_fastest_peer():
    def way(dtype: str) -> backends.Way:
        return backends.Way(dtype, lambda: lambda *_: np.zeros(1))

    ways = {name: way("float32") for name in ("jax", "openvino", "PyTorch, eager")}
    ways |= {"PyTorch, frozen": way("float32"), "jax, bfloat16": way("bfloat16")}
    rates = dict(zip(ways, (4.0, 6.0, 5.0, 8.0, 90.0), strict=True))
    assert [backends.to_peer(name, ways, rates) for name in ways] == [
        *("", "0.75", "", "", "")
    ]


def test_a_film_knows_who_is_seen():
    film = edited.Film((((3, 0), (1, 5), 10), ((1, 7), (2, 0), 25)), (1, True))
    seen = [film.person(*at) for at in ((0, 10), (9.5, 440), (10, 10), (34.9, 300))]
    assert seen == [3, 1, 1, 2]
    assert film.person(99, 10) == 1  # the last frame's, where a face ends later
    assert film.span == (10 / edited.RATE, 35 / edited.RATE)


def test_decoders_that_are_killed_fail_the_damaged_videos(monkeypatch, tmp_path):
    file = tmp_path / "mutants.md"
    argv = ["mutants_video.py", "--count", "2", "--results", str(file)]
    monkeypatch.setattr(sys, "argv", argv)

    def rows() -> list[dict[str, str]]:
        lines = [line for line in file.read_text().splitlines() if line[:1] == "|"]
        head, _, *rows = [[c.strip() for c in x.split("|")[1:-1]] for x in lines]
        return [dict(zip(head, row, strict=True)) for row in rows]

    assert mutants_video.main() == 0
    assert [row["died"] for row in rows()] == ["0", "0"]
    assert all(int(row["MiB"]) > 0 for row in rows())
    over = threading.Event()

    def kill_all():
        while not over.wait(0.01):
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "tfds_ffpp.workers.child" in process.cmdline():
                        process.kill()

    thread = threading.Thread(target=kill_all)
    thread.start()
    try:
        assert mutants_video.main() == 1
    finally:
        over.set()
        thread.join()
    assert [row["died"] for row in rows()] == ["2", "2"]


def test_precisions_are_held_against_float32(tiny_run, capsys):
    model = load_model(tiny_run.workdir)
    builder = dataset.open_dataset(model.config)
    val, test = (reader.open_split(builder, n, model.config) for n in ("val", "test"))
    options = argparse.Namespace(videos=3, clips=8, seen=2)
    results = table.Results()
    precision.measure("tiny", model, (val, test), options, results)
    rows = [line.split("|")[1:-1] for line in results.text().splitlines()]
    found = {row[1].strip(): row for row in rows}
    names = ["jax, float32", *runtimes.installed()]
    assert list(found)[: len(names)] == names
    apart = {name: float(row[5]) for name, row in found.items()}
    assert apart.pop("jax, float32") == 0
    for name, change in apart.items():
        exact = name in runtimes.PACKAGES
        assert (change < 1e-6) == exact and change < 0.1
    assert {row[4].split()[-1] for row in rows} == {"3"}


class Noise:
    """A reader of frames that differ from each other."""

    def read(self, clip, num_valid, out):
        frames, length = frames_of(clip, num_valid, len(out))
        for row, frame in enumerate(frames):
            rng = np.random.default_rng([clip.video, frame])
            out[row] = rng.integers(0, 256, 3)
        return length

    def read_masks(self, clip, num_valid, out):
        raise AssertionError("no mask is asked for")


def test_regraded_reals_are_scored_on_the_clips_of_stored_ones(
    load_config, monkeypatch
):
    """So a re-grading that changes nothing changes no video's score."""
    config = load_config("demo")
    with config.unlocked():
        config.dataset.image_size, config.data.clip_frames = 8, 4
    reals = [video for video in make_videos(num_valid=20) if not video.label]
    split = reader.Split("test", reals, Noise())
    mesh = parallel.make_mesh(jax.devices()[:1])

    def step(_, batch):
        return batch.frames.mean((1, 2, 3, 4)) / 64 - 2

    rows = evaluate.score_clips(step, {}, split, config, mesh=mesh)
    stored = metrics.videos(metrics.clips(rows))
    assert (stored.num_clips == 3).all()
    monkeypatch.setattr(recipe, "regrade", lambda frames, key: frames)
    regraded = recipe.regraded_scores(step, {}, split, config, mesh)
    np.testing.assert_array_equal(regraded, stored.score)


def test_clips_of_a_video_are_regraded_alike_and_videos_apart():
    class Grey(Noise):
        def read(self, clip, num_valid, out):
            out[:] = 100
            return 2

    regraded, found = recipe.Regraded(Grey()), []
    for video, start in ((0, 0), (0, 3), (1, 0)):
        found.append(np.zeros((2, 16, 16, 3), np.uint8))
        assert regraded.read(ClipRef(video, start, 1), 2, found[-1]) == 2
    assert np.array_equal(found[0], found[1]) and (found[0] != 100).any()
    assert not np.array_equal(found[0], found[2])


SPEAKER = """
import time
from benchmarks import phases
time.sleep(0.7)
phases.begin("hold")
print("a line", flush=True)
held = bytearray(b"x" * 200_000_000)
time.sleep(1.5)
del held
phases.begin("idle")
time.sleep(0.7)
"""


def test_seconds_and_memory_are_those_of_each_phase(tmp_path):
    """Of a real command, which holds 200 MB in one of its phases."""
    (tmp_path / "speaker.py").write_text(SPEAKER)
    where = {"PYTHONPATH": f"{tmp_path}:{Path(table.__file__).parents[1]}"}
    done = phases.run(["speaker"], "start", where)
    seconds, memory = done.seconds_by_phase(), done.memory_by_phase()
    assert list(seconds) == ["start", "hold", "idle"] and done.lines == ["a line"]
    assert seconds["start"] > 0.7 and seconds["hold"] > 1.5 and seconds["idle"] > 0.7
    assert sum(seconds.values()) == pytest.approx(done.seconds)
    assert memory["hold"] > memory["start"] + 150e6
    assert memory["hold"] > memory["idle"] + 150e6
    assert done.ends_of("hold") == [seconds["start"] + seconds["hold"]]


def one_side(*validations: tuple[float, float, float]) -> end_to_end.Side:
    seconds, memory = {"train": 60.0, "validate": 6.0}, {"train": 10**9}
    found = [end_to_end.Validated(*one) for one in validations]
    return end_to_end.Side(seconds, memory, 90.0, 10**6, 10**7, found)


def test_a_detector_is_there_when_the_best_on_val_meets_the_bar_on_test():
    rising = one_side((10, 0.7, 0.6), (20, 0.9, 0.92), (30, 0.95, 0.94))
    assert (rising.detector, rising.auc) == (30, 0.94)
    # What val does not choose is no detector, however good it is on test.
    unseen = one_side((10, 0.9, 0.8), (20, 0.8, 0.99), (30, 0.9, 0.95))
    assert (unseen.detector, unseen.auc) == (30, 0.95)
    assert one_side((10, 0.99, 0.92)).detector is None


def kept_round(
    made_with: dict[str, str], videos: int, own: float, peer: float
) -> end_to_end.Round:
    sides = {
        end_to_end.OWN: one_side((own, 0.99, 0.97)),
        end_to_end.PEER: one_side((peer, 0.99, 0.96)),
    }
    ways = {"eager": end_to_end.Way(0.5, 0.1)}
    beforehand = end_to_end.Beforehand(ways, "eager")
    return end_to_end.Round(made_with, 0.5, videos, 1280, beforehand, sides)


def measure_twice(monkeypatch, tmp_path, *, rounds: int, commit: str = "abc") -> list:
    """The benchmark on a machine that measures in no time; what it had to measure."""
    asked = []

    def measured(task, made_with):
        asked.append(task)
        videos = 6 * task.scale.identities
        return kept_round(made_with, videos, own=60, peer=60 * (4 + len(asked)))

    monkeypatch.setattr(end_to_end, "measure", measured)
    monkeypatch.setattr(end_to_end.tree, "write_tree", lambda *_, **__: None)
    monkeypatch.setattr(end_to_end.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(table, "commit", lambda: commit)
    words = [f"--rounds={rounds}", f"--out={tmp_path}", f"--results={tmp_path}/a.md"]
    monkeypatch.setattr(sys, "argv", ["/x/end_to_end.py", *words])
    end_to_end.main()
    return asked


def test_an_interrupted_benchmark_goes_on_with_the_next_round(monkeypatch, tmp_path):
    first = measure_twice(monkeypatch, tmp_path, rounds=1)
    assert [task.scale.identities for task in first] == [64, 16]  # and a smaller tree
    again = measure_twice(monkeypatch, tmp_path, rounds=3)
    assert [task.scale.identities for task in again] == [64, 64]
    assert all(task.beforehand.chosen == "eager" for task in again)
    rows = (tmp_path / "a.md").read_text()
    assert (
        "| to a test AUC of 0.93, min | 1.0 (1.0 to 1.0) | 5.0 (5.0 to 6.0) |" in rows
    )
    with pytest.raises(SystemExit, match="commit 'abc', and this is 'def'"):
        measure_twice(monkeypatch, tmp_path, rounds=3, commit="def")


def test_the_peer_mirrors_whole_clips(tmp_path):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    import cv2

    from benchmarks import end_to_end_peer as peer

    draw, files = np.random.default_rng(0), []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        image = draw.integers(0, 256, (peer.SIZE, peer.SIZE, 3), np.uint8)
        cv2.imwrite(str(files[-1]), image)
    clips = peer.TrainClips({0: [files], 1: [files]}, 64, end_to_end.mirrored())
    plain, length = peer.read_clip(files, 0)
    found = [clips[i][0] for i in range(64)]
    mirrored = sum(bool((one == plain.flip(-1)).all()) for one in found)
    same = sum(bool((one == plain).all()) for one in found)
    assert length == 4 and mirrored + same == 64 and 16 < mirrored < 48


class SmallBench(accelerator.Bench):
    """The ceilings, and the training of a tiny network."""

    def __init__(self, **fields):
        sizes = {"clips": 2, "frames": 2, "size": 16, "steps": 2, "copied": 1}
        options = {**sizes, "product": 64, "budget": 1e6, **fields}
        super().__init__(argparse.Namespace(**options))

    def config(self, backbone):
        config = super().config(backbone)
        with config.unlocked():
            config.model.update(stage_sizes=(1,), width=4, lstm_features=4)
        return config

    def parts(self):
        yield "ceilings", 0, self.look_at_ceilings
        yield "training", 0, functools.partial(self.look_at_training, "demo")


def ended(pid: int) -> bool:
    """Whether a process of which this is no parent is gone within seconds."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True  # nobody here asks how it ended
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("then", "code"), [("sleep 600", None), ("exit 3", 3)])
def test_with_a_command_its_workers_end(tmp_path, then, code):
    """Be it that its time is up, or that it ends without them."""
    words = ["sh", "-c", f"sleep 600 & echo $! >&2; {then}"]
    start = time.monotonic()
    assert accelerator.run_whole(words, 3, tmp_path / "said") == code
    assert time.monotonic() - start < 60
    assert ended(int((tmp_path / "said").read_text()))


@pytest.mark.skipif(
    find_spec("torch") is None, reason="the extra bench is not installed"
)
def test_pytorch_has_a_share_of_the_accelerators_budget():
    fault = SmallBench(budget=5).look_at_torch()["fault"]
    assert fault.startswith("not done in its ") and int(fault.split()[-2]) <= 2


def test_ceilings_that_cannot_be_had_cost_the_training_its_shares_alone():
    bench = SmallBench(copied=1 << 30)  # a PiB, in MiB
    *_, found = accelerator.measure(bench, table.Results(), 1e6)
    training = found["training"]
    assert "fault" in found["ceilings"] and training["frames_per_second"] > 0
    assert (training["of_product"], training["of_copy"]) == (None, None)
    bench.options.copied = 1
    bench.look_at_ceilings()
    training = bench.look_at_training("demo")
    assert training["of_product"] > 0 and training["of_copy"] > 0
