"""Any video in, an outcome out: the faults P1 to P10, each by a real file."""

import gc
import http.server
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import jax
import numpy as np
import psutil
import pytest
import safetensors.numpy

from fakedetect_jax import (
    bundle,
    data,
    description,
    evaluate,
    predict,
    sources,
    steps,
)
from fakedetect_jax import detector as detector_module
from fakedetect_jax.detector import Detector, Limits
from fakedetect_jax.errors import CheckpointError, ConfigError
from tests.made_videos import picture, write_video
from tfds_ffpp import workers
from tfds_ffpp.naming import VIDEO_SUFFIXES
from tfds_ffpp.video import read_clip


@pytest.fixture(scope="module")
def detector(tiny_run) -> Detector:
    """The tiny run's model on one device."""
    return Detector.load(tiny_run.workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def faceless(tiny_run, tmp_path_factory) -> Path:
    """The same model exported, made to take the centre of the picture for a face."""
    folder = tmp_path_factory.mktemp("faceless")
    bundle.write_bundle(bundle.load(tiny_run.workdir), folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["preprocessing"]["frames"]["detector"] = "none"
    facts["preprocessing"]["window_frames"] = 40
    (folder / "model.json").write_text(json.dumps(description.sealed(facts)))
    return folder


@pytest.fixture(scope="module")
def central(faceless) -> Detector:
    return Detector.load(faceless, devices=jax.devices()[:1])


def reals(tiny_run) -> list[Path]:
    return sorted(tiny_run.videos.glob("original_sequences/*/*/videos/*.mp4"))


def error_of(capsys, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of the command."""
    code = predict.main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# P1, P2, P3: models --------------------------------------------------------------


class TestModels:
    def test_a_workdir_without_a_checkpoint_says_what_is_there(
        self, tiny_run, tmp_path, capsys
    ):
        shutil.copy(tiny_run.workdir / "config.json", tmp_path)
        code, said = error_of(capsys, "--workdir", tmp_path, reals(tiny_run)[0])
        assert code == 4
        assert str(tmp_path / "checkpoints") in said and "config.json" in said
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]

    @pytest.mark.parametrize("kind", ["pth", "h5", "random", "zip", "missing"])
    def test_foreign_weights_are_not_opened(self, tiny_run, tmp_path, capsys, kind):
        marker, path = tmp_path / "marker", tmp_path / f"weights.{kind}"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        if kind == "pth":
            path.write_bytes(pickle.dumps(Payload()))
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", pickle.dumps(Payload()))
        elif kind == "h5":
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
        elif kind == "random":
            path.write_bytes(os.urandom(1000))
        code, said = error_of(capsys, "--model", path, reals(tiny_run)[0])
        assert code == 4 and said.count("\n") == 1
        assert "not a model of this project" in said or kind == "missing"
        assert not marker.exists()

    def test_a_pickle_in_place_of_the_weights_does_not_run(self, faceless, tmp_path):
        marker = tmp_path / "marker"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        folder = shutil.copytree(faceless, tmp_path / "model")
        (folder / "model.safetensors").write_bytes(pickle.dumps(Payload()))
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            bundle.load(folder)
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("header", "not a safetensors file"),
            ("truncated", "not a safetensors file"),
            ("nan", "not finite"),
            ("shape", "has shape"),
            ("missing", "missing or unexpected"),
            ("dtype", "F64"),
            ("value", "is not what was exported"),
        ],
    )
    def test_bad_weights_are_rejected(self, faceless, tmp_path, fault, message):
        folder = shutil.copytree(faceless, tmp_path / "model")
        path = folder / "model.safetensors"
        weights = safetensors.numpy.load_file(path)
        name = "params.head.bias"
        if fault == "header":  # a header of 2^60 bytes
            path.write_bytes((2**60).to_bytes(8, "little") + b"{}" * 50)
        elif fault == "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        else:
            changed = {
                "nan": np.full_like(weights[name], np.nan),
                "shape": np.zeros(7, np.float32),
                "dtype": weights[name].astype(np.float64),
                "value": weights[name] + 1,
            }
            weights[name] = changed.get(fault, weights[name])
            if fault == "missing":
                del weights[name]
            safetensors.numpy.save_file(weights, path)
        with pytest.raises(CheckpointError, match=message):
            bundle.load(folder)

    def test_averaged_weights_are_the_ones_used(self, tiny_run, tmp_path):
        """And an optimiser whose config fields are not there does not matter."""
        from fakedetect_jax import parallel
        from fakedetect_jax.checkpoint import Checkpoints

        config = tiny_run.config.copy_and_resolve_references()
        with config.unlocked():
            config.optimizer.ema_decay = 0.9
        recipe = steps.make_recipe(config, num_steps=1)
        state = steps.create_train_state(recipe, evaluate.clip_shape(config))
        averaged, statistics = jax.tree.map(
            lambda x: x + 1, (state.params, state.batch_stats)
        )
        fields = config.to_dict()
        del fields["optimizer"]
        facts = {"config": fields, "versions": {}, "devices": ""}
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        mesh = parallel.make_mesh(jax.devices()[:1])
        state = state.replace(ema_params=averaged, ema_batch_stats=statistics)
        state = parallel.put_replicated(state, mesh)
        checkpoints.save(1, state, facts)
        checkpoints.close()
        found = bundle.load(tmp_path).variables
        jax.tree.map(np.testing.assert_array_equal, found["params"], averaged)
        jax.tree.map(np.testing.assert_array_equal, found["batch_stats"], statistics)

    def test_a_workdir_is_only_read(self, tiny_run):
        def state():
            return sorted(
                (str(p), p.stat().st_mtime_ns) for p in tiny_run.workdir.rglob("*")
            )

        leftover = tiny_run.workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
        leftover.mkdir()  # as of a run that is saving there at this moment
        try:
            before = state()
            bundle.load(tiny_run.workdir)
            assert state() == before
        finally:
            leftover.rmdir()


# P4: one bad file among many -----------------------------------------------------


def test_one_bad_file_among_a_hundred(faceless, tmp_path, capsys):
    folder = tmp_path / "videos"
    first = write_video(folder / "000.mp4", 8)
    for i in range(1, 99):
        shutil.copy(first, folder / f"{i:03d}.mp4")
    (folder / "050-bad.mp4").write_bytes(first.read_bytes()[:300])
    output = tmp_path / "out.jsonl"
    code = predict.main(
        ["--model", str(faceless), str(folder), "--output", str(output)]
    )
    rows = rows_of(output)
    assert code == 3
    assert [Path(r["video"]).name for r in rows] == sorted(os.listdir(folder))
    assert [r["outcome"] for r in rows].count("scored") == 99
    (bad,) = [r for r in rows if r["outcome"] != "scored"]
    assert bad["outcome"] == "unreadable" and bad["reason"]
    assert bad["score"] is bad["probability"] is bad["verdict"] is None
    assert len({r["score"] for r in rows if r is not bad}) == 1
    table = capsys.readouterr().out
    assert "050-bad.mp4: " in table
    assert table.startswith("warning: the model was trained on made videos")
    assert re.search(r"\n99 (not )?called fake, 1 unreadable\n\Z", table)
    assert table.count("\n") == 103


def test_a_decoder_killed_for_memory_costs_one_video(faceless, tmp_path, capsys):
    first = write_video(tmp_path / "videos" / "000.mp4", 8)
    for i in range(1, 200):
        os.link(first, first.with_name(f"{i:03d}.mp4"))
    output, killed = tmp_path / "out.jsonl", []

    def kill():  # as the kernel does when the machine's memory runs out
        while not Path(f"{output}.partial").exists() or len(killed) < 1:
            for child in psutil.Process().children():
                if "tfds_ffpp.worker" in child.cmdline():
                    time.sleep(0.5)
                    child.kill()
                    killed.append(child)
                    return

    thread = threading.Thread(target=kill)
    thread.start()
    words = ["--model", str(faceless), str(first.parent), "--output", str(output)]
    code = predict.main([*words, "--processes=1"])
    thread.join(timeout=20)
    assert code == 3 and len(killed) == 1
    found = rows_of(output)
    (bad,) = [row for row in found if row["outcome"] != "scored"]
    assert len(found) == 200 and bad["outcome"] == "unreadable"
    assert "as the system does when its memory runs out" in bad["reason"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["n" * 256, "/".join(["d" * 200] * 25)])
def test_paths_that_are_too_long_are_said(faceless, tmp_path, capsys, name):
    video = str(write_video(tmp_path / ("v" * 251 + ".mp4"), 8))
    long = str(tmp_path / name)
    output = tmp_path / "out.jsonl"
    words = ["--model", str(faceless), "--output", str(output)]
    assert predict.main([*words, video, long]) == 3
    outcomes = [(row["outcome"], row["reason"]) for row in rows_of(output)]
    assert outcomes[0][0] == "scored"
    assert outcomes[1] == ("refused", "file name too long; check the path")
    capsys.readouterr()
    for option in ("--model", "--workdir", "--output", "--report"):
        words = ["--model", str(faceless)] * (option in ("--output", "--report"))
        assert predict.main([*words, option, long, video]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {option} is ") and said.count("\n") == 1
        assert "no usable path (File name too long)" in said


# P5: length ----------------------------------------------------------------------


def write_long(path: Path, *, repeats: int, frames: int = 500) -> Path:
    """A video of so many times the same frames: encoded once, then copied."""
    short = write_video(
        path.with_name("short.mp4"),
        frames,
        pixel_format="yuv420p",
        options={"preset": "ultrafast", "bf": "0", "g": "50"},
    )
    with av.open(str(short)) as source, av.open(str(path), "w") as file:
        packets = [p for p in source.demux(video=0) if p.size]
        stream = file.add_stream_from_template(source.streams.video[0])
        times = [packet.pts or 0 for packet in packets]
        length = (times[1] - times[0]) * frames
        for i in range(repeats):
            for packet, at in zip(packets, times, strict=True):
                packet.stream = stream
                packet.pts = packet.dts = at + i * length
                file.mux(packet)
    return path


def test_two_hundred_thousand_frames_in_constant_memory(central, tmp_path):
    memory = {}
    for repeats in (4, 400):
        path = write_long(tmp_path / f"{repeats}.mp4", repeats=repeats)
        video = tmp_path / str(repeats)
        video.mkdir()
        job = {
            "path": str(path),
            "folder": str(video),
            "recipe": central.model.recipe,
            "window_frames": 2000,
            "all_faces": True,
            "time_limit": 300.0,
            "stall_limit": 60.0,
            "memory_limit": 2 << 30,
        }
        told = []
        worker = workers.Worker()
        try:
            last = worker.run(job, told.append)
        finally:
            worker.close()
        windows = [t["window"] for t in told if "window" in t]
        assert last["summary"]["frames"] == 500 * repeats
        assert len(windows) == repeats // 4
        assert windows[-1]["stop"] == 500 * repeats
        memory[repeats] = last["memory"] * 1024
    assert memory[400] - memory[4] < 60e6


def test_a_long_video_is_cut_into_windows_and_shows_progress(central, tmp_path):
    path = write_video(tmp_path / "long.mp4", 100)
    seen = []
    (result,) = central.score_all([path], on_window=lambda _, w: seen.append(w["stop"]))
    assert result["windows"] == 3 and seen == [33, 66, 100]
    assert result["frames_looked_at"] == 24
    spans = [clip["frames"] for clip in result["faces"][0]["clips"]]
    assert spans == sorted(spans) and spans[-1][1] > 90


# P6: bombs -----------------------------------------------------------------------


def test_a_bomb_is_refused_from_its_header(central, tmp_path):
    path = tmp_path / "bomb.mov"
    frame = av.VideoFrame(16384, 8192, "monob")
    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16384, 8192, "monob"
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    del frame
    worker = workers.Worker()
    video = tmp_path / "video"
    video.mkdir()
    job = {**central.job(_pending(path, video)), "path": str(path)}
    try:
        worker.run({**job, "path": str(tmp_path / "none.mp4")})  # it is started now
        start = time.monotonic()
        result = worker.run(job)
    finally:
        worker.close()
    assert time.monotonic() - start < 1
    assert "16384x8192 pixels" in result["reason"]
    assert result["memory"] * 1024 < 300e6


def _pending(path: Path, folder: Path):
    from fakedetect_jax.detector import Pending

    return Pending(str(path), folder)


def test_decoding_has_limits_of_time_and_memory(faceless, tmp_path):
    path = write_video(
        tmp_path / "a.mp4", 12, size=(1080, 1920), options={"preset": "ultrafast"}
    )
    for limits, reason in (
        (Limits(seconds=1e-3), "took longer"),
        (Limits(memory=128 << 20), "memory|died"),
    ):
        detector = Detector.load(faceless, limits=limits, devices=jax.devices()[:1])
        result = detector.score(path)
        assert result["outcome"] == "unreadable"
        assert any(word in result["reason"] for word in reason.split("|"))


# P7: what is no video ------------------------------------------------------------


class Counting(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)  # pyright: ignore
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format, *args):  # noqa: A002
        return


@pytest.fixture
def web():
    """A loopback server that notes each request."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Counting)
    server.requests = []  # pyright: ignore
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses_devices_and_playlists_are_refused(faceless, web, tmp_path, capsys):
    url = f"http://127.0.0.1:{web.server_port}/a.mp4"
    secret = write_video(tmp_path / "elsewhere" / "secret.mp4", 8)
    texts = {
        "playlist.mp4": f"#EXTM3U\n#EXTINF:1,\n{url}\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret}'\n",
        "plain.mp4": f"file '{secret}'\nfile '{url}'\n",
        "concat.txt": f"ffconcat version 1.0\nfile '{secret}'\n",
        "dash.mp4": f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>',
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "list.txt": f"{url}?list\nconcat:other.mp4\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "pipe.mp4")
    arguments = [url, f"concat:{secret}", f"file:{secret}", "-", "/dev/zero"]
    arguments += [str(tmp_path / name) for name in (*texts, "pipe.mp4")]
    output = tmp_path / "out.jsonl"
    os.utime(secret, (1, 1))  # relatime: the next read would change the access time
    code = predict.main(["--model", str(faceless), *arguments, "--output", str(output)])
    rows = rows_of(output)
    assert code == 3
    assert len(rows) == len(arguments) + 1, rows  # the list names two
    assert {r["outcome"] for r in rows} == {"refused", "unreadable"}
    assert all(r["reason"] for r in rows)
    assert web.requests == []
    assert secret.stat().st_atime == 1


def test_a_folder_does_not_lead_out_of_itself(tmp_path):
    outside = write_video(tmp_path / "outside.mp4", 2)
    folder = tmp_path / "folder"
    inside = write_video(folder / "deep" / "-inside é.MP4", 2)
    (folder / "link.mp4").symlink_to(outside)
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "notes.md").write_text("no video")
    found = {Path(s.name).name: s.refusal for s in sources.find([str(folder)])}
    assert found == {inside.name: "", "link.mp4": found["link.mp4"]}
    assert "a link out of" in found["link.mp4"]


def test_what_a_folder_holds_besides_is_counted_and_named(faceless, tmp_path, capsys):
    folder = tmp_path / "folder"
    write_video(folder / "a.mp4", 8)
    for name in (
        "notes.txt",
        "b.TXT",
        "deep/README",
        "c\x1b[31m.bin",
        "d.bin",
        "e.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "elsewhere").symlink_to(tmp_path)
    code, err = error_of(capsys, "--model", faceless, folder, folder)
    assert code == 0
    assert err == (
        f"7 files skipped in {folder} (3 .bin, 2 .txt, 1 a link to a folder, 1 without "
        "a suffix): elsewhere, b.TXT, c?[31m.bin, d.bin, e.bin and 2 more\n"
    )
    write_video(folder / "deep" / "only.mp4", 8)
    assert error_of(capsys, "--model", faceless, folder / "a.mp4") == (0, "")


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ConfigError, match=r"holds no video: .*1 files skipped .*docx"):
        sources.find([str(tmp_path)])


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_kind_of_video_that_opens_by_name_is_found_in_a_folder(tmp_path, suffix):
    """The name alone says the container, as in the videos that people have."""
    codecs = {".webm": "libvpx", ".vob": "mpeg2video", ".wmv": "wmv2", ".asf": "wmv2"}
    codecs |= dict.fromkeys((".mpg", ".mpeg"), "mpeg2video")
    codecs |= dict.fromkeys((".3gp", ".3g2"), "mpeg4")
    path = tmp_path / "plain" / f"a{suffix.upper()}"
    path.parent.mkdir()
    names = {".qt": "mov", ".f4v": "mp4", ".m4v": "mp4", ".mj2": "mp4", ".vob": "vob"}
    kind = names.get(suffix, suffix[1:])
    write_video(
        tmp_path / f"a.{kind}",
        20,
        codec=codecs.get(suffix, "libx264"),
        pixel_format="yuv420p",
        options={},
        size=(96, 128),
    ).rename(path)
    (found,) = sources.find([str(path.parent)])
    assert not found.refusal and not sources.skipped_lines([str(path.parent)])
    clip = read_clip(path, lambda total: [0, total // 2])
    assert clip.rgb(0).shape == (96, 128, 3) and clip.source_frames >= 18


def test_a_list_is_relative_to_itself_and_names_each_video_once(tmp_path):
    write_video(tmp_path / "a b.mp4", 2)
    (tmp_path / "list.txt").write_text("a b.mp4\n\n./a b.mp4\nmissing.mp4\n")
    found = sources.find([str(tmp_path / "list.txt")])
    assert [Path(s.name).name for s in found] == ["a b.mp4", "missing.mp4"]
    assert "no such file" in found[1].refusal


def test_a_folder_without_videos_is_a_usage_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no video"):
        sources.find([str(tmp_path)])


@pytest.mark.parametrize(
    "arguments",
    [[], ["a.mp4"], ["--workdir", "w", "--model", "m", "a.mp4"], ["--wrong", "a.mp4"]],
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        predict.main(arguments)
    assert exit_.value.code == 2


def test_help_and_refusals_do_not_wait_for_jax():
    code = (
        "import sys; from fakedetect_jax import predict\n"
        "assert predict.main(['--model', '.', '-']) == 3\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# P8: outcomes --------------------------------------------------------------------


def side_by_side(paths, out: Path) -> Path:
    clips = [read_clip(p, lambda total: range(12)).frames() for p in paths]
    return write_video(
        out, [np.concatenate(f, axis=1) for f in zip(*clips, strict=True)]
    )


class TestOutcomes:
    def test_no_face(self, detector, tmp_path):
        path = write_video(tmp_path / "a.mp4", 12, size=(96, 128))
        self.unscored(detector.score(path), "no face")

    @pytest.mark.parametrize(("least", "starts"), [(0.5, {0, 1}), (0.9, set())])
    def test_a_face_in_few_frames(self, tiny_run, tmp_path, least, starts):
        bundle.write_bundle(bundle.load(tiny_run.workdir), tmp_path)
        facts = json.loads((tmp_path / "model.json").read_text())
        facts["config"]["data"]["min_coverage"] = least
        (tmp_path / "model.json").write_text(json.dumps(description.sealed(facts)))
        strict = Detector.load(tmp_path, devices=jax.devices()[:1])
        frames = read_clip(reals(tiny_run)[0], lambda total: range(8)).frames()
        frames[3:] = [np.full_like(frames[0], 128)] * 5
        result = strict.score(write_video(tmp_path / "a.mp4", frames))
        if starts:
            (face,) = result["faces"]
            assert {clip["start"] for clip in face["clips"]} == starts
        else:
            self.unscored(result, "no face")
            assert "no clip shows a face in 90% of its frames" in result["reason"]

    def test_too_short(self, detector, tiny_run, tmp_path):
        frames = read_clip(reals(tiny_run)[0], lambda total: [0, 1]).frames()
        path = write_video(tmp_path / "a.mp4", frames)
        result = detector.score(path)
        self.unscored(result, "too short")
        assert "has 2 frames" in result["reason"]

    def test_out_of_range(self, central, tmp_path):
        frames = [picture(i, (6, 6)) for i in range(12)]
        path = write_video(
            tmp_path / "a.mkv", frames, codec="ffv1", options={}, pixel_format="bgr0"
        )
        result = central.score(path)
        self.unscored(result, "out of range")
        assert "6 pixels wide, the model needs 8" in result["reason"]

    def test_unreadable(self, detector, tmp_path):
        path = tmp_path / "a.mp4"
        path.write_text("<html>not found</html>")
        self.unscored(detector.score(path), "unreadable")

    def unscored(self, result, outcome):
        assert result["outcome"] == outcome and result["reason"]
        assert result["score"] is result["probability"] is result["verdict"] is None
        assert result["faces"] == []
        json.dumps(result, allow_nan=False)

    def test_several_faces_have_a_track_each(self, detector, tiny_run, tmp_path):
        path = side_by_side(reals(tiny_run)[:2], tmp_path / "two.mp4")
        result = detector.score(path)
        assert result["outcome"] == "scored" and len(result["faces"]) == 2
        left, right = sorted(face["box"][1] for face in result["faces"])
        assert left < 100 < right
        scores = [face["score"] for face in result["faces"]]
        assert result["score"] == max(scores) and scores[0] != scores[1]
        largest = Detector(
            detector.model, all_faces=False, devices=jax.devices()[:1]
        ).score(path)
        assert len(largest["faces"]) == 1
        assert largest["score"] == pytest.approx(scores[0], abs=1e-5)


# From Python ---------------------------------------------------------------------


# Faces over windows ----------------------------------------------------------------


def spoil(path: Path, number: int) -> None:
    """Makes one packet of a video undecodable."""
    with av.open(str(path)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
    packet = packets[number]
    whole = bytearray(path.read_bytes())
    assert packet.pos is not None
    whole[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(whole)


def test_windows_before_a_damage_are_void(central, tmp_path):
    """The file is read again in order, and nothing of it is scored twice."""
    options = {"g": "10", "bf": "0"}
    path = write_video(tmp_path / "v.mp4", 100, options=options)
    whole = central.score(path)
    spoil(path, 91)
    numbers = []
    (result,) = central.score_all(
        [path], on_window=lambda _, window: numbers.append(window["number"])
    )
    assert numbers == [0, 1, 0, 1, 2]  # the damage was met in the third
    assert result["file"]["damaged"] and result["windows"] == whole["windows"] == 3
    assert result["frames_looked_at"] == whole["frames_looked_at"] == 24
    (face,), (expected,) = result["faces"], whole["faces"]
    assert [c["window"] for c in face["clips"]] == [
        c["window"] for c in expected["clips"]
    ]
    assert len({tuple(c["frames"]) for c in face["clips"]}) == len(face["clips"])


@pytest.fixture
def faces_over(central, tmp_path):
    """The faces that are made of boxes seen in successive windows: their windows."""

    def join(*windows: list[list[float]]) -> list[list[int]]:
        session = detector_module._Session(
            central, tmp_path, lambda *_: None, lambda *_: None
        )
        video = _pending(tmp_path / "v.mp4", tmp_path)
        for number, boxes in enumerate(windows):
            # Too short for a clip: only who is who is asked.
            seen = [{"box": box, "num_valid": 0} for box in boxes]
            session._add_window(video, {"number": number, "faces": seen})
        return [[entry["window"] for entry in face.entries] for face in video.faces]

    return join


LEFT, RIGHT = [20.0, 0.0, 120.0, 100.0], [20.0, 300.0, 120.0, 400.0]


def moved(box: list[float], by: float) -> list[float]:
    return [box[0], box[1] + by, box[2], box[3] + by]


def test_a_face_that_moves_a_little_stays_one(faces_over):
    assert faces_over([LEFT], [moved(LEFT, 20)], [moved(LEFT, 40)]) == [[0, 1, 2]]
    assert faces_over([LEFT, RIGHT], [RIGHT, LEFT]) == [[0, 1], [0, 1]]


def test_a_face_elsewhere_is_another(faces_over):
    """Two people that a film cuts to and fro between."""
    assert faces_over([LEFT], [RIGHT], [LEFT]) == [[0], [1], [2]]
    # Half a side away they share a third; nine tenths away hardly anything.
    assert faces_over([LEFT], [moved(LEFT, 50)]) == [[0, 1]]
    assert faces_over([LEFT], [moved(LEFT, 90)]) == [[0], [1]]


def test_a_face_does_not_go_on_over_a_window_without_it(faces_over):
    assert faces_over([LEFT], [], [LEFT]) == [[0], [2]]
    assert faces_over([LEFT, RIGHT], [RIGHT], [LEFT]) == [[0], [0, 1], [2]]


def test_a_face_goes_on_as_one_face_only(faces_over):
    assert faces_over([LEFT], [moved(LEFT, 10), moved(LEFT, -30)]) == [[0, 1], [1]]


class TestPython:
    def test_a_folder_is_its_videos(self, central, tmp_path):
        for name in ("b.mp4", "deep/a.mp4"):
            write_video(tmp_path / name, 8)
        (tmp_path / "list.txt").write_text("b.mp4\n")
        rows = list(central.score_all(tmp_path))
        assert [Path(r["video"]).name for r in rows] == ["b.mp4", "a.mp4"]
        (row,) = central.score_all(str(tmp_path / "list.txt"))
        assert row["outcome"] == "scored"
        (row,) = central.score_all([tmp_path])
        assert row["outcome"] == "refused" and "not a regular file" in row["reason"]
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match="holds no video"):
            central.score_all(str(tmp_path / "empty"))

    def test_addresses_are_refused(self, central, web, tmp_path):
        url = f"http://127.0.0.1:{web.server_port}/a.mp4"
        video = write_video(tmp_path / "a.mp4", 8)
        rows = list(central.score_all([url, video, "-", f"concat:{video}"]))
        outcomes = [row["outcome"] for row in rows]
        assert outcomes == ["refused", "scored", "refused", "refused"]
        assert central.score(url)["outcome"] == "refused" and web.requests == []
        for row in rows:
            assert {"score", "probability", "verdict", "faces"} <= row.keys()

    def test_the_decoder_waits_for_the_next_video(self, faceless, tmp_path):
        video = write_video(tmp_path / "a.mp4", 8)
        me = psutil.Process()
        before = {p.pid for p in me.children()}

        def decoders():
            return {p.pid for p in me.children()} - before

        with Detector.load(faceless, devices=jax.devices()[:1]) as detector:
            first = detector.score(video)
            (started,) = decoders()
            assert detector.score(video) == first
            # In another batch a score may differ by rounding.
            both = [row["score"] for row in detector.score_all([video, video])]
            assert both == pytest.approx([first["score"]] * 2, abs=1e-5)
            assert started in decoders()
            os.kill(started, signal.SIGKILL)
            again = detector.score(video)
            assert again["outcome"] in ("scored", "unreadable")
            assert detector.score(video) == first
        assert not decoders()
        detector = Detector.load(faceless, devices=jax.devices()[:1])
        assert detector.score(video) == first  # and without `with`
        del detector
        gc.collect()
        assert not decoders()

    def test_one_that_was_left_early_ends_its_decoders(self, faceless, tmp_path):
        videos = [write_video(tmp_path / f"{i}.mp4", 8, seed=i) for i in range(6)]
        before = {p.pid for p in psutil.Process().children()}
        with Detector.load(faceless, devices=jax.devices()[:1]) as detector:
            rows = detector.score_all(videos)
            assert next(iter(rows))["outcome"] == "scored"
            rows.close()  # pyright: ignore[reportAttributeAccessIssue]
            assert {p.pid for p in psutil.Process().children()} == before

    def test_threads_share_one(self, central, tmp_path):
        videos = [write_video(tmp_path / f"{i}.mp4", 8, seed=i) for i in range(4)]
        alone = [central.score(video) for video in videos]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(central.score, videos)) == alone

    def test_a_fork_ends_in_a_sentence(self, faceless, tmp_path):
        video = write_video(tmp_path / "a.mp4", 8)
        code = FORKING.format(model=str(faceless), video=str(video))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("load the model in each process after the fork") == 4
        assert done.stdout.endswith("parent scored\n")
        assert "WARNING" not in done.stderr  # of the libraries, at load

    def test_a_load_prints_nothing(self, tiny_run):
        code = (
            "from fakedetect_jax.predict import Detector\n"
            f"Detector.load({str(tiny_run.workdir)!r})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, timeout=120
        )
        assert done.stdout == done.stderr == b""


FORKING = """
import os
import numpy as np
from fakedetect_jax.predict import Detector

detector = Detector.load({model!r})
clips = np.zeros((1, 4, 32, 32, 3), np.uint8), np.array([4])
child = os.fork()
if not child:
    for call in (
        lambda: detector.score({video!r}),
        lambda: detector.score_all([{video!r}]),
        lambda: detector.logits(*clips),
        lambda: Detector.load({model!r}),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", detector.score({video!r})["outcome"])
"""


# P9: always the same score -------------------------------------------------------


def test_batches_devices_and_company_change_no_score(detector, tiny_run):
    videos = reals(tiny_run)[:3]
    alone = [detector.score(v)["score"] for v in videos[:2]]
    assert len(set(alone)) == 2
    for batch_size, devices, processes in ((1, 1, 1), (32, 8, 2)):
        other = Detector(
            detector.model,
            batch_size=batch_size,
            devices=jax.devices()[:devices],
            num_processes=processes,
        )
        results = list(other.score_all([*videos, videos[0]]))
        assert [r["video"] for r in results] == [str(v) for v in [*videos, videos[0]]]
        scores = [r["score"] for r in results]
        np.testing.assert_allclose(scores[:2], alone, atol=1e-5)
        assert scores[0] == pytest.approx(scores[3], abs=1e-5)


# P10: training and serving -------------------------------------------------------


def evaluated(tiny_run) -> dict[str, float]:
    folder = Path(tiny_run.report["folder"])
    clips: dict[str, list[float]] = {}
    for row in rows_of(folder / "scores.jsonl"):
        clips.setdefault(f"{row['method']}/{row['video']}", []).append(row["score"])
    return {video: float(np.mean(scores)) for video, scores in clips.items()}


def test_the_score_is_the_evaluations(detector, tiny_run):
    expected = evaluated(tiny_run)
    known = [p for p in reals(tiny_run) if f"youtube/{p.stem}" in expected]
    assert len(known) == 2
    for path in known:
        assert detector.score(path)["score"] == pytest.approx(
            expected[f"youtube/{path.stem}"], abs=1e-5
        )
    assert len({round(s, 4) for s in expected.values()}) > 1


def test_stored_frames_get_the_evaluations_logits(detector, tiny_run):
    config = tiny_run.config
    split = evaluate.open_split(data.open_dataset(config), "test", config)
    rows = rows_of(Path(tiny_run.report["folder"]) / "scores.jsonl")
    number = {(v["method"], v["video_id"]): i for i, v in enumerate(split.videos)}
    frames = np.empty((len(rows), *evaluate.clip_shape(config)), np.uint8)
    length = np.empty(len(rows), int)
    for i, row in enumerate(rows):
        video = number[row["method"], row["video"]]
        clip = data.ClipRef(video, row["start"], config.data.frame_stride)
        length[i] = split.reader.read(clip, split.videos[video]["num_valid"], frames[i])
    np.testing.assert_allclose(
        detector.logits(frames, length), [row["logit"] for row in rows], atol=1e-5
    )


def test_clips_of_another_size_are_refused(detector):
    with pytest.raises(ConfigError, match=r"model takes uint8\[4, 32, 32, 3\]"):
        detector.logits(np.zeros((1, 4, 31, 31, 3), np.uint8), np.array([4]))


def test_a_known_model_gives_a_known_score(central, tmp_path):
    """A golden number: weights by formula, pixels stored without loss."""
    rng = np.random.default_rng(0)

    def make(path, leaf: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 1, leaf.shape)
        if path[-1].key in ("scale", "var"):
            return (1 + 0.1 * noise**2).astype(np.float32)
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return (1.5 * noise / np.sqrt(fan_in)).astype(np.float32)
        return (0.1 * noise).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(make, central.model.variables)
    model = central.model._replace(variables=variables, temperature=2.0)
    path = write_video(
        tmp_path / "a.mkv", 16, codec="ffv1", options={}, pixel_format="bgr0"
    )
    result = Detector(model, devices=jax.devices()[:1]).score(path)
    clips = [clip["logit"] for clip in result["faces"][0]["clips"]]
    np.testing.assert_allclose(clips, GOLDEN_LOGITS, atol=2e-3)
    score = np.mean(1 / (1 + np.exp(-np.array(clips))))
    odds = np.sqrt(score / (1 - score))
    assert result["score"] == pytest.approx(score)
    assert result["probability"] == pytest.approx(odds / (1 + odds))


GOLDEN_LOGITS = [0.2537963, 0.2275291]


# The command ---------------------------------------------------------------------


def test_the_table_never_shows_control_characters(central):
    row = {"video": "a\x1b[31mb\n.mp4", "outcome": "refused", "reason": "x"}
    assert "\x1b" not in predict.line(row) and "\n" not in predict.line(row)


def test_a_folder_of_pages_has_an_index(faceless, tmp_path, capsys):
    videos, pages = tmp_path / "videos", tmp_path / "pages"
    write_video(videos / "<b>a&b.mp4", 8)
    write_video(videos / "short.mp4", 2)
    (videos / "broken.mp4").write_text("no video")
    assert (
        predict.main(
            ["--model", str(faceless), str(videos), "-", "--report", str(pages)]
        )
        == 3
    )
    index = (pages / "index.html").read_text()
    told = re.search(
        r"1 (?:not )?called fake, 1 too short, 1 unreadable, 1 refused", index
    )
    assert told and capsys.readouterr().out.endswith(f"{told[0]}\n")
    assert "4 videos: " in index and "trained on made videos" in index
    assert "&lt;b&gt;a&amp;b.mp4" in index and "<b>a" not in index
    links = re.findall(r'href="([^"]+\.html)"', index)
    assert len(links) == 3 and all((pages / link).is_file() for link in links)
    for link in links:  # on each page, as on all of them
        assert "trained on made videos" in (pages / link).read_text()


def test_the_rows_warn_of_a_model_of_made_videos(detector, central, tiny_run):
    video = reals(tiny_run)[0]
    for one in (detector, central):
        assert "made videos" in one.score(video)["warnings"][0]
    honest = Detector(
        detector.model._replace(made=False), devices=jax.devices()[:1]
    ).score(video)
    assert "made videos" not in " ".join(honest["warnings"])


def test_a_calibration_that_is_not_used_is_said(central, tmp_path):
    video = write_video(tmp_path / "a.mp4", 8)
    told = {"fitted": 2.0, "used": False, "loss": 0.1, "cross_fitted_loss": 0.2}
    model = central.model._replace(temperature=1.0, calibration=told)
    row = Detector(model, devices=jax.devices()[:1]).score(video)
    assert any("no calibration helped" in sentence for sentence in row["warnings"])
    assert row["probability"] == pytest.approx(row["score"])


def test_a_line_has_words_and_one_number():
    clip = {"seconds": [61.0, 62.5]}
    row = {"video": "a.mp4", "outcome": "scored", "verdict": "not called fake"}
    row |= {"probability": 0.123, "score": 0.456, "faces": [1], "most_suspicious": clip}
    assert predict.line(row).split() == [
        *("not", "called", "fake", "12.3", "%", "1", "1:01.0–1:02.5", "a.mp4")
    ]
    assert "0.456" in predict.line({**row, "probability": None})


def test_sigterm_leaves_a_partial_file_and_no_rubbish(faceless, tmp_path):
    folder = tmp_path / "videos"
    first = write_video(folder / "000.mp4", 8)
    for i in range(1, 2000):
        os.link(first, folder / f"{i:04d}.mp4")
    output, rubbish = tmp_path / "out.jsonl", tmp_path / "tmp"
    rubbish.mkdir()
    command = [sys.executable, "-m", "fakedetect_jax.predict", "--model", str(faceless)]
    command += [str(folder), "--output", str(output), "--compilation-cache", ""]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(rubbish)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    partial = output.with_name("out.jsonl.partial")
    end = time.monotonic() + 200
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 143, said
    assert "out.jsonl.partial" in said and "Traceback" not in said
    assert rows_of(partial) and not output.exists()
    assert list(rubbish.iterdir()) == []
