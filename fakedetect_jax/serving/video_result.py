"""From a video's clip scores to its result, with what to be careful about."""

from typing import Any

import numpy as np

from fakedetect_jax.serving.tracks import Face, Pending, Row

MADE_WARNING = (
    "the model was trained on made videos: its scores mean nothing on real ones"
)
# A face is out of the model's range where its crop must be enlarged more than this.
MAX_ENLARGEMENT = 4.0
WARN_ENLARGEMENT = 2.0
WARN_COVERAGE = 0.6


def enlargement(detector: Any, stored: Row) -> float:
    """Pixels of the crop for one of the source, along a side."""
    side = max(stored["box"][2] - stored["box"][0], 1.0)
    return detector.model.config.dataset.image_size / side


# Results ---------------------------------------------------------------------------


def summarise(detector: Any, video: Pending) -> Row:
    """The result of a video whose clips are all scored; docs/predict.md tells it."""
    end = video.end or {}
    result = {
        "video": video.name,
        "outcome": "scored",
        "reason": None,
        "verdict": None,
        "score": None,
        "probability": None,
        "threshold": detector.threshold,
        "probability_threshold": detector.calibrated(detector.threshold),
        "faces": [],
        "warnings": [MADE_WARNING] if detector.model.made else [],
        "model": {"step": detector.model.step, "weights": detector.model.digest[:16]},
    }
    if "reason" in end:
        return {**result, "outcome": "unreadable", "reason": end["reason"]}
    summary = dict(end["summary"])
    loss, partial = summary.pop("loss"), summary.pop("partial")
    result |= {
        "file": summary,
        "windows": len(video.windows),
        "windows_without_face": sum(not w["faces"] for w in video.windows),
        "frames_looked_at": sum(len(w["frame_index"]) for w in video.windows),
    }
    scored = [face for face in video.faces if face.clips]
    if not scored:
        outcome, reason = _why_unscored(detector, video)
        reason = f"{reason}; {loss}" if loss else reason
        return {**result, "outcome": outcome, "reason": reason}
    faces = [_face_result(detector, face) for face in scored]
    if not all(np.isfinite(face["score"]) for face in faces):
        reason = "the network's output is not a number"
        return {**result, "outcome": "out of range", "reason": reason}
    top = max(faces, key=lambda face: face["score"])
    result |= {k: top[k] for k in ("score", "probability", "verdict")}
    result["faces"] = faces
    if partial:
        result |= {"outcome": "partial", "reason": loss}
    result["most_suspicious"] = max(
        (clip for face in faces for clip in face["clips"]), key=lambda c: c["score"]
    )
    result["warnings"] = result["warnings"] + _warnings(detector, video, loss)
    return result


def _face_result(detector: Any, face: Face) -> Row:
    # The mean over clips, as metrics.videos has it.
    score = float(np.mean([clip["score"] for clip in face.clips]))
    return {
        "score": score,
        "probability": detector.calibrated(score),
        "verdict": detector.verdict(score),
        "seconds": [face.clips[0]["seconds"][0], face.clips[-1]["seconds"][1]],
        "box": face.entries[0]["box"],
        "coverage": float(np.mean([e["coverage"] for e in face.entries])),
        "clips": face.clips,
    }


def _why_unscored(detector: Any, video: Pending) -> tuple[str, str]:
    """(outcome, reason) of a video without a clip."""
    stored = [s for window in video.windows for s in window["faces"]]
    if not stored:
        looked = len(video.windows)
        where = f" in any of {looked} windows" if looked > 1 else ""
        return "no face", f"no face was found{where}"
    frames = detector.model.config.data.clip_frames
    longest = max(s["num_valid"] for s in stored)
    if longest < frames:
        return (
            "too short",
            f"the video has {longest} frames, a clip of the model takes {frames}",
        )
    side = max(s["box"][2] - s["box"][0] for s in stored)
    least = detector.model.config.dataset.image_size / MAX_ENLARGEMENT
    if side >= least:
        needed = detector.model.config.data.min_coverage
        return (
            "no face",
            f"no clip shows a face in {needed:.0%} of its frames, as the model needs",
        )
    return (
        "out of range",
        f"the face's square is {side:.0f} pixels wide, the model needs {least:.0f}",
    )


def _warnings(detector: Any, video: Pending, loss: str | None) -> list[str]:
    told = []
    stored = [s for face in video.faces for s in face.entries]
    blurred = max(enlargement(detector, s) for s in stored)
    if blurred > WARN_ENLARGEMENT:
        told.append(
            f"a face is small: its crop was enlarged {blurred:.1f} times, so fine "
            "traces are lost"
        )
    least = min(s["coverage"] for s in stored)
    if least < WARN_COVERAGE:
        told.append(
            f"a face was seen in only {least:.0%} of the frames looked at: the crop "
            "may show something else in the others"
        )
    without = sum(not window["faces"] for window in video.windows)
    if without:
        told.append(f"{without} of {len(video.windows)} windows show no face")
    if loss:
        told.append(f"the file is damaged: {loss}")
    if detector.model.temperature is None:
        told.append("the model was not calibrated: its score is no probability")
    elif not (detector.model.calibration or {}).get("used", True):
        told.append(
            "no calibration helped on people left out, so none is used: the "
            "probability is the score itself"
        )
    return told
