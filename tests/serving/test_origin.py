"""What a file says of itself stands beside its score: in row, page and record."""

import re

import pytest

from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.serving import evidence
from tests.made_videos import write_video
from tfds_ffpp import records

pytest.importorskip("c2pa")
from tests.signed import sign  # noqa: E402


def test_it_stands_beside_the_score_and_moves_it_not(central, tmp_path):
    plain = write_video(
        tmp_path / "a.mp4", 12, pixel_format="yuv420p", metadata={"artist": "<i>me</i>"}
    )
    signed = sign(plain, tmp_path / "b.mp4", title="<b>bold</b>")
    forged = tmp_path / "c.mp4"
    content = signed.read_bytes()
    forged.write_bytes(content.replace(b"made_camera", b"fine_camera"))
    pages = []

    def inspect(result, video):
        pages.append(evidence.write_page(central.network, result, video, tmp_path))
        return result

    results = list(central.results([plain, signed, forged], inspect=inspect))
    assert len({result.score for result in results}) == 1
    rows = [result.to_json() for result in results]
    states = [row["file"]["credentials"]["state"] for row in rows]
    assert states == ["none", "valid", "invalid"]
    assert all(row["file"]["container"]["encoder"] for row in rows)
    for result, row in zip(results, rows, strict=True):
        assert records.from_json(VideoResult, row) == result
    texts = [page.read_text() for page in pages]
    sheets = [
        re.sub(r'<section class="screen.*?</section>', "", t, flags=re.S) for t in texts
    ]
    expected = ["none", "nothing was changed since it was signed", "it does not hold"]
    for text, sheet, words in zip(texts, sheets, expected, strict=True):
        assert "Facts beside the score, not a verdict" in text
        assert "C2PA manifest</th>" in sheet and words in sheet and "Lavf" in sheet
        assert "&lt;i&gt;me&lt;/i&gt;" in text and "<i>me" not in text
    assert "A made signer" in sheets[1] and "no list here vouches" in sheets[1]
    assert "&lt;b&gt;bold" in sheets[1] and "<b>bold" not in texts[1]
    assert "claimSignature.mismatch" in sheets[2]
