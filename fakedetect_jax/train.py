"""The loop: next batch, step, and at each epoch's end evaluate, save."""

import functools
import importlib.util
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.augment.fields import parse
from fakedetect_jax.data import leaks, reader, sets
from fakedetect_jax.data.batch import Batch
from fakedetect_jax.data.dataset import (
    check_unchanged,
    count_videos,
    dataset_config,
    is_built,
)
from fakedetect_jax.data.feed import train_feed
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import TrainOrder
from fakedetect_jax.data.plan import Plan, make_plan
from fakedetect_jax.data.sets import Data
from fakedetect_jax.errors import CheckpointError, ConfigError, NonFiniteError
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics.calibration import calibrate
from fakedetect_jax.metrics.records import ClipScore
from fakedetect_jax.model import network, pretrained, steps, trainable
from fakedetect_jax.model.optimizer import learning_rates
from fakedetect_jax.pages import formats
from fakedetect_jax.programs.compiled import (
    TrainProgram,
    compile_eval_step,
    fit_train_step,
    state_places,
)
from fakedetect_jax.run import fixed, parallel, workdir
from fakedetect_jax.run.checkpoint import (
    CheckpointFacts,
    Checkpoints,
    Frozen,
    SourceFrames,
)
from fakedetect_jax.run.leaves import leaf_digests
from fakedetect_jax.run.metrics_file import MetricsFile
from fakedetect_jax.run.speed import Clock, Speed, Trace, peak_flops
from fakedetect_jax.run.workdir import Run
from tfds_ffpp.errors import Interrupted
from tfds_ffpp.store import copies


def check_weights(config) -> None:
    """Refuses an init_from that cannot work; touches no device.

    Raises CheckpointError.
    """
    if config.init_from:
        path = copies.here(config.init_from)
        image_size = config.dataset.image_size
        pretrained.check_fit(path, network.make_model(config), image_size)


def check_groups(config) -> None:
    """What only augmentation, model, dataset, tracker know of their fields; no device.

    Raises ConfigError or the dataset's SettingError.
    """
    if config.tracker and importlib.util.find_spec(config.tracker) is None:
        raise ConfigError(
            f"config.tracker is {config.tracker}, a package that is not installed: "
            f"pip install {config.tracker}"
        )
    parse(config.augment.to_dict())
    model = network.make_model(config)
    network.check_fields(model)
    network.check_image_size(model, config.dataset.image_size)
    trainable.check(model, trainable.of_config(config))
    try:
        dataset_config(config)
    except TypeError as error:
        field = str(error).split("argument ")[-1]
        raise ConfigError(
            f"config.dataset has the field {field}, which datasets do not have; "
            f"{settings.config_file('ffpp')} and FfppConfig list them"
        ) from error


def first_state(
    step_settings: steps.StepSettings, clip_shape, config, mesh
) -> steps.TrainState:
    """The state before the first step, born where it stays."""
    create = functools.partial(steps.create_train_state, step_settings, clip_shape)
    split = config.shard_optimizer
    places = state_places(jax.eval_shape(create), mesh, shard_optimizer=split)
    state = jax.jit(create, out_shardings=places)()
    if not config.init_from:
        return state
    backbone = pretrained.load_backbone(
        copies.here(config.init_from), step_settings.model, config.dataset.image_size
    )
    statistics = backbone.batch_stats and {"backbone": backbone.batch_stats}
    params = {**state.params, "backbone": backbone.params}
    if step_settings.trainable.kind == "svd":  # of the kernels as they were loaded
        params = jax.jit(step_settings.with_adapters)(params)
    loaded = state.replace(
        params=params,
        batch_stats={**state.batch_stats, **statistics},
    )
    if step_settings.ema_decay:
        loaded = steps.start_average(step_settings, loaded)
    # The moments are where they belong.
    moments = {"opt_state": loaded.opt_state}
    return parallel.put_replicated(loaded.replace(opt_state=()), mesh).replace(
        **moments
    )


def check_resume(
    run: Run, facts: CheckpointFacts, data: Data, step: int, plan: Plan
) -> None:
    """Tells which fields, and so what of the plan, changed since a checkpoint.

    Raises CheckpointError when one of them makes another model, and DataError when the
    dataset is another one: what was test may be train by now.
    """
    changed = settings.differences(facts.config, run.config.to_dict())
    shown = {k: f"{k} was {old} and is {new}" for k, (old, new) in changed.items()}
    fatal = [text for k, text in shown.items() if fixed.is_fixed(k)]
    if fatal:
        raise CheckpointError(
            f"checkpoint {step} in {run.workdir} was written with another config: "
            f"{'; '.join(fatal)}; use that config or another --workdir"
        )
    what = f"checkpoint {step} in {run.workdir}"
    check_unchanged(facts.dataset, data.own, what=what)
    for name, now in data.others.items():
        check_unchanged(facts.other_datasets.get(name), now, what=what, name=name)
    if shown:
        run.terminal.warn(f"resumed with changed fields: {'; '.join(shown.values())}")
    before = facts.steps_per_epoch or plan.steps_per_epoch
    if before != plan.steps_per_epoch:
        run.terminal.warn(
            f"an epoch was {before} steps and is {plan.steps_per_epoch}: step {step} "
            f"is {step / before:.1f} epochs of before and "
            f"{step / plan.steps_per_epoch:.1f} of now"
        )
    devices = parallel.describe_devices(run.mesh)
    if facts.devices != devices:
        run.terminal.warn(
            f"devices were {facts.devices} and are {devices}: "
            "losses agree to rounding, not to the bit"
        )
    now = workdir.versions()
    for name, old in facts.versions.items():
        if now.get(name) != old:
            run.terminal.warn(
                f"{name} was {old} and is {now.get(name)}: losses may differ slightly"
            )


class Training(NamedTuple):
    """What the loop works with; nothing of it changes from step to step."""

    run: Run
    plan: Plan
    data: Data
    order: TrainOrder | MixedOrder
    checkpoints: Checkpoints
    facts: CheckpointFacts  # of every checkpoint
    metrics_file: MetricsFile | None  # on process 0 only
    program: TrainProgram
    learning_rates: np.ndarray  # of each step
    pictures: Callable  # steps.pictures on one device of this process
    eval_step: Callable
    vote: parallel.Vote


def train(run: Run) -> Path | None:
    """Trains to the end of the plan, resuming from the workdir's newest checkpoint.

    Returns:
      The folder of config.eval.final_split, scored with the best checkpoint; None
      without a final split.
    """
    config = run.config
    checkpoints = Checkpoints(
        run.workdir / "checkpoints",
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
    )
    try:
        _train_to_end(run, checkpoints)
    except BaseException as error:
        # Processes wait for each other in a save; one that failed must end at once.
        if run.hosts.num_processes == 1 or isinstance(error, Interrupted):
            checkpoints.close()
        raise
    checkpoints.close()
    if not config.eval.final_split:
        evaluate.fit_guard(run)
        return None
    with run.terminal.phase("evaluate"):
        return evaluate.evaluate(run, config.eval.final_split)


def _train_to_end(run: Run, checkpoints: Checkpoints) -> None:
    config, terminal = run.config, run.terminal
    for sentence in checkpoints.set_aside_damaged():
        terminal.warn(sentence)
    data = _open_data(run)
    plan = make_plan(config, len(data.train.videos))
    start = _agree_on_start(run, plan, checkpoints)
    if start:
        before = checkpoints.facts(start)
        check_resume(run, before, data, start, plan)
        shared = before.leaks
    else:
        shared = _look_for_leaks(run)
    if jax.process_index() == 0:
        workdir.write_record(run, parallel.describe_devices(run.mesh))
    if start >= plan.num_steps and _is_closed(config, checkpoints, start):
        terminal.say(_complete(start, plan.num_steps))
        return
    if start and _has_stopped_early(config, plan, checkpoints, start):
        terminal.say(_stopped_early(config, checkpoints, start))
        return
    if run.profile and not start < run.profile[0] <= run.profile[-1] <= plan.num_steps:
        raise ConfigError(
            f"--profile_steps is {run.profile[0]}:{run.profile[-1]}, but this start "
            f"makes the steps {start + 1} to {plan.num_steps}; name some of them"
        )
    step_settings = steps.make_step_settings(config, num_steps=plan.num_steps)
    abstract = _abstract_state(step_settings, config)
    _check_disk(run, checkpoints.steps(), abstract)
    _summarise(run, plan, abstract, data, start)
    program = _compile(run, step_settings, abstract)
    if jax.process_count() == 1:  # several agree to stop after their first step
        run.stop.check()
    state = _load_or_create(run, step_settings, checkpoints, start, abstract)
    first = jax.process_index() == 0
    fields = settings.flatten(config.to_dict())
    metrics_file = None
    if first:
        metrics_file = MetricsFile(
            run.workdir, resumed_step=start, fields=fields, tracker=config.tracker
        )
    training = Training(
        run=run,
        plan=plan,
        data=data,
        order=sets.train_order(config, data),
        checkpoints=checkpoints,
        facts=_facts(run, plan, data, shared),
        metrics_file=metrics_file,
        program=program,
        learning_rates=learning_rates(config.optimizer, plan.num_steps),
        pictures=jax.jit(functools.partial(steps.pictures, step_settings)),
        eval_step=compile_eval_step(
            step_settings.model,
            run.mesh,
            blends=(config.seed, step_settings.stored) if data.blended_val else None,
        ),
        vote=parallel.Vote(run.mesh),
    )
    # One may take longer to compile; a collective would wait for it for 30 s only.
    run.hosts.meet("ready for the first step")
    try:
        _run_steps(training, state, start)
    finally:
        if metrics_file is not None:
            metrics_file.close()


def dry_run(run: Run) -> None:
    """Checks data, disk and memory, compiles the step, says what the run would take.

    Trains nothing and writes nothing into the workdir. Where the dataset is not built
    yet the plan is that of the videos in data.manual_dir, none of them read.
    """
    config, say = run.config, run.terminal.say
    data, done = None, []
    if is_built(config):
        data = _open_data(run)
        plan = make_plan(config, len(data.train.videos))
        folder = run.workdir / "checkpoints"
        done = Checkpoints(folder, read_only=True).steps() if folder.is_dir() else []
    else:
        counted = count_videos(config)
        plan = make_plan(config, counted["train"] + sets.count_others(config))
        shown = ", ".join(f"{name} {n}" for name, n in counted.items())
        say(f"dataset   {config.dataset.name}: not built yet; videos: {shown}")
    step_settings = steps.make_step_settings(config, num_steps=plan.num_steps)
    abstract = _abstract_state(step_settings, config)
    checkpoints = _check_disk(run, done, abstract)
    if data is not None:
        _summarise(run, plan, abstract, data, max(done, default=0))
    else:
        say(f"steps     {plan.num_steps}, {plan.steps_per_epoch} per epoch")
    program = _compile(run, step_settings, abstract)
    say(f"disk      {checkpoints / 1e6:,.0f} MB more for checkpoints in {run.workdir}")
    for line in program.lines(peak_flops(run.mesh, config.model.dtype)):
        say(line)
    say("dry run: nothing was trained or written; without --dry_run the run begins")


def _abstract_state(step_settings: steps.StepSettings, config) -> steps.TrainState:
    """Shapes and types of a state, without its numbers."""
    shape = settings.clip_shape(config)
    return jax.eval_shape(
        functools.partial(steps.create_train_state, step_settings, shape)
    )


def _compile(
    run: Run, step_settings: steps.StepSettings, abstract: steps.TrainState
) -> TrainProgram:
    with run.terminal.phase("compile"):
        return fit_train_step(
            step_settings, abstract, run.config, run.mesh, warn=run.terminal.warn
        )


def _open_data(run: Run) -> Data:
    """The splits of the datasets; raises DataError where one lacks reals or fakes."""
    config = run.config
    builders = sets.open_all(config)
    facts = sets.facts_of(builders)
    evaluate.meet_on_data(run, facts)
    data = sets.open_data(config, builders, facts)
    for sentence in sets.cut_apart(config, builders):
        run.terminal.warn(sentence)
    final = config.eval.final_split
    if final and not config.eval.dataset:  # said now, not after the last step
        folder = Path(builders[config.dataset.name].data_dir)
        one_is_enough = config.dataset.allow_one_class
        videos = reader.read_videos(folder, final)
        reader.need_both_classes(videos, final, one_is_enough=one_is_enough)
    return data


def _look_for_leaks(run: Run) -> leaks.LeakCounts | None:
    """What the run's datasets share; None with one. Raises DataError unless allowed."""
    builders, found = sets.open_all(run.config), []
    if len(builders) == 1:
        return None

    def look() -> None:
        found.extend(sets.find_leaks(run.config, builders, run.terminal.say))
        allowed = run.config.data.allow_leaks
        sentence = leaks.refuse(found, allowed=allowed)
        if sentence:
            run.terminal.warn(sentence)

    parallel.first_alone(look, run.hosts)
    return leaks.LeakCounts(
        *map(int, parallel.from_first(np.array(leaks.count(found))))
    )


def _agree_on_start(run: Run, plan: Plan, checkpoints: Checkpoints) -> int:
    """The step of the newest checkpoint, the same on all hosts; 0 without one."""
    start = checkpoints.latest() or 0
    run.hosts.meet("plan", plan._asdict(), cure="give all hosts the same config")
    run.hosts.meet(
        "resume",
        {"the newest checkpoint": start},
        code=CheckpointError.exit_code,
        cure=f"{run.workdir} must be on a file system that all hosts see",
    )
    return parallel.agree(start)


def _facts(
    run: Run, plan: Plan, data: Data, shared: leaks.LeakCounts | None
) -> CheckpointFacts:
    """What every checkpoint says of its run."""
    return CheckpointFacts(
        config=run.config.to_dict(),
        versions=workdir.versions(),
        devices=parallel.describe_devices(run.mesh),
        source_frames=_source_frames(data.train.videos),
        val_fakes=reader.SELF_BLENDED if data.blended_val else "forged",
        made=data.made,
        dataset=data.own,
        other_datasets=data.others,
        leaks=shared,
        steps_per_epoch=plan.steps_per_epoch,
        frozen=_frozen(run.config),
    )


def _frozen(config) -> Frozen | None:
    """What checkpoints leave out, where they do."""
    if not config.checkpoint.delta:
        return None
    leaves = pretrained.frozen_weights(config)
    return Frozen(config.init_from, leaf_digests(leaves))


def _complete(start: int, num_steps: int) -> str:
    """Why nothing is trained."""
    if start == num_steps:
        return f"training is complete: {start} of {num_steps} steps"
    return (
        f"nothing is trained: the run has {start} steps and this config asks for "
        f"{num_steps}; what follows is of the {start} steps; for a shorter run give "
        "another --workdir"
    )


def _source_frames(videos) -> SourceFrames:
    """How long the videos were, which decides how longer ones are cut up."""
    counts = sorted(video.source_frames for video in videos)
    return SourceFrames(median=counts[len(counts) // 2], max=counts[-1])


def _is_closed(config, checkpoints: Checkpoints, step: int) -> bool:
    """Whether the epoch that a step ends was evaluated."""
    return not config.eval.every_epochs or bool(checkpoints.metrics(step))


def _has_stopped_early(config, plan: Plan, checkpoints: Checkpoints, step: int) -> bool:
    """Whether eval.patience evaluations, the last at `step`, found no better one.

    The best is in the checkpoints, so a resumed run says the same. All hosts agree.
    """
    if not config.eval.patience:
        return False
    checkpoints.finish()
    ranked = checkpoints.ranked()
    if step not in ranked:
        return False
    every = config.eval.every_epochs * plan.steps_per_epoch
    return bool(
        parallel.from_first((step - ranked[0]) // every) >= config.eval.patience
    )


def _stopped_early(config, checkpoints: Checkpoints, step: int) -> str:
    return (
        f"training ends with step {step}: none of {config.eval.patience} evaluations "
        f"(eval.patience) was better than that of step {checkpoints.ranked()[0]}"
    )


def _load_or_create(
    run: Run,
    step_settings,
    checkpoints: Checkpoints,
    start: int,
    abstract: steps.TrainState,
):
    if not start:
        clip_shape = settings.clip_shape(run.config)
        with run.terminal.phase("initialise"):
            state = first_state(step_settings, clip_shape, run.config, run.mesh)
        if run.config.init_from:
            loaded = pretrained.backbone_shapes(
                step_settings.model, run.config.dataset.image_size
            )
            numbers = sum(math.prod(shape) for shape in loaded.values())
            run.terminal.say(
                f"loaded    {len(loaded)} tensors, {numbers:,} numbers, "
                f"from {run.config.init_from} into the backbone"
            )
        return state
    with run.terminal.phase("restore"):
        left_out = checkpoints.facts(start).frozen
        frozen = pretrained.frozen_weights(run.config) if left_out else None
        restored = checkpoints.restore(start, abstract, frozen)
        split = run.config.shard_optimizer
        places = state_places(abstract, run.mesh, shard_optimizer=split)
        return parallel.put(restored, places)


def _check_disk(run: Run, done: Sequence[int], state: steps.TrainState) -> int:
    """The bytes of the checkpoints to come, all that are kept at once.

    done: those that are there. Raises CheckpointError unless the others fit.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    kept = run.config.checkpoint.keep_latest + run.config.checkpoint.keep_best
    # One more: a new one is written before an old one is deleted.
    missing = max(kept + 1 - len(done), 1)
    workdir.ensure_writable(run.workdir, need_bytes=size * missing, make=run.writes)
    return size * missing


def learns_from_nothing(config, *, made: bool) -> bool:
    """Whether a full-size backbone begins on real videos with random weights."""
    full = config.model.backbone not in ("resnet", "convnext", "vit")
    return full and not (config.init_from or made)


def _summarise(run: Run, plan: Plan, state, data: Data, start: int) -> None:
    config, say = run.config, run.terminal.say
    devices = run.mesh.devices.size
    parameters = network.count_parameters(state.params)
    say(f"devices   {parallel.describe_devices(run.mesh)}; mesh data={devices}")
    say(f"model     {parameters:,} parameters, {config.model.dtype}")
    if config.trainable != "all":
        say(f"trained   {_trained(config, state.params)}")
    weights = f"weights of {config.init_from}" if config.init_from else "random weights"
    begun = f"as of step {start}, begun with " if start else ""
    say(f"backbone  {config.model.backbone}: {begun}{weights}")
    for line in sets.lines(config, data):
        say(line)
    train_missing = len(evaluate.unscored(data.train, config))
    val_missing = sum(len(evaluate.unscored(one.split, config)) for one in data.val)
    if train_missing or val_missing:
        say(
            f"faces     {train_missing} train and {val_missing} val videos are left "
            f"out: no clip shows a face in {config.data.min_coverage:.0%} of its frames"
        )
    say(
        f"batch     {config.batch_size} clips of {config.data.clip_frames} frames at "
        f"{config.dataset.image_size} px, {config.batch_size // devices} per device"
    )
    say(f"steps     {plan.num_steps}, {plan.steps_per_epoch} per epoch; from {start}")
    if data.blended_val:
        say(
            "val       its fakes are all held out: checkpoint, threshold and "
            "temperature are chosen by its real videos against self-blended copies"
        )
    if not start and learns_from_nothing(config, made=data.made):
        run.terminal.warn(
            f"{config.model.backbone} begins with random weights, but published "
            "results on real videos begin with pretrained ones: set "
            "--config.init_from=FILE.safetensors; docs/weights.md says where such a "
            "file comes from"
        )


def _trained(config, params) -> str:
    """How many of the parameters are trained, and which."""
    chosen = trainable.of_config(config)
    keep = trainable.is_trained(network.make_model(config), chosen)
    count = network.count_parameters(trainable.split(params, keep)[0])
    share = count / network.count_parameters(params)
    return f"{chosen.kind}: {count:,} parameters, {share:.2%} of them all"


def _run_steps(training: Training, state, start: int) -> None:
    run, plan, config = training.run, training.plan, training.run.config
    checkpoints, batch_size = training.checkpoints, training.run.config.batch_size
    if start and plan.ends_epoch(start) and parallel.fetch(state.totals.clips):
        # The run was stopped between the last step of an epoch and its evaluation.
        state = _end_epoch(training, start, state, None)
    feed = train_feed(
        training.order,
        training.data.train.reader,
        training.data.train.videos,
        config.data,
        shape=settings.batch_shape(config, batch_size, train=True),
        rows=parallel.local_rows(batch_size, run.mesh),
        start_step=start,
        num_steps=plan.num_steps,
    )
    batches = parallel.put_ahead(feed, run.mesh, config.data.device_prefetch)
    trace = Trace(run.workdir / "profile", run.profile)
    try:
        with run.terminal.progress("train", plan.num_steps, start) as bar:
            clock, running, note = _new_clock(training), None, ""
            for step in range(start + 1, plan.num_steps + 1):
                trace.begin(step)
                asked = time.perf_counter()
                host_batch, batch = next(batches)
                waited = time.perf_counter() - asked
                clock.count_wait(waited, running and running.loss)
                state, metrics = training.program.step(state, batch)
                trace.end(step, metrics)
                if step in (start + 1, plan.epoch_begin(step)):
                    _show_clips(training, step, host_batch)
                if running is not None:  # the step before, while this one runs
                    note = _record(training, step - 1, running, clock)
                running = metrics
                checkpoints.poll()
                bar.update(step, note)
                if step % config.log_every_steps == 0:
                    bar.line()
                stops, ends = _stop_agreed(training), plan.ends_epoch(step)
                if not (stops or ends or _is_extra_save(config, step)):
                    continue
                note = _record(training, step, running, clock)
                running = None
                if stops:
                    _save_and_stop(training, step, state)
                if ends:
                    state = _end_epoch(training, step, state, clock.read())
                    if _has_stopped_early(config, plan, checkpoints, step):
                        run.terminal.say(_stopped_early(config, checkpoints, step))
                        break
                    clock = _new_clock(training)
                else:
                    _save(training, step, state)
    finally:
        trace.close()
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]


def _show_clips(training: Training, step: int, batch: Batch) -> None:
    """Puts the first clips of a batch, as the network sees them, beside the metrics."""
    shown = training.run.config.log_clips
    if shown and training.metrics_file is not None:
        first = jax.tree.map(lambda rows: rows[:shown], batch)
        sheet = np.asarray(training.pictures(np.int32(step - 1), first))
        training.metrics_file.write_picture(step, "train/clips", sheet)


def _new_clock(training: Training) -> Clock:
    config = training.run.config
    return Clock(
        config.batch_size,
        config.data.clip_frames,
        flops=training.program.flops,
        peak=peak_flops(training.run.mesh, config.model.dtype),
    )


def _record(training: Training, step: int, metrics: steps.Metrics, clock: Clock) -> str:
    """Writes the numbers of a step, which has ended; the note that shows them."""
    numbers = fetch_numbers(training, step, metrics)
    speed = clock.count_step()
    if training.metrics_file is not None:
        values = {k: v for k, v in numbers._asdict().items() if k != "finite"}
        values |= {"learning_rate": float(training.learning_rates[step - 1])}
        training.metrics_file.write(step, "train", {**values, **speed.numbers()})
    return f"loss {numbers.loss:.4f}  {speed}"


def fetch_numbers(
    training: Training, step: int, metrics: steps.Metrics
) -> steps.Metrics:
    """The metrics of a step as numbers of the host; waits until the step has ended.

    Raises NonFiniteError naming the step and its videos.
    """
    numbers = steps.Metrics(*(value.item() for value in parallel.fetch(metrics)))
    if not numbers.finite:
        raise NonFiniteError(
            f"step {step}: the loss is {numbers.loss} and the gradient norm "
            f"{numbers.gradient_norm}; the last good checkpoint is kept; its "
            f"batch held {_name_videos(training, step)}; lower "
            "optimizer.learning_rate, set optimizer.clip_norm, or look at these videos"
        )
    return numbers


def _name_videos(training: Training, step: int) -> str:
    """The videos in the batch of a step, for a message."""
    size = training.run.config.batch_size
    clips = [training.order[p] for p in range((step - 1) * size, step * size)]
    videos = [training.data.train.videos[clip.video] for clip in clips]
    names = [f"{v.method}/{v.video_id}" for v in videos]
    return ", ".join(dict.fromkeys(names))


def _stop_agreed(training: Training) -> bool:
    """Whether any process was asked to stop; the same answer on all."""
    return training.vote(training.run.stop.signal is not None)


def _save(
    training: Training, step: int, state, measured=None, calibration=None
) -> None:
    """Starts a checkpoint; the metrics up to it are on disk before."""
    if training.metrics_file is not None:
        training.metrics_file.flush()
    facts = replace(training.facts, **vars(calibration) if calibration else {})
    training.checkpoints.save(step, state, facts, measured)


def _is_extra_save(config, step: int) -> bool:
    every = config.checkpoint.every_steps
    return bool(every) and step % every == 0


def _save_and_stop(training: Training, step: int, state) -> NoReturn:
    """Saves the state and ends the run, saying how to go on."""
    run = training.run
    _save(training, step, state)
    training.checkpoints.finish()
    # Together: a launcher that sees one process end may signal the others once more,
    # and a second signal would end process 0 before it has sealed the checkpoint.
    run.hosts.meet(f"stopped with step {step} saved")
    run.terminal.say(f"saved step {step}; go on with: {run.command}")
    raise Interrupted(run.stop.signal or signal.SIGTERM)


def _end_epoch(training: Training, step: int, state, speed: Speed | None):
    """Prints and evaluates an epoch, then saves the state that it ended with.

    `speed` is None where no step of it was made by this process. Returns the state with
    which the next epoch begins.
    """
    run, plan = training.run, training.plan
    every = run.config.eval.every_epochs
    epoch = -(-step // plan.steps_per_epoch)
    measured, calibration, said = {}, None, []
    if speed is not None:
        run.terminal.add_phase("train", speed.seconds)
        said.append(f"{speed}, {speed.input_wait:.1%} of the time waiting for input")
    if every and (epoch % every == 0 or step == plan.num_steps):
        scored = _validate(training, step, state)
        rows = evaluate.pooled(scored)
        each = {name: evaluate.validation_numbers(r) for name, r in scored.items()}
        numbers = evaluate.mean_numbers(list(each.values()))
        measured = evaluate.by_set(numbers, each)
        calibration = calibrate(rows, max_error=run.config.eval.max_error)
        totals = parallel.fetch(state.totals)
        lines = formats.epoch_lines(
            epoch=epoch,
            num_epochs=plan.num_epochs,
            loss=float(totals.loss / totals.clips),
            accuracy=float(totals.correct / totals.clips),
            validation_loss=numbers.loss,
            validation_accuracy=numbers.accuracy,
        )
        run.terminal.say(lines)
        labels = [row.video.label for row in rows]
        said.insert(0, formats.validation_line(numbers.video_auc, labels))
        run.terminal.say(f"  {', '.join(said)}")
        if len(each) > 1:
            areas = {name: one.video_auc for name, one in each.items()}
            run.terminal.say(f"  {formats.validation_sets_line(areas)}")
        if training.metrics_file is not None:
            wait = {"input_wait": round(speed.input_wait, 4) if speed else 0.0}
            training.metrics_file.write(step, "val", {**measured, **wait})
            scores = np.array([row.score for row in rows])
            training.metrics_file.write_curve(step, "val/clips", labels, scores)
    elif said:
        run.terminal.say(f"Epoch {epoch}/{plan.num_epochs}\n  {said[0]}")
    state = state.replace(totals=_zero_totals(run.mesh))
    _save(training, step, state, measured, calibration)
    return state


def _validate(training: Training, step: int, state) -> dict[str, list[ClipScore]]:
    """Scores val of each validation set; when asked to stop meanwhile, saves the state
    as it is before."""
    run = training.run

    def between(done: int, total: int) -> None:
        if _stop_agreed(training):
            _save_and_stop(training, step, state)

    with run.terminal.phase("validate"):
        return {
            one.dataset: evaluate.score_clips(
                training.eval_step,
                state.eval_variables(),
                one.split,
                run.config,
                mesh=run.mesh,
                between_batches=between,
            )
            for one in training.data.val
        }


def _zero_totals(mesh) -> steps.Totals:
    return parallel.put_replicated(steps.zero_totals(), mesh)
