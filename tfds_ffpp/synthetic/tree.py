"""Writes an FF++-shaped tree of made videos: `python -m tfds_ffpp.synthetic OUT`."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np

from tfds_ffpp import system
from tfds_ffpp.errors import DataError
from tfds_ffpp.files import PARTIAL, whole
from tfds_ffpp.synthetic import forgeries, identity, rendering
from tfds_ffpp.synthetic.forgeries import Frame, MadeVideo
from tfds_ffpp.synthetic.identity import Array
from tfds_ffpp.synthetic.looks import LOOKS
from tfds_ffpp.terminal.progress import Progress

FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
CRF = {"raw": "0", "c23": "23", "c40": "40"}
RENDERER = 6  # raised when equal parameters no longer give equal files
# Each forgery's stream of random numbers is its place here: new ones come last.
STREAMS = ("Deepfakes", "Face2Face", "FaceSwap", "Flicker", "NeuralTextures")
STREAMS += ("FaceShifter", "LipSync", "Diffusion")
FACES, SCENES, MOTIONS, GRAIN, LENGTHS, PAIRS, FORGERIES, TONES = range(8)  # streams


@dataclass(frozen=True)
class Parameters:
    """All that decides the tree's bytes."""

    num_identities: int
    num_frames: int
    frame_size: int
    seed: int
    difficulty: float
    compressions: tuple[str, ...]
    methods: tuple[str, ...]
    split_shares: tuple[float, float, float]
    look: str = "indoor"
    renderer: int = RENDERER


def write_tree(
    out: str | os.PathLike,
    *,
    num_identities: int = 64,
    num_frames: int = 40,
    frame_size: int = 224,
    seed: int = 0,
    look: str = "indoor",
    difficulty: float = 0.3,
    compressions: Sequence[str] = ("c23",),
    methods: Sequence[str] = FOUR,
    split_shares: Sequence[float] = (0.6, 0.2, 0.2),
    num_processes: int | None = None,
) -> Path:
    """Makes the tree under `out`, or what is missing of it; returns its path.

    The longest video has `num_frames` frames, the shortest three quarters of them;
    frames are `frame_size` pixels square. Files depend on the parameters alone, not
    on `num_processes` (default: the CPUs at hand). A complete tree is left as it is.

    Raises:
        DataError: `out` holds something else, or a parameter is out of range.
    """
    parameters = Parameters(
        num_identities=num_identities,
        num_frames=num_frames,
        frame_size=frame_size,
        seed=seed,
        look=look,
        difficulty=float(difficulty),
        compressions=tuple(compressions),
        methods=tuple(methods),
        split_shares=tuple(map(float, split_shares)),  # type: ignore[arg-type]
    )
    _check(parameters)
    root = Path(out)
    started, finished = root / "synthetic.partial.json", root / "synthetic.json"
    _claim(root, parameters, started=started, finished=finished)
    targets = [
        target
        for target in range(num_identities)
        if not all(path.is_file() for path in _video_paths(root, parameters, target))
    ]
    if targets:
        _remove_leftovers(root)
        _write_videos(root, parameters, targets, num_processes=num_processes)
    _write_splits(root, parameters)
    if started.exists():
        started.replace(finished)
    return root


def _check(p: Parameters) -> None:
    known, shares = list(forgeries.METHODS), p.split_shares
    rules = {
        ("num_identities", "even, 2 to 1000"): p.num_identities in range(2, 1001, 2),
        ("num_frames", "at least 2"): p.num_frames >= 2,
        ("frame_size", "even, 64 to 4096"): p.frame_size in range(64, 4097, 2),
        ("seed", "0 or more"): p.seed >= 0,
        ("look", f"one of {list(LOOKS)}"): p.look in LOOKS,
        ("difficulty", "from 0 to 1"): 0 <= p.difficulty <= 1,
        ("compressions", f"some of {list(CRF)}"): p.compressions
        and set(p.compressions) <= set(CRF),
        ("methods", f"some of {known}"): set(p.methods) <= set(known),
        ("split_shares", "three shares that sum to 1"): len(shares) == 3
        and min(shares) >= 0
        and abs(sum(shares) - 1) < 1e-6,
    }
    for (field, rule), kept in rules.items():
        if not kept:
            raise DataError(f"{field} must be {rule}, got {getattr(p, field)}")


def _claim(root: Path, p: Parameters, *, started: Path, finished: Path) -> None:
    """Takes an empty folder, or one begun with equal parameters; else raises."""
    wanted = json.loads(json.dumps(asdict(p)))
    for path in (finished, started):
        if path.is_file():
            # Trees that were made before there were looks say none.
            found = {"look": "indoor"} | json.loads(path.read_text())
            if found != wanted:
                names = [k for k in wanted if found.get(k) != wanted[k]]
                raise DataError(
                    f"{path} was made with other values of {', '.join(names)}; "
                    "choose another folder or delete this one"
                )
            return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} holds files that are not a made tree; choose an empty folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    _write_text(started, json.dumps(wanted, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as place:
        place.write_text(text)


def _remove_leftovers(root: Path) -> None:
    for path in root.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _rng(p: Parameters, *stream: int) -> np.random.Generator:
    return np.random.default_rng([p.seed, *stream])


def pairs(p: Parameters) -> list[tuple[int, int]]:
    """The identities in random pairs; each pair's two swap faces with each other."""
    order = _rng(p, PAIRS).permutation(p.num_identities).tolist()
    return list(zip(order[::2], order[1::2], strict=True))


def _partner(p: Parameters, target: int) -> int:
    return next(a + b - target for a, b in pairs(p) if target in (a, b))


def _write_splits(root: Path, p: Parameters) -> None:
    named = [[f"{a:03d}", f"{b:03d}"] for a, b in pairs(p)]
    num_val, num_test = (round(share * len(named)) for share in p.split_shares[1:])
    num_train = len(named) - num_val - num_test
    parts = {
        "train": named[:num_train],
        "val": named[num_train : num_train + num_val],
        "test": named[num_train + num_val :],
    }
    for split, part in parts.items():
        path = root / "splits" / f"{split}.json"
        if not path.is_file():
            _write_text(path, json.dumps(part, indent=1) + "\n")


def _real_path(root: Path, compression: str, target: int) -> Path:
    folder = root / "original_sequences" / "youtube" / compression / "videos"
    return folder / f"{target:03d}.mp4"


def _fake_path(root: Path, method: str, level: str, pair: tuple[int, int]) -> Path:
    """Where a fake lies; `level` is a compression or "masks"."""
    name = f"{pair[0]:03d}_{pair[1]:03d}.mp4"
    return root / "manipulated_sequences" / method / level / "videos" / name


def _video_paths(root: Path, p: Parameters, target: int) -> Iterator[Path]:
    pair = (target, _partner(p, target))
    for compression in p.compressions:
        yield _real_path(root, compression, target)
        for method in p.methods:
            yield _fake_path(root, method, compression, pair)
    for method in p.methods:
        yield _fake_path(root, method, "masks", pair)


def _write_videos(
    root: Path, p: Parameters, targets: list[int], *, num_processes: int | None
) -> None:
    count = min(num_processes or system.num_cores(), len(targets))
    work = partial(write_identity, root, p)
    with Progress("make videos", len(targets)) as bar:
        if count == 1:
            for target in targets:
                work(target)
                bar.step()
            return
        # A fresh interpreter: the caller may hold threads that do not survive a fork.
        with ProcessPoolExecutor(
            count,
            mp_context=get_context("spawn"),
            initializer=system.die_with_parent,  # else they wait for work for ever
            initargs=(os.getpid(),),
        ) as pool:
            for done in as_completed([pool.submit(work, t) for t in targets]):
                done.result()
                bar.step()


def write_identity(root: Path, p: Parameters, target: int) -> None:
    """Writes the real video of an identity and all fakes made of it."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        clip, source = (
            make_clip(p, target),
            make_clip(p, _partner(p, target), bare=True),
        )
        rate = int(_rng(p, LENGTHS, target).choice([25, 30]))
        for compression in p.compressions:
            path = _real_path(root, compression, target)
            _encode(path, clip.frames, crf=CRF[compression], rate=rate)
        for method in p.methods:
            _write_fake(root, p, clip, source, target=target, method=method, rate=rate)
    finally:
        cv2.setNumThreads(threads)


def _write_fake(root, p, clip, source, *, target: int, method: str, rate: int) -> None:
    pair = (target, _partner(p, target))
    rng = _rng(p, FORGERIES, target, STREAMS.index(method))
    length = len(clip.pictures)
    if rng.random() < 0.2:  # some generators drop the last frames
        length = max(length - int(rng.integers(1, 4)), round(0.75 * p.num_frames), 2)
    forge = forgeries.METHODS[method]
    forged = forge(clip.cut(length), source, rng, p.difficulty)
    for compression in p.compressions:
        path = _fake_path(root, method, compression, pair)
        _encode(path, forged.frames, crf=CRF[compression], rate=rate)
    masks = [
        np.repeat((255 * mask[..., None]).astype(np.uint8), 3, 2)
        for mask in forged.masks
    ]
    _encode(_fake_path(root, method, "masks", pair), masks, crf="23", rate=rate)


def make_clip(p: Parameters, target: int, *, bare: bool = False) -> MadeVideo:
    """Renders an identity's real video; `bare` leaves the frames out."""
    face = identity.make_head(_rng(p, FACES, target))
    scene = rendering.make_scene(_rng(p, SCENES, target), p.frame_size, LOOKS[p.look])
    scene = rendering.neck_layer(face, scene)
    low = max(2, round(0.75 * p.num_frames))
    length = int(_rng(p, LENGTHS, target, 1).integers(low, p.num_frames + 1))
    moments = rendering.make_performance(
        _rng(p, MOTIONS, target), length, LOOKS[p.look]
    )
    tones = np.ones(length, np.float32)
    if "Flicker" in p.methods:
        tones = forgeries.wandering_tones(_rng(p, TONES, target), length)
    rng = _rng(p, GRAIN, target)
    clip = MadeVideo(
        face=face,
        scene=scene,
        moments=moments,
        tones=tones,
        noises=[rendering.grain(scene, rng) for _ in moments],
        pictures=[],
    )
    return clip if bare else replace(clip, pictures=_photographs(clip))


def _photographs(clip: MadeVideo) -> list[Array]:
    return [
        forgeries.photograph(clip.face, clip.scene, moment, tone=float(tone))
        for moment, tone in zip(clip.moments, clip.tones, strict=True)
    ]


def _encode(path: Path, frames: list[Frame], *, crf: str, rate: int) -> None:
    """Writes H.264 4:4:4 by one thread, without times or tags, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exact = {"fflags": "+bitexact", "movflags": "+faststart"}
    with (
        whole(path) as place,
        av.open(str(place), "w", format="mp4", options=exact) as container,
    ):
        # With B-frames, x264's macroblock tree gives other bytes now and then (seen
        # in core 165: up to 4 files of 25 encodings); without it, one.
        options = {"crf": crf, "preset": "veryfast", "bf": "2", "mbtree": "0"}
        options |= {"threads": "1"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
