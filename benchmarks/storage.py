"""What each way to store a frame costs: bytes, decoding time, and traces of forgery.

python -m benchmarks.storage [--tree DIR] [--identities 24]
Crops of made videos are stored in every way. The traces are measured by a fixed
detector of residual noise (co-occurrences of second differences, as in steganalysis;
Fridrich and Kodovsky 2012) with a logistic regression, trained and tested on other
people; its AUC on the untouched crops is the reference.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import table
from tfds_ffpp.frames.crops import clip_crops
from tfds_ffpp.frames.prepare import find_faces, read_planned
from tfds_ffpp.synthetic.tree import write_tree
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig
from tfds_ffpp.tree.scan import scan

SIDE, FRAMES = 128, 10
METHOD = "NeuralTextures"


@dataclass(frozen=True)
class Coding:
    """A way to store RGB uint8[S,S,3]."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def jpeg(quality: int, sampling: str) -> Coding:
    """libjpeg-turbo through simplejpeg."""
    return Coding(
        f"JPEG {quality} {sampling}",
        lambda x: simplejpeg.encode_jpeg(x, quality, "RGB", sampling, False),
        lambda b: simplejpeg.decode_jpeg(b, "RGB"),
    )


def opencv(name: str, suffix: str, *options: int) -> Coding:
    """A coding of OpenCV."""
    return Coding(
        name,
        lambda x: cv2.imencode(suffix, x[..., ::-1], options)[1].tobytes(),
        lambda b: np.ascontiguousarray(
            cv2.imdecode(np.frombuffer(b, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]  # pyright: ignore[reportOptionalSubscript]
        ),
    )


CODINGS = (
    Coding(
        "raw",
        lambda x: x.tobytes(),
        lambda b: np.frombuffer(b, np.uint8).reshape(SIDE, SIDE, 3).copy(),
    ),
    opencv("PNG", ".png"),
    opencv("WebP lossless", ".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    opencv("WebP 95", ".webp", cv2.IMWRITE_WEBP_QUALITY, 95),
    opencv("WebP 90", ".webp", cv2.IMWRITE_WEBP_QUALITY, 90),
    jpeg(98, "444"),
    jpeg(95, "444"),
    jpeg(95, "420"),
    jpeg(90, "444"),
    jpeg(90, "420"),
    jpeg(75, "420"),
)


def crops(tree: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops uint8[V,T,S,S,3] of reals and fakes, labels [V], pairs of people [V]."""
    preparation = FfppConfig(name="x", num_frames=FRAMES, image_size=SIDE).preparation
    records = [r for r in scan(tree).records if r.method in ("youtube", METHOD)]
    boxes, images, labels, groups = {}, [], [], []
    partner = {r.target: r.source for r in records if r.label}
    for record in sorted(records, key=lambda r: r.label):
        clip = read_planned(record.path, preparation)
        if record.label == 0:
            boxes[record.target] = find_faces(clip, preparation)
        faces = boxes[record.target]
        if faces.box is None:
            continue
        images.append(clip_crops(clip, faces.box, SIDE))
        labels.append(record.label)
        groups.append(min(record.target, partner[record.target]))
    return np.stack(images), np.array(labels), np.array(groups)


def residual_features(frames: np.ndarray) -> np.ndarray:
    """Co-occurrences of quantised second differences of a clip uint8[T,S,S,3]."""
    features = []
    for channel in (1, 0):
        x = frames[..., channel].astype(np.int16)
        for axis in (1, 2):
            residual = np.clip(np.diff(x, 2, axis=axis), -3, 3) + 3
            for shift in (1, 2):
                a = residual.take(range(residual.shape[shift] - 1), shift)
                b = residual.take(range(1, residual.shape[shift]), shift)
                features.append(np.bincount((7 * a + b).ravel(), minlength=49))
    counts = np.concatenate(features).astype(float)
    return np.log(counts / counts.sum() + 1e-5)


def trace_auc(clips: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """AUC of the residual detector on people that it has not seen."""
    features = np.stack([residual_features(c) for c in clips])
    scores = np.zeros(len(labels))
    for train, test in GroupKFold(4).split(features, labels, groups):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=500)
        )
        model.fit(features[train], labels[train])
        scores[test] = model.decision_function(features[test])
    return float(roc_auc_score(labels, scores))


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", default="runs/bench-storage", help="made and kept")
    parser.add_argument("--identities", type=int, default=24)
    parser.add_argument("--difficulty", type=float, default=0.8)
    table.add_option(parser)
    args = parser.parse_args()
    with table.results(parser, args) as results:
        measure(args, results)


def measure(args: argparse.Namespace, results: table.Results) -> None:
    """A row for each way to store frames."""
    write_tree(
        Path(args.tree),
        num_identities=args.identities,
        difficulty=args.difficulty,
        compressions=("c23",),
        methods=(METHOD,),
    )
    packages = ("simplejpeg", "opencv-python-headless", "scikit-learn")
    results.say(", ".join(f"{p} {metadata.version(p)}" for p in packages))
    clips, labels, groups = crops(Path(args.tree))
    results.say(
        f"{len(clips)} clips of {FRAMES} frames, {SIDE} pixels, {METHOD} against real"
    )
    results.heads(
        "stored as", "kB a frame", "encode ms", "decode ms a clip", "AUC of traces"
    )
    for coding in CODINGS:
        start = time.process_time()
        coded = [[coding.encode(f) for f in clip] for clip in clips]
        encoding = (time.process_time() - start) / clips.shape[0] / FRAMES * 1e3
        times = []
        for _ in range(3):
            start = time.process_time()
            back = [[coding.decode(b) for b in clip] for clip in coded]
            times.append((time.process_time() - start) / len(clips) * 1e3)
        size = np.mean([len(b) for clip in coded for b in clip]) / 1e3
        auc = trace_auc(np.array(back), labels, groups)
        decoding = statistics.median(times)
        results.row(
            coding.name,
            f"{size:.1f}",
            f"{encoding:.2f}",
            f"{decoding:.1f}",
            f"{auc:.3f}",
        )


if __name__ == "__main__":
    main()
