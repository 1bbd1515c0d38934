"""The original recipe: configs/ffpp.py on whole frames and repeated videos.

python -m fakedetect_jax.main --config configs/ffpp_original.py \
    --workdir runs/original --config.data.manual_dir=/path/to/FaceForensics++
1500 videos per class with reals repeated, 200 of them held out, which are val and test
at once. Its numbers compare with that recipe's alone (docs/data.md).
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(compression: str = "c23") -> ConfigDict:
    """configs/ffpp.py with the original's data; `compression` as there."""
    config = settings.load(f"ffpp:{compression}")
    with config.unlocked():
        name = "repeated" if compression == "c23" else f"repeated_{compression}"
        config.dataset.update(name=name, crop="full", protocol="repeated")
        config.eval.final_split = "test"  # it tests at the end, on its validation set
    return config.lock()
