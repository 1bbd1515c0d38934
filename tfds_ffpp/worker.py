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
from typing import Any, BinaryIO, NoReturn

import av.subtitles.stream  # noqa: F401  with it, not again in each fork
import cv2

from tfds_ffpp import sandbox
from tfds_ffpp.cache import write_entry
from tfds_ffpp.errors import DataError
from tfds_ffpp.limits import entry_bytes, limit_process
from tfds_ffpp.prepare import Recipe, detector_of, faces_from_json, prepare
from tfds_ffpp.video import UnusableVideoError, quiet
from tfds_ffpp.windows import prepare_windows

Job = dict[str, Any]
Result = dict[str, Any]
ALIVE_SECONDS = 1.0  # between two signs of life
MAX_LINE = 64 << 20  # bytes of a result; the facts of 10,000 frames take 5 MB


def run_job(job: Job) -> Result:
    """Prepares one video into its cache entry.

    A job has path, entry, recipe (its fields), faces (or None), time_limit (seconds)
    and memory_limit (bytes, or None). The result is {"seconds": …} or {"reason": …} for
    this video or {"fatal": …} for the build.
    """
    try:
        prepared = prepare(
            job["path"], Recipe(**job["recipe"]), faces_from_json(job["faces"])
        )
    except Exception as error:
        return fault(error)
    try:
        write_entry(Path(job["entry"]), prepared.meta, prepared.frames)
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"reason": "its stored frames take more bytes than such frames can"}
        return {"fatal": f"cannot write {job['entry']}: {error.strerror}"}
    return {"seconds": prepared.seconds}


def fault(error: Exception) -> Result:
    """What an error means: for this video, or for all."""
    if isinstance(error, UnusableVideoError):
        return {"reason": str(error)}
    if isinstance(error, DataError):
        return {"fatal": str(error)}
    if isinstance(error, MemoryError):
        return {"reason": "its frames take more memory than there is"}
    if isinstance(error, OSError):
        return {"reason": error.strerror or str(error)}
    # A decoder's bug must cost one video only.
    first_line = (str(error).splitlines() or [""])[0]
    said = ": ".join(filter(None, (type(error).__name__, first_line)))
    return {"reason": f"its frames could not be prepared ({said})"}


def run_windows_job(job: Job, alive: Callable[[], None]) -> Iterator[Result]:
    """Prepares a video of any length, window by window.

    A job has path, folder, recipe, window_frames, all_faces, time_limit and
    memory_limit. The results are {"more": True, "window": …} and at the end
    {"summary": …}, {"reason": …} or {"fatal": …}.
    """
    try:
        for told in prepare_windows(
            job["path"],
            Recipe(**job["recipe"]),
            window_frames=job["window_frames"],
            all_faces=job["all_faces"],
            folder=Path(job["folder"]),
            alive=alive,
        ):
            yield {"more": True, **told} if "summary" not in told else told
    except Exception as error:
        yield fault(error)


# The fork --------------------------------------------------------------------------


def run_confined(job: Job) -> Iterator[Result]:
    """Runs a job in a fork; gives its results, the last with its peak "memory" in KiB.

    The last is {"reason": …} when the fork dies.
    """
    if "folder" in job:
        yield from _fork(job)
        return
    # In a folder of its own, where it cannot touch the entries of other videos.
    entry = Path(job["entry"])
    place = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
    try:
        place.mkdir()
        *_, last = _fork({**job, "entry": str(place / entry.name)})
        if "seconds" in last:
            (place / entry.name).replace(entry)
    except OSError as error:
        last = {"fatal": f"cannot write {entry}: {error.strerror}"}
    shutil.rmtree(place, ignore_errors=True)
    yield last


def _fork(job: Job) -> Iterator[Result]:
    with suppress(Exception):  # the fork says what is wrong with it
        recipe = Recipe(**job["recipe"])
        if "folder" in job:  # windows need no points
            recipe = replace(recipe, landmarks="none")
        if recipe.crop != "full":
            detector_of(recipe)  # opened once for all forks
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        _decode(job, writing, parent)
    os.close(writing)
    last: Result | None = None
    with os.fdopen(reading, "rb") as lines, suppress(ValueError):
        while last is None and (line := lines.readline(MAX_LINE)):
            result = json.loads(line)
            if _strays(result, job.get("folder", "")):
                last = {"reason": "the decoding process named a file that is not its"}
            elif result.get("more"):
                yield result
            else:
                last = result
    if last is not None:  # it has no more to say, or pretends to
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    if last is None:
        last = _death(job, os.waitstatus_to_exitcode(status))
    limit = job["memory_limit"]
    # Where memory ends, a decoder may only say that it could not decode.
    if "reason" in last and limit and 2048 * used.ru_maxrss > limit:
        last["reason"] += " (within the memory limit)"
    yield {**last, "memory": used.ru_maxrss}


def _strays(result: Any, folder: str) -> bool:
    """Whether a result names stored frames that do not lie in the folder of its job.

    A decoder that a video took over could otherwise have its parent read any file.
    """
    if isinstance(result, list):
        return any(_strays(part, folder) for part in result)
    if not isinstance(result, dict):
        return False
    if "entry" in result:
        path = Path(str(result["entry"]))
        if path.parent != Path(folder) or ".." in path.parts or path.is_symlink():
            return True
    return any(_strays(part, folder) for part in result.values())


def _death(job: Job, code: int) -> Result:
    if code == -signal.SIGXCPU:
        seconds = math.ceil(job["time_limit"]) + 1
        return {"reason": f"took longer than {seconds} seconds of a processor"}
    if code == -signal.SIGALRM:
        return {"reason": f"took longer than {job['time_limit']:g} seconds"}
    return {"reason": death(code)}


def death(code: int) -> str:
    """How a process ended, by its exit code, below 0 for a signal."""
    if code == -signal.SIGKILL:
        said = "was killed (SIGKILL), as the system does when its memory runs out"
        return f"the decoding process {said}"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the decoding process died ({how})"


def _decode(job: Job, told: int, parent: int) -> NoReturn:
    """What the fork does: gives up what it does not need, then works."""
    try:
        sandbox.die_with_parent(parent)
        # Should the build be gone, nobody else ends a hanging decoder.
        signal.setitimer(signal.ITIMER_REAL, job["time_limit"] + 5)
        _forget_all_but(told)
        confine_to(job)
        with os.fdopen(told, "wb") as results:

            def write(result: Result) -> None:
                results.write(json.dumps(result).encode() + b"\n")
                results.flush()

            for result in _results(job, write):
                write(result)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _results(job: Job, write: Callable[[Result], None]) -> Iterable[Result]:
    if "folder" in job:
        return run_windows_job(job, _Pulse(write))
    return [run_job(job)]


def _forget_all_but(kept: int) -> None:
    """Closes every file but one; what is written to the terminal goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(nowhere, file)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def confine_to(job: Job) -> list[str]:
    """Limits this process to a job: its video, the place of its frames, its time.

    Returns what the kernel could not be made to refuse.
    """
    recipe = job["recipe"]
    limit_process(
        seconds=job["time_limit"],
        memory=job["memory_limit"],
        file_bytes=entry_bytes(recipe["num_frames"], recipe["image_size"]),
    )
    read = [Path(job["path"]), *sandbox.libraries()]
    if recipe["detector_model"]:
        read.append(Path(recipe["detector_model"]))
    place = job["folder"] if "folder" in job else Path(job["entry"]).parent
    return sandbox.confine(read=read, write=[Path(place)])


class _Pulse:
    """Tells now and then that work goes on; free to be called often."""

    def __init__(self, write: Callable[[Result], None]):
        self._write = write
        self._next = time.monotonic() + ALIVE_SECONDS

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + ALIVE_SECONDS
            self._write({"more": True})


# The process -----------------------------------------------------------------------


def _open_ways() -> list[str]:
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
        told = file.read()
    os.wait()
    return json.loads(told or json.dumps([sandbox.FILES, sandbox.PROGRAMS]))


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    """Says what it cannot keep decoders from, then works until no job is left."""
    sandbox.libraries()  # known to the forks from here
    gc.freeze()  # what is there is shared with the forks as long as nobody writes it

    def write(result: Result) -> None:
        results.write(json.dumps(result).encode() + b"\n")
        results.flush()

    write({"open": _open_ways()})
    for line in jobs:
        for result in run_confined(json.loads(line)):
            write(result)


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
