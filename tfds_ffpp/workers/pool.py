"""A pool of worker processes that survives the death or hanging of any of them."""

import functools
import json
import os
import queue
import select
import signal
import subprocess  # noqa: S404
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tfds_ffpp.errors import DataError
from tfds_ffpp.workers.child import death
from tfds_ffpp.workers.jobs import (
    AnnotateJob,
    CopyJob,
    EntryJob,
    Job,
    Result,
    WindowsJob,
    result_from_json,
    to_line,
)

OneJob = TypeVar("OneJob", EntryJob, WindowsJob, CopyJob, AnnotateJob)
START_LIMIT = 120.0  # seconds
GIVEN_UP = "it is no longer wanted"
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


@functools.cache
def say_open(ways: tuple[str, ...]) -> None:
    """Says, once, what a hostile video could reach from its decoder."""
    if ways:
        sys.stderr.write(
            f"warning: this system cannot keep {' and '.join(ways)} from the processes "
            "that decode (Landlock and seccomp of Linux 5.13 or later do); open only "
            "videos that you trust, or work in a container\n"
        )


class Worker:
    """One worker process, started on the first job and again after each death."""

    def __init__(self):
        """Starts nothing yet."""
        self._process: subprocess.Popen | None = None
        self._rest = b""
        self._is_ready = False

    def start(self) -> None:
        """Starts the process ahead of its first job; does not wait for it."""
        # -P and a path of our own: what lies in the working directory is not imported.
        path = os.pathsep.join(
            p for p in (_PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p
        )
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "tfds_ffpp.workers.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._rest, self._is_ready = b"", False

    def run(
        self,
        job: Job,
        more: Callable[[Result], None] = lambda _: None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Result:
        """The job's last result, with a reason if the process died or took too long.

        The results before are handed to `more`. At each of them, which come about once
        a second, `wanted` is asked whether to go on.
        """
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None and process.stdin is not None  # noqa: S101
        if not self._is_ready:
            # The time to start is not the video's.
            ready = self._read_line(process, START_LIMIT)
            if ready and ready.endswith(b"\n"):
                say_open(tuple(json.loads(ready)["open"]))
            self._is_ready = True
        with suppress(OSError):  # it is dead; reading says so
            process.stdin.write(to_line(job))
            process.stdin.flush()
        end = time.monotonic() + job.time_limit
        stall = job.time_limit if isinstance(job, EntryJob) else job.stall_limit
        while True:
            limit = min(stall, end - time.monotonic())
            line = self._read_line(process, limit)
            if line is None:
                self.close()
                return Result(reason=_too_long(job, stalled=limit == stall))
            if not line.endswith(b"\n"):
                break
            result = result_from_json(json.loads(line))
            if not result.more:
                return result
            if not wanted():
                self.close()
                return Result(reason=GIVEN_UP)
            more(result)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        self.close()
        return Result(reason=death(process.returncode))

    def _read_line(self, process: subprocess.Popen, limit: float) -> bytes | None:
        """A line; less than one when the process ended; None when time is up."""
        assert process.stdout is not None  # noqa: S101
        end = time.monotonic() + limit
        file = process.stdout.fileno()
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                return None
            chunk = os.read(file, 65536)
            if not chunk:
                return self._rest
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    @property
    def started(self) -> bool:
        """Whether a process is there."""
        return self._process is not None

    def close(self) -> None:
        """Ends the process at once."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            # Its group: the fork that decodes is in it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()


class Pool:
    """Worker processes that wait for further jobs; safe to use from several threads."""

    def __init__(self, size: int):
        """Starts nothing yet; at most `size` processes are kept while idle."""
        self._size = size
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def start(self, count: int) -> None:
        """Starts so many processes ahead of their first jobs; waits for none."""
        workers = [Worker() for _ in range(count)]
        for worker in workers:
            worker.start()
        with self._lock:
            self._idle += workers

    def take(self) -> Worker:
        """An idle worker, or a new one."""
        with self._lock:
            return self._idle.pop() if self._idle else Worker()

    def give_back(self, worker: Worker) -> None:
        """Keeps a worker that has done its job."""
        with self._lock:
            if worker.started and len(self._idle) < self._size:
                self._idle.append(worker)
                return
        worker.close()

    def close(self) -> None:
        """Ends the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()


def _too_long(job: Job, *, stalled: bool) -> str:
    if stalled and not isinstance(job, EntryJob):
        return f"nothing came of it for {job.stall_limit:g} seconds"
    return f"took longer than {job.time_limit:g} seconds (--time_limit)"


def _hand_on(done: queue.Queue, job: Job, result: Result) -> None:
    done.put((job, result))


def run_jobs(
    jobs: Iterable[OneJob],
    num_processes: int,
    *,
    pool: Pool | None = None,
    wanted: Callable[[OneJob], bool] = lambda job: True,
) -> Generator[tuple[OneJob, Result], None, None]:
    """Runs jobs in worker processes; yields each with its results as they come.

    With a pool, its processes do the work and wait there for more when all is done;
    those that are under way when the caller ends early are ended. A job that is no
    longer `wanted`, as is asked about once a second, is ended with a reason.

    Raises DataError for what would befall every further job too.
    """
    source = iter(jobs)
    lock, stop = threading.Lock(), threading.Event()
    done: queue.Queue = queue.Queue()
    workers = [pool.take() if pool else Worker() for _ in range(num_processes)]
    done_with = False

    def work(worker: Worker) -> None:
        try:
            while not stop.is_set():
                with lock:
                    job = next(source, None)
                if job is None:
                    break
                more = functools.partial(_hand_on, done, job)
                asks = functools.partial(wanted, job)
                done.put((job, worker.run(job, more, asks)))
        except Exception as error:  # handed to the thread that reads the queue
            done.put((None, error))
        finally:
            done.put(None)

    threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in workers]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item = done.get()
            if item is None:
                running -= 1
                continue
            job, result = item
            if job is None:
                if stop.is_set():
                    continue
                raise result
            if result.fatal:
                raise DataError(result.fatal)
            yield job, result
        done_with = True
    finally:
        stop.set()
        for worker in workers:
            if pool and done_with:
                pool.give_back(worker)
            else:
                worker.close()
        for thread, worker in zip(threads, workers, strict=True):
            end = time.monotonic() + 5
            while thread.is_alive() and time.monotonic() < end:
                worker.close()  # it may have been starting a process meanwhile
                thread.join(timeout=0.1)
