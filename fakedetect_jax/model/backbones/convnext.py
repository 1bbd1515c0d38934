"""ConvNeXt (Liu et al., CVPR 2022): images to places, whose mean are the features.

Shape letters: N images, H W pixels or places, L = H*W places, C D channels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

EPSILON = 1e-6  # of every LayerNorm
LAYER_SCALE = 1e-6  # what a block adds at first, relative
STEM = 4  # pixels a side of the stem's patches; each later stage halves the places


class Size(NamedTuple):
    """A ConvNeXt: blocks and channels of each stage."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def reach(self) -> int:
        """Pixels a side of a place of the last stage."""
        return STEM * 2 ** (len(self.depths) - 1)


def _doubling(depths: tuple[int, ...], width: int) -> Size:
    return Size(depths, tuple(width * 2**i for i in range(len(depths))))


CONVNEXTS = {
    "convnext_t": _doubling((3, 3, 9, 3), 96),
    "convnext_s": _doubling((3, 3, 27, 3), 96),
    "convnext_b": _doubling((3, 3, 27, 3), 128),
    "convnext_l": _doubling((3, 3, 27, 3), 192),
}


def size_of(backbone: str, stage_sizes: Any, width: int) -> Size | None:
    """The size of a named ConvNeXt, or of one's own; None of another backbone."""
    if backbone == "convnext":
        return _doubling(tuple(stage_sizes), width)
    return CONVNEXTS.get(backbone)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name
    )


def _patches(width: int, size: int, dtype: Any, name: str) -> nn.Conv:
    sides = (size, size)
    return nn.Conv(width, sides, sides, padding="VALID", dtype=dtype, name=name)


class Block(nn.Module):
    """A 7x7 convolution of each channel, a perceptron of each place; added, scaled."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """[N,H,W,C] -> the same."""
        width = x_NHWC.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        conv = functools.partial(nn.Conv, width, (7, 7), padding=3)
        y = conv(feature_group_count=width, dtype=self.dtype, name="conv")(x_NHWC)
        y = _norm(self.dtype, "norm")(y)
        y = nn.gelu(dense(4 * width, name="in")(y), approximate=False)
        y = dense(width, name="out")(y)
        start = nn.initializers.constant(LAYER_SCALE)
        return x_NHWC + y * self.param("scale", start, (width,)).astype(self.dtype)


class Halve(nn.Module):
    """Half as many places a side, of more channels."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """[N,H,W,C] -> [N,H/2,W/2,D]."""
        x = _norm(self.dtype, "norm")(x_NHWC)
        return _patches(self.width, 2, self.dtype, "conv")(x)


class ConvNeXt(nn.Module):
    """A ConvNeXt without a classifier.

    Submodules: stem, pre_norm, layer<stage>_down, layer<stage>_<block> and norm, which
    is of the mean over places.
    """

    size: Size
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the submodules."""
        block = nn.remat(Block) if self.remat else Block
        layers: list[Any] = []
        for stage, depth in enumerate(self.size.depths, start=1):
            if stage > 1:
                width = self.size.widths[stage - 1]
                layers.append(Halve(width, self.dtype, name=f"layer{stage}_down"))
            names = (f"layer{stage}_{i}" for i in range(depth))
            layers += [block(self.dtype, name=name) for name in names]
        self.stem = _patches(self.size.widths[0], STEM, self.dtype, "stem")
        self.pre_norm = _norm(self.dtype, "pre_norm")
        self.layers = layers
        self.norm = _norm(jnp.float32, "norm")

    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """Normalised images [N,H,W,3] -> places [N,L,D]."""
        del train  # nothing here behaves otherwise in training
        x = self.pre_norm(self.stem(x_NHWC))
        for layer in self.layers:
            x = layer(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def pool(self, places: jax.Array) -> jax.Array:
        """The features float32[...,D] of places [...,L,D]."""
        return self.norm(places.astype(jnp.float32).mean(axis=-2))

    def places(self, values: jax.Array) -> jax.Array:
        """One value per place [...,L] as a picture [...,h,w]."""
        side = round(values.shape[-1] ** 0.5)
        return values.reshape(*values.shape[:-1], side, side)


def variable_shapes(size: Size) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Name and shape of every parameter, without making it."""
    images = jax.ShapeDtypeStruct((1, size.reach, size.reach, 3), jnp.float32)

    def whole(module: ConvNeXt, images: jax.Array) -> jax.Array:
        return module.pool(module(images, False))  # which makes norm

    made = jax.eval_shape(
        lambda x: ConvNeXt(size).init(jax.random.key(0), x, method=whole), images
    )
    found: Any = traverse_util.flatten_dict(made["params"])
    return {key: leaf.shape for key, leaf in found.items()}
