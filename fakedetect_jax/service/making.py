"""What is made of a scored video after its result: evidence, copy, annotated video.

Each is made at once where somebody asks for it, else while no job waits, so that it
keeps no result back. Videos are read by processes that have given up all else.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fakedetect_jax.outputs import annotated, rows
from fakedetect_jax.pages import video_page
from fakedetect_jax.service import kept
from fakedetect_jax.service.queue import places as names
from fakedetect_jax.service.queue.jobs import (
    ANNOTATED,
    COPY,
    EXPLAINED,
    MOST_ATTEMPTS,
    NONE,
    READY,
    Made,
    StoreFull,
    StoreGone,
)
from fakedetect_jax.service.queue.places import Places, is_no_space
from fakedetect_jax.service.queue.store import Store, Task
from fakedetect_jax.serving import evidence
from fakedetect_jax.serving.network import Network
from fakedetect_jax.serving.summary import Scale
from tfds_ffpp import system
from tfds_ffpp.records import to_json
from tfds_ffpp.workers.jobs import AnnotateJob, CopyJob
from tfds_ffpp.workers.pool import Worker

POLL_SECONDS = 0.2  # between two looks for something to make
REST_SECONDS = 5.0  # after a fault that is not a video's
NICER = 5  # than the scoring of videos
Make = Callable[[Task, Callable[[], bool]], Made]


class MakingLimits(NamedTuple):
    """What reading a video may take: seconds, bytes of memory and of what is written.

    The last is also no more than the disk has.
    """

    seconds: float
    memory: int
    size: int = 2 << 30


class Maker:
    """Makes one thing after another; to be run in a thread of its own."""

    def __init__(
        self,
        ways: Mapping[str, Make],
        *,
        store: Store,
        places: Places,
        name: str,
        is_busy: Callable[[], bool],
        end: Callable[[], None] = lambda: None,
    ):
        """ways: how each kind is made; name: of the worker; is_busy: whether only what
        somebody waits for is to be made now; end: called at the end of `run`."""
        self._ways, self._store, self._places = ways, store, places
        self._name, self._end = name, end
        self._is_busy = is_busy
        self._full: Counter[tuple[str, str]] = Counter()  # times without space
        self.claim = ""  # on what is being made

    def run(self, stopped: threading.Event) -> None:
        """Works until it is stopped."""
        with suppress(OSError):  # of this thread, and of the processes that it starts
            me = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, me)
            os.setpriority(os.PRIO_PROCESS, me, nice + NICER)
        try:
            while not stopped.is_set():
                try:
                    if not self._make_one():
                        stopped.wait(POLL_SECONDS)
                except (StoreGone, StoreFull):
                    stopped.wait(REST_SECONDS)
        finally:
            self._end()

    def _make_one(self) -> bool:
        """Makes what is first; False where there is nothing."""
        task = self._store.claim_task(
            self._name, list(self._ways), asked=self._is_busy()
        )
        if task is None:
            return False
        self.claim = task.job.made[task.kind].claim
        try:
            began = time.monotonic()
            made = self._make(task)
            if made is None:
                return False
            taken = self._store.finish_task(task, made, time.monotonic() - began)
            if not taken and not self._is_there(task):
                self._places.remove(task.job.id)  # deleted while this wrote into it
            return True
        finally:
            self.claim = ""

    def _is_there(self, task: Task) -> bool:
        return task.job.id in self._store.get(task.job.id)

    def _make(self, task: Task) -> Made | None:
        """None where it is to be tried again."""
        wanted = _Every(1.0, lambda: self._is_there(task))
        try:
            return self._ways[task.kind](task, wanted)
        except (StoreGone, StoreFull):
            raise
        except Exception as error:
            if not self._is_there(task):
                return Made(NONE, "it was deleted")
            if is_no_space(error):
                return self._without_space(task)
            say(f"{task.kind} could not be made ({type(error).__name__})")
            return Made(NONE, f"it could not be made ({type(error).__name__})")

    def _without_space(self, task: Task) -> Made | None:
        """Rests; None until it was tried often enough."""
        key = task.job.id, task.kind
        self._full[key] += 1
        if self._full[key] < MOST_ATTEMPTS:
            time.sleep(REST_SECONDS)
            self._store.give_task_back(task)
            return None
        del self._full[key]
        return Made(NONE, "there is no space for it on the disk of the service")


class Explainer:
    """Makes the page of a video, its table, and what the service's own page shows."""

    def __init__(self, network: Network, places: Places):
        """network: of the worker."""
        self._network, self._places = network, places

    def make(self, task: Task, wanted: Callable[[], bool]) -> Made:
        """See Maker; what was begun is made to its end."""
        folder = self._places.made(task.job)
        if (folder / names.TABLE).exists():
            return Made(READY)  # the store did not hear of it the last time
        result, video = kept.load(folder)
        shown = evidence.gather(self._network, result, video)
        video_page.write(folder / names.PAGE, result, shown)
        kept.write_text(folder / names.EVIDENCE, json.dumps(to_json(shown)))
        with tempfile.TemporaryDirectory() as place:
            line = Path(place) / "row.jsonl"
            row = json.dumps(result.to_json(), allow_nan=False)
            line.write_text(f"{row}\n")
            rows.write_table(line, folder / names.TABLE)
        kept.drop_frames(folder)
        return Made(READY)


class Copier:
    """Writes videos anew: the copy that browsers play, and the annotated one."""

    def __init__(self, scale: Scale, places: Places, limits: MakingLimits):
        """scale: of the model."""
        self._scale, self._places, self._limits = scale, places, limits
        self._decoder = Worker()

    def close(self) -> None:
        """Ends the process that reads videos."""
        self._decoder.close()

    def copy(self, task: Task, wanted: Callable[[], bool]) -> Made:
        """See Maker."""
        id = task.job.id
        out = self._places.copy(id)
        place = self._place(task)
        job = CopyJob(
            path=str(self._places.video(id)),
            copy=str(place / names.COPY),
            time_limit=self._limits.seconds,
            stall_limit=min(120.0, self._limits.seconds),
            memory_limit=self._limits.memory,
            file_limit=self._limits.size,
        )
        try:
            result = self._decoder.run(job, wanted=wanted)
            if result.copied is None:
                return _none(result.reason or result.fatal)
            out.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(job.copy, out)
            return Made(READY, start=result.copied.start)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def annotate(self, task: Task, wanted: Callable[[], bool]) -> Made:
        """See Maker."""
        id = task.job.id
        found, video = kept.load(self._places.made(task.job))
        place = self._place(task)
        job = AnnotateJob(
            path=str(self._places.video(id)),
            folder=str(place),
            title=annotated.title(found, self._scale),
            marks=list(annotated.marks(video, found.faces, self._scale)),
            stills=[],
            threads=max(system.num_cores(), 1),
            time_limit=self._limits.seconds,
            stall_limit=min(120.0, self._limits.seconds),
            memory_limit=self._limits.memory,
            file_limit=self._limits.size,
        )
        try:
            result = self._decoder.run(job, wanted=wanted)
            if result.annotated is None:
                return _none(result.reason or result.fatal)
            folder = self._places.job(id) / names.ANNOTATED
            folder.mkdir(mode=0o700, exist_ok=True)
            os.replace(place / result.annotated.name, folder / result.annotated.name)
            return Made(READY)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _place(self, task: Task) -> Path:
        """A folder for one attempt."""
        place = self._places.job(task.job.id) / task.job.made[task.kind].claim
        place.mkdir(mode=0o700)
        return place


def makers(
    network: Network,
    *,
    store: Store,
    places: Places,
    name: str,
    limits: MakingLimits,
    is_busy: Callable[[], bool],
) -> list[Maker]:
    """One that explains, and one that writes videos, so that neither waits for the
    other; name: of the worker."""
    explainer = Explainer(network, places)
    copier = Copier(Scale.of(network.model), places, limits)
    maker = partial(Maker, store=store, places=places, name=name, is_busy=is_busy)
    written: dict[str, Make] = {ANNOTATED: copier.annotate, COPY: copier.copy}
    return [maker({EXPLAINED: explainer.make}), maker(written, end=copier.close)]


def _none(reason: str) -> Made:
    """Raises OSError for what is not the video's fault."""
    if reason == names.NO_SPACE:
        raise OSError(errno.ENOSPC, reason)
    return Made(NONE, reason)


class _Every:
    """A question whose answer is good for some seconds; yes while nobody knows."""

    def __init__(self, seconds: float, ask: Callable[[], bool]):
        self._seconds, self._ask = seconds, ask
        self._next, self._answer = 0.0, True

    def __call__(self) -> bool:
        if time.monotonic() >= self._next:
            with suppress(StoreGone, StoreFull):
                self._answer = self._ask()
            self._next = time.monotonic() + self._seconds
        return self._answer


def say(sentence: str) -> None:
    """A line of the log; never with a name or a frame of a video."""
    print(f"worker: {sentence}", file=sys.stderr, flush=True)
