"""Records of videos as a dataset has them, of whatever content."""

from dataclasses import fields
from typing import Any

from tfds_ffpp.frames.stored import StoredVideo

PLAIN: dict[Any, Any] = {int: 0, float: 0.0, str: "", float | None: None}


def stored_video(**changes: Any) -> StoredVideo:
    """A video of empty facts but those given."""
    plain = {f.name: PLAIN.get(f.type, ()) for f in fields(StoredVideo)}
    return StoredVideo(**{**plain, **changes})
