"""The faults that a user can mend, and what else ends a command in order."""

import signal


class UserError(Exception):
    """A fault in one sentence: what, which file or field, what to do next."""

    exit_code = 1


class DataError(UserError):
    """A fault of the data."""

    exit_code = 3


class SettingError(DataError):
    """A field of the dataset's config that cannot be; says which and what can."""

    exit_code = 2


class StoreError(DataError):
    """A bucket that cannot be reached, or refuses."""

    exit_code = 4


class UnusableVideoError(DataError):
    """This file cannot be used; its text is the reason, without the path."""


class IrregularVideoError(Exception):
    """The frames of this file are only known by decoding all of them in order."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to stop; what it had done is saved."""

    def __init__(self, number: int):
        """`number` is the signal's."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def reason(error: BaseException) -> str:
    """The first lines of what a library says of a fault."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ": ".join(lines[:2])[:300]
