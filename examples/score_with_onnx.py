"""Scores a video with an exported model.onnx and model.json, without this project.

python score_with_onnx.py EXPORTED VIDEO

Needs av, dlib-bin, numpy, onnxruntime, opencv-python-headless, safetensors and
simplejpeg. It takes the largest face of each window, as `predict --faces largest
--shots ignore` does; see docs/predict_steps.md.
"""

import json
import sys
from pathlib import Path

import av
import cv2
import dlib
import numpy as np
import onnxruntime
import simplejpeg
from safetensors.numpy import load_file

DLIB = dlib.get_frontal_face_detector()


def overlap(a, b):
    """Intersection over union of two boxes y0, x0, y1, x1."""
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def faces(image, threshold):
    """The boxes of the faces of an image, the surest first."""
    found, scores, _ = DLIB.run(image, 0, threshold)
    boxes = [[f.top(), f.left(), f.bottom() + 1, f.right() + 1] for f in found]
    return [np.array(boxes[i]) for i in np.argsort(-np.array(scores))]


def find(picture, way):
    """The boxes of the faces of a picture that is looked at in one of the ways."""
    size = np.array(picture.shape[:2])
    scale = min(way["longest_side"] / max(size), way["enlarged_at_most"])
    to = np.maximum(np.round(size * scale).astype(int), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    seen = cv2.resize(picture, to[::-1].tolist(), interpolation=how)
    threshold = way["dlib_adjust_threshold"]
    return [box * np.tile(size / to, 2) for box in faces(seen, threshold)]


def spread(values, count):
    """At most so many of some values, at the middles of equal parts."""
    n = min(count, len(values))
    return [values[(2 * i + 1) * len(values) // (2 * n)] for i in range(n)]


def find_tracks(looks, way, least_overlap):
    """The boxes [N,4] of each face over the pictures looked at."""
    tracks = []
    for picture in looks:
        free = list(range(len(tracks)))
        for box in find(picture, way):
            best = max(free, key=lambda t: overlap(tracks[t][-1], box), default=None)
            if best is None or overlap(tracks[best][-1], box) < least_overlap:
                tracks.append([box])
            else:
                tracks[best].append(box)
                free.remove(best)
    return [np.array(track) for track in tracks]


def square(track, margin, shape):
    """The square y0, x0, y1, x1 round a track."""
    low, high = track[:, :2].min(axis=0), track[:, 2:].max(axis=0)
    side = margin * np.median((track[:, 2:] - track[:, :2]).max(axis=1))
    side = min(max(side, (high - low).max()), 2 * side)
    spare = np.array(shape[:2]) - side
    inside = np.clip((low + high - side) / 2, 0, np.abs(spare))
    start = np.where(spare < 0, spare / 2, inside)
    return *start, *(start + side)


def find_box(pictures, margin, rules):
    """The square round the largest face that lasts or is confirmed; None without."""
    looks, shape = spread(pictures, 5), pictures[0].shape
    *certain, uncertain = rules["ways_of_looking"]
    passing, lasting, joins = [], [], rules["track_overlap"]
    for way in certain:
        tracks = find_tracks(looks, way, joins)
        lasting = [t for t in tracks if len(t) >= rules["lasting_looks"]]
        if lasting:
            break
        passing += tracks
    else:
        frames = spread(pictures, rules["confirm_frames"])
        for track in passing:
            box = square(track, margin, shape)
            shows = np.mean([is_seen(p, box, 1.3, rules) for p in frames])
            known = any(overlap(t[0], track[0]) >= joins for t in lasting)
            if shows >= rules["confirmed"] and not known:
                lasting.append(track)
        if not lasting:
            least = max(rules["uncertain_lasts"] * len(looks), rules["lasting_looks"])
            tracks = find_tracks(looks, uncertain, joins)
            lasting = [t for t in tracks if len(t) >= least]
    areas = [np.prod(t[:, 2:] - t[:, :2], axis=1).sum() for t in lasting]
    return square(lasting[np.argmax(areas)], margin, shape) if lasting else None


def is_seen(picture, box, margin, rules):
    """Whether the crop at a box shows its face."""
    side, half = rules["crop_side"], 0.5 / margin
    usual = side * np.repeat([0.5 - half, 0.5 + half], 2)
    found = faces(crop(picture, box, side), 0.0)
    return any(overlap(b, usual) >= rules["overlap_in_crop"] for b in found)


def crop(picture, box, side):
    """The square of a picture in another size; what is outside repeats the edge."""
    y0, x0, y1, x1 = (round(float(v)) for v in box)
    ys = np.clip(np.arange(y0, y1), 0, picture.shape[0] - 1)
    xs = np.clip(np.arange(x0, x1), 0, picture.shape[1] - 1)
    cut = picture[ys][:, xs]
    how = cv2.INTER_AREA if min(cut.shape[:2]) >= side else cv2.INTER_CUBIC
    return cv2.resize(cut, (side, side), interpolation=how)


def through_jpeg(image, preparation):
    """A crop as it was stored for training."""
    # Not OpenCV's encoder, whose DCT rounds otherwise: scores would move by up to 0.1.
    quality, sampling = preparation["jpeg_quality"], preparation["jpeg_subsampling"]
    coded = simplejpeg.encode_jpeg(image, quality, "RGB", sampling, fastdct=False)
    return simplejpeg.decode_jpeg(coded, "RGB")


def read(path, wanted=()):
    """The wanted frames as {index: upright RGB picture}, and how many there are."""
    kept, total = {}, 0
    with av.open(path) as file:
        for total, frame in enumerate(file.decode(video=0), start=1):
            if total - 1 in wanted:
                rgb = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
                upright = np.rot90(rgb, round(frame.rotation / 90) % 4)
                kept[total - 1] = np.ascontiguousarray(upright)
    return kept, total


def stored(start, stop, preparation):
    """Which frames of a window are stored."""
    frames, count, step = (
        range(start, stop),
        preparation["num_frames"],
        preparation["frame_step"],
    )
    if not step:
        return spread(frames, count)
    count = min(count, -(-len(frames) // step))
    return frames[(len(frames) - (count - 1) * step - 1) // 2 :: step][:count]


def clips(images, seen, data):
    """The inputs of the network: the clips of a window's stored frames."""
    size, stride = data["clip_frames"], data["frame_stride"]
    starts = [
        start
        for start in range(max(len(images) - (size - 1) * stride, 1))
        if np.mean(seen[start::stride][:size]) >= data["min_coverage"]
    ]
    last, count = len(starts) - 1, data["eval_clips_per_video"]
    places = np.unique(np.linspace(0, last, count).round().astype(int))
    for place in (places if count > 1 else [last // 2]) if starts else []:
        at = starts[place] + stride * np.arange(size)
        length = (at < len(images)).sum(keepdims=True).astype(np.int32)
        clip = images[np.minimum(at, at[length[0] - 1])]  # the last one is repeated
        yield {"frames": clip[None], "length": length}


def distance(features, means, axes, variances):
    """How far the features [D] of a clip lie from those of the training."""
    off = features.astype(np.float64) - means  # of each class
    along = off @ axes.T.astype(np.float64)
    beside = np.maximum((off**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    squares = (along**2 / variances[:-1]).sum(axis=1) + beside / variances[-1]
    return np.sqrt(squares.min() / len(features))


def score(folder, path):
    """Of all clips the logits, the score and the probability of fake.

    And whether the face is unlike those of the training, so that they mean nothing;
    None where the model has no guard.
    """
    facts = json.loads(Path(folder, "model.json").read_text())
    prepared, data = facts["preprocessing"], facts["config"]["data"]
    preparation, rules = prepared["frames"], prepared["rules"]
    if preparation.get("align", "none") != "none":
        raise SystemExit("this example aligns no faces; use predict for this model")
    if preparation["crop"] == "face" and preparation["face_finder"] != "dlib":
        raise SystemExit("this example knows dlib's HOG alone; use predict")
    session = onnxruntime.InferenceSession(str(Path(folder, "model.onnx")))
    guard, limit = Path(folder, "guard.safetensors"), facts["guard"]["threshold"]
    known = load_file(guard) if guard.exists() else None
    total, logits, margin = read(path)[1], [], preparation["margin"]
    far = []
    parts = max(-(-total // prepared["window_frames"]), 1)
    for i in range(parts):
        wanted = stored(i * total // parts, (i + 1) * total // parts, preparation)
        pictures = [*map(read(path, set(wanted))[0].get, wanted)]
        box, seen = (0, 0, *pictures[0].shape[:2]), [True] * len(pictures)
        if preparation["crop"] == "face":
            box = find_box(pictures, margin, rules)
        if box is None or len(pictures) < data["clip_frames"]:
            continue
        if preparation["crop"] == "face":
            seen = [is_seen(p, box, margin, rules) for p in pictures]
        crops = [crop(p, box, preparation["image_size"]) for p in pictures]
        images = np.stack([through_jpeg(image, preparation) for image in crops])
        for feed in clips(images, seen, data):
            logit, features = session.run(["logits", "features"], feed)
            logits.append(float(logit[0]))
            if known is not None:
                far.append(distance(features[0], **known))
    if not logits:
        return {"logits": [], "score": None, "probability": None, "unfamiliar": None}
    mean = float(np.mean(1 / (1 + np.exp(-np.array(logits)))))
    odds = (mean / (1 - mean)) ** (1 / (facts["calibration"]["temperature"] or 1))
    return {
        "logits": logits,
        "score": mean,
        "probability": odds / (1 + odds),
        "unfamiliar": bool(np.mean(far) > limit) if far else None,
    }


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[1], "model.json").read_text())
    if described["trained_on_made_videos"]:
        print("trained on made videos: scores mean nothing on real ones")
    print(json.dumps(score(*sys.argv[1:])))
