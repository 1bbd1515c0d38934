"""The pointing game finds its data from any folder, or says what to give it."""

import sys

import pytest

from benchmarks import pointing
from fakedetect_jax.trained.model import load_model


@pytest.fixture
def point(tiny_run, tmp_path, monkeypatch, capsys):
    """Runs the command elsewhere than a run whose data folder is a relative path."""
    model = load_model(tiny_run.workdir)
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.data_dir = "tfds"
    # Its checkpoint is sealed, so the path is changed as it is read.
    moved = model._replace(config=config)
    monkeypatch.setattr(
        "fakedetect_jax.serving.detector.load_model", lambda *_, **__: moved
    )
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[str, str]:
        words = ["pointing", tiny_run.workdir, tiny_run.videos, "--clips=4", *argv]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        pointing.main()
        return capsys.readouterr()

    return run


def test_data_that_are_elsewhere_are_asked_for_in_a_sentence(point, capsys):
    with pytest.raises(SystemExit) as end:
        point()
    assert end.value.code == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.endswith("; or give --data_dir\n")
    assert said.count("\n") == 1 and "tfds" in said


def test_the_data_may_be_anywhere(point, tiny_run):
    said = point("--data_dir", tiny_run.config.data.data_dir)[0]
    assert "split test" in said
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if "|" in line]
    rows = {cells[0]: cells[1:] for cells in lines}
    assert set(rows) >= {"all fakes", "called fake", "called fake, Deepfakes"}
    number, _, chance, *_ = rows["all fakes"]
    assert int(number) > 0 and 0 < float(chance.rstrip("%")) < 100
