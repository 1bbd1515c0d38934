"""Devices: joining the hosts, the mesh, shardings, host-local batches to global."""

import collections
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakedetect_jax.errors import ConfigError

Batch = dict[str, np.ndarray]

# A dead peer is noticed after this long; JAX then ends the survivors.
HEARTBEAT_TIMEOUT_SECONDS = 60


def join_hosts(
    *,
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Connects this process to the others of the run, if there are any.

    Raises ConfigError when the flags are incomplete or no cluster is detected.
    """
    explicit = (coordinator, num_processes, process_id)
    if not distributed and all(value is None for value in explicit):
        return
    if not distributed and any(value is None for value in explicit):
        raise ConfigError(
            "--coordinator, --num_processes and --process_id belong together; "
            "give all three, or --distributed alone on TPU, Slurm or Open MPI"
        )
    # Gloo carries the collectives between CPU processes; other backends ignore it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the hosts could not be joined ({reason}); give --coordinator host:port, "
            "--num_processes and --process_id on every host"
        ) from error


def require_accelerator(accelerator: str) -> None:
    """Raises ConfigError unless the default devices are of the wanted kind."""
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise ConfigError(
            f"no device could be started: {str(error).splitlines()[0]}; "
            "set accelerator to any, or install the matching jax extra"
        ) from error
    if accelerator not in ("any", found):
        raise ConfigError(
            f"accelerator is {accelerator} but JAX found only {found}; install "
            f"fakedetect-jax[cuda12], [cuda13] or [tpu], or set accelerator=any"
        )


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices in one "data" axis."""
    # Mesh, not jax.make_mesh: that one's default axis type differs between versions.
    return Mesh(np.array(devices or jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_divisible(field: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError with the nearest sizes unless the batch splits evenly."""
    devices = mesh.devices.size
    if batch_size % devices:
        below = batch_size // devices * devices
        nearest = [str(size) for size in (below, below + devices) if size > 0]
        raise ConfigError(
            f"{field} {batch_size} does not divide over {devices} devices; "
            f"nearest are {' and '.join(nearest)}"
        )


def local_rows(batch_size: int) -> slice:
    """The rows of a global batch that this process feeds."""
    rows = batch_size // jax.process_count()
    first = rows * jax.process_index()
    return slice(first, first + rows)


def to_global(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows on its devices as part of the global batch."""
    sharding = batch_sharded(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def put_ahead(
    batches: Iterable[Batch], mesh: Mesh, depth: int
) -> Iterator[tuple[Batch, dict[str, jax.Array]]]:
    """Yields (host batch, device batch) with `depth` transfers started ahead."""
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
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def fetch(tree):
    """Host copies (numpy) of replicated arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def from_first(value: np.ndarray) -> np.ndarray:
    """The value that process 0 holds, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


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
        cast = self._any(to_global({"ballots": ballots}, self._mesh)["ballots"])
        before, self._pending = self._pending, cast
        return before is not None and bool(fetch(before))
