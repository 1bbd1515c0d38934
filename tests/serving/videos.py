"""Videos with faces, cut, damaged and very long ones; and what predict writes."""

import json
import struct
from pathlib import Path

import av
import numpy as np

from tests.made_videos import write_video
from tfds_ffpp.frames.video import read_clip


def reals(tiny_run) -> list[Path]:
    return sorted(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def side_by_side(paths, out: Path) -> Path:
    clips = [read_clip(p, lambda total: range(12)).frames() for p in paths]
    return write_video(
        out, [np.concatenate(f, axis=1) for f in zip(*clips, strict=True)]
    )


LOSSLESS = {"codec": "ffv1", "options": {}, "pixel_format": "bgr0"}


def cut_video(path: Path, share: float) -> Path:
    """The first bytes of a video of 60 frames without a face."""
    write_video(path, 60, **LOSSLESS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    return path


def all_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def write_long(path: Path, *, repeats: int, frames: int = 512) -> Path:
    """A video of so many times the same frames: encoded once, then copied.

    After 512 frames the picture is where it began, so that none of it is a cut.
    """
    short = write_video(
        path.with_name("short.mp4"),
        frames,
        pixel_format="yuv420p",
        options={"preset": "ultrafast", "bf": "0", "g": "50"},
    )
    with av.open(str(short)) as source, av.open(str(path), "w") as file:
        packets = [p for p in source.demux(video=0) if p.size]
        stream = file.add_stream_from_template(source.streams.video[0])
        times = [packet.pts or 0 for packet in packets]
        length = (times[1] - times[0]) * frames
        for i in range(repeats):
            for packet, at in zip(packets, times, strict=True):
                packet.stream = stream
                packet.pts = packet.dts = at + i * length
                file.mux(packet)
    return path


def write_many(folder: Path, count: int) -> list[Path]:
    """So many videos of the same frames, each with other bytes behind them."""
    first = write_video(folder / "0000.mp4", 8)
    paths = [first]
    for i in range(1, count):
        box = struct.pack(">I4sI", 12, b"free", i)
        paths.append(folder / f"{i:04d}.mp4")
        paths[-1].write_bytes(first.read_bytes() + box)
    return paths


def spoil(path: Path, number: int) -> None:
    """Makes one packet of a video undecodable."""
    with av.open(str(path)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
    packet = packets[number]
    whole = bytearray(path.read_bytes())
    assert packet.pos is not None
    whole[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(whole)


def flip_bits(path: Path, packets: range, seed: int = 0) -> Path:
    """Flips one random bit of each 40 bytes in these packets of a video."""
    rng = np.random.default_rng(seed)
    with av.open(str(path)) as file:
        found = [p for p in file.demux(video=0) if p.size]
    whole = bytearray(path.read_bytes())
    for packet in (found[i] for i in packets):
        assert packet.pos is not None
        for _ in range(max(packet.size // 40, 1)):
            at = packet.pos + int(rng.integers(packet.size))
            whole[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(whole)
    return path
