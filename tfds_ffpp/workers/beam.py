"""Prepares videos by Apache Beam, on any runner whose workers see the same folders."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam  # pyright: ignore[reportMissingImports]

from tfds_ffpp.errors import DataError
from tfds_ffpp.workers.jobs import (
    EntryJob,
    Result,
    job_from_json,
    result_from_json,
)
from tfds_ffpp.workers.pool import Worker


def _result_file(entry: str) -> Path:
    return Path(entry + ".result")


class PrepareVideo(apache_beam.DoFn):
    """Runs jobs in a process of its own, so that a crash costs one video."""

    def setup(self) -> None:
        """Once in each Beam worker."""
        self._worker = Worker()

    def process(self, element: str) -> None:
        """Prepares a video; leaves the result beside its entry."""
        row = json.loads(element)
        result = self._worker.run(job_from_json(row))
        if result.fatal:
            raise DataError(result.fatal)
        _result_file(row["entry"]).write_bytes(result.line())

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
            | apache_beam.Create([json.dumps(job.to_json()) for job in jobs])
            | apache_beam.Reshuffle()
            | apache_beam.ParDo(PrepareVideo())
        )
    for job in jobs:
        path = _result_file(job.entry)
        yield job, result_from_json(json.loads(path.read_text()))
        path.unlink()
