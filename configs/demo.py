"""The whole path on made videos, for a laptop: within five minutes on two cores.

python -m fakedetect_jax.main --config configs/demo.py
Expected: video AUC of at least 0.93 on the test split's unseen identities.

configs/demo.py:street and configs/demo.py:webcam make other people in other light
before another camera, as a second dataset is (tfds_ffpp/synthetic/looks.py).
"""

from ml_collections import ConfigDict

from fakedetect_jax import settings

PEOPLE = {"street": 1, "webcam": 2}  # a look's seed: each has people of its own


def get_config(look: str = "indoor") -> ConfigDict:
    """configs/ffpp.py with made data, small faces and a small ResNet."""
    config = settings.load("ffpp")
    with config.unlocked():
        config.dataset.update(
            name="demo",
            image_size=64,
            # In Flicker only the order of the frames is wrong: it needs the LSTM.
            methods=(
                "Deepfakes",
                "Face2Face",
                "FaceSwap",
                "NeuralTextures",
                "Flicker",
            ),
        )
        config.synthetic.update(
            num_identities=64, difficulty=0.0, look=look, seed=PEOPLE.get(look, 0)
        )
        config.data.update(
            data_dir="runs/demo-data/tfds",
            manual_dir="runs/demo-data/videos",
            # What teaches a small network from scratch is the number of updates, so
            # clips are short and a fake is always beside its own original.
            clip_frames=6,
            frame_stride=1,
            sampling="pair",
            train_clips_per_video=8,
        )
        config.model.update(
            backbone="resnet",
            stage_sizes=(1, 1, 1),
            width=24,
            stem="small2",
            lstm_features=64,
            pooling="mean",
            dtype="float32",
        )
        config.augment.update(flip=0.5)
        config.batch_size = 12
        config.num_epochs = 8
        config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=40)
        config.eval.final_split = "test"  # it has one look at its own made test
        config.log_every_steps = 50
        if look in PEOPLE:
            config.dataset.name = f"demo_{look}"
            config.data.manual_dir = f"runs/demo-data/videos_{look}"
    return config.lock()
