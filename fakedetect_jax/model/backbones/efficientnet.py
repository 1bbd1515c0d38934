"""EfficientNet (Tan & Le, ICML 2019): images to the last map; its mean are features.

Shape letters: N images, H W pixels, C channels, D features.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from fakedetect_jax.model.backbones.resnet import BatchNorm, Conv, LastMap

# B0's stages (table 1): times wider inside, kernel, first stride, channels, blocks.
STAGES = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
    *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)
STEM, TOP = 32, 1280  # channels of B0 before and after them
SQUEEZE = 4  # times narrower than a block's input


class Stage(NamedTuple):
    """Blocks of one kind; the first has the stride."""

    expand: int
    kernel: int
    stride: int
    width: int
    depth: int


class Size(NamedTuple):
    """An EfficientNet: its stages, and channels before and after them."""

    stages: tuple[Stage, ...]
    stem: int
    top: int


def scaled(width: float, depth: float) -> Size:
    """B0 that many times wider, in steps of 8 channels, and deeper (section 3.3)."""

    def wide(channels: int) -> int:
        near = max(8, int(channels * width + 4) // 8 * 8)
        return near if near >= 0.9 * channels * width else near + 8

    stages = [
        Stage(expand, kernel, stride, wide(channels), -int(-blocks * depth // 1))
        for expand, kernel, stride, channels, blocks in STAGES
    ]
    return Size(tuple(stages), wide(STEM), wide(TOP))


EFFICIENTNETS = {"efficientnet_b0": scaled(1, 1), "efficientnet_b4": scaled(1.4, 1.8)}


def _normalised(conv: Any, norm: BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    y = conv(x)
    if train or norm.is_initializing():
        return norm(y)
    slope, shift = norm.affine()
    return (y * slope + shift).astype(y.dtype)


class Block(nn.Module):
    """Wider, along space, gated by the mean of its map, narrow again; added."""

    stage: Stage
    stride: int
    own: Any  # dtype and cpu_kernels

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """[N,H,W,C] -> [N,H/stride,W/stride,width]."""
        narrow, width = x_NHWC.shape[-1], self.stage.width
        dtype = self.own["dtype"]
        inner, y = narrow * self.stage.expand, x_NHWC
        if inner != narrow:
            conv = Conv(inner, 1, name="conv1", **self.own)
            y = nn.silu(_normalised(conv, BatchNorm(inner, name="bn1"), y, train))
        side = self.stage.kernel
        conv = nn.Conv(
            inner,
            (side, side),
            self.stride,
            padding=side // 2,
            feature_group_count=inner,
            use_bias=False,
            kernel_init=nn.initializers.normal((2 / side**2) ** 0.5),
            dtype=dtype,
            name="conv2",
        )
        y = nn.silu(_normalised(conv, BatchNorm(inner, name="bn2"), y, train))
        gate = y.mean(axis=(1, 2), keepdims=True)
        one = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=dtype)
        gate = nn.silu(one(max(narrow // SQUEEZE, 1), name="squeeze")(gate))
        y = y * nn.sigmoid(one(inner, name="excite")(gate))
        last = Conv(width, 1, name="conv3", **self.own)
        y = _normalised(last, BatchNorm(width, name="bn3"), y, train)
        return x_NHWC + y if self.stride == 1 and narrow == width else y


class EfficientNet(LastMap, nn.Module):
    """An EfficientNet without a classifier, and without stochastic depth.

    Submodules: conv1, bn1, layer<stage>_<block> with conv<i>, bn<i>, squeeze, excite,
    layer<last>_conv and layer<last>_bn. `freeze_stages` as of a ResNet.
    """

    size: Size
    freeze_stages: int = 0
    remat: bool = False
    dtype: Any = jnp.float32
    cpu_kernels: bool = True

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """Normalised images [N,H,W,3] -> the last feature map [N,h,w,D]."""
        own = {"dtype": self.dtype, "cpu_kernels": self.cpu_kernels}
        block_class = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        training = train and self.freeze_stages == 0
        conv = Conv(self.size.stem, 3, 2, name="conv1", **own)
        norm = BatchNorm(self.size.stem, name="bn1")
        x = nn.silu(_normalised(conv, norm, x_NHWC, training))
        last = len(self.size.stages)
        for number, stage in enumerate(self.size.stages, start=1):
            training = train and number > self.freeze_stages
            for i in range(stage.depth):
                stride = 1 if i else stage.stride
                name = f"layer{number}_{i}"
                x = block_class(stage, stride, own, name=name)(x, training)
            if number == last:
                conv = Conv(self.size.top, 1, name=f"layer{last}_conv", **own)
                norm = BatchNorm(self.size.top, name=f"layer{last}_bn")
                x = nn.silu(_normalised(conv, norm, x, training))
            x = jax.lax.stop_gradient(x) if number == self.freeze_stages else x
        return x


def variable_shapes(size: Size) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Collection, name and shape of every variable, without making it."""
    first = jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False
    made = jax.eval_shape(lambda: EfficientNet(size).init(*first))
    found: Any = traverse_util.flatten_dict(made)
    return {key: leaf.shape for key, leaf in found.items()}
