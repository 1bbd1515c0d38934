"""Videos -> scores, by the code that prepared the training videos.

A video is cut into windows no longer than the longest training video. Each window is
prepared as the dataset stores a video: the same frames of it, one box per face, JPEG.
Its clips are those that the evaluation would score. So the score of a video that fits
one window and shows one face is its score in an evaluation.
"""

import functools
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import simplejpeg

from fakedetect_jax import compiled, settings
from fakedetect_jax.data import feed, order
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.calibration import apply_temperature
from fakedetect_jax.model import network
from fakedetect_jax.model.explain import Explanation
from fakedetect_jax.run import parallel
from fakedetect_jax.serving import sources, tracks, video_result
from fakedetect_jax.serving.tracks import Face, Pending, Row
from fakedetect_jax.trained.model import TrainedModel, load_model
from tfds_ffpp.frames import entry
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.workers.jobs import Result, WindowsJob
from tfds_ffpp.workers.limits import share_memory
from tfds_ffpp.workers.pool import Pool, run_jobs

STALL_SECONDS = 120.0  # without any sign of life from the decoder
# Of all frames in one call of the network: 33 clips of 10 frames of 224x224.
MAX_BATCH_PIXELS = 1 << 24
FAKE, NOT_FAKE = "called fake", "not called fake"


class Limits(NamedTuple):
    """What decoding one video may take: seconds, bytes of memory.

    Less memory, and fewer processes, where the machine has not enough free for all.
    """

    seconds: float = 3600.0
    memory: int = 4 << 30


class Detector:
    """Scores videos with a trained model.

    >>> detector = Detector.load("runs/demo")            # or an exported folder
    >>> detector.score("video.mp4")["probability"]

    Several threads may use one. A process that was forked after a model was loaded
    cannot: JAX's own threads are not in it. `close`, or `with`, ends the processes that
    decode, which otherwise wait for more videos as long as the detector lives.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        batch_size: int = 0,
        window_frames: int = 0,
        all_faces: bool = True,
        num_processes: int = 1,
        limits: Limits | None = None,
        devices: Sequence[Any] | None = None,
    ):
        """See `load`."""
        refuse_fork()
        self.model = model
        self._mesh = parallel.make_mesh(list(devices or jax.local_devices()))
        self._batch_size = batch_size or default_batch_size(
            self._mesh, settings.clip_shape(model.config)
        )
        self._window_frames = window_frames or model.window_frames
        self._all_faces = all_faces
        asked = limits or Limits()
        self._num_processes, memory = share_memory(num_processes, most=asked.memory)
        self._limits = asked._replace(memory=memory)
        self._network = network.make_model(model.config)
        self._variables = parallel.put_replicated(model.variables, self._mesh)
        self._eval_step = compiled.compile_eval_step(self._network, self._mesh)
        self._explain_step: Callable | None = None
        self._pool = Pool(self._num_processes)
        weakref.finalize(self, self._pool.close)

    def __enter__(self) -> "Detector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes that decode; the next video starts new ones."""
        self._pool.close()

    @classmethod
    def load(
        cls, path: str | Path, *, step: int | None = None, **options: Any
    ) -> "Detector":
        """The detector of a workdir or of an exported folder.

        Args:
          path: the folder; it is only read, and nothing is unpickled.
          step: of a workdir: the checkpoint; the best on val if None.
          options: batch_size: clips per call; window_frames: source frames of a
            window, by default those of the longest training video; all_faces: score
            every face (True) or the largest alone, as the evaluation does (False);
            num_processes: that decode; limits: of decoding one video; devices: that
            compute, all of this host if not given.

        Raises CheckpointError, in one sentence, for what is not a model, and
        ConfigError in a process that was forked after another model was loaded.
        """
        refuse_fork()
        return cls(load_model(path, step=step), **options)

    # Pixels ------------------------------------------------------------------------

    def logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Logits float32[B] of clips that are prepared already.

        Args:
          frames: RGB uint8[B,T,S,S,3]; T and S are the model's clip_frames and
            image_size.
          length: int[B], how many frames of each clip count.
        """
        refuse_fork()
        shape = settings.clip_shape(self.model.config)
        if frames.shape[1:] != shape or frames.dtype != np.uint8:
            raise ConfigError(
                f"clips are {frames.dtype}{list(frames.shape[1:])}, the model takes "
                f"uint8{list(shape)}"
            )
        found = []
        for first in range(0, len(frames), self._batch_size):
            some = slice(first, first + self._batch_size)
            found.append(self._logits(frames[some], length[some]))
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        logits = self._eval_step(self._variables, self._batch(frames, length))
        return parallel.fetch(logits)[: len(frames)]

    def explain(self, frames: np.ndarray, length: np.ndarray) -> Explanation:
        """As `logits`, with the running score and the heat map of every frame."""
        refuse_fork()
        if self._explain_step is None:
            self._explain_step = compiled.compile_explain_step(
                self._network, self._mesh
            )
        found = []
        for first in range(0, len(frames), self._batch_size):
            some = slice(first, first + self._batch_size)
            batch = self._batch(frames[some], length[some])
            told = parallel.fetch(self._explain_step(self._variables, batch))
            found.append([part[: len(frames[some])] for part in told])
        return Explanation(*map(np.concatenate, zip(*found, strict=True)))

    def _batch(self, frames: np.ndarray, length: np.ndarray) -> dict[str, jax.Array]:
        """Clips padded to one of few sizes, so that few programs are compiled."""
        rows = self._mesh.devices.size
        while rows < len(frames):
            rows *= 2
        batch = feed.empty_batch(rows, frames.shape[1], frames.shape[2])
        batch["frames"][: len(frames)] = frames
        batch["length"][: len(frames)] = length
        batch["valid"][: len(frames)] = True
        return parallel.to_global(batch, self._mesh)

    def read_clip(self, images: Sequence[bytes], clip: order.ClipRef, num_valid: int):
        """The frames uint8[T,S,S,3] of a clip of a stored window, and its length."""
        shape = settings.clip_shape(self.model.config)
        wanted, length = order.frames_of(clip, num_valid, shape[0])
        frames = np.empty(shape, np.uint8)
        for out, index in zip(frames, wanted, strict=True):
            simplejpeg.decode_jpeg(images[index], "RGB", buffer=out)
        return frames, length

    def clips_of(self, stored: Row, per_window: int = 0) -> list[order.ClipRef]:
        """The clips of a stored window: the evaluation's, or another number."""
        cut = self.model.config.data
        return order.covering_clips(
            [_Seen(stored["num_valid"], stored["face_seen"])],
            clip_frames=cut.clip_frames,
            frame_stride=cut.frame_stride,
            per_video=per_window or cut.eval_clips_per_video,
            min_coverage=cut.min_coverage,
        )

    # Videos ------------------------------------------------------------------------

    def score(self, video: str | Path) -> Row:
        """The result of one video; see `score_all`."""
        (row,) = self._score_all([video], num_processes=1)
        return row

    def score_all(
        self,
        videos: str | Path | Iterable[str | Path],
        *,
        on_window: Callable[[str, Row], None] = lambda name, window: None,
        inspect: Callable[[Row, Pending], None] = lambda result, video: None,
    ) -> Iterator[Row]:
        """Results in the order of the videos, scored in batches across them.

        Args:
          videos: paths of local files; or one path alone, which may also be a folder
            or a .txt list, as on the command line.
          on_window: called with the video and each prepared window (its `stop` of
            `total` frames are read), to show progress.
          inspect: called with each result while the video's prepared frames, see
            Pending, are still there.

        Yields:
          {"video", "outcome", "reason", …} as docs/predict.md tells; `outcome` is
          "scored", "partial", "no face", "too short", "out of range", "unreadable" or
          "refused". Only with the first two are `score`, `probability` and `verdict`
          not None.

        Raises ConfigError at once for a single path that holds no video, and in a
        process that was forked after the model was loaded.
        """
        refuse_fork()
        found: Iterable[str | Path | sources.Source] = (
            sources.find([str(videos)]) if isinstance(videos, str | Path) else videos
        )
        return self._score_all(
            found,
            num_processes=self._num_processes,
            on_window=on_window,
            inspect=inspect,
        )

    def _score_all(
        self,
        videos: Iterable[str | Path | sources.Source],
        *,
        num_processes: int,
        on_window: Callable[[str, Row], None] = lambda name, window: None,
        inspect: Callable[[Row, Pending], None] = lambda result, video: None,
    ) -> Iterator[Row]:
        refuse_fork()
        with tempfile.TemporaryDirectory(prefix="fakedetect-") as place:
            session = _Session(self, Path(place), on_window, inspect)
            yield from session.run(videos, num_processes, self._pool)

    def job(self, video: Pending, number: int = 0) -> WindowsJob:
        """What a worker shall do with a video."""
        return WindowsJob(
            path=video.name,
            folder=str(video.folder),
            preparation=Preparation(**self.model.preparation),
            window_frames=self._window_frames,
            all_faces=self._all_faces,
            time_limit=self._limits.seconds,
            stall_limit=min(STALL_SECONDS, self._limits.seconds),
            memory_limit=self._limits.memory,
            number=number,
        )

    @property
    def batch_size(self) -> int:
        """Clips per call of the network."""
        return self._batch_size

    def calibrated(self, score: float) -> float | None:
        """The probability of fake behind a score; None without a temperature."""
        if self.model.temperature is None:
            return None
        return float(apply_temperature(np.array([score]), self.model.temperature)[0])

    def verdict(self, score: float) -> str:
        """Which side of the threshold a score lies on.

        "not called fake" is not "real": what a model does not see may still be there.
        """
        return FAKE if score > self.threshold else NOT_FAKE

    @property
    def threshold(self) -> float:
        """Above it a score is called fake: chosen on val, else 0.5."""
        return 0.5 if self.model.threshold is None else self.model.threshold


class _Seen(NamedTuple):
    """What of a stored window decides its clips."""

    num_valid: int
    face_seen: Sequence[int]


def default_batch_size(mesh, clip_shape: Sequence[int]) -> int:
    """Clips per call: small on CPU, where larger ones are no faster; few large ones."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    fitting = MAX_BATCH_PIXELS // (clip_shape[0] * clip_shape[1] * clip_shape[2])
    return max(min(8 if on_cpu else 32, fitting), mesh.devices.size)


@functools.cache
def _first_process() -> int:
    """The process that first asked, which its forks inherit."""
    return os.getpid()


def refuse_fork() -> None:
    """Raises ConfigError in a fork of a process that has used a detector.

    The threads of JAX are not in a fork, so a computation there would wait for ever.
    """
    if _first_process() != os.getpid():
        raise ConfigError(
            "this process was forked after a model was loaded, and JAX does not work "
            "in such a fork; load the model in each process after the fork, or start "
            'processes by "spawn"'
        )


class _Session:
    """One pass over some videos: windows come in, batches are scored, results go out.

    At most a few videos are under way, and of them only the clips of one batch are in
    memory; the prepared frames lie in files until their video is done.
    """

    def __init__(self, detector: Detector, place: Path, on_window, inspect):
        self._detector = detector
        self._place = place
        self._on_window, self._inspect = on_window, inspect
        self._videos: dict[int, Pending] = {}
        self._queue: list[tuple[Pending, Row, np.ndarray, int]] = []
        self._results: dict[int, Row] = {}
        self._closed = threading.Event()

    def run(
        self,
        videos: Iterable[str | Path | sources.Source],
        num_processes: int,
        pool: Pool,
    ) -> Iterator[Row]:
        in_flight = 2 * num_processes + 2
        self._slots = threading.Semaphore(in_flight)
        following = 0
        results = run_jobs(self._jobs(videos), num_processes, pool=pool)
        try:
            for job, result in results:
                self._take(job.number, result)
                finished = sum(v.end is not None for v in list(self._videos.values()))
                # All decoders may be waiting for a place: then score what there is.
                if 2 * finished >= in_flight:
                    self._score_queue()
                while following in self._results:
                    yield self._results.pop(following)
                    following += 1
            self._score_queue()
            while following in self._results:
                yield self._results.pop(following)
                following += 1
        finally:
            self._closed.set()
            # Only now: the decoders write into the folder that is removed next.
            results.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _jobs(
        self, videos: Iterable[str | Path | sources.Source]
    ) -> Iterator[WindowsJob]:
        for number, asked in enumerate(videos):
            source = (
                asked
                if isinstance(asked, sources.Source)
                else sources.check(os.fspath(asked))
            )
            if source.refusal:
                self._results[number] = sources.refused_row(source)
                continue
            while not self._slots.acquire(timeout=0.2):
                if self._closed.is_set():
                    return
            folder = self._place / str(number)
            folder.mkdir()
            video = self._videos[number] = Pending(source.name, folder)
            yield self._detector.job(video, number)

    def _take(self, number: int, result: Result) -> None:
        video = self._videos[number]
        if result.window is not None:
            self._add_window(video, result.window)
            self._on_window(video.name, result.window)
        elif not result.more:
            video.end = result.to_json()
            self._close_if_done(number)
        while len(self._queue) >= self._detector.batch_size:
            self._score_queue(self._detector.batch_size)

    def _add_window(self, video: Pending, window: Row) -> None:
        if window["number"] == 0 and video.windows:  # read again, in order
            queued = [item for item in self._queue if item[0] is not video]
            self._queue, video.waiting = queued, 0
            video.windows, video.faces = [], []
        video.windows.append(window)
        free = [f for f in video.faces if f.last_window == window["number"] - 1]
        for stored in window["faces"]:
            face = tracks.same_face(free, stored["box"])
            if face is None:
                face = Face(stored["box"], -1)
                video.faces.append(face)
            else:
                free.remove(face)
            face.box, face.last_window = stored["box"], window["number"]
            face.entries.append({**stored, "window": window["number"]})
            if _is_usable(self._detector, stored):
                self._add_clips(video, face, window, stored)

    def _add_clips(self, video: Pending, face: Face, window: Row, stored: Row) -> None:
        images = entry.read_frames(Path(stored["entry"]))
        for clip in self._detector.clips_of(stored):
            frames, length = self._detector.read_clip(images, clip, stored["num_valid"])
            row = {
                "window": window["number"],
                "start": clip.start,
                "length": length,
                **tracks.span_of(window, clip, length),
            }
            face.clips.append(row)
            video.waiting += 1
            self._queue.append((video, row, frames, length))
            # A window may have more clips than memory has place for.
            if len(self._queue) >= 2 * self._detector.batch_size:
                self._score_queue(self._detector.batch_size)

    def _score_queue(self, count: int | None = None) -> None:
        """Scores the first clips of the queue, all without a count."""
        count = len(self._queue) if count is None else count
        taken, self._queue = self._queue[:count], self._queue[count:]
        if not taken:
            return
        logits = self._detector.logits(
            np.stack([frames for _, _, frames, _ in taken]),
            np.array([length for _, _, _, length in taken]),
        )
        for (video, row, _, _), logit in zip(taken, logits, strict=True):
            row["logit"] = float(logit)
            row["score"] = float(metrics.sigmoid(np.array(logit, float)))
            video.waiting -= 1
        for number in list(self._videos):
            self._close_if_done(number)

    def _close_if_done(self, number: int) -> None:
        video = self._videos[number]
        if video.end is None or video.waiting:
            return
        result = video_result.summarise(self._detector, video)
        self._inspect(result, video)
        for path in video.folder.iterdir():
            path.unlink()
        video.folder.rmdir()
        del self._videos[number]
        self._results[number] = result
        self._slots.release()


def _is_usable(detector: Detector, stored: Row) -> bool:
    frames = detector.model.config.data.clip_frames
    return stored["num_valid"] >= frames and video_result.enlargement(
        detector, stored
    ) <= (video_result.MAX_ENLARGEMENT)
