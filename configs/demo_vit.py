"""The demo with a small vision transformer from random weights in the ResNet's place.

python -m fakedetect_jax.main --config configs/demo_vit.py --workdir runs/demo-vit
The same made videos and LSTM as configs/demo.py. A step takes about 0.12 s of one core;
how near it comes to the demo's AUC was not measured yet.
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(look: str = "indoor") -> ConfigDict:
    """configs/demo.py, of any of its looks, with 64 patches of 8 pixels in 4 blocks."""
    config = settings.load(f"demo:{look}")
    with config.unlocked():
        config.model.update(
            backbone="vit",
            width=96,
            patch_size=8,
            depth=4,
            num_heads=3,
            stage_sizes=(),
            stem="imagenet",
        )
        config.num_epochs = 16
        config.optimizer.update(learning_rate=1e-3, warmup_steps=100, weight_decay=0.05)
        # It looks at its own made test, as the demo does.
        config.eval.final_split = "test"
    return config.lock()
