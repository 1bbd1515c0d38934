"""Faults of memory and disk as sentences that name a cure."""

import errno
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from fakedetect_jax.errors import CheckpointError, ConfigError, PeerError
from tfds_ffpp.errors import UserError, reason
from tfds_ffpp.system import free_memory


def user_error_of(error: BaseException, config) -> UserError | None:
    """The sentence for an error of the runtime that a user can mend, if it is one."""
    text = str(error)
    if isinstance(error, OSError):
        return disk_fault(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return memory_error(config, remat=config.model.remat)
    if jax.process_count() > 1:
        return PeerError(
            f"process {jax.process_index()} lost another process of the run "
            f"({reason(error)}); start the same command on all hosts "
            "again: it goes on from the last checkpoint"
        )
    return None


# What a disk may answer to a write; other errors of the system are faults of ours.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.EFBIG,
)


def disk_fault(error: OSError) -> CheckpointError | None:
    """The sentence for a file that could not be written or read, if it is one."""
    if error.errno not in DISK_ERRORS:
        return None
    name = error.filename or "a file of the run"
    return CheckpointError(
        f"{name}: {os.strerror(error.errno)}; what was saved before is whole: mend "
        "that and run the same command again"
    )


def memory_error(
    config,
    need: int = 0,
    have: int = 0,
    *,
    remat: bool,
    fits: "Fit | None" = None,
    held: int = 0,
) -> ConfigError:
    """Out of memory: the sizes that decide it, and the ways out.

    Args:
      config: the run's.
      need: bytes that the step takes; 0 where that is not known.
      have: bytes that are free.
      remat: whether config.model.remat was in use, so that it is not advised again.
      fits: what was found to fit, None if not looked for.
      held: bytes that stored frames take of them.
    """
    sizes = f" ({need / 1e9:,.1f} GB needed, {have / 1e9:,.1f} GB free)" if need else ""
    ways = ["lower the batch, or compute it in parts (config.accumulate)"]
    ways.append("shorten the clips")
    if fits and fits.batch_size:
        ways[0] = f"a batch of {fits.batch_size} fits"
        ways[0] += f": --config.batch_size={fits.batch_size}"
        if fits.parts:
            again = f"--config.accumulate={fits.parts} keeps this one, in parts"
            ways.insert(1, again)
    elif fits:
        ways = ["no batch fits, so shorten the clips", "take a smaller backbone"]
    if not remat:
        ways.append("set config.model.remat=True")
    if held:
        ways.append(f"set config.data.resident=host, for {held / 1e9:,.1f} GB less")
    with_remat = " with config.model.remat" if remat else ""
    in_parts = f"in {config.accumulate} parts " if config.accumulate > 1 else ""
    return ConfigError(
        f"out of memory{sizes}: config.batch_size is {config.batch_size} clips "
        f"{in_parts}of config.data.clip_frames {config.data.clip_frames} at "
        f"config.dataset.image_size {config.dataset.image_size}{with_remat}; "
        f"{', '.join(ways[:-1])}, or {ways[-1]}"
    )


def store_error(num_frames: int, need: int, have: int) -> ConfigError:
    """Devices cannot hold the training's frames, whatever the step takes."""
    return ConfigError(
        f"config.data.resident is device, but the {num_frames:,} frames of the "
        f"training take {need / 1e9:,.1f} GB and {have / 1e9:,.1f} GB are free; set "
        "config.data.resident=host, and config.data.cache_mib to what the host can "
        "spare"
    )


class Fit(NamedTuple):
    """What fits into memory: the largest batch, and the wanted one in so many parts."""

    batch_size: int  # 0 if none does
    parts: int  # 0 if none does


def fewest_parts(batch_size: int, *, fits: int, devices: int, groups: int = 1) -> int:
    """In how many parts of at most `fits` clips a batch splits evenly; 0 if in none.

    By twos over the devices, as steps.take_part does it; each part in the groups of
    its BatchNorm statistics.
    """
    for parts in range(2, batch_size // (2 * devices) + 1):
        unit = math.lcm(2 * devices, groups)
        if batch_size % (parts * unit) == 0 and batch_size // parts <= fits:
            return parts
    return 0


def on_devices(size: int) -> int:
    """What an array of so many bytes takes on every device, as step_bytes counts it."""
    on_cpu = jax.default_backend() == "cpu"  # whose devices share the host's memory
    return size * (jax.local_device_count() if on_cpu else 1)


def step_bytes(compiled) -> int | None:
    """What a compiled program takes: of the host's memory on CPUs, else of a device's.

    None where the compiler does not say.
    """
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    return on_devices(
        sizes.temp_size_in_bytes
        + sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
    )


def free_bytes(devices: Sequence[Any]) -> int | None:
    """What a program on these devices may take, as step_bytes counts it.

    On CPUs what the host has left, else what the fullest device has; None where that is
    not known.
    """
    if devices[0].platform == "cpu":
        return free_memory()
    free = []
    for device in devices:
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(free)


# How often a batch is tried; each try compiles a step.
MAX_TRIES = 4


def largest_batch(
    need_of: Callable[[int], int],
    *,
    have: int,
    too_large: tuple[int, int],
    multiple: int,
) -> int:
    """The largest batch found to fit, by a few tries; 0 when none does.

    Memory grows with the batch nearly on a line: each try is where the line through
    the last two sizes meets `have`. The line of the first try goes through zero.

    Args:
      need_of: batch size -> bytes that the step takes.
      have: bytes that it may take.
      too_large: a batch size that does not fit, and what it takes.
      multiple: the batch must be one of this, the number of devices.
    """
    low, high = 0, too_large[0]  # what fits, and what does not
    (before, need_before), (last, need_last) = (0, 0), too_large
    for tries_left in reversed(range(MAX_TRIES)):
        if low + multiple >= high:
            break
        slope = (need_last - need_before) / (last - before)
        guess = last + (have - need_last) / slope if slope > 0 else low
        size = int(guess) // multiple * multiple
        size = min(max(size, low + multiple), high - multiple)
        if not tries_left and not low:
            size = multiple  # whether any does
        before, need_before = last, need_last
        last, need_last = size, need_of(size)
        low, high = (size, high) if need_last <= have else (low, size)
    return low
