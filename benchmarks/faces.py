"""Which faces dlib's frontal detector misses, by yaw and size; what its network adds.

python -m benchmarks.faces [--heads 8] [--seed 1]

Made heads of known pose in a picture of 320x240. A film of two frames counts as missed
where the search of a build finds no box, or one whose middle is not on the head. The
renderer's heads are reliefs, which have no side; here they are made solid: the relief
before an ellipsoid of hair, looked at along parallel rays.

The network needs the extra `faces`.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks import table
from tests.made_videos import Film
from tfds_ffpp.frames.crops import crop_frame
from tfds_ffpp.frames.found import Box
from tfds_ffpp.frames.people.faces import CROP_SIDE, clip_box, follow
from tfds_ffpp.frames.people.finders import DlibFinder
from tfds_ffpp.synthetic import identity, rendering

PICTURE = (240, 320)
YAWS = (0, 15, 30, 45, 60, 75)  # degrees
HEIGHTS = (48, 80, 144)  # of a head in pixels, crown to chin
LEANS, LEANING = (0, 15, 30, 45), 80  # degrees in the picture's plane; pixels
SAMPLES = 64  # along a ray
MOST = 320  # pixels, side of a head as it is drawn before it is made smaller
MIDDLE = 0.4  # of the head's height, how far a box's middle may lie from the head's


@dataclass(frozen=True)
class Person:
    """A made head and the light that it stands in."""

    face: identity.Head
    scene: rendering.Scene
    moment: rendering.Moment
    hair: np.ndarray


def make_person(seed: int) -> Person:
    """A person who looks straight ahead."""
    rng = np.random.default_rng(seed)
    face = identity.make_head(rng)
    scene = rendering.make_scene(rng, PICTURE[1])
    moment = rendering.make_performance(rng, 1)[0]
    still = replace(moment, x=0.0, y=0.0, scale=1.0, yaw=0.0, pitch=0.0, roll=0.0)
    crown = face.albedo[identity.CANVAS // 5, identity.CANVAS // 2]
    return Person(face, scene, still, crown * (scene.key + scene.ambient) / 2)


def surfaces(
    face: identity.Head, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far front and back of a head stand out at head coordinates, the front as its
    films have it; below 0 beside the head."""
    bulk = 1.1 - (x / (face.half_width * 1.15)) ** 2 - (y / 1.15) ** 2
    nose = face.nose * np.exp(-((x / 0.16) ** 2) - ((y - 0.2) / 0.2) ** 2)
    plain = 0.75 * face.depth * np.sqrt(np.clip(bulk, 0, None))
    return np.where(bulk > 0, plain + nose, -1.0), np.where(bulk > 0, 1.6 * plain, -1.0)


def solid(person: Person, yaw: float, side: int) -> np.ndarray:
    """A head as seen from one side: float32[side, side, 4], premultiplied; its height
    is two thirds of the side."""
    face, turn = person.face, np.radians(yaw)
    moment = replace(person.moment, yaw=float(turn))
    albedo = rendering.draw_expression(face, moment)
    lit = rendering.shade(face, person.scene, moment, albedo=albedo)
    axis = (np.arange(side) + 0.5) * (2 * identity.EXTENT / side) - identity.EXTENT
    u, y = np.meshgrid(axis, axis)
    hit = np.full(u.shape, np.nan)
    for depth in np.linspace(1.2, -1.2, SAMPLES):  # from the eye; the first counts
        x = np.cos(turn) * u - np.sin(turn) * depth
        z = np.sin(turn) * u + np.cos(turn) * depth
        front, back = surfaces(face, x, y)
        inside = (front >= 0) & (z <= front) & (z >= -back)
        hit = np.where(np.isnan(hit) & inside, depth, hit)
    seen = ~np.isnan(hit)
    hit = np.nan_to_num(hit)
    x = np.cos(turn) * u - np.sin(turn) * hit
    z = np.sin(turn) * u + np.cos(turn) * hit
    to_canvas = identity.CANVAS / (2 * identity.EXTENT)
    across, down = (
        ((v + identity.EXTENT) * to_canvas - 0.5).astype(np.float32) for v in (x, y)
    )
    colour = cv2.remap(lit, across, down, cv2.INTER_LINEAR)
    colour *= (z > -0.1)[..., None]  # behind the ears are hair and neck alone
    neck = face.skin * (person.scene.key + person.scene.ambient) / 4
    behind = np.where((y > 0.4)[..., None], neck, person.hair)
    opaque = np.concatenate([behind, np.ones_like(behind[..., :1])], axis=-1)
    rest = (1 - colour[..., 3:]) * opaque
    return ((colour + rest) * seen[..., None]).astype(np.float32)


def film(person: Person, yaw: float, height: int, lean: float = 0.0) -> Film:
    """Two frames of a head in the picture's middle; the second is nearer by 2 %."""
    rng = np.random.default_rng(height)
    frames = []
    for grown in (1.0, 1.02):
        large = 2 * round(height * 1.5 * grown / 2)
        drawn = max(min(2 * large, MOST), large)
        head = solid(person, yaw, drawn)
        turn = cv2.getRotationMatrix2D((drawn / 2, drawn / 2), -lean, 1.0)
        head = cv2.warpAffine(head, turn, (drawn, drawn))
        head = cv2.resize(head, (large, large), interpolation=cv2.INTER_AREA)
        picture = person.scene.background[: PICTURE[0]].copy()
        top, left = (PICTURE[0] - large) // 2, (PICTURE[1] - large) // 2
        cut_y, cut_x = max(-top, 0), max(-left, 0)
        head = head[cut_y : large - cut_y, cut_x : large - cut_x]
        rows = slice(max(top, 0), max(top, 0) + head.shape[0])
        columns = slice(max(left, 0), max(left, 0) + head.shape[1])
        picture[rows, columns] *= 1 - head[..., 3:]
        picture[rows, columns] += head[..., :3]
        noise = rendering.grain(person.scene, rng)[: PICTURE[0]]
        developed = rendering.develop(person.scene, picture)
        frames.append(rendering.expose(developed, noise))
    return Film(frames=frames, indices=[0, 1])


def is_found(made: Film, height: int, finder: DlibFinder) -> bool:
    """Whether the search of a build boxes the head."""
    box = clip_box(made, finder=finder).box
    if box is None:
        return False
    off = [(box[i] + box[i + 2]) / 2 - PICTURE[i] / 2 for i in (0, 1)]
    return max(map(abs, off)) <= MIDDLE * height


def share(missed: list[bool]) -> str:
    """As a percentage."""
    return f"{100 * np.mean(missed):.0f} %"


def misses(
    results: table.Results, people: list[Person], finders: list[DlibFinder]
) -> None:
    """The table of films without a box: by yaw and height, then by lean."""
    names = [f"{h} px, {f.name}" for h in HEIGHTS for f in finders]
    results.heads("yaw, degrees", *names)
    for yaw in YAWS:
        cells = []
        for height in HEIGHTS:
            films = [film(person, yaw, height) for person in people]
            for finder in finders:
                cells.append(share([not is_found(f, height, finder) for f in films]))
        results.row(yaw, *cells)
    results.heads("lean, degrees", *(f.name for f in finders))
    for lean in LEANS:
        films = [film(person, 0, LEANING, lean) for person in people]
        cells = [
            share([not is_found(f, LEANING, finder) for f in films])
            for finder in finders
        ]
        results.row(lean, *cells)


def crops(people: list[Person]) -> Iterator[tuple[int, np.ndarray]]:
    """(yaw, crop in the size in which crops are looked at), framed as a build does."""
    for yaw in YAWS:
        for person in people:
            made = film(person, yaw, 144)
            y, x = PICTURE[0] / 2 + 12, PICTURE[1] / 2  # the face is the lower part
            half = 1.3 * 0.75 * 144 / 2
            box = y - half, x - half, y + half, x + half
            yield yaw, crop_frame(made, 0, box, CROP_SIDE, reference=PICTURE)


def unseen(
    results: table.Results, people: list[Person], finders: list[DlibFinder]
) -> None:
    """The table of crops in which no face is seen, and what a look at one costs."""
    missed: dict[tuple[str, int], list[bool]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for yaw, crop in crops(people):
        for finder in finders:
            start = time.process_time()
            track = follow([crop], [0], finder=finder)
            seconds[finder.name] += time.process_time() - start
            missed[finder.name, yaw].append(not track.seen[0])
    count = len(YAWS) * len(people)
    results.heads("crops without a face, by yaw", *map(str, YAWS), "ms a crop")
    for finder in finders:
        cells = [share(missed[finder.name, yaw]) for yaw in YAWS]
        results.row(finder.name, *cells, f"{1e3 * seconds[finder.name] / count:.0f}")


def compare_boxes(
    results: table.Results, people: list[Person], network: DlibFinder
) -> None:
    """How the network's boxes, as they are handed on, lie to the HOG's."""
    rows: list[np.ndarray] = []
    for person in people:
        for height in (120, 150, 180):
            frame = film(person, 0, height).frames[0]
            boxes = network.find(frame), network.find_hard(frame)
            if all(boxes):
                rows.append(_offset(boxes[0][0], boxes[1][0]))
    start = time.process_time()
    network.find_hard(np.zeros((360, 640, 3), np.uint8))
    spent = time.process_time() - start
    side, down, right = np.median(rows, axis=0)
    results.say()
    results.say(
        f"Of {len(rows)} frontal heads that both find, the network's box as it is used "
        f"has {side:.2f} sides of the HOG's and lies {down:+.2f} sides lower and "
        f"{right:+.2f} to the right (medians). It looks at 640x360 pixels in "
        f"{spent:.1f} s of one core."
    )


def _offset(hog: Box, network: Box) -> np.ndarray:
    side = hog[2] - hog[0]
    middles = [(b[0] + b[2], b[1] + b[3]) for b in (hog, network)]
    down, right = (np.subtract(middles[1], middles[0]) / 2 / side).tolist()
    return np.array([(network[2] - network[0]) / side, down, right])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    table.add_option(parser)
    options = parser.parse_args()
    people = [make_person(1000 * options.seed + i) for i in range(options.heads)]
    finders = [DlibFinder(), DlibFinder(network=True)]
    with table.results(parser, options) as results:
        results.say(
            f"Missed of {options.heads} heads, in the middle of a picture of "
            f"{PICTURE[1]}x{PICTURE[0]}."
        )
        misses(results, people, finders)
        unseen(results, people, finders)
        compare_boxes(results, people, finders[1])


if __name__ == "__main__":
    main()
