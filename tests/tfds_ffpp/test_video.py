"""Files as they really are: right frames, right colours, or a reason."""

import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.made_videos import index_of, picture, write_video
from tests.tfds_ffpp.test_workers import PREPARATION, job
from tfds_ffpp.errors import UnusableVideoError
from tfds_ffpp.frames import video
from tfds_ffpp.frames.decoding import container
from tfds_ffpp.frames.video import (
    MIN_PARTIAL,
    even_plan,
    read_clip,
    read_windows,
    run_plan,
)
from tfds_ffpp.workers.pool import Worker

COLOURS = Path(__file__).parents[1] / "colours"


def all_frames(path: Path) -> list[np.ndarray]:
    """Every frame, decoded the plain way."""
    with av.open(str(path)) as file:
        return [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]


def reason(path: Path, plan=None) -> str:
    with pytest.raises(UnusableVideoError) as caught:
        read_clip(path, plan or even_plan(4))
    return str(caught.value)


# Which frames ---------------------------------------------------------------------


def test_plans():
    assert list(even_plan(4)(8)) == [1, 3, 5, 7]
    assert list(even_plan(10)(3)) == [0, 1, 2]
    assert list(run_plan(4, 2)(20)) == [6, 8, 10, 12]
    assert list(run_plan(4, 3)(5)) == [0, 3]
    for total in range(1, 60):
        for plan in (even_plan(7), run_plan(7, 1), run_plan(7, 4)):
            chosen = list(plan(total))
            assert chosen[0] >= 0 and chosen[-1] < total
            assert chosen == sorted(set(chosen))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov"])
@pytest.mark.parametrize(
    "options",
    [
        {"g": "8", "bf": "3"},
        {"g": "1"},
        {"bf": "0", "g": "20"},
        {"x264-params": "open-gop=1:keyint=9:bframes=5:b-pyramid=normal"},
        {},
    ],
    ids=["short", "intra", "no-b", "open", "plain"],
)
def test_the_frames_are_those_of_a_plain_decode(tmp_path, suffix, options):
    path = write_video(tmp_path / f"v.{suffix}", 29, options={"crf": "10", **options})
    expected = all_frames(path)
    for plan in (even_plan(5), even_plan(50), run_plan(4, 3)):
        clip = read_clip(path, plan)
        assert clip.indices == list(plan(29)) and clip.source_frames == 29
        assert clip.loss is None
        for i, frame in zip(clip.indices, clip.frames(), strict=True):
            np.testing.assert_array_equal(frame, expected[i])
            assert index_of(frame) == i


def test_read_frames_by_index(tmp_path):
    path = write_video(tmp_path / "v.mp4", 12)
    assert [index_of(f) for f in video.read_frames(path, [11, 0, 5]).frames()] == [
        11,
        0,
        5,
    ]
    with pytest.raises(UnusableVideoError, match="frame 12 asked for.*has 12"):
        video.read_frames(path, [12])


@pytest.mark.parametrize("count", [1, 3])
def test_short_videos_give_what_they_have(tmp_path, count):
    """D9 A short video: it gives what it has."""
    clip = read_clip(write_video(tmp_path / "v.mp4", count), even_plan(10))
    assert clip.indices == list(range(count)) == [index_of(f) for f in clip.frames()]


def test_variable_frame_rate_goes_by_index_with_its_times(tmp_path):
    """D13 A variable frame rate: frames by index, each with its time."""
    times = [0, 4, 8, 50, 54, 58, 200, 204]
    path = write_video(tmp_path / "v.mp4", 8, times=times)
    clip = read_clip(path, even_plan(4))
    assert clip.indices == [1, 3, 5, 7]
    np.testing.assert_allclose(clip.timestamps, [0.04, 0.50, 0.58, 2.04], atol=1e-3)


def test_facts(tmp_path):
    path = write_video(tmp_path / "v.mp4", 25, size=(48, 64))
    clip = read_clip(path, even_plan(2))
    facts = clip.facts
    assert (facts.codec, facts.pixel_format) == ("h264", "yuv444p")
    assert (facts.height, facts.width, facts.fps, facts.num_frames) == (48, 64, 25, 25)
    assert facts.bit_rate == pytest.approx(8 * path.stat().st_size, rel=0.05)
    assert container.probe(path) == facts


# How they look --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(p.stem for p in COLOURS.glob("*.mp4")))
def test_colours_are_those_of_ffmpeg(name):
    """D12 Pixel formats: colours within 2 levels of ffmpeg's."""
    clip = read_clip(COLOURS / f"{name}.mp4", even_plan(3))
    expected = np.load(COLOURS / "expected.npz")[name]
    got = np.stack(clip.frames()).astype(int)
    assert np.abs(got - expected).max() <= 2


def test_the_colour_references_cover_the_formats():
    formats = {container.probe(p).pixel_format for p in COLOURS.glob("*.mp4")}
    assert formats >= {"yuv444p", "yuv420p", "yuv420p10le", "yuvj444p"}
    assert len(np.load(COLOURS / "expected.npz").files) == 10


@pytest.mark.parametrize("name", sorted(p.stem for p in COLOURS.glob("*.mp4")))
def test_a_region_is_cut_from_the_same_picture(name):
    clip = read_clip(COLOURS / f"{name}.mp4", even_plan(3))
    rng = np.random.default_rng(0)
    for _ in range(20):
        y0, y1 = sorted(rng.choice(37, 2, replace=False).tolist())
        x0, x1 = sorted(rng.choice(49, 2, replace=False).tolist())
        whole = clip.rgb(1)[y0:y1, x0:x1]
        np.testing.assert_array_equal(clip.rgb(1, (y0, x0, y1, x1)), whole)


def test_odd_sizes(tmp_path):
    """D10 Odd sizes: decoded."""
    path = write_video(tmp_path / "v.mp4", 5, size=(241, 321))
    clip = read_clip(path, even_plan(2))
    assert clip.size(0) == (241, 321) == clip.rgb(0).shape[:2]
    np.testing.assert_allclose(
        clip.rgb(1).astype(int), picture(clip.indices[1], (241, 321)), atol=90
    )


MATRICES = {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def rotate(path: Path, degrees: int) -> None:
    """Writes a rotation into the track header of an mp4."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (n << 16 for n in MATRICES[degrees])
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_files_come_upright(tmp_path, degrees):
    """D11 A rotated file: upright."""
    path = write_video(tmp_path / "v.mp4", 3)
    plain = read_clip(path, even_plan(1)).rgb(0)
    rotate(path, degrees)
    clip = read_clip(path, even_plan(1))
    # The header says how far to turn the picture clockwise.
    upright = np.rot90(plain, -degrees // 90)
    np.testing.assert_array_equal(clip.rgb(0), upright)
    assert clip.size(0) == upright.shape[:2]
    assert (clip.facts.height, clip.facts.width) == upright.shape[:2]
    np.testing.assert_array_equal(clip.rgb(0, (5, 9, 30, 33)), upright[5:30, 9:33])


def test_size_changes_midway(tmp_path):
    """D10 The size changes midway: each frame by its own size."""
    first = write_video(tmp_path / "a.ts", 10, size=(48, 64))
    second = write_video(tmp_path / "b.ts", 10, size=(96, 80))
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    clip = read_clip(both, even_plan(20))
    assert {clip.size(i) for i in range(len(clip))} == {(48, 64), (96, 80)}
    assert all(clip.rgb(i).shape[:2] == clip.size(i) for i in range(len(clip)))


# Files that are not what they say -------------------------------------------------


def test_empty_text_and_html(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"")
    assert reason(path) == "empty file"
    for text in ("hello\n" * 50, "<!DOCTYPE html><html>404 Not Found</html>"):
        path.write_text(text)
        assert reason(path).startswith("not a readable video")
    assert "No such file" in reason(tmp_path / "none.mp4")


def test_what_is_no_file(tmp_path):
    assert reason(tmp_path) == "not a regular file"
    assert reason(Path("/dev/zero")) == "not a regular file"


def test_truncated_with_the_index_at_the_end(tmp_path):
    """D5 Truncated, its index at the end: rejected."""
    path = write_video(tmp_path / "v.mp4", 20)
    data = path.read_bytes()
    assert data.index(b"mdat") < data.index(b"moov")
    path.write_bytes(data[: len(data) // 2])
    assert reason(path).startswith("not a readable video")


@pytest.fixture
def index_first(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(
        path, 40, options={"crf": "10", "g": "5"}, container={"movflags": "faststart"}
    )
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    return path


def test_half_of_the_data(index_first):
    """D5 Half of the data: rejected."""
    data = index_first.read_bytes()
    index_first.write_bytes(data[: len(data) // 2])
    assert reason(index_first).startswith("only 10 of 40 frames decode")


def test_nearly_all_of_the_data_is_used_and_marked(index_first):
    """D5 Nearly all of the data: used and marked."""
    data = index_first.read_bytes()
    index_first.write_bytes(data[: int(len(data) * 0.985)])
    clip = read_clip(index_first, even_plan(4))
    assert clip.loss and 36 <= clip.source_frames < 40
    assert [index_of(f) for f in clip.frames()] == [i % 30 for i in clip.indices]


EVEN = {"crf": "18", "g": "5", "bf": "0"}  # so that a share of bytes is one of frames
HALVES = {  # the kind of file -> how it is written, whether the header counts frames
    "v.mp4": ({"container": {"movflags": "faststart"}, "options": EVEN}, True),
    "f.mp4": ({"container": {"movflags": "cmaf+global_sidx"}, "options": EVEN}, False),
    "v.mkv": ({"options": EVEN}, False),
    "v.webm": (
        {"codec": "libvpx", "pixel_format": "yuv420p", "options": {"g": "1"}},
        False,
    ),
    "v.flv": ({"pixel_format": "yuv420p", "options": EVEN}, False),
}


def in_part(path: Path):
    """What is read where half of a video is enough."""
    whole = read_windows(
        path, lambda n, cuts: [(0, n)], even_plan(4), in_order=True, least=MIN_PARTIAL
    )
    return next(whole).clip


@pytest.mark.parametrize("kind", HALVES)
def test_a_file_that_ends_early_is_known_by_its_header(tmp_path, kind):
    how, counted = HALVES[kind]
    path = write_video(tmp_path / kind, 100, **how)
    assert read_clip(path, even_plan(4)).loss is None
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.7 * len(whole))])
    with pytest.raises(UnusableVideoError, match="frames decode; the first one miss"):
        read_clip(path, even_plan(4))  # as the build reads it
    clip = in_part(path)
    loss = clip.loss
    assert loss and 55 <= clip.source_frames == loss.decoded <= 80
    assert abs(loss.promised - 100) <= (0 if counted else 2)
    assert loss.first == pytest.approx(loss.decoded / 25, abs=0.1)
    assert ("of about " in str(loss)) == (not counted)
    path.write_bytes(whole[: int(0.4 * len(whole))])
    with pytest.raises(UnusableVideoError, match="only .* frames decode"):
        in_part(path)


def test_sound_that_goes_on_after_the_picture_is_no_loss(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = 48, 64
        sound = file.add_stream("pcm_s16le", rate=8000)
        assert isinstance(sound, av.AudioStream)
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for i in range(30):  # three seconds
            heard = av.AudioFrame.from_ndarray(
                np.zeros((1, 800), np.int16), format="s16", layout="mono"
            )
            heard.sample_rate, heard.pts = 8000, 800 * i
            file.mux(sound.encode(heard))
        file.mux(sound.encode())
    with av.open(str(path)) as file:
        assert file.duration and file.duration > 2_900_000
    clip = read_clip(path, even_plan(4))
    assert clip.source_frames == 25 and clip.loss is None


def test_a_hole_is_placed(index_first):
    """Two groups of pictures of eight cannot be decoded."""
    with av.open(str(index_first)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
    whole = bytearray(index_first.read_bytes())
    for packet in packets[10:20]:
        assert packet.pos is not None
        whole[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    index_first.write_bytes(whole)
    said = "only 30 of 40 frames decode; the first one missing is at 0.4 s"
    assert reason(index_first) == said
    assert str(in_part(index_first).loss) == said


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_crash(index_first, seed):
    """D6 Flipped bits: decoded or rejected, never a crash."""
    rng = np.random.default_rng(seed)
    data = bytearray(index_first.read_bytes())
    where = data.index(b"mdat") + 8 if seed % 2 else data.index(b"stsz") - 200
    for _ in range(30):
        i = int(rng.integers(where, min(where + 3000, len(data))))
        data[i] ^= 1 << int(rng.integers(8))
    index_first.write_bytes(data)
    try:
        clip = read_clip(index_first, even_plan(4))
    except UnusableVideoError as error:
        assert str(error)
    else:
        assert clip.rgb(0).dtype == np.uint8


def test_a_header_without_frames(index_first):
    """D8 Frames promised, none decode: rejected."""
    data = bytearray(index_first.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    index_first.write_bytes(data)
    assert reason(index_first) == "0 frames decoded"


def test_sound_only(tmp_path):
    """D7 Sound only: rejected, no video stream."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert reason(path) == "no video stream"


def test_a_cover_is_no_video(tmp_path):
    """D7 A cover picture: no video."""
    path = tmp_path / "v.mp4"
    sound = tmp_path / "sound.mp4"
    test_sound_only(tmp_path)
    path.rename(sound)
    with av.open(str(tmp_path / "c.jpg"), "w", format="image2") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        file.mux(stream.encode())
    cover = (tmp_path / "c.jpg").read_bytes()
    path.write_bytes(_with_cover(sound.read_bytes(), cover))
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1  # the fault is real
    assert reason(path) == "no video stream"


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def _with_cover(data: bytes, cover: bytes) -> bytes:
    """An mp4 with iTunes cover art put at the end of its moov box."""
    art = _box(b"data", struct.pack(">II", 13, 0) + cover)
    ilst = _box(b"ilst", _box(b"covr", art))
    hdlr = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    udta = _box(b"udta", _box(b"meta", bytes(4) + hdlr + ilst))
    start = data.index(b"moov") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    moov = data[start + 8 : start + size]
    return data[:start] + _box(b"moov", moov + udta) + data[start + size :]


def test_metadata_that_is_no_text(tmp_path):
    """D15 Metadata that is no text: read."""
    path = write_video(tmp_path / "v.mp4", 5, metadata={"title": "XXXXXXXX"})
    data = path.read_bytes()
    assert b"XXXXXXXX" in data
    path.write_bytes(data.replace(b"XXXXXXXX", b"\xff\xfe\xe9\x80\xc3\x28\xa0\xa1"))
    assert len(read_clip(path, even_plan(3))) == 3


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "-rf.mp4",
        "日本 ünï.mp4",
        "$(touch x);`y`'\"&|.mp4",
        "UPPER.MP4",
        "http:__a.mp4",
        "concat:a|b.mp4",
        "%03d.mp4",
    ],
)
def test_names_are_only_names(tmp_path, monkeypatch, name):
    """D14 Spaces and shell characters in names: only names."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    assert len(read_clip(Path(name), even_plan(3))) == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'other.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat", "list.m3u8"])
def test_lists_of_other_files_are_no_videos(tmp_path, text, name):
    write_video(tmp_path / "other.mp4", 3)
    (tmp_path / name).write_text(text)
    assert reason(tmp_path / name).startswith("not a readable video")


def test_too_many_pixels_are_refused_from_the_header(tmp_path):
    path = tmp_path / "v.mov"
    frame = av.VideoFrame(16384, 8192, "monob")
    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16384, 8192, "monob"
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert path.stat().st_size < 50_000
    assert "16384x8192 pixels" in reason(path)


# Memory ----------------------------------------------------------------------------


def write_bomb(path: Path, *, size: tuple[int, int], count: int = 30) -> Path:
    """Deep grey pictures of any size: few bytes in the file, gigabytes of it."""
    frame = av.VideoFrame(size[1], size[0], "yuv444p10le")
    for plane in frame.planes:
        plane.update(b"\x00\x02" * (plane.buffer_size // 2))
    with av.open(str(path), "w") as file:
        options = {"preset": "ultrafast", "g": "10"}
        stream = file.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = size
        stream.pix_fmt, stream.thread_count = "yuv444p10le", 1
        for i in range(count):
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def test_an_8k_file_of_deep_colours_takes_no_gigabytes(tmp_path):
    """D27 An 8K file of deep colours: it takes no gigabytes.

    Frames of 199 MB each: 3 GB if all the chosen ones were held.
    """
    path = write_bomb(tmp_path / "8k.mp4", size=(4320, 7680), count=16)
    asked = job(path, tmp_path, preparation=replace(PREPARATION, num_frames=15))
    worker = Worker()
    try:
        result = worker.run(asked)
    finally:
        worker.close()
    assert result.seconds, result
    assert result.memory * 1024 < 1e9


def test_large_pictures_have_few_threads(tmp_path):
    """Each of them holds one."""
    small = write_video(tmp_path / "a.mp4", 3, pixel_format="yuv420p")
    large = write_bomb(tmp_path / "8k.mp4", size=(4320, 7680), count=1)
    for path, expected in ((small, 16), (large, 1)):
        with container.open_stream(path, threads=64) as (_, stream):
            assert stream.codec_context.thread_count == expected


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
def test_frames_that_are_decoded_again_are_the_same(tmp_path, monkeypatch, container):
    codec = "mpeg4" if container == "avi" else "libx264"
    options = {"g": "8"} if codec == "mpeg4" else {"g": "8", "bf": "2"}
    path = write_video(
        tmp_path / f"v.{container}",
        60,
        codec=codec,
        options=options,
        pixel_format="yuv420p",
    )

    def cut(total, cuts):
        del cuts
        return [(i * total // 4, (i + 1) * total // 4) for i in range(4)]

    def all_of(in_order):
        windows = video.read_windows(path, cut, even_plan(5), in_order=in_order)
        for window in windows:
            clip = window.clip
            # Twice, and by way of a frame before.
            yield clip.indices, clip.timestamps, clip.size(4), clip.frames()
            yield clip.rgb(2), clip.rgb(4), clip.rgb(0)[3:9]

    def whole():
        clip = read_clip(path, even_plan(11))
        return clip.frames(), clip.indices, clip.timestamps

    def same(a, b):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            np.testing.assert_equal(one, other)

    in_order = container == "avi"
    held, held_whole = list(all_of(in_order)), whole()
    monkeypatch.setattr(video, "HELD_BYTES", 3 * 48 * 64)
    same(list(all_of(in_order)), held)
    same(whole(), held_whole)


def test_a_file_that_changes_while_it_is_read_is_unusable(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "HELD_BYTES", 0)
    path = write_video(tmp_path / "v.mp4", 12)
    clip = read_clip(path, even_plan(4))
    path.write_bytes(write_video(tmp_path / "w.mp4", 12, size=(64, 64)).read_bytes())
    with pytest.raises(UnusableVideoError, match="other frames each time"):
        clip.rgb(0)


def test_packets_are_not_held(tmp_path):
    """D27 A file of large packets: they are not held.

    A file of noise, larger than what its reading may take.
    """
    rng = np.random.default_rng(0)
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25, options={"g": "1"})
        stream.height, stream.width, stream.pix_fmt = 480, 640, "bgr0"
        noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
        (packet,) = stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24"))
        step = packet.duration
        assert step is not None
        for i in range(400):
            packet.pts = packet.dts = i * step
            file.mux(packet)
    assert path.stat().st_size > 350e6
    worker = Worker()
    try:
        result = worker.run(job(path, tmp_path))
    finally:
        worker.close()
    assert result.seconds, result
    assert result.memory * 1024 < 250e6


def test_a_stream_of_an_unknown_kind_is_said(tmp_path):
    """Found by benchmarks/fuzz.py: the name of the codec in Matroska was changed."""
    path = write_video(tmp_path / "v.mkv", 12)
    content = path.read_bytes()
    assert content.count(b"V_MPEG4/ISO/AVC") == 1
    path.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/AVX"))
    assert "no decoder here knows" in reason(path)


# Raw pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("layout, named", [("yuv444p", False), ("yuv420p", True)])
def test_raw_pictures_of_an_unnamed_layout_are_refused(tmp_path, layout, named):
    """AVI has no code for 4:4:4: what is written as it is read as blue, green, red."""
    path = write_video(
        tmp_path / "v.avi", 12, codec="rawvideo", pixel_format=layout, options={}
    )
    if named:
        assert len(read_clip(path, even_plan(4))) == 4
    else:
        assert "raw pictures of a layout that the file does not name" in reason(path)
