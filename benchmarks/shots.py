"""How well cuts are found, on made films with known ones, beside PySceneDetect.

python -m benchmarks.shots [--films 20] [--seed 1]

Films of people, landscapes under a moving camera and things that move, cut hard, by
dissolves and by fades, with flashes, lamps that are switched and fast motion between.
A hard cut is found if a shot begins within a frame of it, a soft one if one begins in
it or within five frames. Precision counts all that begins where nothing does. Films of
seed 0 set the numbers in tfds_ffpp/frames/decoding/shots.py; the results are another
seed's.

Where scenedetect-headless is installed (0.7.2 was), its detectors see the same films,
with their default settings.
"""

import argparse
import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks import table
from tests.made_videos import write_video
from tfds_ffpp.frames.video import find_cuts
from tfds_ffpp.synthetic import identity, rendering

SIZE = (108, 192)  # of the films
NEAR_HARD, NEAR_SOFT = 1, 5  # frames
Film = list[np.ndarray]


@dataclass
class Truth:
    """Where the shots of a film begin: hard cuts, and (first, last) of soft ones.

    kinds: of each hard cut; events: what else happens that is no cut.
    """

    hard: dict[int, str] = field(default_factory=dict)
    soft: list[tuple[int, int, str]] = field(default_factory=list)
    events: Counter = field(default_factory=Counter)


# Shots -----------------------------------------------------------------------------


def person(rng: np.random.Generator, count: int) -> Film:
    """A talking head, framed anew."""
    face = identity.make_head(rng)
    scene = rendering.neck_layer(face, rendering.make_scene(rng, SIZE[1]))
    moments = rendering.make_performance(rng, count)
    top = int(rng.integers(0, SIZE[1] - SIZE[0]))
    frames = []
    for moment in moments:
        head = rendering.render_head(face, scene, moment)
        picture = rendering.compose(scene, moment, head=head)
        frame = rendering.expose(picture, rendering.grain(scene, rng))
        frames.append(frame[top : top + SIZE[0]])
    return frames


def landscape(rng: np.random.Generator, count: int, *, speed: float = 1.5) -> Film:
    """A camera that moves over a picture, zooming; speed in pixels a frame."""
    side = 640
    picture = np.full((side, side, 3), rng.integers(40, 200, 3), np.float32)
    for cells in (4, 9, 20, 45):
        noise = identity.fractal_noise(rng, side, cells=(cells,), gain=1.0)
        picture += 25 * noise[..., None] * rng.uniform(0.5, 1.5, 3)
    for _ in range(12):
        corner, extent = rng.integers(0, side, 2), rng.integers(20, 200, 2)
        colour = rng.integers(0, 255, 3).tolist()
        cv2.rectangle(picture, corner.tolist(), (corner + extent).tolist(), colour, -1)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    way = rng.normal(size=2)
    way *= speed / np.linalg.norm(way)
    zoom, at = rng.uniform(0.997, 1.003), rng.uniform(0.4, 0.6, 2) * side
    scale, frames = rng.uniform(0.8, 1.2), []
    for _ in range(count):
        at, scale = at + way, np.clip(scale * zoom, 0.5, 2)
        # A camera that reaches the picture's edge turns back.
        for axis, half in ((0, SIZE[1]), (1, SIZE[0])):
            if not half / 2 / scale < at[axis] < side - half / 2 / scale:
                way[axis] = -way[axis]
                at[axis] += 2 * way[axis]
        move = np.array(
            [
                [scale, 0, SIZE[1] / 2 - scale * at[0]],
                [0, scale, SIZE[0] / 2 - scale * at[1]],
            ]
        )
        frames.append(
            cv2.warpAffine(picture, move, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
        )
    return frames


def chase(rng: np.random.Generator, count: int) -> Film:
    """A fast camera."""
    return landscape(rng, count, speed=float(rng.uniform(6, 16)))


def traffic(rng: np.random.Generator, count: int) -> Film:
    """A still camera before which large things pass."""
    frames = landscape(rng, count, speed=0.2)
    for _ in range(int(rng.integers(2, 5))):
        width, top = int(rng.integers(20, 90)), int(rng.integers(0, 60))
        speed, start = rng.uniform(3, 14), rng.uniform(-400, 100)
        colour = rng.integers(0, 255, 3).tolist()
        for i, frame in enumerate(frames):
            x = int(start + speed * i)
            cv2.rectangle(frame, (x, top), (x + width, top + 60), colour, -1)
    return frames


KINDS: dict[Callable[..., Film], float] = {
    person: 0.45,
    landscape: 0.25,
    chase: 0.12,
    traffic: 0.18,
}


def disturb(frames: Film, rng: np.random.Generator, events: Counter) -> None:
    """Perhaps a flash or a lamp that is switched, away from the ends."""
    if len(frames) < 40:
        return
    at, kind = int(rng.integers(12, len(frames) - 14)), rng.random()
    if kind < 0.3:
        length, gain = int(rng.integers(1, 4)), rng.uniform(40, 160)
        events["flash"] += 1
        for i in range(at, at + length):
            frames[i] = _brighter(frames[i], 1.0, gain)
    elif kind < 0.45:
        gain = float(rng.choice([0.5, 0.65, 1.4]))
        events["light"] += 1
        for i in range(at, len(frames)):
            frames[i] = _brighter(frames[i], gain, 0)


def _brighter(frame: np.ndarray, gain: float, more: float) -> np.ndarray:
    return np.clip(frame * np.float32(gain) + more, 0, 255).astype(np.uint8)


def punched_in(frames: Film, rng: np.random.Generator) -> Film:
    """The same shot, from nearer: what editors cut to."""
    scale = rng.uniform(1.3, 1.9)
    height, width = round(SIZE[0] / scale), round(SIZE[1] / scale)
    y = int(rng.integers(0, SIZE[0] - height))
    x = int(rng.integers(0, SIZE[1] - width))
    return [cv2.resize(f[y : y + height, x : x + width], SIZE[::-1]) for f in frames]


def make_film(rng: np.random.Generator, shots: int) -> tuple[Film, Truth]:
    """A film of so many shots."""
    film: Film = []
    truth = Truth()
    previous: Film = []
    kinds, weights = list(KINDS), list(KINDS.values())
    for number in range(shots):
        count = int(rng.integers(24, 110))
        nearer = number > 0 and rng.random() < 0.12
        if nearer:
            shot = punched_in(previous[-count:], rng)
        else:
            shot = kinds[rng.choice(len(kinds), p=weights)](rng, count)
            disturb(shot, rng, truth.events)
        previous = [frame.copy() for frame in shot]
        join(film, shot, rng, truth, "nearer" if nearer else "other")
    return film, truth


def join(
    film: Film, shot: Film, rng: np.random.Generator, truth: Truth, kind: str
) -> None:
    """Appends a shot, by a cut, a dissolve or a fade."""
    how = rng.random()
    if not film:
        pass
    elif how < 0.7 or kind == "nearer":
        truth.hard[len(film)] = kind
    elif how < 0.87:
        length = min(int(rng.integers(8, 32)), len(shot) - 4, 20 if len(film) else 0)
        first = len(film) - length
        for i in range(length):
            share = np.float32((i + 1) / (length + 1))
            mixed = (1 - share) * film[first + i] + share * shot[i]
            film[first + i] = mixed.astype(np.uint8)
        truth.soft.append((first, len(film) - 1, "dissolve"))
        shot = shot[length:]
    else:
        length = int(rng.integers(6, 16))
        first = len(film) - length
        for i in range(length):
            share = (i + 1) / length
            film[first + i] = _brighter(film[first + i], 1 - share, 0)
            shot[length - 1 - i] = _brighter(shot[length - 1 - i], 1 - share, 0)
        truth.soft.append((first, len(film) + length - 1, "fade"))
    film += shot


# Detectors -------------------------------------------------------------------------

Detect = Callable[[Path], list[int]]


def detectors() -> Iterator[tuple[str, Detect]]:
    """Ours, and those of PySceneDetect if it is there."""
    yield "ours", find_cuts
    if importlib.util.find_spec("scenedetect") is None:
        return
    import scenedetect  # pyright: ignore[reportMissingImports]

    def theirs(make: Callable) -> Detect:
        def detect(path: Path) -> list[int]:
            scenes = scenedetect.detect(str(path), make())
            return [start.frame_num for start, _ in scenes[1:]]

        return detect

    for name in ("Adaptive", "Content", "Hash", "Histogram"):
        kind = getattr(scenedetect, f"{name}Detector")
        yield f"scenedetect {name}", theirs(kind)


@dataclass
class Score:
    """What a detector made of all films. missed, false: by kind."""

    hard: int = 0
    found: int = 0
    soft: int = 0
    soft_found: int = 0
    false: int = 0
    seconds: float = 0.0
    missed: Counter = field(default_factory=Counter)

    def add(self, cuts: list[int], truth: Truth) -> None:
        """Counts one film."""
        left = list(cuts)
        for cut, kind in truth.hard.items():
            near = [c for c in left if abs(c - cut) <= NEAR_HARD]
            self.hard += 1
            self.found += bool(near)
            self.missed[kind] += not near
            if near:
                left.remove(near[0])
        for first, last, kind in truth.soft:
            inside = [c for c in left if first - NEAR_SOFT <= c <= last + NEAR_SOFT]
            self.soft += 1
            self.soft_found += bool(inside)
            self.missed[kind] += not inside
            left = [c for c in left if c not in inside]
        self.false += len(left)


def main() -> None:
    """Makes the films, lets each detector see them, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--shots", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    table.add_option(parser)
    options = parser.parse_args()
    scores = {name: Score() for name, _ in detectors()}
    frames, events = 0, Counter()
    with table.results(parser, options) as results, tempfile.TemporaryDirectory() as at:
        for number in range(options.films):
            rng = np.random.default_rng([options.seed, number])
            film, truth = make_film(rng, options.shots)
            quality = str(rng.integers(20, 36))
            path = write_video(
                Path(at, f"{number}.mp4"),
                film,
                pixel_format="yuv420p",
                options={"crf": quality, "preset": "veryfast"},
            )
            frames, events = frames + len(film), events + truth.events
            for name, detect in detectors():
                start = time.process_time()
                cuts = detect(path)
                scores[name].seconds += time.process_time() - start
                scores[name].add(cuts, truth)
            path.unlink()
        _say(results, scores, frames, events, options.films)


def _say(
    results: table.Results,
    scores: dict[str, Score],
    frames: int,
    events: Counter,
    films: int,
) -> None:
    some = next(iter(scores.values()))
    results.say(
        f"{films} films, {frames / 25 / 60:.0f} minutes of {SIZE[1]}x{SIZE[0]}, "
        f"{some.hard} hard and {some.soft} soft cuts; that are none: "
        + ", ".join(f"{n} {kind}" for kind, n in sorted(events.items()))
        + ", and fast motion."
    )
    results.heads(
        *("detector", "hard: recall", "precision", "soft: recall", "false"),
        *("missed", "ms of a core a frame"),
    )
    for name, score in scores.items():
        results.row(
            name,
            f"{score.found / max(score.hard, 1):.3f}",
            f"{score.found / max(score.found + score.false, 1):.3f}",
            f"{score.soft_found / max(score.soft, 1):.3f}",
            score.false,
            ", ".join(f"{n} {kind}" for kind, n in score.missed.most_common() if n),
            f"{1000 * score.seconds / frames:.2f}",
        )


if __name__ == "__main__":
    main()
