"""Memory: what is free, and the largest batch that fits; the mesh."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.run import memory, parallel, workdir
from tests.patience import LIMIT

GIB = 2**30


@pytest.mark.parametrize("fixed", [0, 5, 90])
@pytest.mark.parametrize("devices", [1, 4])
def test_the_largest_batch_that_fits_is_found_in_four_tries(fixed, devices):
    tried = []

    def need_of(size: int) -> int:
        tried.append(size)
        return fixed + 7 * size + size // 10  # nearly on a line

    largest = max(n for n in range(0, 64, devices) if fixed + 7 * n + n // 10 <= 130)
    found = memory.largest_batch(
        need_of, have=130, too_large=(64, fixed + 454), multiple=devices
    )
    assert found == largest
    assert len(tried) <= memory.MAX_TRIES
    assert all(size % devices == 0 for size in tried)


def test_no_batch_fits_where_the_smallest_does_not():
    assert (
        memory.largest_batch(
            lambda size: 200 + size, have=130, too_large=(64, 264), multiple=2
        )
        == 0
    )


def test_the_fewest_parts_that_fit_split_evenly_by_twos():
    assert memory.fewest_parts(32, fits=16, devices=1) == 2
    assert memory.fewest_parts(32, fits=15, devices=1) == 4
    assert memory.fewest_parts(32, fits=3, devices=1) == 16
    assert memory.fewest_parts(32, fits=1, devices=1) == 0
    assert memory.fewest_parts(32, fits=8, devices=4) == 4
    assert memory.fewest_parts(32, fits=7, devices=4) == 0
    assert memory.fewest_parts(24, fits=10, devices=2) == 3
    # Each part in as many groups of equal size.
    assert memory.fewest_parts(48, fits=20, devices=1) == 3
    assert memory.fewest_parts(48, fits=20, devices=1, groups=12) == 4
    assert memory.fewest_parts(64, fits=20, devices=1, groups=32) == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EACCES])
def test_a_workdir_that_cannot_be_locked_is_said(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    said = rf"cannot be locked \({os.strerror(number)}\); mount it with locks"
    with pytest.raises(CheckpointError, match=said), workdir._flock(tmp_path, "me"):
        pass


def test_the_fullest_device_has_what_a_step_may_take():
    class Device:
        platform = "gpu"

        def __init__(self, **stats):
            self._stats = stats

        def memory_stats(self):
            return self._stats or None

    first, second = Device(bytes_limit=80), Device(bytes_limit=80, bytes_in_use=30)
    assert memory.free_bytes([first, second]) == 50
    assert memory.free_bytes([first, Device()]) is None


@dataclass(frozen=True)
class Device:
    """Of a pod: one has no such pods here, and a mesh asks no more of it."""

    id: int
    process_index: int
    slice_index: int


def test_devices_of_a_slice_stand_together_and_hosts_feed_their_own_rows(monkeypatch):
    # Two hosts of two devices in each of two slices, met in another order.
    devices = [Device(n, n // 2, n // 2 % 2) for n in range(8)]
    mesh = parallel.make_mesh(devices)
    assert dict(mesh.shape) == {"slice": 2, "data": 4}
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0] * 4, [1] * 4]
    fed = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        rows = parallel.local_rows(32, mesh)
        fed += range(32)[rows]
        owners = {mesh.devices.flat[row // 4].process_index for row in range(32)[rows]}
        assert owners == {process}
    assert sorted(fed) == list(range(32))
    assert parallel.make_mesh(devices[:2]).axis_names == ("data",)


def test_what_is_shared_out_is_the_longest_axis_that_divides():
    mesh = parallel.make_mesh(jax.devices())
    split = {
        (3, 3, 16, 64): (None, None, None, "data"),
        (64, 16): ("data",),
        (3, 5): (),
        (): (),
    }
    for shape, spec in split.items():
        assert parallel.shared_out(mesh, shape).spec == PartitionSpec(*spec)
    assert np.prod(parallel.shared_out(mesh, (64, 16)).shard_shape((64, 16))) == 128


def test_same_bits_and_a_flag_against_them_are_a_contradiction(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    with pytest.raises(ConfigError, match="XLA_FLAGS has --xla_gpu_deterministic_ops"):
        parallel.ask_for_same_bits()


def test_asked_for_same_bits_the_compiler_knows_the_flag():
    """In a process of its own, since flags are read once."""
    program = (
        "from fakedetect_jax.run import parallel\n"
        "parallel.ask_for_same_bits(); parallel.ask_for_same_bits()\n"
        "import jax, os\n"
        "print(os.environ['XLA_FLAGS'], jax.jit(lambda x: x + 1)(1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "--xla_force_host_platform_device_count=2",
        "--xla_gpu_deterministic_ops=true",
        "2",
    ]
