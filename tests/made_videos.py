"""Small real video files of every kind, written with PyAV."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FACELESS = {"face_finder": "none", "image_size": 32, "num_frames": 4}


@dataclass
class Film:
    """What the search for faces uses of a decoded clip, of frames in memory.

    regions, points: where the parts of the face are in each frame, if that is known.
    """

    frames: list[np.ndarray]
    indices: list[int]
    regions: Sequence[dict[str, np.ndarray]] = ()
    points: Sequence[np.ndarray] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def size(self, i: int) -> tuple[int, int]:
        height, width = self.frames[i].shape[:2]
        return height, width

    def rgb(self, i: int, region: tuple[int, int, int, int] | None = None):
        y0, x0, y1, x1 = region or (0, 0, *self.size(i))
        return self.frames[i][y0:y1, x0:x1]


def picture(i: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    """Frame i of a video: coloured blocks that move; its index in the corner."""
    rng = np.random.default_rng(seed)
    height, width = size
    blocks = rng.integers(30, 225, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = np.roll(image, i, axis=1)
    image[:8, :8] = 8 * (i % 30)
    return np.ascontiguousarray(image)


def index_of(frame: np.ndarray) -> int:
    """Which frame of `picture` this is, up to 29."""
    return round(float(frame[1:7, 1:7].mean()) / 8)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray] | int = 12,
    *,
    pixel_format: str = "yuv444p",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    seed: int = 0,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    container: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes frames (or so many of `picture`) at 25 per second; returns the path.

    times: the presentation time of each frame in hundredths of a second.
    """
    if isinstance(frames, int):
        frames = [picture(i, size, seed) for i in range(frames)]
    frames = list(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        file.metadata.update(metadata or {})
        stream = file.add_stream(codec, rate=25, options=options or {"crf": "18"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 100)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_tree(
    root: Path,
    *,
    ids: int = 8,
    methods: Sequence[str] = ("Deepfakes", "FaceSwap"),
    compression: str = "c23",
    num_frames: int = 12,
) -> Path:
    """An official tree of small videos without faces, both orders of each pair."""
    names = [f"{i:03d}" for i in range(ids)]
    reals = root / "original_sequences" / "youtube" / compression / "videos"
    for i, name in enumerate(names):
        write_video(reals / f"{name}.mp4", num_frames, seed=i)
    for m, method in enumerate(methods):
        folder = root / "manipulated_sequences" / method / compression / "videos"
        for i in range(0, ids - 1, 2):
            for a, b in ((i, i + 1), (i + 1, i)):
                path = folder / f"{names[a]}_{names[b]}.mp4"
                write_video(path, num_frames, seed=1000 * (m + 1) + a)
    return root


def records_of(dataset_dir: Path) -> dict[str, bytes]:
    """Name -> bytes of the record files of a dataset, and of its tables."""
    names = ("*.array_record*", "videos-*.jsonl", "card.json", "rejected.jsonl")
    return {p.name: p.read_bytes() for n in names for p in dataset_dir.glob(n)}
