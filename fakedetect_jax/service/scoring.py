"""The process of a worker: loads the model, describes it, scores until it is to end."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.pages import video_page
from fakedetect_jax.service.making import MakingLimits, makers
from fakedetect_jax.service.options import Options, Scoring
from fakedetect_jax.service.queue.jobs import StoreGone
from fakedetect_jax.service.queue.opening import open_store
from fakedetect_jax.service.queue.places import Places, sample_paths
from fakedetect_jax.service.queue.store import Store
from fakedetect_jax.service.web.answers import Band, ModelAnswer
from fakedetect_jax.service.worker import ScoringWorker
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.session import Limits
from fakedetect_jax.serving.summary import Scale, guard_of
from fakedetect_jax.trained.model import TrainedModel
from tfds_ffpp import system
from tfds_ffpp.synthetic import tree

T = TypeVar("T")
WAIT_SECONDS = 2.0  # between two tries to open a store
GIVE_UP_SECONDS = 5.0  # for the store to take back what is left
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
    patient = own  # else whoever started it is to know
    store = _when_there(lambda: _open(options, places), patient=patient)
    detector = load(options.scoring)
    name = places.own_worker if own else f"{os.uname().nodename}-{os.getpid()}"
    worker = ScoringWorker(detector, store, places, name=name)
    _end_on_signals(worker, options.serving.grace_seconds)
    model = describe(detector.model)
    _when_there(lambda: _join(store, name, model), patient=patient)
    if detector.model.made:
        threading.Thread(
            target=make_samples, args=[places.samples], daemon=True
        ).start()
    limits = MakingLimits(options.scoring.time_limit, options.scoring.memory_limit)
    beside = makers(
        detector.network,
        store=store,
        places=places,
        name=name,
        limits=limits,
        is_busy=lambda: worker.is_busy,
    )
    with detector:
        worker.run(makers=beside)
    with suppress(StoreGone):
        store.leave(name)
    store.close()
    return 0


def _when_there(ask: Callable[[], T], *, patient: bool) -> T:
    """Asks the store; patient: again and again until it answers."""
    while True:
        try:
            return ask()
        except StoreGone:
            if not patient:
                raise
            time.sleep(WAIT_SECONDS)


def _open(options: Options, places: Places) -> Store:
    """The store of a folder."""
    store = open_store(options.store, options.data)
    store.belong_to(places.mark)
    return store


def _join(store: Store, name: str, model: ModelAnswer) -> None:
    """Says of a worker which model it has.

    Raises ConfigError where others that share the queue have another one.
    """
    other = store.model()
    weights = ModelAnswer.model_validate_json(other).weights if other else model.weights
    if weights != model.weights:
        raise ConfigError(
            f"the workers of this queue score with the model {weights}, and this one "
            f"has {model.weights}; end them first, or give the same model"
        )
    store.join(name, model.model_dump_json())


def _end_on_signals(worker: ScoringWorker, grace: float) -> None:
    """At the first signal no job is begun; after a while, or at a second, all end."""

    def give_up() -> None:
        # In threads: the main one may hold the store, or wait for it, just now.
        giving = threading.Thread(target=worker.give_back, daemon=True)
        giving.start()
        giving.join(GIVE_UP_SECONDS)
        os._exit(0)  # the processes that decode end with this one

    def give_up_beside(*_: object) -> None:
        threading.Thread(target=give_up, daemon=True).start()

    def end(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, give_up_beside)
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
