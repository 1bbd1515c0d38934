"""Each clip of a split scored exactly once; the scores saved before any metric."""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import simplejpeg

from fakedetect_jax import settings
from fakedetect_jax.data import order, reader, sets, shares
from fakedetect_jax.data.batch import Batch
from fakedetect_jax.data.dataset import (
    DatasetFacts,
    cut_otherwise,
    dataset_digest,
    dataset_facts,
    describe_change,
    open_dataset,
)
from fakedetect_jax.data.mixture import joined
from fakedetect_jax.data.reader import Split
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.evaluation.localisation import locate
from fakedetect_jax.evaluation.scoring import (
    ensure_guard,
    has_guard,
    score_clips,
    stoppable,
)
from fakedetect_jax.metrics import metrics, trivial
from fakedetect_jax.metrics.located import Located
from fakedetect_jax.metrics.records import (
    ClipScore,
    Strip,
    TrivialScore,
    Unscored,
    Video,
)
from fakedetect_jax.model import network
from fakedetect_jax.model.network import Variables
from fakedetect_jax.programs import compiled, runtimes
from fakedetect_jax.reports import results
from fakedetect_jax.reports.context import Context, TrainingSet
from fakedetect_jax.run import fixed, parallel, workdir
from fakedetect_jax.run.checkpoint import METRIC, CheckpointFacts, Checkpoints
from fakedetect_jax.run.workdir import Run
from fakedetect_jax.trained import weights
from fakedetect_jax.trained.guard import Guard
from fakedetect_jax.trained.model import feature_width, read_guard
from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import Fields
from tfds_ffpp.frames.stored import read_card
from tfds_ffpp.store.files import read_lines, write_json, write_lines, write_whole


class Validation(NamedTuple):
    """What is measured on val: of clips, and with `video_` of videos."""

    loss: float | None
    accuracy: float | None
    auc: float | None
    video_auc: float | None
    video_accuracy: float | None


def validation_numbers(rows: Sequence[ClipScore]) -> Validation:
    """Loss, accuracy and AUC of clips, AUC and accuracy of videos, from val's rows."""
    clips = metrics.clips(rows)
    by_clip = metrics.clip_summary(clips)
    by_video = metrics.summary(metrics.videos(clips))
    return Validation(
        loss=by_clip.loss,
        accuracy=by_clip.accuracy,
        auc=by_clip.auc,
        video_auc=by_video.auc,
        video_accuracy=by_video.accuracy,
    )


def mean_numbers(each: Sequence[Validation]) -> Validation:
    """The mean of each number over the validation sets, every set counting alike; None
    where one set has none."""
    columns = zip(*each, strict=True)
    return Validation(
        *(None if None in column else sum(column) / len(column) for column in columns)
    )


def pooled(scored: Mapping[str, Sequence[ClipScore]]) -> list[ClipScore]:
    """The rows of all validation sets, a video of each set being one of its own.

    Two made sets number their people alike, and two builds of one set have the same
    videos: such videos get the set's name before their dataset's.
    """
    keys = [{row.video.key for row in rows} for rows in scored.values()]
    if len(set().union(*keys)) == sum(map(len, keys)):
        return [row for rows in scored.values() for row in rows]
    return [
        row._replace(video=row.video._replace(dataset=f"{name}: {row.video.dataset}"))
        for name, rows in scored.items()
        for row in rows
    ]


def by_set(
    numbers: Validation, each: Mapping[str, Validation]
) -> dict[str, float | None]:
    """The numbers by name; of several sets also each one's, as `video_auc@SET`."""
    named = numbers._asdict()
    if len(each) > 1:
        for name, own in each.items():
            named |= {f"{field}@{name}": n for field, n in own._asdict().items()}
    return named


SELDOM_SEEN = "the face is seen in too few frames of every clip (data.min_coverage)"


def unscored(split: Split, config) -> list[Unscored]:
    """The videos of a split that no clip can be taken from, with the reason."""
    clips = functools.partial(
        order.showing_starts,
        clip_frames=config.data.clip_frames,
        stride=config.data.frame_stride,
        min_coverage=config.data.min_coverage,
    )
    return [
        Unscored(Video.of(v), SELDOM_SEEN if v.num_valid else "no usable frame")
        for v in split.videos
        if not len(clips(v))
    ]


# A report shows a few strips; more would only make the page heavy.
STRIPS_PER_KIND = 6


def strips(rows: Sequence[ClipScore], split: Split, config) -> list[Strip]:
    """The frames of the clips that a report shows: sure, unsure and most wrong ones."""
    wrong = sorted(rows, key=lambda r: -abs(r.video.label - r.score))
    unsure = sorted(rows, key=lambda r: abs(r.score - 0.5))
    sure_fake = sorted(rows, key=lambda r: -r.logit)
    chosen = {}
    for ranked in (wrong, wrong[::-1], unsure, sure_fake, sure_fake[::-1]):
        seen: set[tuple] = set()
        for row in ranked:
            video = row.video.key
            if len(seen) < STRIPS_PER_KIND and video not in seen:
                seen.add(video)
                chosen[video, row.clip] = row
    number = {Video.of(video).key: i for i, video in enumerate(split.videos)}
    size = config.dataset.image_size
    shown = []
    for row in chosen.values():
        index = number[row.video.key]
        frames = np.empty((config.data.clip_frames, size, size, 3), np.uint8)
        reference = order.ClipRef(index, row.start, config.data.frame_stride)
        length = split.reader.read(reference, split.videos[index].num_valid, frames)
        images = [simplejpeg.encode_jpeg(f, quality=85) for f in frames[:length]]
        texts = [base64.b64encode(image).decode() for image in images]
        shown.append(Strip(row.video, row.clip, row.score, texts))
    return shown


def trivial_rows(split: Split, config) -> list[TrivialScore]:
    """What trivial.py gives a split's videos after the run's own training videos."""
    train = joined(sets.open_training(config, sets.open_all(config)))
    size = config.dataset.image_size
    return trivial.score_videos(
        *(
            trivial.stored_frames(part.videos, part.reader, image_size=size)
            for part in (train, split)
        )
    )


def scored_with(
    config,
    facts: CheckpointFacts,
    dataset_dir: str | os.PathLike,
    backend: str = "jax",
) -> Fields:
    """All that a result depends on, as JSON: two of the same need one scoring."""
    fields = settings.flatten(config.to_dict())
    return {
        **{name: fields[name] for name in fixed.SCORING_FIELDS},
        "dataset": dataset_digest(dataset_dir),
        "weights": weights.checkpoint_digest(facts),
        "threshold": facts.threshold,
        "band": records.to_json(facts.band),
        "temperature": facts.temperature,
        **({} if backend == "jax" else {"backend": backend}),
    }


def choose_folder(plain: Path, wanted: Fields) -> tuple[Path, list[str]]:
    """Where a result belongs: the plain folder, unless one of other settings is there.

    A damaged result is none.

    Returns:
      The folder, and in what the result under the plain name differs.
    """
    there = results.recorded(plain)
    is_there = (plain / "report.json").exists() and not results.complaint(plain)
    if there == wanted or not is_there:
        return plain, []
    short = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
    both = {**wanted, **there}
    differing = [name for name in both if there.get(name) != wanted.get(name)]
    return plain.with_name(f"{plain.name}-{short}"), differing


def meet_on_data(run: Run, facts: Mapping[str, DatasetFacts]) -> None:
    """Ends all hosts, with exit code 3, unless they have the same datasets."""
    named: dict[str, str] = {}
    for dataset, found in facts.items():
        named[f"the digest of dataset {dataset}"] = found.digest[:16]
        of = f" of {dataset}" if len(facts) > 1 else ""
        named |= {f"split {n}{of}": f"{one} videos" for n, one in found.splits.items()}
    run.hosts.meet(
        "dataset",
        named,
        code=DataError.exit_code,
        cure="copy one host's dataset to all, or build it anew with the same settings",
    )


class Subject(NamedTuple):
    """What is evaluated, and where its result belongs."""

    split_name: str
    prefix: str  # of the names of results; empty for the run's own dataset
    step: int
    builder: Any
    dataset: DatasetFacts
    facts: CheckpointFacts
    selected: dict[str, float]  # the numbers on val that chose it
    scored_with: Fields
    folder: Path
    changed: str  # how the run's own dataset is not what it was
    cut_otherwise: str  # how another one was prepared otherwise

    @property
    def title(self) -> str:
        """The split's name, with the dataset's in front where it is another."""
        return f"{self.prefix}{self.split_name}"


def evaluate(
    run: Run, split_name: str, *, step: int | None = None, backend: str = "jax"
) -> Path:
    """Scores a split with a checkpoint; backend: jax, or a name of programs/runtimes.

    The result is WORKDIR/eval/<split>@<step>/ (with the dataset's name in front when it
    is another one than the run's own). One of the same weights, dataset and settings
    is shown again; where one of others has that name, a digest behind it tells them
    apart.

    Returns:
      The folder, with scores.jsonl and context.json; its report is still to be
      written (pages/evaluation_page.py) unless report.json is there.
    """
    checkpoints = Checkpoints(run.workdir / "checkpoints")
    try:
        subject = _choose_subject(run, checkpoints, split_name, step, backend)
        is_there = _is_there(run, subject)
        if is_there and has_guard(run, subject.step, subject.facts):
            return _shown_again(run, subject)
        variables = weights.read_variables(run.config, checkpoints, subject.step)
    finally:
        checkpoints.close()
    on_devices = parallel.put_replicated(variables, run.mesh)
    guard = _guard(run, subject, on_devices)
    if is_there:
        return _shown_again(run, subject)
    familiar = guard if isinstance(guard, Guard) else None
    eval_step = _eval_step(run, variables, backend, guarded=familiar is not None)
    _warn_of_differences(run, subject)
    split = _open_split(run, subject)
    rows = _score_split(run, eval_step, on_devices, split, familiar)
    where = locate(run, split, on_devices)
    if jax.process_index() == 0:
        _write_result(run, subject, on_devices, split, rows, where, guard)
    return subject.folder


def _shown_again(run: Run, subject: Subject) -> Path:
    run.terminal.say(
        f"{subject.folder.name} was scored before with these weights, this "
        "dataset and these settings: its result is shown"
    )
    return subject.folder


def _guard(run: Run, subject: Subject, variables: Variables) -> Guard | str:
    """The guard of the checkpoint, fitted where it was not; or why there is none."""
    facts, step = subject.facts, subject.step
    return ensure_guard(run, step, facts, variables) or read_guard(
        run.workdir, step, facts, feature_width(variables)
    )


def fit_guard(run: Run) -> None:
    """Fits a guard to the run's best checkpoint, unless it has one."""
    checkpoints = Checkpoints(run.workdir / "checkpoints")
    try:
        step = weights.choose_step(checkpoints, None)
        facts = checkpoints.facts(step)
        if has_guard(run, step, facts):
            return
        variables = weights.read_variables(run.config, checkpoints, step)
    finally:
        checkpoints.close()
    ensure_guard(run, step, facts, parallel.put_replicated(variables, run.mesh))


def _choose_subject(
    run: Run,
    checkpoints: Checkpoints,
    split_name: str,
    step: int | None,
    backend: str,
) -> Subject:
    config = run.config
    step = weights.choose_step(checkpoints, step, warn=run.terminal.warn)
    name = config.eval.dataset or config.dataset.name
    prefix = f"{name}-" if name != config.dataset.name else ""
    builder = open_dataset(config, name)
    dataset = dataset_facts(Path(builder.data_dir))
    meet_on_data(run, {_dataset_name(builder): dataset})
    facts = checkpoints.facts(step)
    wanted = scored_with(config, facts, builder.data_dir, backend)
    plain = run.workdir / "eval" / f"{prefix}{split_name}@{step}"
    folder, differing = choose_folder(plain, wanted)
    if complaint := results.complaint(folder):
        run.terminal.warn(f"{complaint}: {split_name} is evaluated anew")
    if differing and results.recorded(folder) != wanted:
        run.terminal.say(
            f"{plain.name} was scored with another {', '.join(differing)}: "
            f"the new result is {folder.name}"
        )
    return Subject(
        split_name=split_name,
        prefix=prefix,
        step=step,
        builder=builder,
        dataset=dataset,
        facts=facts,
        selected=checkpoints.metrics(step),
        scored_with=wanted,
        folder=folder,
        changed=describe_change(
            facts.other_datasets.get(name) if prefix else facts.dataset, dataset
        ),
        cut_otherwise=cut_otherwise(config, _settings_of(builder, config)),
    )


def _settings_of(builder, config) -> Any:
    """How a dataset was built; for the run's own, as the run's config has it."""
    is_own = _dataset_name(builder) == config.dataset.name
    return config.dataset if is_own else builder.builder_config


def _is_there(run: Run, subject: Subject) -> bool:
    """Whether the result was written before; ends all hosts unless they agree."""
    is_there = results.recorded(subject.folder) == subject.scored_with
    run.hosts.meet(
        "evaluation",
        {
            "the checkpoint": subject.step,
            f"{subject.folder}/report.json is there": is_there,
        },
        code=CheckpointError.exit_code,
        cure=f"{run.workdir} must be on a file system that all hosts see",
    )
    return is_there


def _warn_of_differences(run: Run, subject: Subject) -> None:
    name = _dataset_name(subject.builder)
    if subject.changed:
        run.terminal.warn(
            f"dataset {name} is not the one that the run was trained on: "
            f"{subject.changed}; videos of {subject.split_name} may have been trained "
            "on"
        )
    if subject.cut_otherwise:
        run.terminal.warn(
            f"dataset {name} was cut otherwise than the videos of the training: "
            f"{subject.cut_otherwise}"
        )


def _open_split(run: Run, subject: Subject) -> Split:
    """Raises DataError where the split is not there, or lacks reals or fakes."""
    config = run.config
    split = reader.open_split(subject.builder, subject.split_name, config)
    built = _settings_of(subject.builder, config)
    reader.need_both_classes(
        split.videos,
        split.name,
        one_is_enough=built.allow_one_class or config.dataset.allow_one_class,
    )
    return split


def _eval_step(
    run: Run, variables: Variables, backend: str, *, guarded: bool
) -> Callable:
    """What score_clips calls with a batch; a runtime holds the weights itself."""
    if backend == "jax":
        model = network.make_model(run.config)
        if guarded:
            return compiled.compile_eval_outputs(model, run.mesh)
        return compiled.compile_eval_step(model, run.mesh)
    cache = run.config.compilation_cache
    folder = Path(cache).expanduser() if cache else None
    score = runtimes.load(backend, run.config, variables, folder)

    def eval_step(_, batch: Batch[jax.Array]) -> Any:
        frames, length = np.asarray(batch.frames), np.asarray(batch.length)
        outputs = parallel.put_replicated(score(frames, length), run.mesh)
        return outputs if guarded else outputs[0]

    return eval_step


def _score_split(
    run: Run,
    eval_step: Callable,
    variables: Variables,
    split: Split,
    familiar: Guard | None,
) -> list[ClipScore]:
    """score_clips with a bar; raises Interrupted when any host is asked to stop."""
    total = -(-len(split.videos) // run.config.eval.batch_size)
    with run.terminal.progress(f"evaluate {split.name}", total) as bar:
        return score_clips(
            eval_step,
            variables,
            split,
            run.config,
            mesh=run.mesh,
            between_batches=stoppable(run, bar),
            familiar=familiar,
        )


def _write_result(
    run: Run,
    subject: Subject,
    variables: Variables,
    split: Split,
    rows: Sequence[ClipScore],
    where: Sequence[Located],
    guard: Guard | str,
) -> None:
    """Writes scores.jsonl, strips.jsonl, trivial.jsonl, located.jsonl and, at last,
    context.json."""
    config, folder = run.config, subject.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)
    write_lines(folder / "scores.jsonl", rows)
    write_lines(folder / "strips.jsonl", strips(rows, split, config))
    if where:
        write_lines(folder / "located.jsonl", where)
    card = read_card(Path(subject.builder.data_dir))
    if card.made:
        _write_trivial(folder, split, run)
    facts, test = subject.facts, f"{subject.prefix}test"
    touches, complaint = _count_touch(
        run.workdir, subject.title, subject.step, test=test
    )
    if complaint:
        run.terminal.warn(complaint)
    fields = settings.flatten(config.to_dict())
    val_auc = subject.selected.get(METRIC)
    context = Context(
        split=subject.title,
        step=subject.step,
        selected_on=_selection(val_auc, facts.val_fakes, config),
        test_evaluations=touches,
        dataset=_dataset_name(subject.builder),
        trained_on=TrainingSet(shares.sets_in_words(fields), facts.made),
        leaks=str(facts.leaks) if facts.leaks and any(facts.leaks) else "",
        cut_otherwise=subject.cut_otherwise,
        val_video_auc=val_auc,
        scored_with=subject.scored_with,
        config=fields,
        versions=workdir.versions(),
        device=parallel.describe_devices(run.mesh),
        command=run.command,
        parameters=network.count_parameters(variables["params"]),
        temperature=facts.temperature,
        threshold=facts.threshold,
        band=facts.band,
        calibration=facts.calibration,
        unfamiliar_above=None if isinstance(guard, str) else guard.threshold,
        no_guard=guard if isinstance(guard, str) else "",
        dataset_card=card,
        dataset_digest=subject.dataset.digest,
        dataset_changed=subject.changed,
        num_clips=len(rows),
        unscored=unscored(split, config),
        unscored_policy=config.eval.unscored,
    )
    write_json(folder / "context.json", context)


def _write_trivial(folder: Path, split: Split, run: Run) -> None:
    """Writes trivial.jsonl; without it where the run's own training videos are gone."""
    try:
        rows = trivial_rows(split, run.config)
    except DataError as error:
        run.terminal.warn(f"what trivial statistics reach is not measured: {error}")
        return
    write_lines(folder / "trivial.jsonl", rows)


def _dataset_name(builder) -> str:
    """The name of its config, which is that of its folder."""
    return builder.builder_config.name


def _selection(val_auc: float | None, val_fakes: str | None, config) -> str:
    if val_auc is None:
        return "the newest checkpoint (none was evaluated on val)"
    choice = f"val, by video AUC ({val_auc:.4f})"
    judges = sets.validation_of(config)
    if judges != [config.dataset.name]:
        choice += f", the mean over {', '.join(judges)}"
    if val_fakes == reader.SELF_BLENDED:
        choice += " of its real videos against self-blended copies of them"
    return choice


def _count_touch(folder: Path, split: str, step: int, *, test: str) -> tuple[int, str]:
    """Notes that a split was evaluated; returns how often `test` has been, with this.

    Each data set has a test of its own, so one evaluation of each is one touch each.
    Also returns a sentence on what is damaged in the file; empty if nothing is.
    """
    path = folder / "eval" / "touched.jsonl"
    before = path.read_bytes() if path.exists() else b""
    if not before.endswith(b"\n") and before:  # half a line of a full disk
        before += b"\n"
    line = json.dumps({"split": split, "step": step})
    write_whole(path.parent, {path.name: before + f"{line}\n".encode()})
    lines = read_lines(path, required=("split",))
    # A line that cannot be read may have been of this test: it counts.
    touches = sum(row["split"] == test for row in lines.rows) + len(lines.damaged)
    return touches, lines.complaint(path, f"counted as an evaluation of {test}")
