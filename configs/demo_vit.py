"""The demo with a small vision transformer from random weights in the ResNet's place.

python -m fakedetect_jax.main --config configs/demo_vit.py --workdir runs/demo-vit
The same made videos and LSTM as configs/demo.py. On two cores it took 599 s, videos not
counted, for a test video AUC of 0.84 (Flicker 0.49, which is chance), where the demo
took 230 s for 0.99: a transformer of this size learns these few faces by heart.
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
        config.num_epochs = 18
        config.optimizer.update(learning_rate=1e-3, warmup_steps=100, weight_decay=0.05)
        # It looks at its own made test, as the demo does.
        config.eval.final_split = "test"
    return config.lock()
