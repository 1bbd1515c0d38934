"""Where there is no terminal a long task says now and then how far it is."""

import pytest
from rich.console import Console

from tfds_ffpp.terminal import progress
from tfds_ffpp.terminal.progress import Progress


@pytest.fixture
def now(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(progress.time, "strftime", lambda _: "NOW")
    return seconds


def test_what_was_there_already_does_not_shorten_the_time_left(now, capsys):
    with Progress("prepare videos", 1000) as bar:
        bar.skip(900)
        for _ in range(4):
            now[0] += 10
            bar.step()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "NOW  prepare videos 904/1000  0.10/s  16:00 left"


def test_a_run_that_goes_on_says_its_numbers(now, capsys):
    with Progress("train", 300, done=200, console=Console()) as bar:
        now[0] += 20
        bar.update(201, "loss 0.5")  # too early
        bar.line()
        now[0] += 29
        bar.update(210, "loss 0.4")  # the line before is not 30 s old
        bar.resize(400)
        now[0] += 2
        bar.update(211, "loss 0.3")
    assert capsys.readouterr().out.splitlines() == [
        "NOW  train 201/300  loss 0.5  33:00 left",
        "NOW  train 211/400  loss 0.3  14:36 left",
    ]


def test_a_task_that_is_soon_done_says_nothing(now, capsys):
    with Progress("prepare videos", 5) as bar:
        bar.skip(4)
        bar.step()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_and_no_lines(now, capsys):
    console = Console(force_terminal=True, width=100)
    with Progress("train [1]", 4, console=console) as bar:
        now[0] += 60
        bar.update(1, "loss 0.5")
    shown = capsys.readouterr().out
    assert "train [1]" in shown and "1/4" in shown and "loss 0.5" in shown
    assert "left" not in shown
