"""Joins JAX as the only process of a job; prints which GPUs it was asked for."""

import json
import os
import sys


def run() -> None:
    request = json.loads(sys.argv[1])
    os.environ.update(request["env"])
    import jax

    from fakedetect_jax.run import parallel
    from fakedetect_jax.run.hosts import Place

    place = Place(f"localhost:{request['port']}", 1, 0)
    parallel.join_hosts(place, parallel.local_devices(None))
    print(jax.config.values["jax_cuda_visible_devices"], jax.process_count())
    jax.distributed.shutdown()
    sys.exit(0)
