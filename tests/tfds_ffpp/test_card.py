"""The card: what tells real from fake without looking at it is said with numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.made_records import stored_video
from tfds_ffpp.card import coverage_gap, foreign_crops, rank_auc, shortcuts


def rows(real: int = 40, fake: int = 160, **changes):
    """Videos alike in all facts but those changed; a change is (real, fake)."""
    rng = np.random.default_rng(0)
    made = []
    for label, count in enumerate((real, fake)):
        for _ in range(count):
            row = stored_video(
                label=label,
                bit_rate=rng.normal(1e6, 1e5),
                fps=25.0,
                source_frames=int(rng.integers(280, 400)),
                width=640,
                height=480,
                codec="h264",
                pixel_format="yuv444p",
                num_valid=10,
            )
            made.append(replace(row, **{k: v[label] for k, v in changes.items()}))
    return made


def test_rank_auc():
    assert rank_auc([1, 2], [3, 4]) == 1
    assert rank_auc([3, 4], [1, 2]) == 0
    assert rank_auc([1, 1], [1, 1]) == 0.5
    assert rank_auc([1, 3], [2, 4]) == 0.75


def test_alike_files_give_no_warning():
    assert shortcuts(rows()) == []
    assert coverage_gap(rows()) == []


def test_few_files_give_no_warning_by_chance():
    rng = np.random.default_rng(1)
    for _ in range(50):
        few = [replace(row, bit_rate=rng.normal()) for row in rows(4, 6)]
        assert shortcuts(few) == []


def test_a_number_that_separates():
    """D24 A fact of the files that tells real from fake: warned of with numbers."""
    (said,) = shortcuts(rows(bit_rate=(181_000, 1_250_000)))
    assert said == (
        "bit_rate alone separates real from fake with an AUC of 1.00: its median is "
        "181000 in real and 1.25e+06 in fake videos."
    )


def test_a_word_that_separates():
    said = shortcuts(rows(pixel_format=("yuv444p", "yuv420p")))
    assert said == [
        "pixel_format differs by label: 0 % of the real and 100 % of the fake videos "
        "are yuv420p.",
        "pixel_format differs by label: 100 % of the real and 0 % of the fake videos "
        "are yuv444p.",
    ]


@pytest.mark.parametrize("missing", [0.02, 0.2])
def test_coverage_that_depends_on_the_label(missing):
    """D18 Coverage that depends on the label: warned of."""
    made = rows(100, 100)
    for i in range(100, 100 + round(100 * missing)):
        made[i] = replace(made[i], num_valid=0)
    said = coverage_gap(made)
    if missing < 0.05:
        assert said == []
    else:
        assert said[0].startswith(
            "No face was found in 0.0 % of the real and 20.0 % of the fake videos"
        )


def test_crops_of_others_are_said_with_their_margin():
    """By the size of the faces that were found in square pictures."""

    def said(*faces: float, **options) -> list[str]:
        """faces: sides of the faces in pictures of 200 pixels."""
        recipe = {"crop": "face", "face_finder": "dlib", "margin": 1.3, **options}
        square = {"num_valid": 4, "width": 200, "height": 200}
        rows = [
            replace(stored_video(label=0), **square, box=(0.0, 0.0, *[1.3 * side] * 2))
            for side in faces
        ]
        return foreign_crops(rows, SimpleNamespace(**recipe))

    (sentence,) = said(160, 160, 170, 140)
    assert "a face takes 80% of their side, a margin of 1.25" in sentence
    assert "reach beyond them in 75% of the videos" in sentence
    assert said(60, 80, 70) == []  # a picture around a face is no crop of it
    assert said(160, 160, crop="full") == []
