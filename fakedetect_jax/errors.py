"""The faults of training and scoring, each kind with its exit code."""

from tfds_ffpp.errors import UserError


class ConfigError(UserError):
    """A flag or config field cannot be used."""

    exit_code = 2


class CheckpointError(UserError):
    """A checkpoint, workdir or model file cannot be used."""

    exit_code = 4


class PeerError(UserError):
    """Another process of the run is gone, or failed with an exit code of its own."""

    exit_code = 4

    def __init__(self, sentence: str, exit_code: int = 4):
        super().__init__(sentence)
        self.exit_code = exit_code


class WorkerError(UserError):
    """A data worker of this process is gone."""

    exit_code = 4


class NonFiniteError(UserError):
    """The loss or the gradients stopped being numbers."""

    exit_code = 5
