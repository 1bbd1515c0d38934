"""What goes to the process that prepares videos, and what comes back: lines of JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_ffpp import records
from tfds_ffpp.frames.found import Credentials, FileSummary, Looked, PreparedWindow
from tfds_ffpp.frames.people.faces import Faces
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.workers.annotated import Annotated, Mark
from tfds_ffpp.workers.playable import Copied


@dataclass(frozen=True)
class EntryJob:
    """A video to be stored in the file `entry`.

    faces: of its original, with their track; None to look at this video. mask: the
    video that shows where it is forged; see prepare.prepare. time_limit: seconds.
    memory_limit: bytes; None for no limit.
    """

    path: str
    entry: str
    preparation: Preparation
    faces: Faces | None
    time_limit: float
    memory_limit: int | None
    mask: str | None = None

    @property
    def place(self) -> Path:
        """The folder that its frames are written to."""
        return Path(self.entry).parent


@dataclass(frozen=True)
class WindowsJob:
    """A video of any length, whose windows are stored one by one in `folder`.

    number: of the asker, to know it by. all_faces: not the largest alone. stall_limit:
    seconds that may pass without a sign of life. find_shots: so that no window spans a
    cut. stills: pictures are prepared too. describe: so that people can be told.
    threads: that decode; time_limit is for each. credentials: its C2PA manifest is read
    too, by a fork of its own.
    """

    path: str
    folder: str
    preparation: Preparation
    window_frames: int
    all_faces: bool
    time_limit: float
    stall_limit: float
    memory_limit: int | None
    number: int = 0
    find_shots: bool = True
    stills: bool = True
    describe: bool = False
    threads: int = 1
    credentials: bool = False

    @property
    def place(self) -> Path:
        """The folder that its frames are written to."""
        return Path(self.folder)


@dataclass(frozen=True)
class CopyJob:
    """A video of which a copy for browsers is to be written to `copy`.

    copy: in a folder of its own. file_limit: bytes of the copy. The other limits are
    those of a WindowsJob.
    """

    path: str
    copy: str
    time_limit: float
    stall_limit: float
    memory_limit: int | None
    file_limit: int

    @property
    def place(self) -> Path:
        """The folder that the copy is written to."""
        return Path(self.copy).parent


@dataclass(frozen=True)
class AnnotateJob:
    """A video to be written anew with what was found, and frames of it as PNG.

    folder: gets all files, has no others. title: words over all frames; stills: the
    frames to keep as they are; threads: of the encoder; file_limit: bytes of a file.
    The other limits are those of a WindowsJob.
    """

    path: str
    folder: str
    title: str
    marks: list[Mark]
    stills: list[int]
    threads: int
    time_limit: float
    stall_limit: float
    memory_limit: int | None
    file_limit: int

    @property
    def place(self) -> Path:
        """The folder that is written to."""
        return Path(self.folder)


@dataclass(frozen=True)
class CredentialsJob:
    """A file whose C2PA manifest is to be read. Its limits are as a WindowsJob's."""

    path: str
    time_limit: float
    memory_limit: int | None


# Those that are asked for; a CredentialsJob is part of a WindowsJob.
Job = EntryJob | WindowsJob | CopyJob | AnnotateJob


def job_from_json(row: Any) -> Job:
    """The job of a line."""
    if "marks" in row:
        return records.from_json(AnnotateJob, row)
    if "copy" in row:
        return records.from_json(CopyJob, row)
    return records.from_json(WindowsJob if "folder" in row else EntryJob, row)


@dataclass(frozen=True)
class Result:
    """What comes of a job.

    With `more` it is a sign of life, perhaps with how far the search for shots is, or
    a prepared window, and others follow. The last one has what an EntryJob spent
    (seconds), what a WindowsJob found out about the file (summary), what a CopyJob or
    an AnnotateJob wrote (copied, annotated), what a CredentialsJob read, why this video
    cannot be used (reason), or why none can (fatal); memory is the most that its
    process has held, in KiB.
    """

    more: bool = False
    window: PreparedWindow | None = None
    looked: Looked | None = None
    seconds: dict[str, float] | None = None
    summary: FileSummary | None = None
    copied: Copied | None = None
    annotated: Annotated | None = None
    credentials: Credentials | None = None
    reason: str = ""
    fatal: str = ""
    memory: int = 0


def to_line(record: Job | Result) -> bytes:
    """As a line of JSON."""
    return json.dumps(records.to_json(record)).encode() + b"\n"


def result_from_json(row: Any) -> Result:
    """The result of a line. Raises ValueError where it is none."""
    try:
        Result(**row)  # refuses a field that results do not have
        return records.from_json(Result, row)
    except TypeError as error:
        raise ValueError(f"no result of a job: {error}") from None
