"""Decoded pictures to upright RGB, whatever their colours are stored as."""

import re
from fractions import Fraction

import cv2
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from tfds_ffpp.errors import UnusableVideoError

MAX_PIXELS = 7680 * 4320  # 8K; a frame of it takes 100 MB as RGB


Region = tuple[int, int, int, int]  # y0, x0, y1, x1 in pixels of the upright frame
# Of these the first plane is brightness, a byte a pixel.
_BYTE_OF_LUMA = re.compile(r"yuv[aj]?4\d\dp|gray|nv12|nv21")
_BLOCK = 4  # no pixel format shares chroma over more pixels


def of_rgb(image: np.ndarray) -> VideoFrame:
    """A frame of RGB uint8[H,W,3], as if it had been decoded."""
    return VideoFrame.from_ndarray(image, format="rgb24")


# Colours ---------------------------------------------------------------------------


def _turns(frame: VideoFrame) -> int:
    """Quarter turns counterclockwise that make the frame upright."""
    return round(frame.rotation / 90) % 4


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """(height, width) in pixels after the rotation that the file asks for."""
    if _turns(frame) % 2:
        return frame.width, frame.height
    return frame.height, frame.width


def _spreads_chroma(frame: VideoFrame) -> bool:
    """Whether a pixel's colour depends on rows next to it."""
    deep = frame.format.components[0].bits > 8
    return deep and frame.format.chroma_height(frame.height) != frame.height


class Converter:
    """Decoded frames -> upright RGB as ffmpeg's own command line makes it.

    Goes through its filters, since the bare scaler misplaces the chroma of deep
    pictures; keeps the filters while the frames are alike.
    """

    def __init__(self):
        self._graph: Graph | None = None
        self._key: tuple = ()

    def rgb(self, frame: VideoFrame, region: Region | None) -> np.ndarray:
        """uint8[H,W,3] of a frame, or of a region of it when upright."""
        if frame.width * frame.height > MAX_PIXELS:
            raise UnusableVideoError(f"a frame of {frame.width}x{frame.height} pixels")
        turns = _turns(frame)
        if region is None or turns or _spreads_chroma(frame):
            rgb = np.rot90(
                self._convert(frame, (0, 0, frame.height, frame.width)), turns
            )
            y0, x0, y1, x1 = region or (0, 0, *rgb.shape[:2])
            return np.ascontiguousarray(rgb[y0:y1, x0:x1])
        # Whole blocks of chroma, which several pixels share.
        y0, x0, y1, x1 = region
        top, left = y0 - y0 % _BLOCK, x0 - x0 % _BLOCK
        bottom = min(y1 + -y1 % _BLOCK, frame.height)
        right = min(x1 + -x1 % _BLOCK, frame.width)
        rgb = self._convert(frame, (top, left, bottom, right))
        return np.ascontiguousarray(rgb[y0 - top : y1 - top, x0 - left : x1 - left])

    def _convert(self, frame: VideoFrame, region: Region) -> np.ndarray:
        key = (
            frame.width,
            frame.height,
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            region,
        )
        if self._graph is None or key != self._key:
            self._graph, self._key = _rgb_graph(frame, region), key
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)  # noqa: S101
        return converted.to_ndarray()


def _rgb_graph(frame: VideoFrame, region: Region) -> Graph:
    y0, x0, y1, x1 = region
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=Fraction(1, 25),
    )
    crop = graph.add("crop", f"{x1 - x0}:{y1 - y0}:{x0}:{y0}")
    scale = graph.add("scale", "flags=bicubic")
    rgb = graph.add("format", "rgb24")
    graph.link_nodes(source, crop, scale, rgb, graph.add("buffersink")).configure()
    return graph


def small_luma(frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """The brightness uint8[size] of a frame as it is stored, not turned upright.

    size: height and width. Rows are left out of a large picture: some serve as well.
    """
    if not _BYTE_OF_LUMA.fullmatch(frame.format.name):
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    step = max(frame.height // (4 * size[0]), 1)
    rows = rows[: frame.height : step, : frame.width]
    return cv2.resize(rows, size[::-1], interpolation=cv2.INTER_AREA)
