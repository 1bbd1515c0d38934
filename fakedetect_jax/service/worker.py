"""The process that scores: takes jobs from the store, one compiled model for all.

What it writes of a job lies in a folder named by its claim, and counts only once the
store has taken the result. So a worker may die, hang or lose its claim at any moment.
"""

import contextlib
import errno
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.service import kept
from fakedetect_jax.service.making import Maker, say
from fakedetect_jax.service.queue import places
from fakedetect_jax.service.queue.jobs import Job, Scored, StoreFull, StoreGone
from fakedetect_jax.service.queue.places import Places, is_no_space
from fakedetect_jax.service.queue.store import Store
from tfds_ffpp.frames.found import Looked
from tfds_ffpp.workers.pool import GIVEN_UP

if TYPE_CHECKING:
    from fakedetect_jax.serving.detector import Detector
    from fakedetect_jax.serving.tracks import Pending
    from tfds_ffpp.frames.found import PreparedWindow

T = TypeVar("T")
POLL_SECONDS = 0.2  # between two looks for a job
RENEW_SECONDS = 3.0
REPORT_SECONDS = 0.25  # between two reports on a job
REST_SECONDS = 5.0  # after a fault that is not a video's
PATIENCE_SECONDS = 60.0  # in which a store may come back before a result is given up
SIGHT_SECONDS = 10.0  # until a file of another machine must be seen
NO_VIDEO = "its video is not in the folder of the service any more"
NO_SPACE = "there was no space for it on the disk of the service, three times"


@dataclass
class _Running:
    """A job under way; wanted: whether the claim on it still holds."""

    job: Job
    began: float = field(default_factory=time.monotonic)
    wanted: bool = True
    reported: float = 0.0


class _FolderGone(Exception):
    """The folder of the service cannot be seen."""


class ScoringWorker:
    """Scores jobs until it is stopped."""

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
        self._makers: Sequence[Maker] = ()
        self._owed: Callable[[], object] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way or waits."""
        return bool(self._running) or self._store.counts().waiting > 0

    def drain(self) -> None:
        """Takes no more jobs; `run` returns when those under way are done."""
        self._draining.set()

    def run(self, *, makers: Sequence[Maker] = ()) -> None:
        """Scores until `drain`; then returns what is left to the store.

        makers: run beside it, each in a thread.
        """
        self._makers = makers
        targets = [self._keep_claims, *(maker.run for maker in makers)]
        threads = [
            threading.Thread(target=target, args=[self._stopped], daemon=True)
            for target in targets
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._draining.is_set():
                try:
                    self._settle()
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
        # Of this round: threads that take jobs may outlive it, waiting for one.
        over = threading.Event()
        source = self._take(over)
        if alone is not None:
            source = iter([str(self._places.video(alone.id))])
        results = self._detector.results(
            source,
            on_progress=self._on_progress,
            inspect=self._on_result,
            wanted=self._is_wanted,
        )
        with contextlib.closing(results):
            try:
                for _ in results:
                    pass
            finally:
                with self._lock:  # before what was under way is given back
                    over.set()

    def _settle(self) -> None:
        """Gives back what could not be given back while the store was gone."""
        if self._owed is not None:
            self._owed()
            self._owed = None

    def _recover(self, error: Exception) -> None:
        """Lets what was under way wait again, and rests."""
        with self._lock:
            self._running.clear()
        if self._owed is None:
            self._owed = self._debt(error)
        with contextlib.suppress(StoreGone, StoreFull):
            self._settle()
        self._draining.wait(REST_SECONDS)

    def _debt(self, error: Exception) -> Callable[[], object]:
        """How to give back what was under way when this happened."""
        give_back, name = self._store.give_back, self._name
        if isinstance(error, StoreGone | _FolderGone):
            say(f"{error}; jobs wait until it is there again")
            return lambda: give_back(name, died=False)
        if isinstance(error, StoreFull) or is_no_space(error):
            say("no space is left; jobs wait until there is some")
            return lambda: give_back(name, died=True, why=NO_SPACE)
        say(f"scoring stopped ({type(error).__name__}) and begins again")
        return lambda: give_back(name, died=True)

    # Jobs -------------------------------------------------------------------------

    def _take(self, over: threading.Event) -> Iterator[str]:
        """The videos of jobs, as they come; ends before one that is to be alone.

        over: that no more may be taken.
        """
        while not (self._draining.is_set() or over.is_set()):
            job = self._claim()
            if job is None:
                self._draining.wait(POLL_SECONDS)
            elif not self._sees(job):
                continue
            elif (path := self._begin(job, over)) is None:
                self._store.give_back(self._name, died=False, id=job.id)
            elif job.attempt > 1:
                self._alone = job  # it is held, and so kept
                return
            else:
                yield path

    def _claim(self) -> Job | None:
        """The next job, where the store answers and there is space to work."""
        try:
            return None if self._places.is_full() else self._store.claim(self._name)
        except (StoreGone, StoreFull):
            return None  # what is under way goes on

    def _sees(self, job: Job) -> bool:
        """Whether the video of a job is there; one that is not fails.

        Raises _FolderGone where no video can be seen.
        """
        video, end = self._places.video(job.id), time.monotonic() + SIGHT_SECONDS
        while not video.exists():
            if not self._places.is_there():
                raise _FolderGone(f"--data {self._places.data} cannot be seen")
            if not self._store.get(job.id):
                return False  # deleted meanwhile
            if time.monotonic() > end:
                self._store.fail(job, NO_VIDEO)
                return False
            self._draining.wait(POLL_SECONDS)
        return True

    def _begin(self, job: Job, over: threading.Event) -> str | None:
        """The video of a job, held from here on; None in a round that is over."""
        path = str(self._places.video(job.id))
        with self._lock:
            if over.is_set():
                return None
            self._running[path] = _Running(job)
        return path

    def _is_wanted(self, path: str) -> bool:
        running = self._running.get(path)
        return running is not None and running.wanted

    def _keep_claims(self, stopped: threading.Event) -> None:
        """Renews the claims, and notes which are lost, as by a DELETE."""
        while not stopped.wait(RENEW_SECONDS):
            with contextlib.suppress(StoreGone, StoreFull):
                with self._lock:
                    asked = list(self._running.values())
                claims = {running.job.claim for running in asked}
                making = {maker.claim for maker in self._makers} - {""}
                held = self._store.renew(self._name, claims | making)
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
        with contextlib.suppress(StoreGone, StoreFull):
            self._store.report(running.job, phase, done, found.total)

    def _on_result(self, result: VideoResult, video: "Pending") -> VideoResult:
        with self._lock:
            running = self._running.pop(video.name, None)
        bare = replace(result, faces=(), most_suspicious=None)
        if running is None or not running.wanted or result.reason == GIVEN_UP:
            return bare
        if result.outcome == "unreadable" and result.reason == places.NO_SPACE:
            raise OSError(errno.ENOSPC, places.NO_SPACE)
        if not self._places.video(running.job.id).exists() and self._is_gone(running):
            return bare  # deleted meanwhile
        self._finish(running, replace(result, video=running.job.name), video)
        return bare

    def _is_gone(self, running: _Running) -> bool:
        return not self._patiently(lambda: self._store.get(running.job.id))

    def _finish(self, running: _Running, result: VideoResult, video: "Pending") -> None:
        job = running.job
        seconds = {"score": time.monotonic() - running.began}
        if job.evidence:
            try:
                kept.keep(self._places.made(job), result, video)
            except FileNotFoundError:
                if self._is_gone(running):
                    return  # with its folder
                raise
        row = json.dumps(result.to_json(), allow_nan=False)
        scored = Scored(result.outcome, row, seconds)
        taken = self._patiently(lambda: self._store.finish(job, scored))
        if taken and not job.evidence:
            self._places.video(job.id).unlink(missing_ok=True)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Asks the store, which may be away for a moment."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except StoreGone:
                if time.monotonic() > end or self._draining.wait(POLL_SECONDS):
                    raise
