"""How long a run is: its steps, and how many of them are an epoch."""

from typing import NamedTuple

from fakedetect_jax.errors import ConfigError


class Plan(NamedTuple):
    """How long the run is."""

    num_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        """Epochs begun."""
        return -(-self.num_steps // self.steps_per_epoch)

    def epoch_begin(self, step: int) -> int:
        """The first step of the epoch that `step` is in."""
        return (step - 1) // self.steps_per_epoch * self.steps_per_epoch + 1

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` completed updates end an epoch or the run."""
        return step % self.steps_per_epoch == 0 or step == self.num_steps


def make_plan(config, num_videos: int) -> Plan:
    """Epochs in steps. Raises ConfigError when a batch is more than an epoch."""
    clips = num_videos * config.data.train_clips_per_video
    per_epoch = clips // config.batch_size
    if per_epoch == 0:
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {clips} clips of an "
            "epoch; lower it or raise data.train_clips_per_video"
        )
    num_steps = config.num_steps or config.num_epochs * per_epoch
    return Plan(num_steps, per_epoch)
