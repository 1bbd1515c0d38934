"""A command ends with an exit code and at most one sentence, whatever ends it."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tfds_ffpp.errors import DataError, Interrupted
from tfds_ffpp.terminal import command

MODULES = [
    *("fakedetect_jax", "fakedetect_jax.main", "fakedetect_jax.predict"),
    *("fakedetect_jax.report", "fakedetect_jax.export"),
    *("tfds_ffpp", "tfds_ffpp.layout", "tfds_ffpp.synthetic"),
]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("module", MODULES)
def test_a_reader_that_has_gone_ends_a_command_in_silence(module, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": unbuffered,
        },
    )
    os.close(writer)
    assert done.stderr == b"" and done.returncode in (0, 1)


def run_with(error: BaseException, **arguments) -> int:
    """The exit code of a command that meets `error`."""

    def work(_) -> int:
        print("so far")
        raise error

    return command.run(lambda: SimpleNamespace(**arguments), work)


def test_a_fault_of_another_pipe_is_shown(capfd):
    with pytest.raises(BrokenPipeError):
        run_with(BrokenPipeError())


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_is_a_sentence_and_its_kinds_code(debug, capsys):
    assert run_with(DataError("a.mp4 is empty; remove it"), debug=debug) == 3
    out, err = capsys.readouterr()
    assert out == "so far\n" and err.endswith("error: a.mp4 is empty; remove it\n")
    assert ("Traceback" in err) == debug


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_with(ZeroDivisionError())


@pytest.mark.parametrize(
    ("end", "code"),
    [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143)],
)
def test_an_interrupt_says_what_is_kept(end, code, capsys):
    end.add_note("what was done is kept")
    assert run_with(end) == code
    assert capsys.readouterr().err == "interrupted; what was done is kept\n"
