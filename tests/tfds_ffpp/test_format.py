"""A checkpoint of format 1, kept as text, is read by every later version.

python -m tests.test_format writes the file anew; do so only for a new format, beside
the old one.
"""

import base64
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fakedetect_jax.model.steps import TrainState, zero_totals
from fakedetect_jax.run import parallel
from fakedetect_jax.run.checkpoint import FORMAT, CheckpointFacts, Checkpoints

GOLDEN = Path(__file__).parents[1] / "golden_checkpoint_1.json"


def make_state(scale: float) -> TrainState:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3) * np.float32(scale)
    params = {
        "head": {"kernel": kernel, "bias": np.array([1, 2, 3], np.float32) * scale}
    }
    return TrainState(
        step=jnp.int32(7 * scale),
        params=params,
        batch_stats={"bn1": {"mean": np.array([0.5], np.float32) * np.float32(scale)}},
        opt_state=optax.adam(1e-3).init(params),
        ema_params=None,
        totals=zero_totals(),
    )


def test_a_checkpoint_of_format_1_is_read(tmp_path):
    """T8 A checkpoint of an older format: read."""
    for name, content in json.loads(GOLDEN.read_text()).items():
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == checkpoints.best() == 7
    assert checkpoints.metrics(7) == {"video_auc": 0.75}
    assert checkpoints.facts(7).format == 1 <= FORMAT
    restored = checkpoints.restore(7, make_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1))
    checkpoints.close()


def write() -> None:
    """Writes the golden file with the current format."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoints"
        checkpoints = Checkpoints(place)
        state = parallel.put_replicated(make_state(1), parallel.make_mesh())
        facts = CheckpointFacts(config={"seed": 0}, devices="1 x cpu")
        checkpoints.save(7, state, facts, {"video_auc": 0.75})
        checkpoints.close()
        files = sorted(p for p in place.rglob("*") if p.is_file())
        text = {
            str(p.relative_to(place)): base64.b64encode(p.read_bytes()).decode()
            for p in files
        }
    GOLDEN.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    write()
