"""Pictures and animations: upright, in their colours, within limits, or a reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.made_videos import index_of, picture
from tests.tfds_ffpp.test_workers import PREPARATION
from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames import images
from tfds_ffpp.frames.video import MIN_PARTIAL, even_plan
from tfds_ffpp.frames.windows import cut_shots
from tfds_ffpp.workers.jobs import Result, WindowsJob
from tfds_ffpp.workers.limits import MEMORY
from tfds_ffpp.workers.pool import run_jobs


def windows_of(path: Path, window_frames: int = 100, **options):
    def cut(total, cuts):
        return cut_shots(total, cuts, window_frames)

    options = {"least": MIN_PARTIAL, **options}
    return images.read_windows(path, cut, even_plan(5), **options)


def read(path: Path, **options):
    return list(windows_of(path, **options))


def photo() -> np.ndarray:
    """40x60, red at its upper left, green at its upper right."""
    pixels = np.full((40, 60, 3), 90, np.uint8)
    pixels[:10, :10], pixels[:10, -10:] = (250, 0, 0), (0, 250, 0)
    return pixels


KINDS = {"jpg": {"quality": 100, "subsampling": 0}, "tif": {}, "png": {}, "webp": {}}


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 7, 8])
def test_each_orientation_of_a_photograph_is_upright(tmp_path, turn):
    """As Exif has it: what is stored is the photograph turned or mirrored."""
    stored = {
        1: photo(),
        2: photo()[:, ::-1],
        3: photo()[::-1, ::-1],
        4: photo()[::-1],
        5: photo().transpose(1, 0, 2),
        6: np.rot90(photo()),
        7: np.rot90(photo(), 2).transpose(1, 0, 2),
        8: np.rot90(photo(), -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    for suffix, options in KINDS.items():
        path = tmp_path / f"a.{suffix}"
        image = Image.fromarray(np.ascontiguousarray(stored))
        image.save(path, exif=exif, **(options | {"lossless": True}))
        assert images.is_image(path) and images.is_still(path)
        (window,) = read(path)
        assert window.clip.size(0) == (40, 60)
        assert np.abs(window.clip.rgb(0).astype(int) - photo()).max() < 12
        inside = window.clip.rgb(0, (0, 50, 10, 60))
        assert np.abs(inside.astype(int) - photo()[:10, -10:]).max() < 12
        assert (window.start, window.stop, window.clip.timestamps) == (0, 1, [0.0])


def test_heic_is_read_where_its_reader_is_there(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.register_heif_opener()
    path = tmp_path / "photo.jpg"  # by its content, whatever its name
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photo())))
    turned.save(path, "HEIF", quality=100, exif=exif.tobytes())
    (window,) = read(path)
    assert np.abs(window.clip.rgb(0).astype(int) - photo()).mean() < 6
    images._register_heic.cache_clear()
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(UnusableVideoError, match="needs the package pillow-heif"):
        read(path)


def test_modes_of_colour_become_rgb(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (200, 10, 10, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(photo()).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    Image.fromarray(photo()).quantize(16).save(tmp_path / "few.png")

    def rgb(name):
        return read(tmp_path / name)[0].clip.rgb(0).astype(int)

    assert np.abs(rgb("deep.png")[..., 1] - grey // 256).max() <= 1
    assert (rgb("clear.png")[:4] == (200, 10, 10)).all()
    assert (rgb("clear.png")[4:] == 255).all()
    assert np.abs(rgb("print.jpg") - photo()).mean() < 4
    assert np.abs(rgb("few.png") - photo()).mean() < 4


def animation(path: Path, count: int, **options) -> Path:
    frames = [Image.fromarray(picture(i)) for i in range(count)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 40} | options
    frames[0].save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_video(tmp_path, suffix):
    duration = [40] * 19 + [200]
    options = {"lossless": True} if suffix == "webp" else {}
    path = animation(tmp_path / f"a.{suffix}", 20, duration=duration, **options)
    assert images.is_image(path) and not images.is_still(path)
    found = []
    for window in windows_of(path, 10, find_shots=True):
        found.append((window.start, window.stop))
        clip = window.clip
        assert [index_of(frame) for frame in clip.frames()] == clip.indices
        assert clip.timestamps == pytest.approx([i * 0.04 for i in clip.indices])
        assert index_of(clip.rgb(0)) == clip.indices[0]  # and back again
        assert clip.facts.fps == pytest.approx(20 / 0.96)
    assert found == [(0, 10), (10, 20)]


def test_shots_of_an_animation_are_found(tmp_path):
    frames = [Image.fromarray(picture(i, seed=9 * (i >= 20))) for i in range(40)]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    windows = read(tmp_path / "a.webp", find_shots=True)
    assert [(w.start, w.shot) for w in windows] == [(0, 0), (20, 1)]


def test_a_cut_animation_gives_what_decodes_or_a_reason(tmp_path):
    path = animation(tmp_path / "a.gif", 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: 4 * len(whole) // 5])
    (window,) = read(path)
    loss = window.clip.loss
    assert loss is None or loss.leaves > 0.5
    assert 10 < window.clip.source_frames < 20
    path.write_bytes(whole[:20])
    with pytest.raises(UnusableVideoError):
        read(path)


# Hostile files, where they are decoded ---------------------------------------------


def bomb() -> bytes:
    """A small PNG whose header says 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small PNG with a text of 100 MB, which is packed into a few."""
    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "PNG")
    packed = zlib.compress(bytes(100 << 20), 1)
    body = b"Comment\0\0" + packed
    text = struct.pack(">I", len(body)) + b"zTXt" + body
    text += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = out.getvalue()
    return plain[:33] + text + plain[33:]


def test_bad_pictures_are_refused_in_little_time_and_memory(tmp_path):
    """P14 A picture that is a bomb, cut, of several pages: a reason, under 300 MB."""
    out = io.BytesIO()
    Image.fromarray(photo()).save(out, "JPEG")
    pages = [Image.fromarray(photo())] * 3
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    files = {
        "bomb.png": bomb(),
        "cut.jpg": out.getvalue()[: len(out.getvalue()) // 2],
        "none.png": b"\x89PNG\r\n\x1a\nnothing",
        "text.png": text_bomb(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    jobs = []
    for name in (*files, "pages.tif"):
        place = tmp_path / f"{name}-out"
        place.mkdir()
        limits = {"time_limit": 20.0, "stall_limit": 20.0, "memory_limit": MEMORY}
        jobs.append(
            WindowsJob(
                path=str(tmp_path / name),
                folder=str(place),
                preparation=PREPARATION,
                window_frames=10,
                all_faces=True,
                **limits,
            )
        )
    found: dict[str, Result] = {}
    for job, result in run_jobs(jobs, 1):
        if not result.more:
            found[Path(job.path).name] = result
    assert "3600000000 pixels" in found["bomb.png"].reason
    assert "does not decode" in found["cut.jpg"].reason
    assert "not a readable picture" in found["none.png"].reason
    assert found["text.png"].reason
    assert "3 pages" in found["pages.tif"].reason
    assert max(result.memory for result in found.values()) < 300 << 10  # KiB
