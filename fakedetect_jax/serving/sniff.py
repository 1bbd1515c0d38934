"""The first bytes of a file -> whether it is a video or picture, whatever its name."""

import os
import stat
from pathlib import Path

from tfds_ffpp.frames import images
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES

HEAD = 4096  # bytes that are read
# Endings of videos that other files have too: TypeScript.
_SHARED = (".ts", ".mts")
# Endings of sound in the containers of videos.
_SOUND = (".m4a", ".m4b", ".mka", ".wma", ".weba", ".aac")
# Of an ftyp box: pictures, sound, raw photographs in the container of mp4.
_OTHER_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"),
    *(b"M4A ", b"M4B ", b"M4P ", b"crx "),
)
_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MPEG = (b"\0\0\1\xba", b"\0\0\1\xb3")  # pack header, sequence header


def is_media(path: Path) -> bool:
    """By the ending, where that is a video's or picture's alone; else by the content.

    Raises OSError where the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in (*VIDEO_SUFFIXES, *images.SUFFIXES) and suffix not in _SHARED:
        return True
    if suffix in _SOUND or not stat.S_ISREG(os.stat(path).st_mode):
        return False
    with path.open("rb") as file:
        head = file.read(HEAD)
    if suffix in _SHARED:  # a damaged video is one all the same
        return not (head and _is_text(head))
    return holds_video(head) or images.holds_image(head)


def holds_video(head: bytes) -> bool:
    """Whether a file that begins so is in a container of videos."""
    kind = head[4:8]
    if kind == b"ftyp":
        return head[8:12] not in _OTHER_BRANDS
    if head.startswith(b"\x1aE\xdf\xa3"):
        return b"matroska" in head or b"webm" in head
    riff = head.startswith(b"RIFF") and head[8:12] == b"AVI "
    return (
        riff
        or kind in _BOXES
        or head.startswith((b"FLV\1", _ASF, *_MPEG))
        or any(_is_transport(head, *way) for way in ((0, 188), (4, 192)))
    )


def _is_transport(head: bytes, first: int, size: int) -> bool:
    """Whether packets of an MPEG stream of a size follow each other."""
    begins = head[first : first + 5 * size : size]
    return begins == b"\x47" * 5


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
