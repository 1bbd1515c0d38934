"""Each clip of a split scored exactly once; the scores saved before any metric."""

import base64
import functools
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import simplejpeg
from jax.sharding import Mesh

from fakedetect_jax import data, metrics, parallel, report, steps, workdir
from fakedetect_jax.checkpoint import Checkpoints, write_json
from fakedetect_jax.errors import CheckpointError
from fakedetect_jax.interrupt import Interrupted
from fakedetect_jax.workdir import Run
from tfds_ffpp.errors import DataError

Row = dict[str, Any]


def clip_shape(config) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of a clip."""
    size = config.dataset.image_size
    return (config.data.clip_frames, size, size, 3)


def batch_shape(config, batch_size: int) -> tuple[int, int, int]:
    """(B, T, image size) of a batch, as the feeds take it."""
    return (batch_size, config.data.clip_frames, config.dataset.image_size)


class Split(NamedTuple):
    """A split of a built dataset, ready to be read."""

    name: str
    videos: list[data.Video]
    reader: data.FrameReader


def open_split(builder, name: str, config, *, hold_out: Sequence[str] = ()) -> Split:
    """A split without the fakes of the methods in `hold_out`.

    Raises DataError when the dataset has no such split or method.
    """
    videos = data.read_videos(builder.data_dir, name)
    records = data.held_in(videos, hold_out)
    reader = data.FrameReader(
        builder,
        name,
        image_size=config.dataset.image_size,
        cache_mib=config.data.cache_mib,
        records=records,
    )
    return Split(name, [videos[i] for i in records], reader)


def compile_eval_step(model, mesh: Mesh) -> Callable:
    """eval_step over the mesh; the logits come back whole on every process."""
    return jax.jit(
        functools.partial(steps.eval_step, model),
        in_shardings=(parallel.replicated(mesh), parallel.batch_sharded(mesh)),
        out_shardings=parallel.replicated(mesh),
    )


def score_clips(
    eval_step: Callable,
    variables: dict[str, Any],
    split: Split,
    config,
    *,
    mesh: Mesh,
    between_batches: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """One row per clip in the order of the records, as scores.jsonl has them.

    `between_batches` is called with (batches done, batches in all) and may raise.
    """
    clips = data.covering_clips(
        split.videos,
        clip_frames=config.data.clip_frames,
        frame_stride=config.data.frame_stride,
        per_video=config.data.eval_clips_per_video,
    )
    batch_size = config.eval.batch_size
    shape = batch_shape(config, batch_size)
    rows = parallel.local_rows(batch_size)
    feed = data.eval_feed(
        clips, split.reader, split.videos, config.data, shape=shape, rows=rows
    )
    total = -(-len(clips) // batch_size)
    logits: list[np.ndarray] = []
    lengths = [_valid_frames(split.videos[c.video], c, config) for c in clips]
    try:
        pending = None
        batches = parallel.put_ahead(feed, mesh, config.data.device_prefetch)
        for done, (_, batch) in enumerate(batches):
            between_batches(done, total)
            dispatched = eval_step(variables, batch)
            if pending is not None:
                logits.append(parallel.fetch(pending))
            pending = dispatched
        if pending is not None:
            logits.append(parallel.fetch(pending))
    finally:
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]
    flat = np.concatenate(logits)[: len(clips)] if logits else np.zeros(0)
    return [
        _row(split.videos[clip.video], clip, length, float(logit), number)
        for clip, length, logit, number in zip(
            clips, lengths, flat, _numbers(clips), strict=True
        )
    ]


def _valid_frames(video: data.Video, clip: data.ClipRef, config) -> int:
    left = -(-(video["num_valid"] - clip.start) // clip.stride)
    return max(min(left, config.data.clip_frames), 1)


def _numbers(clips: Sequence[data.ClipRef]) -> list[int]:
    """The number of each clip within its video."""
    numbers, previous = [], None
    for clip in clips:
        numbers.append(numbers[-1] + 1 if clip.video == previous else 0)
        previous = clip.video
    return numbers


def _row(
    video: data.Video, clip: data.ClipRef, length: int, logit: float, number: int
) -> Row:
    return {
        "dataset": video["dataset"],
        "method": video["method"],
        "video": video["video_id"],
        "target": video["target"],
        "source": video["source"],
        "compression": video["compression"],
        "label": video["label"],
        "clip": number,
        "start": clip.start,
        "length": length,
        "logit": logit,
        "score": float(metrics.sigmoid(np.asarray(logit))),
    }


def validation_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Loss, accuracy and AUC of clips, and the AUC of videos, from val's rows."""
    clips = metrics.clips(rows)
    by_clip = metrics.clip_summary(clips)
    by_video = metrics.summary(metrics.videos(clips))
    return {
        "loss": by_clip["loss"],
        "accuracy": by_clip["accuracy"],
        "auc": by_clip["auc"],
        "video_auc": by_video["auc"],
        "video_accuracy": by_video["accuracy"],
    }


def unscored(split: Split) -> list[Row]:
    """The videos of a split that no clip can be taken from, with the reason."""
    return [
        {
            "dataset": v["dataset"],
            "method": v["method"],
            "video": v["video_id"],
            "target": v["target"],
            "label": v["label"],
            "reason": "no usable frame",
        }
        for v in split.videos
        if v["num_valid"] < 1
    ]


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Writes JSON lines to a file that is either whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, path)


# A report shows a few strips; more would only make the page heavy.
STRIPS_PER_KIND = 6


def strips(rows: Sequence[Row], split: Split, config) -> list[Row]:
    """The frames of the clips that a report shows: sure, unsure and most wrong ones."""
    wrong = sorted(rows, key=lambda r: -abs(r["label"] - r["score"]))
    unsure = sorted(rows, key=lambda r: abs(r["score"] - 0.5))
    sure_fake = sorted(rows, key=lambda r: -r["logit"])
    chosen = {}
    for ranked in (wrong, wrong[::-1], unsure, sure_fake, sure_fake[::-1]):
        seen: set[tuple] = set()
        for row in ranked:
            video = (row["dataset"], row["method"], row["video"])
            if len(seen) < STRIPS_PER_KIND and video not in seen:
                seen.add(video)
                chosen[(*video, row["clip"])] = row
    number = {data.video_key(v): i for i, v in enumerate(split.videos)}
    size = config.dataset.image_size
    shown = []
    for (dataset, method, video, clip), row in chosen.items():
        index = number[dataset, method, video]
        frames = np.empty((config.data.clip_frames, size, size, 3), np.uint8)
        reference = data.ClipRef(index, row["start"], config.data.frame_stride)
        length = split.reader.read(reference, split.videos[index]["num_valid"], frames)
        images = [simplejpeg.encode_jpeg(f, quality=85) for f in frames[:length]]
        shown.append(
            {
                "dataset": dataset,
                "method": method,
                "video": video,
                "label": row["label"],
                "clip": clip,
                "score": row["score"],
                "frames": [base64.b64encode(image).decode() for image in images],
            }
        )
    return shown


# Evaluating a checkpoint ---------------------------------------------------------


def choose_step(checkpoints: Checkpoints, wanted: int | None) -> int:
    """The step to evaluate: the wanted one, else the best on val, else the newest.

    Raises CheckpointError with what is there.
    """
    there = checkpoints.steps()
    if wanted is not None:
        if wanted not in there:
            raise CheckpointError(
                f"{checkpoints.directory} has no checkpoint {wanted}; it has "
                f"{', '.join(map(str, sorted(there))) or 'none'}"
            )
        damage = checkpoints.damage(wanted)
        if damage:
            raise CheckpointError(
                f"checkpoint {wanted} in {checkpoints.directory} cannot be used: "
                f"{damage}; choose another --step"
            )
        return wanted
    chosen = checkpoints.best()
    chosen = checkpoints.latest() if chosen is None else chosen
    if chosen is None:
        raise CheckpointError(
            f"{checkpoints.directory} holds no whole checkpoint "
            f"({'damaged: ' + str(there) if there else 'it is empty'}); train first"
        )
    return chosen


def abstract_variables(config) -> dict[str, Any]:
    """Shapes and types of the variables of a config's model."""
    initialise = functools.partial(steps.make_model(config).init, train=False)
    frames = jax.ShapeDtypeStruct((1, *clip_shape(config)), np.float32)
    length = jax.ShapeDtypeStruct((1,), np.int32)
    variables = jax.eval_shape(initialise, jax.random.key(0), frames, length)
    return {"batch_stats": {}, **variables}


def read_variables(config, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    """The model's variables at a step, on the host; averaged ones where kept.

    Optimiser and schedule are not looked at, so those of another version don't matter.
    """
    wanted = abstract_variables(config)
    digests = checkpoints.facts(step)["digests"]
    if any(name.startswith("ema_params.") for name in digests):
        wanted["ema_params"] = wanted["params"]
    variables = checkpoints.restore_model(step, wanted)
    variables["params"] = variables.pop("ema_params", variables["params"])
    return variables


def meet_on_data(run: Run, builder, dataset: data.Facts) -> None:
    """Ends all hosts, with exit code 3, unless they have the same dataset."""
    run.hosts.meet(
        "dataset",
        {f"the digest of dataset {_dataset_name(builder)}": dataset["digest"][:16]}
        | {
            f"split {name}": f"{split['real']} real + {split['fake']} fake videos"
            for name, split in dataset["splits"].items()
        },
        code=DataError.exit_code,
        cure="copy one host's dataset to all, or build it anew with the same settings",
    )


def evaluate(run: Run, split_name: str, *, step: int | None = None) -> dict[str, Any]:
    """Scores a split with a checkpoint and writes the report.

    The result is WORKDIR/eval/<split>@<step>/ (with the dataset's name in front when it
    is another one than the run's own); one that is there already is returned as it is.

    Returns:
      The content of report.json.
    """
    config = run.config
    checkpoints = Checkpoints(run.workdir / "checkpoints")
    try:
        step = choose_step(checkpoints, step)
        other = config.eval.dataset
        prefix = f"{other}-" if other and other != config.dataset.name else ""
        folder = run.workdir / "eval" / f"{prefix}{split_name}@{step}"
        done = (folder / "report.json").exists()
        run.hosts.meet(
            "evaluation",
            {"the checkpoint": step, f"{folder}/report.json is there": done},
            code=CheckpointError.exit_code,
            cure=f"{run.workdir} must be on a file system that all hosts see",
        )
        if done:
            _warn_of_old(run, folder, other)
            return _result(folder)
        facts = checkpoints.facts(step)
        variables = read_variables(config, checkpoints, step)
        variables = parallel.put_replicated(variables, run.mesh)
        selected = checkpoints.metrics(step)
    finally:
        checkpoints.close()
    builder = data.open_dataset(config, other)
    dataset = data.dataset_facts(Path(builder.data_dir))
    meet_on_data(run, builder, dataset)
    trained_on = facts.get("dataset") if not prefix else None
    changed = _changed(trained_on, dataset)
    if changed:
        run.terminal.warn(
            f"dataset {_dataset_name(builder)} is not the one that the run was "
            f"trained on: {changed}; videos of {split_name} may have been trained on"
        )
    split = open_split(builder, split_name, config)
    model = steps.make_model(config)
    eval_step = compile_eval_step(model, run.mesh)
    total = -(-len(split.videos) // config.eval.batch_size)
    with run.terminal.progress(f"evaluate {split_name}", total) as bar:
        vote = parallel.Vote(run.mesh)

        def between(done: int, total: int) -> None:
            if vote(run.stop.signal is not None):
                raise Interrupted(run.stop.signal or signal.SIGTERM)
            bar.resize(total)
            bar.update(done)

        rows = score_clips(
            eval_step, variables, split, config, mesh=run.mesh, between_batches=between
        )
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "scores.jsonl", rows)
        write_lines(folder / "strips.jsonl", strips(rows, split, config))
        context = {
            "split": f"{prefix}{split_name}",
            "step": step,
            "selected_on": _selection(selected),
            "test_evaluations": _count_touch(
                run.workdir, f"{prefix}{split_name}", step
            ),
            "config": workdir.flatten(config.to_dict()),
            "versions": workdir.versions(),
            "device": describe_devices(run.mesh),
            "command": run.command,
            "parameters": count_parameters(variables["params"]),
            "temperature": facts.get("temperature"),
            "threshold": facts.get("threshold"),
            "dataset_card": _card(Path(builder.data_dir)),
            "dataset_digest": dataset["digest"],
            "dataset_changed": changed,
            "num_clips": len(rows),
            "unscored": unscored(split),
            "unscored_policy": config.eval.unscored,
        }
        write_json(folder / "context.json", context)
        report.write_report(folder, metrics_file=run.workdir / "metrics.jsonl")
    run.hosts.meet("report written")  # a collective would not wait as long
    parallel.barrier("report written")
    return _result(folder)


def _result(folder: Path) -> dict[str, Any]:
    return {**json.loads((folder / "report.json").read_text()), "folder": str(folder)}


def _changed(old: data.Facts | None, new: data.Facts) -> str:
    """How a dataset differs from the run's; empty if it does not or none is known."""
    if old is None or old["digest"] == new["digest"]:
        return ""
    return data.describe_change(old, new)


def _warn_of_old(run: Run, folder: Path, other: str) -> None:
    """Says so when a report was made on other data than there are now."""
    made_on = _result(folder).get("dataset_digest")
    try:
        builder = data.open_dataset(run.config, other)
    except DataError:  # the report is there, though its data are not
        return
    if made_on not in (None, data.dataset_digest(Path(builder.data_dir))):
        run.terminal.warn(
            f"the report in {folder} was made on another build of dataset "
            f"{_dataset_name(builder)}; delete that folder to evaluate again"
        )


def _dataset_name(builder) -> str:
    """The name of its config, which is that of its folder."""
    return builder.builder_config.name


def _selection(selected: dict[str, float]) -> str:
    if not selected:
        return "the newest checkpoint (none was evaluated on val)"
    return f"val, by video AUC ({selected['video_auc']:.4f})"


def _count_touch(folder: Path, split: str, step: int) -> int:
    """Notes that a split was evaluated; returns how often test has been, with this."""
    path = folder / "eval" / "touched.jsonl"
    with open(path, "a") as file:
        file.write(json.dumps({"split": split, "step": step}) + "\n")
    touched = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(row["split"].endswith("test") for row in touched)


def _card(dataset_dir: Path) -> dict[str, Any]:
    path = dataset_dir / "card.json"
    return json.loads(path.read_text()) if path.exists() else {}


def count_parameters(params: Any) -> int:
    """How many numbers are trained or stored as parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def describe_devices(mesh: Mesh) -> str:
    """For example "8 x cpu (cpu), 1 process"."""
    devices = list(mesh.devices.flat)
    kind = devices[0].device_kind
    hosts = jax.process_count()
    return (
        f"{len(devices)} x {kind} ({devices[0].platform}), "
        f"{hosts} process{'es' if hosts > 1 else ''}"
    )
