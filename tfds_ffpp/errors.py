"""The fault of the data that a user can mend."""


class DataError(Exception):
    """A fault of the data in one sentence: what, which file, what to do next."""

    exit_code = 3


class SettingError(DataError):
    """A field of the dataset's config that cannot be; says which and what can."""

    exit_code = 2


class UnusableVideoError(DataError):
    """This file cannot be used; its text is the reason, without the path."""


class IrregularVideoError(Exception):
    """The frames of this file are only known by decoding all of them in order."""
