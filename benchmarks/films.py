"""A forged shot in a long film: what finds it, at which price in false alarms.

python -m benchmarks.films WORKDIR TAKES [--people 200] [--forged 20]

Takes of five seconds are made of people whom the demo's model never saw, real ones and
forged ones, and scored as predict scores a shot; the folder TAKES keeps them, so that a
stopped run goes on. Films are drawn from them: five minutes, 60 shots of a few people.
For each way to sum up a film: the share of films with one forged shot that lie above
all but at most 1 % of the real films; where one take is the highest of more films than
that, above all. At the end is the limit that predict sets by itself, and
how many real films exceed that.
"""

import argparse
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks import table
from fakedetect_jax.metrics import parts
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.summary import Scale
from fakedetect_jax.trained.model import TrainedModel
from tests.made_videos import write_video
from tfds_ffpp.files import whole
from tfds_ffpp.synthetic import forgeries, tree
from tfds_ffpp.synthetic.forgeries import MadeVideo
from tfds_ffpp.terminal.progress import Progress

FRAMES = 125  # of a take
SHOTS = 60  # of a film
FILMS = 2000
REAL = "real"
METHODS = (*tree.FOUR, "Flicker")
PEOPLE = tree.Parameters(
    num_identities=1000,
    num_frames=167,  # the shortest is three quarters of them, 125
    frame_size=224,
    seed=1000,  # the demo's people are of seed 0
    difficulty=0.0,
    compressions=("c23",),
    methods=METHODS,
    split_shares=(0.6, 0.2, 0.2),
)

# Takes -----------------------------------------------------------------------------


def make_takes(folder: Path, person: int, *, forged: bool) -> None:
    """Writes a person's takes: a real one, or one by each method."""
    names = [f"{person:03d}-{m}-0.mp4" for m in (METHODS if forged else [REAL])]
    if all((folder / name).exists() for name in names):
        return
    cv2.setNumThreads(1)
    bare = tree.make_clip(PEOPLE, person, bare=True)
    clip = filmed(bare, FRAMES)
    if not forged:
        films = [clip.frames]
    else:
        source = tree.make_clip(PEOPLE, (person + 1) % 1000, bare=True)
        films = []
        for number, method in enumerate(METHODS):
            rng = np.random.default_rng([PEOPLE.seed, person, number])
            forge = forgeries.METHODS[method]
            films.append(forge(clip, source, rng, PEOPLE.difficulty).frames)
    for name, frames in zip(names, films, strict=True):
        with whole(folder / name) as place:
            named = place.with_suffix(".mp4")
            write_video(named, frames, options={"crf": "23", "preset": "veryfast"})
            named.replace(place)


def filmed(bare: MadeVideo, count: int) -> MadeVideo:
    """The first frames of a clip whose pictures were left out."""
    some = replace(
        bare,
        moments=bare.moments[:count],
        tones=bare.tones[:count],
        noises=bare.noises[:count],
    )
    pictures = [
        forgeries.photograph(some.face, some.scene, moment, tone=float(tone))
        for moment, tone in zip(some.moments, some.tones, strict=True)
    ]
    return replace(some, pictures=pictures)


@dataclass(frozen=True)
class Take:
    """A scored take: of whom, by which method, and its clips' scores by window."""

    person: int
    method: str
    windows: list[list[float]]

    @cached_property
    def score(self) -> float:
        """As a video's: the mean over its clips."""
        return float(np.mean([s for window in self.windows for s in window]))


def score_takes(detector: Detector, folder: Path) -> tuple[list[Take], int]:
    """The takes of the folder, scored now or before; and cuts found where none are."""
    kept = folder / "scores.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {row["name"]: row for row in map(json.loads, lines)}
    new = [p for p in sorted(folder.glob("*.mp4")) if p.name not in known]
    with kept.open("a") as file, Progress("score takes", len(new)) as bar:
        for result in detector.results(new):
            windows: dict[int, list[float]] = defaultdict(list)
            for clip in (clip for face in result.faces[:1] for clip in face.clips):
                windows[clip.window].append(clip.score)
            name = Path(result.video).name
            known[name] = {"name": name, "shots": result.shots}
            known[name]["windows"] = [windows[k] for k in sorted(windows)]
            file.write(json.dumps(known[name]) + "\n")
            bar.step()
    takes = []
    for name, row in sorted(known.items()):
        person, method, _ = Path(name).stem.split("-")
        if row["windows"]:
            takes.append(Take(int(person), method, row["windows"]))
    return takes, sum((row["shots"] or 1) - 1 for row in known.values())


# Films -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """Films as rows of shots, and what is known of each: arrays [FILMS, SHOTS].

    score: the mean over its clips; windows, pairs: of its highest window, run of two.
    """

    score: np.ndarray
    windows: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, takes: Sequence[Take], chosen: np.ndarray) -> "Films":
        """Of the numbers of takes."""
        score = np.array([take.score for take in takes])
        windows, pairs = (
            np.array([max(parts.runs(take.windows, n)) for take in takes])
            for n in (1, 2)
        )
        return cls(score[chosen], windows[chosen], pairs[chosen])


def draw(
    rng: np.random.Generator, takes: Sequence[Take], people: Sequence[int], cast: int
) -> np.ndarray:
    """The takes [FILMS, SHOTS] of real films, each of so many of the people."""
    own = [n for n, t in enumerate(takes) if t.method == REAL and t.person in people]
    casts = np.array([rng.choice(own, cast, replace=False) for _ in range(FILMS)])
    if cast == SHOTS:
        return casts
    return np.take_along_axis(casts, rng.integers(cast, size=(FILMS, SHOTS)), axis=1)


def with_fake(
    rng: np.random.Generator, takes: Sequence[Take], films: np.ndarray
) -> np.ndarray:
    """The films with a forged take in place of one of their shots."""
    forged = [n for n, take in enumerate(takes) if take.method != REAL]
    films = films.copy()
    films[:, rng.integers(SHOTS)] = rng.choice(forged, FILMS)
    return films


def _highest_tenth(films: Films) -> np.ndarray:
    return np.sort(films.score, axis=1)[:, -SHOTS // 10 :].mean(axis=1)


WAYS: dict[str, Callable[[Films], np.ndarray]] = {
    "mean over the film": lambda films: films.score.mean(axis=1),
    "mean of the highest tenth of shots": _highest_tenth,
    # -log of the chance that no shot is forged: in the order of noisy-or.
    "noisy-or over shots": lambda films: -np.log1p(-films.score).sum(axis=1),
    "highest shot": lambda films: films.score.max(axis=1),
    "highest run of two windows": lambda films: films.pairs.max(axis=1),
    "highest window": lambda films: films.windows.max(axis=1),
}


def exceed(films: Films, model: TrainedModel) -> np.ndarray:
    """Whether predict calls a part of each fake; takes are as long as parts."""
    least = Scale.of(model).fake_above
    limits = [parts.limit(film, model.reals, least=least) for film in films.score]
    return films.score.max(axis=1) > limits


def measure(
    results: table.Results, takes: Sequence[Take], model: TrainedModel, *, cast: int
) -> None:
    """A table for films of a cast of so many."""
    people = sorted({take.person for take in takes if take.method == REAL})
    rng = np.random.default_rng(cast)
    drawn = draw(rng, takes, people, cast)
    real = Films.of(takes, drawn)
    fake = Films.of(takes, with_fake(rng, takes, drawn))
    results.say(f"## {SHOTS} shots of {cast} people")
    results.heads("way", "false alarms of films", "an hour", "forged shot found")

    def row(name: str, alarms: float, found: float) -> None:
        results.row(name, f"{alarms:.1%}", f"{12 * alarms:.2f}", f"{found:.1%}")

    for name, way in WAYS.items():
        limit = np.quantile(way(real), 0.99)
        row(name, np.mean(way(real) > limit), np.mean(way(fake) > limit))
    alarms, found = np.mean(exceed(real, model)), np.mean(exceed(fake, model))
    row("predict's part, by itself", float(alarms), float(found))
    results.say()


def _jobs(options: argparse.Namespace) -> Iterator[partial]:
    make = partial(make_takes, options.takes)
    for person in range(options.people):
        yield partial(make, person, forged=False)
    for person in range(900, 900 + options.forged):  # others
        yield partial(make, person, forged=True)


def _call(job: partial) -> None:
    job()


def main() -> None:
    """Makes the takes, scores them, draws films, prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("takes", type=Path)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--forged", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    table.add_option(parser)
    options = parser.parse_args()
    options.takes.mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(options))
    pool = multiprocessing.get_context("spawn").Pool(options.processes)
    with Progress("make takes", len(jobs)) as bar, pool:
        for _ in pool.imap_unordered(_call, jobs):
            bar.step()
    with Detector.load(options.workdir, num_processes=options.processes) as detector:
        takes, cuts = score_takes(detector, options.takes)
    with table.results(parser, options) as results:
        results.say(f"{len(takes)} takes; cuts found within them: {cuts}.")
        results.say()
        for cast in (8, SHOTS):
            measure(results, takes, detector.model, cast=cast)


if __name__ == "__main__":
    main()
