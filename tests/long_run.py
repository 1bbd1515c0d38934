"""Two thousand steps seen from within: what a process holds early and late, as JSON."""

import json
import os
import sys
import tempfile
from pathlib import Path

STEPS = 2000
LOOKED_AT = (200, STEPS)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run() -> None:
    import jax

    from fakedetect_jax import main, train

    config = sys.argv[1]
    facts = {"handles": [], "threads": [], "resident_mb": [], "steps": 0}
    compiled: list[int] = []
    original = train.fetch_numbers

    def fetch_numbers(training, step: int, metrics):
        facts["steps"] = step
        if step in LOOKED_AT:
            facts["handles"].append(len(os.listdir("/proc/self/fd")))
            facts["threads"].append(len(os.listdir("/proc/self/task")))
            facts["resident_mb"].append(resident_mb())
        return original(training, step, metrics)

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(facts["steps"])

    train.fetch_numbers = fetch_numbers
    jax.monitoring.register_event_duration_secs_listener(note)
    main.define_flags()
    with tempfile.TemporaryDirectory() as workdir:
        arguments = [
            f"--config={config}",
            f"--workdir={workdir}",
            f"--config.num_steps={STEPS}",
            "--config.data.train_clips_per_video=4000",
            "--config.eval.every_epochs=0",
            "--config.checkpoint.every_steps=150",
            "--config.log_every_steps=1000",
            "--tune_malloc=false",
        ]
        sys.argv[1:] = arguments
        code = main.main(sys.argv)
    facts["compiled_after_step_2"] = sum(2 < step < STEPS for step in compiled)
    print(json.dumps(facts))
    sys.exit(code)
