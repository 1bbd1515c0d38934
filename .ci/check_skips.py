"""Fails when a test was skipped in every environment, but for want of rights.

python .ci/check_skips.py FIRST.xml [SECOND.xml ...]      (pytest --junitxml)

Prints how many passed, which were skipped where, and which files took longest. What no
environment ran must say that it needs hardware, a right such as mounting a disk, a
browser or a database; with the variable STRICT only what a processor lacks.
"""

import os
import sys
import xml.etree.ElementTree as ElementTree  # our own files: nobody else's XML is read
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ALLOWED = (
    "no disk of one's own",
    *("no Chromium", "no PostgreSQL server", "no Redis server"),
)
PROCESSOR = ("no bfloat16 on this processor",)  # nobody can install it
STRICT = "STRICT"  # a variable: as where all is installed
SHOWN_FILES = 15  # the slowest


class Outcome(NamedTuple):
    """A test in one environment; reason: why it was skipped, empty if it ran."""

    test: str
    file: str
    seconds: float
    reason: str


def outcomes(path: str) -> Iterator[Outcome]:
    """Those of one junit file."""
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314
        skipped = case.find("skipped")
        reason = "" if skipped is None else skipped.get("message", "no reason")
        file, seconds = case.get("classname", ""), float(case.get("time", 0))
        yield Outcome(f"{file}::{case.get('name')}", file, seconds, reason)


def show_slowest(found: Sequence[Outcome]) -> None:
    """The files that took longest, fixtures of modules included."""
    seconds: Counter[str] = Counter()
    for one in found:
        seconds[one.file] += one.seconds
    for file, total in seconds.most_common(SHOWN_FILES):
        print(f"{total:7.1f} s {file}")


def main(paths: list[str]) -> int:
    """1 where a test never ran."""
    ran: set[str] = set()
    reasons: dict[str, str] = {}
    for path in paths:
        found = list(outcomes(path))
        skipped = [one for one in found if one.reason]
        print(f"{path}: {len(found) - len(skipped)} ran, {len(skipped)} skipped")
        show_slowest(found)
        ran |= {one.test for one in found if not one.reason}
        reasons |= {one.test: one.reason for one in skipped}
    never = {test: why for test, why in reasons.items() if test not in ran}
    allowed = PROCESSOR if os.environ.get(STRICT) else (*PROCESSOR, *ALLOWED)
    refused = {t: w for t, w in never.items() if not w.startswith(allowed)}
    for test, why in sorted(never.items()):
        print(f"{'never ran' if test in refused else 'allowed'}: {test}: {why}")
    if not ran:
        print("no test ran")
    return int(bool(refused) or not ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
