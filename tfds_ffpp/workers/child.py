"""A process that prepares videos: a job as a line of JSON in, a result as a line out.

It is apart from the build so that a decoder which crashes or hangs costs one video.
Each video is decoded in a fork of it, which has given up all files but this one, the
network and other programs, under limits of its own: what a video does to its decoder
reaches neither another video nor the machine.
"""

import errno
import gc
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NoReturn

import av.subtitles.stream  # noqa: F401  with it, not again in each fork
import cv2

from tfds_ffpp.errors import DataError, UnusableVideoError
from tfds_ffpp.frames.decoding.container import quiet
from tfds_ffpp.frames.entry import write_entry
from tfds_ffpp.frames.found import Alive, Credentials, FileSummary, Looked
from tfds_ffpp.frames.origin import credentials
from tfds_ffpp.frames.people import descriptors
from tfds_ffpp.frames.prepare import finder_of, prepare, without_points
from tfds_ffpp.frames.windows import prepare_windows
from tfds_ffpp.system import die_with_parent
from tfds_ffpp.workers import annotated, sandbox
from tfds_ffpp.workers.jobs import (
    AnnotateJob,
    CopyJob,
    CredentialsJob,
    EntryJob,
    Job,
    Result,
    WindowsJob,
    job_from_json,
    result_from_json,
    to_line,
)
from tfds_ffpp.workers.limits import entry_bytes, limit_process
from tfds_ffpp.workers.playable import write_copy

MANIFEST_SECONDS = 60.0  # for reading one: it is a digest of the whole file
ALIVE_SECONDS = 1.0  # between two signs of life
MAX_LINE = 64 << 20  # bytes of a result; the facts of 10,000 frames take 5 MB


def run_job(job: EntryJob) -> Result:
    """Prepares one video into its cache entry."""
    try:
        prepared = prepare(job.path, job.preparation, job.faces, job.mask)
    except Exception as error:
        return fault(error)
    try:
        write_entry(Path(job.entry), prepared.found, prepared.images)
    except OSError as error:
        if error.errno == errno.EFBIG:
            return Result(
                reason="its stored frames take more bytes than such frames can"
            )
        return Result(fatal=f"cannot write {job.entry}: {error.strerror}")
    return Result(seconds=prepared.seconds)


def fault(error: Exception) -> Result:
    """What an error means: for this video, or for all."""
    if isinstance(error, UnusableVideoError):
        return Result(reason=str(error))
    if isinstance(error, DataError):
        return Result(fatal=str(error))
    if isinstance(error, MemoryError):
        return Result(reason="its frames take more memory than there is")
    if isinstance(error, OSError):
        return Result(reason=error.strerror or str(error))
    # A decoder's bug must cost one video only.
    first_line = (str(error).splitlines() or [""])[0]
    said = ": ".join(filter(None, (type(error).__name__, first_line)))
    return Result(reason=f"its frames could not be prepared ({said})")


def run_windows_job(job: WindowsJob, alive: Alive) -> Iterator[Result]:
    """Prepares a video of any length, window by window."""
    try:
        for found in prepare_windows(
            job.path,
            job.preparation,
            window_frames=job.window_frames,
            all_faces=job.all_faces,
            folder=job.place,
            find_shots=job.find_shots,
            stills=job.stills,
            describe=job.describe,
            threads=job.threads,
            alive=alive,
        ):
            if isinstance(found, FileSummary):
                yield Result(summary=found)
            else:
                yield Result(more=True, window=found)
    except Exception as error:
        yield fault(error)


def run_copy_job(job: CopyJob, alive: Callable[[], None]) -> Result:
    """Writes the copy of a video."""
    try:
        return Result(copied=write_copy(job.path, Path(job.copy), alive=alive))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return Result(reason=f"its copy takes more than {job.file_limit:,} bytes")
        return fault(error)


def run_annotate_job(job: AnnotateJob, alive: Callable[[], None]) -> Result:
    """Writes the annotated copy of a video, and frames of it."""
    try:
        made = annotated.write(
            Path(job.path),
            job.place,
            title=job.title,
            marks=job.marks,
            stills=job.stills,
            threads=job.threads,
            alive=alive,
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return Result(reason=f"it takes more than {job.file_limit:,} bytes")
        return fault(error)
    return Result(annotated=made)


# The fork --------------------------------------------------------------------------


def run_confined(job: Job) -> Iterator[Result]:
    """Runs a job in a fork; gives its results, the last with its peak memory.

    The last has the reason when the fork dies.
    """
    if isinstance(job, WindowsJob):
        for result in _fork(job):
            yield result if result.summary is None else _with_credentials(job, result)
        return
    if not isinstance(job, EntryJob):
        yield from _fork(job)
        return
    # In a folder of its own, where it cannot touch the entries of other videos.
    entry = Path(job.entry)
    place = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
    try:
        place.mkdir()
        *_, last = _fork(replace(job, entry=str(place / entry.name)))
        if last.seconds is not None:
            (place / entry.name).replace(entry)
    except OSError as error:
        last = Result(fatal=f"cannot write {entry}: {error.strerror}")
    shutil.rmtree(place, ignore_errors=True)
    yield last


def _with_credentials(job: WindowsJob, result: Result) -> Result:
    """The last result of a job, with what the file's manifest says.

    It is read by a fork of its own: what becomes of that costs no score.
    """
    if not job.credentials or result.summary is None:
        return result
    # Nothing is heard of it meanwhile.
    seconds = min(MANIFEST_SECONDS, job.stall_limit / 2)
    *_, last = _fork(CredentialsJob(job.path, seconds, job.memory_limit))
    found = last.credentials
    if last.reason:
        found = Credentials("unreadable", last.reason)
    file = replace(result.summary.file, credentials=found)
    return replace(result, summary=replace(result.summary, file=file))


def _fork(job: Job | CredentialsJob) -> Iterator[Result]:
    with suppress(Exception):  # the fork says what is wrong with it
        _open_finder(job)
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        _decode(job, writing, parent)
    os.close(writing)
    last: Result | None = None
    is_folder = isinstance(job, WindowsJob | AnnotateJob)
    with os.fdopen(reading, "rb") as lines, suppress(ValueError):
        while last is None and (line := lines.readline(MAX_LINE)):
            result = result_from_json(json.loads(line))
            if _strays(result, str(job.place) if is_folder else ""):
                last = Result(
                    reason="the decoding process named a file that is not its"
                )
            elif result.more:
                yield result
            else:
                last = result
    if last is not None:  # it has no more to say, or pretends to
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    if last is None:
        last = _death(job, os.waitstatus_to_exitcode(status))
    # Where memory ends, a decoder may only say that it could not decode.
    limit = job.memory_limit
    if last.reason and limit and 2048 * used.ru_maxrss > limit:
        last = replace(last, reason=f"{last.reason} (within the memory limit)")
    yield replace(last, memory=used.ru_maxrss)


def _open_finder(job: Job | CredentialsJob) -> None:
    """Opens what finds faces, or reads manifests, once for all forks."""
    if isinstance(job, CredentialsJob):
        credentials.load()
        return
    if isinstance(job, CopyJob | AnnotateJob) or job.preparation.crop == "full":
        return
    preparation = job.preparation
    if isinstance(job, WindowsJob):
        preparation = without_points(preparation)
        if job.describe:
            descriptors.load()
    finder_of(preparation)


def _strays(result: Result, folder: str) -> bool:
    """Whether a result names files that do not lie in the folder of its job.

    A decoder that a video took over could otherwise have its parent read any file.
    """
    faces = result.window.faces if result.window else []
    paths = [Path(str(face.entry)) for face in faces]
    if made := result.annotated:
        names = [made.name, *(still.name for still in made.stills)]
        paths += [Path(folder) / str(name) for name in names]
    return any(
        path.parent != Path(folder) or ".." in path.parts or path.is_symlink()
        for path in paths
    )


def _death(job: Job | CredentialsJob, code: int) -> Result:
    if code == -signal.SIGXCPU:
        seconds = math.ceil(_processor_seconds(job)) + 1
        return Result(reason=f"took longer than {seconds} seconds of a processor")
    if code == -signal.SIGALRM:
        return Result(
            reason=f"took longer than {job.time_limit:g} seconds (--time_limit)"
        )
    return Result(reason=death(code))


def _processor_seconds(job: Job | CredentialsJob) -> float:
    """That its threads may take together."""
    threads = job.threads if isinstance(job, WindowsJob | AnnotateJob) else 1
    return threads * job.time_limit


def death(code: int) -> str:
    """How a process ended, by its exit code, below 0 for a signal."""
    if code == -signal.SIGKILL:
        said = "was killed (SIGKILL), as the system does when its memory runs out"
        return f"the decoding process {said}"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the decoding process died ({how})"


def _decode(job: Job | CredentialsJob, writing: int, parent: int) -> NoReturn:
    """What the fork does: gives up what it does not need, then works."""
    try:
        die_with_parent(parent)
        # Should the build be gone, nobody else ends a hanging decoder.
        signal.setitimer(signal.ITIMER_REAL, job.time_limit + 5)
        _forget_all_but(writing)
        confine_to(job)
        with os.fdopen(writing, "wb") as results:

            def write(result: Result) -> None:
                results.write(to_line(result))
                results.flush()

            for result in _results(job, write):
                write(result)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _results(
    job: Job | CredentialsJob, write: Callable[[Result], None]
) -> Iterable[Result]:
    if isinstance(job, WindowsJob):
        return run_windows_job(job, _Pulse(write))
    if isinstance(job, CopyJob):
        return [run_copy_job(job, _Pulse(write))]
    if isinstance(job, AnnotateJob):
        return [run_annotate_job(job, _Pulse(write))]
    if isinstance(job, CredentialsJob):
        return [Result(credentials=credentials.read(Path(job.path)))]
    return [run_job(job)]


def _forget_all_but(kept: int) -> None:
    """Closes every file but one; what is written to the terminal goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(nowhere, file)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def confine_to(job: Job | CredentialsJob) -> list[str]:
    """Limits this process to a job: its video, the place of its frames, its time.

    Returns what the kernel could not be made to refuse.
    """
    read = [Path(job.path), *sandbox.libraries()]
    if isinstance(job, EntryJob) and job.mask:
        read.append(Path(job.mask))
    write = [] if isinstance(job, CredentialsJob) else [job.place]
    if isinstance(job, CredentialsJob):
        file_bytes = 0
    elif isinstance(job, CopyJob | AnnotateJob):
        file_bytes = job.file_limit
    else:
        preparation = job.preparation
        file_bytes = entry_bytes(preparation.num_frames, preparation.image_size)
        if preparation.face_finder_model:
            read.append(Path(preparation.face_finder_model))
    limit_process(
        seconds=_processor_seconds(job),
        memory=job.memory_limit,
        file_bytes=file_bytes,
    )
    return sandbox.confine(read=read, write=write)


class _Pulse:
    """Tells now and then that work goes on; free to be called often."""

    def __init__(self, write: Callable[[Result], None]):
        self._write = write
        self._next = time.monotonic() + ALIVE_SECONDS

    def __call__(self, done: int = 0, total: int = 0) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + ALIVE_SECONDS
            looked = Looked(done, total) if total else None
            self._write(Result(more=True, looked=looked))


# The process -----------------------------------------------------------------------


def ways_left_open() -> list[str]:
    """What the kernel cannot be made to refuse, tried in a fork."""
    reading, writing = os.pipe()
    if not os.fork():
        try:
            open_ways = sandbox.confine(read=sandbox.libraries(), write=())
            os.write(writing, json.dumps(open_ways).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    os.wait()
    return json.loads(answer or json.dumps([sandbox.FILES, sandbox.PROGRAMS]))


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    """Says what it cannot keep decoders from, then works until no job is left."""
    sandbox.libraries()  # known to the forks from here
    gc.freeze()  # what is there is shared with the forks as long as nobody writes it

    results.write(json.dumps({"open": ways_left_open()}).encode() + b"\n")
    results.flush()
    for line in jobs:
        for result in run_confined(job_from_json(json.loads(line))):
            results.write(to_line(result))
            results.flush()


def main() -> None:
    """Serves on stdin and stdout; what libraries print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build ends us
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    quiet()
    cv2.setNumThreads(1)
    with suppress(BrokenPipeError):  # the build is gone
        serve(sys.stdin.buffer, results)


if __name__ == "__main__":
    main()
