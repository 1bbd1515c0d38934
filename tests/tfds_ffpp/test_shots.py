"""Where the shots of a video begin, and that no window spans a cut."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.mutants_video import mutate
from tests.made_videos import picture, write_video
from tests.tfds_ffpp.test_workers import PREPARATION
from tfds_ffpp.errors import IrregularVideoError, UnusableVideoError
from tfds_ffpp.frames import video
from tfds_ffpp.frames.decoding import shots
from tfds_ffpp.frames.decoding.groups import decode_groups
from tfds_ffpp.frames.found import FileSummary
from tfds_ffpp.frames.video import find_cuts, read_clip
from tfds_ffpp.frames.windows import cut_evenly, cut_shots, prepare_windows

SIZE = (48, 64)
LONG = [30, 30, 41, 30]  # frames of the shots of a film


def film_of(lengths: Sequence[int]) -> list[np.ndarray]:
    """Shots of so many frames, each of another moving picture."""
    return [
        picture(i, SIZE, seed=10 + shot)
        for shot, length in enumerate(lengths)
        for i in range(length)
    ]


def starts(lengths: Sequence[int]) -> list[int]:
    return np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {"pixel_format": "yuv420p", "options": {"bf": "3", "g": "250"}}),
        ("a.mp4", {"pixel_format": "yuv444p10le"}),
        ("a.mkv", {"codec": "ffv1", "options": {}, "pixel_format": "bgr0"}),
        ("a.avi", {"codec": "mpeg4", "options": {}, "pixel_format": "yuv420p"}),
    ],
    ids=["h264", "10 bit", "rgb", "avi"],
)
def test_hard_cuts_are_found_to_the_frame(tmp_path, name, how):
    path = write_video(tmp_path / name, film_of(LONG), **how)
    assert find_cuts(path) == starts(LONG)


def brighter(frame: np.ndarray, gain: float, more: float) -> np.ndarray:
    return np.clip(frame * gain + more, 0, 255).astype(np.uint8)


def flashed(film):
    return [brighter(f, 1, 120) if 40 <= i < 43 else f for i, f in enumerate(film)]


def switched(film):
    return [brighter(f, 0.5, 0) if i >= 40 else f for i, f in enumerate(film)]


@pytest.mark.parametrize("change", [flashed, switched])
def test_what_happens_in_a_shot_is_no_cut(tmp_path, change):
    film = change([cv2.GaussianBlur(f, (0, 0), 2) for f in film_of([90])])
    assert find_cuts(write_video(tmp_path / "a.mp4", film)) == []


def test_dissolves_and_fades_are_cut_in_their_middle(tmp_path):
    still = film_of([1, 1, 1])
    film = [still[0]] * 60
    for i in range(16):
        film.append(cv2.addWeighted(still[0], 1 - i / 16, still[1], i / 16, 0))
    film += [still[1]] * 60
    film += [brighter(still[1], 1 - i / 12, 0) for i in range(12)]
    film += [brighter(still[2], i / 12, 0) for i in range(12)]
    film += [still[2]] * 60
    dissolve, fade = find_cuts(write_video(tmp_path / "a.mp4", film))
    assert 60 <= dissolve < 76 and 136 <= fade < 160


def panned(seed: int, speeds: Sequence[int]) -> list[np.ndarray]:
    """Small pictures of a camera that moves over a landscape."""
    rng = np.random.default_rng(seed)
    size = (shots.HEIGHT, shots.WIDTH + sum(speeds))
    land = cv2.GaussianBlur(rng.integers(0, 255, size, np.uint8), (0, 0), 3)
    land = cv2.normalize(land, np.zeros_like(land), 0, 255, cv2.NORM_MINMAX)
    return [land[:, at : at + shots.WIDTH].copy() for at in np.cumsum(speeds)]


def cuts_of(pictures: Sequence[np.ndarray]) -> list[int]:
    finder = shots.ShotFinder()
    for one in pictures:
        finder.add(one)
    return finder.finish()


def test_a_fast_camera_is_no_cut_and_hides_none():
    still, slow, fast = [0] * 40, [1] * 40, [4] * 40
    jerky = [4 - 2 * (i % 2) for i in range(40)]
    for speeds in (still + fast + still, slow + fast + slow, jerky):
        assert cuts_of(panned(0, speeds)) == []
    for first, second in ((still, fast), (fast, still), (fast, jerky)):
        assert cuts_of(panned(0, first) + panned(1, second)) == [40]


def test_little_is_kept_of_a_long_film():
    finder = shots.ShotFinder()
    still = np.zeros((shots.HEIGHT, shots.WIDTH), np.uint8)
    for i in range(5000):
        finder.add(still + np.uint8(i % 2))
    assert len(finder._kept) < 100 and finder.finish() == []


def test_windows_are_cut_in_shots():
    assert cut_shots(100, [], 40) == cut_evenly(100, 40)
    assert cut_shots(100, [30], 40) == [(0, 30), (30, 65), (65, 100)]


def prepared(path: Path, folder: Path, *, find_shots: bool = True):
    folder.mkdir()
    found = prepare_windows(
        path,
        replace(PREPARATION, face_finder="none"),
        window_frames=40,
        all_faces=True,
        folder=folder,
        find_shots=find_shots,
    )
    return [window for window in found if not isinstance(window, FileSummary)]


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_no_window_spans_a_cut(tmp_path, name):
    how = {"codec": "mpeg4", "options": {}} if name == "a.avi" else {}
    path = write_video(tmp_path / name, film_of(LONG), pixel_format="yuv420p", **how)
    windows = prepared(path, tmp_path / "shots")
    assert [(w.start, w.stop, w.shot) for w in windows] == [
        *((0, 30, 0), (30, 60, 1), (60, 80, 2), (80, 101, 2), (101, 131, 3)),
    ]
    assert all(
        w.start <= min(w.frame_index) <= max(w.frame_index) < w.stop for w in windows
    )
    whole = prepared(path, tmp_path / "whole", find_shots=False)
    assert [(w.start, w.stop) for w in whole] == cut_evenly(131, 40)
    assert {w.shot for w in whole} == {0}


@pytest.mark.parametrize("held", [256 << 20, 0])
def test_a_small_video_is_decoded_once_and_gives_the_same_frames(
    tmp_path, monkeypatch, held
):
    frames = [picture(i, seed=9 * (i >= 20)) for i in range(40)]
    path = write_video(tmp_path / "v.mp4", frames, options={"bf": "3", "g": "12"})
    expected = read_clip(path, lambda total: range(total)).frames()
    decoded = []

    def counted(file, wanted, alive, **how):
        decoded.append(len(wanted))
        return decode_groups(file, wanted, alive, **how)

    monkeypatch.setattr(video, "HELD_BYTES", held)
    monkeypatch.setattr(video, "decode_groups", counted)
    windows = video.read_windows(
        path, lambda total, cuts: cut_shots(total, cuts, 8), range, find_shots=True
    )
    seen = []
    for window in windows:
        for i, number in enumerate(window.clip.indices):
            assert (window.clip.rgb(i) == expected[number]).all()
            seen.append(number)
    assert seen == list(range(40)) and bool(decoded) == (not held)


def decoded(path: Path, threads: int) -> object:
    """All that comes of a file by so many threads: windows and pixels, or why not."""
    found = []
    for in_order in (False, True):
        try:
            windows = video.read_windows(
                path,
                lambda total, cuts: cut_shots(total, cuts, 20),
                video.even_plan(6),
                find_shots=True,
                least=video.MIN_PARTIAL,
                in_order=in_order,
                threads=threads,
            )
            for window in windows:
                pixels = [window.clip.rgb(i).tobytes() for i in range(len(window.clip))]
                place = window.start, window.stop, window.shot
                found.append((place, window.clip.timestamps, window.clip.loss, pixels))
            return found
        except IrregularVideoError:
            found.clear()
        except UnusableVideoError as error:
            return str(error)
    return found


@pytest.mark.parametrize("held", [256 << 20, 0], ids=["held", "decoded again"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
def test_threads_change_nothing(tmp_path, monkeypatch, codec, held):
    """P9 Several threads, of damaged files too: the same windows to the bit."""
    monkeypatch.setattr(video, "HELD_BYTES", held)
    options = {"bf": "3", "g": "12"} if codec == "libx264" else {}
    suffix = "avi" if codec == "mpeg4" else "mkv"
    path = tmp_path / f"0.{suffix}"
    how = {"codec": codec, "options": options, "pixel_format": "yuv420p"}
    write_video(path, film_of([30, 30]), **how)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    paths = [path]
    for i in range(1, 9):
        paths.append(tmp_path / f"{i}.{suffix}")
        paths[-1].write_bytes(mutate(content, rng))
    ends = [decoded(path, 1) for path in paths]
    assert isinstance(ends[0], list) and len(ends[0]) == 4
    for path, end in zip(paths, ends, strict=True):
        assert decoded(path, 4) == end
