"""TrainState, train_step, eval_step, loss and optimiser: pure functions under jit."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from fakedetect_jax import augment, selfblend
from fakedetect_jax.models import BACKBONES, FakeDetector, is_frozen

# ImageNet statistics of RGB in [0, 1], as torchvision's and timm's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Batch = dict[str, jax.Array]


class Totals(flax.struct.PyTreeNode):
    """Sums over the clips of the running epoch; part of the state, so that an
    interrupted epoch reports the same numbers after a resume."""

    loss: jax.Array
    correct: jax.Array
    clips: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """All that a run is, except its config. `step` counts completed updates."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any  # None without averaging
    totals: Totals
    ema_batch_stats: Any = None  # averaged as the parameters are

    def eval_variables(self) -> dict[str, Any]:
        """The variables that evaluation uses: the averaged ones where kept.

        Parameters and BatchNorm statistics always come as the pair that belongs
        together: statistics of other parameters than these give other logits.
        """
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


class Recipe(NamedTuple):
    """What a step needs besides state and batch; hashable parts of the config."""

    model: FakeDetector
    optimizer: optax.GradientTransformation
    seed: int
    augment: dict[str, Any]
    label_smoothing: float
    frame_weight: float
    self_blend: bool  # whether batches hold clips to be blended
    stored: selfblend.Stored
    ema_decay: float


def make_model(config) -> FakeDetector:
    """The detector of a config."""
    return FakeDetector(**config.model.to_dict())


def make_recipe(config, *, num_steps: int) -> Recipe:
    """The recipe of a config for a run of num_steps."""
    model = make_model(config)
    stages, _ = BACKBONES.get(model.backbone, (model.stage_sizes, model.block))
    return Recipe(
        model=model,
        optimizer=make_optimizer(
            config.optimizer,
            num_steps=num_steps,
            num_stages=len(stages),
            freeze_stages=model.freeze_stages,
        ),
        seed=config.seed,
        augment=config.augment.to_dict(),
        label_smoothing=config.loss.label_smoothing,
        frame_weight=config.loss.frame_weight,
        self_blend=config.loss.self_blend > 0,
        stored=selfblend.Stored(
            quality=config.dataset.jpeg_quality,
            subsampling=config.dataset.jpeg_subsampling,
        ),
        ema_decay=config.optimizer.ema_decay,
    )


def zero_totals() -> Totals:
    """Totals of an epoch that has not begun."""
    return Totals(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def create_train_state(recipe: Recipe, clip_shape: tuple[int, ...]) -> TrainState:
    """A fresh state; clip_shape is (T, H, W, 3). Jit it to have it born sharded."""
    params_key = jax.random.fold_in(jax.random.key(recipe.seed), 0)
    frames = jnp.zeros((1, *clip_shape), jnp.float32)
    length = jnp.ones((1,), jnp.int32)
    variables = recipe.model.init(params_key, frames, length, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=recipe.optimizer.init(params),
        ema_params=None,
        totals=zero_totals(),
    )
    return start_average(state) if recipe.ema_decay else state


def start_average(state: TrainState) -> TrainState:
    """The state with averages that begin at its parameters and statistics."""
    # Copies: two leaves of a donated state must not share a buffer.
    params, batch_stats = jax.tree.map(jnp.copy, (state.params, state.batch_stats))
    return state.replace(ema_params=params, ema_batch_stats=batch_stats)


def average_decay(decay: float, step: jax.Array) -> jax.Array:
    """What an average keeps of itself at an update: min(decay, (1 + t) / (10 + t)).

    t updates came before. Less than `decay` while there are few, or the first weights,
    which are random, would outlast the training (TensorFlow's
    ExponentialMovingAverage with num_updates).
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


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


def make_optimizer(
    settings, *, num_steps: int, num_stages: int, freeze_stages: int
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015; decoupled decay: Loshchilov & Hutter 2019).

    Args:
      settings: the config's optimizer group.
      num_steps: of the whole run, for the schedule.
      num_stages: of the backbone.
      freeze_stages: how many of them are constants, which nothing may change.
    """
    rate = learning_rate(
        peak=settings.learning_rate,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        num_steps=num_steps,
    )
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
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
    return optax.chain(*parts)


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
    in the backbone, and 0 in its frozen stages."""
    if names[0] != "backbone":
        return 1.0
    if is_frozen(names[1], freeze_stages):
        return 0.0
    is_block = names[1].startswith("layer")
    stage = int(names[1].removeprefix("layer").split("_")[0]) if is_block else 0
    return backbone * layer_decay ** (num_stages - stage)


def normalise(frames: jax.Array) -> jax.Array:
    """frames in [0, 1], last axis RGB -> zero mean and unit variance on ImageNet."""
    return (frames - jnp.array(MEAN)) / jnp.array(STD)


def clip_losses(
    logits: jax.Array, label: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Binary cross-entropy of each clip, in nats. logits and label float32[B]."""
    target = label * (1.0 - smoothing) + 0.5 * smoothing
    return optax.sigmoid_binary_cross_entropy(logits, target)


def weighted_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """The mean of values[B] over valid clips; 0 when there are none."""
    return jnp.sum(values * valid) / jnp.maximum(jnp.sum(valid), 1)


def train_step(
    recipe: Recipe, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of all parameters on a global batch.

    A batch whose loss or gradients are not finite changes nothing: the returned state
    is the given one, and metrics["finite"] says so.

    Returns:
      The next state and scalars: loss, accuracy, gradient_norm, finite.
    """
    # fold_in(seed, 1): apart from the parameters' key, which is fold_in(seed, 0).
    run_key = jax.random.fold_in(jax.random.key(recipe.seed), 1)
    key = jax.random.fold_in(run_key, state.step)
    augment_key, blend_key, dropout_key = jax.random.split(key, 3)
    frames = batch["frames"].astype(jnp.float32) / 255.0
    label, valid, index = batch["label"], batch["valid"], batch["index"]
    if recipe.self_blend:
        frames = selfblend.self_blend(
            frames,
            batch["blend"],
            batch["face"],
            key=blend_key,
            index_B=index,
            stored=recipe.stored,
        )
    frames = augment.augment_clips(
        frames, key=augment_key, index_B=index, config=recipe.augment
    )
    frames = normalise(frames)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        arguments: dict[str, Any] = {
            "train": True,
            "mutable": ["batch_stats"],
            "rngs": {"dropout": dropout_key},
        }
        if recipe.frame_weight:
            arguments["method"] = "frame_logits"
        output, updated = recipe.model.apply(
            variables, frames, batch["length"], **arguments
        )
        frame_logits = output if recipe.frame_weight else None
        if frame_logits is None:
            logits = output
        else:  # the running logit after the last frame is the clip's
            ends = jnp.maximum(batch["length"], 1)[:, None] - 1
            logits = jnp.take_along_axis(frame_logits, ends, axis=1)[:, 0]
        loss = weighted_mean(clip_losses(logits, label, recipe.label_smoothing), valid)
        objective = loss
        if frame_logits is not None:
            per_frame = clip_losses(
                frame_logits, label[:, None], recipe.label_smoothing
            )
            in_clip = jnp.arange(per_frame.shape[1]) < batch["length"][:, None]
            frame_loss = weighted_mean(per_frame, in_clip & valid[:, None])
            objective = loss + recipe.frame_weight * frame_loss
        return objective, (loss, logits, updated["batch_stats"])

    grads, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages: Any = (state.ema_params, state.ema_batch_stats)
    if recipe.ema_decay:
        decay = average_decay(recipe.ema_decay, state.step)
        averages = optax.incremental_update(
            (params, batch_stats), averages, step_size=1.0 - decay
        )
    correct = ((logits > 0) == (label > 0.5)) & valid
    clips = jnp.sum(valid).astype(jnp.float32)
    proposed = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=averages[0],
        totals=Totals(
            loss=state.totals.loss + loss * clips,
            correct=state.totals.correct + jnp.sum(correct),
            clips=state.totals.clips + clips,
        ),
        ema_batch_stats=averages[1],
    )
    # A select per leaf costs nothing beside the update that it fuses with, and the
    # host can learn of the fault a step later without having lost the good state.
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    metrics = {
        "loss": loss,
        "accuracy": weighted_mean(correct.astype(jnp.float32), valid),
        "gradient_norm": gradient_norm,
        "finite": finite,
    }
    return kept, metrics


def eval_step(model: nn.Module, variables: dict[str, Any], batch: Batch) -> jax.Array:
    """The logits float32[B] of the clips of a batch; its state is left alone."""
    frames = normalise(batch["frames"].astype(jnp.float32) / 255.0)
    return model.apply(variables, frames, batch["length"], train=False)  # pyright: ignore[reportReturnType]


def blended_eval_step(
    model: nn.Module,
    seed: int,
    stored: selfblend.Stored,
    variables: dict[str, Any],
    batch: Batch,
) -> jax.Array:
    """eval_step of clips that are all real: those with label 1 are self-blended first.

    The others pass all that is no blending, as in training. The draws follow from the
    seed and the clip's index, so each evaluation of a run sees the same clips.
    """
    frames = selfblend.self_blend(
        batch["frames"].astype(jnp.float32) / 255.0,
        batch["label"] > 0.5,
        batch["face"],
        # fold_in(seed, 2): apart from the keys of parameters and training.
        key=jax.random.fold_in(jax.random.key(seed), 2),
        index_B=batch["index"],
        stored=stored,
    )
    return model.apply(variables, normalise(frames), batch["length"], train=False)  # pyright: ignore[reportReturnType]
