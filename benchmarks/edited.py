"""Edited films of ten minutes, with two faces in each shot: who is found forged, where.

python -m benchmarks.edited WORKDIR OUT [--films 2] [--seed 0]

Films are cut from takes of people whom the demo's model never saw: hard cuts, two
faces side by side, of four people who come again and again. In a forged film one face
of one shot is forged, for 2, 5, 10 or 30 seconds, and that person is real in all other
shots; the real film of each is the same with that face as it was. All are scored as
predict scores a file, with cuts looked for. The part is predict's most suspicious one,
the whole its verdict on the film, by the mean over it. A forgery is named where the
part lies in its shot, and on its face; `by chance` is the share of all seconds of faces
that are forged. OUT keeps films and rows, so that a stopped run goes on.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks import table
from benchmarks.films import METHODS, PEOPLE, filmed
from fakedetect_jax.metrics import doubt, metrics
from fakedetect_jax.pages.formats import number
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving.detector import Detector
from tfds_ffpp.files import whole
from tfds_ffpp.synthetic import forgeries, tree
from tfds_ffpp.terminal.progress import Progress

RATE, SIZE = 25, 224
MINUTES = 10
SPANS = (2, 5, 10, 30)  # seconds of a forgery
SHOTS = (2.0, 8.0)  # seconds of the others
TAKE = 400  # frames of a person's take
CAST, PEOPLE_IN_ALL = 4, 8
Frames = Sequence[np.ndarray]


@dataclass(frozen=True)
class Film:
    """What a film is: its shots, and where it is forged.

    shots: (left, right) persons with the first frames of their takes, and the length.
    forged: the number of the shot, and whether its right face is forged.
    """

    shots: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]
    forged: tuple[int, bool]

    @property
    def span(self) -> tuple[float, float]:
        """Seconds of the forged shot."""
        start = sum(shot[2] for shot in self.shots[: self.forged[0]])
        return start / RATE, (start + self.shots[self.forged[0]][2]) / RATE

    def person(self, frame: float, column: float) -> int:
        """Who is seen at this frame, in the half of the picture with this column."""
        ends = np.cumsum([shot[2] for shot in self.shots])
        at = min(int(np.searchsorted(ends, frame, "right")), len(ends) - 1)
        left, right, _ = self.shots[at]
        return (right if column > SIZE else left)[0]


def plan(rng: np.random.Generator, seconds: int, minutes: float = MINUTES) -> Film:
    """A film with a shot of so many seconds, in which one face may be forged."""
    cast = rng.choice(PEOPLE_IN_ALL, CAST, replace=False)
    lengths = []
    while sum(lengths) < minutes * 60 * RATE:
        lengths.append(round(RATE * rng.uniform(*SHOTS)))
    at = int(rng.integers(len(lengths)))
    lengths[at] = seconds * RATE
    shots = []
    for length in lengths:
        left, right = rng.choice(cast, 2, replace=False)
        first = [int(rng.integers(max(TAKE - length, 1))) for _ in range(2)]
        shots.append(((int(left), first[0]), (int(right), first[1]), length))
    return Film(tuple(shots), (at, bool(rng.integers(2))))


def of_shot(take: Frames, first: int, length: int) -> Iterator[np.ndarray]:
    """Frames of a take from the first on; at its end it goes back, as at its start."""
    turn = 2 * len(take) - 2
    for i in range(first, first + length):
        yield take[len(take) - 1 - abs(i % turn - len(take) + 1)]


def pictures(
    film: Film, takes: Sequence[Frames], forged: Frames | None
) -> Iterator[np.ndarray]:
    """The frames of a film; forged: of its forged face, None of a real film."""
    for i, (*sides, length) in enumerate(film.shots):
        both = [of_shot(takes[person], first, length) for person, first in sides]
        if forged is not None and i == film.forged[0]:
            both[film.forged[1]] = iter(forged)
        for pair in zip(*both, strict=True):
            yield np.concatenate(pair, axis=1)


def write(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encodes H.264 as cameras do."""
    options = {"preset": "veryfast", "crf": "21"}
    with whole(path) as place, av.open(str(place), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = SIZE, 2 * SIZE
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


class Studio:
    """People, their takes, and forgeries of them."""

    def __init__(self) -> None:
        """Makes nothing yet."""
        # The shortest of so many frames has three quarters.
        self._long = replace(PEOPLE, num_frames=4 * TAKE // 3 + 1)
        self._takes: list[Frames] = []

    def takes(self) -> Sequence[Frames]:
        """The take of each person, made once."""
        if not self._takes:
            with Progress("make takes", PEOPLE_IN_ALL) as bar:
                for person in range(PEOPLE_IN_ALL):
                    bare = tree.make_clip(self._long, person, bare=True)
                    self._takes.append(filmed(bare, TAKE).frames)
                    bar.step()
        return self._takes

    def forged(self, film: Film, method: str, seed: int) -> Frames:
        """The forged face of a film, frame for frame what it replaces."""
        *sides, length = film.shots[film.forged[0]]
        person, first = sides[film.forged[1]]
        bare = tree.make_clip(self._long, person, bare=True)
        source = tree.make_clip(self._long, PEOPLE_IN_ALL + person, bare=True)
        rng = np.random.default_rng([seed, person])
        clip = filmed(bare, TAKE)
        made = forgeries.METHODS[method](clip, source, rng, PEOPLE.difficulty).frames
        return list(of_shot(made, first, length))


# Judging ---------------------------------------------------------------------------


def row_of(result: VideoResult, film: Film) -> dict[str, Any]:
    """What predict said of a film, held against what it is."""
    part, (start, stop) = result.part, film.span
    named = face = False
    if part is not None:
        middle = sum(part.seconds) / 2
        box = result.faces[part.face].box
        right = (box[1] + box[3]) / 2 > SIZE
        named = start <= middle <= stop
        face = named and right == film.forged[1]
    return {
        "named": named,
        "face": face,
        "part": part is not None and part.verdict == doubt.FAKE,
        "whole": result.verdict == doubt.FAKE,
        "part_score": part.score if part is not None else 0.0,
        "whole_score": result.score or 0.0,
        "shots": result.shots,
        "made": len(film.shots),
        "people": len(result.people or ()),
        "seconds": sum(shot[2] for shot in film.shots) / RATE,
    }


def score(
    workdir: Path, out: Path, films: dict[str, Film]
) -> dict[str, dict[str, Any]]:
    """A row for each film, scored now or before by the same model."""
    with Detector.load(workdir) as detector:
        kept = out / f"rows-{detector.facts.weights}"
        kept.mkdir(exist_ok=True)
        places = {name: kept / f"{name}.json" for name in films}
        new = [out / f"{name}.mp4" for name in films if not places[name].exists()]
        with Progress("score films", len(new)) as bar:
            for result in detector.results(new):
                name = Path(result.video).stem
                row = row_of(result, films[name])
                with whole(places[name]) as place:
                    place.write_text(json.dumps(row))
                bar.step()
    return {name: json.loads(place.read_text()) for name, place in places.items()}


def show(results: table.Results, rows: dict[str, dict[str, Any]]) -> None:
    """A row for each length of forgery, then the real films."""
    shots = [f"{r['shots']} of {r['made']}" for r in rows.values()]
    results.say(f"Shots found in each: {', '.join(shots)}.")
    people = sorted(row["people"] for row in rows.values())
    results.say(f"People found, of {CAST}: {people[0]} to {people[-1]}.")
    results.say()
    results.heads(
        *("forged", "films", "shot named", "and face", "by chance", "part called fake"),
        *("that part is the forged", "whole called fake"),
    )
    for seconds in SPANS:
        own = [
            r for name, r in rows.items() if name.startswith(f"forged-{seconds:02d}")
        ]
        both = sum(row["part"] and row["face"] for row in own)
        named, face, part = (sum(r[k] for r in own) for k in ("named", "face", "part"))
        share = f"{seconds / (2 * 60 * MINUTES):.1%}"
        results.row(
            *(f"{seconds} s", len(own), named, face, share, part, both),
            sum(row["whole"] for row in own),
        )
    real = [row for name, row in rows.items() if name.startswith("real")]
    hours = sum(row["seconds"] for row in real) / 3600
    alarms = [sum(row[k] for row in real) for k in ("part", "whole")]
    results.row("real", len(real), "", "", "", alarms[0], "", alarms[1])
    results.say()
    results.say(
        f"False alarms an hour, of {hours:.1f} hours of real film: "
        f"{alarms[0] / hours:.2f} by the part, {alarms[1] / hours:.2f} by the whole."
    )
    labels = np.array([name.startswith("forged") for name in rows], int)
    by = [
        metrics.auc(labels, np.array([row[f"{what}_score"] for row in rows.values()]))
        for what in ("part", "whole")
    ]
    results.say(
        f"Forged films against real ones, AUC: {number(by[0])} by the score of the "
        f"most suspicious part, {number(by[1])} by the mean over the film."
    )


def main() -> None:
    """Makes the films, scores them, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=int, default=2, help="of each length, and real")
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    studio, films = Studio(), {}
    numbers = [(seconds, n) for n in range(options.films) for seconds in SPANS]
    for i, (seconds, n) in enumerate(numbers):
        film = plan(np.random.default_rng([options.seed, seconds, n]), seconds)
        method = METHODS[i % len(METHODS)]
        for kind in ("forged", "real"):
            name = f"{kind}-{seconds:02d}-{options.seed}.{n}-{method}"
            films[name] = film
            path = options.out / f"{name}.mp4"
            if not path.exists():
                forged = kind == "forged"
                face = studio.forged(film, method, options.seed) if forged else None
                write(path, pictures(film, studio.takes(), face))
    rows = score(options.workdir, options.out, films)
    with table.results(parser, options) as results:
        results.say(
            f"{len(films)} films of {MINUTES} minutes; forged by {', '.join(METHODS)}, "
            "in turns."
        )
        show(results, rows)


if __name__ == "__main__":
    main()
