"""Whether the faces of an edited film are linked to the people whose they are.

python -m benchmarks.people WORKDIR OUT [--films 10] [--seed 0]

Films of a minute, drawn as those of benchmarks.edited but all real: hard cuts, two
faces side by side, of four people who come again and again. Each face that predict
follows has a true person. Counted are pairs of faces of a film: those of one person
that are linked, and those of two people that are, which no link should join. Once by
the descriptors of the extra `faces`, once with what follows a face from window to
window alone. WORKDIR is any trained run: what it scores plays no part.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from benchmarks import table
from benchmarks.edited import CAST, RATE, Film, Studio, pictures, plan, write
from fakedetect_jax.reports.video_result import FaceResult
from fakedetect_jax.serving.detector import Detector
from tfds_ffpp.frames.people import descriptors
from tfds_ffpp.terminal.progress import Progress

MINUTES, SHOT = 1.0, 5


def pairs_of(faces: Sequence[FaceResult], film: Film) -> Counter[tuple[bool, bool]]:
    """(of one person, linked) -> pairs of faces."""
    true = []
    for face in faces:
        middle = RATE * sum(face.seconds) / 2
        true.append(film.person(middle, (face.box[1] + face.box[3]) / 2))
    return Counter(
        (true[a] == true[b], faces[a].person == faces[b].person)
        for a, b in combinations(range(len(faces)), 2)
    )


def share(pairs: Counter[tuple[bool, bool]], same: bool) -> str:
    """How many pairs of one person, or of two, are linked."""
    linked, apart = pairs[same, True], pairs[same, False]
    return f"{linked / max(linked + apart, 1):.1%} of {linked + apart:,}"


def main() -> None:
    """Makes the films, follows and links their faces, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    if not descriptors.available():
        parser.error("the extra faces is not installed, which has the descriptors")
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    studio, films = Studio(), {}
    for n in range(options.films):
        film = plan(np.random.default_rng([options.seed, n]), SHOT, MINUTES)
        path = options.out / f"people-{options.seed}.{n}.mp4"
        films[path] = film
        if not path.exists():
            write(path, pictures(film, studio.takes(), None))
    with table.results(parser, options) as results:
        seconds = sum(shot[2] for film in films.values() for shot in film.shots) / RATE
        results.say(
            f"{len(films)} films, {seconds / 60:.1f} minutes in all, of {CAST} people."
        )
        results.heads(
            *("linked by", "faces followed", "pairs of one person that are linked"),
            *("pairs of two people that are linked", "people found in a film"),
        )
        for name, link in (("descriptors", True), ("nothing", False)):
            pairs: Counter[tuple[bool, bool]] = Counter()
            people, faces = [], 0
            with (
                Detector.load(options.workdir, link_people=link) as detector,
                Progress(f"score, linked by {name}", len(films)) as bar,
            ):
                for result in detector.results(list(films)):
                    pairs += pairs_of(result.faces, films[Path(result.video)])
                    people.append(len(result.people or ()))
                    faces += len(result.faces)
                    bar.step()
            results.row(
                *(name, faces, share(pairs, True), share(pairs, False)),
                f"{np.median(people):g} ({min(people)} to {max(people)})",
            )


if __name__ == "__main__":
    main()
