"""What backends for CPUs and their precisions change of scores and verdicts, and gain.

python -m benchmarks.precision WORKDIR... [--split test] [--data_dir DIR] [--videos N]

All score the same clips of a split, in turns, and are held against JAX in float32. A
verdict is predict's, "unfamiliar" among them; balanced accuracy is at val's threshold.
A backend that is not installed, or whose precision this processor lacks, is left out.

The rows of int8 are of no backend: onnxruntime's own tool makes weights and activations
of all convolutions int8 (static, per channel), with the ranges that it sees on some
clips of val. Threshold, band and guard are those of float32 in every row.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks import table
from fakedetect_jax import settings
from fakedetect_jax.data import dataset, reader
from fakedetect_jax.data.order import ClipRef
from fakedetect_jax.data.reader import Split
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.evaluation.scoring import covering_clips
from fakedetect_jax.metrics import metrics
from fakedetect_jax.programs import backends, runtimes
from fakedetect_jax.programs.runtimes import Run
from fakedetect_jax.serving.summary import UNFAMILIAR, Scale
from fakedetect_jax.trained.guard import video_means
from fakedetect_jax.trained.model import TrainedModel, load_model
from tfds_ffpp.errors import UserError

REFERENCE = "jax, float32"


# Clips -------------------------------------------------------------------------------


def some_clips(split: Split, config: Any, videos: int) -> list[ClipRef]:
    """The clips of an evaluation; of so many videos from all over the split, if set."""
    clips = covering_clips(split.videos, config)
    numbers = np.unique([clip.video for clip in clips])
    if 0 < videos < len(numbers):
        places = np.linspace(0, len(numbers) - 1, videos).round().astype(int)
        numbers = numbers[places]
    return [clip for clip in clips if clip.video in numbers]


def read(split: Split, config: Any, clips: Sequence[ClipRef]):
    """Frames uint8[B,T,S,S,3] and lengths int32[B]."""
    frames = np.empty((len(clips), *settings.clip_shape(config)), np.uint8)
    length = np.empty(len(clips), np.int32)
    for row, clip in enumerate(clips):
        valid = split.videos[clip.video].num_valid
        length[row] = split.reader.read(clip, valid, frames[row])
    return frames, length


# What computes -----------------------------------------------------------------------


def every_way(model: TrainedModel, val: Split, seen: int) -> Iterator[tuple[str, Run]]:
    """All that can score with the model here; first what they are held against."""
    yield REFERENCE, backends.JaxBackend(backends.in_float32(model), None, None).outputs
    if (dtype := model.config.model.dtype) != "float32":
        yield f"jax, {dtype}", backends.JaxBackend(model, None, None).outputs
    names = runtimes.installed()
    for name in (*names, *([runtimes.BFLOAT16] if "openvino" in names else [])):
        with contextlib.suppress(ConfigError):  # it cannot run this model
            yield name, backends.RuntimeBackend(name, model, None).outputs
    if "onnxruntime" in names and seen:
        quantised = in_int8(model, val, seen)
        for name in names:
            yield f"{name}, int8", runtimes.start(name, quantised)


def in_int8(model: TrainedModel, val: Split, seen: int) -> bytes:
    """The model's graph with convolutions in int8, by the ranges on clips of val."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    config = model.config
    clips = covering_clips(val.videos, config)
    places = np.linspace(0, len(clips) - 1, min(seen, len(clips))).round().astype(int)

    class Ranges(quantization.CalibrationDataReader):
        """A clip at a time."""

        left = iter([clips[place] for place in places])

        def get_next(self):
            """The inputs of the graph; None after the last."""
            if (clip := next(self.left, None)) is None:
                return None
            frames, length = read(val, config, [clip])
            return {"frames": frames, "length": length}

    with TemporaryDirectory() as folder:
        graph, whole, done = (Path(folder, f"{i}.onnx") for i in range(3))
        graph.write_bytes(runtimes.graph_of(config, model.variables, None))
        # Folds the normalisations into the convolutions.
        quant_pre_process(str(graph), str(whole), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(whole),
            str(done),
            Ranges(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
        )
        return done.read_bytes()


# Measuring ---------------------------------------------------------------------------


class Scores(NamedTuple):
    """What one way gives: logits and features of clips, seconds of each call."""

    logits: list[np.ndarray]
    features: list[np.ndarray]
    wall: list[float]
    used: list[float]


class Judged(NamedTuple):
    """What is said of each video."""

    scores: np.ndarray
    verdicts: np.ndarray


def score(
    ways: dict[str, Run], split: Split, config: Any, clips: Sequence[ClipRef], size: int
) -> dict[str, Scores]:
    """All clips by all ways, which take turns at each batch."""
    found = {name: Scores([], [], [], []) for name in ways}
    for first in range(0, len(clips), size):
        some = clips[first : first + size]
        frames, length = read(split, config, some)
        rows = np.arange(size) % len(some)  # the last batch is filled up with its own
        batch = frames[rows], length[rows]
        for name, way in ways.items():
            if not first:
                way(*batch)  # compiles
            start, used = time.perf_counter(), time.process_time()
            logits, features = way(*batch)
            found[name].wall.append(time.perf_counter() - start)
            found[name].used.append(time.process_time() - used)
            found[name].logits.append(logits[: len(some)])
            found[name].features.append(features[: len(some)])
    return found


def judge(model: TrainedModel, found: Scores, video: np.ndarray) -> Judged:
    """Score and verdict of each video; video: int[M], whose clip each is."""
    clip_scores = metrics.sigmoid(np.concatenate(found.logits).astype(np.float64))
    scores = video_means(clip_scores, video)
    verdicts = np.array([Scale.of(model).verdict(score) for score in scores], object)
    if (guard := model.guard) is not None:
        distances = guard.distances(np.concatenate(found.features))
        verdicts[video_means(distances, video) > guard.threshold] = UNFAMILIAR
    return Judged(scores, verdicts)


def measure(
    name: str,
    model: TrainedModel,
    splits: tuple[Split, Split],
    options: argparse.Namespace,
    results: table.Results,
) -> None:
    """The rows of a model; splits: val and what is scored."""
    val, split = splits
    config = model.config
    clips = some_clips(split, config, options.videos)
    ways = dict(every_way(model, val, options.seen))
    found = score(ways, split, config, clips, options.clips)
    video = np.array([clip.video for clip in clips])
    labels = np.array([split.videos[number].label for number in np.unique(video)])
    expected = judge(model, found[REFERENCE], video)
    threshold = Scale.of(model).threshold
    frames = options.clips * config.data.clip_frames
    for way, scores in found.items():
        judged = judge(model, scores, video)
        apart = np.abs(judged.scores - expected.scores)
        decided = metrics.decisions(labels, judged.scores, threshold)
        rates = [frames / seconds for seconds in scores.wall]
        results.row(
            *(name, way, _number(metrics.auc(labels, judged.scores))),
            _number(decided.balanced_accuracy),
            f"{sum(judged.verdicts != expected.verdicts)} of {len(labels)}",
            *(f"{apart.max():.1e}", f"{apart.mean():.1e}"),
            f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
            f"{frames * len(rates) / sum(scores.used):.1f}",
        )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--split", default="test", help="that is scored (test)")
    parser.add_argument("--data_dir", help="the built datasets; as in the run if unset")
    parser.add_argument("--videos", type=int, default=0, help="of the split; 0: all")
    parser.add_argument("--clips", type=int, default=8, help="of a call")
    parser.add_argument(
        "--seen", type=int, default=64, help="clips of val for int8; 0: no int8"
    )
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        results.say(", ".join(runtimes.versions()))
        results.heads(
            *("run", "backend", "AUC", "balanced accuracy", "other verdicts"),
            *("largest change of a score", "mean", "frames/s (min to max)"),
            "frames per CPU second",
        )
        for workdir in options.workdirs:
            try:
                model = load_model(workdir)
                config = model.config.copy_and_resolve_references()
                if options.data_dir:
                    with config.unlocked():
                        config.data.data_dir = options.data_dir
                builder = dataset.open_dataset(config)
                val, split = (
                    reader.open_split(builder, name, config)
                    for name in ("val", options.split)
                )
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(error.exit_code)
            measure(workdir.name, model, (val, split), options, results)


if __name__ == "__main__":
    main()
