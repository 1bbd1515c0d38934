"""From the features of a clip's frames to one vector per clip.

Shape letters: B clips, T frames, D features of a frame, F of a state.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import recurrent

from fakedetect_jax.model.backbones.vit import STYLES, Block, Size

POOLINGS = ("last", "mean", "attention")


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


class FrameHidden(nn.Module):
    """A hidden layer on each frame by itself, for a mean or attention over them."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, length_B: jax.Array) -> list[jax.Array]:
        """[B,T,D] -> one [B,T,F] float32 array, as TemporalLSTM."""
        del length_B  # no frame sees another
        hidden = nn.Dense(self.features, dtype=self.dtype, name="in")(x_BTD)
        return [jnp.float32(nn.relu(hidden))]


ENCODER_LAYERS = 2


def encoder_size(features: int) -> Size:
    """The transformer over time, by its width: heads of 64 where that divides it."""
    heads = features // 64 if features % 64 == 0 else 1
    return Size("plain", features, ENCODER_LAYERS, heads, patch=1)


def moments(frames: int, features: int) -> np.ndarray:
    """float32[T,F]: sines and cosines of the frames' numbers (Vaswani et al. 2017)."""
    rates = 10_000.0 ** (-np.arange((features + 1) // 2) * 2 / features)
    angles = np.arange(frames)[:, None] * rates
    both = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return both[:, :features].astype(np.float32)


class TemporalTransformer(nn.Module):
    """A small transformer over the frames of a clip, each of which sees all."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, length_B: jax.Array) -> list[jax.Array]:
        """[B,T,D] -> one [B,T,F] float32 array, as TemporalLSTM."""
        size = encoder_size(self.features)
        # Nobody looks at padding, but nothing times NaN is NaN.
        valid_BT = jnp.arange(x_BTD.shape[1]) < length_B[:, None]
        x_BTD = jnp.where(valid_BT[..., None], x_BTD, 0)
        x_BTF = nn.Dense(self.features, dtype=self.dtype, name="in")(x_BTD)
        x_BTF += moments(x_BTD.shape[1], self.features).astype(x_BTF.dtype)
        for i in range(size.depth):
            x_BTF = Block(size, self.dtype, name=f"block{i}")(x_BTF, None, length_B)
        norm = nn.LayerNorm(epsilon=STYLES[size.style].epsilon, name="norm")
        return [norm(jnp.float32(x_BTF))]


TEMPORALS = ("lstm", "mean", "attention", "transformer", "none")


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
