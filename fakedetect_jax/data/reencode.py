"""Clips as a video encoder leaves them."""

import io
from typing import Any

import av
import numpy as np

from fakedetect_jax.data.order import ClipRef
from fakedetect_jax.data.reader import Reads


def reencode(frames: np.ndarray, crf: int) -> np.ndarray:
    """uint8[T,H,W,3] through H.264 at a constant rate factor, 4:2:0; the same shape.

    Sides that are odd are made even by repeating an edge, and cut again.
    """
    count, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        options = {"crf": str(crf), "preset": "medium", "threads": "1"}
        stream: Any = out.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in even:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as coded:
        decoded = [f.to_ndarray(format="rgb24") for f in coded.decode(video=0)]
    if len(decoded) != count:
        raise RuntimeError(f"{count} frames were encoded and {len(decoded)} decoded")
    return np.stack(decoded)[:, :height, :width]


class Reencoded:
    """Reads as a FrameReader does, and what it reads has been through H.264."""

    def __init__(self, reader: Reads, crf: int):
        """`crf` is x264's: 23 is its default, more is less."""
        self._reader, self._crf = reader, crf

    def read(self, clip: ClipRef, num_valid: int, out: np.ndarray) -> int:
        """As FrameReader.read; the frames of the clip are one video."""
        length = self._reader.read(clip, num_valid, out)
        out[:length] = reencode(out[:length], self._crf)
        out[length:] = out[length - 1]
        return length
