"""The peer of benchmarks.end_to_end: the field's practice, from public parts.

python -m benchmarks.end_to_end_peer crops LIST CROPS   video files -> PNG crops
python -m benchmarks.end_to_end_peer train LIST CROPS STATES   PNG crops -> a detector
python -m benchmarks.end_to_end_peer judge LIST CROPS STATES   each state's test AUC
python -m benchmarks.end_to_end_peer rates LIST CROPS   which way to compute is faster

OpenCV reads the videos, dlib finds the largest face of every frame, each frame is cut
around its own box and kept as PNG. The workers of PyTorch's DataLoader read the crops
and augment them on the CPU, as Albumentations does: OpenCV on bytes, one draw for all
frames of a clip. What configs/demo.py does to its clips is a mirror, so it is one here.
Network, optimiser, schedule, clip length and number of steps are those of
configs/demo.py; half of each batch is real. LIST is JSON, for each video an object with
path, name, split and label. STATES gets the weights at each validation.
"""

# pyright: reportMissingImports=false

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import phases
from benchmarks.torch_model import Block
from fakedetect_jax.run.process import end_with_parent, restart_with_malloc

SIZE, STORED, MARGIN = 64, 30, 1.3
FRAMES, BATCH, PER_VIDEO = 6, 12, 3
RATE, WARM_UP = 2e-3, 40
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


# Videos -> crops --------------------------------------------------------------------


def cut_video(job: tuple[str, str]) -> int:
    """The crops of one video; how many frames showed a face."""
    import dlib

    path, out = job
    cv2.setNumThreads(1)
    finder = dlib.get_frontal_face_detector()  # pyright: ignore
    video = cv2.VideoCapture(path)
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, total - 1, min(STORED, total)).round().astype(int))
    Path(out).mkdir(parents=True)
    kept = 0
    for number in range(total):
        if number not in wanted:
            video.grab()
            continue
        good, image = video.read()
        faces = finder(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), 0) if good else []
        if not faces:
            continue
        face = max(faces, key=lambda box: box.area())
        half = round(MARGIN * max(face.width(), face.height()) / 2)
        y, x = face.center().y + half, face.center().x + half
        framed = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REPLICATE)
        crop = framed[y - half : y + half, x - half : x + half]
        crop = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(f"{out}/{number:06d}.png", crop)
        kept += 1
    return kept


def cut_all(rows: list[dict], out: Path, processes: int) -> None:
    """The crops of all videos, several at a time."""
    jobs = [(row["path"], str(out / row["name"])) for row in rows]
    # Linux's own way, in which the workers share what this process has imported.
    with get_context("fork").Pool(processes) as pool:
        kept = list(pool.imap_unordered(cut_video, jobs, chunksize=4))
    print(json.dumps({"videos": len(kept), "crops": sum(kept)}), flush=True)


# Crops -> clips ---------------------------------------------------------------------


def read_clip(
    files: list[Path], start: int, mirrored: bool = False
) -> tuple[torch.Tensor, int]:
    """Normalised frames [FRAMES,3,SIZE,SIZE], zeros behind a short end; how many."""
    frames = np.zeros((FRAMES, SIZE, SIZE, 3), np.float32)
    used = files[start : start + FRAMES]
    for i, file in enumerate(used):
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)  # pyright: ignore
        image = cv2.flip(image, 1) if mirrored else image
        frames[i] = (image.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(frames.transpose(0, 3, 1, 2)), len(used)


class TrainClips(Dataset):
    """Clips of videos drawn at random, half of them real."""

    def __init__(self, by_label: dict[int, list[list[Path]]], count: int, flip: float):
        """by_label: the crops of each video; flip: the share of mirrored clips."""
        self.by_label, self.count, self.flip = by_label, count, flip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        draw = random.Random(index)
        label = index % 2
        files = draw.choice(self.by_label[label])
        start = draw.randrange(max(len(files) - FRAMES, 0) + 1)
        frames, length = read_clip(files, start, draw.random() < self.flip)
        return frames, length, np.float32(label)


class TestClips(Dataset):
    """Clips spread over each video."""

    def __init__(self, videos: list[list[Path]]):
        """The crops of each video."""
        self.clips = []
        for number, files in enumerate(videos):
            last = max(len(files) - FRAMES, 0)
            starts = np.linspace(0, last, PER_VIDEO).round().astype(int)
            self.clips += [(number, files, start) for start in sorted(set(starts))]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int):
        number, files, start = self.clips[index]
        return (*read_clip(files, start), number)


# Clips -> a detector ----------------------------------------------------------------


class Detector(nn.Module):
    """The demo's network: three stages of one block, LSTM, mean of its states."""

    def __init__(self):
        """Initialised as torchvision does, residual branches as zero."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        blocks = [Block(24, 24, 1, False), Block(24, 48, 2, False)]
        self.blocks = nn.Sequential(*blocks, Block(48, 96, 2, False))
        self.lstm = nn.LSTM(96, 64, batch_first=True)
        self.head = nn.Linear(64, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, Block):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, frames: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Normalised clips [B,T,3,H,W] -> logits [B]; `length` frames count."""
        images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.blocks(self.stem(images))
        states = self.lstm(maps.mean((2, 3)).unflatten(0, frames.shape[:2]))[0]
        valid = torch.arange(frames.shape[1])[None] < length[:, None]
        weight = valid.float() / length[:, None]
        return self.head((states * weight[..., None]).sum(1))[:, 0]


class Trainer:
    """The network, its optimiser and how a step is computed."""

    def __init__(self, num_steps: int, compiled: bool):
        """compiled: by torch.compile, else eagerly."""
        torch.manual_seed(0)
        self.model = Detector().to(memory_format=torch.channels_last)  # pyright: ignore
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

        def factor(step: int) -> float:
            if step < WARM_UP:
                return step / WARM_UP
            done = (step - WARM_UP) / max(num_steps - WARM_UP, 1)
            return (1 + math.cos(math.pi * done)) / 2

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def step(self, frames, length, label) -> float:
        """Updates the network; the loss."""
        self.model.train()
        logits = self.forward(frames, length)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def video_auc(self, loader: DataLoader, labels: list[int]) -> float:
        """Of the mean score of each video's clips."""
        self.model.eval()
        scores: list[list[float]] = [[] for _ in labels]
        for frames, length, numbers in loader:
            found = torch.sigmoid(self.model(frames, length))
            for number, score in zip(numbers.tolist(), found.tolist(), strict=True):
                scores[number].append(score)
        seen = [i for i, some in enumerate(scores) if some]
        means = [np.mean(scores[i]) for i in seen]
        return float(roc_auc_score([labels[i] for i in seen], means))


def videos_of(rows: list[dict], crops: Path, split: str) -> Iterator[tuple]:
    """(label, crops) of each video of a split that has any."""
    for row in rows:
        files = sorted((crops / row["name"]).glob("*.png"))
        if row["split"] == split and files:
            yield row["label"], files


def train_loader(
    options: argparse.Namespace, rows: list[dict], steps: int
) -> DataLoader:
    """Batches of so many steps."""
    by_label: dict[int, list] = {0: [], 1: []}
    for label, files in videos_of(rows, options.crops, "train"):
        by_label[label].append(files)
    clips = TrainClips(by_label, steps * BATCH, options.flip)
    return DataLoader(clips, BATCH, num_workers=options.workers, prefetch_factor=8)


def test_loader(
    options: argparse.Namespace, rows: list[dict], split: str
) -> tuple[DataLoader, list[int]]:
    """Batches of a split, and the labels of its videos."""
    videos = list(videos_of(rows, options.crops, split))
    clips = TestClips([files for _, files in videos])
    loader = DataLoader(clips, 32, num_workers=options.workers)
    return loader, [label for label, _ in videos]


def train(options: argparse.Namespace, rows: list[dict]) -> None:
    """Trains, keeps the weights at each validation, tests the best of them.

    The first phase ends with the first step, in which torch.compile compiles.
    """
    val, test = (test_loader(options, rows, split) for split in ("val", "test"))
    trainer = Trainer(options.steps, options.compiled)
    options.states.mkdir(parents=True)
    best = (-1.0, 0)
    for step, batch in enumerate(train_loader(options, rows, options.steps), start=1):
        loss = trainer.step(*batch)
        if step == 1:
            phases.begin("train")
        if step % options.every == 0 or step == options.steps:
            phases.begin("validate")
            auc = trainer.video_auc(*val)
            phases.begin("train")
            print(json.dumps({"step": step, "loss": loss, "val": auc}), flush=True)
            kept = {"val": auc, "state": trainer.model.state_dict()}
            torch.save(kept, state_file(options, step))
            best = max(best, (auc, step))  # the newest on a tie, as in the project
    phases.begin("test")
    kept = torch.load(state_file(options, best[1]))
    trainer.model.load_state_dict(kept["state"])
    print(json.dumps({"test": trainer.video_auc(*test)}), flush=True)


def state_file(options: argparse.Namespace, step: int) -> Path:
    """Where the weights of a step are."""
    return options.states / f"{step:06d}.pt"


def judge(options: argparse.Namespace, rows: list[dict]) -> None:
    """Prints step, val and test video AUC of each state, in their order."""
    loader, labels = test_loader(options, rows, "test")
    trainer = Trainer(1, compiled=False)
    for file in sorted(options.states.glob("*.pt")):
        kept = torch.load(file)
        trainer.model.load_state_dict(kept["state"])
        found = {"val": kept["val"], "test": trainer.video_auc(loader, labels)}
        print(json.dumps({"step": int(file.stem), **found}), flush=True)


def rates(options: argparse.Namespace, rows: list[dict]) -> None:
    """Seconds of a step, eagerly and compiled, and of the first ones."""
    found = {}
    batch = next(iter(train_loader(options, rows, 1)))
    for name in ("eager", "compiled"):
        trainer = Trainer(options.steps, name == "compiled")
        start = time.perf_counter()
        for _ in range(3):
            trainer.step(*batch)
        first = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(30):
            trainer.step(*batch)
        found[name] = {"first": first, "step": (time.perf_counter() - start) / 30}
    print(json.dumps(found), flush=True)


def main() -> None:
    """Does what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["crops", "train", "judge", "rates"])
    parser.add_argument("list", type=Path)
    parser.add_argument("crops", type=Path)
    parser.add_argument("states", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=1280)
    parser.add_argument("--every", type=int, default=160)
    parser.add_argument("--flip", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    if options.what != "crops":
        restart_with_malloc()
    rows = json.loads(options.list.read_text())
    if options.what == "crops":
        cut_all(rows, options.crops, options.workers)
    else:
        {"train": train, "judge": judge, "rates": rates}[options.what](options, rows)


if __name__ == "__main__":
    main()
