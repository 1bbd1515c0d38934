"""What a run would take, how fast it goes, what its events show."""

import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from fakedetect_jax.training.metrics_file import MetricsFile


@pytest.fixture
def command(tiny_config, tmp_path):
    return ("--config", tiny_config, "--workdir", tmp_path / "w" / "run")


def test_a_dry_run_says_the_plan_and_leaves_nothing(launchpad, command, tmp_path):
    code, out, err = launchpad.run(*command, "--dry_run", "--config.accumulate=2")
    assert code == 0, err
    assert "steps     12, 2 per epoch; from 0" in out
    assert "TFLOP" in out and "GB free (host)" in out and "MB more for" in out
    assert "dry run: nothing was trained or written" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_run_that_goes_on_leaves_it_alone(
    launchpad, tiny_config, undisturbed, tmp_path
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed, workdir)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    code, out, err = launchpad.run(
        "--config", tiny_config, "--workdir", workdir, "--dry_run"
    )
    assert code == 0, err
    assert "per epoch; from 12" in out
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_a_dry_run_before_the_build_counts_the_videos(
    launchpad, command, tiny_run, tmp_path
):
    data = tmp_path / "tfds"
    arguments = (
        *(*command, "--dry_run", f"--config.data.data_dir={data}"),
        f"--config.data.manual_dir={tiny_run.videos}",
    )
    code, out, err = launchpad.run(*arguments)
    assert code == 0, err
    assert "not built yet; videos: " in out and "steps     12, 2 per epoch" in out
    assert not data.exists()
    held = "--config.data.hold_out=('Deepfakes',)"
    code, out, err = launchpad.run(*arguments, held)
    assert code == 0, err
    assert "not built yet; videos: " in out and "steps     6, 1 per epoch" in out
    code, _, err = launchpad.run(*arguments, "--config.dataset.protocol=all_test")
    assert code == 3 and "has no split train; it has test" in err
    code, _, err = launchpad.run(*arguments[:-1], "--config.data.manual_dir=")
    assert code == 3
    assert "is not built and there are no videos to count" in err


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config.batch_size=100000", "is more than the"),
        ("--config.accumulate=3", "accumulate=3 parts of an even number of clips"),
        ("--mode=eval", "--dry_run and --profile_steps are for --mode train"),
    ],
)
def test_a_dry_run_finds_what_a_run_would(launchpad, command, flag, sentence):
    code, _, err = launchpad.run(*command, "--dry_run", flag)
    assert code == 2
    assert sentence in err


def test_steps_are_traced_into_the_workdir(launchpad, command, tmp_path):
    code, _, err = launchpad.run(*command, "--profile_steps=3:4")
    assert code == 0, err
    traces = list((tmp_path / "w").rglob("profile/plugins/profile/*/*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("5", "it must be first:last"),
        ("5:4", "it must be first:last"),
        ("9:13", "this start makes the steps 1 to 12"),
    ],
)
def test_steps_that_cannot_be_traced_are_refused(launchpad, command, steps, sentence):
    code, _, err = launchpad.run(*command, f"--profile_steps={steps}")
    assert code == 2
    assert sentence in err


def test_rates_are_in_metrics_and_on_the_terminal(undisturbed):
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    trained = [row for row in rows if row["kind"] == "train"]
    for row in trained:
        expected = 4 * row["clips_per_second"]
        assert row["frames_per_second"] == pytest.approx(expected, rel=0.01, abs=0.1)
        assert "mfu" not in row  # no peak of a CPU is known
        assert 0 <= row["learning_rate"] <= 2e-3


def test_events_hold_rates_curves_fields_and_what_the_network_saw(undisturbed):
    """Read by protobuf from TensorBoard's record format: length, checksums, event."""
    # protobuf makes its classes when it is imported.
    read = event_pb2.Event.FromString  # pyright: ignore[reportAttributeAccessIssue]
    seen: dict[str, set[int]] = {}
    for path in (undisturbed / "events").iterdir():
        data, place = path.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack_from("<Q", data, place)
            event = read(data[place + 12 : place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                seen.setdefault(value.tag, set()).add(event.step)
                if value.tag == "train/clips":
                    image = Image.open(io.BytesIO(value.image.encoded_image_string))
                    assert image.size == (4 * 32, 4 * 32)  # frames, clips
                    assert len(np.unique(np.asarray(image))) > 100
    assert seen["train/learning_rate"] == set(range(1, 13))
    assert seen["train/clips"] == {1, 3, 5, 7, 9, 11}
    assert seen["val/clips"] == {2, 4, 6, 8, 10, 12}
    assert "_hparams_/session_start_info" in seen


def test_a_restart_in_the_same_second_keeps_the_events(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    for step in range(3):
        file = MetricsFile(tmp_path, resumed_step=step)
        file.write(step + 1, "train", {"loss": 1.0})
        file.close()
    assert len(list((tmp_path / "events").iterdir())) == 3


TRACKIO = """
import json

class Run:
    def __init__(self, options):
        self.write(options)

    def write(self, row):
        with open("seen.jsonl", "a") as file:
            print(json.dumps(row), file=file)

    def log(self, values, step):
        if step == 5:
            raise RuntimeError("the network is down")
        self.write({"step": step, **values})

    def finish(self):
        self.write({"finished": True})


def init(**options):
    return Run(options)
"""


def test_a_tracker_that_fails_ends_nothing(launchpad, command, tmp_path, monkeypatch):
    """A module in the tracker's place; the real ones need a server or a large tree."""
    code, _, err = launchpad.run(*command, "--config.tracker=trackio")
    assert code == 2 and "not installed: pip install trackio" in err
    (tmp_path / "trackio.py").write_text(TRACKIO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"batch_size": 8}
    for start in (0, 2):
        file = MetricsFile(
            tmp_path, resumed_step=start, fields=fields, tracker="trackio"
        )
        for step in range(start + 1, start + 5):
            file.write(step, "train", {"loss": 1.0 / step, "note": "text"})
        file.close()
    rows = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    begun = {"project": "fakedetect-jax", "name": tmp_path.name, "config": fields}
    assert rows[0] == rows[6] == {"resume": "allow", **begun}
    assert [row.get("step") for row in rows[1:6]] == [1, 2, 3, 4, None]
    assert rows[1] == {"step": 1, "train/loss": 1.0} and rows[5] == {"finished": True}
    assert [row["step"] for row in rows[7:]] == [3, 4]
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in written] == [1, 2, 3, 4, 5, 6]
