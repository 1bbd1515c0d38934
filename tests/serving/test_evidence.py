"""What a page shows of a score: heat over the frames, and the worst moments."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fakedetect_jax import predict
from fakedetect_jax.serving import evidence
from tests.patience import LIMIT
from tests.serving.videos import reals, side_by_side

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def printed(page: Path) -> int:
    """The sheets that a browser prints a page on."""
    assert CHROMIUM
    pdf, home = page.with_suffix(".pdf"), page.with_suffix(".home")
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer")
    words = [CHROMIUM, *quiet, f"--user-data-dir={home}", f"--print-to-pdf={pdf}"]
    subprocess.run(
        [*words, page.as_uri()], check=True, capture_output=True, timeout=LIMIT
    )
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_a_page_prints_on_one_sheet(tiny_run, tmp_path):
    """With two faces, many moments and the record; on a screen it is longer."""
    video = side_by_side(reals(tiny_run)[:2], tmp_path / "two.mp4")
    command = ["--workdir", tiny_run.workdir, video, "--report", tmp_path / "pages"]
    assert predict.main([str(word) for word in command]) == 0
    page = next((tmp_path / "pages").glob("two*.html"))
    text = page.read_text()
    assert "Face 2" in text and "SHA-256" in text
    assert printed(page) == 1
    as_shown = tmp_path / "shown.html"
    as_shown.write_text(text.replace("@media print", "@media speech"))
    assert printed(as_shown) > 1


def test_an_overlay_marks_the_hot_corner_and_leaves_the_rest():
    image = np.full((32, 32, 3), 60, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1.0
    shown = evidence.overlay(image, heat)
    assert (shown[16:, 16:] == 60).all()
    assert np.abs(shown[1, 1].astype(int) - 60).max() > 60


def test_moments_lie_apart_and_start_with_the_worst():
    clips = [
        SimpleNamespace(score=s, seconds=(t, t + 1.0))
        for t, s in ((0.0, 0.9), (0.5, 0.8), (3.0, 0.7), (0.9, 0.6))
    ]
    kept = evidence._apart(clips)  # pyright: ignore[reportArgumentType]
    assert [clip.score for clip in kept] == [0.9, 0.7, 0.6]


def test_equal_names_do_not_share_a_page(tmp_path):
    names = {evidence.page_path(f"{folder}/a.mp4", tmp_path) for folder in "xy"}
    assert len(names) == 2
