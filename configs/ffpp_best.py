"""The recipe that generalised best in docs/recipe.md, at the size of configs/ffpp.py.

python -m fakedetect_jax.main --config configs/ffpp_best.py --workdir runs/best \
    --config.data.manual_dir=/path/to/FaceForensics++ \
    --config.init_from=/path/to/resnet50.safetensors
What it changes was measured on made videos with a small network; on real ones, with
ImageNet weights, nothing of it has been measured yet.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(compression: str = "c23") -> ConfigDict:
    """configs/ffpp.py with the choices that helped; `compression` as there."""
    base = runpy.run_path(str(Path(__file__).with_name("ffpp.py")))
    config = base["get_config"](compression)
    with config.unlocked():
        config.data.update(sampling="pair", max_frame_stride=3)
        config.model.update(pooling="mean")
        config.augment.update(
            flip=0.5,
            crop=0.5,
            blur=0.2,
            downscale=0.2,
            brightness_contrast=0.5,
            hue_saturation=0.5,
            gamma=0.2,
            noise=0.2,
            jpeg=0.5,
            frame_drop=0.1,
            cutout=0.2,
        )
        config.loss.update(self_blend=0.25, frame_weight=0.2, label_smoothing=0.05)
        config.optimizer.update(
            learning_rate=2e-4,
            schedule="cosine",
            warmup_steps=500,
            weight_decay=1e-4,
            clip_norm=1.0,
            ema_decay=0.999,
        )
    return config.lock()
