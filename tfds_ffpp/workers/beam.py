"""Prepares videos by Apache Beam, on any runner whose workers see the same folders."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam  # pyright: ignore[reportMissingImports]

from tfds_ffpp import records
from tfds_ffpp.errors import DataError
from tfds_ffpp.workers.jobs import EntryJob, Result, result_from_json, to_line
from tfds_ffpp.workers.pool import Worker


def _result_file(entry: str) -> Path:
    return Path(entry + ".result")


class PrepareVideo(apache_beam.DoFn):
    """Runs jobs in a process of its own, so that a crash costs one video."""

    def setup(self) -> None:
        """Once in each Beam worker."""
        self._worker = Worker()

    def process(self, element: bytes) -> None:
        """Prepares a video; leaves the result beside its entry."""
        job: EntryJob = records.from_json(EntryJob, json.loads(element))
        result = self._worker.run(job)
        if result.fatal:
            raise DataError(result.fatal)
        _result_file(job.entry).write_bytes(to_line(result))

    def teardown(self) -> None:
        """Ends the process."""
        self._worker.close()


def run_jobs(
    jobs: Sequence[EntryJob], runner: Any, options: Any
) -> Iterator[tuple[EntryJob, Result]]:
    """As workers.run_jobs; yields when the pipeline is done."""
    with apache_beam.Pipeline(runner, options=options) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create(list(map(to_line, jobs)))
            | apache_beam.Reshuffle()
            | apache_beam.ParDo(PrepareVideo())
        )
    for job in jobs:
        path = _result_file(job.entry)
        yield job, result_from_json(json.loads(path.read_text()))
        path.unlink()
