"""Devices: joining the hosts, the mesh, shardings, host-local batches to global."""

import collections
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.run.hosts import Hosts, Place
from tfds_ffpp.errors import reason


def describe_devices(mesh: Mesh) -> str:
    """For example "8 x cpu (cpu), 1 process"."""
    devices = list(mesh.devices.flat)
    kind = devices[0].device_kind
    hosts = jax.process_count()
    return (
        f"{len(devices)} x {kind} ({devices[0].platform}), "
        f"{hosts} process{'es' if hosts > 1 else ''}"
    )


# JAX ends the survivors of a dead peer after this long; hosts.py does so before.
DETERMINISTIC = "xla_gpu_deterministic_ops"
HEARTBEAT_TIMEOUT_SECONDS = 60


def local_devices(wanted: Sequence[str] | None) -> list[int]:
    """The devices that this process may use; empty for all that it sees.

    JAX itself would take one per process on Slurm and Open MPI, whatever the process
    was given. Raises ConfigError for anything but whole numbers.
    """
    given = ",".join(wanted) if wanted else os.environ.get("JAX_LOCAL_DEVICE_IDS", "")
    if given:
        try:
            return [int(number) for number in given.split(",")]
        except ValueError as error:
            raise ConfigError(
                f"--local_device_ids is {given!r}; it must be whole numbers, for "
                "example 0,1"
            ) from error
    return _share_of_host(os.environ)


def _share_of_host(environ: Mapping[str, str]) -> list[int]:
    """One device where several processes of a job see the same ones; else all."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if "SLURM_GPUS_PER_TASK" in environ or (visible != [""] and len(visible) == 1):
        return []
    if "SLURM_LOCALID" in environ:
        # For example 8(x3),2 for nodes with 8, 8, 8 and 2 tasks.
        listed = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
        nodes = re.findall(r"(\d+)(?:\(x(\d+)\))?", listed)
        counts = [int(n) for n, times in nodes for _ in range(int(times or 1))]
        node = int(environ.get("SLURM_NODEID", "0"))
        tasks = counts[node] if node < len(counts) else counts[-1]
        return [int(environ["SLURM_LOCALID"])] if tasks > 1 else []
    if int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")) > 1:
        return [int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))]
    return []


def join_hosts(place: Place, local_device_ids: Sequence[int]) -> None:
    """Connects JAX in this process to the others; all of them must be there.

    Raises ConfigError when that fails.
    """
    # Gloo carries the collectives between CPU processes; other backends ignore it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        # With all four given JAX looks for no cluster of its own.
        jax.distributed.initialize(
            coordinator_address=place.coordinator,
            num_processes=place.num_processes,
            process_id=place.process_id,
            local_device_ids=list(local_device_ids),
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the hosts could not be joined ({reason(error)}); give --coordinator "
            "host:port, --num_processes and --process_id on every host"
        ) from error


def ask_for_same_bits() -> None:
    """Asks XLA for programs of GPUs whose sums have one order; before the first device.

    Slower, and a program that cannot be had so is refused by the compiler. Raises
    ConfigError where XLA_FLAGS says the opposite.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if re.search(rf"--{DETERMINISTIC}=(false|0)\b", flags):
        raise ConfigError(
            f"config.deterministic is True, but XLA_FLAGS has --{DETERMINISTIC}=false; "
            "take it out there, or leave config.deterministic False"
        )
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{DETERMINISTIC}=true".strip()


def keep_programs(folder: str) -> None:
    """Has compiled programs kept in a folder, for processes to come.

    JAX leaves out those that compile within a second. A start has two dozen of them,
    which take longer together than the one large program does to be read. Its own
    variable for that counts where it is set.
    """
    jax.config.update("jax_compilation_cache_dir", folder)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def require_accelerator(accelerator: str) -> None:
    """Raises ConfigError unless the default devices are of the wanted kind."""
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise ConfigError(
            f"no device could be started: {reason(error)}; "
            "set accelerator to any, or install the matching jax extra"
        ) from error
    if accelerator not in ("any", found):
        raise ConfigError(
            f"accelerator is {accelerator} but JAX found only {found}; in the clone, "
            "pip install -e '.[cuda12]', '.[cuda13]' or '.[tpu]', or set "
            "accelerator=any"
        )


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices in one "data" axis, or that of each slice behind a "slice" axis.

    Several slices of TPUs are joined by a network slower than their own links, so that
    what is split within a slice alone (see shared_out) never crosses it.
    """
    found = list(devices or jax.devices())
    slices: dict[int, list[Any]] = {}
    for device in found:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    rows = [slices[number] for number in sorted(slices)]
    if len(rows) == 1 or len({len(row) for row in rows}) > 1:
        rows = [found]
    # Mesh, not jax.make_mesh: that one's default axis type differs between versions.
    if len(rows) == 1:
        return Mesh(np.array(found), ("data",))
    return Mesh(np.array(rows), ("slice", "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def shared_out(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """The longest axis that divides evenly is split over the devices of a slice.

    Every device holds the whole array where there is no such axis.
    """
    count = mesh.shape["data"]
    even = [i for i, length in enumerate(shape) if length % count == 0]
    if count == 1 or not even:
        return replicated(mesh)
    split = max(even, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * split, "data"))


def batch_unit(mesh: Mesh, parts: int = 1) -> int:
    """The number of clips of which a batch must be a multiple.

    One that is computed in several parts is shared out by twos; see steps.take_part.
    """
    return mesh.devices.size * (2 * parts if parts > 1 else 1)


def check_divisible(field: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises ConfigError with the nearest sizes unless the batch splits evenly."""
    unit, devices = batch_unit(mesh, parts), mesh.devices.size
    if batch_size % unit:
        below = batch_size // unit * unit
        nearest = [str(size) for size in (below, below + unit) if size > 0]
        over = f"{devices} device{'s' if devices > 1 else ''}"
        if parts > 1:
            over += f" in config.accumulate={parts} parts of an even number of clips"
        raise ConfigError(
            f"{field} {batch_size} does not divide over {over}; "
            f"nearest are {' and '.join(nearest)}"
        )


def local_rows(batch_size: int, mesh: Mesh) -> slice:
    """The rows of a global batch that this process feeds: those of its devices."""
    owners = [device.process_index for device in mesh.devices.flat]
    places = [n for n, owner in enumerate(owners) if owner == jax.process_index()]
    per_device = batch_size // len(owners)
    return slice(places[0] * per_device, (places[-1] + 1) * per_device)


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Puts this process's rows on its devices as part of the global batch."""
    sharding = batch_sharded(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )


def put_ahead(
    batches: Iterable[Any], mesh: Mesh, depth: int
) -> Iterator[tuple[Any, Any]]:
    """Yields (host batch, device batch) with `depth` transfers started ahead.

    A batch is a Batch or a ClipRows.
    """
    source = iter(batches)
    waiting: collections.deque = collections.deque()
    for batch in itertools.islice(source, depth):
        waiting.append((batch, to_global(batch, mesh)))
    while waiting:
        yield waiting.popleft()
        for batch in itertools.islice(source, 1):
            waiting.append((batch, to_global(batch, mesh)))


def put_replicated(tree, mesh: Mesh):
    """Host arrays, the same in all processes, on every device."""
    return jax.tree.map(lambda x: _put(x, replicated(mesh)), tree)


def put(tree, places):
    """Host arrays, the same in all processes, to their places, a tree of shardings."""
    return jax.tree.map(_put, tree, places)


def _put(array, place: NamedSharding) -> jax.Array:
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, place, lambda part: whole[part])


def fetch(tree):
    """Host copies (numpy) of arrays; all processes must call it where one is split.

    The copies are under way at once, but for split arrays: of those each is joined on
    the devices, so that they hold one of them whole at a time.
    """
    whole = jax.tree.map(
        lambda x: x.addressable_data(0) if x.is_fully_replicated else x, tree
    )
    for array in jax.tree.leaves(whole):
        if array.is_fully_replicated:
            array.copy_to_host_async()
    return jax.tree.map(_to_host, whole)


def fetch_copies(tree):
    """fetch, of arrays that a step is given before the copies were used.

    A CPU's host arrays are views of the device's own memory, which the step updates.
    """
    own = np.array if jax.default_backend() == "cpu" else np.asarray
    return jax.tree.map(own, fetch(tree))


def _to_host(array: jax.Array) -> np.ndarray:
    if not array.is_fully_replicated:
        array = _join(array.sharding.mesh)(array).addressable_data(0)  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(array)


@functools.cache
def _join(mesh: Mesh) -> Callable:
    return jax.jit(lambda array: array, out_shardings=replicated(mesh))


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def first_alone(work: Callable[[], None], hosts: Hosts) -> None:
    """Has process 0 do something while the others wait, however long it takes."""
    if jax.process_index() == 0:
        work()
    # Not in a collective: those give up after some minutes.
    hosts.meet("process 0 has built the dataset")
    barrier("first is done")


def from_first(value: Any) -> np.ndarray:
    """The value that process 0 holds, on every process."""
    if jax.process_count() == 1:
        return np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def on_all(mine: bool) -> bool:
    """Whether every process says yes: the same answer on all."""
    if jax.process_count() == 1:
        return mine
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))


def agree(number: int) -> int:
    """The number that process 0 holds, on every process."""
    return int(from_first(np.int32(number)))


class Vote:
    """Whether any process says yes: the same answer on all, one call late.

    All processes must call it equally often. It never waits for the devices longer
    than the metrics of the step before do.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._pending: jax.Array | None = None

    def __call__(self, mine: bool) -> bool:
        """Casts this process's ballot; the result of the call before."""
        if jax.process_count() == 1:
            return mine
        ballots = np.full(jax.local_device_count(), mine)
        cast = self._any(to_global(ballots, self._mesh))
        before, self._pending = self._pending, cast
        return before is not None and bool(fetch(before))
