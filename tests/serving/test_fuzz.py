"""Some changed files through the command; benchmarks/fuzz.py sends 300."""

from benchmarks import fuzz
from fakedetect_jax import predict
from tests.made_videos import picture
from tests.serving.videos import rows_of


def test_changed_files_have_named_outcomes(faceless, tmp_path):
    """P15 Files changed at random: each has a named outcome."""
    (tmp_path / "in").mkdir()
    pictures = [picture(i, (96, 128)) for i in range(24)]
    paths = fuzz.write_mutants(tmp_path / "in", pictures, count=13, seed=1)
    output = tmp_path / "rows.jsonl"
    words = ["--model", str(faceless), str(tmp_path / "in"), "--output", str(output)]
    assert predict.main(words) in (0, 3)
    rows = rows_of(output)
    assert [row["video"] for row in rows] == [str(path) for path in paths]
    assert set(fuzz.ends(rows)) <= set(fuzz.OUTCOMES)
    assert len(fuzz.ends(rows)) > 1
