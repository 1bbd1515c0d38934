"""What of this machine works with the project, and what to do about the rest.

python -m fakedetect_jax.doctor [--workdir W] [--dataset DIR] [--json] [--full]

Each line is ok, a warning or a fault, with its cure. What it prints can be shown to
others: names of users and folders are left out unless --full.
"""

import argparse
import contextlib
import getpass
import importlib.util
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.errors import ConfigError
from tfds_ffpp import system
from tfds_ffpp.errors import UserError
from tfds_ffpp.terminal import command

OK, WARNING, FAULT = "ok", "warning", "fault"
PACKAGE = "fakedetect-jax"
LEAST_MEMORY, LEAST_DISK = 4 << 30, 10 << 30  # the demo takes 1.2 and 0.2 GB
SLOW_DISK = 50e6  # bytes a second; a checkpoint of the full model is 310 MB
WRITTEN = 64 << 20


class Finding(NamedTuple):
    """What was looked at, how it stands, what was found, and what to do about it."""

    name: str
    state: str
    said: str
    cure: str = ""


Findings = Iterator[Finding]


# Packages, machine ------------------------------------------------------------------


def look_at_packages() -> Findings:
    """Python, this project, and whether what it needs is there as it needs it."""
    from packaging.requirements import Requirement

    yield Finding("python", OK, f"{platform.python_version()}, {platform.platform()}")
    own = metadata.version(PACKAGE)
    unfit, extras = [], []
    for text in metadata.requires(PACKAGE) or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = _version(wanted.name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            unfit.append(f"{wanted.name} {found or 'is not there'}")
    for extra, module in (
        *(("faces", "face_recognition_models"), ("onnx", "onnxruntime")),
        *(("openvino", "openvino"), ("gcs", "gcsfs"), ("c2pa", "c2pa")),
    ):
        if importlib.util.find_spec(module):
            extras.append(extra)
    said = f"{PACKAGE} {own}, jax {_version('jax')}, flax {_version('flax')}"
    said += f", extras: {', '.join(extras) or 'none'}"
    if unfit:
        yield Finding(
            "packages",
            FAULT,
            f"{said}; {', '.join(unfit)}",
            "install again: pip install -c constraints.txt -e . in a new environment",
        )
    else:
        yield Finding("packages", OK, said)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def look_at_machine(folder: Path) -> Findings:
    """Cores, memory, and the disk of a folder: how much is free, how fast it is."""
    from tfds_ffpp.system import free_memory

    free = free_memory()
    said = f"{system.num_cores()} cores"
    if free is None:
        yield Finding("memory", OK, f"{said}, free memory is not known here")
    else:
        low = free < LEAST_MEMORY
        yield Finding(
            "memory",
            WARNING if low else OK,
            f"{said}, {free / 1e9:.1f} GB free",
            "end other programs, or use a smaller batch_size" if low else "",
        )
    yield _disk(folder)


def _disk(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(os.urandom(WRITTEN))
            file.flush()
            os.fsync(file.fileno())
            rate = WRITTEN / (time.perf_counter() - start)
    except OSError as error:
        return Finding(
            "disk",
            FAULT,
            f"{folder} cannot be written ({error.strerror})",
            "give --workdir a folder that you may write to, on a disk with space",
        )
    said = f"{free / 1e9:.0f} GB free, {rate / 1e6:.0f} MB/s written"
    if free < LEAST_DISK:
        return Finding(
            "disk", WARNING, said, "free some space: FF++'s crops take 3.4 GB"
        )
    if rate < SLOW_DISK:
        return Finding("disk", WARNING, said, "checkpoints will be slow: a local disk")
    return Finding("disk", OK, said)


# Decoder, faces ---------------------------------------------------------------------


def look_at_videos(scratch: Path, config: Any) -> Findings:
    """Whether a made video is written, read back and shows its face."""
    import cv2
    import numpy as np

    from tfds_ffpp.frames import video
    from tfds_ffpp.frames.decoding import container
    from tfds_ffpp.synthetic import tree

    tree.write_tree(
        scratch / "videos",
        num_identities=6,
        num_frames=12,
        frame_size=192,
        methods=("Deepfakes",),
        num_processes=1,
    )
    path = next((scratch / "videos" / "original_sequences").rglob("*.mp4"))
    frames = video.read_clip(path, video.even_plan(4)).frames()
    yield Finding("decoder", OK, container.decoder())
    yield _faces(np.asarray(frames[1]), config)
    yield Finding("opencv", OK, f"{cv2.__version__}, {cv2.getNumThreads()} threads")


def _faces(picture: Any, config: Any) -> Finding:
    """With the finder that the workdir's config names, else with dlib's."""
    from tfds_ffpp.frames.people.finders import open_finder

    name, model, points = "dlib", "", "none"
    if config is not None:
        name, model = config.dataset.face_finder, config.dataset.face_finder_model
        points = config.dataset.landmarks
    if name == "none":
        return Finding("faces", OK, "the workdir's dataset looks for none")
    try:
        found = open_finder(name, model, points).find(picture)
    except UserError as error:
        return Finding(
            "faces", FAULT, str(error), "put its model where the config says"
        )
    if not found:
        return Finding(
            "faces",
            FAULT,
            f"{name} finds no face in a made picture",
            "install dlib-bin and opencv-python-headless again",
        )
    return Finding("faces", OK, f"{name} finds {len(found)} in a made picture")


def look_at_sandbox() -> Findings:
    """What decoders of strangers' videos cannot be kept from on this system."""
    from tfds_ffpp.workers.child import ways_left_open

    open_ways = ways_left_open() if hasattr(os, "fork") else ["anything"]
    if not open_ways:
        yield Finding("sandbox", OK, "decoders reach no other file, program or network")
        return
    yield Finding(
        "sandbox",
        WARNING,
        f"the kernel does not keep decoders from {', '.join(open_ways)}",
        "score strangers' videos in a container, or on Linux 5.13 or later",
    )


# Devices, the whole way -------------------------------------------------------------


def look_at_devices() -> Findings:
    """Each device, with a product computed there and checked."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX's own, of no backend
        reason = (str(error).splitlines() or ["there is none"])[0]
        yield Finding(
            "devices",
            FAULT,
            f"no device could be started: {reason}",
            "install the extra that fits it: cuda12, cuda13 or tpu",
        )
        return
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 256, 256)).astype(np.float32)
    for device in devices:
        found = jnp.matmul(
            jax.device_put(a, device), jax.device_put(b, device), precision="highest"
        )
        apart = float(np.abs(np.asarray(found) - a @ b).max())
        said = f"{device.device_kind} ({device.platform}) number {device.id}"
        if apart < 1e-2:
            yield Finding("device", OK, f"{said} computes")
        else:
            yield Finding(
                "device", FAULT, f"{said} is off by {apart:.2g}", "check its driver"
            )
    if system_has_gpu() and devices[0].platform == "cpu":
        yield Finding(
            "gpu",
            WARNING,
            "there is an NVIDIA GPU, and JAX does not use it",
            "in the clone: pip install -e '.[cuda13]'",
        )


def system_has_gpu() -> bool:
    """Whether the driver shows an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def go_the_whole_way(scratch: Path) -> Findings:
    """Builds a made dataset, trains two steps, saves, restores, scores a video."""
    from fakedetect_jax import settings, train
    from fakedetect_jax.data import dataset
    from fakedetect_jax.run import parallel
    from fakedetect_jax.run.process import StopRequest
    from fakedetect_jax.run.workdir import Run, write_record
    from fakedetect_jax.serving.detector import Detector
    from tfds_ffpp.terminal.lines import Terminal

    config = settings.load("demo").copy_and_resolve_references()
    with config.unlocked():
        config.dataset.update(image_size=32, num_frames=8, methods=("Deepfakes",))
        config.synthetic.num_identities = 0
        config.data.update(data_dir=str(scratch / "tfds"), clip_frames=4)
        config.data.update(manual_dir=str(scratch / "videos"), num_threads=1)
        config.model.update(stage_sizes=(1, 1), width=8, stem="small", lstm_features=8)
        config.update(num_steps=2, batch_size=8, compilation_cache="")
        config.eval.update(final_split="", batch_size=8)
    # On one device: whether each computes was asked before.
    import jax

    mesh, terminal = parallel.make_mesh(jax.devices()[:1]), Terminal(quiet=True)
    workdir = scratch / "run"
    workdir.mkdir()
    run = Run(config.lock(), workdir, mesh, terminal, StopRequest(), "doctor")
    start = time.perf_counter()
    dataset.prepare(config, terminal)
    write_record(run, parallel.describe_devices(mesh))
    train.train(run)
    video = next((scratch / "videos" / "manipulated_sequences").rglob("c23/**/*.mp4"))
    with Detector.load(workdir) as detector:
        (result,) = detector.results([video])
    seconds = time.perf_counter() - start
    if result.outcome not in ("scored", "unfamiliar"):
        yield Finding(
            "whole way",
            FAULT,
            f"a made video came out as {result.outcome}: {result.reason}",
            "report it, with this output",
        )
        return
    said = f"built, trained, saved, restored and scored in {seconds:.0f} s"
    yield Finding("whole way", OK, said)


# What is one's own ------------------------------------------------------------------


def look_at_workdir(workdir: Path) -> Findings:
    """The checkpoints of a run: the newest whole one, and what is damaged."""
    from fakedetect_jax.run.checkpoint import Checkpoints

    folder = workdir / "checkpoints"
    if not folder.is_dir():
        yield Finding("checkpoints", OK, "the workdir has none yet")
        return
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        steps = checkpoints.steps()
        damaged = {step: checkpoints.damage(step) for step in steps}
    finally:
        checkpoints.close()
    bad = {step: fault for step, fault in damaged.items() if fault}
    whole = [step for step in steps if step not in bad]
    if not bad:
        newest = f", the newest of step {max(whole)}" if whole else ""
        yield Finding("checkpoints", OK, f"{len(steps)} whole{newest}")
        return
    said = "; ".join(f"step {step}: {fault}" for step, fault in bad.items())
    cure = "train again with another --workdir, or restore the folder from a copy"
    if whole:
        cure = f"nothing: the next start goes on from step {max(whole)}"
    yield Finding("checkpoints", WARNING if whole else FAULT, said, cure)


def look_at_dataset(folder: Path) -> Findings:
    """A built dataset: its splits, with the first record of each read."""
    from fakedetect_jax.data.order import ClipRef
    from fakedetect_jax.data.reader import FrameReader, read_videos
    from tfds_ffpp import build

    name, data_dir = folder.parent.name, folder.parents[2]
    builder = build.open_named(name, data_dir=data_dir)
    size, said = builder.builder_config.image_size, []  # pyright: ignore
    import numpy as np

    for split in builder.info.splits:
        videos = read_videos(folder, split)
        reader = FrameReader(builder, split, image_size=size)
        frame = np.empty((1, size, size, 3), np.uint8)
        reader.read(ClipRef(0, 0, 1), max(videos[0].num_valid, 1), frame)
        fakes = sum(video.label for video in videos)
        said.append(f"{split} {len(videos) - fakes} real, {fakes} fake")
    yield Finding("dataset", OK, f"{name}: {'; '.join(said)}")


# The command ------------------------------------------------------------------------


def examine(workdir: Path | None, dataset: Path | None) -> Findings:
    """All findings, each as soon as it is there."""
    with tempfile.TemporaryDirectory(prefix="fakedetect-doctor-") as temporary:
        scratch, config = Path(temporary), None
        yield from _guarded("packages", look_at_packages)
        yield from _guarded("disk", lambda: look_at_machine(workdir or scratch))
        if workdir is not None and (workdir / "config.json").exists():
            config = yield from _config_of(workdir)
        yield from _guarded("decoder", lambda: look_at_videos(scratch, config))
        yield from _guarded("sandbox", look_at_sandbox)
        yield from _guarded("devices", look_at_devices)
        yield from _guarded("whole way", lambda: go_the_whole_way(scratch))
        if workdir is not None:
            yield from _guarded("checkpoints", lambda: look_at_workdir(workdir))
        if dataset is not None:
            yield from _guarded("dataset", lambda: look_at_dataset(dataset))


def _config_of(workdir: Path) -> Any:
    """Gives a workdir's config, None where it cannot be read, and finds so."""
    from fakedetect_jax.run.workdir import whole_config

    try:
        config = whole_config(workdir)
    except UserError as error:
        yield Finding("config", FAULT, str(error), "restore config.json from a copy")
        return None
    yield Finding("config", OK, f"of a run with {config.model.backbone}")
    return config


def _guarded(name: str, look: Callable[[], Findings]) -> Findings:
    """What a look finds; an error of it is a fault. Libraries' own lines go nowhere."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            findings = list(look())
    except UserError as error:
        findings = [Finding(name, FAULT, str(error), "do as it says")]
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        said = f"{type(error).__name__}: {first}"
        findings = [Finding(name, FAULT, said, "report it, with this output")]
    yield from findings


def private(text: str, folders: Sequence[Path | None]) -> str:
    """A text without the names of given folders, of the home folder and of the user."""
    names = {str(folder): f"<{folder.name}>" for folder in folders if folder}
    names |= {str(Path.home()): "~", tempfile.gettempdir(): "<tmp>"}
    for name in sorted(names, key=len, reverse=True):
        if len(name) > 1:
            text = text.replace(name, names[name])
    with contextlib.suppress(OSError, KeyError):
        user = getpass.getuser()
        text = text.replace(user, "<user>") if len(user) > 2 else text
    return text


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Says what of this machine works with the project, each line ok, "
        "warning or fault with its cure. Exit code 1 where there is a fault.",
    )
    parser.add_argument("--workdir", help="of a run, or where one shall lie")
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="a built dataset, DATA_DIR/tfds_ffpp/NAME/1.2.0",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.add_argument(
        "--full", action="store_true", help="with names of users and folders"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.doctor"
) -> int:
    """Runs the command; returns its exit code."""
    return command.run(lambda: parse_arguments(argv, prog), _run)


def _run(arguments: argparse.Namespace) -> int:
    system.refuse_path("--workdir", arguments.workdir)
    system.refuse_path("--dataset", arguments.dataset)
    given = [
        Path(text).expanduser().absolute() if text else None
        for text in (arguments.workdir, arguments.dataset)
    ]
    if given[1] is not None and not (given[1] / "dataset_info.json").exists():
        raise ConfigError(
            f"--dataset {arguments.dataset} is no built dataset; give the folder that "
            "holds its dataset_info.json"
        )
    states = []
    for finding in examine(*given):
        states.append(finding.state)
        texts = finding.said, finding.cure
        if not arguments.full:
            texts = tuple(private(text, given) for text in texts)
        shown = finding._replace(said=texts[0], cure=texts[1])
        if arguments.json:
            print(json.dumps(shown._asdict()), flush=True)
        else:
            cure = f"  -> {shown.cure}" if shown.cure else ""
            print(f"{shown.state:<8} {shown.name:<12} {shown.said}{cure}", flush=True)
    return 1 if FAULT in states else 0


if __name__ == "__main__":
    sys.exit(main())
