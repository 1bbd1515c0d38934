"""CLIP ViT-L/14 of which the LayerNorms are trained: the recipe of GenD.

python -m fakedetect_jax.main --config configs/ffpp_clip.py --workdir runs/clip \
    --config.data.manual_dir=/path/to/FaceForensics++ \
    --config.init_from=/path/to/clip-vit-large-patch14/model.safetensors
Then, on sets that it never saw: --mode eval --config.eval.dataset=celebdf_v2_32
(docs/tutorials/vit.md). Yermakov et al., "Deepfake Detection that Generalizes Across
Benchmarks" (WACV 2026, arXiv 2508.06248): single frames, features on the unit sphere
with alignment (0.1) and uniformity (0.5), each fake beside its original, 32 frames of a
video, AdamW at 3e-4 falling to nothing in ten epochs; these are the values of the
authors' code. Expected, trained on c23: video AUC 0.960 on Celeb-DF v2, 0.970 on DFD,
0.871 on DFDC, 0.945 on FFIW, as lists of published results quote the paper, whose own
tables were not at hand. What differs here: 128 frames a batch where the authors' code
has 512, one cycle of the rate where it has up to three, no rotation, and the checkpoint
is chosen on FaceForensics++, by video AUC where the authors take the mean precision.

0.03 % of 303 million parameters are trained: 1,213 MB of weights and 0.8 MB of Adam's
state instead of 2,425, and 0.33 TFLOP a frame instead of 0.49 (python -m
benchmarks.trainable). In bfloat16 a frame keeps about 0.13 GB for the way back, as
estimated from the layers: a batch of 128 fits 24 GB, with model.remat far less. At 40 %
of an H100's peak it would train 1,200 frames a second; no GPU was at hand to measure.
With --config.checkpoint.delta=True checkpoints leave the frozen weights out.
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings


def get_config(compression: str = "c23") -> ConfigDict:
    """configs/ffpp.py with these choices; `compression` as there."""
    config = settings.load(f"ffpp:{compression}")
    with config.unlocked():
        name = "frames32" if compression == "c23" else f"frames32_{compression}"
        config.dataset.update(name=name, num_frames=32)
        config.data.update(
            sampling="pair",
            clip_frames=1,
            train_clips_per_video=32,
            eval_clips_per_video=32,
        )
        config.model.update(backbone="clip_l14", temporal="none", unit_features=True)
        config.trainable = "norms"
        config.augment.update(
            flip=0.5,
            crop=1.0,
            crop_scale=0.1,
            crop_shift=0.1,
            blur=0.1,
            brightness_contrast=1.0,
            brightness=0.1,
            contrast=0.1,
            jpeg=1.0,
        )
        config.batch_size, config.eval.batch_size = 128, 128
        config.num_epochs = 10
        config.optimizer.update(learning_rate=3e-4, schedule="cosine")
        config.loss.update(alignment=0.1, uniformity=0.5)
    return config.lock()
