"""configs/ffpp_clip.py trained on several datasets in equal shares.

python -m tfds_ffpp --manual_dir FFPP --data_dir DATA --config frames32 \
    --set num_frames=32
python -m tfds_ffpp --manual_dir DFDC --data_dir DATA --config dfdc_train \
    --set layout=dfdc --set protocol=disjoint --set num_frames=32
python -m fakedetect_jax.main --config configs/mixed.py --workdir runs/mixed \
    --config.data.data_dir=DATA --config.data.train=frames32,dfdc_train \
    --config.init_from=/path/to/clip-vit-large-patch14/model.safetensors
Then on sets that it never saw: --mode eval --config.eval.dataset=celebdf_v2_32
(docs/tutorials/vit.md). Each set is sampled in pairs of a fake and its original, or
another real video where that is not there; a set in which no original is known needs
--config.data.sampling=class. The checkpoint is chosen by the mean of the video AUC over
the val splits of the sets (docs/data.md). Training ends after three evaluations without
a better one.

No number is published for these very sets. Yermakov et al. (WACV 2026, arXiv
2508.06248) report that paired and varied training data help most on unseen sets.
Memory and frames a second are those of configs/ffpp_clip.py: the sets change only what
is read.
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(sets: str = "frames32,dfdc_train") -> ConfigDict:
    """configs/ffpp_clip.py with these choices; `sets` as config.data.train."""
    config = settings.load("ffpp_clip")
    with config.unlocked():
        config.data.update(train=sets)
        config.eval.patience = 3
    return config.lock()
