"""The whole path on made videos, for a laptop: about four minutes on two cores.

python -m fakedetect_jax.main --config configs/demo.py
Expected: video AUC of at least 0.95 on the test split's unseen identities.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """configs/ffpp.py with made data, small faces and a small ResNet."""
    base = runpy.run_path(str(Path(__file__).with_name("ffpp.py")))
    config = base["get_config"]()
    with config.unlocked():
        config.dataset.update(name="demo", image_size=64)
        config.synthetic.update(num_identities=64)
        config.data.update(
            data_dir="runs/demo-data/tfds",
            manual_dir="runs/demo-data/videos",
            sampling="class",
            train_clips_per_video=4,
            cache_mib=512,
        )
        config.model.update(
            backbone="resnet",
            stage_sizes=(1, 1, 1),
            width=16,
            stem="small",
            lstm_features=64,
            dtype="float32",
        )
        config.augment.update(flip=0.5)
        config.num_epochs = 10
        config.optimizer.update(schedule="cosine", warmup_steps=20)
    return config.lock()
