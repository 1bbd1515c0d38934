"""Does the guard know footage that is unlike all that a model was trained on?

python -m benchmarks.unfamiliar WORKDIR [--data_dir DIR] [--videos NAME=FOLDER ...]

Beside the run's own test videos, whose false alarms are counted, it scores the same
videos with another look, and what has nothing to do with them: a photograph of a real
face (Grace Hopper, an official portrait of the US Navy in the public domain, which
matplotlib brings along), photographs of things (of scikit-learn, CC BY 2.0), drawn
faces and noise, each as if a face had been found there. --videos adds folders of videos
of one's own, through all of predict.

"share" is how many are called unfamiliar; "AUROC" how often one of them lies further
out than one of the run's own test videos. In the same table stand the distance to the
nearest neighbours among the training clips, and the guard's own method on the block
energies and colours of metrics/trivial.py, which know nothing of the network. Worse
copies of the test videos stand apart: they are the same people, but not what was seen.
"""

import argparse
import importlib.resources
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from benchmarks import table
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.reader import Split
from fakedetect_jax.evaluation.scoring import covering_clips, guard_clips
from fakedetect_jax.metrics import metrics, trivial
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.trained import guard
from tfds_ffpp.errors import UserError
from tfds_ffpp.frames.prepare import encode

Clips = np.ndarray  # of one video, uint8[K,T,S,S,3]
COUNT = 40  # videos of each kind that is made here
PER_VIDEO = 3  # clips of each
NEIGHBOURS = 10
LEAST_FOREIGN, MOST_FAMILIAR = 0.95, 0.02  # what a guard must reach


# Other looks of made videos --------------------------------------------------------


def negative(clips: Clips) -> Clips:
    """Bright is dark."""
    return 255 - clips


def blue_skin(clips: Clips) -> Clips:
    """Red and blue exchanged."""
    return clips[..., ::-1]


def cartoon(clips: Clips) -> Clips:
    """Four flat levels of each colour, and black contours."""

    def draw(frame: np.ndarray) -> np.ndarray:
        flat = cv2.bilateralFilter(frame, 9, 60, 9) // 64 * 64 + 32
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        edges = cv2.adaptiveThreshold(
            grey, 1, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 7, 4
        )
        return flat * edges[..., None]

    return each_frame(draw, clips)


def line_drawing(clips: Clips) -> Clips:
    """Dark contours on paper."""

    def draw(frame: np.ndarray) -> np.ndarray:
        edges = cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 40, 100)
        return 255 - np.repeat(edges[..., None], 3, axis=2)

    return each_frame(draw, clips)


def masked(clips: Clips) -> Clips:
    """A white mask with two holes over the face."""
    size = clips.shape[2]
    centre, axes = (size // 2, size // 2), (int(0.34 * size), int(0.45 * size))
    mask = np.zeros((size, size), np.uint8)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    for side in (-1, 1):
        eye = size // 2 + int(side * 0.14 * size), int(0.42 * size)
        cv2.circle(mask, eye, int(0.06 * size), 0, -1)
    return np.where(mask[..., None] > 0, np.uint8(235), clips)


def each_frame(draw: Callable[[np.ndarray], np.ndarray], clips: Clips) -> Clips:
    """Each frame drawn anew."""
    frames = clips.reshape(-1, *clips.shape[2:])
    return np.stack([draw(frame) for frame in frames]).reshape(clips.shape)


LOOKS = {
    "made faces, negative": negative,
    "made faces, red and blue exchanged": blue_skin,
    "made faces as a cartoon": cartoon,
    "made faces as a line drawing": line_drawing,
    "made faces behind a mask": masked,
}


# Worse copies, which are not foreign ------------------------------------------------


def compressed(clips: Clips) -> Clips:
    """JPEG of quality 30 and back, as a stranger's upload might be."""

    def store(frame: np.ndarray) -> np.ndarray:
        image = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=30)
        return simplejpeg.decode_jpeg(image, "RGB")

    return each_frame(store, clips)


def blurred(clips: Clips) -> Clips:
    """By a Gaussian of one pixel."""
    return each_frame(lambda frame: cv2.GaussianBlur(frame, (0, 0), 1.0), clips)


def darker(clips: Clips) -> Clips:
    """Two thirds as bright."""
    return (clips * np.float32(2 / 3)).astype(np.uint8)


COPIES = {
    "JPEG of quality 30": compressed,
    "blurred by one pixel": blurred,
    "two thirds as bright": darker,
}


# What was never made here ------------------------------------------------------------


def drifting(
    picture: np.ndarray, place: tuple[float, float, float], shape, rng
) -> Clips:
    """A camera that moves over a picture; place: the square's middle y, x and side.

    Middle, side and brightness are drawn around the place's for each video.
    """
    count, size = PER_VIDEO * shape[0], shape[1]
    y, x, side = place
    side *= rng.uniform(0.85, 1.2)
    start = np.array([y, x]) + side * rng.normal(0, 0.04, 2)
    step, gain = side * rng.normal(0, 0.004, 2), rng.uniform(0.75, 1.2)
    frames = []
    for i in range(count):
        middle = start + i * step
        patch = cv2.getRectSubPix(
            picture, (round(side), round(side)), middle[::-1].astype(float).tolist()
        )
        small = cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA)
        frames.append(np.clip(gain * small, 0, 255).astype(np.uint8))
    return np.stack(frames).reshape(PER_VIDEO, *shape)


def photograph(package: str, name: str) -> np.ndarray:
    """A picture that an installed package brings along, RGB."""
    path = importlib.resources.files(package) / name
    return simplejpeg.decode_jpeg(path.read_bytes(), "RGB")


def real_face(shape, rng) -> Clips:
    """The face of Rear Admiral Grace Hopper, where dlib finds it."""
    picture = photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
    return drifting(picture, (244.5, 268.5, 280.0), shape, rng)


def things(shape, rng) -> Clips:
    """A temple or a flower."""
    name = rng.choice(["china.jpg", "flower.jpg"])
    picture = photograph("sklearn", f"datasets/images/{name}")
    height, width = picture.shape[:2]
    side = 180.0
    y = rng.uniform(side / 2, height - side / 2)
    x = rng.uniform(side / 2, width - side / 2)
    return drifting(picture, (y, x, side), shape, rng)


def drawn_face(shape, rng) -> Clips:
    """A round face of one colour on one colour."""
    side = 256
    paper, skin, lips = rng.integers(0, 256, (3, 3)).tolist()
    picture = np.full((side, side, 3), paper, np.uint8)
    wide, high = rng.integers(70, 105, 2).tolist()
    cv2.ellipse(picture, (128, 128), (wide, high), 0, 0, 360, skin, -1)
    cv2.ellipse(picture, (128, 128), (wide, high), 0, 0, 360, (0, 0, 0), 3)
    for eye in (95, 161):
        cv2.circle(picture, (eye, 108), 14, (255, 255, 255), -1)
        cv2.circle(picture, (eye, 108), 6, (0, 0, 0), -1)
    cv2.ellipse(picture, (128, 165), (34, 14), 0, 0, 180, lips, 5)
    return drifting(picture, (128.0, 128.0, 210.0), shape, rng)


def noise(shape, rng) -> Clips:
    """Independent pixels, or blocks of them."""
    block = int(rng.choice([1, 4]))
    small = (PER_VIDEO, shape[0], shape[1] // block, shape[2] // block, 3)
    pixels = rng.integers(0, 256, small, np.uint8)
    return pixels.repeat(block, axis=2).repeat(block, axis=3)


KINDS = {
    "a real face (one photograph)": real_face,
    "photographs of things": things,
    "drawn faces": drawn_face,
    "noise": noise,
}


# Measuring ---------------------------------------------------------------------------


def stored(split: Split, config, *, training: bool = False) -> Iterator[Clips]:
    """The clips of each video of a split, as an evaluation or a guard has them."""
    choose = guard_clips if training else covering_clips
    by_video: dict[int, list[np.ndarray]] = {}
    size, frames = config.dataset.image_size, config.data.clip_frames
    for clip in choose(split.videos, config):
        out = np.empty((frames, size, size, 3), np.uint8)
        split.reader.read(clip, split.videos[clip.video].num_valid, out)
        by_video.setdefault(clip.video, []).append(out)
    yield from map(np.stack, by_video.values())


def people(split: Split, config) -> np.ndarray:
    """Who is seen in each of those videos."""
    used = dict.fromkeys(c.video for c in covering_clips(split.videos, config))
    return np.array([split.videos[v].target or split.videos[v].key for v in used])


def through_jpeg(clips: Clips, preparation) -> Clips:
    """As the frames of a video are stored."""

    def store(frame: np.ndarray) -> np.ndarray:
        image = encode(np.ascontiguousarray(frame), preparation)
        return simplejpeg.decode_jpeg(image, "RGB")

    return each_frame(store, clips)


class Measured:
    """What each way of measuring sees of some videos' clips, a video after another."""

    def __init__(self, detector: Detector, videos: Iterator[Clips] | list[Clips]):
        """Runs the network over the videos."""
        features, blocks, video = [], [], []
        for number, clips in enumerate(videos):
            length = np.full(len(clips), clips.shape[1])
            features.append(detector.network.outputs(clips, length)[1])
            blocks += [trivial.block_statistics(clip).mean(0) for clip in clips]
            video += [number] * len(clips)
        self.features, self.blocks = np.concatenate(features), np.stack(blocks)
        self.video = np.array(video)


Distance = Callable[[Measured], np.ndarray]  # of each clip


def neighbours(known: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Distance to the NEIGHBOURS-th nearest of known features, all of length one.

    Sun et al., ICML 2022.
    """

    def unit(features: np.ndarray) -> np.ndarray:
        return features / np.maximum(np.linalg.norm(features, axis=1)[:, None], 1e-12)

    def distances(features: np.ndarray) -> np.ndarray:
        cosine = np.sort(unit(features) @ unit(known).T, axis=1)[:, -NEIGHBOURS]
        return np.sqrt(np.maximum(2 - 2 * cosine, 0))

    return distances


def ways(detector: Detector, train: Measured, labels, val: Measured, who: np.ndarray):
    """Name -> (distance of clips, threshold of videos); who: in each video of val."""
    own = detector.model.guard
    assert own is not None
    by_blocks = guard.fit(train.blocks, labels, val.blocks, val.video, who[val.video])
    if isinstance(by_blocks, str):
        raise SystemExit(f"error: {by_blocks}")
    near = neighbours(train.features)
    means = guard.video_means(near(val.features), val.video)
    limit = guard.pick_threshold(means, len(np.unique(who)))
    return {
        "guard": (lambda some: own.distances(some.features), own.threshold),
        "nearest neighbours": (lambda some: near(some.features), limit),
        "block statistics": (
            lambda some: by_blocks.distances(some.blocks),
            by_blocks.threshold,
        ),
    }


def foreign(detector: Detector, test: list[Clips]) -> Iterator[tuple[str, list[Clips]]]:
    """Each kind of foreign videos by its name."""
    preparation, shape = detector.model.preparation, test[0].shape[1:]
    for name, change in LOOKS.items():
        yield name, [through_jpeg(change(clips), preparation) for clips in test]
    for name, make in KINDS.items():
        rng = np.random.default_rng(0)
        videos = [make(shape, rng) for _ in range(COUNT)]
        yield name, [through_jpeg(clips, preparation) for clips in videos]


def main() -> None:
    """Prints shares and AUROCs; fails where the guard misses what it must reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--data_dir", help="the built datasets; as in the run if unset")
    parser.add_argument("--videos", nargs="*", default=[], metavar="NAME=FOLDER")
    table.add_option(parser)
    arguments = parser.parse_args()
    try:
        detector = Detector.load(arguments.workdir, num_processes=2)
        config = detector.model.config.copy_and_resolve_references()
        if arguments.data_dir:
            with config.unlocked():
                config.data.data_dir = arguments.data_dir
        builder = dataset.open_dataset(config)
        splits = [
            reader.open_split(builder, s, config) for s in ("train", "val", "test")
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if detector.model.guard is None:
        sys.exit(f"error: guard: none ({detector.model.no_guard})")
    with table.results(parser, arguments) as results:
        kept = measure(detector, splits, config, results)
        for given in arguments.videos:
            name, _, folder = given.partition("=")
            results.say(through_predict(detector, name, folder))
    if not kept:
        sys.exit("the guard misses what it must reach")


def through_predict(detector: Detector, name: str, folder: str) -> str:
    """How the videos of a folder come out of predict."""
    outcomes = [result.outcome for result in detector.results(folder)]
    far, seen = outcomes.count("unfamiliar"), ("unfamiliar", "scored", "partial")
    of = sum(outcomes.count(outcome) for outcome in seen)
    return f"{name}: {far} of {of} scored videos are unfamiliar."


def measure(detector: Detector, splits, config, results: table.Results) -> bool:
    """The tables; whether the guard reaches what it must."""
    train, val, test = splits
    known = Measured(detector, stored(train, config, training=True))
    labels = np.array(
        [train.videos[clip.video].label for clip in guard_clips(train.videos, config)]
    )
    seen, own = Measured(detector, stored(val, config)), list(stored(test, config))
    found = ways(detector, known, labels, seen, people(val, config))
    familiar = Measured(detector, own)

    def by_video(some: Measured, distance: Distance) -> np.ndarray:
        return guard.video_means(distance(some), some.video)

    near = {name: by_video(familiar, way) for name, (way, _) in found.items()}
    alarms = {n: float(np.mean(near[n] > limit)) for n, (_, limit) in found.items()}
    results.say(
        f"Step {detector.model.step}; {len(labels)} training clips, "
        f"{len(set(seen.video.tolist()))} videos of val, {len(own)} of test."
    )
    results.heads("videos", "number", *(f"{n}: share, AUROC" for n in found))
    shown = (f"{share:.1%} (false alarms)" for share in alarms.values())
    results.row("the run's own test", len(own), *shown)

    def row(kind: str, videos: list[Clips]) -> np.ndarray:
        """Writes a row; which of the videos the guard calls unfamiliar."""
        some, cells = Measured(detector, videos), []
        far = {name: by_video(some, way) for name, (way, _) in found.items()}
        for name, (_, limit) in found.items():
            area = metrics.auc(
                np.repeat([0, 1], [len(near[name]), len(far[name])]),
                np.concatenate([near[name], far[name]]),
            )
            cells.append(f"{np.mean(far[name] > limit):.1%}, {area or 0:.3f}")
        results.row(kind, len(videos), *cells)
        return far["guard"] > found["guard"][1]

    total = np.mean(
        np.concatenate([row(*of_kind) for of_kind in foreign(detector, own)])
    )
    preparation = detector.model.preparation
    for kind, change in COPIES.items():
        row(
            f"worse copies: {kind}",
            [through_jpeg(change(clips), preparation) for clips in own],
        )
    kept = bool(total >= LEAST_FOREIGN and alarms["guard"] <= MOST_FAMILIAR)
    results.say()
    results.say(
        f"Of all foreign videos {total:.1%} are unfamiliar (at least "
        f"{LEAST_FOREIGN:.0%} are wanted), of the run's own test "
        f"{alarms['guard']:.1%} (at most {MOST_FAMILIAR:.0%})."
    )
    return kept


if __name__ == "__main__":
    main()
