"""The demo with a small vision transformer from random weights in the ResNet's place.

python -m fakedetect_jax.main --config configs/demo_vit.py --workdir runs/demo-vit
The same made videos and LSTM as configs/demo.py. On two cores one run took 569 s,
videos not counted, for a test video AUC of 0.90: 1.00 for each forgery that single
frames show, 0.48, which is chance, for Flicker, which only their order shows.
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(look: str = "indoor") -> ConfigDict:
    """configs/demo.py, of any of its looks, with 64 patches of 8 pixels in 3 blocks."""
    config = settings.load(f"demo:{look}")
    with config.unlocked():
        config.model.update(
            backbone="vit",
            width=96,
            patch_size=8,
            embedding="convolutions",
            depth=3,
            num_heads=3,
            stage_sizes=(),
            stem="imagenet",
        )
        config.num_epochs = 13
        # The LSTM learns four times as fast as the transformer.
        config.optimizer.update(
            learning_rate=4e-3,
            backbone_multiplier=0.25,
            warmup_steps=100,
            weight_decay=0.05,
            clip_norm=1.0,
        )
        # It looks at its own made test, as the demo does.
        config.eval.final_split = "test"
    return config.lock()
