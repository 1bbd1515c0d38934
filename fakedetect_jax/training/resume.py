"""What a start finds of the run that it goes on with, and whether it is done."""

from fakedetect_jax import settings
from fakedetect_jax.data.dataset import (
    check_unchanged,
)
from fakedetect_jax.data.plan import Plan
from fakedetect_jax.data.sets import Data
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.run import fixed, parallel, workdir
from fakedetect_jax.run.checkpoint import (
    METRIC,
    CheckpointFacts,
    Checkpoints,
)
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.training.metrics_file import first_best


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


def agree_on_start(run: Run, plan: Plan, checkpoints: Checkpoints) -> int:
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


def complete(start: int, num_steps: int) -> str:
    """Why nothing is trained."""
    if start == num_steps:
        return f"training is complete: {start} of {num_steps} steps"
    return (
        f"nothing is trained: the run has {start} steps and this config asks for "
        f"{num_steps}; what follows is of the {start} steps; for a shorter run give "
        "another --workdir"
    )


def is_closed(config, checkpoints: Checkpoints, step: int) -> bool:
    """Whether the epoch that a step ends was evaluated."""
    return not config.eval.every_epochs or bool(checkpoints.metrics(step))


def ended_early(run: Run, plan: Plan, checkpoints: Checkpoints, step: int) -> int:
    """The best evaluation's step, where eval.patience ones after it, the last at
    `step`, were none better; else 0.

    An equal one is no better. metrics.jsonl has them all, so a resumed run says the
    same; where it is lost, the checkpoints have the best. All hosts agree.
    """
    config = run.config
    if not config.eval.patience:
        return 0
    checkpoints.finish()
    ranked = checkpoints.ranked()
    if step not in ranked:
        return 0
    best, written = ranked[0], first_best(run.workdir, METRIC, step)
    # The file may lack what could not be written; the checkpoints only hold the best.
    if written is not None and written[1] >= checkpoints.metrics(best)[METRIC]:
        best = written[0]
    every = config.eval.every_epochs * plan.steps_per_epoch
    waited = (step - best) // every >= config.eval.patience
    return int(parallel.from_first(best if waited else 0))


def stopped_early(config, best: int, step: int) -> str:
    """Why a run ends before its last step."""
    return (
        f"training ends with step {step}: none of {config.eval.patience} evaluations "
        f"(eval.patience) was better than that of step {best}"
    )
