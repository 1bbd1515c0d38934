"""Runs what the docs show on made data: the notebook, and the tutorials' commands.

python .ci/run_docs.py [notebook] [TUTORIAL...]

Everything without names. Each runs in a folder of its own, as a reader would; what
takes a day there is made small here by CHANGES, what needs other people's data or
machines is left out by SKIPPED. Needs the extras docs and serve, curl and port 8000.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "first_detector.ipynb"
# A full ResNet-50 is too large for a laptop; a weights file is the reader's own.
SMALL = (
    " --config.model.backbone=resnet18 --config.dataset.image_size=64"
    " --config.batch_size=4 --config.num_steps=4"
)
CHANGES = (
    (" --config.init_from=resnet50.safetensors", ""),
    ("--config.data.manual_dir=ROOT", f"--config.data.manual_dir=ROOT{SMALL}"),
    ("configs/demo_vit.py", "configs/demo_vit.py --config.num_steps=20"),
)
# Blocks with these words: installs, downloads, other machines, and files that a
# reader has.
SKIPPED = (
    *("git clone", "gcloud", "hf_hub_download", "ffpp_clip", "celebdf", "gs://"),
    *("--data_dir DATA", "runs/again", "runs/a/"),
)
# All but `pod`, whose commands need one; tests/run/test_buckets.py has their like.
TUTORIALS = ("first_detector", "your_ffpp", "judge_scores", "vit", "newsroom")
FEW = " --config.num_steps=20 --config.synthetic.num_identities=12"


def say(words: str) -> None:
    """A line above what a command prints."""
    print(f"+ {words}", flush=True)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a page that are commands or Python."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    runs = re.compile(r"python -m|fakedetect |tfds ")
    return [
        (language, text)
        for language, text in found
        if language == "python" or (not language and runs.match(text))
    ]


def run_tutorial(name: str, folder: Path) -> int:
    """Runs a tutorial's blocks, one after another; returns how many did run."""
    (folder / "configs").symlink_to(ROOT / "configs")
    home = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    count = 0
    for language, text in blocks((ROOT / f"docs/tutorials/{name}.md").read_text()):
        if any(word in text for word in SKIPPED):
            continue
        for old, new in CHANGES:
            text = text.replace(old, new)
        say(f"{name}: {text.strip().splitlines()[0]}")
        words = (
            [sys.executable, "-c"] if language else ["bash", "-euo", "pipefail", "-c"]
        )
        subprocess.run([*words, text], cwd=folder, env=home, check=True)  # noqa: S603
        count += 1
    return count


def run_newsroom(folder: Path) -> int:
    """Starts the page's service and sends its calls; returns how many commands ran."""
    if shutil.which("curl") is None:
        raise SystemExit("newsroom: curl is not installed")
    (folder / "configs").symlink_to(ROOT / "configs")
    home = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    page = (ROOT / "docs/tutorials/newsroom.md").read_text()
    (train,) = re.findall(
        r"^python -m fakedetect_jax\.main .*",
        (ROOT / "docs/tutorials/first_detector.md").read_text(),
        re.MULTILINE,
    )[:1]
    serve = re.findall(r"^python -m fakedetect_jax\.serve .*", page, re.MULTILINE)[0]
    calls = re.findall(r"^curl .*localhost.*", page, re.MULTILINE)
    say(f"newsroom: {train}{FEW}")
    subprocess.run(["bash", "-c", train + FEW], cwd=folder, env=home, check=True)  # noqa: S603, S607
    video = next((folder / "runs/demo-data/videos").rglob("original*/**/*.mp4"))
    shutil.copy(video, folder / "clip.mp4")

    def call(words: str) -> str:
        say(f"newsroom: {words}")
        words = words.replace("curl ", "curl -sS --fail-with-body ", 1)
        done = subprocess.run(  # noqa: S603
            ["bash", "-c", words],  # noqa: S607
            cwd=folder,
            env=home,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(done.stdout[:300])
        done.check_returncode()
        return done.stdout

    say(f"newsroom: {serve}")
    with subprocess.Popen(  # noqa: S603
        shlex.split(serve.replace("python", sys.executable, 1)),
        cwd=folder,
        env=home,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None  # noqa: S101
            line = server.stdout.readline()
            if "serving on http://127.0.0.1:8000/" not in line:
                raise SystemExit(f"the service said {line!r}")
            hand_in, state, *rest = calls
            name = json.loads(call(hand_in))["id"]
            for _ in range(300):
                job = json.loads(call(state.replace("ID", name)))
                if job["state"] in ("done", "failed"):
                    break
                time.sleep(1)
            if job["state"] != "done":
                raise SystemExit(f"the job is {job['state']}: {job['reason']}")
            for words in rest:
                call(words.replace("ID", name))
        finally:
            server.terminate()
    return 2 + len(calls)


def run_notebook(folder: Path) -> None:
    """Executes the notebook's cells; one that fails ends it with its traceback."""
    import nbformat
    from nbclient import NotebookClient

    say(f"{NOTEBOOK.name}")
    book = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=3600, startup_timeout=600, resources=where).execute()
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            print(output.get("text", ""), end="")


def main() -> None:
    """Runs what was asked for."""
    for name in sys.argv[1:] or ("notebook", *TUTORIALS):
        with tempfile.TemporaryDirectory() as folder:
            if name == "notebook":
                run_notebook(Path(folder))
                continue
            place = Path(folder)
            count = (
                run_newsroom(place) if name == "newsroom" else run_tutorial(name, place)
            )
            say(f"{name}: {count} commands ran")
            if not count:
                raise SystemExit(f"{name}: nothing of it was run")


if __name__ == "__main__":
    main()
