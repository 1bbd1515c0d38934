"""Fails when a test was skipped in every environment, but for want of rights.

python .ci/check_skips.py FIRST.xml [SECOND.xml ...]      (pytest --junitxml)

Prints how many passed and which were skipped where. What no environment ran must say
that it needs hardware, a right such as mounting a disk, a browser or a database.
"""

import sys
import xml.etree.ElementTree as ElementTree  # our own files: nobody else's XML is read
from collections.abc import Iterator
from typing import NamedTuple

ALLOWED = (
    "no disk of one's own",
    *("no Chromium", "no PostgreSQL server", "no Redis server"),
)


class Outcome(NamedTuple):
    """A test in one environment; reason: why it was skipped, empty if it ran."""

    test: str
    reason: str


def outcomes(path: str) -> Iterator[Outcome]:
    """Those of one junit file."""
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314
        skipped = case.find("skipped")
        reason = "" if skipped is None else skipped.get("message", "no reason")
        yield Outcome(f"{case.get('classname')}::{case.get('name')}", reason)


def main(paths: list[str]) -> int:
    """1 where a test never ran."""
    ran: set[str] = set()
    reasons: dict[str, str] = {}
    for path in paths:
        found = list(outcomes(path))
        skipped = [one for one in found if one.reason]
        print(f"{path}: {len(found) - len(skipped)} ran, {len(skipped)} skipped")
        ran |= {one.test for one in found if not one.reason}
        reasons |= dict(skipped)
    never = {test: why for test, why in reasons.items() if test not in ran}
    refused = {t: w for t, w in never.items() if not w.startswith(ALLOWED)}
    for test, why in sorted(never.items()):
        print(f"{'never ran' if test in refused else 'allowed'}: {test}: {why}")
    if not ran:
        print("no test ran")
    return int(bool(refused) or not ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
