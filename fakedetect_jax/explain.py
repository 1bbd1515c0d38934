"""Where and when a clip looks forged to the model: Grad-CAM and the running score."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fakedetect_jax import parallel, steps


class Explanation(NamedTuple):
    """What is told of B clips of T frames.

    logits float32[B]; running float32[B,T]: the logit if the clip ended with that
    frame; heat float32[B,T,h,w]: what each place adds to the logit, at least 0.
    """

    logits: jax.Array
    running: jax.Array
    heat: jax.Array


def explain_step(
    model: nn.Module, variables: dict[str, Any], batch: steps.Batch
) -> Explanation:
    """Scores a batch and says why.

    The heat is Grad-CAM (Selvaraju et al., ICCV 2017) on the last feature map, weighted
    at each place (HiResCAM, Draelos & Carin 2020). As the map is averaged over space,
    its gradient is the same at all places and the two are one; by linearity the heat
    before clipping sums to the first-order effect of the frame on the logit.
    """
    frames = steps.normalise(batch["frames"].astype(jnp.float32) / 255.0)
    apply = functools.partial(model.apply, variables, train=False)
    maps_BTHWC = apply(frames, method="backbone_features").astype(jnp.float32)  # pyright: ignore

    def total(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(maps, batch["length"], method="head_from_features")
        return jnp.sum(logits), logits  # pyright: ignore

    gradient, logits = jax.grad(total, has_aux=True)(maps_BTHWC)
    heat = nn.relu(jnp.sum(gradient * maps_BTHWC, axis=-1))
    return Explanation(logits, _running(apply, maps_BTHWC, batch["length"]), heat)


def _running(apply: Callable, maps_BTHWC: jax.Array, length_B: jax.Array) -> jax.Array:
    """FakeDetector.frame_logits without a second pass through the backbone."""
    num_clips, num_frames = maps_BTHWC.shape[:2]
    pooled = jnp.mean(maps_BTHWC, axis=(2, 3), keepdims=True)
    prefix_BT = jnp.minimum(
        jnp.arange(1, num_frames + 1), jnp.maximum(length_B, 1)[:, None]
    )
    logits = apply(
        jnp.repeat(pooled, num_frames, axis=0),
        prefix_BT.reshape(-1),
        method="head_from_features",
    )
    return logits.reshape(num_clips, num_frames)


def compile_explain_step(model: nn.Module, mesh: Mesh) -> Callable:
    """explain_step over the mesh; its results come back whole on every process."""
    return jax.jit(
        functools.partial(explain_step, model),
        in_shardings=(parallel.replicated(mesh), parallel.batch_sharded(mesh)),
        out_shardings=parallel.replicated(mesh),
    )
