"""Scores as a detector of FF++ videos would give them, for tests without a model."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from fakedetect_jax.metrics.records import ClipScore, Strip, Video
from tfds_ffpp.records import to_json

T = TypeVar("T")


def known(value: T | None) -> T:
    """The value of a field that may be empty, and must not be here."""
    assert value is not None
    return value


METHODS = {"Deepfakes": 3.4, "Face2Face": 2.8, "FaceSwap": 3.0, "NeuralTextures": 1.9}


def made_rows(
    *,
    num_identities: int = 20,
    num_clips: int = 3,
    methods: dict[str, float] | None = None,
    seed: int = 0,
    compression: str = "c23",
    dataset: str = "ffpp",
    sharpness: float = 2.0,
) -> list[ClipScore]:
    """Rows of scores.jsonl: each identity once real and once a fake of each method.

    Videos of a target share its ease, clips of a video share the video's; `methods`
    maps names to how far their fakes lie from the reals. Identities come in pairs.
    """
    rng = np.random.default_rng(seed)
    shifts = {"youtube": 0.0, **(METHODS if methods is None else methods)}
    rows = []
    names = [f"{i:03d}" for i in range(num_identities)]
    for i, target in enumerate(names):
        source = names[i ^ 1] if (i ^ 1) < num_identities else names[0]
        ease = rng.normal(0, 0.5)
        for method, shift in shifts.items():
            fake = method != "youtube"
            video = rng.normal(ease + shift, 0.8) - 1.6
            named = Video(
                dataset=dataset,
                method=method,
                name=f"{target}_{source}" if fake else target,
                target=target,
                source=source if fake else "",
                compression=compression,
                label=int(fake),
            )
            for clip in range(num_clips):
                logit = float(sharpness * (video + rng.normal(0, 0.4)))
                score = float(1 / (1 + np.exp(-logit)))
                rows.append(ClipScore(named, clip, 10 * clip, 10, logit, score))
    return rows


def changed(row: ClipScore, **changes: Any) -> ClipScore:
    """A row with other fields, of its own or of its video."""
    named = {k: v for k, v in changes.items() if k in Video._fields}
    own = {k: v for k, v in changes.items() if k not in named}
    return row._replace(video=row.video._replace(**named), **own)


def made_context(**changes: Any) -> dict[str, Any]:
    """The content of context.json."""
    return {
        "split": "test",
        "step": 1200,
        "selected_on": "val, by video AUC (0.9876)",
        "test_evaluations": 1,
        "config": {
            "seed": 0,
            "model.backbone": "resnet50",
            "model.stage_sizes": [],
            "batch_size": 32,
            "optimizer.learning_rate": 0.001,
        },
        "versions": {"fakedetect-jax": "0.1.0", "jax": "0.10.2"},
        "device": "1 x cpu (cpu), 1 process",
        "command": "python -m fakedetect_jax.main --config configs/ffpp.py "
        "--workdir runs/ffpp --mode eval --split test",
        "parameters": 25_869_377,
        "temperature": 1.7,
        "threshold": 0.62,
        "band": {
            "max_error": 0.05,
            "real": {"threshold": 0.4, "error": 0.1, "bound": 0.4, "num_clusters": 6},
            "fake": {"threshold": 0.7, "error": 0.0, "bound": 0.04, "num_clusters": 70},
        },
        "dataset_card": {
            "official_split": True,
            "split_source": "official FaceForensics++ lists, as in the package",
            "warnings": ["bit rate separates real from fake with AUC 0.71."],
        },
        "unscored": [],
        "unscored_policy": "exclude",
        **changes,
    }


def made_strips(
    rows: list[ClipScore], *, size: int = 224, num_frames: int = 10
) -> list[Strip]:
    """strips.jsonl of the most wrong, the surest and the least certain clips."""
    ranked = sorted(rows, key=lambda r: -abs(r.video.label - r.score))
    unsure = sorted(rows, key=lambda r: abs(r.score - 0.5))
    rng = np.random.default_rng(0)
    strips = []
    for row in ranked[:6] + ranked[-12:] + unsure[:6]:
        base = rng.integers(40, 200, 3)
        ramp = np.linspace(0, 40, size)[:, None, None]
        frames = []
        for _ in range(num_frames):
            noise = rng.normal(0, 12, (size, size, 3))
            image = Image.fromarray((base + ramp + noise).clip(0, 255).astype(np.uint8))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85)
            frames.append(base64.b64encode(buffer.getvalue()).decode())
        strips.append(Strip(row.video, row.clip, row.score, frames))
    return strips


def made_metrics(num_steps: int = 1200, every: int = 60) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, num_steps + 1):
        left = float(np.exp(-step / num_steps * 3))
        loss = 0.7 * left + abs(float(rng.normal(0, 0.05)))
        numbers = {"loss": loss, "accuracy": 1 - 0.45 * left}
        lines.append({"step": step, "kind": "train", **numbers})
        if step % every == 0:
            val = {
                "loss": 0.6 * left + 0.12,
                "accuracy": 0.95 - 0.4 * left,
                "auc": 0.97 - 0.4 * left,
                "video_auc": 0.99 - 0.4 * left,
            }
            lines.append({"step": step, "kind": "val", **val})
    return lines


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(to_json(row)) + "\n" for row in rows))


def write_run(
    workdir: Path,
    rows: list[ClipScore] | None = None,
    *,
    name: str = "test@1200",
    strips: bool = True,
    **context: Any,
) -> Path:
    """A workdir with one evaluation, as evaluate.py leaves it; returns EVAL_DIR."""
    rows = made_rows() if rows is None else rows
    folder = workdir / "eval" / name
    folder.mkdir(parents=True)
    write_lines(folder / "scores.jsonl", rows)
    (folder / "context.json").write_text(json.dumps(made_context(**context)))
    if strips:
        write_lines(folder / "strips.jsonl", made_strips(rows))
    write_lines(workdir / "metrics.jsonl", made_metrics())
    return folder
