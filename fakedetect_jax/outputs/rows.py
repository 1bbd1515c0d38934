"""The file of --output: rows of JSON and a table beside it, gone on with after a stop.

Until the work is done its rows lie in FILE.partial in the order in which they came;
what a killed run leaves there is whole but for the last line. A run that finds rows
there, or in FILE, makes those that are missing. At its end FILE has the rows of videos
that it was not asked for, and then all that it was asked for, in that order.
"""

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.reports.video_result import FaceResult, ModelFacts, VideoResult
from fakedetect_jax.serving import sources
from fakedetect_jax.serving.sources import Source
from tfds_ffpp import records
from tfds_ffpp.files import whole
from tfds_ffpp.terminal.text import cell

PARTIAL = ".partial"
TABLE = ".csv"


class _Line(NamedTuple):
    """Where a row lies."""

    file: Path
    start: int
    length: int

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


class Rows:
    """Rows that are written as they come, and those that are there already."""

    def __init__(self, name: str):
        """Raises ConfigError for a file that cannot be written or holds other things,
        and while another run writes it."""
        self.path = Path(name).expanduser()
        if not self.path.name or self.path.is_dir():
            raise ConfigError(
                f"--output {name} is a folder; name a file in it, such as "
                f"{self.path / 'rows.jsonl'}"
            )
        self.journal = self.path.with_name(f"{self.path.name}{PARTIAL}")
        self.table = self.path.with_suffix(TABLE)
        if self.table == self.path:
            raise ConfigError(
                f"--output {name} gets rows of JSON; name it .jsonl, and the table of "
                "faces is written beside it"
            )
        self._lines: dict[str, _Line] = {}
        try:
            self._file = self.journal.open("ab")
        except OSError as error:
            raise ConfigError(
                f"--output {name} cannot be written ({error.strerror}); choose another"
            ) from error
        import fcntl  # scoring without --output does without

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"another run is writing --output {name}; wait for it or choose another"
            ) from None
        try:
            if self.path.is_file():
                self._index(self.path)
            self._file.truncate(self._index(self.journal))
        except BaseException:
            self.close()
            raise

    @property
    def places(self) -> list[Path]:
        """The files that are written."""
        return [self.path, self.journal, self.table]

    def _index(self, path: Path) -> int:
        """Finds the rows of a file; returns where its last whole line ends."""
        end = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._lines[_name_in(line, path)] = _Line(path, end, len(line))
                end += len(line)
        return end

    def kept(
        self, videos: Iterable[Source], model: ModelFacts
    ) -> Iterator[VideoResult]:
        """The results that are there for these videos, whose files are still the same.

        What was refused, or could not be read, is tried again; so is the copy of a
        video that has changed, whose page is now of something else.

        Raises ConfigError for those of another model, or made with other options.
        """
        for name, copy_of in ((video.name, video.copy_of) for video in videos):
            line = self._lines.get(name)
            if line is None:
                continue
            result = records.from_json(VideoResult, json.loads(line.read()))
            if result.model is not None and result.model != model:
                raise ConfigError(
                    f"{line.file} has rows of another model or of other options "
                    f"({_said(result.model)}, and not {_said(model)}); choose another "
                    "--output"
                )
            same = result.file and sources.digest_of(name) == result.file.sha256
            if same and (not result.copy_of or result.copy_of == copy_of):
                yield result

    def add(self, result: VideoResult) -> None:
        """Writes a row; it is there if this process dies."""
        row = json.dumps(result.to_json(), allow_nan=False) + "\n"
        content = row.encode()
        start = os.fstat(self._file.fileno()).st_size
        with _named(self.journal):
            self._file.write(content)
            self._file.flush()
        self._lines[result.video] = _Line(self.journal, start, len(content))

    def finish(self, asked: Iterable[str]) -> None:
        """Gives FILE and the table their names, whole; asked: in their order."""
        order = list(asked)
        others = self._lines.keys() - set(order)
        names = [*(name for name in self._lines if name in others), *order]
        with _named(self.path), whole(self.path) as place, place.open("wb") as file:
            for name in names:
                file.write(self._lines[name].read())
        with _named(self.table):
            write_table(self.path, self.table)
        self._file.truncate(0)
        self.close()

    def close(self) -> None:
        """Lets others write; leaves no empty file."""
        if not self._file.closed:
            if not os.fstat(self._file.fileno()).st_size:
                self.journal.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a row that add could not write
                self._file.close()


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing get the file's name: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _said(model: ModelFacts) -> str:
    options = (f"{k} {v}" for k, v in records.by_field(model).items() if k != "guard")
    return ", ".join(options)


def _name_in(line: bytes, path: Path) -> str:
    try:
        row = json.loads(line)
        _ = row["outcome"]
        return row["video"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{path} holds a line that is no row of predict; choose another --output"
        ) from None


# The table -------------------------------------------------------------------------

_OF_VIDEO = ("video", "outcome", "reason", "verdict", "score", "probability")
_OF_FACE = ("person", "shot", "outcome", "verdict", "score", "probability", "coverage")
_HEAD = (
    *_OF_VIDEO,
    *("copy_of", "sha256", "damaged", "page"),
    *("part_verdict", "part_score", "part_from", "part_to"),
    "face",
    *(f"face_{name}" for name in _OF_FACE),
    *("from", "to", "y0", "x0", "y1", "x1", "clips"),
)


def write_table(rows: Path, table: Path) -> None:
    """A CSV with a line for each face of each row, one for a video without."""
    with whole(table) as place, place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_HEAD)
        with rows.open("rb") as lines:
            for line in lines:
                result = records.from_json(VideoResult, json.loads(line))
                for cells in _cells(result):
                    writer.writerow([_shown(value) for value in cells])


def _cells(result: VideoResult) -> Iterator[list[Any]]:
    part = result.part
    video = [
        *(getattr(result, name) for name in _OF_VIDEO),
        *(result.copy_of, result.file and result.file.sha256),
        *(result.file and result.file.damaged, result.page),
        *((part.verdict, part.score, *part.seconds) if part else [None] * 4),
    ]
    for number, face in enumerate(result.faces):
        yield [*video, number, *_of_face(face)]
    if not result.faces:
        yield video + [None] * (len(_HEAD) - len(video))


def _of_face(face: FaceResult) -> list[Any]:
    own = [getattr(face, name) for name in _OF_FACE]
    return [*own, *face.seconds, *face.box, len(face.clips)]


def _shown(value: Any) -> Any:
    if isinstance(value, str):  # a name is somebody else's text
        return cell(value).encode(errors="replace").decode()
    return value
