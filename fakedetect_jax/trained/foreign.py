"""What a stranger wrote, held against rules: kinds of values, texts, files.

Every fault is a clause, to be part of a sentence.
"""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.errors import CheckpointError
from tfds_ffpp.fields import Whole

MAX_BYTES = 1 << 20  # of a description or a card; one that export writes has 6 KB
MAX_DEPTH = 12  # export writes 5
MAX_BLOCKS = 200  # of a backbone; resnet152 has 50

# Kinds of values -------------------------------------------------------------------


class Text(NamedTuple):
    """A text of limited length."""

    longest: int = 200

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if isinstance(value, str) and len(value) <= self.longest:
            return None
        return f"a text of at most {self.longest} characters"


class Digest(NamedTuple):
    """A SHA-256 in lower-case hexadecimal digits."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
            return None
        return "64 hexadecimal digits"


class Blocks(NamedTuple):
    """Blocks per stage of a backbone."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        one = Whole(1, MAX_BLOCKS)
        if (
            isinstance(value, list | tuple)
            and len(value) <= 8
            and not any(map(one.fault, value))
            and sum(value) <= MAX_BLOCKS
        ):
            return None
        return f"a list of at most 8 whole numbers, {MAX_BLOCKS} in all"


class Maybe(NamedTuple):
    """A value of a kind, or null."""

    kind: Any

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        fault = None if value is None else self.kind.fault(value)
        return fault and f"{fault}, or null"


class Plain(NamedTuple):
    """A text, a finite number, true, false or null; or a short list of such."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        values = value if isinstance(value, list) else [value]
        if len(values) <= 100 and all(map(_is_plain, values)):
            return None
        return "a text, a finite number, true, false or null"


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    return value is None or (
        isinstance(value, bool | int | float) and math.isfinite(value)
    )


class Table(NamedTuple):
    """An object with a few names of the reader's own choice, all of one kind."""

    kind: Any

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if not isinstance(value, dict) or len(value) > 100:
            return "an object of at most 100 fields"
        if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) for name in value):
            return "an object whose fields have plain names"
        faults = [f for f in map(self.kind.fault, value.values()) if f]
        return f"an object whose fields are each {faults[0]}" if faults else None


def fault_in(value: Any, rule: Any, name: str = "") -> str | None:
    """The first field that breaks its rule, as a clause; None if none does."""
    if isinstance(rule, Maybe) and isinstance(rule.kind, dict):
        return None if value is None else fault_in(value, rule.kind, name)
    if not isinstance(rule, dict):
        wanted = rule.fault(value)
        return wanted and f"{name} is {shortened(value)}; it must be {wanted}"
    if not isinstance(value, dict):
        return f"{name or 'the whole'} is {shortened(value)}; it must be an object"
    for field in rule:
        if field not in value:
            return f"{_joined(name, field)} is missing"
    for field in value:
        if field not in rule:
            return f"{_joined(name, shortened(field, 40))} is unknown"
    for field, inner in rule.items():
        fault = fault_in(value[field], inner, _joined(name, field))
        if fault:
            return fault
    return None


def _joined(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def shortened(value: Any, longest: int = 60) -> str:
    """A value as text that fits a sentence and steers no terminal."""
    if isinstance(value, str):
        value = value[: longest + 1]
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = "".join(c if c.isprintable() else "?" for c in ascii(value))
    return text if len(text) <= longest else f"{text[:longest]}…"


# Files -----------------------------------------------------------------------------


def read_text(path: Path, errors: str = "strict") -> str:
    """A small text of a bundle. Raises CheckpointError, and ValueError if too long."""
    need_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); copy the whole folder again"
        ) from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES:,} bytes")
    return content.decode("utf-8", errors)


def parse(text: str) -> Any:
    """JSON of limited depth, whose numbers are numbers. Raises ValueError."""
    if _depth(text) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")

    def refuse(word: str):
        raise ValueError(f"{word} is no number")

    def whole(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError(f"{digits[:20]}… is too large")
        return int(digits)

    return json.loads(text, parse_constant=refuse, parse_int=whole)


# A string, or what begins as one and never ends: no character is looked at twice.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r"[][{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def need_regular(path: Path) -> None:
    """Raises CheckpointError unless a bundle's own regular file lies there."""
    try:
        inside = path.resolve().is_relative_to(path.parent.resolve())
        kind = path.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or "a link to itself"
        raise CheckpointError(
            f"{path} cannot be read ({reason}); copy the whole folder again"
        ) from error
    if not inside:
        raise CheckpointError(
            f"{path} is a link out of its folder; put the file itself there"
        )
    if not stat.S_ISREG(kind):
        raise CheckpointError(
            f"{path} is not a regular file; copy the whole folder again"
        )
