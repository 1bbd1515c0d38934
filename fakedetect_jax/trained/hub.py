"""Exported models on a model hub: hf://ORG/NAME@REVISION. All that knows its library.

Only the files of an export are fetched, never a program. What was fetched is kept by
its commit, and read without the network from then on.
"""

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fakedetect_jax.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Address(NamedTuple):
    """A model of a hub: its name with whose it is, and a branch, tag or commit."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return SCHEME + self.name + (f"@{self.revision}" if self.revision else "")


class Fetched(NamedTuple):
    """A copy of an export, and the address with the commit that it is of."""

    folder: Path
    address: Address


def is_address(path: str | os.PathLike) -> bool:
    """Whether a model lies on a hub."""
    return os.fspath(path).startswith(SCHEME)


def parse(text: str) -> Address:
    """The parts of an address. Raises ConfigError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or ".." in text:
        raise ConfigError(
            f"{text} is no model of a hub; give hf://ORG/NAME or hf://ORG/NAME@REVISION"
        )
    return Address(match[1], match[2])


def _api() -> "HfApi":
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError(
            "hf:// needs the package huggingface_hub; "
            "pip install 'fakedetect-jax[hub]', or copy the model to a folder"
        )
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HfApi(endpoint=endpoint, library_name="fakedetect-jax")


@contextmanager
def _one_sentence(address: Address, work: str) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:  # of the library, of HTTP, of the network
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        said = f"{type(error).__name__}: {said}".strip(": ")
        raise CheckpointError(
            f"{address} cannot be {work} ({said[:200]}); check its name and revision, "
            "HF_TOKEN and the network"
        ) from error


def _cache(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "fakedetect_jax" / "hub" / name.replace("/", "--")


def fetch(text: str, *, needed: Sequence[str], limits: Mapping[str, int]) -> Fetched:
    """A copy of the export at an address.

    Args:
      text: the address; without a commit, what the hub says that its revision is now.
      needed: the files without which there is no model.
      limits: the names of the files that are fetched, and their most bytes.

    Raises CheckpointError for what is not there or too large, and ConfigError.
    """
    address = parse(text)
    if address.revision and _COMMIT.fullmatch(address.revision):
        there = _cache(address.name) / address.revision
        if there.is_dir():
            return Fetched(there, address)
    api = _api()
    with _one_sentence(address, "read"):
        info = api.model_info(
            address.name, revision=address.revision, files_metadata=True
        )
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise CheckpointError(f"{address}: the hub names no commit of it")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        _check(address, sizes, needed, limits)
        exact = Address(address.name, commit)
        target = _cache(address.name) / commit
        if not target.is_dir():
            _download(api, exact, [name for name in limits if name in sizes], target)
    return Fetched(target, exact)


def _check(
    address: Address,
    sizes: Mapping[str, int],
    needed: Sequence[str],
    limits: Mapping[str, int],
) -> None:
    missing = [name for name in needed if name not in sizes]
    if missing:
        raise CheckpointError(
            f"{address} is no export of this project: it has no "
            f"{' and no '.join(missing)}; python -m fakedetect_jax.export --push "
            "writes one"
        )
    for name, most in limits.items():
        if sizes.get(name, 0) > most:
            raise CheckpointError(
                f"{address}: {name} has {sizes[name]:,} bytes, more than the {most:,} "
                "that are read"
            )


def _download(
    api: "HfApi", address: Address, names: Sequence[str], target: Path
) -> None:
    """Fetches files into a folder that is there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        for name in names:
            api.hf_hub_download(
                address.name, name, revision=address.revision, local_dir=place
            )
        shutil.rmtree(place / ".cache", ignore_errors=True)  # the library's notes
        if not target.is_dir():
            place.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def push(files: Sequence[Path], text: str, *, others: Sequence[str] = ()) -> Address:
    """Puts an export on a hub in one commit; a model that is new there is private.

    Args:
      files: of the export, and nothing else.
      text: the address, without a revision.
      others: names that an export may have too: of an older one, they are deleted.

    Returns the address with the commit. Raises CheckpointError and ConfigError.
    """
    address = parse(text)
    if address.revision:
        raise ConfigError(f"{text}: a push makes the revision; leave @… out")
    api = _api()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _one_sentence(address, "written"):
        api.create_repo(address.name, private=True, exist_ok=True)
        there = {file.rfilename for file in api.model_info(address.name).siblings or ()}
        stale = there.intersection(others).difference(path.name for path in files)
        operations = [
            *(CommitOperationAdd(path.name, str(path)) for path in sorted(files)),
            *(CommitOperationDelete(name) for name in sorted(stale)),
        ]
        done = api.create_commit(
            address.name, operations, commit_message="Export of fakedetect-jax"
        )
    return Address(address.name, str(done.oid))
