"""A file that is either whole or not there."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"  # how the name of a file that is not whole yet ends


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it is renamed when the block ends well.

    Only a process that is killed leaves it behind.
    """
    # Not of the file's own name, which may be as long as the system allows.
    partial = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
