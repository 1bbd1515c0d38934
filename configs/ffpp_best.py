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
        config.data.update(sampling="class")
        config.model.update(pooling="mean")
        config.augment.update(flip=0.5)
        config.loss.update(self_blend=0.5)
        config.optimizer.update(learning_rate=2e-4, schedule="cosine", warmup_steps=500)
    return config.lock()
