"""A process that prepares videos: a job as a line of JSON in, a result as a line out.

It is apart from the build so that a decoder which crashes or hangs costs one video.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from tfds_ffpp import system
from tfds_ffpp.cache import write_entry
from tfds_ffpp.errors import DataError
from tfds_ffpp.prepare import Recipe, faces_from_json, prepare
from tfds_ffpp.video import UnusableVideoError, quiet
from tfds_ffpp.windows import prepare_windows

Job = dict[str, Any]
Result = dict[str, Any]
ALIVE_SECONDS = 1.0  # between two signs of life


def run_job(job: Job) -> Result:
    """Prepares one video into its cache entry.

    A job has path, entry, recipe (its fields) and faces (or None). The result is
    {"seconds": …} or {"reason": …} for this video or {"fatal": …} for the build.
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
        return {"fatal": f"cannot write {job['entry']}: {error.strerror}"}
    return {"seconds": prepared.seconds}


def peak_memory() -> int:
    """The most memory that this process has held, in KiB."""
    try:
        # Not the maximum of getrusage, which counts the process that started us too.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return (system.peak_bytes() or 0) // 1024


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

    A job has path, folder, recipe, window_frames, all_faces and memory_limit (bytes,
    or None). The results are {"more": True, "window": …} and at the end {"summary": …},
    {"reason": …} or {"fatal": …}.
    """
    if job["memory_limit"]:
        system.limit_memory(job["memory_limit"])
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
        result = fault(error)
        # Where memory ends, a decoder may only say that it could not decode.
        if job["memory_limit"] and 2048 * peak_memory() > job["memory_limit"]:
            result["reason"] = (
                f"{result.get('reason', error)} (within the memory limit)"
            )
        yield result


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    """Says that it is ready, then works until there are no more jobs."""
    results.write(b"{}\n")
    results.flush()
    for line in jobs:
        job = json.loads(line)
        # Should the build be gone, nobody else ends a hanging decoder.
        signal.setitimer(signal.ITIMER_REAL, job["time_limit"] + 5)

        def write(result: Result) -> None:
            results.write(json.dumps(result).encode() + b"\n")
            results.flush()

        told = run_windows_job(job, _Pulse(write)) if "folder" in job else None
        for result in told or [run_job(job)]:
            result["memory"] = peak_memory()
            if not result.get("more"):
                signal.setitimer(signal.ITIMER_REAL, 0)
            write(result)


class _Pulse:
    """Tells now and then that work goes on; free to be called often."""

    def __init__(self, write: Callable[[Result], None]):
        self._write = write
        self._next = time.monotonic() + ALIVE_SECONDS

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + ALIVE_SECONDS
            self._write({"more": True})


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
