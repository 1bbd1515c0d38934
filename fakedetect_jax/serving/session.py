"""Videos -> results, in one pass: windows, their clips, logits, what is said of each.

A video is cut into windows no longer than the longest training video. Each window is
prepared as the dataset stores a video: the same frames of it, one box per face, JPEG.
Its clips are those that the evaluation would score. So the score of a video that fits
one window and shows one face is its score in an evaluation.
"""

import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fakedetect_jax.metrics import metrics
from fakedetect_jax.reports.video_result import ClipResult, ModelFacts, VideoResult
from fakedetect_jax.serving import clips, sources, tracks
from fakedetect_jax.serving.clips import Clip
from fakedetect_jax.serving.network import Network, refuse_fork
from fakedetect_jax.serving.sources import Source
from fakedetect_jax.serving.summary import summarise
from fakedetect_jax.serving.tracks import Pending, Track, Unreadable
from tfds_ffpp import system
from tfds_ffpp.frames.found import FileSummary, Looked, PreparedWindow
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.workers.annotated import Mark
from tfds_ffpp.workers.jobs import AnnotateJob, Result, WindowsJob
from tfds_ffpp.workers.pool import Pool, run_jobs

MAX_ANNOTATED = 64 << 30  # bytes of a video that is written anew
STALL_SECONDS = 120.0  # without any sign of life from the decoder
# What comes of decoding: how far the search for shots is, windows, between them signs
# of life (None), then the end.
Decoded = Looked | PreparedWindow | FileSummary | Unreadable | None
# With the video, while shots are looked for and then for each window.
OnProgress = Callable[[str, Looked | PreparedWindow], None]
Inspect = Callable[[VideoResult, Pending], VideoResult]


class Limits(NamedTuple):
    """What decoding one video may take: seconds, bytes of memory.

    Less memory, and fewer processes, where the machine has not enough free for all.
    """

    seconds: float = 3600.0
    memory: int = 4 << 30


# Videos -> windows ------------------------------------------------------------------


@dataclass(frozen=True)
class Decoder:
    """Processes that cut videos into prepared windows, and how they do it.

    num_processes: at a time; cores: of which each has its share for threads.
    """

    pool: Pool
    num_processes: int
    preparation: Preparation
    window_frames: int
    all_faces: bool
    limits: Limits
    find_shots: bool = True
    stills: bool = True
    describe: bool = False
    cores: int = 1

    def job(self, video: Pending) -> WindowsJob:
        """What a process is asked to do with a video."""
        return WindowsJob(
            path=video.name,
            folder=str(video.folder),
            preparation=self.preparation,
            window_frames=self.window_frames,
            all_faces=self.all_faces,
            time_limit=self.limits.seconds,
            stall_limit=min(STALL_SECONDS, self.limits.seconds),
            memory_limit=self.limits.memory,
            number=video.number,
            find_shots=self.find_shots,
            stills=self.stills,
            describe=self.describe,
            threads=max(self.cores // video.beside, 1),
            credentials=True,
        )

    def annotate_job(
        self, path: str, folder: Path, title: str, marks: list[Mark], stills: list[int]
    ) -> AnnotateJob:
        """What a process is asked to do to write a video anew; see annotated.write."""
        return AnnotateJob(
            path=path,
            folder=str(folder),
            title=title,
            marks=marks,
            stills=stills,
            threads=max(system.num_cores(), 1),
            time_limit=self.limits.seconds,
            stall_limit=min(STALL_SECONDS, self.limits.seconds),
            memory_limit=self.limits.memory,
            file_limit=MAX_ANNOTATED,
        )

    def read(
        self, videos: Iterable[Pending], wanted: Callable[[str], bool]
    ) -> Generator[tuple[int, Decoded], None, None]:
        """(number of the video, what came of it); videos are taken as there is time.

        wanted: asked now and then whether to go on with a video.
        """
        results = run_jobs(
            map(self.job, videos),
            self.num_processes,
            pool=self.pool,
            wanted=lambda job: wanted(job.path),
        )
        try:
            for job, result in results:
                yield job.number, _decoded(result)
        finally:
            results.close()


def _decoded(result: Result) -> Decoded:
    if result.window is not None or result.more:
        return result.window or result.looked
    return result.summary or Unreadable(result.reason)


# Clips -> scores --------------------------------------------------------------------


class _Waiting(NamedTuple):
    """A clip that waits for its batch, and whose it is."""

    video: Pending
    track: Track
    window: PreparedWindow
    clip: Clip

    def scored(self, logit: float, distance: float | None) -> ClipResult:
        frames, seconds = clips.span_of(self.window, self.clip)
        return ClipResult(
            window=self.window.number,
            start=self.clip.place.start,
            length=self.clip.length,
            frames=frames,
            seconds=seconds,
            logit=logit,
            score=float(metrics.sigmoid(np.array(logit))),
            distance=distance,
        )


class _Queue:
    """Clips that are scored batch by batch; never more than a batch of any waits.

    apart: a batch has the clips of one video alone.
    """

    def __init__(self, network: Network, *, apart: bool):
        self._network = network
        self._apart = apart
        self._waiting: dict[int, list[_Waiting]] = {}  # by video, if they are apart

    def _key(self, video: Pending) -> int:
        return video.number if self._apart else 0

    def add(self, item: _Waiting) -> None:
        key = self._key(item.video)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(item)
        item.video.waiting += 1
        if len(waiting) >= self._network.batch_size:
            self._score(key)

    def end(self, video: Pending) -> None:
        """No more comes of a video."""
        if self._apart:
            self._score(self._key(video))

    def score(self) -> None:
        """Scores all that waits."""
        for key in list(self._waiting):
            self._score(key)

    def _score(self, key: int) -> None:
        """Scores what waits there; the scores go to the tracks."""
        batch = self._waiting.pop(key, [])
        if not batch:
            return
        logits, far = self._network.judge(
            np.stack([item.clip.frames for item in batch]),
            np.array([item.clip.length for item in batch]),
        )
        distances = [None] * len(batch) if far is None else far.tolist()
        for item, logit, distance in zip(batch, logits, distances, strict=True):
            item.track.clips.append(item.scored(float(logit), distance))
            item.video.waiting -= 1

    def drop(self, video: Pending) -> None:
        """Forgets the clips of a video."""
        key = self._key(video)
        waiting = self._waiting.pop(key, [])
        kept = [item for item in waiting if item.video is not video]
        if kept:
            self._waiting[key] = kept
        video.waiting = 0


# All of it --------------------------------------------------------------------------


class Session:
    """One pass over some videos: windows come in, batches are scored, results go out.

    At most a few videos are under way, and of them only the clips of one batch are in
    memory; the prepared frames lie in files until their video is done.
    """

    def __init__(
        self,
        network: Network,
        decoder: Decoder,
        *,
        facts: ModelFacts,
        apart: bool = False,
        on_progress: OnProgress = lambda name, found: None,
        inspect: Inspect = lambda result, video: result,
        wanted: Callable[[str], bool] = lambda name: True,
    ):
        """See `detector.Detector`: `results` for on_progress, inspect and wanted,
        `load` for apart."""
        self._model, self._facts = network.model, facts
        self._decoder = decoder
        self._on_progress, self._inspect, self._wanted = on_progress, inspect, wanted
        self._queue = _Queue(network, apart=apart)
        self._videos: dict[int, Pending] = {}
        self._results: dict[int, VideoResult] = {}
        self._next = 0  # the number of the next result to go out
        self._most = 2 * decoder.num_processes + 2  # videos under way
        self._slots = threading.Semaphore(self._most)
        self._closed = threading.Event()

    def run(self, videos: Iterable[Source]) -> Generator[VideoResult, None, None]:
        """The results in the order of the videos."""
        refuse_fork()
        with tempfile.TemporaryDirectory(prefix="fakedetect-") as place:
            # How many there are may not be known, as of a service's.
            count = len(videos) if isinstance(videos, Sized) else None
            begun = self._begin(videos, Path(place), count)
            decoded = self._decoder.read(begun, self._wanted)
            try:
                for number, part in decoded:
                    self._take(self._videos[number], part)
                    self._finish_scored()
                    # All decoders may be waiting for a slot: score what there is.
                    if 2 * len(self._ended()) >= self._most:
                        self._queue.score()
                        self._finish_scored()
                    yield from self._in_order()
                self._queue.score()
                self._finish_scored()
                yield from self._in_order()
            finally:
                self._closed.set()
                # Only now: the decoders write into the folder that is removed next.
                decoded.close()

    def _begin(
        self, videos: Iterable[Source], place: Path, count: int | None
    ) -> Iterator[Pending]:
        """The videos to decode, each when a slot is free; runs in other threads.

        count: how many they are, if that is known.
        """
        for number, source in enumerate(videos):
            if source.refusal:
                self._results[number] = sources.refused(source)
                continue
            while not self._slots.acquire(timeout=0.2):
                if self._closed.is_set():
                    return
            video = Pending(
                number,
                source.name,
                place / str(number),
                beside=self._beside(None if count is None else count - number),
            )
            video.folder.mkdir()
            self._videos[number] = video
            yield video

    def _beside(self, left: int | None) -> int:
        """How many videos are decoded at a time from here on, with the next one.

        Those that are left, or where that is not known, those that are decoded now.
        """
        if left is None:
            left = 1 + sum(v.end is None for v in list(self._videos.values()))
        return max(min(left, self._decoder.num_processes), 1)

    def _take(self, video: Pending, part: Decoded) -> None:
        if isinstance(part, PreparedWindow):
            self._add_window(video, part)
        if isinstance(part, Looked | PreparedWindow):
            self._on_progress(video.name, part)
        elif part is not None:
            video.end = part
            self._queue.end(video)

    def _add_window(self, video: Pending, window: PreparedWindow) -> None:
        if window.number == 0 and video.windows:  # read again, in order
            self._queue.drop(video)
            video.windows, video.tracks = [], []
        video.windows.append(window)
        config = self._model.config
        joined = tracks.join(video.tracks, window)
        for stored, track in zip(window.faces, joined, strict=True):
            if clips.lacks(stored, config, is_still=window.total == 1):
                continue
            places = clips.cut(stored, config)
            for clip in clips.read(clips.images_of(stored), places, config):
                self._queue.add(_Waiting(video, track, window, clip))

    def _finish_scored(self) -> None:
        """Sums up the videos that are read and whose clips are scored."""
        for video in self._ended():
            if not video.waiting:
                self._finish(video)

    def _ended(self) -> list[Pending]:
        """The videos that are read to their end."""
        return [v for v in list(self._videos.values()) if v.end is not None]

    def _finish(self, video: Pending) -> None:
        result = summarise(video, self._model, self._facts)
        self._results[video.number] = self._inspect(result, video)
        for path in video.folder.iterdir():
            path.unlink()
        video.folder.rmdir()
        del self._videos[video.number]
        self._slots.release()

    def _in_order(self) -> Iterator[VideoResult]:
        while self._next in self._results:
            yield self._results.pop(self._next)
            self._next += 1
