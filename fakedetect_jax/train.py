"""The loop: next batch, step, and at each epoch's end evaluate, save."""

import functools
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import numpy as np

from fakedetect_jax import settings
from fakedetect_jax.data import sets
from fakedetect_jax.data.batch import Batch, ClipRows
from fakedetect_jax.data.mixture import MixedOrder
from fakedetect_jax.data.order import TrainOrder
from fakedetect_jax.data.plan import Plan, make_plan
from fakedetect_jax.data.sets import Data
from fakedetect_jax.errors import ConfigError, NonFiniteError
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.metrics.calibration import calibrate
from fakedetect_jax.metrics.records import ClipScore
from fakedetect_jax.model import steps, store
from fakedetect_jax.model.optimizer import learning_rates
from fakedetect_jax.pages import formats
from fakedetect_jax.programs.compiled import (
    TrainProgram,
    compile_eval_step,
)
from fakedetect_jax.run import parallel, workdir
from fakedetect_jax.run.checkpoint import (
    CheckpointFacts,
    Checkpoints,
)
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.training import feeding
from fakedetect_jax.training.facts import facts_of
from fakedetect_jax.training.metrics_file import MetricsFile
from fakedetect_jax.training.opening import look_for_leaks, open_data
from fakedetect_jax.training.resume import (
    agree_on_start,
    check_resume,
    complete,
    ended_early,
    is_closed,
    stopped_early,
)
from fakedetect_jax.training.speed import Clock, Speed, Trace, peak_flops
from fakedetect_jax.training.start import (
    abstract_state,
    check_disk,
    compile_step,
    load_or_create,
)
from fakedetect_jax.training.summary import summarise
from tfds_ffpp.errors import Interrupted


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
    stored: store.Layout | None  # of the frames that devices hold
    step: Callable  # (state, batch) -> (state, metrics)
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
    data = open_data(run)
    plan = make_plan(config, len(data.train.videos))
    start = agree_on_start(run, plan, checkpoints)
    if start:
        before = checkpoints.facts(start)
        check_resume(run, before, data, start, plan)
        shared = before.leaks
    else:
        shared = look_for_leaks(run)
    if jax.process_index() == 0:
        workdir.write_record(run, parallel.describe_devices(run.mesh))
    if start >= plan.num_steps and is_closed(config, checkpoints, start):
        terminal.say(complete(start, plan.num_steps))
        return
    if start and (best := ended_early(run, plan, checkpoints, start)):
        terminal.say(stopped_early(config, best, start))
        return
    if run.profile and not start < run.profile[0] <= run.profile[-1] <= plan.num_steps:
        raise ConfigError(
            f"--profile_steps is {run.profile[0]}:{run.profile[-1]}, but this start "
            f"makes the steps {start + 1} to {plan.num_steps}; name some of them"
        )
    step_settings = steps.make_step_settings(config, num_steps=plan.num_steps)
    abstract = abstract_state(step_settings, config)
    check_disk(run, checkpoints.steps(), abstract)
    summarise(run, plan, abstract, data, start)
    stored = feeding.lay_out(config, [v.num_valid for v in data.train.videos])
    program = compile_step(run, step_settings, abstract, stored)
    if jax.process_count() == 1:  # several agree to stop after their first step
        run.stop.check()
    blocks = feeding.load_blocks(run, data, stored) if stored else None
    state = load_or_create(run, step_settings, checkpoints, start, abstract)
    first = jax.process_index() == 0
    fields = settings.flatten(config.to_dict())
    metrics_file = None
    if first:
        metrics_file = MetricsFile(
            run.workdir,
            resumed_step=start,
            validated=is_closed(config, checkpoints, start),
            fields=fields,
            tracker=config.tracker,
        )
    training = Training(
        run=run,
        plan=plan,
        data=data,
        order=sets.train_order(config, data),
        checkpoints=checkpoints,
        facts=facts_of(run, plan, data, shared),
        metrics_file=metrics_file,
        program=program,
        stored=stored,
        step=feeding.step_of(program, blocks),
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


def _run_steps(training: Training, state, start: int) -> None:
    run, plan, config = training.run, training.plan, training.run.config
    checkpoints = training.checkpoints
    if start and plan.ends_epoch(start) and parallel.fetch(state.totals.clips):
        # The run was stopped between the last step of an epoch and its evaluation.
        state = _end_epoch(training, start, state, None)
    feed = feeding.open_feed(
        run,
        training.data,
        training.order,
        training.stored,
        start=start,
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
                state, metrics = training.step(state, batch)
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
                    if best := ended_early(run, plan, checkpoints, step):
                        run.terminal.say(stopped_early(config, best, step))
                        break
                    clock = _new_clock(training)
                else:
                    _save(training, step, state)
    finally:
        trace.close()
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]


def _show_clips(training: Training, step: int, batch: Batch | ClipRows) -> None:
    """Puts the first clips of a batch, as the network sees them, beside the metrics."""
    run, shown = training.run, training.run.config.log_clips
    if not shown or training.metrics_file is None:
        return
    if isinstance(batch, ClipRows):
        batch = feeding.first_clips(run, training.data, training.order, step, shown)
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
    names = [training.data.name(clip.video) for clip in clips]
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
