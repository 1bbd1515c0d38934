"""The wheel in an empty folder: each extra installs, each command runs.

python -m benchmarks.fresh_install [--python python3.12] [--extras base build bench]

Builds the wheel of this clone. For each extra a new environment in a new folder takes
it with the pins that documents name, and `pip check` looks at the result. The base
install runs every command of `fakedetect`, on videos made there; the others run those
that the extra adds to. Prints a table of size, seconds and result and writes it to
--out; ends with 1 when anything failed. Extras that need an accelerator (cuda12,
cuda13, tpu) are resolved, not installed.
"""

import argparse
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RESOLVED_ONLY = ("cuda12", "cuda13", "tpu")
VIDEOS, DATA = "runs/demo-data/videos", "runs/demo-data/tfds"
SMALL = "--config.synthetic.num_identities=12"
# What the other extras bring.
MODULES = {
    "bench": "torch, transformers",
    "c2pa": "c2pa",
    "dev": "pytest, ruff",
    "docs": "sphinx, furo",
    "gcs": "gcsfs",
    "heic": "pillow_heif",
    "hub": "huggingface_hub",
    "postgres": "psycopg",
    "redis": "redis",
    "test": "pytest",
}
# Starts the service, waits a minute at most until it has loaded the model, stops it.
SERVE = """
import re, subprocess, sys, time, urllib.error, urllib.request
words = ["fakedetect", "serve", "--workdir", "demo", "--port", "0"]
said = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
with subprocess.Popen(words, **said) as server:
    found = (re.search(r"http://[\\w.:]+", line) for line in server.stdout)
    address = next(one for one in found if one).group()
    for _ in range(60):
        try:
            well = urllib.request.urlopen(address + "/healthz").status == 200
            break
        except urllib.error.HTTPError:
            well = False
            time.sleep(1)
    server.terminate()
sys.exit(not well)
"""


class Row(NamedTuple):
    """One thing that was done."""

    python: str
    extra: str
    what: str
    seconds: float
    result: str


class Place(NamedTuple):
    """An empty folder with an environment beside it."""

    folder: Path
    venv: Path

    def run(self, *words: str) -> subprocess.CompletedProcess:
        """Runs a program of the environment in the folder, away from the clone."""
        path = f"{self.venv / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(self.venv)}
        env |= {"XDG_CACHE_HOME": str(self.folder.parent / "cache")}
        for name in ("PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
        program = str(self.venv / "bin" / words[0])
        return subprocess.run(
            [program, *words[1:]],
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def packages_mb(self) -> float:
        """What is installed."""
        files = (p for p in self.venv.rglob("*") if p.is_file() and not p.is_symlink())
        return sum(path.stat().st_size for path in files) / 1e6


def commands(extra: str) -> Iterator[tuple[str, ...]]:
    """Every command; with an extra, those that it adds to or changes.

    In an order in which each finds what it needs.
    """
    demo = ("fakedetect", "demo", "--workdir=demo", "--config.num_steps=2", SMALL)
    small = ("--set", "image_size=64", "--set", "num_frames=8")
    build = ("fakedetect", "build", "--manual_dir", VIDEOS)
    predict = ("fakedetect", "predict", "--output=-", f"{VIDEOS}/original_sequences")
    yield ("fakedetect", "--help")
    if extra == "base":
        yield demo
        yield ("fakedetect", "layout", VIDEOS)
        yield (*build, "--data_dir=built", *small)
        data = (f"--config.data.data_dir={DATA}", f"--config.data.manual_dir={VIDEOS}")
        yield (
            *("fakedetect", "train", "--config=demo", "--workdir=w", *data, SMALL),
            "--config.num_steps=2",
        )
        yield ("fakedetect", "eval", "--workdir=w", "--split=val")
        yield (*predict, "--workdir=w")
        yield ("fakedetect", "report", "demo", "w")
        yield ("fakedetect", "export", "w", "model", "--stablehlo")
        yield (*predict, "--model=model")
        yield ("fakedetect", "doctor")
    elif extra == "build":
        yield demo
        yield (
            *("tfds", "build", "tfds_ffpp", f"--manual_dir={VIDEOS}"),
            *("--imports=tfds_ffpp.tfds_ffpp_dataset_builder", "--data_dir=by_tfds"),
            '--config={"name": "small", "image_size": 64, "num_frames": 8}',
        )
    elif extra in ("onnx", "openvino"):
        backend = "onnxruntime" if extra == "onnx" else "openvino"
        yield demo
        yield ("fakedetect", "export", "demo", "model", "--onnx")
        yield (*predict, "--workdir=demo", f"--backend={backend}")
    elif extra == "faces":
        yield demo
        yield (*build, "--data_dir=landmarks", "--set", "landmarks=dlib", *small)
    elif extra == "serve":
        yield demo
        yield ("python", "-c", SERVE)
    else:
        yield ("python", "-c", f"import {MODULES[extra]}")


def try_extra(python: str, extra: str, wheel: Path, scratch: Path) -> Iterator[Row]:
    """Installs an extra and runs the commands; ends early where it does not install."""
    version = _output(python, "-c", "import platform; print(platform.python_version())")
    place = Place(scratch / "empty", scratch / "venv")
    place.folder.mkdir(parents=True)
    subprocess.run([python, "-m", "venv", str(place.venv)], check=True)
    pins = "constraints-build.txt" if extra == "build" else "constraints.txt"
    what = str(wheel) if extra == "base" else f"{wheel}[{extra}]"
    install = ["pip", "install", "--quiet", "-c", str(ROOT / pins), what]
    if extra in RESOLVED_ONLY:
        install.insert(2, "--dry-run")
    shown = f"pip install -c {pins} WHEEL{'' if extra == 'base' else f'[{extra}]'}"

    def row(what: str, words: Sequence[str]) -> Row:
        began = time.perf_counter()
        done = place.run(*words)
        seconds = time.perf_counter() - began
        result = "ok" if done.returncode == 0 else f"exit {done.returncode}"
        if done.returncode:
            print(done.stdout[-3000:], file=sys.stderr)
        what = what if "\n" not in what else "python -c ..."
        print(f"{version} {extra}: {what}: {result}, {seconds:.0f} s", flush=True)
        return Row(version, extra, what, seconds, result)

    installed = row(shown, install)
    if extra in RESOLVED_ONLY:
        yield installed._replace(what=f"{shown} --dry-run")
        return
    size = f"{installed.result}, {place.packages_mb():,.0f} MB"
    yield installed._replace(result=size)
    if not installed.result.startswith("ok"):
        return
    yield row("pip check", ["pip", "check"])
    for words in commands(extra):
        yield row(" ".join(words), words)


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the machine in its first lines."""
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    lines = [
        "# The wheel in an empty folder",
        "",
        f"`python -m benchmarks.fresh_install` at {commit}, {datetime.date.today()}, "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}.",
        "",
        "| Python | extra | command | seconds | result |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.python, row.extra, f"`{row.what}`", f"{row.seconds:.0f}")
        lines.append(f"| {' | '.join(cells)} | {row.result} |")
    return "\n".join(lines) + "\n"


def _output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Tries every extra on every Python; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--extras", nargs="+", default=["base"])
    parser.add_argument("--wheel", type=Path, help="this one; built here if not set")
    out = ROOT / "benchmarks" / "results" / "fresh_install.md"
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args(argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        wheel = options.wheel
        if wheel is None:
            wheels = Path(place) / "wheels"
            build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels)]
            subprocess.run([options.python[0], *build, str(ROOT)], check=True)
            (wheel,) = wheels.glob("*.whl")
        for python in options.python:
            for extra in options.extras:
                scratch = Path(place) / "try"
                rows += try_extra(python, extra, wheel.absolute(), scratch)
                shutil.rmtree(scratch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(table(rows))
    print(table(rows))
    return int(any(not row.result.startswith("ok") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
