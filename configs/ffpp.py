"""ResNet-50 + LSTM on FaceForensics++: every field there is, with its meaning.

python -m fakedetect_jax.main --config configs/ffpp.py --workdir runs/ffpp \
    --config.data.manual_dir=/path/to/FaceForensics++
Another compression level: --config configs/ffpp.py:c40 (or raw).

The hyperparameters are the original recipe's: clips of 10 out of 30 stored frames at
224x224, batches of 32 clips, 50 epochs, Adam at 1e-3, binary cross-entropy. Data are
face crops on the official split; with the original's whole frames and its 1500
repeated videos per class it is configs/ffpp_original.py. Test is scored when you ask:
--mode eval --split test.
"""

from ml_collections import ConfigDict


def get_config(compression: str = "c23") -> ConfigDict:
    """The base config; `compression` is raw, c23 or c40."""
    config = ConfigDict()
    config.seed = 0  # parameters, data order, augmentation and dropout follow from it
    _set_dataset(config, compression)
    _set_data(config)
    _set_model(config)
    _set_augmentation(config)
    _set_training(config)
    _set_evaluation(config)
    _set_machine(config)
    return config.lock()


def _set_dataset(config: ConfigDict, compression: str) -> None:
    # Which dataset: the arguments of tfds_ffpp's FfppConfig. A change is a new dataset.
    config.dataset = ConfigDict(
        {
            "name": compression,  # folder name of the built dataset
            "layout": "auto",  # how the raw tree is arranged; auto recognises it
            "map": "",  # folders of other names: "original=real,manipulated=fake"
            "compression": compression,  # raw | c23 | c40
            "methods": (),  # fakes; (): all but FaceShifter and DeepFakeDetection
            "allow_missing": False,  # go on without a method that was asked for
            "allow_one_class": False,  # go on where a split has no reals or no fakes
            "num_frames": 30,  # stored frames per video
            "frame_step": 0,  # source frames between stored ones; 0: spread evenly
            "image_size": 224,  # pixels, square
            "crop": "face",  # face (one box per video) | full (whole frame)
            "margin": 1.3,  # side of the crop in face-box sides
            # dlib | dlib_network (extra faces; slow, only where dlib finds nothing) |
            # yunet | none
            "face_finder": "dlib",
            "face_finder_model": "",  # yunet only: its .onnx file
            "landmarks": "none",  # none | dlib (extra faces): for self-blending's masks
            # none | similarity: one turn, shift and scale of a video puts the median of
            # the face's points at one place; with landmarks=dlib, or yunet
            "align": "none",
            "masks": False,  # also store where fakes are forged (METHOD/masks/videos)
            "jpeg_quality": 95,  # of the stored frames
            "jpeg_subsampling": "444",  # 444 | 422 | 420
            # official split | disjoint (by hash of people, or of groups of a CSV) |
            # folders (called train, val, test) | all_test (every video in test) |
            # repeated (1500 per class, drawn again)
            "protocol": "official",
            "repeated_videos_per_class": 1500,  # repeated protocol only
            "repeated_val_videos": 200,  # repeated protocol only
            "strict": False,  # leave out the train side of known source overlaps
            "max_rejected": 0.01,  # share of unusable videos above which a build fails
        }
    )

    # A made FF++-shaped tree, written to manual_dir when it is not there yet, with the
    # fakes of dataset.methods (() is FF++'s four).
    config.synthetic = ConfigDict(
        {
            "num_identities": 0,  # 0: nothing is made, manual_dir holds real videos
            "num_frames": 40,  # longest video
            "frame_size": 224,  # pixels, square
            "difficulty": 0.3,  # 0 plain traces .. 1 subtle ones
            "look": "indoor",  # or street, webcam: scene, light and camera
            "seed": 0,  # of people, scenes and forgeries
        }
    )


def _set_data(config: ConfigDict) -> None:
    # How clips are read from the dataset.
    config.data = ConfigDict(
        {
            "data_dir": "~/tensorflow_datasets",  # of built datasets; or gs://BUCKET/FOLDER
            "manual_dir": "",  # raw videos; if set, a missing dataset is built from it
            # Built datasets with their weights, as in "c23=2,celeb=1": shares of the
            # clips, each set sampled by itself. "": dataset.name alone.
            "train": "",
            "allow_leaks": False,  # go on where sets share people or footage
            "clip_frames": 10,  # frames per clip
            "frame_stride": 1,  # stored frames between two frames of a clip
            "max_frame_stride": 0,  # train: drawn from frame_stride to this; 0: off
            "hold_out": (),  # methods kept from train and val, to test generalisation
            # natural: as often as there are videos. Half real, half fake: class; method
            # (all methods alike); pair (each fake beside its original, at one time).
            "sampling": "natural",
            "train_clips_per_video": 1,  # clips of each video in one epoch
            "eval_clips_per_video": 3,  # clips spread over a video, each scored once
            "min_coverage": 0.3,  # share of a clip's frames that must show the face
            "num_workers": 0,  # decoding processes; 0: threads of this process
            "num_threads": 2,  # decoding threads (in each worker, if there are any)
            "prefetch_batches": 4,  # host batches ready ahead
            "device_prefetch": 2,  # batches put on the device ahead
            # MiB of memory for videos that were decoded once, per process; 0: none; -1:
            # for all of training and val where they fit in half of what is free.
            "cache_mib": -1,
            # Where training's frames are: host (decoded for each batch, or once as far
            # as cache_mib reaches) | device (decoded at the start, all of them in the
            # memory of each device; see docs/scale.md)
            "resident": "host",
        }
    )


def _set_model(config: ConfigDict) -> None:
    # The arguments of fakedetect_jax.model.network.FakeDetector.
    config.model = ConfigDict(
        {
            # resnet18|34|50|101|152, efficientnet_b0|b4, convnext_t|s|b|l, or resnet or
            # convnext: fields below. Vision transformers:
            # clip_b32|b16|l14, dinov2_s14|b14|l14 (and …_reg), dinov3_s16|b16|l16,
            # siglip2_b16|l16|so400m14, mae_b16|l16|h14, or vit: fields below
            "backbone": "resnet50",
            "stage_sizes": (),  # resnet, convnext only: blocks per stage
            "width": 64,  # channels of the first stage; vit: of a token
            "stem": "imagenet",  # resnet only: imagenet | small (3x3) | small2 (3x3/2)
            "block": "basic",  # resnet only: basic | bottleneck
            # What sees the frames together: lstm | transformer (two layers) | mean or
            # attention (over a hidden layer of each frame) | none (mean of the frames'
            # own logits)
            "temporal": "lstm",
            "lstm_features": 256,  # hidden units, of whatever sees the frames
            "bidirectional": False,  # lstm only: in both directions
            # over the states of an lstm or a transformer: last | mean | attention
            "pooling": "last",
            "dropout": 0.0,  # before the logit
            "patches": False,  # a second head says where; loss.mask_weight teaches it
            "freeze_stages": 0,  # leading backbone stages kept as initialised
            "remat": False,  # recompute blocks in the backward pass to save memory
            "dtype": "bfloat16",  # of the computation; parameters stay float32
            # Parts of a batch of which BatchNorm takes each by its own statistics. A
            # multiple of the devices: these don't wait for each other's.
            "norm_groups": 1,
            "cpu_kernels": True,  # CPUs only; False: the compiler's own, to compare
            "vit_style": "plain",  # vit only: plain | clip | dinov2 | dinov3 | siglip2
            "patch_size": 16,  # vit only: pixels, square; image_size is a multiple
            "depth": 12,  # vit only: blocks
            "num_heads": 4,  # vit only: of attention
            "registers": 0,  # vit only: tokens beside class token and patches
            # vit only: how patches become tokens: linear | convolutions, for training
            # from random weights on few faces
            "embedding": "linear",
            "unit_features": False,  # frames' features as directions, of length 1
        }
    )
    config.init_from = ""  # backbone weights: a .safetensors, see docs/weights.md
    # Of the backbone: all | head (nothing of it) | norms | lora (changes of low rank) |
    # svd (the least singular values and vectors; these two: transformers only) |
    # last_n (blocks or stages). What comes after it is trained.
    config.trainable = "all"
    config.adapter = ConfigDict(
        {
            "last_n": 1,  # last_n only: how many
            "rank": 8,  # lora and svd only
            "alpha": 16.0,  # lora only: changes count alpha / rank times
            # svd only: weight of what keeps singular vectors orthonormal.
            "orthogonality": 1.0,
            "size": 1.0,  # svd only: of the kernels' norms
        }
    )


def _set_augmentation(config: ConfigDict) -> None:
    # Augmentation on the device: all off here, see docs/augmentation.md.
    config.augment = ConfigDict(
        {
            "flip": 0.0,  # probability of left-right mirroring
            "crop": 0.0,  # probability of zooming and shifting the window
            "crop_scale": 0.1,  # zoom factor within 1 +- this
            "crop_shift": 0.05,  # shift within +- this, in sides
            "blur": 0.0,  # probability of Gaussian blur
            "blur_sigma": 1.5,  # pixels, from 0 up to this
            "downscale": 0.0,  # probability of shrinking and enlarging again
            "downscale_factor": 3.0,  # from 1 up to this
            "brightness_contrast": 0.0,  # probability
            "brightness": 0.15,  # added, within +- this
            "contrast": 0.2,  # factor within 1 +- this
            "hue_saturation": 0.0,  # probability
            "hue": 0.03,  # turns of the colour circle, within +- this
            "saturation": 0.3,  # factor within 1 +- this
            "gamma": 0.0,  # probability
            "gamma_octaves": 0.3,  # exponent 2**u, u within +- this
            "noise": 0.0,  # probability of noise, drawn anew for each frame
            "noise_sigma": 0.03,  # of full scale, from 0 up to this
            "jpeg": 0.0,  # probability of JPEG compression
            "jpeg_quality": 40,  # from this to 100
            "jpeg_subsampling": "420",  # chroma: 420 | 444
            "frame_drop": 0.0,  # probability of a clip losing frames
            "frame_drop_rate": 0.2,  # chance of each frame to repeat the one before
            "cutout": 0.0,  # probability of a grey rectangle
            "cutout_side": 0.4,  # its sides, in sides of the frame, up to this
        }
    )


def _set_training(config: ConfigDict) -> None:
    config.batch_size = 32  # clips per step over all devices and hosts
    # In how many parts a step computes its batch, one after the other, in the memory of
    # one: the original's 32 clips on a small GPU. Same objective, but BatchNorm's
    # statistics are of a part. 1: at once.
    config.accumulate = 1
    # Adam's moments split over the devices: two thirds of the state's memory less, for
    # one exchange of the parameters a step. Same numbers to rounding.
    config.shard_optimizer = False
    config.num_epochs = 50  # passes over the training videos
    config.num_steps = 0  # if > 0: train for so many steps instead of num_epochs

    config.optimizer = ConfigDict(
        {
            "kind": "adam",  # adam | sgd
            "momentum": 0.9,  # sgd only
            # > 0: the gradient is taken at the worst parameters so far away (SAM, Foret
            # et al. 2021); two gradients a step
            "sam_radius": 0.0,
            "learning_rate": 1e-3,  # peak of the schedule
            "schedule": "constant",  # constant | cosine (to 0 over the run)
            "warmup_steps": 0,  # linear from 0
            "b1": 0.9,  # Adam: decay of the mean of gradients
            "b2": 0.999,  # Adam: decay of the mean of their squares
            "eps": 1e-8,  # Adam: added to the root of that mean
            "weight_decay": 0.0,  # decoupled, on kernels only
            "clip_norm": 0.0,  # global gradient norm; 0: no clipping
            # learning rate of the backbone, relative; also of its lora and svd
            "backbone_multiplier": 1.0,
            "layer_decay": 1.0,  # of it, per stage or block further from the head
            "ema_decay": 0.0,  # of averaged weights, used in evaluation; 0: none
        }
    )
    config.loss = ConfigDict(
        {
            "label_smoothing": 0.0,  # labels drawn towards 0.5 by this share
            "frame_weight": 0.0,  # of an auxiliary loss on the per-frame logits
            "mask_weight": 0.0,  # of model.patches against dataset.masks
            # Share of the fake clips that are self-blended reals instead of stored
            # fakes; how many clips are fake stays data.sampling's choice. 1: all.
            "self_blend": 0.0,
            "alignment": 0.0,  # unit_features: of how far frames of a class lie apart
            "uniformity": 0.0,  # unit_features: of how unevenly all frames lie
        }
    )


def _set_evaluation(config: ConfigDict) -> None:
    config.eval = ConfigDict(
        {
            "every_epochs": 1,  # validation, then a checkpoint
            "batch_size": 32,  # clips
            "final_split": "val",  # reported on at the end, with the best checkpoint
            "unscored": "exclude",  # videos without a clip: exclude | as_real | as_fake
            # Of reals called fake, and of fakes called real; between: uncertain.
            "max_error": 0.05,
            # Datasets whose val chooses the checkpoint, by their mean video AUC, as in
            # "c23,celeb". "": those of data.train.
            "validation": "",
            "patience": 0,  # evaluations without a better one that end training; 0: off
            "dataset": "",  # --mode eval: another built dataset; docs/evaluation.md
        }
    )
    config.checkpoint = ConfigDict(
        {
            "every_steps": 0,  # extra checkpoints between evaluations; 0: none
            "keep_latest": 2,  # at least 2
            "keep_best": 1,  # by video AUC on val
            "delta": False,  # without the frozen weights, which init_from has
        }
    )


def _set_machine(config: ConfigDict) -> None:
    config.accelerator = "any"  # any | cpu | gpu | tpu: refuse to run on another
    config.deterministic = False  # GPUs: the same bits in each run, slower; not yet run
    config.compilation_cache = "~/.cache/fakedetect_jax"  # compiled programs; "": none
    config.tracker = ""  # also follow the run in trackio | wandb, if installed
    config.log_clips = 4  # of an epoch's first batch, as pictures in TensorBoard
    config.log_every_steps = 10  # progress line; metrics.jsonl holds every step
