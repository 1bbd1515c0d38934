"""The digests of a checkpoint's files, without which it is none."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp import records
from tfds_ffpp.store import addresses

MD5 = "md5:"  # before such a digest; one without is SHA-256


def file_digests(folder: Path, *, md5: bool) -> dict[str, str]:
    """Relative name -> digest of every file of a folder, SHA-256 or, with md5, MD5."""
    stored = addresses.objects(folder) if addresses.is_address(folder) else None
    names = (
        [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        if stored is None
        else stored
    )
    digests = {}
    for name in sorted(names):
        digest = stored[name].md5 if stored and md5 else None
        if digest is None:
            with (folder / name).open("rb") as file:
                kind = "md5" if md5 else "sha256"
                digest = hashlib.file_digest(file, kind).hexdigest()  # pyright: ignore[reportArgumentType]
        digests[name] = f"{MD5 if md5 else ''}{digest}"
    return digests


class Manifest(NamedTuple):
    """The digests of a step's files, and the SHA-256 of them all."""

    files: dict[str, str]
    sha256: str

    @classmethod
    def of(cls, files: dict[str, str]) -> "Manifest":
        """Of files in any order."""
        body = json.dumps(files, sort_keys=True)
        return cls(files, hashlib.sha256(body.encode()).hexdigest())

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises ValueError or TypeError for one that is damaged."""
        found = records.from_json(cls, json.loads(path.read_text()))
        if found != cls.of(found.files):
            raise ValueError("it does not fit its own digest")
        return found
