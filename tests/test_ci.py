"""The script of CI says with its status how it went."""

import subprocess
from pathlib import Path

import pytest

from tests.patience import LIMIT

SCRIPT = Path(__file__).parent.parent / ".ci" / "run"


def beginning() -> str:
    """What the script sets before its first command: options, scratch, its end."""
    text = SCRIPT.read_text()
    end = text.index("\n", text.index("\ntrap ") + 1)
    return text[: end + 1].replace('"$(dirname "$0")/.."', "/")


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("true & wait $!", 0),
        ("sleep 60 & true", 0),
        ("true & wait $!; false", 1),
        ("(exit 7) & wait $!", 7),
    ],
)
def test_status_is_that_of_the_commands(rest, status):
    done = subprocess.run(
        ["bash", "-c", f'{beginning()}echo "$scratch"\n{rest}\n'],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert not Path(done.stdout.strip()).exists()
