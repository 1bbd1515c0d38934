"""What a run is about to do, said before its first step."""

from fakedetect_jax.data import sets
from fakedetect_jax.data.plan import Plan
from fakedetect_jax.data.sets import Data
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.model import network, trainable
from fakedetect_jax.run import parallel
from fakedetect_jax.run.workdir import Run


def learns_from_nothing(config, *, made: bool) -> bool:
    """Whether a full-size backbone begins on real videos with random weights."""
    full = config.model.backbone not in ("resnet", "convnext", "vit")
    return full and not (config.init_from or made)


def summarise(run: Run, plan: Plan, state, data: Data, start: int) -> None:
    """Says on what, from what and how it trains; state: its shapes are enough."""
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
    for line in sets.lines(data):
        say(line)
    train_missing = len(evaluate.unscored(data.train, config))
    val_missing = sum(len(evaluate.unscored(one.split, config)) for one in data.val)
    if train_missing or val_missing:
        say(
            f"faces     {train_missing} train and {val_missing} val videos are left "
            f"out: no clip shows a face in {config.data.min_coverage:.0%} of its frames"
        )
    if config.data.sampling == "pair" and (alone := sets.count_unpaired(config, data)):
        say(
            f"pairs     {alone} training fakes stand beside another real video: their "
            "original is not there or shows no face"
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
