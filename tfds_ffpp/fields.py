"""What each field of a dataset's config may be: for the build, and for the trainer."""

import math
from typing import Any, NamedTuple, Protocol

# The values of a config's fields by their names. A group's are an object of their own,
# as in to_dict(), or have dotted names, as settings.flatten gives them.
Fields = dict[str, Any]


class Rule(Protocol):
    """What the values of a field must be."""

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        ...


class Whole(NamedTuple):
    """A whole number in a closed range."""

    low: int
    high: float = math.inf

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self.low <= value <= self.high:
            return None
        return f"a whole number {_range(self.low, self.high)}"


class Number(NamedTuple):
    """A finite number in a closed range, or above its lower end if `above`."""

    low: float
    high: float = math.inf
    above: bool = False

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = number and math.isfinite(value) and self.low <= value <= self.high
        if inside and not (self.above and value == self.low):
            return None
        if self.above:
            end = "" if math.isinf(self.high) else f" and at most {self.high}"
            return f"a number above {self.low}{end}"
        return f"a number {_range(self.low, self.high)}"


class Choice(NamedTuple):
    """One of some words."""

    options: tuple[str, ...]

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        return None if value in self.options else f"one of {', '.join(self.options)}"


class Wholes(NamedTuple):
    """A list of whole numbers of at least `low`."""

    low: int

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        one = Whole(self.low)
        if isinstance(value, list | tuple) and not any(map(one.fault, value)):
            return None
        return f"a list of whole numbers of at least {self.low}"


class Texts(NamedTuple):
    """A list of texts."""

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return None
        return "a list of texts"


class Kind(NamedTuple):
    """Any value of a type."""

    type: type
    words: str

    def fault(self, value: Any) -> str | None:
        """What a value must be, as the end of a sentence; None if it is so."""
        return None if isinstance(value, self.type) else self.words


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if math.isinf(high) else f"from {low} to {high}"


TEXT = Kind(str, "a text")
SWITCH = Kind(bool, "True or False")
SHARE = Number(0, 1)

COMPRESSIONS = ("raw", "c23", "c40")

# The fields of FfppConfig, which says what they mean.
FIELDS: dict[str, Rule] = {
    "name": TEXT,
    "compression": Choice(COMPRESSIONS),
    "layout": TEXT,  # tree.scan knows them
    "map": TEXT,  # read by tree.folders.parse_map
    "methods": Texts(),
    "allow_missing": SWITCH,
    "allow_one_class": SWITCH,
    "num_frames": Whole(1, 10_000),
    "frame_step": Whole(0, 10_000),
    "image_size": Whole(16, 2048),
    "crop": Choice(("face", "full")),
    "margin": Number(0.5, 4),
    "face_finder": Choice(("dlib", "dlib_network", "yunet", "none")),
    "face_finder_model": TEXT,
    "landmarks": Choice(("none", "dlib")),
    "align": Choice(("none", "similarity")),
    "masks": SWITCH,
    "jpeg_quality": Whole(1, 100),
    "jpeg_subsampling": Choice(("444", "422", "420")),
    "protocol": Choice(("official", "disjoint", "folders", "all_test", "repeated")),
    "repeated_videos_per_class": Whole(2, 1_000_000),
    "repeated_val_videos": Whole(1, 1_000_000),
    "strict": SWITCH,
    "max_rejected": SHARE,
}
