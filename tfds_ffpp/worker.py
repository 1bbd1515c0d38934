"""A process that prepares videos: a job as a line of JSON in, a result as a line out.

It is apart from the build so that a decoder which crashes or hangs costs one video.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from tfds_ffpp.cache import write_entry
from tfds_ffpp.errors import DataError
from tfds_ffpp.prepare import Recipe, faces_from_json, prepare
from tfds_ffpp.video import UnusableVideoError, quiet

Job = dict[str, Any]
Result = dict[str, Any]


def run_job(job: Job) -> Result:
    """Prepares one video into its cache entry.

    A job has path, entry, recipe (its fields) and faces (or None). The result is
    {"seconds": …} or {"reason": …} for this video or {"fatal": …} for the build.
    """
    try:
        prepared = prepare(
            job["path"], Recipe(**job["recipe"]), faces_from_json(job["faces"])
        )
    except UnusableVideoError as error:
        return {"reason": str(error)}
    except DataError as error:
        return {"fatal": str(error)}
    except MemoryError:
        return {"reason": "its frames take more memory than there is"}
    except OSError as error:
        return {"reason": error.strerror or str(error)}
    except Exception as error:  # a decoder's bug must cost one video only
        return {"reason": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
    try:
        write_entry(Path(job["entry"]), prepared.meta, prepared.frames)
    except OSError as error:
        return {"fatal": f"cannot write {job['entry']}: {error.strerror}"}
    return {"seconds": prepared.seconds}


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    """Works until there are no more jobs."""
    for line in jobs:
        job = json.loads(line)
        # Should the build be gone, nobody else ends a hanging decoder.
        signal.setitimer(signal.ITIMER_REAL, job["time_limit"] + 5)
        result = run_job(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results.write(json.dumps(result).encode() + b"\n")
        results.flush()


def main() -> None:
    """Serves on stdin and stdout; what libraries print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build ends us
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    quiet()
    cv2.setNumThreads(1)
    serve(sys.stdin.buffer, results)


if __name__ == "__main__":
    main()
