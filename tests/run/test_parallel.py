"""Memory: what is free, and the largest batch that fits into it."""

import pytest

from fakedetect_jax.run import memory

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


@pytest.fixture
def container(tmp_path):
    """A host with 64 GiB free and a container of 16 GiB, of which 15 are in use."""
    (tmp_path / "meminfo").write_text(f"MemAvailable:   {64 * 2**20} kB\n")
    (tmp_path / "memory.max").write_text(f"{16 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{15 * GIB}\n")

    def free() -> float | None:
        found = memory.free_host_bytes(tmp_path / "meminfo", tmp_path)
        return None if found is None else found / GIB

    return tmp_path, free


def test_pages_of_files_that_were_read_are_not_counted_as_used(container):
    folder, free = container
    assert free() == 1  # without memory.stat
    (folder / "memory.stat").write_text(
        f"anon {4 * GIB}\nfile {11 * GIB}\ninactive_file {9 * GIB}\nactive_file 7\n"
    )
    assert free() == 10


def test_what_the_host_has_left_limits_too(container):
    folder, free = container
    (folder / "memory.stat").write_text(f"inactive_file {9 * GIB}\n")
    (folder / "meminfo").write_text(f"MemAvailable: {2 * 2**20} kB\n")
    assert free() == 2
    (folder / "memory.max").write_text("max\n")
    assert free() == 2
    (folder / "meminfo").unlink()
    assert free() is None


def test_the_fewest_parts_that_fit_split_evenly_by_twos():
    assert memory.fewest_parts(32, fits=16, devices=1) == 2
    assert memory.fewest_parts(32, fits=15, devices=1) == 4
    assert memory.fewest_parts(32, fits=3, devices=1) == 16
    assert memory.fewest_parts(32, fits=1, devices=1) == 0
    assert memory.fewest_parts(32, fits=8, devices=4) == 4
    assert memory.fewest_parts(32, fits=7, devices=4) == 0
    assert memory.fewest_parts(24, fits=10, devices=2) == 3


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
