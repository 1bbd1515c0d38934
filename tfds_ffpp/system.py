"""What this machine is and has; Linux is the system that is tested."""

import ctypes
import importlib.util
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from tfds_ffpp.errors import SettingError

POSIX = ("fcntl", "resource")  # modules of Python that Windows has not


def need_posix(work: str) -> None:
    """Raises SettingError where Python lacks what `work` needs of the system."""
    lacking = [name for name in POSIX if importlib.util.find_spec(name) is None]
    if lacking:
        raise SettingError(
            f"{work} needs Linux, and Python has no module {' and no '.join(lacking)} "
            f"on this system ({sys.platform}); use WSL 2 on Windows, or a Linux "
            "container"
        )


# A bucket and a folder in it; gcsfs takes # for a version, * ? [ ] for a pattern.
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^/#*?\[\]]+)+")


def refuse_path(name: str, path: str | None, *, bucket: bool = False) -> None:
    """Raises SettingError for a path that cannot be one, or may not be looked at.

    bucket: whether it may be gs://BUCKET/FOLDER. Of any other address Python would make
    a folder here.
    """
    if bucket and path and path.startswith("gs://"):
        _check_address(name, path)
        return
    if path and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise SettingError(
            f"{name} is {path}, which is no folder of this machine; mount it (gcsfuse, "
            "NFS) and give the path under which it is mounted"
        )
    try:
        os.stat(Path(path or ".").expanduser())
    except (FileNotFoundError, NotADirectoryError):
        return  # whoever opens it says what should be there
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(
            f"{name} is {path!r}, which is no usable path ({reason}); give another"
        ) from error


def _check_address(name: str, path: str) -> None:
    if not BUCKET.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise SettingError(
            f"{name} is {path}; an address must be gs://BUCKET/FOLDER, without "
            "# * ? [ ], // or a last /"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise SettingError(
            f"{name} is {path}, and buckets need gcsfs: "
            "pip install 'fakedetect-jax[gcs]', or mount it (gcsfuse)"
        )


_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends; at once if it has.

    For a process forked by a thread that lasts: the kernel takes the end of that
    thread for the parent's. On Linux only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def watch_parent(parent: int) -> None:
    """Ends this process within a second of its parent, whichever thread began it.

    A thread looks: it needs Python to run, where the kernel needs nothing.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def peak_bytes() -> int | None:
    """The most memory that this process has held, in bytes; None if not known."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # getrusage(2) of each


def num_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: of the machine, and of its container.

    A container's share of time, as of `docker --cpus=2`, is rounded up.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for folder, version in control_groups("cpu", root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            # "max" and -1 are no limit.
            if quota != "max" and int(quota) > 0:
                cores = min(cores, -(-int(quota) // int(period)))
    return max(cores, 1)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take of the machine or of its container.

    None where that is not known. Of a container's limit, file pages that were not used
    lately are free: the kernel gives them up.
    """
    try:
        text = (root / "proc/meminfo").read_text()
        free = [int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0]) << 10]
    except (OSError, IndexError):
        return None
    for folder, limit, used, cached in _memory_files(root):
        with suppress(OSError, ValueError):
            most, taken = int((folder / limit).read_text()), (folder / used).read_text()
            statistics = (folder / "memory.stat").read_text()
            old = re.findall(rf"^{cached} (\d+)", statistics, re.M)
            free.append(most - max(int(taken) - int(old[0] if old else 0), 0))
    return max(min(free), 0)


def _memory_files(root: Path) -> list[tuple[Path, str, str, str]]:
    """The control groups that hold this process, with the names of their files."""
    two = ("memory.max", "memory.current", "inactive_file")
    one = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found = []
    for folder, version in control_groups("memory", root):
        limit, used, cached = two if version == 2 else one
        found.append((folder, limit, used, cached))
    return found


def control_groups(controller: str, root: Path = Path("/")) -> list[tuple[Path, int]]:
    """The control groups of Linux that hold this process: folder, and 1 or 2."""
    found = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = root / "sys/fs/cgroup" / (controller if controllers else "")
            place = Path(os.path.normpath(base / path.lstrip("/")))
            while place.is_relative_to(base):
                found.append((place, 1 if controllers else 2))
                place = place.parent
    return found
