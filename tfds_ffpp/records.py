"""Records to plain data and back, where a file or another process is."""

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def to_json(value: Any) -> Any:
    """Records as objects, sequences as lists; one with a to_json decides for itself."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if _is_record(value):
        return by_field(value)
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def by_field(record: Any) -> dict[str, Any]:
    """A record as an object of its fields in their order.

    What its class may say of them: in place of a field in INLINE stand the fields of
    that record; one in OMIT is left out, and with OMIT_NONE each that is None.
    """
    plain = {}
    for name in _hints(type(record)):
        value = to_json(getattr(record, name))
        if name in _inline(record):
            plain |= value
        elif value is not None or not getattr(record, "OMIT_NONE", False):
            plain[name] = value
    for name in getattr(record, "OMIT", ()):
        del plain[name]
    return plain


def from_json(kind: Any, value: Any) -> Any:
    """What to_json made of a value of some type; a type with a from_json is asked.

    An object may have more fields than the record. One that is absent, or null where
    the record has another default, takes its default. Raises TypeError for what is no
    object, and naming a field that has no default.
    """
    origin = get_origin(kind)
    if hasattr(kind, "from_json") and value is not None:
        return kind.from_json(value)
    if _is_record(kind) or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is no object")
    elif value is None or kind in (bool, float, int, str):
        return value
    if _is_record(kind):
        given = {
            name: from_json(hint, value[name])
            for name, hint in _hints(kind).items()
            if name not in _inline(kind)
            if name in value and (value[name] is not None or _may_be_none(hint))
        }
        inline = {n: from_json(_hints(kind)[n], value) for n in _inline(kind)}
        return kind(**given, **inline)
    inner = [hint for hint in get_args(kind) if hint not in (type(None), ...)]
    if origin in (Union, types.UnionType) and len(inner) == 1:
        return from_json(inner[0], value)
    if origin in (dict, Mapping):
        return {name: from_json(inner[1], item) for name, item in value.items()}
    if origin in (list, Sequence) and inner[0] in (bool, float, int, str):
        return list(value)
    if origin in (list, tuple, Sequence):
        hints = inner * len(value) if len(inner) == 1 else inner
        items = (from_json(h, item) for h, item in zip(hints, value, strict=True))
        return tuple(items) if origin is tuple else list(items)
    return value


def _is_record(value: Any) -> bool:
    return is_dataclass(value) or hasattr(value, "_fields")


def _inline(record: Any) -> tuple[str, ...]:
    return getattr(record, "INLINE", ())


@functools.cache
def _hints(kind: type) -> Mapping[str, type]:
    """The fields of a record and their types, in order."""
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else kind._fields
    hints = get_type_hints(kind)
    return {name: hints[name] for name in names}


def _may_be_none(hint: Any) -> bool:
    return type(None) in get_args(hint)
