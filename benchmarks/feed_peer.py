"""The peer of benchmarks.feed: image files through torch's DataLoader and OpenCV."""

import random
import time
from pathlib import Path

import cv2
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.utils.data import (  # pyright: ignore[reportMissingImports]
    DataLoader,
    Dataset,
)

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class ClipFiles(Dataset):
    """Random runs of consecutive frames from folders of image files."""

    def __init__(
        self, folder: Path, *, suffix: str, num_frames: int, as_float: bool, count: int
    ):
        self.videos = [sorted(p.glob(f"*.{suffix}")) for p in sorted(folder.iterdir())]
        self.num_frames, self.as_float, self.count = num_frames, as_float, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        files = self.videos[index % len(self.videos)]
        start = random.randrange(max(len(files) - self.num_frames, 0) + 1)
        frames = []
        for file in files[start : start + self.num_frames]:
            image = cv2.imread(str(file))
            assert image is not None, file
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            if self.as_float:
                image = (image.astype(np.float32) / 255 - MEAN) / STD
            frames.append(image)
        return torch.from_numpy(np.stack(frames))


def clips_per_second(
    folder: Path,
    *,
    suffix: str,
    as_float: bool,
    shape: tuple[int, int],
    num_batches: int,
    workers: int,
) -> float:
    """Clips per second in batches of shape (clips, frames), workers warmed up."""
    clips, frames = shape
    warm_up, ahead = 2 * workers + 1, 2 * workers  # what is prefetched meanwhile
    files = ClipFiles(
        folder,
        suffix=suffix,
        num_frames=frames,
        as_float=as_float,
        count=clips * (warm_up + num_batches + ahead),
    )
    loader = DataLoader(
        files,
        batch_size=clips,
        num_workers=workers,
        prefetch_factor=2,
        multiprocessing_context="spawn",
        worker_init_fn=_alone,
    )
    batches = iter(loader)
    # What was prefetched while the workers started is not counted.
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    seconds = time.perf_counter() - start
    for _ in batches:  # workers that have no more to do end by themselves
        pass
    return num_batches * clips / seconds


def _alone(number: int) -> None:
    """A worker without threads of OpenCV's, which would die with it, loudly."""
    del number
    cv2.setNumThreads(0)
