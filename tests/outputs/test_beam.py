"""Scoring by Beam: the rows of predict, by several workers with a model each."""

import importlib.util
import json
import shutil

import pytest

from fakedetect_jax import predict
from tests.made_videos import write_video
from tests.serving.videos import rows_of, write_many

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam is not installed",
)


# Beam's own code and that of its libraries, as they are with other versions.
@pytest.mark.filterwarnings("ignore")
def test_beam_gives_the_rows_of_predict(faceless, tmp_path):
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
    from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
        PipelineOptions,
    )

    from fakedetect_jax.outputs.beam import ScoreVideos

    videos = write_many(tmp_path / "videos", 8)
    videos.append(write_video(tmp_path / "videos" / "long.mp4", 100))
    broken = tmp_path / "videos" / "broken.mp4"
    broken.write_bytes(videos[0].read_bytes()[:300])
    names = [str(path) for path in (*videos, broken)]
    output = tmp_path / "rows.jsonl"
    assert (
        predict.main(["--model", str(faceless), *names, "--output", str(output)]) == 3
    )
    options = PipelineOptions(
        ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    )
    for attempt in range(2):  # and again, as after a stop
        with beam.Pipeline("DirectRunner", options=options) as pipeline:
            rows = pipeline | beam.Create([*names, names[0]])
            rows = rows | ScoreVideos(str(faceless)) | beam.Map(json.dumps)
            _ = rows | beam.io.WriteToText(str(tmp_path / f"out-{attempt}"), ".jsonl")
        found = [
            row
            for path in sorted(tmp_path.glob(f"out-{attempt}*"))
            for row in rows_of(path)
        ]
        expected = {row["video"]: row for row in rows_of(output)}
        assert len(found) == len(names)
        assert {row["video"]: row for row in found} == expected
    shutil.rmtree(tmp_path / "videos")
