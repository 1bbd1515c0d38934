"""What preparing a video may take of the machine."""

import math

from tfds_ffpp import system

MEMORY = 4 << 30  # bytes for one video
LEAST_MEMORY = 768 << 20  # bytes; an ordinary video takes 100 to 400 MB
SHARE = 0.8  # of the free memory, for all processes together
NUM_FILES = 64  # open at a time
_PICTURE_BYTES = (
    6  # of a stored pixel at the most: JPEG of noise at quality 100 takes 4
)
_FACTS_BYTES = 4096  # of what is written about a frame


def limit_process(*, seconds: float, memory: int | None, file_bytes: int) -> None:
    """Limits this process for good: CPU seconds, bytes of memory and of a file.

    Where the system has no such limits, nothing is limited.
    """
    try:
        import resource
    except ImportError:
        return
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: NUM_FILES,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
    }
    if memory:
        limits[resource.RLIMIT_DATA] = memory
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # At the hard limit of time the kernel kills without saying why.
        spare = kind == resource.RLIMIT_CPU and most != hard
        resource.setrlimit(kind, (most, most + spare))


def entry_bytes(num_frames: int, image_size: int) -> int:
    """The most that a file of so many stored frames can take."""
    return num_frames * (image_size**2 * _PICTURE_BYTES + _FACTS_BYTES) + (1 << 20)


def share_memory(
    num_processes: int, *, most: int = MEMORY, free: int | None = None
) -> tuple[int, int]:
    """(processes, bytes of memory for each) that the machine has place for.

    Args:
      num_processes: how many are wanted.
      most: bytes for one.
      free: bytes that all may take; asked of the system if not given.
    """
    have = system.free_memory() if free is None else free
    if have is None:
        return num_processes, most
    have = int(SHARE * have)
    fitting = max(have // min(LEAST_MEMORY, most), 1)
    num_processes = min(num_processes, fitting)
    return num_processes, min(most, max(have // num_processes, LEAST_MEMORY))
