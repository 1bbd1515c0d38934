"""The one file about Orbax: save, verify, restore, fall back.

A checkpoint is CHECKPOINTS/<step>/ as Orbax writes it, with three items: `model`
(parameters, BatchNorm statistics and, where kept, the averages of both), `training`
(the rest of the state) and `facts` (format, config, versions, a SHA-256 of every
leaf).
Orbax restores flipped bits in silence, so a manifest with the SHA-256 of each file,
CHECKPOINTS/<step>.digest.json, is written when the save has ended; a step without a
manifest that fits is no checkpoint. In a bucket the digests are the bucket's own, MD5,
so that nothing is read again. While a save is under way CHECKPOINTS/saving.json
names its step: a step that lacks its manifest and is not named there was whole once, so
something has happened to the folder, and a run must not begin anew over it. A step that
is written anew lies in CHECKPOINTS/<step>.before until the new one is sealed.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import orbax.checkpoint as ocp

from fakedetect_jax.data.dataset import DatasetFacts
from fakedetect_jax.data.leaks import LeakCounts
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.metrics.calibration import CrossFit
from fakedetect_jax.metrics.doubt import Band
from fakedetect_jax.metrics.parts import Reals
from fakedetect_jax.run import parallel
from fakedetect_jax.run.leaves import Leaves, from_leaves, leaf_digests, to_leaves
from fakedetect_jax.run.manifest import MD5, Manifest, file_digests
from tfds_ffpp import records
from tfds_ffpp.errors import reason
from tfds_ffpp.fields import Fields
from tfds_ffpp.store import addresses
from tfds_ffpp.store.files import write_json

FORMAT = 1
METRIC = "video_auc"
NOT_COMPLETED = "it was not completed"


def _split(leaves: Mapping[str, Any]) -> tuple[Leaves, Leaves]:
    groups = ("params.", "batch_stats.", "ema_params.", "ema_batch_stats.")
    model = {k: v for k, v in leaves.items() if k.startswith(groups)}
    return model, {k: v for k, v in leaves.items() if k not in model}


def _zeros(leaves: Mapping[str, Any]) -> Leaves:
    """Host arrays of the leaves' shapes, so that Orbax restores to the host."""
    return {k: np.zeros(v.shape, v.dtype) for k, v in leaves.items()}


def _hide_late_reports(show=sys.unraisablehook) -> None:
    """Keeps TensorStore's threads from printing beside the sentence of a failed save.

    When one write fails Orbax closes its event loop; the writes still under way then
    report to a closed one, and each such report would print a traceback.
    """

    def hook(unraisable):
        error = unraisable.exc_value
        if not (type(error) is RuntimeError and str(error) == "Event loop is closed"):
            show(unraisable)

    sys.unraisablehook = hook


def _raise_lost_peer(error: BaseException | None) -> None:
    """Raises the runtime's error behind a failed save of several processes, if any.

    One of them is gone then, and the disk is not at fault.
    """
    while error is not None and jax.process_count() > 1:
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise error
        error = error.__cause__ or error.__context__


def _numbers(folder: Path) -> dict[str, float] | None:
    """What was measured for the step in a folder, empty if nothing was.

    None where the file is damaged. What is in it may still be false: see damage.
    """
    path = folder / "metrics" / "metrics"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    known = isinstance(found, dict) and isinstance(found.get(METRIC), int | float)
    return found if known else None


class _Manager(ocp.CheckpointManager):
    """Orbax's own reads the numbers of every step when it opens a folder.

    One damaged file would keep it from all the others.
    """

    def metrics(self, step: int) -> dict[str, float] | None:
        """None where nothing was measured, or the file is damaged."""
        return _numbers(cast(Path, self.directory / str(step))) or None


class SourceFrames(NamedTuple):
    """How long the training videos were, in frames of the file."""

    median: int
    max: int


class Frozen(NamedTuple):
    """Weights that a checkpoint leaves out: their file, and the digest of each."""

    file: str
    digests: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says; None what it, or an older one, does not say.

    config: as config.to_dict() has it. val_fakes: "forged" or reader.SELF_BLENDED.
    made: whether it was trained on made videos. dataset: config.dataset's;
    other_datasets: the run's other ones, by name; leaks: what all of them share across
    their splits. temperature, threshold, band, calibration, reals: see
    calibration.Fitted. frozen: what is not trained and not stored. format, digests: of
    its arrays; the checkpoint adds them.
    """

    config: Fields = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    devices: str = ""
    source_frames: SourceFrames | None = None
    val_fakes: str | None = None
    made: bool | None = None
    dataset: DatasetFacts | None = None
    other_datasets: dict[str, DatasetFacts] = field(default_factory=dict)
    leaks: LeakCounts | None = None
    steps_per_epoch: int | None = None
    temperature: float | None = None
    threshold: float | None = None
    band: Band | None = None
    calibration: CrossFit | None = None
    frozen: Frozen | None = None
    reals: Reals | None = None
    format: int = 1
    digests: dict[str, str] = field(default_factory=dict)
    OMIT_NONE = True

    @property
    def left_out(self) -> dict[str, str]:
        """The digests of what is not stored."""
        return self.frozen.digests if self.frozen else {}


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        directory: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        read_only: bool = False,
    ):
        """Opens the folder, making it if need be, and clears leftovers.

        With read_only nothing is written: a run may be saving there meanwhile.
        """
        self._in_bucket = addresses.is_address(directory)
        self.directory = (  # Orbax takes no relative one
            directory if self._in_bucket else Path(os.path.abspath(directory))
        )
        self._pending: int | None = None
        self._writing: Future | None = None  # of the pending step, where a thread does
        self._sealing: Future | None = None  # of it, once it is written
        self._thread = ThreadPoolExecutor(1)
        if not read_only:
            _hide_late_reports()
            if jax.process_index() == 0 and self.directory.exists():
                self._bring_back()
            parallel.barrier("checkpoints opened")
        policies = ocp.checkpoint_managers
        # The best ones alone would lose the newest, from which a run goes on.
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=keep_latest),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC],
                    reverse=False,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = _Manager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=lambda metrics: metrics[METRIC],
                best_mode="max",
                # In a bucket a save under way has no name of its own, and Orbax
                # removes it in a thread, while set_aside_damaged looks.
                cleanup_tmp_directories=not (read_only or self._in_bucket),
                create=not read_only,
                read_only=read_only,
            ),
            item_names=("model", "training", "facts"),
        )

    def _manifest(self, step: int) -> Path:
        return self.directory / f"{step}.digest.json"

    @property
    def _saving(self) -> Path:
        """Names the step whose save is under way; gone when it is sealed."""
        return self.directory / "saving.json"

    def _is_being_saved(self, step: int) -> bool:
        try:
            return json.loads(self._saving.read_text()) == {"step": step}
        except (OSError, ValueError):
            return False

    # Saving ----------------------------------------------------------------------

    def save(
        self,
        step: int,
        state: Any,
        facts: CheckpointFacts,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to write a state; only the copy to the host is waited for.

        What goes wrong later is raised by poll, finish or close.

        Args:
          step: the number of completed updates, and the checkpoint's name.
          state: a TrainState with replicated leaves.
          facts: what else should be known of it; its format and digests are added.
          metrics: of this very state on val; video_auc decides which is best.
        """
        self.finish()
        # As process 0 sees it: another may look when that one has moved it already.
        if parallel.from_first(step in self.steps()):
            self._put_by(step)
        stored = {k: v for k, v in to_leaves(state).items() if k not in facts.left_out}
        leaves = parallel.fetch_copies(stored)
        if jax.process_count() == 1:
            # Digests and files would keep the devices waiting.
            self._writing = self._thread.submit(
                self._write, step, leaves, facts, metrics
            )
        else:  # which meet in Orbax's save, and must do so in the order of their loops
            self._write(step, leaves, facts, metrics)
        self._pending = step

    def _write(
        self,
        step: int,
        leaves: Leaves,
        facts: CheckpointFacts,
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Has Orbax begin to write a state that is on the host."""
        model, training = _split(leaves)
        facts = replace(facts, format=FORMAT, digests=leaf_digests(leaves))
        known = {k: v for k, v in (metrics or {}).items() if v is not None}
        try:
            if jax.process_index() == 0:
                write_json(self._saving, {"step": step})
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    facts=ocp.args.JsonSave(records.to_json(facts)),
                ),
                metrics=known if METRIC in known else None,
                force=True,
            )
        except Exception as error:  # OSError, ValueError, RuntimeError: as it comes
            _raise_lost_peer(error)
            raise self._save_error(step, error) from error

    def _before(self, step: int) -> Path:
        """Where a step lies while it is written anew."""
        return self.directory / f"{step}{_BEFORE}"

    def _put_by(self, step: int) -> None:
        """Moves a step aside that is to be written anew, evaluated this time.

        It may be the only good one, so it is kept until the new one is sealed. Its
        manifest stays: whichever folder fits it is the checkpoint, see _bring_back.
        """
        if jax.process_index() == 0:
            if self._before(step).exists():  # it fits no manifest
                self._move_to_damaged(self._before(step))
            self._move(self.directory / str(step), self._before(step))
        parallel.barrier("checkpoint put by")
        self._manager.reload()

    def _bring_back(self) -> None:
        """Ends what a kill left of a step that was being written anew.

        Either the new one is sealed, or the one before takes its place again.
        """
        for name in self._folders():
            number = name.removesuffix(_BEFORE)
            if name == number or not _is_step(number):
                continue
            step = int(number)
            folder, before = self.directory / number, self._before(step)
            if self._fault(step, folder) is None:
                self._remove(before)
            elif self._fault(step, before) is None:
                if folder.exists():
                    self._remove(folder)
                self._move(before, folder)
                self._saving.unlink(missing_ok=True)

    def _move(self, source: Path, target: Path) -> None:
        """Moves a folder; in a bucket it is whole in one of both places at any time."""
        if self._in_bucket:
            addresses.copy(source, target)
            addresses.remove(source)
        else:
            source.rename(target)

    def _remove(self, folder: Path) -> None:
        remove = addresses.remove if self._in_bucket else shutil.rmtree
        remove(folder)

    def poll(self) -> None:
        """Completes the save under way if its files are written; never waits."""
        if self._pending is None:
            return
        if self._writing is not None:
            if not self._writing.done():
                return
            if self._writing.exception() is not None:
                self.finish()
        if self._manager.is_saving_in_progress():
            return
        if self._sealing is None:
            # Reading all files again would keep the devices waiting.
            self._sealing = self._thread.submit(self._seal, self._pending)
        elif self._sealing.done():
            self.finish()

    def finish(self) -> None:
        """Waits for the save under way and seals it with its manifest."""
        if self._pending is None:
            return
        step, self._pending = self._pending, None
        writing, self._writing = self._writing, None
        sealing, self._sealing = self._sealing, None
        if writing is not None:
            writing.result()
        try:
            self._manager.wait_until_finished()
            if sealing is None:
                self._seal(step)
            else:
                sealing.result()
        except Exception as error:
            _raise_lost_peer(error)
            raise self._save_error(step, error) from error

    def _seal(self, step: int) -> None:
        """Writes the manifest of a step whose files are written."""
        if jax.process_index() == 0:
            files = file_digests(self.directory / str(step), md5=self._in_bucket)
            write_json(self._manifest(step), Manifest.of(files))
            self._saving.unlink(missing_ok=True)
            if self._before(step).exists():
                self._remove(self._before(step))
            self._drop_stale_manifests()

    def _save_error(self, step: int, error: Exception) -> CheckpointError:
        cure = "mend the connection" if self._in_bucket else "free some space"
        try:
            if jax.process_index() == 0:
                self._bring_back()
            good = str(self.latest() or "none")
        except (OSError, *addresses.errors()):
            good = "still there"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.directory} "
            f"({reason(error)}); the last good one is {good}: {cure} and run "
            "again"
        )

    def _without_folder(self) -> list[int]:
        """The steps of which only the manifest is there, newest first."""
        manifests = self.directory.glob("*.digest.json")
        names = {path.name.split(".")[0] for path in manifests}
        sealed = {int(name) for name in names if _is_step(name)}
        return sorted(sealed.difference(self.steps()), reverse=True)

    def _drop_stale_manifests(self) -> None:
        for step in self._without_folder():
            self._manifest(step).unlink()

    def close(self) -> None:
        """Ends the save under way; without it the newest would be lost."""
        try:
            self.finish()
        finally:
            # All that counts is sealed by now; after a failed save this would only
            # hide the sentence that tells of it.
            with contextlib.suppress(Exception):
                self._manager.close()

    # Looking ---------------------------------------------------------------------

    def _folders(self) -> list[str]:
        try:
            return [p.name for p in self.directory.iterdir() if p.is_dir()]
        except FileNotFoundError:
            if self._in_bucket:  # where there is no empty folder
                return []
            raise

    def steps(self) -> list[int]:
        """The steps with a folder, whole or not, newest first."""
        names = self._folders()
        return sorted((int(name) for name in names if _is_step(name)), reverse=True)

    def foreign(self) -> list[str]:
        """The names of folders that no checkpoint is in; they are left alone."""
        names = self._folders()
        return sorted(n for n in names if not _is_step(n) and _LEFTOVER not in n)

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a step; None for a whole checkpoint."""
        anew = not self._manifest(step).exists() or self._before(step).exists()
        fault = self._fault(step, self.directory / str(step))
        return NOT_COMPLETED if fault and anew and self._is_being_saved(step) else fault

    def _fault(self, step: int, folder: Path) -> str | None:
        """In what a folder is not what the manifest of a step says; None if it is."""
        manifest = self._manifest(step)
        if not manifest.exists():
            return f"its {manifest.name} is missing"
        try:
            files = Manifest.read(manifest).files
        except (ValueError, TypeError):
            return f"{manifest.name} is damaged"
        md5 = any(digest.startswith(MD5) for digest in files.values())
        found = file_digests(folder, md5=md5)
        for name, digest in files.items():
            if name not in found:
                return f"its file {name} is missing"
            if found[name] != digest:
                return f"its file {name} is not what was written"
        extra = sorted(set(found) - set(files))
        return f"its file {extra[0]} was not written by it" if extra else None

    def latest(self) -> int | None:
        """The newest whole checkpoint."""
        return next((s for s in self.steps() if self.damage(s) is None), None)

    def metrics(self, step: int) -> dict[str, float]:
        """What was measured on val for a step; empty if nothing was, or is damaged."""
        return _numbers(self.directory / str(step)) or {}

    def best(self) -> int | None:
        """The whole checkpoint with the highest video AUC on val; newest on a tie."""
        return next((s for s in self.ranked() if self.damage(s) is None), None)

    def ranked(self) -> list[int]:
        """The steps that were evaluated, whole or not, the best first."""
        scored = {s: self.metrics(s).get(METRIC) for s in self.steps()}
        found = [(auc, s) for s, auc in scored.items() if auc is not None]
        return [step for _, step in sorted(found, reverse=True)]

    def passed_over(self, chosen: int) -> list[str]:
        """A sentence for each damaged step that might have come before a chosen one."""
        ranked, steps = self.ranked(), self.steps()
        if chosen in ranked:
            before = ranked[: ranked.index(chosen)]
        else:
            before = [step for step in steps if step > chosen]
        unknown = [s for s in steps if _numbers(self.directory / str(s)) is None]
        found = {step: self.damage(step) for step in {*before, *unknown}}
        return [
            _skipped(step, why)
            for step, why in sorted(found.items(), reverse=True)
            if why not in (None, NOT_COMPLETED)
        ]

    def facts(self, step: int) -> CheckpointFacts:
        """What a step says of itself and of the run that wrote it."""
        restored = self._manager.restore(
            step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())
        )
        return records.from_json(CheckpointFacts, restored["facts"])

    # Restoring -------------------------------------------------------------------

    def set_aside_damaged(self) -> list[str]:
        """Moves damaged steps newer than the last good one out of the way.

        Older ones too whose numbers cannot be read, as none could tell how good they
        are. Returns one sentence for each. Raises CheckpointError when no good one is
        left though there were some: starting anew would silently lose a run.
        """
        reports, good = [], None
        for step in self.steps():
            if good is not None and _numbers(self.directory / str(step)) is not None:
                continue  # to look at all files of all steps would take long
            damage = self.damage(step)
            if damage is not None:
                reports.append((step, damage))
            elif good is None:
                good = step
        sentences = [_skipped(step, why) for step, why in reports]
        # Of one that was removed for newer ones nothing need be said.
        gone = [] if good is not None else self._without_folder()
        sentences += [_skipped(step, "its folder is missing") for step in gone]
        if self.foreign():
            names = ", ".join(map(repr, self.foreign()))
            sentences.append(f"{self.directory} holds {names}: no checkpoint, ignored")
        lost = [
            step
            for step, why in reports
            if why != NOT_COMPLETED or self._manifest(step).exists()
        ]
        if good is None and (lost or gone):
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be used "
                f"({'; '.join(sentences)}); nothing was changed: restore the folder "
                "from a copy, or choose another --workdir to begin anew"
            )
        parallel.barrier("damage found")
        if jax.process_index() == 0:
            for step, _ in reports:
                self._set_aside(step)
        parallel.barrier("damage set aside")
        if reports:
            self._manager.reload()
        return sentences

    def _is_finished(self, step: int) -> bool:
        """Whether Orbax had written all of a step into the bucket."""
        return (self.directory / str(step) / "commit_success.txt").exists()

    def _set_aside(self, step: int) -> None:
        if self._in_bucket and not self._is_finished(step):
            addresses.remove(self.directory / str(step))
            return
        folder = self._move_to_damaged(self.directory / str(step))
        if self._manifest(step).exists():
            move = addresses.move if self._in_bucket else shutil.move
            move(self._manifest(step), folder / self._manifest(step).name)

    def _move_to_damaged(self, source: Path) -> Path:
        """Moves a folder out of the way; where to."""
        damaged = self.directory.parent / "damaged"
        move = addresses.move if self._in_bucket else shutil.move
        damaged.mkdir(exist_ok=True)
        # What was set aside before may be the only copy of something: it stays.
        numbered = (f"{source.name}-{n}" for n in itertools.count(2))
        names = itertools.chain([source.name], numbered)
        folder = next(damaged / n for n in names if not (damaged / n).exists())
        move(source, folder)
        return folder

    def restore(
        self, step: int, template: Any, frozen: Mapping[str, Any] | None = None
    ) -> Any:
        """The whole state of a step, as host arrays in the structure of `template`.

        frozen: what the checkpoint may have left out, by its names.

        Raises CheckpointError when it holds other leaves than the template, or a leaf
        is not what was written.
        """
        model, training = _split(to_leaves(template))
        leaves = self._read(step, {"model": model, "training": training}, frozen)
        return from_leaves(template, leaves)

    def restore_model(
        self, step: int, template: Any, frozen: Mapping[str, Any] | None = None
    ) -> Any:
        """Parameters and statistics alone, without the optimiser's state."""
        leaves = self._read(step, {"model": to_leaves(template)}, frozen)
        return from_leaves(template, leaves)

    def _read(
        self, step: int, items: dict[str, Leaves], frozen: Mapping[str, Any] | None
    ) -> Leaves:
        facts = self.facts(step)
        added = self._left_out(step, facts, frozen or {})
        items = {
            item: {k: v for k, v in leaves.items() if k not in added}
            for item, leaves in items.items()
        }
        if facts.format > FORMAT:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} has format {facts.format}, "
                f"this version reads up to {FORMAT}; update fakedetect-jax"
            )
        digests = facts.digests
        wanted = {name for leaves in items.values() for name in leaves}
        model, training = _split(digests)
        stored = set(model) | (set(training) if "training" in items else set())
        if wanted != stored:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is of another model or "
                f"optimiser: missing {_some(wanted - stored)}; "
                f"unexpected {_some(stored - wanted)}; use its config or a new workdir"
            )
        arguments = {k: ocp.args.StandardRestore(_zeros(v)) for k, v in items.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read "
                f"({reason(error)}); it is of another model, or damaged"
            ) from error
        leaves = {k: np.asarray(v) for item in items for k, v in restored[item].items()}
        for name, digest in leaf_digests(leaves).items():
            if digest != digests[name]:
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory}: {name} is not what was "
                    "written; delete that step's folder to use the one before"
                )
        expected = {k: v for leaves in items.values() for k, v in leaves.items()}
        for name, leaf in leaves.items():
            if leaf.shape != expected[name].shape:
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} is of another model: "
                    f"{name} has shape {leaf.shape}, the config makes it "
                    f"{expected[name].shape}; use its config or a new workdir"
                )
        return leaves | added

    def _left_out(
        self, step: int, facts: CheckpointFacts, frozen: Mapping[str, Any]
    ) -> Leaves:
        """The weights that a checkpoint left out. Raises CheckpointError for others."""
        found = {
            name: np.asarray(frozen[name]) for name in facts.left_out if name in frozen
        }
        digests = leaf_digests(found)
        for name, digest in facts.left_out.items():
            if digests.get(name) != digest:
                what = "is another in" if name in found else "is not in"
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} was trained beside the "
                    f"frozen weights of {facts.frozen.file if facts.frozen else ''}, "
                    f"and {name} {what} those of config.init_from; give that file"
                )
        return found


_BEFORE = ".before"  # behind the name of a step that is being written anew
# In the names of folders that Orbax had not finished, and clears by itself.
_LEFTOVER = "orbax-checkpoint-tmp"


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name == str(int(name))


def _skipped(step: int, why: str | None) -> str:
    return f"checkpoint {step} is skipped: {why}"


def _some(names: set[str]) -> str:
    shown = sorted(names)[:4]
    return ", ".join(shown) + (" …" if len(names) > 4 else "") if shown else "nothing"
