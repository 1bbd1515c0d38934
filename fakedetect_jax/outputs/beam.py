"""Scores videos by Apache Beam, on any runner whose workers see the same files.

    import apache_beam as beam
    from fakedetect_jax.outputs.beam import ScoreVideos

    with beam.Pipeline(options=options) as pipeline:
        rows = pipeline | beam.Create(paths) | ScoreVideos("EXPORTED")
        rows | beam.Map(json.dumps) | beam.io.WriteToText("rows", ".jsonl")

Needs the extra `build`. A row is that of predict, to the bit, whatever is scored beside
it; what cannot be scored has a row that says why. A bundle that fails is tried again by
the runner, so each path has one row.
"""

from collections.abc import Iterator
from typing import Any

import apache_beam  # pyright: ignore[reportMissingImports]
from apache_beam.utils import shared  # pyright: ignore[reportMissingImports]

from tfds_ffpp.files import Json


class ScoreVideos(apache_beam.PTransform):
    """Paths of video files -> a row for each, as docs/predict.md says.

    A path that comes twice has one row. Copies are not looked for: each is scored.
    """

    def __init__(self, model: str, **options: Any):
        """See `Detector.load`.

        Args:
          model: a workdir, an export or hf://ORG/NAME@REVISION that all workers see.
          options: of Detector.load; plain values, as they go to the workers.
        """
        super().__init__()
        self._model, self._options = model, {"apart": True, **options}

    def expand(self, pcoll: Any) -> Any:
        """Deals the paths out anew, so that all workers have some."""
        return (
            pcoll
            | "each path once" >> apache_beam.Distinct()
            | "deal out" >> apache_beam.Reshuffle()
            | "score" >> apache_beam.ParDo(_Score(self._model, **self._options))
        )


class _Score(apache_beam.DoFn):
    """Holds one detector for all threads of a worker."""

    def __init__(self, model: str, **options: Any):
        self._model, self._options = model, options
        self._shared = shared.Shared()

    def _load(self) -> Any:
        # Here, so that a program that only builds a pipeline does not wait for JAX.
        from fakedetect_jax.serving.detector import Detector

        return Detector.load(self._model, **self._options)

    def setup(self) -> None:
        """Once for each thread of a worker; the first one loads the model."""
        self._detector = self._shared.acquire(self._load)

    def process(self, element: str) -> Iterator[Json]:
        """The row of a video."""
        yield self._detector.score(element)
