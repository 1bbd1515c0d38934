"""Whether a detector trained on self-blended clips takes re-graded reals for fakes.

python -m benchmarks.selfblend [--out runs/selfblend] [--num_steps 1500] [--seeds 3]
                               [--untreated]

Trains the demo's network, without its LSTM, on single frames of real videos and their
blends alone, without other augmentation, and scores frames of unseen people: as stored,
and re-graded as a whole and coded again. Thresholds are picked on val's reals as stored
and their blends: the one with the best balanced accuracy, as a run picks it, and the
one above which 5 % of the reals are. With --untreated only blends are changed and coded
again; reals stay as stored, which is what must not be done. Makes the demo's videos
first, where OUT does not have them. Single frames, because a blend shows in each: so
many more different ones are seen in the same time.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.augment import pixels, selfblend
from fakedetect_jax.data import dataset
from fakedetect_jax.data.batch import empty_batch
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.data.order import TrainOrder, covering_clips, frames_of
from fakedetect_jax.data.reader import (
    FrameReader,
    MemoryBudget,
    read_videos,
    smooth_points,
)
from fakedetect_jax.metrics import calibration, metrics
from fakedetect_jax.model import steps
from tfds_ffpp.terminal.lines import Terminal

DRAWS = 4  # of each frame of an unseen person
PER_VIDEO = 8  # frames
FALSE_ALARMS = 0.05  # of val's reals as stored, at the second threshold
STORED, REGRADED, BLENDS = "reals as stored", "reals re-graded, coded again", "blends"


def demo(out: Path, seed: int = 0):
    """The demo's config with its data under a folder, and the dataset's builder."""
    config = settings.load("configs/demo.py")
    with config.unlocked():
        config.data.data_dir = str(out / "tfds")
        config.data.manual_dir = str(out / "videos")
        config.data.sampling = "pair"
        config.loss.self_blend = 1.0
        config.data.clip_frames = 1
        config.model.temporal = "none"
        config.batch_size = 48
        config.augment.flip = 0.0
        config.seed = seed
    dataset.prepare(config, Terminal(quiet=True))
    return config, dataset.open_dataset(config)


def reals_of(builder, split: str, config):
    """The real videos of a split and a reader of their frames."""
    videos = read_videos(Path(builder.data_dir), split)
    records = [i for i, v in enumerate(videos) if not v.label and v.num_valid]
    reader = FrameReader(
        builder,
        split,
        image_size=config.dataset.image_size,
        memory=MemoryBudget(512 << 20),
        records=records,
    )
    return [videos[i] for i in records], reader


def train(config, builder, *, num_steps: int, untreated: bool):
    """Model and variables after training on reals and their blends."""
    videos, reader = reals_of(builder, "train", config)
    order = TrainOrder(
        videos,
        seed=config.seed,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        sampling="pair",
        self_blend=1.0,
    )
    side, count = config.dataset.image_size, config.data.clip_frames
    feed = train_feed(
        order,
        reader,
        videos,
        config.data,
        shape=(config.batch_size, count, side),
        rows=slice(0, config.batch_size),
        start_step=0,
        num_steps=num_steps,
    )
    step_settings = steps.make_step_settings(config, num_steps=num_steps)

    def treat(batch, step):
        """Blends alone made beforehand, so that the step passes reals by."""
        made = selfblend.self_blend(
            batch.frames / 255.0,
            batch.blend,
            batch.face,
            key=jax.random.fold_in(jax.random.key(config.seed), step),
            index_B=batch.index,
            stored=step_settings.stored,
        )
        blend = batch.blend[:, None, None, None, None]
        levels = jnp.round(255 * made).astype(jnp.uint8)
        return batch._replace(frames=jnp.where(blend, levels, batch.frames))

    step_recipe = (
        step_settings._replace(self_blend=False) if untreated else step_settings
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, batch):
        if untreated:
            batch = treat(batch, state.step)
        return steps.train_step(step_recipe, state, batch)

    shape = (count, side, side, 3)
    state = jax.jit(functools.partial(steps.create_train_state, step_settings, shape))()
    seen = []
    for batch in feed:
        state, numbers = update(state, batch)
        seen.append(numbers.accuracy)
    print(f"training accuracy, last 100 steps: {np.mean(seen[-100:]):.3f}")
    return step_settings, {"params": state.params, "batch_stats": state.batch_stats}


def ways(step_settings, face_BT52):
    """What is done to clips of unseen people before they are scored, by name."""
    stored = step_settings.stored

    def pass_as(blend: bool):
        return lambda frames, key: selfblend.self_blend(
            frames,
            jnp.full(len(frames), blend),
            face_BT52,
            key=key,
            index_B=jnp.arange(len(frames)),
            stored=stored,
        )

    def regrade(frames, key):
        def one(clip, key):
            planes = selfblend.change_statistics(pixels.to_planes(clip), key)
            halved = stored.subsampling != "444"
            return pixels.to_frames(
                pixels.jpeg(planes, stored.quality, subsample=halved)
            )

        return jax.vmap(one)(frames, jax.random.split(key, len(frames)))

    return {
        STORED: lambda frames, key: frames,
        REGRADED: regrade,
        BLENDS: pass_as(True),
    }


def score(
    step_settings, variables, config, builder, split: str
) -> dict[str, np.ndarray]:
    """The scores of a split's real clips after each way, DRAWS of each."""
    videos, reader = reals_of(builder, split, config)
    clips = covering_clips(
        videos,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=PER_VIDEO,
    )
    batch = empty_batch(len(clips), config.data.clip_frames, config.dataset.image_size)
    for row, clip in enumerate(clips):
        batch.length[row] = reader.read(
            clip, videos[clip.video].num_valid, batch.frames[row]
        )
        video = videos[clip.video]
        frames, _ = frames_of(clip, video.num_valid, config.data.clip_frames)
        batch.face[row] = smooth_points(video)[frames]
    scores = {}
    for name, way in ways(step_settings, jnp.asarray(batch.face)).items():

        @jax.jit
        def logits(frames, key, way=way):
            changed = jnp.round(255 * way(frames / 255.0, key)).astype(jnp.uint8)
            length = jnp.asarray(batch.length)
            return steps.clip_logits(step_settings.model, variables, (changed, length))

        drawn = [
            logits(jnp.asarray(batch.frames), jax.random.key(1000 + draw))
            for draw in range(DRAWS)
        ]
        scores[name] = metrics.sigmoid(np.concatenate(drawn))
    return scores


def area(reals: np.ndarray, others: np.ndarray) -> float:
    """AUC of others against reals."""
    labels = np.repeat([0, 1], [len(reals), len(others)])
    found = metrics.auc(labels, np.concatenate([reals, others]))
    assert found is not None  # both classes are there
    return found


def measure(out: Path, *, seed: int, num_steps: int, untreated: bool) -> dict:
    """A row for each way: AUC against stored reals, shares above both thresholds."""
    config, builder = demo(out, seed)
    step_settings, variables = train(
        config, builder, num_steps=num_steps, untreated=untreated
    )
    val = score(step_settings, variables, config, builder, "val")
    test = score(step_settings, variables, config, builder, "test")
    labels = np.repeat([0, 1], [len(val[STORED]), len(val[BLENDS])])
    scores = np.concatenate([val[STORED], val[BLENDS]])
    thresholds = (
        calibration.pick_threshold(labels, scores),
        np.quantile(val[STORED], 1 - FALSE_ALARMS),
    )
    return {
        name: (
            area(test[STORED], scores),
            *(float(np.mean(scores > threshold)) for threshold in thresholds),
        )
        for name, scores in test.items()
    }


def main() -> None:
    """Trains and scores with each seed, and prints a table of means and ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/selfblend"))
    parser.add_argument("--num_steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--untreated", action="store_true", help="reals as stored")
    table.add_option(parser)
    args = parser.parse_args()
    with table.results(parser, args, "untreated" if args.untreated else "") as results:
        measure_all(args, results)


def measure_all(args: argparse.Namespace, results: table.Results) -> None:
    """A row for each kind of frames, over all seeds."""
    start, runs = time.process_time(), []
    for seed in range(args.seeds):
        runs.append(
            measure(
                args.out,
                seed=seed,
                num_steps=args.num_steps,
                untreated=args.untreated,
            )
        )
        print(f"seed {seed}: {runs[-1]}", flush=True)
    results.say(f"{args.num_steps} steps, mean of {args.seeds} seeds (least to most)")
    results.heads(
        "frames of unseen people", "AUC", "above val's threshold", "above val's 5 %"
    )
    for name in runs[0]:
        cells = []
        for values, form in zip(
            np.array([run[name] for run in runs]).T, (".3f", ".0%", ".0%"), strict=True
        ):
            ends = f"{min(values):{form}} to {max(values):{form}}"
            cells.append(f"{np.mean(values):{form}} ({ends})")
        results.row(name, *cells)
    results.say()
    results.say(
        f"The last column's threshold is the one above which {FALSE_ALARMS:.0%} of "
        "val's reals as stored lie. Shares of re-graded reals are to be read beside "
        "those of test's reals as stored, in the row above."
    )
    results.say(f"{time.process_time() - start:.0f} processor seconds")


if __name__ == "__main__":
    main()
