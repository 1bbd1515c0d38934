"""configs/demo.py with a second head that learns from masks where fakes are forged.

python -m fakedetect_jax.main --config configs/demo_masks.py
Expected: what configs/demo.py expects, and heat maps that lie on the forged part more
often than the middle of the crop does (docs/shortcuts.md).
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config() -> ConfigDict:
    """configs/demo.py with masks."""
    config = settings.load("demo")
    with config.unlocked():
        config.dataset.update(name="demo_masks", masks=True)
        config.model.patches = True
        config.loss.mask_weight = 0.5
        config.eval.final_split = "test"  # as in the demo
    return config.lock()
