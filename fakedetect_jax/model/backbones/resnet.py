"""ResNets (He et al. 2015): images to the last map, whose mean are the features.

Shape letters: N images, H W pixels, C channels, D features.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fakedetect_jax.model.kernels import convolution, max_pool
from fakedetect_jax.model.kernels.batch_norm import normalize_batch

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
    `groups` is of how many parts of the batch each has statistics of its own.
    """

    features: int
    zero_scale: bool = False
    groups: int = 1
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

        They are those of all devices, and update the running ones; of several groups
        the running ones get the means.
        """
        groups = 1 if self.is_initializing() else self.groups  # of one clip
        y, batch_mean, batch_variance = normalize_batch(
            x_NHWC, self.scale, self.bias, self.epsilon, groups
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
    norm_groups: int = 1

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
        batch_norm = functools.partial(BatchNorm, groups=self.norm_groups)
        y = x_NHWC
        for i, (features, size, stride) in enumerate(layers, start=1):
            last = i == len(layers)
            layer = conv(features, size, stride, name=f"conv{i}")
            norm = batch_norm(features, zero_scale=last, name=f"bn{i}")
            y = _normalised(layer, norm, y, train)
            y = y if last else nn.relu(y)
        shortcut = x_NHWC
        if self.stride != 1 or x_NHWC.shape[-1] != width:
            project = conv(width, 1, self.stride, name="downsample_conv")
            norm = batch_norm(width, name="downsample_bn")
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
    norm_groups: int = 1

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """Normalised images [N,H,W,3] -> the last feature map [N,h,w,D]."""
        size, stride, pool = STEMS[self.stem]
        training = train and self.freeze_stages == 0
        own = {"dtype": self.dtype, "cpu_kernels": self.cpu_kernels}
        conv = Conv(self.width, size, stride, name="conv1", **own)
        norm = BatchNorm(self.width, groups=self.norm_groups, name="bn1")
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
                    norm_groups=self.norm_groups,
                    name=f"layer{stage}_{i}",
                    **own,
                )(x, training)
            x = jax.lax.stop_gradient(x) if stage == self.freeze_stages else x
        return x

    def pool(self, maps: jax.Array) -> jax.Array:
        """The features of maps [...,h,w,D]: their mean over space, float32[...,D]."""
        return maps.astype(jnp.float32).mean(axis=(-3, -2))

    def places(self, values: jax.Array) -> jax.Array:
        """One value per place of the maps, which is a picture as it is."""
        return values


def is_frozen(module_name: str, freeze_stages: int) -> bool:
    """Whether a child of the backbone ("conv1", "layer2_0", …) is kept constant.

    An optimiser that changes parameters without a gradient (weight decay) must leave
    these out.
    """
    if not module_name.startswith("layer"):
        return freeze_stages > 0
    stage = int(module_name.removeprefix("layer").split("_")[0])
    return stage <= freeze_stages
