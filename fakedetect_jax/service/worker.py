"""The process that scores: takes jobs from the store, one compiled model for all.

What it writes of a job lies in a folder named by its claim, and counts only once the
store has taken the result. So a worker may die, hang or lose its claim at any moment.
"""

import contextlib
import errno
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fakedetect_jax.outputs import rows
from fakedetect_jax.pages import video_page
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.service.queue.jobs import Job, Scored, Store, StoreFull, StoreGone
from fakedetect_jax.service.queue.places import COPY, EVIDENCE, PAGE, TABLE, Places
from fakedetect_jax.serving import evidence
from tfds_ffpp.files import whole
from tfds_ffpp.frames.found import Looked
from tfds_ffpp.records import to_json
from tfds_ffpp.workers.jobs import CopyJob
from tfds_ffpp.workers.pool import GIVEN_UP, Worker

if TYPE_CHECKING:
    from fakedetect_jax.serving.detector import Detector
    from fakedetect_jax.serving.tracks import Pending
    from tfds_ffpp.frames.found import PreparedWindow

POLL_SECONDS = 0.2  # between two looks for a job
RENEW_SECONDS = 3.0
REPORT_SECONDS = 0.25  # between two reports on a job
REST_SECONDS = 5.0  # after a fault that is not a video's
_NO_SPACE = os.strerror(errno.ENOSPC)


class CopyLimits(NamedTuple):
    """What making the copy of a video may take: seconds, bytes of memory and disk."""

    seconds: float
    memory: int
    size: int = 2 << 30


@dataclass
class _Running:
    """A job under way; wanted: whether the claim on it still holds."""

    job: Job
    began: float = field(default_factory=time.monotonic)
    wanted: bool = True
    reported: float = 0.0


class ScoringWorker:
    """Scores jobs until it is told to stop."""

    def __init__(
        self, detector: "Detector", store: Store, places: Places, *, name: str
    ):
        """name: of this worker in the store."""
        self._detector, self._store, self._places = detector, store, places
        self._name = name
        self._running: dict[str, _Running] = {}  # by path
        self._lock = threading.Lock()
        self._draining, self._stopped = threading.Event(), threading.Event()
        self._alone: Job | None = None

    def drain(self) -> None:
        """Takes no more jobs; `run` returns when those under way are done."""
        self._draining.set()

    def run(self, *, limits: CopyLimits) -> None:
        """Scores until `drain`; then returns what is left to the store."""
        threads = [
            threading.Thread(target=self._keep_claims, daemon=True),
            threading.Thread(target=self._make_copies, args=[limits], daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._draining.is_set():
                try:
                    self._score()
                except Exception as error:
                    self._recover(error)
        finally:
            self._stopped.set()
            self.give_back()

    def give_back(self) -> None:
        """Lets the jobs under way wait again."""
        with contextlib.suppress(StoreGone, StoreFull):
            self._store.give_back(self._name, died=False)

    def _score(self) -> None:
        """Scores all that comes; or one job by itself, at which a process died."""
        alone, self._alone = self._alone, None
        source = self._take() if alone is None else iter([self._begin(alone)])
        results = self._detector.results(
            source,
            on_progress=self._on_progress,
            inspect=self._on_result,
            wanted=self._is_wanted,
        )
        with contextlib.closing(results):
            for _ in results:
                pass

    def _recover(self, error: Exception) -> None:
        """Lets what was under way wait again, and rests."""
        no_space = _is_no_space(error)
        if not no_space:
            _say(f"scoring stopped ({type(error).__name__}) and begins again")
        with self._lock:
            self._running.clear()
        with contextlib.suppress(StoreGone, StoreFull):
            self._store.give_back(self._name, died=not no_space)
        self._draining.wait(REST_SECONDS)

    # Jobs -------------------------------------------------------------------------

    def _take(self) -> Iterator[str]:
        """The videos of jobs, as they come; ends before one that is to be alone."""
        while not self._draining.is_set():
            job = self._store.claim(self._name)
            if job is None:
                self._draining.wait(POLL_SECONDS)
            elif job.attempt > 1:
                self._alone = job
                self._begin(job)  # it is held, and so kept
                return
            else:
                yield self._begin(job)

    def _begin(self, job: Job) -> str:
        path = str(self._places.video(job.id))
        with self._lock:
            self._running[path] = _Running(job)
        return path

    def _is_wanted(self, path: str) -> bool:
        running = self._running.get(path)
        return running is not None and running.wanted

    def _keep_claims(self) -> None:
        """Renews the claims, and notes which are lost, as by a DELETE."""
        while not self._stopped.wait(RENEW_SECONDS):
            with contextlib.suppress(StoreGone, StoreFull):
                asked = list(self._running.values())
                held = self._store.renew(self._name)
                for running in asked:
                    running.wanted = running.job.claim in held

    def _on_progress(self, path: str, found: "Looked | PreparedWindow") -> None:
        running = self._running.get(path)
        now = time.monotonic()
        if running is None or now - running.reported < REPORT_SECONDS:
            return
        running.reported = now
        looks = isinstance(found, Looked)
        phase, done = ("looking", found.frames) if looks else ("scoring", found.stop)
        self._store.report(running.job, phase, done, found.total)

    def _on_result(self, result: VideoResult, video: "Pending") -> VideoResult:
        with self._lock:
            running = self._running.pop(video.name, None)
        bare = replace(result, faces=(), most_suspicious=None)
        if running is None or not running.wanted or result.reason == GIVEN_UP:
            return bare
        if result.outcome == "unreadable" and result.reason == _NO_SPACE:
            raise OSError(errno.ENOSPC, _NO_SPACE)
        job = running.job
        if not self._places.video(job.id).exists() and not self._store.get(job.id):
            return bare  # deleted meanwhile
        self._finish(running, replace(result, video=job.name), video)
        return bare

    def _finish(self, running: _Running, result: VideoResult, video: "Pending") -> None:
        job = running.job
        seconds = {"score": time.monotonic() - running.began}
        began = time.monotonic()
        if job.evidence:
            frames = result.file.frames if result.file else 0
            self._store.report(job, "explaining", frames, frames)
            try:
                self._write(job, result, video)
            except FileNotFoundError:
                if self._store.get(job.id):
                    raise
                return  # deleted meanwhile, with its folder
            seconds["explain"] = time.monotonic() - began
        row = json.dumps(result.to_json(), allow_nan=False)
        taken = self._store.finish(job, Scored(result.outcome, row, seconds))
        if taken and not job.evidence:
            self._places.video(job.id).unlink(missing_ok=True)

    def _write(self, job: Job, result: VideoResult, video: "Pending") -> None:
        """Writes what a reader sees besides the result."""
        folder = self._places.made(job)
        folder.mkdir(mode=0o700, exist_ok=True)
        network = self._detector.network
        shown = evidence.gather(network, result, video)
        video_page.write(folder / PAGE, result, shown)
        _write_text(folder / EVIDENCE, json.dumps(to_json(shown)))
        with tempfile.TemporaryDirectory() as place:
            line = Path(place) / "row.jsonl"
            line.write_text(json.dumps(result.to_json(), allow_nan=False) + "\n")
            rows.write_table(line, folder / TABLE)

    # Copies -----------------------------------------------------------------------

    def _make_copies(self, limits: CopyLimits) -> None:
        """Makes the copies that browsers play, each when its job is done."""
        decoder, tried = Worker(), set()
        try:
            while not self._stopped.is_set():
                try:
                    job = self._store.next_copy(tried)
                    if job is None:
                        self._stopped.wait(POLL_SECONDS)
                        continue
                    # Another worker may be at it; both write the same.
                    self._copy(job, decoder, limits)
                    tried.add(job.id)
                except (StoreGone, StoreFull, OSError):
                    self._stopped.wait(REST_SECONDS)
        finally:
            decoder.close()

    def _copy(self, job: Job, decoder: Worker, limits: CopyLimits) -> None:
        began = time.monotonic()
        source, out = self._places.video(job.id), self._places.copy(job.id)
        out.parent.mkdir(mode=0o700, exist_ok=True)
        task = CopyJob(
            path=str(source),
            copy=str(out.parent / f".{COPY}"),
            time_limit=limits.seconds,
            stall_limit=min(120.0, limits.seconds),
            memory_limit=limits.memory,
            file_limit=limits.size,
        )
        asked = _Every(1.0, lambda: bool(self._store.get(job.id)))
        result = decoder.run(task, wanted=asked)
        if result.reason == _NO_SPACE or result.fatal:
            raise OSError(errno.ENOSPC, _NO_SPACE)
        if result.copied is not None:
            os.replace(task.copy, out)
        else:
            Path(task.copy).unlink(missing_ok=True)
        self._store.finish_copy(
            job.id,
            reason=result.reason,
            start=result.copied.start if result.copied else 0.0,
            seconds=time.monotonic() - began,
        )
        source.unlink(missing_ok=True)  # nobody needs it any more
        if not self._store.get(job.id):
            self._places.remove(job.id)  # deleted while this wrote into it


class _Every:
    """A question whose answer is good for some seconds."""

    def __init__(self, seconds: float, ask: Callable[[], bool]):
        self._seconds, self._ask = seconds, ask
        self._next, self._answer = 0.0, True

    def __call__(self) -> bool:
        if time.monotonic() >= self._next:
            self._answer = self._ask()
            self._next = time.monotonic() + self._seconds
        return self._answer


def _is_no_space(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, StoreFull)


def _write_text(path: Path, text: str) -> None:
    with whole(path) as place:
        place.write_text(text)


def _say(sentence: str) -> None:
    """A line of the log; never with a name or a frame of a video."""
    print(f"worker: {sentence}", file=sys.stderr, flush=True)
