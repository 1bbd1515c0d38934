"""The detector: a ResNet on every frame, an LSTM over time, one logit per clip.

Shape letters: B clips, T frames, N = B*T images, H W pixels, C channels, D features
of a frame, F hidden units of the LSTM.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import recurrent

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.kernels import batch_norm, convolution, max_pool


def count_parameters(params: Any) -> int:
    """How many numbers are trained or stored as parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Blocks per stage and kind of block (He et al. 2015, table 1; the stride of a
# bottleneck sits in its 3x3 convolution, "v1.5", as in torchvision and timm).
BACKBONES: dict[str, tuple[tuple[int, ...], str]] = {
    "resnet18": ((2, 2, 2, 2), "basic"),
    "resnet34": ((3, 4, 6, 3), "basic"),
    "resnet50": ((3, 4, 6, 3), "bottleneck"),
    "resnet101": ((3, 4, 23, 3), "bottleneck"),
    "resnet152": ((3, 8, 36, 3), "bottleneck"),
}
# Kernel size and stride of the first convolution, and whether a max-pool follows.
STEMS: dict[str, tuple[int, int, bool]] = {
    "imagenet": (7, 2, True),
    "small": (3, 1, False),
    "small2": (3, 2, False),
}
# What flax keeps of a model: "params" and "batch_stats", each a tree of arrays.
Variables = dict[str, Any]
POOLINGS = ("last", "mean", "attention")
DTYPES = ("float32", "bfloat16")
EXPANSION = {"basic": 1, "bottleneck": 4}


class Conv(nn.Module):
    """A square convolution without bias, padded by half its size as torch does."""

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32
    cpu_kernels: bool = True

    @nn.compact
    def __call__(
        self, x_NHWC: jax.Array, affine: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        """[N,H,W,C] -> [N,ceil(H/stride),ceil(W/stride),features].

        The result is multiplied and shifted by `affine`, each [features], where given.
        """
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            (self.size, self.size, x_NHWC.shape[-1], self.features),
        )
        pad = (self.size // 2, self.size // 2)
        conv2d = functools.partial(
            convolution.conv2d if self.cpu_kernels else convolution.plain_conv2d,
            strides=(self.stride, self.stride),
            padding=(pad, pad),
        )
        x_NHWC = x_NHWC.astype(self.dtype)
        if affine is None:
            return conv2d(x_NHWC, kernel.astype(self.dtype))
        return convolution.scaled_conv2d(conv2d, x_NHWC, kernel, *affine)


class BatchNorm(nn.Module):
    """Batch normalisation with torch's constants, variables named as in flax.

    `zero_scale` starts a residual branch as zero (Goyal et al. 2017, section 5.1).
    """

    features: int
    zero_scale: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5

    def setup(self) -> None:
        """Declares the variables."""
        shape = (self.features,)
        initial = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        self.scale = self.param("scale", initial, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """[N,H,W,C] -> the same, in the same dtype, by the statistics of the batch.

        They are those of all devices, and update the running ones.
        """
        y, batch_mean, batch_variance = batch_norm.normalize_batch(
            x_NHWC, self.scale, self.bias, self.epsilon
        )
        if not self.is_initializing():
            for running, new in ((self.mean, batch_mean), (self.var, batch_variance)):
                kept = self.momentum * running.value
                running.value = kept + (1 - self.momentum) * new
        return y

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Slope and shift [C] that normalise by the running statistics."""
        slope = self.scale * jax.lax.rsqrt(self.var.value + self.epsilon)
        return slope, self.bias - self.mean.value * slope


def _normalised(conv: Conv, norm: BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """A convolution normalised by the batch's statistics, else by the running ones."""
    if train or norm.is_initializing():
        return norm(conv(x))
    return conv(x, norm.affine())


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 (`bottleneck`)."""

    features: int
    kind: str
    stride: int = 1
    dtype: Any = jnp.float32
    cpu_kernels: bool = True

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """[N,H,W,C] -> [N,H/stride,W/stride,features * EXPANSION[kind]]."""
        basic = self.kind == "basic"
        width = self.features * EXPANSION[self.kind]
        layers = (
            [(self.features, 3, self.stride), (width, 3, 1)]
            if basic
            else [(self.features, 1, 1), (self.features, 3, self.stride), (width, 1, 1)]
        )
        conv = functools.partial(Conv, dtype=self.dtype, cpu_kernels=self.cpu_kernels)
        y = x_NHWC
        for i, (features, size, stride) in enumerate(layers, start=1):
            last = i == len(layers)
            layer = conv(features, size, stride, name=f"conv{i}")
            norm = BatchNorm(features, zero_scale=last, name=f"bn{i}")
            y = _normalised(layer, norm, y, train)
            y = y if last else nn.relu(y)
        shortcut = x_NHWC
        if self.stride != 1 or x_NHWC.shape[-1] != width:
            project = conv(width, 1, self.stride, name="downsample_conv")
            norm = BatchNorm(width, name="downsample_bn")
            shortcut = _normalised(project, norm, x_NHWC, train)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """The convolutional part of a ResNet, without pooling and head.

    Submodules: conv1, bn1, and layer<stage>_<block> with conv<i>, bn<i>,
    downsample_conv and downsample_bn. The first `freeze_stages` stages and the stem
    are constants: no gradient, and running statistics in place of the batch's.
    """

    stage_sizes: Sequence[int]
    block: str = "bottleneck"
    width: int = 64
    stem: str = "imagenet"
    freeze_stages: int = 0
    remat: bool = False
    dtype: Any = jnp.float32
    cpu_kernels: bool = True

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """Normalised images [N,H,W,3] -> the last feature map [N,h,w,D]."""
        size, stride, pool = STEMS[self.stem]
        training = train and self.freeze_stages == 0
        own = {"dtype": self.dtype, "cpu_kernels": self.cpu_kernels}
        conv = Conv(self.width, size, stride, name="conv1", **own)
        norm = BatchNorm(self.width, name="bn1")
        x = nn.relu(_normalised(conv, norm, x_NHWC, training))
        if pool:
            x = max_pool.max_pool(x) if self.cpu_kernels else max_pool.plain_max_pool(x)
        block_class = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for stage, num_blocks in enumerate(self.stage_sizes, start=1):
            training = train and stage > self.freeze_stages
            for i in range(num_blocks):
                x = block_class(
                    self.width * 2 ** (stage - 1),
                    self.block,
                    2 if stage > 1 and i == 0 else 1,
                    name=f"layer{stage}_{i}",
                    **own,
                )(x, training)
            x = jax.lax.stop_gradient(x) if stage == self.freeze_stages else x
        return x


class HoistedLSTM(nn.Module):
    """nn.RNN of an nn.LSTMCell, with its variables, but fewer products in the loop.

    What the gates take from the frames is computed of all frames at once.
    """

    features: int
    reverse: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, length_B: jax.Array) -> jax.Array:
        """States [B,T,F] float32, in the order of the frames."""
        dense = functools.partial(nn.Dense, self.features, dtype=self.dtype)
        flip = functools.partial(
            recurrent.flip_sequences,
            seq_lengths=length_B,
            num_batch_dims=1,
            time_major=False,
        )

        def step(module: nn.Module, carry, from_frame):
            c, h = carry
            i, f, g, o = (
                x + dense(kernel_init=nn.initializers.orthogonal(), name=f"h{gate}")(h)
                for gate, x in zip("ifgo", from_frame, strict=True)
            )
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
            h = nn.sigmoid(o) * nn.tanh(c)
            return (c, h), h

        x_BTD = flip(x_BTD) if self.reverse else x_BTD
        from_frames = [dense(use_bias=False, name=f"i{gate}")(x_BTD) for gate in "ifgo"]
        zero_BF = jnp.zeros((x_BTD.shape[0], self.features))
        over_time = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, states_BTF = over_time(self, (zero_BF, zero_BF), from_frames)
        return flip(states_BTF) if self.reverse else states_BTF


def _apply_hoisted(lstm: HoistedLSTM, params, x_BTD, length_B) -> jax.Array:
    unbound = lstm.clone(parent=None, name=None)
    return unbound.apply({"params": params}, x_BTD, length_B)  # pyright: ignore[reportReturnType]


def _apply_plain(lstm: HoistedLSTM, params, x_BTD, length_B) -> jax.Array:
    cell = nn.LSTMCell(lstm.features, dtype=lstm.dtype, parent=None)
    rnn = nn.RNN(cell, reverse=lstm.reverse, keep_order=True, parent=None)
    return rnn.apply({"params": {"cell": params}}, x_BTD, seq_lengths=length_B)  # pyright: ignore[reportReturnType]


class TemporalLSTM(nn.Module):
    """LSTM states over the frames of a clip, in one or both directions.

    On a CPU, where a loop costs nothing, as flax computes it, so that runs go on with
    the bits that they began with.
    """

    features: int
    bidirectional: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, length_B: jax.Array) -> list[jax.Array]:
        """One [B,T,F] float32 array per direction, in the order of the frames."""
        states = []
        for name in ("forward", "backward")[: 1 + self.bidirectional]:
            reverse = name == "backward"
            lstm = HoistedLSTM(self.features, reverse, self.dtype, name=name)
            if self.is_initializing():
                states.append(lstm(x_BTD, length_B))
                continue
            ways = {"cpu": _apply_plain, "default": _apply_hoisted}
            chosen = {k: functools.partial(way, lstm) for k, way in ways.items()}
            arguments = lstm.variables["params"], x_BTD, length_B
            states.append(jax.lax.platform_dependent(*arguments, **chosen))
        return [jnp.float32(state) for state in states]


class TemporalPool(nn.Module):
    """From the states of the valid frames to one vector per clip."""

    pooling: str

    @nn.compact
    def __call__(self, states: list[jax.Array], length_B: jax.Array) -> jax.Array:
        """[B,T,F] per direction -> [B,F * directions]."""
        if self.pooling == "last":  # of each direction: the state that saw all frames
            ends = [length_B - 1, jnp.zeros_like(length_B)]
            picked = [
                jnp.take_along_axis(state, end[:, None, None], axis=1)[:, 0]
                for state, end in zip(states, ends, strict=False)
            ]
            return jnp.concatenate(picked, axis=-1)
        state_BTF = jnp.concatenate(states, axis=-1)
        score_BT = jnp.zeros(state_BTF.shape[:2], jnp.float32)
        if self.pooling == "attention":
            hidden = nn.tanh(nn.Dense(state_BTF.shape[-1], name="hidden")(state_BTF))
            score_BT = nn.Dense(1, use_bias=False, name="score")(hidden)[..., 0]
        valid_BT = jnp.arange(state_BTF.shape[1]) < length_B[:, None]
        weight_BT = nn.softmax(jnp.where(valid_BT, score_BT, -jnp.inf), axis=1)
        # A padding frame weighs nothing, whatever its state holds.
        state_BTF = jnp.where(valid_BT[..., None], state_BTF, 0)
        return jnp.einsum("bt,btf->bf", weight_BT, state_BTF)


class FakeDetector(nn.Module):
    """Frames of a clip -> the logit that the clip is fake.

    Parameters: {"backbone": ResNet, "lstm": TemporalLSTM, "pool": attention weights
    if pooling is "attention", "head": Dense}. All fields are plain values, so that
    `FakeDetector(**config.model)` builds the model of a config. A backbone of
    "resnet" is made of `stage_sizes`, `width`, `stem` and `block`. `frame_only` leaves
    the LSTM out: the logit is the mean of the frames' own logits. `patches` adds a
    second head, "patch": Dense, which says of each place whether it is forged, and
    nothing of the clip. Without `cpu_kernels`
    a CPU computes as GPUs and TPUs always do, by the compiler's own operations.

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
    frame_only: bool = False
    patches: bool = False
    freeze_stages: int = 0
    remat: bool = False
    dtype: str = "bfloat16"
    cpu_kernels: bool = True

    def setup(self) -> None:
        """Builds the submodules."""
        check_fields(self)
        dtype = jnp.dtype(self.dtype)
        sizes, block = BACKBONES.get(self.backbone, (self.stage_sizes, self.block))
        self.resnet = ResNet(
            stage_sizes=tuple(sizes),
            block=block,
            width=self.width,
            stem=self.stem,
            freeze_stages=self.freeze_stages,
            remat=self.remat,
            dtype=dtype,
            cpu_kernels=self.cpu_kernels,
            name="backbone",
        )
        if not self.frame_only:
            self.lstm = TemporalLSTM(self.lstm_features, self.bidirectional, dtype)
            self.pool = TemporalPool(self.pooling)
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

    def logits_and_patches(
        self,
        frames_BTHWC: jax.Array,
        length_B: jax.Array,
        *,
        train: bool = False,
        running: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """As __call__, or frame_logits with `running`, and as patch_logits."""
        maps = self.backbone_features(frames_BTHWC, train=train)
        head = self._running_logits if running else self.head_from_features
        return head(maps, length_B, train=train), self.patch_logits(maps)

    def patch_logits(self, maps_BTHWC: jax.Array) -> jax.Array:
        """float32[B,T,h,w], from feature maps: the logit that a place is forged."""
        return self.patch(maps_BTHWC.astype(jnp.float32))[..., 0]

    def logits_and_features(
        self, frames_BTHWC: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As __call__, and what a guard knows clips by: float32[B,D].

        It is the mean over a clip's frames of what the backbone says of each.
        """
        features_BTD = _pool_space(self.backbone_features(frames_BTHWC))
        length_B = _clamp(length_B)
        valid_BT = jnp.arange(features_BTD.shape[1]) < length_B[:, None]
        total_BD = jnp.where(valid_BT[..., None], features_BTD, 0).sum(axis=1)
        logits_B = self._clip_logits(features_BTD, length_B, train=False)
        return logits_B, total_BD / length_B[:, None]

    def frame_logits(
        self, frames_BTHWC: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Running logits float32[B,T]: the logit if the clip ended with that frame.

        The entry at `length - 1` is the clip's logit; those after it repeat it.
        """
        maps = self.backbone_features(frames_BTHWC, train=train)
        return self._running_logits(maps, length_B, train=train)

    def _running_logits(
        self, maps_BTHWC: jax.Array, length_B: jax.Array, *, train: bool
    ) -> jax.Array:
        features_BTD = _pool_space(maps_BTHWC)
        num_clips, num_frames, _ = features_BTD.shape
        prefix_BT = jnp.minimum(
            jnp.arange(1, num_frames + 1), _clamp(length_B)[:, None]
        )
        # The LSTM is under one part in a hundred of the backbone: running it over every
        # prefix costs little and serves all poolings and directions.
        repeated = jnp.repeat(features_BTD, num_frames, axis=0)
        logits = self._clip_logits(repeated, prefix_BT.reshape(-1), train=train)
        return logits.reshape(num_clips, num_frames)

    def backbone_features(
        self, frames_BTHWC: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """The last feature map [B,T,h,w,D] of every frame."""
        num_clips, num_frames = frames_BTHWC.shape[:2]
        images_NHWC = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:])
        maps_NHWC = self.resnet(images_NHWC, train)
        return maps_NHWC.reshape(num_clips, num_frames, *maps_NHWC.shape[1:])

    def head_from_features(
        self, maps_BTHWC: jax.Array, length_B: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Logits float32[B] from the feature maps (differentiable, for Grad-CAM)."""
        return self._clip_logits(_pool_space(maps_BTHWC), _clamp(length_B), train=train)

    def _clip_logits(
        self, features_BTD: jax.Array, length_B: jax.Array, *, train: bool
    ) -> jax.Array:
        if not self.frame_only:
            pooled_BF = self.pool(self.lstm(features_BTD, length_B), length_B)
            pooled_BF = self.drop(pooled_BF, deterministic=not train)
            return self.head(pooled_BF)[:, 0]
        dropped_BTD = self.drop(features_BTD, deterministic=not train)
        logits_BT = self.head(dropped_BTD)[..., 0]
        valid_BT = jnp.arange(logits_BT.shape[1]) < length_B[:, None]
        return jnp.where(valid_BT, logits_BT, 0).sum(axis=1) / length_B


def is_frozen(module_name: str, freeze_stages: int) -> bool:
    """Whether a child of the backbone ("conv1", "layer2_0", …) is kept constant.

    An optimiser that changes parameters without a gradient (weight decay) must leave
    these out.
    """
    if not module_name.startswith("layer"):
        return freeze_stages > 0
    stage = int(module_name.removeprefix("layer").split("_")[0])
    return stage <= freeze_stages


def _pool_space(maps_BTHWC: jax.Array) -> jax.Array:
    """Mean over space in float32, [B,T,D]."""
    return maps_BTHWC.astype(jnp.float32).mean(axis=(2, 3))


def _clamp(length_B: jax.Array) -> jax.Array:
    """Lengths of at least one frame: a clip of padding only has length 0."""
    return jnp.maximum(jnp.asarray(length_B), 1)


def check_fields(model: FakeDetector) -> None:
    """Raises ConfigError for a field without meaning."""
    choices = (
        ("backbone", (*BACKBONES, "resnet")),
        ("stem", tuple(STEMS)),
        ("block", tuple(EXPANSION)),
        ("pooling", POOLINGS),
        ("dtype", DTYPES),
    )
    for field, allowed in choices:
        value = getattr(model, field)
        if value not in allowed:
            raise ConfigError(
                f"config.model.{field} is {value!r}; use one of {', '.join(allowed)}"
            )
    if model.backbone == "resnet" and not model.stage_sizes:
        raise ConfigError(
            "config.model.backbone is 'resnet' without blocks; set "
            "config.model.stage_sizes to the blocks per stage, for example (2, 2, 2)"
        )
    own = (tuple(model.stage_sizes), model.width, model.stem, model.block)
    if model.backbone != "resnet" and own != ((), 64, "imagenet", "basic"):
        raise ConfigError(
            f"config.model.backbone {model.backbone!r} fixes stage_sizes, width, stem "
            "and block; set backbone to 'resnet' to choose them"
        )
    num_stages = len(BACKBONES.get(model.backbone, (model.stage_sizes, ""))[0])
    if not 0 <= model.freeze_stages <= num_stages:
        raise ConfigError(
            f"config.model.freeze_stages is {model.freeze_stages}; "
            f"{model.backbone} has {num_stages} stages"
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


def make_model(config) -> FakeDetector:
    """The detector of a config."""
    return FakeDetector(**config.model.to_dict())
