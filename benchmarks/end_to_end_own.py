"""This project's side of benchmarks.end_to_end.

python -m benchmarks.end_to_end_own train FLAGS...   main, with its phases
python -m benchmarks.end_to_end_own judge WORKDIR    the test AUC of each checkpoint
"""

import json
import sys
from pathlib import Path

from benchmarks import phases
from fakedetect_jax import main as command
from tfds_ffpp.terminal import lines

START, REPORT = "start, compile", "guard, report"
# What the project calls a phase -> what both sides call it; others are START.
PHASES = {
    "build": "videos to crops",
    "validate": "validate",
    "evaluate": "test",
    "guard": REPORT,
    "report": REPORT,
}
# What goes on after a phase where it is not what went on before.
AFTER = {"initialise": "train", "evaluate": REPORT}


class SaidPhase(lines.Phase):
    """A phase of the project that also says when it begins and what follows it."""

    around = [START]  # noqa: RUF012 - the phases that this process is in

    def __init__(self, table: dict[str, float], name: str):
        """As lines.Phase."""
        super().__init__(table, name)
        self._own_name = name

    def __enter__(self) -> None:
        self.around.append(PHASES.get(self._own_name, START))
        phases.begin(self.around[-1])
        super().__enter__()

    def __exit__(self, *reason: object) -> None:
        super().__exit__(*reason)
        self.around.pop()
        self.around[-1] = AFTER.get(self._own_name, self.around[-1])
        phases.begin(self.around[-1])


def judge(folder: Path) -> None:
    """Prints step, val and test video AUC of each checkpoint, in their order."""
    from fakedetect_jax.data import dataset, reader
    from fakedetect_jax.evaluation import evaluate
    from fakedetect_jax.evaluation.scoring import score_clips
    from fakedetect_jax.model import network
    from fakedetect_jax.programs import compiled
    from fakedetect_jax.run import parallel, workdir
    from fakedetect_jax.run.checkpoint import METRIC, Checkpoints
    from fakedetect_jax.trained import weights

    config, mesh = workdir.whole_config(folder), parallel.make_mesh()
    builder = dataset.open_dataset(config, config.dataset.name)
    split = reader.open_split(builder, "test", config)
    step = compiled.compile_eval_step(network.make_model(config), mesh)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    for number in sorted(checkpoints.steps()):
        variables = weights.read_variables(config, checkpoints, number)
        on_devices = parallel.put_replicated(variables, mesh)
        rows = score_clips(step, on_devices, split, config, mesh=mesh)
        val = checkpoints.metrics(number)[METRIC]
        test = evaluate.validation_numbers(rows).video_auc
        print(json.dumps({"step": number, "val": val, "test": test}), flush=True)
    checkpoints.close()


def main() -> None:
    """Does what the first argument says."""
    what, *rest = sys.argv[1:]
    if what == "judge":
        judge(Path(rest[0]))
        return
    lines.Phase = SaidPhase
    command.run(rest, prog="fakedetect_jax.main")


if __name__ == "__main__":
    main()
