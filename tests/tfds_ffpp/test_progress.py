"""The time left is reckoned from what was done now."""

import re

from tfds_ffpp import progress
from tfds_ffpp.progress import Progress


def test_what_was_there_already_does_not_shorten_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with Progress("prepare videos", 1000) as bar:
        bar.skip(900)
        for _ in range(4):
            now[0] += 10
            bar.step()
    first, last = capsys.readouterr().err.splitlines()
    assert first == "prepare videos: 904/1000, 0.10/s, 960 s left" == last


def test_a_task_without_work_says_nothing(capsys):
    with Progress("prepare videos", 5) as bar:
        bar.skip(5)
    assert not re.search(r"\S", capsys.readouterr().err)
