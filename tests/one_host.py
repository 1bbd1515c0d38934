"""One process of several without JAX: joins, meets, fails; see test_hosts.py.

python -m tests.one_host '{"coordinator", "count", "id", "facts", "then", ...}'
"""

import json
import os
import sys
import threading
import time

from fakedetect_jax.errors import PeerError
from fakedetect_jax.run import hosts


def run() -> None:
    request = json.loads(sys.argv[1])
    for name, seconds in request.get("constants", {}).items():
        setattr(hosts, name, seconds)
    place = hosts.Place(request["coordinator"], request["count"], request["id"])

    def say(line: str) -> None:
        print(line, flush=True)

    if "failed" in request:
        hosts.send_failure(place, *request["failed"])
        sys.exit(request["failed"][1])
    try:
        facts = request.get("facts", {})
        link = hosts.join(place, facts, cure="give all the same", say=say)
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    say(f"joined {place.process_id} of {place.num_processes}")
    for name, facts in request.get("meet", {}).items():
        link.meet(name, facts, code=3, cure="copy it again")
        say(f"met {name}")
    then = request.get("then", "done")
    if then == "fail":
        link.claim_end()
        print("error: the disk is full", file=sys.stderr)
        link.fail("the disk is full", 4)
    if then == "die":
        os._exit(9)
    if then == "wait":
        threading.Event().wait()
    time.sleep(request.get("seconds", 0))
    link.done()
    time.sleep(0.2)
    sys.exit(0)
