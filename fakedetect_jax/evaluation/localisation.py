"""The heat maps of fakes beside what is known to be forged in them."""

from typing import Any

import numpy as np

from fakedetect_jax.data.reader import Split
from fakedetect_jax.evaluation.scoring import covering_clips, run_clips, stoppable
from fakedetect_jax.metrics import located
from fakedetect_jax.metrics.located import Located
from fakedetect_jax.metrics.records import Video
from fakedetect_jax.model import network
from fakedetect_jax.programs import compiled
from fakedetect_jax.run.workdir import Run

MOST_CLIPS = 500  # one of each fake; an explanation costs twice a score
MASK_SIDE = 64  # pixels at which heat and mask are laid over each other, at most


def locate(run: Run, split: Split, variables: Any) -> list[Located]:
    """A row for each clip of a fake whose mask is known; the same on every host.

    variables: on the devices. Raises Interrupted when a host is asked to stop.
    """
    config, videos = run.config, split.videos
    clips = [
        clip
        for clip in covering_clips(videos, config, 1)
        if videos[clip.video].label == 1 and videos[clip.video].masked
    ]
    chosen = np.random.default_rng(0).permutation(len(clips))[:MOST_CLIPS]
    clips = [clips[i] for i in np.sort(chosen)]
    if not clips:
        return []
    step = compiled.compile_heat_step(network.make_model(config), run.mesh)
    total = -(-len(clips) // config.eval.batch_size)
    with run.terminal.progress(f"heat {split.name}", total) as bar:
        found = run_clips(
            step,
            variables,
            split,
            clips,
            config,
            mesh=run.mesh,
            between_batches=stoppable(run, bar),
        )
    side = min(config.dataset.image_size, MASK_SIDE)
    rows = []
    for clip, heat in zip(clips, np.concatenate(found), strict=False):
        video = videos[clip.video]
        masks = np.empty((config.data.clip_frames, side, side), np.uint8)
        split.reader.read_masks(clip, video.num_valid, masks)
        count = min(len(masks), -(-(video.num_valid - clip.start) // clip.stride))
        judged = located.judge(heat[:count], masks[:count])
        if judged is not None:
            rows.append(Located(Video.of(video), 0, *judged))
    return rows
