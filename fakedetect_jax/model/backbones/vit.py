"""Vision transformers (Dosovitskiy et al. 2021): images to tokens, tokens to features.

What the published families do differently is in STYLES: CLIP (Radford et al. 2021),
DINOv2 (Oquab et al. 2023) with registers (Darcet et al. 2023), DINOv3 (Siméoni et al.
2025), SigLIP 2 (Tschannen et al. 2025), and the plain one of MAE (He et al. 2022).

Shape letters: N images, L tokens, P patches, D features, A heads, E features of a head.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

GELUS = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "tanh": functools.partial(nn.gelu, approximate=True),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),
}


class Style(NamedTuple):
    """What a family of transformers does in its own way.

    gelu: of GELUS; epsilon: of each LayerNorm; positions: learned or rotary; pre_norm:
    whether the embedded tokens are normalised; layer_scale: whether each residual
    branch is scaled; features: the class token's, the patches' mean, or what one
    learned query attends to.
    """

    gelu: str = "exact"
    epsilon: float = 1e-6
    patch_bias: bool = True
    class_token: bool = True
    positions: str = "learned"
    pre_norm: bool = False
    layer_scale: bool = False
    key_bias: bool = True
    features: str = "class"


STYLES = {
    "plain": Style(features="mean"),
    "clip": Style("quick", 1e-5, patch_bias=False, pre_norm=True),
    "dinov2": Style(layer_scale=True),
    "dinov3": Style(epsilon=1e-5, positions="rotary", layer_scale=True, key_bias=False),
    "siglip2": Style("tanh", class_token=False, features="attention"),
}
ROTARY_BASE = 100.0  # of DINOv3
LAYER_SCALE = 1e-5  # at the start of a training from nothing
# How pixels become tokens: by one product for each patch, or by convolutions.
EMBEDDINGS = ("linear", "convolutions")
HALVING = 4, ((1, 1), (1, 1))  # side and padding of the first of these convolutions
# Of normalised faces' patches of n pixels a side, a coefficient of the orthonormal
# cosine transform, of f half waves a patch, deviates by about n / (FALL f), and the
# mean as if f were MEAN_RATE.
FALL, MEAN_RATE = 5.6, 1 / 8


class Size(NamedTuple):
    """A transformer of a style.

    hidden: of the perceptron; 0 for four times width. embedding: of EMBEDDINGS.
    """

    style: str
    width: int
    depth: int
    heads: int
    patch: int
    registers: int = 0
    hidden: int = 0
    embedding: str = "linear"

    @property
    def stem(self) -> list[int]:
        """Channels after each convolution of the embedding; none where it is linear."""
        steps = self.patch.bit_length() - 1 if self.embedding == "convolutions" else 0
        return [self.width * (i + 1) // steps for i in range(steps)]

    @property
    def inner(self) -> int:
        """Width of the perceptron's hidden layer."""
        return self.hidden or 4 * self.width

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return STYLES[self.style].class_token + self.registers


_SMALL, _BASE, _LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
VITS = {
    "clip_b32": Size("clip", *_BASE, 32),
    "clip_b16": Size("clip", *_BASE, 16),
    "clip_l14": Size("clip", *_LARGE, 14),
    "dinov2_s14": Size("dinov2", *_SMALL, 14),
    "dinov2_b14": Size("dinov2", *_BASE, 14),
    "dinov2_l14": Size("dinov2", *_LARGE, 14),
    "dinov2_s14_reg": Size("dinov2", *_SMALL, 14, 4),
    "dinov2_b14_reg": Size("dinov2", *_BASE, 14, 4),
    "dinov2_l14_reg": Size("dinov2", *_LARGE, 14, 4),
    "dinov3_s16": Size("dinov3", *_SMALL, 16, 4),
    "dinov3_b16": Size("dinov3", *_BASE, 16, 4),
    "dinov3_l16": Size("dinov3", *_LARGE, 16, 4),
    "siglip2_b16": Size("siglip2", *_BASE, 16),
    "siglip2_l16": Size("siglip2", *_LARGE, 16),
    "siglip2_so400m14": Size("siglip2", 1152, 27, 16, 14, hidden=4304),
    "mae_b16": Size("plain", *_BASE, 16),
    "mae_l16": Size("plain", *_LARGE, 16),
    "mae_h14": Size("plain", 1280, 32, 16, 14),
}


def _patch_places(count: int) -> np.ndarray:
    """Middles of the patches of a square image in [-1, 1]: [P, (down, right)]."""
    side = round(count**0.5)
    middles = 2 * (np.arange(side) + 0.5) / side - 1
    return np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)


def _waves(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Sines and cosines of the patches' places, [L,D]: MAE's positions, and a start.

    What has another width than a multiple of four, or tokens before the patches', is
    filled with zeros.
    """
    tokens, width = shape
    patches = round(tokens**0.5 - 0.5) ** 2  # one token may stand before a square
    side, waves = round(patches**0.5), width // 4
    places = (_patch_places(patches) + 1) * side / 2 - 0.5
    rates = 10_000.0 ** -(np.arange(waves) / max(waves, 1))
    angles = jnp.float32(places[:, :, None]) * jnp.float32(rates)
    parts = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=2)
    sides = ((tokens - patches, 0), (0, width - 4 * waves))
    return jnp.pad(parts.reshape(patches, -1), sides)


Turn = tuple[jax.Array, jax.Array]  # cosines and sines [L,1,E]


def rotation(size: Size, patches: int) -> Turn | None:
    """Cosines and sines [L,1,E] that turn queries and keys; None where nothing turns.

    As DINOv3's: a patch turns by 2 pi times its place in [-1, 1], down and right, at
    E / 4 frequencies; tokens before the patches stay.
    """
    if STYLES[size.style].positions != "rotary":
        return None
    each = size.width // size.heads
    frequency = ROTARY_BASE ** -(np.arange(each // 4) * 4 / each)
    places = jnp.float32(2 * np.pi * _patch_places(patches)[:, :, None])
    angles = (places * jnp.float32(frequency)).reshape(patches, -1)
    angles = jnp.pad(jnp.tile(angles, (1, 2)), ((size.prefix, 0), (0, 0)))[:, None]
    return jnp.cos(angles), jnp.sin(angles)


def _turned(x_NLAE: jax.Array, turn: Turn) -> jax.Array:
    cosine, sine = turn
    first, second = jnp.split(x_NLAE, 2, axis=-1)
    other = jnp.concatenate([-second, first], axis=-1)
    return (x_NLAE * cosine + other * sine).astype(x_NLAE.dtype)


def _has_flash(x: jax.Array) -> bool:
    """Whether cuDNN's fused attention takes such queries on this host's GPU."""
    if x.dtype != jnp.bfloat16 or x.shape[-1] % 8 or x.shape[-1] > 128:
        return False
    try:
        device, *_ = jax.local_devices(backend="cuda")
    except RuntimeError:
        return False
    return float(device.compute_capability) >= 8.0


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    length_N: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention, [N,L,A,E] -> [N,L of the query,A,E].

    In one kernel that keeps no [L,L] matrix (Dao et al. 2022) on a GPU that has it.
    length_N: how many of the keys are looked at; all of them without it.
    """
    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    if length_N is not None:
        return plain(query, key, value, key_value_seq_lengths=length_N)
    if not _has_flash(query):
        return plain(query, key, value)
    fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return jax.lax.platform_dependent(query, key, value, cuda=fused, default=plain)


class Attention(nn.Module):
    """Attention of several heads: query, key, value and out, each a Dense."""

    heads: int
    key_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        asking_NLD: jax.Array,
        asked_NLD: jax.Array,
        turn: Turn | None = None,
        length_N: jax.Array | None = None,
    ) -> jax.Array:
        """What each token of the first takes from those of the second, [N,L,D]."""
        width = asked_NLD.shape[-1]
        dense = functools.partial(nn.Dense, width, dtype=self.dtype)

        def heads(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:2], self.heads, width // self.heads)

        query = heads(dense(name="query")(asking_NLD))
        key = heads(dense(name="key", use_bias=self.key_bias)(asked_NLD))
        value = heads(dense(name="value")(asked_NLD))
        if turn is not None:
            query, key = _turned(query, turn), _turned(key, turn)
        found = attend(query, key, value, length_N)
        return dense(name="out")(found.reshape(*asking_NLD.shape[:2], width))


class Perceptron(nn.Module):
    """Two Dense layers, `in` and `out`, with a GELU between."""

    hidden: int
    gelu: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        """[N,L,D] -> the same."""
        y = nn.Dense(self.hidden, dtype=self.dtype, name="in")(x_NLD)
        y = GELUS[self.gelu](y)
        return nn.Dense(x_NLD.shape[-1], dtype=self.dtype, name="out")(y)


def _layer_norm(size: Size, dtype: Any, name: str) -> nn.LayerNorm:
    # In float32, whatever the type; CLIP's activations reach hundreds.
    return nn.LayerNorm(
        epsilon=STYLES[size.style].epsilon,
        dtype=dtype,
        use_fast_variance=False,
        name=name,
    )


class Block(nn.Module):
    """Attention and perceptron, each normalised before and added to what came in."""

    size: Size
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x_NLD: jax.Array, turn: Turn | None, length_N: jax.Array | None = None
    ) -> jax.Array:
        """[N,L,D] -> the same; length_N: how many tokens are looked at."""
        size, style = self.size, STYLES[self.size.style]

        def scaled(y: jax.Array, name: str) -> jax.Array:
            if not style.layer_scale:
                return y
            start = nn.initializers.constant(LAYER_SCALE)
            return y * self.param(name, start, (size.width,)).astype(self.dtype)

        y = _layer_norm(size, self.dtype, "norm1")(x_NLD)
        attention = Attention(size.heads, style.key_bias, self.dtype, name="attention")
        x_NLD = x_NLD + scaled(attention(y, y, turn, length_N), "scale1")
        y = _layer_norm(size, self.dtype, "norm2")(x_NLD)
        perceptron = Perceptron(size.inner, style.gelu, self.dtype, name="mlp")
        return x_NLD + scaled(perceptron(y), "scale2")


def _whitening(
    key: jax.Array, shape: tuple[int, int, int, int], _dtype: Any = jnp.float32
) -> jax.Array:
    """Kernels [y,x,3,D] of patches, drawn so that all frequencies weigh about the same.

    The amplitude of pictures falls as 1/f (Field 1987): kernels of equal weights see
    little but a patch's mean colour, and the fine traces of a forgery are learnt late.
    Here each coefficient of a patch's cosine transform counts by its frequency.
    """
    side = shape[0]
    rates = np.hypot(*np.meshgrid(np.arange(side), np.arange(side)))
    rates[0, 0] = MEAN_RATE
    waves = np.cos(np.pi / side * np.outer(np.arange(side), np.arange(side) + 0.5))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    deviation = FALL / side * rates[:, :, None, None] / np.sqrt(np.prod(shape[:3]))
    draws = jax.random.normal(key, shape) * jnp.float32(deviation)
    return jnp.einsum("uy,vx,uvcd->yxcd", jnp.float32(waves), jnp.float32(waves), draws)


class Stem(nn.Module):
    """Convolutions that each halve the side, until a place is a patch; then a Dense.

    After Xiao et al. 2021, but without norms. Submodules: conv<i>, of which the first
    has no bias, and projection.
    """

    size: Size
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Normalised images [N,H,W,3] -> [N,h,w,D]."""
        gelu = GELUS[STYLES[self.size.style].gelu]
        side, padding = HALVING
        conv = functools.partial(nn.Conv, strides=2, dtype=self.dtype)
        first, *others = self.size.stem
        x_NHWC = conv(
            first,
            (side, side),
            padding=padding,
            use_bias=False,
            kernel_init=_whitening,
            name="conv0",
        )(x_NHWC)
        for i, channels in enumerate(others, 1):
            kernels = nn.initializers.he_normal()
            layer = conv(channels, (3, 3), kernel_init=kernels, name=f"conv{i}")
            x_NHWC = layer(gelu(x_NHWC))
        dense = nn.Dense(self.size.width, dtype=self.dtype, name="projection")
        return dense(gelu(x_NHWC))


class Embed(nn.Module):
    """Patches, class token and registers as tokens that know their places."""

    size: Size
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Normalised square images [N,H,W,3] -> tokens [N,L,D]."""
        size, style = self.size, STYLES[self.size.style]
        images, side = x_NHWC.shape[0], x_NHWC.shape[1] // size.patch
        small = nn.initializers.normal(0.02)
        if size.stem:
            places = Stem(size, self.dtype, name="stem")(x_NHWC)
            tokens = places.reshape(images, side * side, size.width)
        else:
            shape = (size.patch, size.patch, 3, size.width)
            kernel = self.param("kernel", _whitening, shape).astype(self.dtype)
            # A convolution that steps by its own size is a product with each patch.
            cut = x_NHWC.reshape(images, side, size.patch, side, size.patch, 3)
            cut = cut.transpose(0, 1, 3, 2, 4, 5).reshape(images, side * side, -1)
            tokens = cut.astype(self.dtype) @ kernel.reshape(-1, size.width)
            if style.patch_bias:
                zeros = nn.initializers.zeros
                bias = self.param("bias", zeros, (size.width,))
                tokens += bias.astype(self.dtype)

        def before(name: str, count: int, tokens: jax.Array) -> jax.Array:
            rows = self.param(name, small, (count, size.width)).astype(self.dtype)
            rows = jnp.broadcast_to(rows, (images, count, size.width))
            return jnp.concatenate([rows, tokens], axis=1)

        if style.class_token:
            tokens = before("class_token", 1, tokens)
        if style.positions == "learned":
            places = (style.class_token + side * side, size.width)
            tokens += self.param("positions", _waves, places).astype(self.dtype)
        if size.registers:  # which have no place, between class token and patches
            patches = tokens[:, style.class_token :]
            others = before("registers", size.registers, patches)
            tokens = jnp.concatenate([tokens[:, : style.class_token], others], axis=1)
        if style.pre_norm:
            tokens = _layer_norm(size, self.dtype, "pre_norm")(tokens)
        return tokens


class AttentionPool(nn.Module):
    """What one learned query takes from all tokens (SigLIP's head)."""

    size: Size
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NLD: jax.Array) -> jax.Array:
        """[N,L,D] -> [N,D]."""
        size, style = self.size, STYLES[self.size.style]
        probe = self.param("probe", nn.initializers.normal(0.02), (1, size.width))
        shape = (x_NLD.shape[0], 1, size.width)
        asking = jnp.broadcast_to(probe.astype(self.dtype), shape)
        attention = Attention(size.heads, dtype=self.dtype, name="attention")
        x = attention(asking, x_NLD)
        y = _layer_norm(size, self.dtype, "norm")(x)
        perceptron = Perceptron(size.inner, style.gelu, self.dtype, name="mlp")
        return (x + perceptron(y))[:, 0]


class ViT(nn.Module):
    """A vision transformer without a classifier.

    Submodules: embed, block<i>, norm and, for features by attention, attention_pool.
    Its maps are the tokens that the last block sees, so that it can be asked what each
    patch adds to the features.
    """

    size: Size
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the submodules."""
        size = self.size
        block_class = nn.remat(Block) if self.remat else Block
        self.embed = Embed(size, self.dtype)
        self.blocks = [
            block_class(size, self.dtype, name=f"block{i}") for i in range(size.depth)
        ]
        self.norm = _layer_norm(size, self.dtype, "norm")
        if STYLES[size.style].features == "attention":
            self.attention_pool = AttentionPool(size, self.dtype)

    def __call__(self, x_NHWC: jax.Array, train: bool) -> jax.Array:
        """Normalised images [N,H,W,3] -> tokens [N,L,D] before the last block."""
        del train  # nothing here behaves otherwise in training
        tokens = self.embed(x_NHWC)
        turn = rotation(self.size, tokens.shape[1] - self.size.prefix)
        for block in self.blocks[:-1]:
            tokens = block(tokens, turn)
        return tokens

    def pool(self, tokens: jax.Array) -> jax.Array:
        """The features float32[...,D] of tokens [...,L,D] before the last block."""
        *leading, length, width = tokens.shape
        turn = rotation(self.size, length - self.size.prefix)
        tokens_NLD = tokens.reshape(-1, length, width).astype(self.dtype)
        tokens_NLD = self.norm(self.blocks[-1](tokens_NLD, turn))
        features = STYLES[self.size.style].features
        if features == "attention":
            features_ND = self.attention_pool(tokens_NLD)
        elif features == "class":
            features_ND = tokens_NLD[:, 0]
        else:
            patches = tokens_NLD[:, self.size.prefix :].astype(jnp.float32)
            features_ND = patches.mean(axis=1)
        return features_ND.astype(jnp.float32).reshape(*leading, width)

    def places(self, values: jax.Array) -> jax.Array:
        """One value per token [...,L] -> the patches' as a picture [...,h,w]."""
        patches = values[..., self.size.prefix :]
        side = round(patches.shape[-1] ** 0.5)
        return patches.reshape(*patches.shape[:-1], side, side)


def variable_shapes(size: Size, image_size: int) -> dict[tuple[str, ...], tuple]:
    """Name and shape of every parameter, without making it."""
    style, width = STYLES[size.style], size.width
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {}

    def dense(inputs: int, outputs: int, *names: str, bias: bool = True) -> None:
        shapes[*names, "kernel"] = (inputs, outputs)
        if bias:
            shapes[*names, "bias"] = (outputs,)

    def norm(*names: str) -> None:
        shapes[*names, "scale"] = shapes[*names, "bias"] = (width,)

    def attention_and_mlp(*at: str, key_bias: bool = True) -> None:
        for name in ("query", "key", "value", "out"):
            has_bias = key_bias or name != "key"
            dense(width, width, *at, "attention", name, bias=has_bias)
        dense(width, size.inner, *at, "mlp", "in")
        dense(size.inner, width, *at, "mlp", "out")

    inputs = 3
    for i, channels in enumerate(size.stem):
        side = 3 if i else HALVING[0]
        shapes["embed", "stem", f"conv{i}", "kernel"] = (side, side, inputs, channels)
        if i:
            shapes["embed", "stem", f"conv{i}", "bias"] = (channels,)
        inputs = channels
    if size.stem:
        dense(inputs, width, "embed", "stem", "projection")
    else:
        shapes["embed", "kernel"] = (size.patch, size.patch, 3, width)
        if style.patch_bias:
            shapes["embed", "bias"] = (width,)
    if style.class_token:
        shapes["embed", "class_token"] = (1, width)
    if size.registers:
        shapes["embed", "registers"] = (size.registers, width)
    if style.positions == "learned":
        patches = (image_size // size.patch) ** 2
        shapes["embed", "positions"] = (style.class_token + patches, width)
    if style.pre_norm:
        norm("embed", "pre_norm")
    for i in range(size.depth):
        at = f"block{i}"
        norm(at, "norm1")
        norm(at, "norm2")
        attention_and_mlp(at, key_bias=style.key_bias)
        if style.layer_scale:
            shapes[at, "scale1"] = shapes[at, "scale2"] = (width,)
    norm("norm")
    if style.features == "attention":
        shapes["attention_pool", "probe"] = (1, width)
        norm("attention_pool", "norm")
        attention_and_mlp("attention_pool")
    return shapes
