"""The process of a worker: loads the model, describes it, scores until it is to end."""

import os
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from fakedetect_jax.pages import video_page
from fakedetect_jax.service.options import Options, Scoring
from fakedetect_jax.service.queue.jobs import OWN
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places, sample_paths
from fakedetect_jax.service.web.answers import Band, ModelAnswer
from fakedetect_jax.service.worker import CopyLimits, ScoringWorker
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.session import Limits
from fakedetect_jax.serving.summary import Scale, guard_of
from fakedetect_jax.trained.model import TrainedModel
from tfds_ffpp import system
from tfds_ffpp.synthetic import tree

NICE = 5  # so that answering goes before scoring
SAMPLE_SEED = 20_260  # of people whom no demo was trained on
SAMPLE_FRAMES = 75


def load(options: Scoring) -> Detector:
    """The detector of a worker."""
    return Detector.load(
        options.model,
        step=options.step,
        cache=options.cache,
        batch_size=options.batch_size,
        apart=True,  # a score is the same, to the bit, whatever is scored beside it
        num_processes=options.processes,
        started=options.processes,
        backend=options.backend,
        limits=Limits(options.time_limit, options.memory_limit),
    )


def run_worker(options: Options, *, parent: int) -> int:
    """Scores until SIGTERM or SIGINT, then ends what is under way; the exit code.

    parent: the server that started it, with which it ends; 0 if none did.
    """
    own = bool(parent)
    if own:
        # Its number is handed on: it may have ended before this process could look.
        system.watch_parent(parent)
    with suppress(OSError):
        os.nice(NICE)
    places = Places(options.data)
    if own:
        tempfile.tempdir = str(places.temporary)
    store = open_store(options.store, options.data)
    detector = load(options.scoring)
    name = OWN if own else f"{os.uname().nodename}-{os.getpid()}"
    worker = ScoringWorker(detector, store, places, name=name)
    _end_on_signals(worker, options.serving.grace_seconds)
    store.describe_model(describe(detector.model).model_dump_json())
    if detector.model.made:
        threading.Thread(
            target=make_samples, args=[places.samples], daemon=True
        ).start()
    limits = CopyLimits(options.scoring.time_limit, options.scoring.memory_limit)
    with detector:
        worker.run(limits=limits)
    store.close()
    return 0


def _end_on_signals(worker: ScoringWorker, grace: float) -> None:
    """At the first signal no job is begun; after a while, or at a second, all end."""

    def give_up() -> None:
        worker.give_back()
        os._exit(0)  # the processes that decode end with this one

    def end(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: give_up())
        worker.drain()
        timer = threading.Timer(grace, give_up)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def describe(model: TrainedModel) -> ModelAnswer:
    """What the page says of a model, on the scale that it shows."""
    scale = Scale.of(model)
    threshold = scale.calibrated(scale.threshold)
    ends = scale.calibrated_band or (scale.band.ends if scale.band else None)
    return ModelAnswer(
        ready=True,
        trained_on=model.data,
        made=model.made,
        step=model.step,
        weights=model.digest[:16],
        guard=guard_of(model),
        calibrated=scale.temperature is not None,
        threshold=scale.threshold if threshold is None else threshold,
        band=Band(low=ends[0], high=ends[1]) if ends else None,
        card=video_page.card_as_html(model.card),
    )


def make_samples(folder: Path) -> None:
    """Makes a real and a forged video of people whom nobody was trained on."""
    if sample_paths(folder):
        return
    with tempfile.TemporaryDirectory() as place:
        made = tree.write_tree(
            Path(place) / "tree",
            num_identities=2,
            num_frames=SAMPLE_FRAMES,
            seed=SAMPLE_SEED,
            difficulty=0.0,
            methods=("Deepfakes",),
            num_processes=1,
        )
        real = next(made.glob("original_sequences/*/*/videos/*.mp4"))
        fake = next(made.glob("manipulated_sequences/*/c23/videos/*.mp4"))
        for path, name in ((fake, "made forgery.mp4"), (real, "made original.mp4")):
            partial = folder / f".{name}"
            partial.write_bytes(path.read_bytes())
            partial.replace(folder / name)
