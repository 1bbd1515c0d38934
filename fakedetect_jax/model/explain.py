"""Where and when a clip looks forged to the model: heat maps, the running score."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fakedetect_jax.model import steps
from fakedetect_jax.model.network import Variables

PATH_STEPS = 16  # points on the way of the integrated gradient


class Explanation(NamedTuple):
    """What an explanation says of B clips of T frames.

    logits float32[B]; running float32[B,T]: the logit if the clip ended with that
    frame; heat float32[B,T,h,w]: what each place adds to the logit beyond the average
    place of its frame, at least 0; of a model with `patches` the probability that the
    place is forged.
    """

    logits: jax.Array | np.ndarray
    running: jax.Array | np.ndarray
    heat: jax.Array | np.ndarray


def explain_step(
    model: nn.Module, variables: Variables, clips: steps.Clips
) -> Explanation:
    """Scores clips and says why."""
    frames, length = jnp.asarray(clips[0], jnp.float32), jnp.asarray(clips[1])
    frames = steps.normalise(model, frames / 255.0)
    apply: Any = functools.partial(model.apply, variables)
    maps = apply(frames, method="backbone_features").astype(jnp.float32)
    features_BTD = apply(maps, method="frame_features")
    running_BT = apply(features_BTD, length, method="running_logits")
    head: Callable = functools.partial(apply, method="head_from_features")
    if getattr(model, "patches", False):
        beyond = nn.sigmoid(apply(maps, method="patch_logits"))
    elif maps.ndim == 5:  # of a ResNet, whose head sees no more than their mean
        added = contributions(head, maps, length)
        beyond = added - jnp.mean(added, axis=(2, 3), keepdims=True)
    else:
        beyond = apply(token_contributions(head, maps, length), method="places")
    ends = jnp.maximum(length, 1)[:, None] - 1
    return Explanation(
        logits=jnp.take_along_axis(running_BT, ends, axis=1)[:, 0],
        running=running_BT,
        heat=_smooth(nn.relu(beyond)),
    )


def contributions(
    head: Callable, maps_BTHWC: jax.Array, length_B: jax.Array
) -> jax.Array:
    """What each place of the feature maps adds to the logit, float32[B,T,h,w].

    Integrated Grad-CAM (Sattarzadeh et al., ICASSP 2021): Grad-CAM (Selvaraju et al.,
    ICCV 2017) with the gradient averaged on the way from no features to these, so that
    a saturated LSTM still tells its reasons. Of a clip they sum to the logit less that
    of no features. The head sees no more of the maps than their mean over places, so it
    is asked for the gradient of the mean, of which each place has an equal part.
    """
    mean_BT11C = _mean_place(maps_BTHWC)
    places = maps_BTHWC.shape[2] * maps_BTHWC.shape[3]

    def total(mean: jax.Array) -> jax.Array:
        return jnp.sum(head(mean, length_B))

    shares = (jnp.arange(PATH_STEPS) + 0.5) / PATH_STEPS
    gradients = jax.vmap(lambda share: jax.grad(total)(share * mean_BT11C))(shares)
    return jnp.sum(jnp.mean(gradients, axis=0) / places * maps_BTHWC, axis=-1)


def token_contributions(
    head: Callable, tokens_BTLD: jax.Array, length_B: jax.Array
) -> jax.Array:
    """What each token of a transformer adds beyond the mean one, float32[B,T,L].

    The gradient of what follows, the last block and the head, averaged on the way from
    the frame's mean token to each (Sundararajan et al., ICML 2017): a clip's sum to its
    logit less that of clips whose tokens are all their mean. From none at all the way
    would lead nowhere, as a LayerNorm takes no notice of length.
    """
    mean = jnp.mean(tokens_BTLD, axis=2, keepdims=True)
    apart = tokens_BTLD - mean

    def total(tokens: jax.Array) -> jax.Array:
        return jnp.sum(head(tokens, length_B))

    def add(found: jax.Array, share: jax.Array) -> tuple[jax.Array, None]:
        return found + jax.grad(total)(mean + share * apart), None

    shares = (jnp.arange(PATH_STEPS) + 0.5) / PATH_STEPS
    # One after the other: at once they would take the memory of so many batches.
    found, _ = jax.lax.scan(add, jnp.zeros_like(tokens_BTLD), shares)
    return jnp.sum(found / PATH_STEPS * apart, axis=-1)


def _mean_place(maps_BTHWC: jax.Array) -> jax.Array:
    """Maps of one place, which the head takes for the whole, [B,T,1,1,C]."""
    return jnp.mean(maps_BTHWC, axis=(2, 3), keepdims=True)


def _smooth(heat_BTHW: jax.Array) -> jax.Array:
    """Binomial weights over 3 x 3 places: each sees more of the picture than itself."""
    for axis in (2, 3):
        sides = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(heat_BTHW, sides, mode="edge")
        size = heat_BTHW.shape[axis]
        before, here, after = (
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)
        )
        heat_BTHW = (before + 2 * here + after) / 4
    return heat_BTHW
