"""Writes constraints.txt and constraints-build.txt: exact versions for every extra.

python .ci/lock.py [--upgrade]

Needs uv. Versions that are in the files stay unless pyproject.toml no longer allows
them; --upgrade takes the newest ones. Both files hold for both tested Pythons.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12")
# Beam wants older protobuf, pyarrow and python-dateutil than the others take.
APART = "build"
# GPUs' extras exclude the last jaxlib for 3.11, which is the tested one on CPUs there.
NEWER_ONLY = ("cuda12", "cuda13")
HEAD = """\
# Exact versions that this project was tested with: pip install -c {file} -e {what}
# Python 3.11, and 3.12 and later where they differ. Made by .ci/lock.py.
"""


def resolve(extras: list[str], python: str, *, old: Path, upgrade: bool) -> list[str]:
    """The pins of one Python, for example "numpy==2.4.6"."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    if python == PYTHONS[0]:
        extras = [extra for extra in extras if extra not in NEWER_ONLY]
    command += [f"--extra={extra}" for extra in extras]
    command += [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_31"]
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch) / "pins.txt"
        if old.exists() and not upgrade:
            pins.write_text(old.read_text())  # uv prefers what is in its output
        command += ["pyproject.toml", "-o", str(pins)]
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - no user's words
        return [line for line in pins.read_text().splitlines() if "==" in line]


def merge(older: list[str], newer: list[str]) -> list[str]:
    """The pins of both Pythons, each with a marker where they differ."""
    lines = [pin for pin in older if pin in newer]
    lines += [f'{pin} ; python_version < "3.12"' for pin in older if pin not in newer]
    lines += [f'{pin} ; python_version >= "3.12"' for pin in newer if pin not in older]
    return sorted(lines, key=lambda line: (re.split("[=[]", line)[0], line))


def main() -> None:
    """Writes both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = list(project["optional-dependencies"])
    rest = [extra for extra in every if extra != APART]
    for name, extras, what in (
        ("constraints.txt", rest, "."),
        ("constraints-build.txt", every, "'.[build]'"),
    ):
        file = ROOT / name
        pins = [
            resolve(extras, python, old=file, upgrade="--upgrade" in sys.argv)
            for python in PYTHONS
        ]
        head = HEAD.format(file=name, what=what)
        file.write_text(head + "\n".join(merge(*pins)) + "\n")


if __name__ == "__main__":
    main()
