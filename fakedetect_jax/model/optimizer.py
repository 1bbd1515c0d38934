"""Adam or SGD with its schedule, and which parameters learn at which rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from fakedetect_jax.model.backbones.resnet import is_frozen

# What is trained in place of the backbone's kernels lies in a group of the kind's name,
# beside "backbone" and "head", by the names of the blocks; there, these are trained.
ADAPTERS = {"lora": ("a", "b"), "svd": ("u", "s", "v")}


def learning_rate(
    *, peak: float, schedule: str, warmup_steps: int, num_steps: int
) -> optax.Schedule:
    """Steps -> learning rate: linear warm-up, then constant or cosine to zero."""
    if schedule == "cosine":
        decay_steps = max(num_steps - warmup_steps, 1)
        main = optax.cosine_decay_schedule(peak, decay_steps)
    else:
        main = optax.constant_schedule(peak)
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def _schedule(settings, num_steps: int) -> optax.Schedule:
    return learning_rate(
        peak=settings.learning_rate,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        num_steps=num_steps,
    )


def learning_rates(settings, num_steps: int) -> np.ndarray:
    """The learning rate of each step of a run, float32[num_steps]."""
    steps = jnp.arange(num_steps)
    return np.asarray(
        jnp.broadcast_to(_schedule(settings, num_steps)(steps), steps.shape)
    )


def make_optimizer(
    settings, *, num_steps: int, num_stages: int, freeze_stages: int
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015; decoupled decay: Loshchilov & Hutter 2019) or SGD.

    With a sam_radius the gradient is that at the worst parameters within it (Foret et
    al. 2021), and `update` needs grad_fn: parameters, number -> gradients.

    Args:
      settings: the config's optimizer group.
      num_steps: of the whole run, for the schedule.
      num_stages: of the backbone; the blocks of a transformer.
      freeze_stages: how many of them are constants, which nothing may change.
    """
    rate = _schedule(settings, num_steps)
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.kind == "sgd":
        parts.append(optax.trace(settings.momentum))
    else:
        parts.append(optax.scale_by_adam(settings.b1, settings.b2, settings.eps))
    if settings.weight_decay:
        decayed = functools.partial(_map_paths, _is_kernel)
        parts.append(optax.add_decayed_weights(settings.weight_decay, decayed))
    factor = functools.partial(
        _rate_factor,
        backbone=settings.backbone_multiplier,
        layer_decay=settings.layer_decay,
        num_stages=num_stages,
        freeze_stages=freeze_stages,
    )
    if (settings.backbone_multiplier, settings.layer_decay) != (1, 1) or freeze_stages:
        parts.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(
                    jnp.multiply, updates, _map_paths(factor, updates)
                )
            )
        )
    parts.append(optax.scale_by_learning_rate(rate))
    descend = optax.chain(*parts)
    if not settings.sam_radius:
        return descend
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(settings.sam_radius))
    # Opaque: BatchNorm's statistics are those of the parameters that are kept.
    return optax.contrib.sam(descend, climb, opaque_mode=True)


def _map_paths(function, tree):
    """A tree of function(names on the way to each leaf)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: function([entry.key for entry in path]), tree
    )


def _is_kernel(names: list[str]) -> bool:
    return names[-1] == "kernel"


def _rate_factor(
    names: list[str],
    *,
    backbone: float,
    layer_decay: float,
    num_stages: int,
    freeze_stages: int,
) -> float:
    """What the learning rate of a parameter is multiplied by: less, the earlier it is
    in the backbone, and 0 in its frozen stages. A change of a kernel learns as that."""
    if names[0] not in ("backbone", *ADAPTERS):
        return 1.0
    if is_frozen(names[1], freeze_stages):
        return 0.0
    return backbone * layer_decay ** (num_stages - stage_of(names[1], num_stages))


def stage_of(name: str, num_stages: int) -> int:
    """The stage of a child of the backbone, from 1; 0 for what comes before them all.

    A transformer's blocks are its stages, and what follows them is with the last.
    """
    if name.startswith("layer"):
        return int(name.removeprefix("layer").split("_")[0])
    if name.startswith("block"):
        return int(name.removeprefix("block")) + 1
    return num_stages if name in ("norm", "attention_pool") else 0
