"""Sets that come as frames: a folder of numbered pictures is a video.

Trees of DeepfakeBench, DF40, WildDeepfake, FFIW and any folder of such folders. What
folders mean is read from the sets' own descriptions; none of them was at hand.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tfds_ffpp.errors import DataError
from tfds_ffpp.fields import COMPRESSIONS
from tfds_ffpp.tree import hints
from tfds_ffpp.tree.folders import (
    METHODS,
    REALS,
    SPLIT_NAMES,
    canonical,
    compression_of,
    subfolders,
)
from tfds_ffpp.tree.naming import (
    PICTURES,
    VIDEO_SUFFIXES,
    OtherSet,
    VideoRecord,
    is_utf8,
    parse_name,
)

# DF40's methods by its families: face swapping, face reenactment, entire face
# synthesis, face editing (Yan et al., NeurIPS 2024, table 1).
FAMILIES = {
    "FS": (
        *("FSGAN", "FaceSwap", "SimSwap", "InSwapper", "BlendFace", "UniFace"),
        *("MobileSwap", "e4s", "FaceDancer", "DeepFaceLab"),
    ),
    "FR": (
        *("FOMM", "FS_vid2vid", "Wav2Lip", "MRAA", "OneShot", "PIRender", "TPSM"),
        *("LIA", "DaGAN", "SadTalker", "MCNet", "HyperReenact", "HeyGen"),
    ),
    "EFS": (
        *("VQGAN", "StyleGAN2", "StyleGAN3", "StyleGAN-XL", "SD-2.1", "DDPM", "RDDM"),
        *("PixArt", "DiT", "SiT", "MidJourney", "WhichisReal"),
    ),
    "FE": ("CollabDiff", "e4e", "StarGAN", "StarGANv2", "StyleCLIP"),
}
DF40 = tuple(method for methods in FAMILIES.values() for method in methods)
_OTHER_SPELLINGS = {
    "inswap": "InSwapper",
    "facevid2vid": "FS_vid2vid",
    "oneshotfree": "OneShot",
    "danet": "DaGAN",
    "ddim": "DDPM",
    "mj": "MidJourney",
    "midjourney6": "MidJourney",
    "collaborativediffusion": "CollabDiff",
    "pixartalpha": "PixArt",
    "ditxl2": "DiT",
    "sitxl2": "SiT",
}
# Beside the frames in trees of DeepfakeBench; no videos.
_NOT_FRAMES = ("masks", "landmarks")


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_DF40_BY_NAME = {_folded(method): method for method in DF40} | _OTHER_SPELLINGS


def expand(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods with those of a family in its place."""
    return tuple(m for name in methods for m in FAMILIES.get(name, (name,)))


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name."""
    return os.path.splitext(name)[1].lower() in PICTURES


def frame_folders(root: Path) -> Iterator[Path]:
    """The folders below root with pictures directly in them, but masks; in order.

    Links to folders are followed where they lead out of the tree, not back into it.
    """
    waiting, seen = [root], set()
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda e: e.name)
        except OSError:
            continue
        if place != root and any(is_picture(e.name) for e in entries):
            yield place
            continue
        below = [Path(e.path) for e in entries if e.is_dir()]
        waiting += reversed([p for p in below if p.name not in _NOT_FRAMES])


def _record(path: Path, dataset: str, method: str, label: int, **names) -> VideoRecord:
    given = {"video_id": path.name, "target": "", "source": "", **names}
    given = {"compression": "unknown", **given}
    return VideoRecord(path=path, dataset=dataset, method=method, label=label, **given)


def _named(path: Path, dataset: str, method: str, label: int, **names) -> VideoRecord:
    """A record whose name says as in FaceForensics++ or Celeb-DF who is seen."""
    name = parse_name(path.name)
    if name is not None and (name.kind in REALS) == (label == 0):
        return _record(
            path,
            dataset,
            method,
            label,
            target=name.target,
            source=name.source,
            original=name.original,
            **names,
        )
    parts = path.name.split("_")
    if len(parts) == 3 and label and all(p.startswith("id") for p in parts[:2]):
        names |= {"target": parts[0], "source": parts[1]}
        names |= {"original": f"Celeb-real/{parts[0]}_{parts[2]}"}
    elif len(parts) == 2 and parts[0].startswith("id") and not label:
        names |= {"target": parts[0]}
    return _record(path, dataset, method, label, **names)


def _with_known_originals(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """The records, without the originals that are not there."""
    there = {r.key for r in records if not r.label}
    return [
        r if not r.original or r.original_key in there else replace(r, original="")
        for r in records
    ]


def _split_of(parts: Sequence[str]) -> str:
    return next((SPLIT_NAMES[p.lower()] for p in parts if p.lower() in SPLIT_NAMES), "")


# DeepfakeBench ---------------------------------------------------------------------


def _ffpp_frames(root: Path) -> Iterator[VideoRecord]:
    """Of original_sequences/youtube/c23/frames/000 and such."""
    for top, known, label in (
        ("original_sequences", REALS, 0),
        ("manipulated_sequences", METHODS, 1),
    ):
        for folder in subfolders(root / top):
            method = canonical(folder.name, known)
            for level in subfolders(folder):
                compression = compression_of(level.name)
                if compression not in COMPRESSIONS:
                    continue
                for video in frame_folders(level / "frames"):
                    actors = method in ("actors", "DeepFakeDetection")
                    dataset = "dfd" if actors else "ffpp"
                    yield _named(video, dataset, method, label, compression=compression)


def deepfakebench(root: Path) -> OtherSet | None:
    """FaceForensics++ with `frames` in place of `videos`, a folder for each video."""
    records = list(_ffpp_frames(root))
    if not any(r.label for r in records) or _has_df40(root):
        return None
    return OtherSet(_with_known_originals(records))


# DF40 ------------------------------------------------------------------------------


class _Df40(NamedTuple):
    path: Path
    method: str
    domain: str  # ff | cdf | unknown
    label: int
    split: str


def _has_df40(root: Path) -> bool:
    known = [_DF40_BY_NAME.get(_folded(folder.name)) for folder in subfolders(root)]
    return len(set(known) - {None}) > 0


def _df40_folders(root: Path) -> Iterator[_Df40]:
    for place in (root, *subfolders(root)):
        for top in subfolders(place):
            method = _DF40_BY_NAME.get(_folded(top.name))
            if method is None:
                continue
            for video in frame_folders(top):
                parts = [p.lower() for p in video.relative_to(top).parts]
                domain = next((p for p in parts if p in ("ff", "cdf")), "unknown")
                label = 0 if "real" in parts[:-1] else 1
                split = _split_of([place.name, *parts[:-1]])
                yield _Df40(video, method, domain, label, split)


def _df40(root: Path, domain: str) -> OtherSet | None:
    if not any(_has_df40(place) for place in (root, *subfolders(root))):
        return None
    name, records = f"df40_{domain}", []
    for video in _df40_folders(root):
        if video.domain != domain:
            continue
        method = f"{video.method} real" if not video.label else video.method
        inner = "_".join(video.path.parts[-2:]) if domain == "unknown" else ""
        made = _named(video.path, name, method, video.label)
        made = replace(made, video_id=inner or made.video_id)
        records.append(replace(made, listed="" if domain == "ff" else video.split))
    if domain == "ff":
        for place in (root, *subfolders(root)):
            reals = (r for r in _ffpp_frames(place) if r.method == "youtube")
            records += [replace(r, dataset=name) for r in reals]
    if domain == "cdf":
        records += _celebdf_reals(root, name)
    if records and not any(r.label == 0 for r in records):
        source = "FaceForensics++/original_sequences/youtube/c23/frames"
        source = source if domain == "ff" else "Celeb-DF-v2/Celeb-real/frames"
        raise DataError(
            f"the fakes of DF40's domain {domain} are in {root}, but no reals; they "
            f"come apart, as frames: put them into {root / source}"
        )
    return OtherSet(_with_known_originals(records)) if records else None


def _celebdf_reals(root: Path, dataset: str) -> list[VideoRecord]:
    return [
        _named(video, dataset, kind, 0)
        for place in (root, *subfolders(root))
        for kind in ("Celeb-real", "YouTube-real")
        for video in frame_folders(place / kind)
    ]


def df40_ff(root: Path) -> OtherSet | None:
    """DF40's fakes of FaceForensics++ (METHOD/ff/…) and its reals, as frames."""
    return _df40(root, "ff")


def df40_cdf(root: Path) -> OtherSet | None:
    """DF40's fakes of Celeb-DF (METHOD/cdf/…) and its reals, as frames."""
    return _df40(root, "cdf")


def df40_unknown(root: Path) -> OtherSet | None:
    """DF40's other methods, which bring their reals: METHOD/{real,fake}/…"""
    return _df40(root, "unknown")


# Others ----------------------------------------------------------------------------

_WILD = {
    f"{kind}_{split}": (kind, split)
    for kind in ("real", "fake")
    for split in ("train", "test")
}


def wilddeepfake(root: Path) -> OtherSet | None:
    """{real,fake}_{train,test}/N/…/M/*.png: sequence M of video N (Zi et al. 2020)."""
    tops = [folder for folder in subfolders(root) if folder.name in _WILD]
    if {folder.name.split("_")[0] for folder in tops} != {"real", "fake"}:
        return None
    records = []
    for top in tops:
        kind, split = _WILD[top.name]
        for video in frame_folders(top):
            parts = video.relative_to(top).parts
            records.append(
                _record(
                    video,
                    "wilddeepfake",
                    kind,
                    int(kind == "fake"),
                    video_id="_".join((split, *parts)),
                    target=f"{kind} {split} {parts[0]}",
                    listed=split,
                )
            )
    return OtherSet(records) if records else None


def _videos_or_frames(folder: Path) -> list[Path]:
    """The videos in a folder or in its `videos`; else its folders of frames."""
    for place in (folder, folder / "videos"):
        if place.is_dir():
            names = sorted(p for p in place.iterdir() if is_utf8(p.name))
            videos = [p for p in names if p.suffix.lower() in VIDEO_SUFFIXES]
            if videos:
                return videos
    return list(frame_folders(folder))


def ffiw(root: Path) -> OtherSet | None:
    """{source,target}/{train,val,test}: pristine and forged (Zhou et al. 2021)."""
    records = []
    for kind, label in (("source", 0), ("target", 1)):
        for split in subfolders(root / kind):
            if split.name in SPLIT_NAMES:
                for video in _videos_or_frames(split):
                    listed = SPLIT_NAMES[split.name]
                    name = f"{listed}_{video.stem}"
                    records.append(
                        _record(
                            video, "ffiw", kind, label, video_id=name, listed=listed
                        )
                    )
    return OtherSet(records) if {r.label for r in records} == {0, 1} else None


def frames(root: Path) -> OtherSet | None:
    """Any folder of frame folders; the names above them say real or fake, and split.

    Videos called as those of FaceForensics++ say who is seen. Raises DataError for one
    of which no name says whether it is real.
    """
    records = []
    for video in frame_folders(root):
        parts = video.relative_to(root).parts
        meanings = [(hints.guess(part), part) for part in parts[:-1]]
        meanings = [(meaning, part) for meaning, part in meanings if meaning]
        if not meanings:
            raise DataError(
                f"no folder above the frames in {video} says whether they are real; "
                "name one of them real or fake, or list the folders in a videos.csv"
            )
        meaning, part = meanings[-1]
        label = int(meaning not in ("real", *REALS))
        method = ("real", part)[label] if meaning in ("real", "fake") else meaning
        plain = _named(video, root.name, method, label, listed=_split_of(parts[:-1]))
        if not plain.target:  # nothing says that its own name is enough
            others = [name for name in parts if name != part]
            plain = replace(plain, video_id="/".join(others))
        records.append(replace(plain, original=""))
    reals = {r.video_id: r for r in records if not r.label}
    named = [
        replace(r, original=reals[r.target].in_set)
        if r.label and r.target in reals
        else r
        for r in records
    ]
    return OtherSet(named) if named else None
