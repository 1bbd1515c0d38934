"""Prepares videos by Apache Beam, on any runner whose workers see the same folders."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam

from tfds_ffpp.errors import DataError
from tfds_ffpp.workers.child import Job, Result
from tfds_ffpp.workers.pool import Worker


def _result_file(job: Job) -> Path:
    return Path(job["entry"] + ".result")


class PrepareVideo(apache_beam.DoFn):
    """Runs jobs in a process of its own, so that a crash costs one video."""

    def setup(self) -> None:
        """Once in each Beam worker."""
        self._worker = Worker()

    def process(self, element: str) -> None:
        """Prepares a video; leaves the result beside its entry."""
        job = json.loads(element)
        result = self._worker.run(job)
        if "fatal" in result:
            raise DataError(result["fatal"])
        _result_file(job).write_text(json.dumps(result))

    def teardown(self) -> None:
        """Ends the process."""
        self._worker.close()


def run_jobs(
    jobs: Sequence[Job], runner: Any, options: Any
) -> Iterator[tuple[Job, Result]]:
    """As workers.run_jobs; yields when the pipeline is done."""
    with apache_beam.Pipeline(runner, options=options) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create([json.dumps(job) for job in jobs])
            | apache_beam.Reshuffle()
            | apache_beam.ParDo(PrepareVideo())
        )
    for job in jobs:
        path = _result_file(job)
        yield job, json.loads(path.read_text())
        path.unlink()
