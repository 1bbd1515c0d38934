"""TrainState, train_step, eval_step, loss and optimiser: pure functions under jit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fakedetect_jax.augment import degrade, selfblend
from fakedetect_jax.augment.clips import augment_clips, augment_masks
from fakedetect_jax.augment.fields import Augmentation, parse
from fakedetect_jax.data.batch import MASK_PARTS, UNKNOWN, Batch
from fakedetect_jax.model import network, trainable
from fakedetect_jax.model.network import FakeDetector, Variables
from fakedetect_jax.model.optimizer import make_optimizer
from fakedetect_jax.model.pixels import Scale, scale_of
from fakedetect_jax.model.trainable import Trainable

GOLDEN = (5**0.5 - 1) / 2


# RGB uint8[B,T,H,W,3], and int32[B], how many frames of each count.
Clips = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]


class Metrics(NamedTuple):
    """Scalars of a step; finite: whether loss and gradients are numbers."""

    accuracy: Any
    finite: Any
    gradient_norm: Any
    loss: Any


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
    ema_params: Any  # of those that are trained; None without averaging
    totals: Totals
    ema_batch_stats: Any = None  # averaged as the parameters are

    def eval_variables(self) -> Variables:
        """The variables that evaluation uses: the averaged ones where kept.

        Parameters and BatchNorm statistics always come as the pair that belongs
        together: statistics of other parameters than these give other logits.
        """
        if self.ema_params is None:
            params, batch_stats = self.params, self.batch_stats
        else:
            params = trainable.join(self.params, self.ema_params)
            batch_stats = self.ema_batch_stats
        return {"params": trainable.merged(params), "batch_stats": batch_stats}


class StepSettings(NamedTuple):
    """What a step needs besides state and batch; hashable parts of the config."""

    model: FakeDetector
    optimizer: optax.GradientTransformation
    seed: int
    augment: Augmentation
    label_smoothing: float
    frame_weight: float
    mask_weight: float
    alignment: float
    uniformity: float
    self_blend: bool  # whether batches hold clips to be blended
    stored: selfblend.Stored
    ema_decay: float
    accumulate: int  # in how many parts a batch is computed
    sam: bool  # whether the optimiser asks for gradients elsewhere
    trainable: Trainable = Trainable()

    def with_adapters(self, params: Any) -> Any:
        """The parameters with what is trained in place of kernels."""
        # fold_in(seed, 3): apart from the keys of parameters, training and evaluation.
        key = jax.random.fold_in(jax.random.key(self.seed), 3)
        return trainable.with_adapters(params, self.trainable, key)

    def split(self, params: Any) -> tuple[Any, Any]:
        """The parameters that are trained, and those that are not."""
        keep = trainable.is_trained(self.model, self.trainable)
        return trainable.split(params, keep)


def make_step_settings(config, *, num_steps: int) -> StepSettings:
    """The step_settings of a config for a run of num_steps."""
    model, trained = network.make_model(config), trainable.of_config(config)
    trainable.check(model, trained)
    frozen = trainable.frozen_stages(model, trained)
    model = model.clone(freeze_stages=frozen)
    return StepSettings(
        model=model,
        optimizer=make_optimizer(
            config.optimizer,
            num_steps=num_steps,
            num_stages=network.num_stages(model),
            freeze_stages=frozen,
        ),
        seed=config.seed,
        augment=parse(config.augment.to_dict()),
        label_smoothing=config.loss.label_smoothing,
        frame_weight=config.loss.frame_weight,
        mask_weight=config.loss.mask_weight,
        alignment=config.loss.alignment,
        uniformity=config.loss.uniformity,
        self_blend=config.loss.self_blend > 0,
        stored=selfblend.Stored(
            quality=config.dataset.jpeg_quality,
            subsampling=config.dataset.jpeg_subsampling,
        ),
        ema_decay=config.optimizer.ema_decay,
        accumulate=config.accumulate,
        sam=config.optimizer.sam_radius > 0,
        trainable=trained,
    )


def zero_totals() -> Totals:
    """Totals of an epoch that has not begun."""
    return Totals(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def create_train_state(
    step_settings: StepSettings, clip_shape: tuple[int, ...]
) -> TrainState:
    """A fresh state; clip_shape is (T, H, W, 3). Jit it to have it born sharded."""
    params_key = jax.random.fold_in(jax.random.key(step_settings.seed), 0)
    frames = jnp.zeros((1, *clip_shape), jnp.float32)
    length = jnp.ones((1,), jnp.int32)
    variables = step_settings.model.init(params_key, frames, length, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    params = step_settings.with_adapters(params)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=step_settings.optimizer.init(step_settings.split(params)[0]),
        ema_params=None,
        totals=zero_totals(),
    )
    return start_average(step_settings, state) if step_settings.ema_decay else state


def start_average(step_settings: StepSettings, state: TrainState) -> TrainState:
    """The state with averages that begin at its parameters and statistics."""
    # Copies: two leaves of a donated state must not share a buffer.
    trained, _ = step_settings.split(state.params)
    params, batch_stats = jax.tree.map(jnp.copy, (trained, state.batch_stats))
    return state.replace(ema_params=params, ema_batch_stats=batch_stats)


def average_decay(decay: float, step: jax.Array) -> jax.Array:
    """What an average keeps of itself at an update: min(decay, (1 + t) / (10 + t)).

    t updates came before. Less than `decay` while there are few, or the first weights,
    which are random, would outlast the training (TensorFlow's
    ExponentialMovingAverage with num_updates).
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def normalise(model: nn.Module, frames: jax.Array) -> jax.Array:
    """frames in [0, 1], last axis RGB -> as the model's backbone expects them."""
    mean, std = _scale(model)
    return (frames - jnp.array(mean)) / jnp.array(std)


def _scale(model: Any) -> Scale:
    return scale_of(model.backbone, model.vit_style)


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
    step_settings: StepSettings, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of all parameters that are trained, on a global batch.

    A batch whose loss or gradients are not finite changes nothing: the returned state
    is the given one, and metrics.finite says so.
    """
    grads, (loss, logits, batch_stats) = gradients(step_settings, state, batch)
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

    def gradients_at(trained: Any, _: int) -> Any:
        params = trainable.join(state.params, trained)
        return gradients(step_settings, state.replace(params=params), batch)[0]

    proposed = update(step_settings, state, grads, batch_stats, gradients_at)
    if step_settings.sam:  # its update is made of other gradients than these
        trained, _ = step_settings.split(proposed.params)
        finite &= jnp.isfinite(optax.tree.norm(trained))
    correct = ((logits > 0) == (batch.label > 0.5)) & batch.valid
    clips = jnp.sum(batch.valid).astype(jnp.float32)
    totals = Totals(
        loss=state.totals.loss + loss * clips,
        correct=state.totals.correct + jnp.sum(correct),
        clips=state.totals.clips + clips,
    )
    # A select per leaf costs nothing beside the update that it fuses with, and the
    # host can learn of the fault a step later without having lost the good state.
    kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        proposed.replace(totals=totals),
        state,
    )
    accuracy = weighted_mean(correct.astype(jnp.float32), batch.valid)
    return kept, Metrics(accuracy, finite, gradient_norm, loss)


def gradients(
    step_settings: StepSettings, state: TrainState, batch: Batch
) -> tuple[Any, tuple[jax.Array, jax.Array, Any]]:
    """The gradients of the objective on a batch, computed in `accumulate` parts.

    Each part is normalised by its own BatchNorm statistics, and moves the running ones;
    all else is as if the batch were computed at once. The memory is that of a part.

    Returns:
      As the trained parameters; and (loss, logits float32[B], updated BatchNorm
      statistics).
    """
    counts = Counts.of(batch)
    trained, frozen = step_settings.split(state.params)

    def of_trained(trained: Any, *rest: Any):
        return objective(step_settings, trainable.join(frozen, trained), *rest)

    gradient = jax.grad(of_trained, has_aux=True)

    def of_part(batch_stats, batch: Batch, part: jax.Array | None):
        frames, key = prepare_inputs(step_settings, state.step, batch)
        batch = batch._replace(mask=moved_masks(step_settings, state.step, batch))
        if part is not None:
            key = jax.random.fold_in(key, part)  # dropout draws by place, not by index
        return gradient(trained, batch_stats, batch, frames, key, counts)

    parts = step_settings.accumulate
    if parts == 1:
        return of_part(state.batch_stats, batch, None)

    def add_part(sums, part: jax.Array):
        grads, loss, batch_stats = sums
        more, (more_loss, logits, batch_stats) = of_part(
            batch_stats, take_part(batch, part, parts), part
        )
        return (optax.tree.add(grads, more), loss + more_loss, batch_stats), logits

    nothing = optax.tree.zeros_like(trained), jnp.zeros(()), state.batch_stats
    (grads, loss, batch_stats), logits = jax.lax.scan(
        add_part, nothing, jnp.arange(parts)
    )
    return grads, (loss, join_parts(logits), batch_stats)


def take_part(batch: Any, part: jax.Array, parts: int) -> Any:
    """One of the parts of a batch: [B, ...] -> [B / parts, ...].

    Rows come in twos, as a fake beside its original does, and stay together. Of `parts`
    neighbouring twos each goes to another part, shifted from group to group, so that
    methods which take turns come into every part. Each device takes from its own rows,
    and the parts are the same on any number of devices.
    """

    def take(rows: jax.Array) -> jax.Array:
        twos = rows.reshape(-1, parts, 2, *rows.shape[1:])
        place = (part - _shifts(len(twos), parts)) % parts
        chosen = jax.vmap(lambda group, i: group[i])(twos, place)
        return chosen.reshape(-1, *rows.shape[1:])

    return jax.tree.map(take, batch)


def join_parts(rows: jax.Array) -> jax.Array:
    """What was computed of each part, [parts, B / parts], in the batch's order [B]."""
    parts = len(rows)
    twos = jnp.swapaxes(rows.reshape(parts, -1, 2), 0, 1)
    part = (jnp.arange(parts) + _shifts(len(twos), parts)[:, None]) % parts
    return jax.vmap(lambda group, i: group[i])(twos, part).reshape(-1)


def _shifts(groups: int, parts: int) -> np.ndarray:
    # By multiples of the golden ratio, which fall in step with no number of methods.
    # With a shift of one, two of four methods would never come into one of two parts.
    return (np.arange(groups) * GOLDEN % 1 * parts).astype(int)


def prepare_inputs(
    step_settings: StepSettings, step: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The frames float32[B,T,H,W,3] that a step sees, and its key for dropout.

    Blended where the batch says so, augmented, normalised. All draws follow from seed,
    step and index of the clip.
    """
    augment_key, blend_key, dropout_key = _keys(step_settings, step)
    frames = batch.frames.astype(jnp.float32) / 255.0
    if step_settings.self_blend:
        frames = selfblend.self_blend(
            frames,
            batch.blend,
            batch.face,
            key=blend_key,
            index_B=batch.index,
            stored=step_settings.stored,
        )
    frames = augment_clips(
        frames, key=augment_key, index_B=batch.index, settings=step_settings.augment
    )
    return normalise(step_settings.model, frames), dropout_key


def _keys(step_settings: StepSettings, step: jax.Array) -> jax.Array:
    """The keys of augmentation, blending and dropout."""
    # fold_in(seed, 1): apart from the parameters' key, which is fold_in(seed, 0).
    run_key = jax.random.fold_in(jax.random.key(step_settings.seed), 1)
    return jax.random.split(jax.random.fold_in(run_key, step), 3)


def moved_masks(
    step_settings: StepSettings, step: jax.Array, batch: Batch
) -> jax.Array | None:
    """The masks of the frames that a step sees: float32[B,T,M,M], the forged share of
    each place, below 0 where none is known; None where there are no masks."""
    if batch.mask is None:
        return None
    moved = augment_masks(
        batch.mask.astype(jnp.float32) / MASK_PARTS,
        key=_keys(step_settings, step)[0],
        index_B=batch.index,
        settings=step_settings.augment,
    )
    known = batch.mask[:, 0, 0, 0] != UNKNOWN
    return jnp.where(known[:, None, None, None], moved, -1.0)


def pictures(step_settings: StepSettings, step: jax.Array, batch: Batch) -> jax.Array:
    """The clips of a batch as a step sees them: uint8[B*H, T*W, 3], a clip in a row."""
    frames, _ = prepare_inputs(step_settings, step, batch)
    mean, std = _scale(step_settings.model)
    shown = frames * jnp.array(std) + jnp.array(mean)
    b, t, h, w, c = shown.shape
    sheet = shown.transpose(0, 2, 1, 3, 4).reshape(b * h, t * w, c)
    return jnp.round(jnp.clip(sheet, 0, 1) * 255).astype(jnp.uint8)


def objective(
    step_settings: StepSettings,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    frames: jax.Array,
    dropout_key: jax.Array,
    counts: "Counts",
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
    """What an update lowers: the clips' loss and, weighted, those of frames, places.

    They are means over `counts`, which are those of the batch or, where this is a part
    of one, of the whole: the parts' objectives add up to the batch's. Only what
    sphere_loss adds is of a part's own frames.

    Returns:
      It, and (loss, logits float32[B], updated BatchNorm statistics).
    """
    on_sphere = step_settings.alignment or step_settings.uniformity
    aside_too = on_sphere or step_settings.mask_weight
    running = bool(step_settings.frame_weight)
    method = "frame_logits" if running else None
    if aside_too:
        method = "training_outputs"
    output, updated = step_settings.model.apply(
        {"params": trainable.merged(params), "batch_stats": batch_stats},
        frames,
        batch.length,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
        method=method,
        **({"running": running} if aside_too else {}),
    )
    features = patches = None
    if aside_too:
        output, features, patches = output
    added = jnp.zeros(())
    if patches is not None:
        added += step_settings.mask_weight * place_loss(patches, batch, counts)
    # The running logit after the last frame is the clip's.
    logits = _at_end(output, batch.length) if step_settings.frame_weight else output
    smoothing, valid = step_settings.label_smoothing, batch.valid
    losses = clip_losses(logits, batch.label, smoothing)
    loss = jnp.sum(losses * valid) / counts.clips
    aside = (loss, logits, updated.get("batch_stats", {}))
    part = jnp.sum(valid) / counts.clips
    if step_settings.trainable.kind == "svd":
        added += part * trainable.adapter_loss(params, step_settings.trainable)
    if on_sphere and features is not None:
        added += part * sphere_loss(step_settings, features, batch)
    if not step_settings.frame_weight:
        return loss + added, aside
    per_frame = clip_losses(output, batch.label[:, None], smoothing)
    frame_loss = jnp.sum(per_frame * valid_frames(batch)) / counts.frames
    return loss + step_settings.frame_weight * frame_loss + added, aside


def place_loss(patches_BThw: jax.Array, batch: Batch, counts: "Counts") -> jax.Array:
    """Cross-entropy of each place's logit against its forged share, in nats.

    The mean over places, then over the frames whose masks are known. The batch's masks
    are those that moved_masks gives.
    """
    assert batch.mask is not None  # noqa: S101
    share_BThw = jax.image.resize(batch.mask, patches_BThw.shape, "linear")
    losses = optax.sigmoid_binary_cross_entropy(patches_BThw, share_BThw)
    counted_BT = valid_frames(batch) & (batch.mask[:, :, 0, 0] >= 0)
    per_frame_BT = jnp.mean(losses, axis=(2, 3))
    return jnp.sum(jnp.where(counted_BT, per_frame_BT, 0)) / counts.masked


def sphere_loss(
    step_settings: StepSettings, features_BTD: jax.Array, batch: Batch
) -> jax.Array:
    """How far frames of a class lie apart, and how unevenly all lie, on the sphere.

    Alignment and uniformity of Wang & Isola (ICML 2020), weighted, over all pairs of a
    batch's frames; the pairs of alignment are those of a class (Yermakov et al. 2025).
    Features are unit vectors.
    """
    num_frames = features_BTD.shape[1]
    features_ND = features_BTD.reshape(-1, features_BTD.shape[-1])
    valid_N = valid_frames(batch).reshape(-1)
    label_N = jnp.repeat(batch.label, num_frames)
    apart_NN = jnp.maximum(2 - 2 * features_ND @ features_ND.T, 0)
    pairs_NN = jnp.triu(valid_N[:, None] & valid_N, k=1)
    same_NN = pairs_NN & (label_N[:, None] == label_N)
    alignment = weighted_mean(apart_NN, same_NN)
    uniformity = jnp.log(
        jnp.maximum(weighted_mean(jnp.exp(-2 * apart_NN), pairs_NN), 1e-12)
    )
    return step_settings.alignment * alignment + step_settings.uniformity * uniformity


def valid_frames(batch: Batch) -> jax.Array:
    """Which frames of a batch are those of a clip, bool[B,T]."""
    in_clip = jnp.arange(batch.frames.shape[1]) < batch.length[:, None]
    return in_clip & batch.valid[:, None]


class Counts(NamedTuple):
    """Over what the losses of a batch are means; at least 1 each."""

    clips: jax.Array
    frames: jax.Array
    masked: jax.Array

    @classmethod
    def of(cls, batch: Batch) -> "Counts":
        """Of a whole batch. masked: frames whose masks are known."""
        frames = valid_frames(batch)
        masked = jnp.zeros((), bool)
        if batch.mask is not None:
            masked = frames & (batch.mask[:, :, 0, 0] != UNKNOWN)
        valid = batch.valid, frames, masked
        return cls(*(jnp.maximum(jnp.sum(one), 1) for one in valid))


def _at_end(values_BT: jax.Array, length_B: jax.Array) -> jax.Array:
    """Each clip's value at its last valid frame, [B]."""
    ends = jnp.maximum(length_B, 1)[:, None] - 1
    return jnp.take_along_axis(values_BT, ends, axis=1)[:, 0]


def update(
    step_settings: StepSettings,
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    gradients_at: Callable[[Any, int], Any],
) -> TrainState:
    """The state after the optimiser's update, its averages moved on; totals as given.

    `batch_stats` are BatchNorm's statistics after the batch; `gradients_at` gives the
    batch's gradients at other parameters, for SAM alone.
    """
    trained, frozen = step_settings.split(state.params)
    elsewhere = {"grad_fn": gradients_at} if step_settings.sam else {}
    updates, opt_state = step_settings.optimizer.update(
        grads, state.opt_state, trained, **elsewhere
    )
    trained: Any = optax.apply_updates(trained, updates)
    averages: Any = (state.ema_params, state.ema_batch_stats)
    if step_settings.ema_decay:
        decay = average_decay(step_settings.ema_decay, state.step)
        averages = optax.incremental_update(
            (trained, batch_stats), averages, step_size=1.0 - decay
        )
    return state.replace(
        step=state.step + 1,
        params=trainable.join(frozen, trained),
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=averages[0],
        ema_batch_stats=averages[1],
    )


def eval_step(model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    """The logits float32[B] of the clips of a batch; its state is left alone."""
    return clip_logits(model, variables, (batch.frames, batch.length))


def clip_logits(model: nn.Module, variables: Variables, clips: Clips) -> jax.Array:
    """The logits float32[B] of clips of which nothing else is known."""
    frames, length = clips
    frames = normalise(model, jnp.asarray(frames, jnp.float32) / 255.0)
    return model.apply(variables, frames, length, train=False)  # pyright: ignore[reportReturnType]


def clip_outputs(
    model: nn.Module, variables: Variables, clips: Clips
) -> tuple[jax.Array, jax.Array]:
    """clip_logits, and the clips' features float32[B,D], which a guard looks at."""
    frames, length = clips
    frames = normalise(model, jnp.asarray(frames, jnp.float32) / 255.0)
    return model.apply(variables, frames, length, method="logits_and_features")  # pyright: ignore[reportReturnType]


def eval_outputs(
    model: nn.Module, variables: Variables, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """clip_outputs of the clips of a batch."""
    return clip_outputs(model, variables, (batch.frames, batch.length))


def degraded_eval_step(
    model: nn.Module,
    family: degrade.Family,
    given: tuple[Variables, jax.Array],
    batch: Batch,
) -> jax.Array:
    """eval_step of clips that a family made worse; given: variables and strength."""
    variables, strength = given
    frames = batch.frames.astype(jnp.float32) / 255.0
    if family.apply is not None:  # else they come as they are to be scored
        frames = degrade.degrade_clips(frames, family, strength, batch.index)
    return model.apply(variables, normalise(model, frames), batch.length, train=False)  # pyright: ignore[reportReturnType]


def blended_eval_step(
    model: nn.Module,
    seed: int,
    stored: selfblend.Stored,
    variables: Variables,
    batch: Batch,
) -> jax.Array:
    """eval_step of clips that are all real: those with label 1 are self-blended first.

    The others pass all that is no blending, as in training. The draws follow from the
    seed and the clip's index, so each evaluation of a run sees the same clips.
    """
    frames = selfblend.self_blend(
        batch.frames.astype(jnp.float32) / 255.0,
        batch.label > 0.5,
        batch.face,
        # fold_in(seed, 2): apart from the keys of parameters and training.
        key=jax.random.fold_in(jax.random.key(seed), 2),
        index_B=batch.index,
        stored=stored,
    )
    return model.apply(variables, normalise(model, frames), batch.length, train=False)  # pyright: ignore[reportReturnType]
