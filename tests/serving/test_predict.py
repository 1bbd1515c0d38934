"""The command: any files in, a row and a line for each, and an exit code."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fakedetect_jax import predict
from fakedetect_jax.outputs import table
from fakedetect_jax.reports.video_result import ClipResult, FaceResult, VideoResult
from tests.commands.test_faults_training import one_sentence, small_disk
from tests.made_videos import write_video
from tests.patience import LIMIT
from tests.serving.videos import rows_of, write_many

VERDICT = "called fake|uncertain|called real"


def error_of(capsys, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of the command."""
    code = predict.main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def test_one_bad_file_among_a_hundred(faceless, tmp_path, capsys):
    """P4 One bad file among 100: 99 results, one row with its reason, exit 3."""
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
    assert re.search(rf"\n99 ({VERDICT}), 1 unreadable\n\Z", table)
    assert table.splitlines()[1].startswith("warning: guard: none (")
    assert table.count("\n") == 104


def test_addresses_devices_and_playlists_are_refused(faceless, web, tmp_path, capsys):
    """P7 Addresses, devices, playlists: refused; no request, no other file opened."""
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


def test_what_a_folder_holds_besides_is_counted_and_named(faceless, tmp_path, capsys):
    """P17 A file of a folder that is passed over: counted by ending and listed."""
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


@pytest.mark.parametrize(
    "arguments",
    [[], ["a.mp4"], ["--workdir", "w", "--model", "m", "a.mp4"], ["--wrong", "a.mp4"]],
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        predict.main(arguments)
    assert exit_.value.code == 2


def test_the_command_on_record_scores_one_video_as_the_whole_did():
    """Without what says which of many; words that are a video's name too stay."""
    words = ["--model", "m", "--report", "videos", "--output=rows", "--shard", "3/8"]
    words += ["--faces", "largest", "--batch_size=4", "--debug", "videos", "a.mp4"]
    found = predict.parse_arguments(words, "predict")
    kept = ["--model=m", "--report=videos", "--faces=largest", "--batch_size=4"]
    assert found.options == [*kept, "--debug"]
    again = predict.parse_arguments([*found.options, "b.mp4"], "predict")
    assert again.options == found.options and again.videos == ["b.mp4"]


def test_help_and_refusals_do_not_wait_for_jax():
    code = (
        "import sys; from fakedetect_jax import predict\n"
        "assert predict.main(['--model', '.', '-']) == 3\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_table_never_shows_control_characters():
    line = table.line(VideoResult("a\x1b[31mb\n.mp4", "refused", reason="x"))
    assert "\x1b" not in line and "\n" not in line


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
    counts = re.search(
        rf"1 (?:{VERDICT}), 1 too short, 1 unreadable, 1 refused",
        index,
    )
    assert counts and capsys.readouterr().out.endswith(f"{counts[0]}\n")
    assert "4 files: " in index and "trained on made videos" in index
    assert "&lt;b&gt;a&amp;b.mp4" in index and "<b>a" not in index
    links = re.findall(r'href="([^"]+\.html)"', index)
    assert len(links) == 3 and all((pages / link).is_file() for link in links)
    for link in links:  # on each page, as on all of them
        assert "trained on made videos" in (pages / link).read_text()


def test_a_line_has_words_and_one_number():
    clip = ClipResult(0, 0, 4, (0, 3), (61.0, 62.5), logit=0.0, score=0.456)
    verdict, box = "not called fake", (0.0, 0.0, 9.0, 9.0)
    face = FaceResult(
        *("scored", 0.456, 0.123, None, verdict, clip.seconds, box, 1.0, [clip])
    )
    result = VideoResult(
        "a.mp4",
        "scored",
        verdict=verdict,
        score=0.456,
        probability=0.123,
        faces=(face,),
        most_suspicious=clip,
    )
    assert table.line(result).split() == [
        *("not", "called", "fake", "12.3", "%", "1", "1:01.0–1:02.5", "a.mp4")
    ]
    assert "0.456" in table.line(dataclasses.replace(result, probability=None))


def test_sigterm_leaves_a_partial_file_and_no_rubbish(faceless, tmp_path):
    folder = tmp_path / "videos"
    write_many(folder, 2000)
    output, rubbish = tmp_path / "out.jsonl", tmp_path / "tmp"
    rubbish.mkdir()
    command = [sys.executable, "-m", "fakedetect_jax.predict", "--model", str(faceless)]
    command += [str(folder), "--output", str(output), "--compilation_cache", ""]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(rubbish)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    partial = output.with_name("out.jsonl.partial")
    end = time.monotonic() + LIMIT
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=LIMIT)[1].decode()
    assert process.returncode == 143, said
    assert "out.jsonl.partial" in said and "Traceback" not in said
    assert rows_of(partial) and not output.exists()
    assert list(rubbish.iterdir()) == []


def test_a_decoder_killed_for_memory_costs_one_video(faceless, tmp_path, capsys):
    """P12 A decoder is killed for memory: that video is named, the others are scored,
    exit 3.
    """
    first, *_ = write_many(tmp_path / "videos", 200)
    output, killed = tmp_path / "out.jsonl", []
    others = psutil.Process().children()  # which wait, of detectors of other tests

    def kill():  # as the kernel does when the machine's memory runs out
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and not killed:
            time.sleep(0.02)
            for child in set(psutil.Process().children()) - set(others):
                if "tfds_ffpp.workers.child" in child.cmdline():
                    time.sleep(0.5)
                    child.kill()
                    killed.append(child)
                    return

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    words = ["--model", str(faceless), str(first.parent), "--output", str(output)]
    code = predict.main([*words, "--processes=1"])
    thread.join(timeout=LIMIT)
    assert code == 3 and len(killed) == 1
    found = rows_of(output)
    (bad,) = [row for row in found if row["outcome"] != "scored"]
    assert len(found) == 200 and bad["outcome"] == "unreadable"
    assert "as the system does when its memory runs out" in bad["reason"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_disk_that_is_full_at_the_rows_is_said(faceless, tmp_path, capsys):
    """P19 The disk is full at the rows: exit 4 and a sentence; whole rows stay."""
    videos = tmp_path / "videos"
    write_many(videos, 4)
    with small_disk(tmp_path / "disk", "1m") as disk:
        words = ["--model", faceless, videos, "--output", disk / "rows.jsonl"]
        filler = disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        os.truncate(filler, filler.stat().st_size - 8192)  # two pages of memory
        code, said = error_of(capsys, *words)
        assert code == 4, said
        partial = disk / "rows.jsonl.partial"
        assert f"{partial}: No space left on device; " in one_sentence(said)
        assert {p.name for p in disk.iterdir()} == {"filler", "rows.jsonl.partial"}
        whole = partial.read_bytes().splitlines(keepends=True)
        whole = b"".join(line for line in whole if line.endswith(b"\n"))
        assert 0 < whole.count(b"\n") < 4
        filler.unlink()
        code, said = error_of(capsys, *words)
        assert code == 0, said
        written = (disk / "rows.jsonl").read_bytes()
        assert written.startswith(whole) and written.count(b"\n") == 4


@pytest.mark.parametrize("name", ["n" * 256, "/".join(["d" * 200] * 25)])
def test_paths_that_are_too_long_are_said(faceless, tmp_path, capsys, name):
    """P12 A path that is too long: said."""
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
