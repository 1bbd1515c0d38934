"""What a benchmark finds is kept with what made it, and only a full run replaces it."""

import argparse
import sys

import pytest

from benchmarks import table


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
