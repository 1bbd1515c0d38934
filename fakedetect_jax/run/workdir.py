"""The folder that is a run: its lock, its config, a check that it can be written."""

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax import settings
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.run import fixed
from fakedetect_jax.run.hosts import Hosts
from fakedetect_jax.run.messages import Facts
from fakedetect_jax.run.process import StopRequest
from fakedetect_jax.settings import Config
from tfds_ffpp.errors import reason
from tfds_ffpp.store import addresses, copies, lease
from tfds_ffpp.store.files import write_json
from tfds_ffpp.terminal.lines import Terminal

PACKAGES = (
    "fakedetect-jax",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "grain",
    "numpy",
)


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


# What may differ between the hosts of a run: where things lie and how they are fed.
HOSTS_OWN = (
    "data.data_dir",
    "data.manual_dir",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "data.device_prefetch",
    "data.cache_mib",
    "compilation_cache",
    "tracker",
    "log_clips",
    "log_every_steps",
)


def shared_facts(config: Config, workdir: Path) -> Facts:
    """What must be the same on all hosts, by names that a message can use."""
    facts = {f"config.{k}": v for k, v in settings.flatten(config.to_dict()).items()}
    for field in HOSTS_OWN:
        del facts[f"config.{field}"]
    digest = _file_digest(config.init_from) if config.init_from else None
    packages = {**versions(), "jaxlib": metadata.version("jaxlib")}
    return {
        **facts,
        **({"the file of config.init_from": digest} if digest else {}),
        **{f"the version of {name}": number for name, number in packages.items()},
        "the version of Python": platform.python_version(),
        "the code": code_state(),
        "--workdir": str(workdir),
    }


def _file_digest(name: str) -> str:
    try:
        with open(copies.here(name), "rb") as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    except OSError:
        return "missing"


def code_state() -> str:
    """The commit of this package where it is a clone, and a digest of its sources."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in ("fakedetect_jax", "tfds_ffpp"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    sources = f"sources {digest.hexdigest()[:12]}"
    if not (root / ".git").exists():
        return sources
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    commit = f"commit {commit or 'unknown'}{' with changes' if changed else ''}"
    return f"{commit}, {sources}"


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *words],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


# Below a workdir, the longest name of a file is a checkpoint's under way: 127 bytes.
DEEPEST = 200
OBJECT_NAME = 1024  # bytes that a bucket allows


def ensure_writable(workdir: Path, *, need_bytes: int = 0, make: bool = True) -> None:
    """Raises CheckpointError unless files can be made and `need_bytes` would fit.

    Without `make` the folder is not made: the nearest one above it is tried. A bucket
    has no folders to make, and no end.
    """
    is_address = addresses.is_address(workdir)
    length = len(os.fsencode(addresses.absolute(workdir)))
    longest = os.pathconf("/", "PC_PATH_MAX") if hasattr(os, "pathconf") else math.inf
    longest = OBJECT_NAME if is_address else longest
    if length + DEEPEST > longest:
        raise CheckpointError(
            f"the path of workdir {workdir} has {length:,} bytes; its files need "
            f"{DEEPEST} more, and this system allows {longest:,}: choose a shorter one"
        )
    folder = workdir
    while not (make or is_address or folder.exists()):
        folder = folder.parent
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)  # another host's process may have our number
    except (OSError, *addresses.errors()) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise CheckpointError(
            f"workdir {workdir} cannot be written ({why}); choose another --workdir"
        ) from error
    if is_address:
        return
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise CheckpointError(
            f"workdir {workdir} needs {need_bytes / 1e6:,.0f} MB for checkpoints but "
            f"has {free / 1e6:,.0f} MB free; free some space or choose another"
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run left a sealed checkpoint to go on from, whole or damaged."""
    return any(workdir.glob("checkpoints/*.digest.json"))


@contextlib.contextmanager
def lock(workdir: Path, hosts: Hosts) -> Iterator[None]:
    """Holds the workdir for this process, however it ends.

    All hosts end when a workdir in a bucket is lost meanwhile.

    Raises CheckpointError naming the holder when another run has it. On Windows, where
    runs are evaluated but not trained, nothing is held.
    """
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    mine = f"process {os.getpid()} on {socket.gethostname()} since {started}"
    if addresses.is_address(workdir):
        held = _lease(workdir, mine, hosts)
    else:
        held = _flock(workdir, mine)
    with held:
        yield


def _in_use(workdir: Path, holder: str) -> CheckpointError:
    return CheckpointError(
        f"workdir {workdir} is in use by {holder}; "
        "wait for that run or choose another --workdir"
    )


@contextlib.contextmanager
def _lease(workdir: Path, mine: str, hosts: Hosts) -> Iterator[None]:
    def lost(reason: str) -> None:
        # Not as after a signal: what would be saved now may be another run's.
        hosts.quit(
            f"workdir {workdir} {reason}; its last checkpoint is whole: mend the "
            "connection and run the same command again",
            CheckpointError.exit_code,
        )

    with contextlib.ExitStack() as stack:
        try:
            held = lease.hold(workdir, mine, say=Terminal().say, lost=lost)
            with addresses.one_sentence():
                stack.enter_context(held)
        except lease.Busy as error:
            raise _in_use(workdir, str(error)) from error
        yield


@contextlib.contextmanager
def _flock(workdir: Path, mine: str) -> Iterator[None]:
    """The kernel frees it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(workdir / "lock", "a+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise _in_use(workdir, holder) from error
        except OSError as error:
            raise CheckpointError(
                f"workdir {workdir} cannot be locked ({error.strerror}); mount it with "
                "locks (Lustre: -o flock), remove a lock file of another user, or "
                "choose another --workdir"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(f"{mine}\n")
        file.flush()
        yield


def read_config(workdir: Path) -> Config:
    """The config in a workdir's config.json. Raises CheckpointError."""
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text())["config"]
        groups = [config[name] for name in fixed.TRAINED_GROUPS]
        if not all(isinstance(group, dict) for group in groups):
            raise TypeError("a group of its config is none")
        return settings.as_config(config)
    except FileNotFoundError as error:
        there = sorted(p.name for p in workdir.iterdir()) if workdir.is_dir() else []
        raise CheckpointError(
            f"{workdir} is not the workdir of a run: it has no config.json "
            f"({'it holds ' + ', '.join(there[:5]) if there else 'nothing is there'}); "
            "train first, or give the right --workdir"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it"
        ) from error


def whole_config(workdir: Path) -> Config:
    """A run's config, to be used as it is. Raises CheckpointError."""
    stored = read_config(workdir)
    fields = settings.flatten(stored.to_dict())
    lacking = sorted(settings.RULES.keys() - fields.keys())
    if lacking:
        raise CheckpointError(
            f"{workdir / 'config.json'} lacks {', '.join(lacking[:3])}: it is damaged, "
            "or of another version; give --config too, which may have what it lacks"
        )
    return stored


class Run(NamedTuple):
    """What every part of a run needs to know of it."""

    config: Config
    workdir: Path
    mesh: Any  # jax.sharding.Mesh; this file works without jax
    terminal: Terminal
    stop: StopRequest
    command: str
    hosts: Hosts = Hosts()
    writes: bool = True  # False in a dry run, which leaves the workdir alone
    profile: range | None = None  # the steps to be traced


def write_record(run: Run, devices: str) -> None:
    """Writes the workdir's config.json."""
    record = {
        "config": run.config.to_dict(),
        "versions": versions(),
        "devices": devices,
        "command": run.command,
    }
    write_json(run.workdir / "config.json", record)
