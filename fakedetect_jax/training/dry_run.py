"""A run up to its first step, and what it would take: --dry_run."""

from fakedetect_jax.data import sets
from fakedetect_jax.data.dataset import (
    count_videos,
    is_built,
)
from fakedetect_jax.data.plan import make_plan
from fakedetect_jax.model import steps
from fakedetect_jax.run.checkpoint import (
    Checkpoints,
)
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.training.feeding import lay_out
from fakedetect_jax.training.opening import open_data
from fakedetect_jax.training.speed import peak_flops
from fakedetect_jax.training.start import abstract_state, check_disk, compile_step
from fakedetect_jax.training.summary import summarise


def dry_run(run: Run) -> None:
    """Checks data, disk and memory, compiles the step, says what the run would take.

    Trains nothing and writes nothing into the workdir. Where the dataset is not built
    yet the plan is that of the videos in data.manual_dir, none of them read.
    """
    config, say = run.config, run.terminal.say
    data, done = None, []
    if is_built(config):
        data = open_data(run)
        counts = [video.num_valid for video in data.train.videos]
        plan = make_plan(config, len(data.train.videos))
        folder = run.workdir / "checkpoints"
        done = Checkpoints(folder, read_only=True).steps() if folder.is_dir() else []
    else:
        final = config.eval.final_split if not config.eval.dataset else ""
        wanted = ("train", "val", *([final] if final else ()))
        counted, trained = count_videos(config, wanted)
        videos = trained + sets.count_others(config)
        plan, counts = make_plan(config, videos), [config.dataset.num_frames] * videos
        shown = ", ".join(f"{name} {n}" for name, n in counted.items())
        say(f"dataset   {config.dataset.name}: not built yet; videos: {shown}")
    step_settings = steps.make_step_settings(config, num_steps=plan.num_steps)
    abstract = abstract_state(step_settings, config)
    checkpoints = check_disk(run, done, abstract)
    if data is not None:
        summarise(run, plan, abstract, data, max(done, default=0))
    else:
        say(f"steps     {plan.num_steps}, {plan.steps_per_epoch} per epoch")
    stored = lay_out(config, counts)
    program = compile_step(run, step_settings, abstract, stored)
    say(f"disk      {checkpoints / 1e6:,.0f} MB more for checkpoints in {run.workdir}")
    for line in program.lines(peak_flops(run.mesh, config.model.dtype)):
        say(line)
    say("dry run: nothing was trained or written; without --dry_run the run begins")
