"""configs/ffpp.py with what published work found to help on unseen forgeries.

python -m fakedetect_jax.main --config configs/ffpp_best.py --workdir runs/best \
    --config.data.manual_dir=/path/to/FaceForensics++ \
    --config.init_from=/path/to/resnet50.safetensors
Half of the clips are real, a quarter stored fakes, a quarter self-blended reals
(Shiohara & Yamasaki 2022); the mean of the LSTM's states, a decaying learning rate, and
what videos meet on their way: JPEG, colour, blur and down-scaling. Without init_from it
trains from random weights and warns. What its parts bring on FF++ is not measured; on
small made data none stood out (docs/recipe.md).
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(compression: str = "c23") -> ConfigDict:
    """configs/ffpp.py with these choices; `compression` as there."""
    config = settings.load(f"ffpp:{compression}")
    with config.unlocked():
        config.data.update(sampling="class")
        config.model.update(pooling="mean")
        config.augment.update(
            flip=0.5,
            blur=0.2,
            downscale=0.2,
            brightness_contrast=0.3,
            hue_saturation=0.3,
            jpeg=0.5,
        )
        config.loss.update(self_blend=0.5)
        config.optimizer.update(learning_rate=2e-4, schedule="cosine", warmup_steps=500)
    return config.lock()
