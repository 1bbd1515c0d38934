"""Files that are whole or not there, and what JSON has in them."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# An object of JSON: only where a file or another process is read or written; elsewhere
# its content is a record with named fields.
Json = dict[str, Any]
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
