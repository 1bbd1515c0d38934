"""Where the files of jobs lie: a folder for each, named by its id and nothing else."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue.jobs import Job, new_id

MARK = "folder"  # by which several machines know that they see the same one
INCOMING = "incoming"  # uploads that are not whole yet
JOBS = "jobs"
SAMPLES = "samples"
TEMPORARY = "tmp"  # of the worker that a server starts
PAGE, EVIDENCE, TABLE, COPY = "page.html", "evidence.json", "faces.csv", "copy.mp4"
ANNOTATED = "annotated"
SPARE = 256 << 20  # bytes that stay free on the disk when a video comes in
LEAST = 32 << 20  # bytes, below which no job is begun
ORPHAN_SECONDS = 3600.0
NUM_SAMPLES = 2  # a forgery, and an original


# What a decoder says of a video that it had no space for.
NO_SPACE = os.strerror(errno.ENOSPC)


def is_no_space(error: BaseException) -> bool:
    """Whether the disk, or this user's part of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Places:
    """The folder of a service."""

    def __init__(self, data: Path):
        """Makes what is not there. Raises ConfigError where that cannot be done."""
        self.data = data
        try:
            for name in (INCOMING, JOBS, SAMPLES, TEMPORARY):
                # For the owner alone: these are other people's videos.
                (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.mark = _mark(data / MARK)
        except OSError as error:
            raise ConfigError(
                f"--data {data} cannot be used ({error.strerror}); choose another"
            ) from error

    @property
    def own_worker(self) -> str:
        """The name of the worker that the server of this folder starts itself."""
        return f"own-{self.mark[:16]}"

    def incoming(self, id: str) -> Path:
        """Where an upload goes while it comes in."""
        return self.data / INCOMING / id

    def job(self, id: str) -> Path:
        """The folder of a job."""
        return self.data / JOBS / id

    def video(self, id: str) -> Path:
        """The video of a job: until it is deleted, or without evidence scored."""
        return self.job(id) / "video"

    def copy(self, id: str) -> Path:
        """The copy that browsers play, in a folder of its own."""
        return self.job(id) / "copy" / COPY

    def made(self, job: Job) -> Path:
        """What the holder of the claim on a job writes."""
        return self.job(job.id) / job.claim

    def annotated(self, id: str) -> Path | None:
        """The video with what was found drawn into it, where it was made."""
        found = sorted((self.job(id) / ANNOTATED).glob("video.*"))
        return found[0] if found else None

    def is_there(self) -> bool:
        """Whether this is still the folder that it was, and not an empty mount."""
        try:
            return (self.data / MARK).read_text() == self.mark
        except OSError:
            return False

    def is_full(self) -> bool:
        """Whether there is too little space to go on, as far as it can be known."""
        try:
            places = (self.data, tempfile.gettempdir())
            return any(shutil.disk_usage(place).free < LEAST for place in places)
        except OSError:
            return False

    @property
    def samples(self) -> Path:
        """Made videos to try the service with."""
        return self.data / SAMPLES

    @property
    def temporary(self) -> Path:
        """Of the server's own worker, for prepared frames."""
        return self.data / TEMPORARY

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit, and some stay free."""
        return shutil.disk_usage(self.data).free >= size + SPARE

    def accept(self, id: str) -> None:
        """Makes an upload that is whole the video of a job, still to be added."""
        folder = self.job(id)
        folder.mkdir(mode=0o700)
        self.incoming(id).replace(self.video(id))
        for place in (folder, folder.parent):  # there after a power cut too
            number = os.open(place, os.O_RDONLY)
            os.fsync(number)
            os.close(number)

    def remove(self, id: str) -> None:
        """Removes all files of a job."""
        shutil.rmtree(self.job(id), ignore_errors=True)

    def clear(self) -> None:
        """Removes what an earlier server left half done; it must have ended."""
        for name in (INCOMING, TEMPORARY):
            for path in (self.data / name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def orphans(self) -> list[str]:
        """The ids of folders that have not been touched for a while."""
        limit = time.time() - ORPHAN_SECONDS
        return [p.name for p in _entries(self.data / JOBS) if _time_of(p) < limit]


def _mark(path: Path) -> str:
    """The mark of a folder; the first who comes makes it."""
    if not path.exists():
        own = path.with_name(f".{new_id()}")
        own.write_text(new_id())
        try:
            os.link(own, path)
        except FileExistsError:
            pass  # another process was quicker
        finally:
            own.unlink()
    return path.read_text()


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was just removed
        return time.time()


def sample_paths(folder: Path) -> list[Path]:
    """The made videos that are there, or none while they are being made."""
    found = [p for p in _entries(folder) if not p.name.startswith(".")]
    return sorted(found) if len(found) == NUM_SAMPLES else []
