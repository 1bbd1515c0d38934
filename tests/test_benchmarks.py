"""Benchmarks: what they find is kept with what made it; peers are what they say."""

import argparse
import sys
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import (
    augment,
    backends,
    edited,
    growth,
    precision,
    step_workers,
    table,
)
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.model import network
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.model.kernels import max_pool
from fakedetect_jax.programs import runtimes
from fakedetect_jax.trained.model import load_model


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
    options = argparse.Namespace(clips=8, rounds=2)  # a clip a device
    model = backends.random_model("resnet18", frames=2, size=32)
    backends.measure(options, table.Results(), model, tmp_path)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    assert [row[1].strip() for row in rows] == ["jax", "onnxruntime", "openvino"]
    assert all(float(row[-1]) < 1e-4 for row in rows)


def test_a_film_knows_who_is_seen():
    film = edited.Film((((3, 0), (1, 5), 10), ((1, 7), (2, 0), 25)), (1, True))
    seen = [film.person(*at) for at in ((0, 10), (9.5, 440), (10, 10), (34.9, 300))]
    assert seen == [3, 1, 1, 2]
    assert film.person(99, 10) == 1  # the last frame's, where a face ends later
    assert film.span == (10 / edited.RATE, 35 / edited.RATE)


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
