"""Checkpoints are what was written, or they are not used."""

import hashlib
import json
import random
import shutil
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.model.steps import TrainState, zero_totals
from fakedetect_jax.run import checkpoint, parallel
from fakedetect_jax.run.checkpoint import CheckpointFacts, Checkpoints
from fakedetect_jax.run.leaves import from_leaves, leaf_digests, to_leaves
from fakedetect_jax.trained.weights import choose_step

FACTS = CheckpointFacts(config={"seed": 0}, devices="1 x cpu")


def make_state(step: int, width: int = 4) -> TrainState:
    params = {"head": {"kernel": np.full((3, width), step, np.float32)}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"bn": {"mean": np.arange(width, dtype=np.float32)}},
        opt_state=optax.adam(1e-3).init(params),
        ema_params=None,
        totals=zero_totals(),
    )


def put(state, devices: int = 1):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    return parallel.put_replicated(state, mesh)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def write(folder, steps, aucs=(), **options) -> Checkpoints:
    checkpoints = Checkpoints(folder, **options)
    for i, step in enumerate(steps):
        auc = aucs[i] if i < len(aucs) else None
        metrics = None if auc is None else {"video_auc": auc, "loss": 0.5}
        checkpoints.save(step, put(make_state(step)), FACTS, metrics)
    checkpoints.finish()
    return checkpoints


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, parallel.fetch(put(left)), right)


def test_a_state_comes_back_as_it_was(folder):
    checkpoints = write(folder, [5])
    restored = checkpoints.restore(5, make_state(0))
    assert isinstance(restored, TrainState)
    assert_same(make_state(5), restored)
    checkpoints.close()


def test_a_state_of_eight_devices_is_read_on_one(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, put(make_state(3), devices=8), FACTS)
    checkpoints.close()
    again = Checkpoints(folder)
    assert_same(make_state(3), again.restore(3, make_state(0)))
    again.close()


def test_the_model_is_read_without_the_optimiser(folder):
    checkpoints = write(folder, [2])
    state = make_state(0)
    model = checkpoints.restore_model(
        2, {"params": state.params, "batch_stats": state.batch_stats}
    )
    np.testing.assert_array_equal(model["params"]["head"]["kernel"], 2.0)
    checkpoints.close()


def test_newest_and_best_are_kept(folder):
    checkpoints = write(
        folder, [1, 2, 3, 4, 5], [0.5, 0.9, 0.6, 0.7, 0.55], keep_latest=2, keep_best=1
    )
    assert checkpoints.steps() == [5, 4, 2]
    assert (checkpoints.best(), checkpoints.latest()) == (2, 5)
    assert checkpoints.metrics(2)["video_auc"] == 0.9
    checkpoints.close()


def test_a_step_can_be_written_anew_with_its_metrics(folder):
    checkpoints = write(folder, [4])
    assert checkpoints.best() is None
    checkpoints.save(4, put(make_state(4)), FACTS, {"video_auc": 0.8})
    assert checkpoints._writing is not None
    checkpoints._writing.result()
    checkpoints._manager.wait_until_finished()
    # What was said of the one before must not be read as damage of the new one.
    assert checkpoints.damage(4) == checkpoint.NOT_COMPLETED
    checkpoints.finish()
    assert checkpoints.best() == 4
    assert sorted(p.name for p in folder.iterdir()) == ["4", "4.digest.json"]
    checkpoints.close()


def begin_anew(folder, moment):
    """A step 4, and as a kill leaves it at a moment while it is written anew."""
    checkpoints = write(folder, [4])
    checkpoints._put_by(4)
    if moment != "put by":
        leaves = parallel.fetch_copies(to_leaves(put(make_state(4))))
        checkpoints._write(4, leaves, FACTS, {"video_auc": 0.8})
        checkpoints._manager.wait_until_finished()
    if moment == "half written":  # as it may be in a bucket
        shutil.rmtree(folder / "4" / "model")
    if moment == "sealed":
        whole = shutil.copytree(folder / "4.before", folder.parent / "whole")
        checkpoints._seal(4)
        shutil.rmtree(whole / "model")
        whole.rename(folder / "4.before")


@pytest.mark.parametrize("moment", ["put by", "half written", "written", "sealed"])
def test_a_step_that_is_written_anew_is_whole_at_any_moment(folder, moment):
    begin_anew(folder, moment)
    assert (folder / "4.before").is_dir()
    Checkpoints(folder, read_only=True).close()
    assert (folder / "4.before").is_dir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.set_aside_damaged() == []
    assert checkpoints.latest() == 4
    assert checkpoints.best() == (4 if moment == "sealed" else None)
    assert sorted(p.name for p in folder.iterdir()) == ["4", "4.digest.json"]
    assert_same(make_state(4), checkpoints.restore(4, make_state(0)))
    checkpoints.save(4, put(make_state(4)), FACTS, {"video_auc": 0.7})
    checkpoints.close()
    assert Checkpoints(folder).metrics(4)["video_auc"] == 0.7


def test_a_step_whose_copies_are_both_damaged_is_no_beginning(folder):
    begin_anew(folder, "written")
    flip_bit(max(data_files(folder, "4.before")), random.Random(1))
    before = contents(folder.parent)
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="nothing was changed"):
        checkpoints.set_aside_damaged()
    checkpoints.close()
    assert contents(folder.parent) == before


def data_files(folder, step):
    return [p for p in (folder / str(step)).rglob("*") if p.is_file()]


def flip_bit(path, rng):
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content) * 8)
    content[place // 8] ^= 1 << (place % 8)
    path.write_bytes(bytes(content))


def test_any_flipped_bit_is_found_and_the_one_before_is_used(folder):
    """T5 A flipped bit in a checkpoint: a warning, and the one before is used."""
    write(folder, [1, 2], [0.5, 0.6]).close()
    rng = random.Random(0)
    candidates = [p for p in data_files(folder, 2) if p.stat().st_size]
    assert folder / "2" / "metrics" / "metrics" in candidates
    original = {p: p.read_bytes() for p in candidates}
    for path in candidates:
        flip_bit(path, rng)
        checkpoints = Checkpoints(folder, read_only=True)
        assert "is not what was written" in (checkpoints.damage(2) or "")
        assert checkpoints.latest() == checkpoints.best() == 1
        checkpoints.close()
        path.write_bytes(original[path])
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == checkpoints.best() == 2
    checkpoints.close()


# Not UTF-8, half a file, an empty one, not what a save writes.
@pytest.mark.parametrize(
    "content", [b'{"video_auc": 0.\xb5}', b'{"video_', b"", b"[]", b'{"wideo_auc": 1}']
)
@pytest.mark.parametrize("step", [1, 2])
def test_damaged_numbers_of_a_step_cost_that_step_alone(folder, content, step):
    """T5 Damaged numbers of val in a checkpoint: a warning, and another is used."""
    write(folder, [1, 2], [0.9, 0.9]).close()
    (folder / str(step) / "metrics" / "metrics").write_bytes(content)
    other = 3 - step
    why = "its file metrics/metrics is not what was written"
    said = [f"checkpoint {step} is skipped: {why}"]
    before = contents(folder)
    reader = Checkpoints(folder, read_only=True)
    assert (reader.ranked(), reader.metrics(step)) == ([other], {})
    assert reader.latest() == (2 if step == 1 else 1)
    warned: list[str] = []
    assert choose_step(reader, None, warn=warned.append) == other
    assert warned == said and contents(folder) == before
    reader.close()
    checkpoints = Checkpoints(folder)
    assert checkpoints.set_aside_damaged() == said
    assert checkpoints.steps() == [other]
    assert (folder.parent / "damaged" / str(step)).is_dir()
    for later in (3, 4):
        checkpoints.save(later, put(make_state(later)), FACTS, {"video_auc": 0.5})
    checkpoints.finish()
    assert checkpoints.best() == other
    checkpoints.close()


@pytest.mark.parametrize("fault", ["truncated", "emptied", "deleted", "no manifest"])
def test_a_damaged_newest_step_is_set_aside_and_told(folder, fault):
    """T5 A damaged newest checkpoint: set aside and named."""
    write(folder, [1, 2]).close()
    path = max(data_files(folder, 2), key=lambda p: p.stat().st_size)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "emptied":
        path.write_bytes(b"")
    elif fault == "deleted":
        path.unlink()
    else:
        (folder / "2.digest.json").unlink()
    checkpoints = Checkpoints(folder)
    (sentence,) = checkpoints.set_aside_damaged()
    assert sentence.startswith("checkpoint 2 is skipped: ")
    assert checkpoints.steps() == [1]
    assert (folder.parent / "damaged" / "2").is_dir()
    assert_same(make_state(1), checkpoints.restore(1, make_state(0)))
    checkpoints.save(2, put(make_state(2)), FACTS)  # the run comes by again
    checkpoints.close()
    assert Checkpoints(folder).latest() == 2


def test_when_all_are_damaged_nothing_starts_anew_in_silence(folder):
    """T5 Every checkpoint damaged: exit 4, nothing starts anew."""
    write(folder, [1, 2]).close()
    for step in (1, 2):
        flip_bit(max(data_files(folder, step)), random.Random(1))
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be used"):
        checkpoints.set_aside_damaged()
    assert checkpoints.steps() == [2, 1]
    checkpoints.close()


def contents(folder) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_lost_manifests_are_damage_and_no_beginning(folder):
    """T5 All manifests lost: exit 4, no file is changed."""
    write(folder, [1, 2]).close()
    for manifest in folder.glob("*.digest.json"):
        manifest.unlink()
    before = contents(folder.parent)
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="its 2.digest.json is missing") as e:
        checkpoints.set_aside_damaged()
    checkpoints.close()
    assert "nothing was changed" in str(e.value) and e.value.exit_code == 4
    assert contents(folder.parent) == before


def test_lost_folders_are_damage_and_no_beginning(folder):
    """T5 All folders of steps lost: exit 4, no file is changed."""
    write(folder, [1, 2]).close()
    for step in ("1", "2"):
        shutil.rmtree(folder / step)
    before = contents(folder.parent)
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="2 is skipped: its folder is mis") as e:
        checkpoints.set_aside_damaged()
    checkpoints.close()
    assert "nothing was changed" in str(e.value) and e.value.exit_code == 4
    assert contents(folder.parent) == before


def test_a_lost_folder_beside_a_good_one_is_not_spoken_of(folder):
    """A kill leaves it so, between the removal of an old step and of its manifest."""
    write(folder, [1, 2]).close()
    shutil.rmtree(folder / "1")
    checkpoints = Checkpoints(folder)
    assert checkpoints.set_aside_damaged() == []
    checkpoints.save(3, put(make_state(3)), FACTS)
    checkpoints.close()
    assert not (folder / "1.digest.json").exists()


def test_a_first_save_that_was_cut_off_is_a_beginning(folder):
    """T5 A first save that a kill cut off: no damage; the run begins."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, put(make_state(1)), FACTS)
    assert checkpoints._writing is not None
    checkpoints._writing.result()
    checkpoints._manager.wait_until_finished()  # and here the process is killed
    again = Checkpoints(folder)
    assert again.set_aside_damaged() == [
        "checkpoint 1 is skipped: it was not completed"
    ]
    assert again.steps() == []
    again.close()


def test_no_save_is_noted_as_under_way_after_it_was_sealed(folder):
    write(folder, [1, 2]).close()
    (folder / "2.digest.json").unlink()
    checkpoints = Checkpoints(folder)
    assert checkpoints.damage(2) == "its 2.digest.json is missing"
    checkpoints.close()


def test_nothing_waits_while_a_save_is_sealed(folder, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    digests = checkpoint.file_digests

    def held(*arguments, **options):
        begun.set()
        assert go_on.wait(20)
        return digests(*arguments, **options)

    monkeypatch.setattr(checkpoint, "file_digests", held)
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, put(make_state(1)), FACTS)
    while not begun.wait(0.01):
        checkpoints.poll()  # as a step of the training does
    checkpoints.poll()
    assert not (folder / "1.digest.json").exists()
    go_on.set()
    checkpoints.finish()
    assert checkpoints.latest() == 1


def test_nothing_waits_for_digests_and_the_step_after_changes_nothing(
    folder, monkeypatch
):
    go_on, where = threading.Event(), []
    digests = checkpoint.leaf_digests

    def held(leaves):
        where.append(threading.current_thread())
        assert go_on.wait(20)
        return digests(leaves)

    monkeypatch.setattr(checkpoint, "leaf_digests", held)
    checkpoints = Checkpoints(folder)
    state = put(make_state(1, width=5000))
    checkpoints.save(1, state, FACTS)
    # A step that is given the state's memory, as that of a training is.
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    for _ in range(3):
        state = step(state)
        checkpoints.poll()
    jax.block_until_ready(state)
    assert not (folder / "1").exists()
    go_on.set()
    checkpoints.finish()
    assert where != [threading.main_thread()] and len(where) == 1
    monkeypatch.undo()
    assert checkpoints.latest() == 1
    assert_same(make_state(1, width=5000), checkpoints.restore(1, make_state(0, 5000)))
    checkpoints.close()


def test_a_save_that_cannot_begin_is_said_by_the_next_poll(folder, monkeypatch):
    checkpoints = write(folder, [1])

    def save(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", save)
    checkpoints.save(2, put(make_state(2)), FACTS)
    with pytest.raises(CheckpointError, match="checkpoint 2 could .* good one is 1: f"):
        for _ in range(1000):
            checkpoints.poll()
            time.sleep(0.01)
    checkpoints.finish()  # nothing is under way any more
    checkpoints.close()


def test_what_goes_wrong_while_sealing_is_said(folder, monkeypatch):
    checkpoints = Checkpoints(folder)
    (folder / "1.digest.json").mkdir()  # in the place of a file
    checkpoints.save(1, put(make_state(1)), FACTS)
    with pytest.raises(CheckpointError, match="checkpoint 1 could not be written"):
        for _ in range(1000):
            checkpoints.poll()
            time.sleep(0.01)


def test_late_reports_of_a_failed_save_are_not_shown(folder, monkeypatch):
    """Only those: what else ends in a thread is shown as ever."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    Checkpoints(folder, read_only=True)
    assert sys.unraisablehook is sys.__unraisablehook__
    Checkpoints(folder)
    assert sys.unraisablehook is not sys.__unraisablehook__
    shown: list[Any] = []
    checkpoint._hide_late_reports(shown.append)
    for error in (
        RuntimeError("Event loop is closed"),
        RuntimeError("another"),
        ValueError("Event loop is closed"),
    ):
        report: Any = SimpleNamespace(exc_value=error)
        sys.unraisablehook(report)
    assert [str(one.exc_value) for one in shown] == ["another", "Event loop is closed"]


def test_facts_that_are_not_known_are_not_written(folder):
    write(folder, [1])
    files = [path for path in (folder / "1" / "facts").rglob("*") if path.is_file()]
    assert any('"seed"' in path.read_text() for path in files)
    assert not any("null" in path.read_text() for path in files)


def test_what_was_set_aside_before_is_never_overwritten(folder):
    write(folder, [1, 2]).close()
    for _ in range(3):
        checkpoints = Checkpoints(folder)
        flip_bit(max(data_files(folder, 2)), random.Random(1))
        checkpoints.set_aside_damaged()
        checkpoints.save(2, put(make_state(2)), FACTS)
        checkpoints.close()
    damaged = folder.parent / "damaged"
    assert sorted(p.name for p in damaged.iterdir()) == ["2", "2-2", "2-3"]
    for kept in damaged.iterdir():
        assert (kept / "2.digest.json").is_file()


@pytest.mark.parametrize("name", ["²", "0200", "notes", "-1"])
def test_foreign_folders_are_named_and_left_alone(folder, name):
    """T18 Foreign folders among the checkpoints: named and left alone."""
    write(folder, [1, 2]).close()
    (folder / name).mkdir()
    (folder / name / "mine.txt").write_text("mine")
    checkpoints = Checkpoints(folder)
    assert checkpoints.set_aside_damaged() == [
        f"{checkpoints.directory} holds {name!r}: no checkpoint, ignored"
    ]
    for step in (3, 4):
        checkpoints.save(step, put(make_state(step)), FACTS)
    checkpoints.finish()
    assert checkpoints.steps() == [4, 3]
    checkpoints.close()
    assert (folder / name / "mine.txt").read_text() == "mine"


def test_a_file_that_was_not_written_by_the_save_is_reported(folder):
    checkpoints = write(folder, [1])
    (folder / "1" / "model" / "extra").write_text("")
    assert checkpoints.damage(1) == "its file model/extra was not written by it"
    checkpoints.close()


def test_a_manifest_that_does_not_fit_its_own_digest_is_damage(folder):
    checkpoints = write(folder, [1])
    path = folder / "1.digest.json"
    manifest = json.loads(path.read_text())
    manifest["files"].pop("_CHECKPOINT_METADATA")
    path.write_text(json.dumps(manifest))
    assert checkpoints.damage(1) == "1.digest.json is damaged"
    checkpoints.close()


@pytest.mark.parametrize("content", ["null", "3", "[]", '{"files": 3, "sha256": "a"}'])
def test_a_manifest_that_is_none_is_damage(folder, content):
    checkpoints = write(folder, [1])
    (folder / "1.digest.json").write_text(content)
    assert checkpoints.damage(1) == "1.digest.json is damaged"
    checkpoints.close()


def test_a_manifest_may_hold_its_files_in_any_order(tmp_path):
    files = {"a/c": "1", "a-b": "2"}  # the order of paths is not that of their letters
    sealed = checkpoint.Manifest.of(files)
    turned = sealed._replace(files=dict(reversed(files.items())))
    (tmp_path / "manifest").write_text(json.dumps(turned._asdict()))
    assert checkpoint.Manifest.read(tmp_path / "manifest") == sealed


def test_two_are_kept_and_the_best_unless_asked_otherwise(folder):
    checkpoints = write(folder, [1, 2, 3, 4, 5], [0.5, 0.9, 0.8, 0.7, 0.6])
    assert checkpoints.steps() == [5, 4, 2]
    checkpoints.close()


def test_a_leaf_that_is_read_otherwise_than_it_was_written_is_refused(
    folder, monkeypatch
):
    checkpoints = write(folder, [1])
    real = checkpoints._manager.restore

    def restore(step, args):
        restored = real(step, args=args)
        if "model" in restored:
            restored["model"]["params.head.kernel"][0, 0] += 1
        return restored

    monkeypatch.setattr(checkpoints._manager, "restore", restore)
    with pytest.raises(CheckpointError, match="params.head.kernel is not what was"):
        checkpoints.restore(1, make_state(0))
    checkpoints.close()


def test_a_damaged_best_checkpoint_is_not_the_best(folder):
    """T5 A damaged best checkpoint: another one is the best."""
    checkpoints = write(folder, [1, 2, 3], [0.5, 0.9, 0.7], keep_latest=3)
    assert checkpoints.best() == 2
    flip_bit(max(data_files(folder, 2)), random.Random(1))
    assert checkpoints.best() == 3
    checkpoints.close()


def test_of_equally_good_checkpoints_the_newest_is_the_best(folder):
    checkpoints = write(folder, [1, 2, 3], [0.7, 0.7, 0.6], keep_latest=3)
    assert checkpoints.best() == 2
    checkpoints.close()


def test_no_manifest_outlives_its_checkpoint(folder):
    checkpoints = write(folder, [1, 2, 3, 4])
    names = sorted(p.name for p in folder.glob("*.json"))
    assert names == ["3.digest.json", "4.digest.json"]
    checkpoints.close()


def test_a_manifest_is_set_aside_with_its_checkpoint(folder):
    write(folder, [1, 2]).close()
    flip_bit(max(data_files(folder, 2)), random.Random(1))
    checkpoints = Checkpoints(folder)
    checkpoints.set_aside_damaged()
    assert [p.name for p in folder.glob("*.digest.json")] == ["1.digest.json"]
    checkpoints.close()


def test_another_model_is_named_by_its_leaves(folder):
    """T7 A checkpoint of another model: its leaves named."""
    checkpoints = write(folder, [1])
    other = make_state(0).replace(params={"tail": {"kernel": np.zeros(3, np.float32)}})
    with pytest.raises(CheckpointError, match=r"missing .*params\.tail\.kernel") as e:
        checkpoints.restore(1, other)
    assert "params.head.kernel" in str(e.value)
    with pytest.raises(CheckpointError, match="another model"):
        checkpoints.restore(1, make_state(0, width=5))
    checkpoints.close()


def test_a_later_format_names_the_cure(folder, monkeypatch):
    """T8 A checkpoint of a newer format: the sentence says to update."""
    monkeypatch.setattr("fakedetect_jax.run.checkpoint.FORMAT", 2)
    write(folder, [1]).close()
    monkeypatch.setattr("fakedetect_jax.run.checkpoint.FORMAT", 1)
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="has format 2, this version reads up to"):
        checkpoints.restore(1, make_state(0))
    checkpoints.close()


def test_a_digest_is_that_of_type_shape_and_bytes():
    leaves = {
        "scalar": np.int32(7),
        "none": np.zeros((0, 3), np.float32),
        "short": np.asarray(jnp.arange(6, dtype=jnp.bfloat16)),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "flags": np.array([[True, False]]),
    }
    for name, digest in leaf_digests(leaves).items():
        leaf = leaves[name]
        whole = f"{leaf.dtype.name}{leaf.shape}".encode() + leaf.tobytes()
        assert digest == hashlib.sha256(whole).hexdigest(), name


def test_leaves_and_trees_are_inverse():
    class Pair(flax.struct.PyTreeNode):
        a: dict
        b: tuple

    tree = Pair(a={"x": {"y": np.ones(2)}}, b=(np.zeros(1), optax.EmptyState()))
    leaves = to_leaves(tree)
    assert set(leaves) == {"a.x.y", "b.0"}
    doubled = from_leaves(tree, {k: 2 * v for k, v in leaves.items()})
    np.testing.assert_array_equal(doubled.a["x"]["y"], 2.0)
    assert isinstance(doubled.b[1], optax.EmptyState)


@pytest.mark.parametrize(
    ("processes", "fault"), [(2, jax.errors.JaxRuntimeError), (1, CheckpointError)]
)
def test_a_lost_process_is_not_told_as_a_failed_save(
    folder, monkeypatch, processes, fault
):
    checkpoints = write(folder, [1])
    checkpoints.save(2, put(make_state(2)), FACTS, None)
    assert checkpoints._writing is not None
    checkpoints._writing.result()
    checkpoints._manager.wait_until_finished()

    def wait_for_a_lost_one():
        try:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: a task died")
        except jax.errors.JaxRuntimeError as lost:
            raise ValueError("the save failed") from lost

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", wait_for_a_lost_one)
        patch.setattr(jax, "process_count", lambda: processes)
        with pytest.raises(fault):
            checkpoints.finish()
    checkpoints.close()
