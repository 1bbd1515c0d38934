"""A pytest plugin: which lines of one file each test runs, and how long it takes.

TRACED_FILE=.../data.py TRACED_OUT=lines.json pytest -p benchmarks.traced tests/...

Writes {test: {"lines": [...], "seconds": s}}. What a test's fixtures run counts as its
own, also where another test had them made: alone it would have to make them. Lines that
run in other processes are not seen.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

FILE = os.path.realpath(os.environ["TRACED_FILE"])
fixtures: dict[str, tuple[set[int], float]] = {}
tests: dict[str, tuple[set[int], float]] = {}
heaps: list[set[int]] = []  # of what is under way, the innermost last


def _trace(frame, event, argument):
    if frame.f_code.co_filename != FILE:
        return None
    if heaps:
        heaps[-1].add(frame.f_lineno)
    return _trace


def _measured(kept: dict[str, tuple[set[int], float]], name: str):
    heaps.append(set())
    began = time.perf_counter()
    try:
        return (yield)
    finally:
        lines, seconds = kept.get(name, (set(), 0.0))
        spent = time.perf_counter() - began
        kept[name] = lines | heaps.pop(), max(seconds, spent)


def pytest_configure() -> None:
    """Begins to watch, in threads too."""
    threading.settrace(_trace)
    sys.settrace(_trace)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Keeps what a fixture runs."""
    return (yield from _measured(fixtures, fixturedef.argname))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Keeps what a test runs, with its fixtures."""
    result = yield from _measured(tests, pyfuncitem.nodeid)
    for name in pyfuncitem.fixturenames:
        lines, seconds = fixtures.get(name, (set(), 0.0))
        own = tests[pyfuncitem.nodeid]
        tests[pyfuncitem.nodeid] = own[0] | lines, own[1] + seconds
    return result


def pytest_sessionfinish() -> None:
    """Writes what was seen."""
    sys.settrace(None)
    ran = {k: {"lines": sorted(v[0]), "seconds": v[1]} for k, v in tests.items()}
    Path(os.environ["TRACED_OUT"]).write_text(json.dumps(ran))
