"""The detector: a backbone on every frame, an LSTM over time, one logit per clip.

Shape letters: B clips, T frames, N = B*T images, H W pixels, D features of a frame, F
hidden units of what sees the frames together.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.backbones import convnext
from fakedetect_jax.model.backbones.convnext import CONVNEXTS, ConvNeXt
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS, EfficientNet
from fakedetect_jax.model.backbones.resnet import BACKBONES, EXPANSION, STEMS, ResNet
from fakedetect_jax.model.backbones.vit import EMBEDDINGS, STYLES, VITS, Size, ViT
from fakedetect_jax.model.temporal import (
    POOLINGS,
    TEMPORALS,
    FrameHidden,
    TemporalLSTM,
    TemporalPool,
    TemporalTransformer,
)


def count_parameters(params: Any) -> int:
    """How many numbers are trained or stored as parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


Tree = dict[str, Any]  # names to leaves, or to such as it
# What flax keeps of a model: "params" and "batch_stats", each a tree of arrays.
Variables = Tree
DTYPES = ("float32", "bfloat16")
# What makes a backbone of one's own: of a name alone these must be left as they are.
OWN_RESNET = {"stage_sizes": (), "width": 64, "stem": "imagenet", "block": "basic"}
OWN_CONVNEXT = {"stage_sizes": (), "width": 64}
OWN_VIT = {
    "vit_style": "plain",
    "width": 64,
    "patch_size": 16,
    "depth": 12,
    "num_heads": 4,
    "registers": 0,
    "embedding": "linear",
}


class FakeDetector(nn.Module):
    """Frames of a clip -> the logit that the clip is fake.

    Parameters: {"backbone": ResNet, EfficientNet, ConvNeXt or ViT, "pool": attention
    weights where frames are pooled by attention, "head": Dense} and, by `temporal`,
    "lstm": TemporalLSTM, "hidden": FrameHidden (mean, attention) or "encoder":
    TemporalTransformer. All fields are plain values, so that
    `FakeDetector(**config.model)` builds the model of a config. A backbone of "resnet"
    is made of the fields of OWN_RESNET, and "convnext" and "vit" likewise.
    With `temporal` "none" the logit is the mean of the frames' own logits.
    `patches` adds a second head, "patch": Dense, which says of each place whether it
    is forged, and nothing of the clip.
    With `unit_features` what a frame's features say is their direction alone.
    In training BatchNorm's statistics are of each of `norm_groups` runs of clips.
    Without `cpu_kernels` a CPU computes a ResNet as GPUs and TPUs always do, by the
    compiler's own operations.

    A backbone is a module with `__call__(images, train)` -> its last maps [N,…,D],
    `pool(maps)` -> features float32[…,D], and `places(values)`, which makes a picture
    [...,h,w] of one value for each of the maps' places. Maps [N,h,w,D] are pooled by
    their mean, which explain.py takes for granted; any other kind returns [N,L,D].

    Raises ConfigError at the first use when a field has no meaning.
    """

    backbone: str = "resnet50"
    stage_sizes: Sequence[int] = ()
    width: int = 64
    stem: str = "imagenet"
    block: str = "basic"
    lstm_features: int = 256
    bidirectional: bool = False
    pooling: str = "last"
    dropout: float = 0.0
    temporal: str = "lstm"
    patches: bool = False
    freeze_stages: int = 0
    remat: bool = False
    dtype: str = "bfloat16"
    cpu_kernels: bool = True
    norm_groups: int = 1
    vit_style: str = "plain"
    patch_size: int = 16
    depth: int = 12
    num_heads: int = 4
    registers: int = 0
    embedding: str = "linear"
    unit_features: bool = False

    def setup(self) -> None:
        """Builds the submodules."""
        check_fields(self)
        dtype = jnp.dtype(self.dtype)
        self.frames = _backbone(self, dtype)
        if self.temporal != "none":
            self.states = _temporal(self, dtype)
            self.pool = TemporalPool(pooling_of(self))
        self.drop = nn.Dropout(self.dropout)
        self.head = nn.Dense(1)  # float32 throughout
        if self.patches:
            self.patch = nn.Dense(1)

    def __call__(
        self, frames_BTHWC: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Logits float32[B] of normalised clips; only the first `length` frames count.

        A length of 0 counts as 1. With `train`, BatchNorm uses and updates the batch's
        statistics (collection "batch_stats") and dropout needs the rng "dropout".
        """
        maps = self.backbone_features(frames_BTHWC, train=train)
        if self.patches and self.is_initializing():
            self.patch_logits(maps)
        return self.head_from_features(maps, length_B, train=train)

    def patch_logits(self, maps: jax.Array) -> jax.Array:
        """Logits that places are forged, float32[B,T,h,w], of the backbone's maps."""
        return self.places(self.patch(maps.astype(jnp.float32))[..., 0])

    def logits_and_features(
        self, frames_BTHWC: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As __call__, and what a guard knows clips by: float32[B,D].

        It is the mean over a clip's frames of what the backbone says of each.
        """
        features_BTD = self.frame_features(self.backbone_features(frames_BTHWC))
        length_B = _clamp(length_B)
        valid_BT = jnp.arange(features_BTD.shape[1]) < length_B[:, None]
        total_BD = jnp.where(valid_BT[..., None], features_BTD, 0).sum(axis=1)
        logits_B = self._clip_logits(features_BTD, length_B, train=False)
        return logits_B, total_BD / length_B[:, None]

    def training_outputs(
        self,
        frames_BTHWC: jax.Array,
        length_B: jax.Array,
        *,
        train: bool = False,
        running: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """All that a loss may ask for, in one pass.

        As __call__, or frame_logits with `running`; the features of every frame,
        float32[B,T,D]; and patch_logits, None without `patches`.
        """
        maps = self.backbone_features(frames_BTHWC, train=train)
        features_BTD = self.frame_features(maps)
        if running:
            logits = self.running_logits(features_BTD, length_B, train=train)
        else:
            logits = self._clip_logits(features_BTD, _clamp(length_B), train=train)
        return logits, features_BTD, self.patch_logits(maps) if self.patches else None

    def frame_logits(
        self, frames_BTHWC: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Running logits float32[B,T]: the logit if the clip ended with that frame.

        The entry at `length - 1` is the clip's logit; those after it repeat it.
        """
        maps = self.backbone_features(frames_BTHWC, train=train)
        return self.running_logits(self.frame_features(maps), length_B, train=train)

    def running_logits(
        self, features_BTD: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """frame_logits of the frames' features."""
        num_clips, num_frames, _ = features_BTD.shape
        prefix_BT = jnp.minimum(
            jnp.arange(1, num_frames + 1), _clamp(length_B)[:, None]
        )
        # What sees frames together is under one part in a hundred of the backbone:
        # running it over every prefix costs little and serves each kind of it.
        repeated = jnp.repeat(features_BTD, num_frames, axis=0)
        logits = self._clip_logits(repeated, prefix_BT.reshape(-1), train=train)
        return logits.reshape(num_clips, num_frames)

    def backbone_features(
        self, frames_BTHWC: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """The backbone's last maps of every frame, [B,T,…,D]; a ResNet's: h, w."""
        num_clips, num_frames = frames_BTHWC.shape[:2]
        images_NHWC = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:])
        maps = self.frames(images_NHWC, train)
        return maps.reshape(num_clips, num_frames, *maps.shape[1:])

    def frame_features(self, maps: jax.Array) -> jax.Array:
        """What the maps of every frame say of it, float32[B,T,D]."""
        features = self.frames.pool(maps)
        if not self.unit_features:
            return features
        square = jnp.sum(features**2, axis=-1, keepdims=True)
        return features * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

    def places(self, values: jax.Array) -> jax.Array:
        """One value for each place of the maps, as a picture [...,h,w]."""
        return self.frames.places(values)

    def head_from_features(
        self, maps: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Logits float32[B] from the maps (differentiable, for Grad-CAM)."""
        features_BTD = self.frame_features(maps)
        return self._clip_logits(features_BTD, _clamp(length_B), train=train)

    def _clip_logits(
        self, features_BTD: jax.Array, length_B: jax.Array, *, train: bool
    ) -> jax.Array:
        if self.temporal != "none":
            pooled_BF = self.pool(self.states(features_BTD, length_B), length_B)
            pooled_BF = self.drop(pooled_BF, deterministic=not train)
            return self.head(pooled_BF)[:, 0]
        dropped_BTD = self.drop(features_BTD, deterministic=not train)
        logits_BT = self.head(dropped_BTD)[..., 0]
        valid_BT = jnp.arange(logits_BT.shape[1]) < length_B[:, None]
        return jnp.where(valid_BT, logits_BT, 0).sum(axis=1) / length_B


def _clamp(length_B: jax.Array) -> jax.Array:
    """Lengths of at least one frame: a clip of padding only has length 0."""
    return jnp.maximum(jnp.asarray(length_B), 1)


def size_of(model: FakeDetector) -> Size | None:
    """The size of a detector's vision transformer; None where it has a ResNet."""
    if model.backbone == "vit":
        return Size(
            model.vit_style,
            model.width,
            model.depth,
            model.num_heads,
            model.patch_size,
            model.registers,
            embedding=model.embedding,
        )
    return VITS.get(model.backbone)


def resnet_of(model: FakeDetector) -> tuple[tuple[int, ...], str]:
    """Blocks per stage and kind of block of a detector's ResNet."""
    return BACKBONES.get(model.backbone, (tuple(model.stage_sizes), model.block))


def convnext_of(model: FakeDetector) -> convnext.Size | None:
    """The size of a detector's ConvNeXt; None where it has another backbone."""
    return convnext.size_of(model.backbone, model.stage_sizes, model.width)


def is_resnet(model: FakeDetector) -> bool:
    """Whether a detector has a ResNet."""
    return has_statistics(model) and model.backbone not in EFFICIENTNETS


def has_statistics(model: FakeDetector) -> bool:
    """Whether a detector's backbone has BatchNorm's running statistics, and stages that
    can be made constants."""
    return size_of(model) is None and convnext_of(model) is None


def num_stages(model: FakeDetector) -> int:
    """The stages of a detector's backbone, or the blocks of its transformer."""
    size, stages = size_of(model), convnext_of(model)
    if stages:
        return len(stages.depths)
    if model.backbone in EFFICIENTNETS:
        return len(EFFICIENTNETS[model.backbone].stages)
    return size.depth if size else len(resnet_of(model)[0])


def _backbone(
    model: FakeDetector, dtype: Any
) -> ResNet | EfficientNet | ConvNeXt | ViT:
    size, stages = size_of(model), convnext_of(model)
    if size:
        return ViT(size, remat=model.remat, dtype=dtype, name="backbone")
    if stages:
        return ConvNeXt(stages, remat=model.remat, dtype=dtype, name="backbone")
    if model.backbone in EFFICIENTNETS:
        return EfficientNet(
            EFFICIENTNETS[model.backbone],
            freeze_stages=model.freeze_stages,
            remat=model.remat,
            dtype=dtype,
            cpu_kernels=model.cpu_kernels,
            name="backbone",
        )
    sizes, block = resnet_of(model)
    return ResNet(
        stage_sizes=tuple(sizes),
        block=block,
        width=model.width,
        stem=model.stem,
        freeze_stages=model.freeze_stages,
        remat=model.remat,
        dtype=dtype,
        cpu_kernels=model.cpu_kernels,
        norm_groups=model.norm_groups,
        name="backbone",
    )


def pooling_of(model: FakeDetector) -> str:
    """How the states of a detector's frames become one."""
    by_itself = model.temporal in ("mean", "attention")
    return model.temporal if by_itself else model.pooling


def _temporal(model: FakeDetector, dtype: Any) -> nn.Module:
    """What sees the frames of a clip together."""
    width = model.lstm_features
    if model.temporal == "lstm":
        return TemporalLSTM(width, model.bidirectional, dtype, name="lstm")
    if model.temporal == "transformer":
        return TemporalTransformer(width, dtype, name="encoder")
    return FrameHidden(width, dtype, name="hidden")


def check_fields(model: FakeDetector) -> None:
    """Raises ConfigError for a field without meaning."""
    choices = (
        ("temporal", TEMPORALS),
        (
            "backbone",
            (*BACKBONES, *EFFICIENTNETS, *CONVNEXTS, *VITS)
            + ("resnet", "convnext", "vit"),
        ),
        ("stem", tuple(STEMS)),
        ("block", tuple(EXPANSION)),
        ("vit_style", tuple(STYLES)),
        ("embedding", EMBEDDINGS),
        ("pooling", POOLINGS),
        ("dtype", DTYPES),
    )
    for field, allowed in choices:
        value = getattr(model, field)
        if value not in allowed:
            raise ConfigError(
                f"config.model.{field} is {value!r}; use one of {', '.join(allowed)}"
            )
    _check_own(model)
    size = size_of(model)
    if size:
        _check_transformer(model, size)
    elif model.backbone in ("resnet", "convnext") and not model.stage_sizes:
        raise ConfigError(
            f"config.model.backbone is {model.backbone!r} without blocks; set "
            "config.model.stage_sizes to the blocks per stage, for example (2, 2, 2)"
        )
    elif convnext_of(model) and model.freeze_stages:
        raise ConfigError(
            f"config.model.freeze_stages is {model.freeze_stages}, which is for "
            f"ResNets and EfficientNets; for {model.backbone} set config.trainable"
        )
    elif not 0 <= model.freeze_stages <= num_stages(model):
        raise ConfigError(
            f"config.model.freeze_stages is {model.freeze_stages}; "
            f"{model.backbone} has {num_stages(model)} stages"
        )
    if model.unit_features and has_statistics(model):
        raise ConfigError(
            "config.model.unit_features needs a transformer or a ConvNeXt; "
            f"{model.backbone} is one of neither"
        )
    if model.norm_groups != 1 and not is_resnet(model):
        raise ConfigError(
            f"config.model.norm_groups is {model.norm_groups}, which only "
            f"ResNets take, and not {model.backbone}: leave it 1"
        )
    if not 0 <= model.dropout < 1:
        raise ConfigError(
            f"config.model.dropout is {model.dropout}; it must be in [0, 1)"
        )
    positive = (model.width, model.lstm_features, *model.stage_sizes)
    if any(value < 1 for value in positive):
        raise ConfigError(
            "config.model.width, lstm_features and stage_sizes must be at least 1"
        )


def _check_own(model: FakeDetector) -> None:
    """Raises ConfigError where a field is set that the backbone does not look at."""
    kinds = {"resnet": OWN_RESNET, "convnext": OWN_CONVNEXT, "vit": OWN_VIT}
    for field, default in (OWN_RESNET | OWN_VIT).items():
        value = getattr(model, field)
        value = tuple(value) if isinstance(default, tuple) else value
        if field not in kinds.get(model.backbone, {}) and value != default:
            free = [repr(kind) for kind, own in kinds.items() if field in own]
            raise ConfigError(
                f"config.model.{field} is {value!r}, but the backbone "
                f"{model.backbone!r} fixes it; leave it {default!r}, or set backbone "
                f"to {' or '.join(free)} to choose"
            )


def _check_transformer(model: FakeDetector, size: Size) -> None:
    if model.freeze_stages:
        raise ConfigError(
            f"config.model.freeze_stages is {model.freeze_stages}, but "
            f"{model.backbone} has no stages; set config.trainable instead"
        )
    rotary = STYLES[size.style].positions == "rotary"
    unit = size.heads * (4 if rotary else 1)
    if size.width % unit:
        raise ConfigError(
            f"config.model.width {size.width} does not divide by {unit}: num_heads "
            f"{size.heads}{', and four for rotary positions' if rotary else ''}"
        )
    halved = size.patch >= 4 and not size.patch & (size.patch - 1)
    if size.embedding == "convolutions" and not (halved and min(size.stem)):
        raise ConfigError(
            f"config.model.embedding is 'convolutions', which halve the side: "
            f"patch_size {size.patch} must be 4, 8, 16 or another power of two, and "
            f"width {size.width} at least as many as the halvings"
        )


def check_image_size(model: FakeDetector, image_size: int) -> None:
    """Raises ConfigError where such images cannot be cut into patches."""
    size, stages = size_of(model), convnext_of(model)
    if stages and image_size % stages.reach:
        near = max(round(image_size / stages.reach), 1) * stages.reach
        raise ConfigError(
            f"config.dataset.image_size {image_size} is no multiple of the "
            f"{stages.reach} pixels of a place of {model.backbone}; the nearest is "
            f"{near}"
        )
    if size and image_size % size.patch:
        near = max(round(image_size / size.patch), 1) * size.patch
        raise ConfigError(
            f"config.dataset.image_size {image_size} is no multiple of the "
            f"{size.patch} pixels of a patch of {model.backbone}; the nearest is {near}"
        )


def make_model(config) -> FakeDetector:
    """The detector of a config."""
    return FakeDetector(**config.model.to_dict())
