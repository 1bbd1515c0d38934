"""Cost of each augmentation beside a training step, and pictures of what each does.

python -m benchmarks.augment [--image_size 64] [--clips 32] [--config demo] [--clock …]
python -m benchmarks.augment --pictures OUT.jpg
python -m benchmarks.augment --jpeg
Each operation runs in a program of its own on the same clips: one read and one write of
the batch are part of its time. Medians over rounds in which all take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import simplejpeg

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.augment import pixels, selfblend
from fakedetect_jax.augment.clips import OPERATIONS, augment_clips
from fakedetect_jax.augment.fields import parse
from fakedetect_jax.data.batch import Batch
from fakedetect_jax.model import steps
from tfds_ffpp.frames.people.faces import follow, usual_box
from tfds_ffpp.frames.people.finders import DlibFinder
from tfds_ffpp.frames.people.track import place_points
from tfds_ffpp.synthetic import identity, rendering

STRENGTHS = {"blur_sigma": 3.0, "downscale_factor": 4.0, "noise_sigma": 0.1}
# On a shared CPU, the processor time of all threads says more than the wall's.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Operation = Callable[[jax.Array, jax.Array], jax.Array]


def augmentation(config: dict, seed: int = 0) -> Operation:
    """augment_clips of a config as a compiled function of frames and indices."""
    return jax.jit(
        lambda frames, index: augment_clips(
            frames, key=jax.random.key(seed), index_B=index, settings=parse(config)
        )
    )


def faces_at(clips: int, frames: int) -> jax.Array:
    """The points of a face in the middle of its crop, for every frame."""
    points = place_points(usual_box(1.3))
    return jnp.tile(jnp.asarray(points, jnp.float32), (clips, frames, 1, 1))


def blending(face: jax.Array | None = None, seed: int = 0) -> Operation:
    """self_blend of every clip as a compiled function of frames and indices."""
    return jax.jit(
        lambda frames, index: selfblend.self_blend(
            frames,
            jnp.ones(len(index), bool),
            faces_at(*frames.shape[:2]) if face is None else face,
            key=jax.random.key(seed),
            index_B=index,
            stored=selfblend.Stored(),
        )
    )


def operations() -> dict[str, Operation]:
    """Everything that is timed, by name."""
    timed = {name: augmentation({name: 0.5}) for name in OPERATIONS}
    timed["jpeg 4:4:4"] = augmentation({"jpeg": 0.5, "jpeg_subsampling": "444"})
    timed["crop+blur+downscale"] = augmentation(
        {"crop": 0.5, "blur": 0.5, "downscale": 0.5}
    )
    timed["all"] = augmentation(dict.fromkeys(OPERATIONS, 0.5))
    timed["self_blend"] = blending()
    return timed


def training_step(name: str, *, image_size: int, clips: int) -> Callable[[], object]:
    """One update of the config's model without augmentation, on resident clips."""
    config = settings.load(name).copy_and_resolve_references()
    with config.unlocked():
        config.augment.update(dict.fromkeys(OPERATIONS, 0.0))
    step_settings = steps.make_step_settings(config, num_steps=1000)
    shape = (config.data.clip_frames, image_size, image_size, 3)
    create = jax.jit(lambda: steps.create_train_state(step_settings, shape))
    state = create()
    batch = Batch(
        frames=jnp.zeros((clips, *shape), jnp.uint8),
        face=faces_at(clips, config.data.clip_frames),
        length=jnp.full(clips, config.data.clip_frames, jnp.int32),
        label=jnp.zeros(clips),
        index=jnp.arange(clips),
        valid=jnp.ones(clips, bool),
        blend=jnp.zeros(clips, bool),
    )
    update = jax.jit(lambda state, batch: steps.train_step(step_settings, state, batch))
    return lambda: update(state, batch)


def time_all(
    runs: dict[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Milliseconds of each run, in turns after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            start = clock()
            jax.block_until_ready(run())
            if turn >= 2:
                times[name].append(1000 * (clock() - start))
    return times


def measure(args: argparse.Namespace, results: table.Results) -> None:
    """Prints a Markdown table of milliseconds per batch and shares of a step."""
    num_frames = settings.load(args.config).data.clip_frames
    shape = (args.clips, num_frames, args.image_size, args.image_size, 3)
    frames = jax.random.uniform(jax.random.key(1), shape)
    index = jnp.arange(args.clips)
    runs: dict[str, Callable[[], object]] = {
        name: (lambda run=run: run(frames, index)) for name, run in operations().items()
    }
    runs["step"] = training_step(
        args.config, image_size=args.image_size, clips=args.clips
    )
    times = time_all(runs, rounds=args.rounds, clock=CLOCKS[args.clock])
    step = statistics.median(times["step"])
    results.say(
        f"{args.clips} clips x {num_frames} frames at {args.image_size} px, "
        f"step of configs/{args.config}.py, {args.rounds} rounds, {args.clock} time, "
        f"on {jax.devices()[0].device_kind}"
    )
    results.heads("operation", "ms per batch (min-max)", "share of a step")
    for name, values in times.items():
        median = statistics.median(values)
        span = f"{median:.1f} ({min(values):.1f}-{max(values):.1f})"
        results.row(name, span, f"{median / step:.1%}")


def made_clip(seed: int, *, num_frames: int = 10, size: int = 96) -> np.ndarray:
    """uint8[T,size,size,3]: a made face in a crop of 1.3 face boxes."""
    rng = np.random.default_rng(seed)
    canvas = 2 * size
    face, scene = identity.make_head(rng), rendering.make_scene(rng, canvas)
    scene = rendering.neck_layer(face, scene)
    moments = rendering.make_performance(rng, num_frames)
    unit = canvas * rendering.HEAD_SCALE
    centre = [canvas / 2 + unit * v for v in (moments[0].y, moments[0].x)]
    half = round(1.2 * unit)
    top, left = (min(max(round(c) - half, 0), canvas - 2 * half) for c in centre)
    frames = []
    for moment in moments:
        head = rendering.render_head(face, scene, moment)
        picture = rendering.compose(scene, moment, head=head)
        noisy = rendering.expose(picture, rendering.grain(scene, rng))
        crop = noisy[top : top + 2 * half, left : left + 2 * half]
        frames.append(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def face_of(clip: np.ndarray) -> np.ndarray:
    """float32[T,5,2]: the points of the face in float frames [T,S,S,3], as a build
    without a model of landmarks finds them."""
    crops = [
        cv2.resize(np.round(255 * frame).astype(np.uint8), (176, 176)) for frame in clip
    ]
    track = follow(crops, range(len(crops)), finder=DlibFinder())
    return track.points.astype(np.float32)


def masks_of(face: jax.Array, region: tuple[float, ...], size: int) -> jax.Array:
    """float32[B,T,size,size]: a draw of a region's mask for each clip."""
    keys = jax.random.split(jax.random.key(0), len(face))
    draw = jax.vmap(selfblend.region_mask, in_axes=(None, 0, None, 0))
    return draw((face.shape[1], size, size), face, jnp.array(region), keys)


def edged(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame in [0, 1] with a line where the mask passes one half."""
    drawn = frame.copy()
    lines, _ = cv2.findContours(
        (mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(drawn, lines, -1, (0.0, 1.0, 0.0), 1)
    return drawn


def labelled(tiles: list[np.ndarray], name: str) -> np.ndarray:
    """A row of tiles in [0, 1] with its name at the left, as uint8."""
    row = np.round(255 * np.concatenate(tiles, axis=1)).astype(np.uint8)
    margin = np.full((row.shape[0], 118, 3), 255, np.uint8)
    place = (4, row.shape[0] // 2)
    cv2.putText(margin, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0), 1)
    return np.concatenate([margin, row], axis=1)


def draw_pictures(out: Path) -> None:
    """Writes a sheet: one row per operation, six draws of it at clearly visible
    strength, then frames of self-blended clips with what was blended."""
    clips = np.stack([made_clip(seed) for seed in range(3)]).astype(np.float32) / 255
    frames = jnp.asarray(np.repeat(clips, 2, axis=0))
    index = jnp.arange(6)
    rows = [labelled(list(clips[[0, 0, 1, 1, 2, 2], 0]), "input")]
    for name in OPERATIONS:
        drawn = np.asarray(augmentation({name: 1.0, **STRENGTHS})(frames, index))
        tiles = list(drawn[:, 0])
        if name == "frame_drop":
            tiles = list(drawn[1, :6])
        rows.append(labelled(tiles, name))
    face = jnp.asarray(np.repeat([face_of(clip) for clip in clips], 2, axis=0))
    blended = np.asarray(blending(face)(frames, index))
    rows.append(labelled(list(blended[:, 0]), "self_blend"))
    change = 0.5 + 2 * (blended - np.asarray(frames))
    rows.append(labelled(list(np.clip(change[:, 0], 0, 1)), "its change x2"))
    for name, region in selfblend.REGIONS.items():
        masks = np.asarray(masks_of(face, region, frames.shape[2]))
        # Two moments of each clip: the mask goes with the head.
        moments = [0, frames.shape[1] - 1] * len(clips)
        tiles = [
            edged(clip[t], mask[t])
            for clip, mask, t in zip(np.asarray(frames), masks, moments, strict=True)
        ]
        rows.append(labelled(tiles, f"mask: {name}"))
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(out), sheet, [cv2.IMWRITE_JPEG_QUALITY, 75]):
        raise OSError(f"could not write {out}")


def through_libjpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """uint8[H,W,3] through a JPEG file of libjpeg-turbo, by OpenCV, and back."""
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling}")
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    written, data = cv2.imencode(".jpg", image[..., ::-1], flags)
    if not written:
        raise OSError("OpenCV could not write a JPEG")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]


def as_stored(image: np.ndarray) -> np.ndarray:
    """uint8[H,W,3] as a dataset of the default config gives it to the trainer."""
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=95, colorsubsampling="444", fastdct=False
    )
    return simplejpeg.decode_jpeg(data, "RGB")


def compare_jpeg(results: table.Results) -> None:
    """Shows how near the augmentation's JPEG is to a file, and the file to its input.

    On frames as rendered, and as stored: of those a JPEG of quality 95, 4:4:4, is left,
    on the same grid of blocks, whose coefficients often lie on the edge of rounding.
    """
    rendered = np.concatenate([made_clip(seed)[::5] for seed in range(6)])
    stored = np.stack([as_stored(image) for image in rendered])
    results.heads("frames", "chroma", "quality", "off", "file's own change", "ratio")
    for name, frames in (("rendered", rendered), ("stored", stored)):
        planes = pixels.to_planes(jnp.asarray(frames, jnp.float32) / 255)
        for chroma in ("420", "444"):
            for quality in (40, 60, 75, 90, 95, 100):
                file = [through_libjpeg(image, quality, chroma) for image in frames]
                file = np.stack(file).astype(np.float32)
                ours = pixels.jpeg(planes, quality, subsample=chroma == "420")
                ours = 255 * np.asarray(pixels.to_frames(ours))
                off, change = np.abs(ours - file).mean(), np.abs(file - frames).mean()
                ratio = f"{change / max(off, 1e-9):.1f}"
                shown = (f"{off:.2f}", f"{change:.2f}", ratio)
                results.row(name, chroma, quality, *shown)


def main() -> None:
    """Measures, draws with --pictures, or compares JPEGs with --jpeg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=64, help="pixels")
    parser.add_argument("--clips", type=int, default=32, help="clips per batch")
    parser.add_argument("--config", default="demo", help="whose model the step trains")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time")
    parser.add_argument(
        "--pictures", type=Path, help="write a sheet there, time nothing"
    )
    parser.add_argument(
        "--jpeg", action="store_true", help="compare with libjpeg, time nothing"
    )
    table.add_option(parser)
    args = parser.parse_args()
    if args.pictures:
        draw_pictures(args.pictures)
        return
    with table.results(parser, args, "jpeg" if args.jpeg else "") as results:
        if args.jpeg:
            compare_jpeg(results)
        else:
            measure(args, results)


if __name__ == "__main__":
    main()
