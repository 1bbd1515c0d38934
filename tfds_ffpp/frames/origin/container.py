"""What a video's container and streams say of themselves."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av

from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames.decoding.container import open_file, packets_of, video_stream
from tfds_ffpp.frames.found import ContainerFacts, Tag
from tfds_ffpp.frames.origin.boxes import read_edits
from tfds_ffpp.terminal.text import printable

MAX_WORD = 200  # characters of a word that are told
MAX_TAGS = 40  # of a file, and of each stream
# x264 and x265 write who they are, and how they were set, into the first picture.
_ENCODER = re.compile(rb"x26[45][ (][ -~]{4,100}")
_HEAD = 1 << 16  # bytes of the first picture
# Told elsewhere, or said of every file.
_KNOWN = ("major_brand", "minor_version", "compatible_brands", "encoder")
_DULL = {"language": "und", "vendor_id": "[0][0][0][0]"}


def container_facts(path: Path) -> ContainerFacts | None:
    """What is said; None of a file that does not open as a video."""
    try:
        with open_file(path) as container:
            stream = video_stream(container)
            return _facts(path, container, stream)
    except UnusableVideoError:
        return None


def _facts(path: Path, container: Any, stream: Any) -> ContainerFacts:
    said = container.metadata
    brands = (said.get("major_brand"), *_in_fours(said.get("compatible_brands", "")))
    named = (said.get("encoder"), stream.metadata.get("encoder"), _wrote(container))
    context = stream.codec_context
    return ContainerFacts(
        format=_word(container.format.name),
        brands=_words(brands),
        encoder=_words(named),
        created=_word(said.get("creation_time", "")),
        seconds=(container.duration or 0) / av.time_base,
        profile=_word(context.profile or ""),
        video_bit_rate=stream.bit_rate or 0,
        sound=tuple(map(_codec, container.streams.audio)),
        tags=tuple(_tags(container)),
        edits=read_edits(path),
    )


def _codec(stream: Any) -> str:
    # The decoder's build may not know a stream's codec at all.
    return _word(stream.codec_context.name) if stream.codec_context else "unknown"


def _in_fours(text: object) -> Iterator[str]:
    text = str(text)
    return (text[i : i + 4] for i in range(0, min(len(text), MAX_WORD), 4))


def _words(values: Any) -> tuple[str, ...]:
    """Those that there are, each once."""
    return tuple(dict.fromkeys(filter(None, map(_word, filter(None, values)))))


def _word(value: object) -> str:
    """Somebody else's text on one line, of bounded length."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return printable(text.strip())[:MAX_WORD]


def _wrote(container: Any) -> str:
    """Which encoder the first picture names."""
    stream = container.streams.video[0]
    packet = next(packets_of(container, stream), None)
    found = _ENCODER.search(bytes(packet)[:_HEAD]) if packet is not None else None
    # Its version; how it was set is long.
    return found[0].decode("ascii").split(" - H.26")[0] if found else ""


def _tags(container: Any) -> Iterator[Tag]:
    yield from _of_place("file", container.metadata)
    for stream in container.streams:
        place = {"video": "video", "audio": "sound"}.get(stream.type)
        if place is not None:
            yield from _of_place(place, stream.metadata)


def _of_place(place: str, said: Mapping[str, Any]) -> Iterator[Tag]:
    names = [n for n in said if n not in _KNOWN and said[n] != _DULL.get(n)]
    for name in names[:MAX_TAGS]:
        yield Tag(place, _word(name), _word(said[name]))
