"""The rows of --output: gone on with, shared out, the same to the byte."""

import csv
import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from fakedetect_jax import predict
from fakedetect_jax.outputs import rows
from tests.made_videos import write_video
from tests.patience import LIMIT
from tests.serving.videos import rows_of, write_many


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of videos, copies, what cannot be read and what is none."""
    folder = tmp_path_factory.mktemp("rows") / "videos"
    paths = write_many(folder, 30)
    for i in (3, 17):
        shutil.copy(paths[i], folder / f"{i + 10:04d}-copy.mp4")
    (folder / "deep").mkdir()
    write_video(folder / "long.mp4", 100).rename(folder / "deep" / "long")
    (folder / "broken.mp4").write_bytes(paths[0].read_bytes()[:300])
    (folder / "notes.md").write_text("none")
    return folder


def run(faceless, videos, output, *words) -> int:
    return predict.main(
        ["--model", str(faceless), str(videos), "--output", str(output), *words]
    )


@pytest.fixture(scope="module")
def whole(faceless, videos, tmp_path_factory) -> Path:
    """The rows of one run that nothing happened to."""
    output = tmp_path_factory.mktemp("whole") / "rows.jsonl"
    assert run(faceless, videos, output) == 3
    return output


def test_each_file_has_a_row_and_each_content_is_scored_once(videos, whole):
    found = {Path(row["video"]).name: row for row in rows_of(whole)}
    files = {p.name for p in videos.rglob("*") if p.is_file()}
    assert set(found) == files
    assert found["notes.md"]["outcome"] == "passed over"
    assert found["broken.mp4"]["outcome"] == "unreadable"
    assert found["long"]["outcome"] == "scored"
    copy, first = found["0013-copy.mp4"], found["0003.mp4"]
    assert copy.pop("copy_of") == first["video"]
    assert {**copy, "video": ""} == {**first, "video": ""}
    assert sum("copy_of" in row for row in found.values()) == 1  # and one popped


def test_shares_one_after_another_are_one_run(faceless, videos, whole, tmp_path):
    parts = []
    for i in range(1, 4):
        part = tmp_path / f"{i}.jsonl"
        run(faceless, videos, part, "--shard", f"{i}/3")
        parts.append(part.read_bytes())
    assert b"".join(parts) == whole.read_bytes()
    assert all(part.count(b"\n") >= 11 for part in parts)


@pytest.mark.parametrize("option", ["--output", "--report", "--annotate"])
def test_a_share_finds_nothing_that_another_wrote(faceless, tmp_path, capsys, option):
    """Parts are those of one list only where no job adds to the folder."""
    write_video(tmp_path / "a.mp4", 8)
    words = [option, str(tmp_path / "out"), "--shard", "1/3"]
    assert predict.main(["--model", str(faceless), str(tmp_path), *words]) == 2
    assert "of which every job of --shard must find the" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    words = ["--backend=auto", "--shard", "1/3"]
    assert predict.main(["--model", str(faceless), str(tmp_path), *words]) == 2
    assert "--backend auto may find another one" in capsys.readouterr().err


def test_killed_and_run_again_there_are_the_same_rows(
    faceless, videos, whole, tmp_path
):
    """P4 Killed with -9 and run again: the same rows to the byte."""
    output = tmp_path / "rows.jsonl"
    partial = tmp_path / "rows.jsonl.partial"
    command = [sys.executable, "-m", "fakedetect_jax.predict", "--model", str(faceless)]
    command += [str(videos), "--output", str(output)]
    command += ["--compilation_cache", str(tmp_path / "cache"), "--processes=1"]
    counts = []
    for least in (2, 9, 21):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and process.poll() is None:
            if partial.exists() and partial.read_bytes().count(b"\n") >= least:
                break
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not output.exists()
        counts.append(partial.read_bytes().count(b"\n"))
    assert counts == sorted(counts) and counts[-1] < 34, "killed too late"
    with partial.open("ab") as file:  # as a machine that fell over leaves it
        file.write(whole.read_bytes()[:100])
    before = partial.read_bytes()
    assert run(faceless, videos, output) == 3
    assert output.read_bytes() == whole.read_bytes()
    assert not partial.exists() and before.count(b"\n") >= 21


def test_a_second_run_makes_what_is_new_or_changed(
    faceless, videos, whole, tmp_path, capsys
):
    folder = shutil.copytree(videos, tmp_path / "videos")
    output = tmp_path / "rows.jsonl"
    run(faceless, folder, output)
    other = write_video(tmp_path / "other.mp4", 12, seed=5)
    capsys.readouterr()
    assert run(faceless, other, output) == 0
    assert len(rows_of(output)) == len(rows_of(whole)) + 1
    shutil.copy(other, folder / "0002.mp4")
    (folder / "broken.mp4").unlink()
    capsys.readouterr()
    assert run(faceless, folder, output) == 0
    said = capsys.readouterr().out
    assert "rows are there already and stay" in said
    lines = [line.split(" ")[-1] for line in said.splitlines() if ".mp4" in line]
    assert [Path(line).name for line in lines] == ["0002.mp4"]
    found = {Path(row["video"]).name: row for row in rows_of(output)}
    assert found["0002.mp4"]["score"] == pytest.approx(found["other.mp4"]["score"])
    assert len(found) == len(rows_of(output)), "none twice"
    assert found["broken.mp4"]["outcome"] == "unreadable"  # not asked for, so it stays
    assert found["0013-copy.mp4"]["copy_of"] == str(folder / "0003.mp4")
    shutil.copy(folder / "0002.mp4", folder / "0003.mp4")
    assert run(faceless, folder, output) == 0
    found = {Path(row["video"]).name: row for row in rows_of(output)}
    assert found["0003.mp4"]["copy_of"] == str(folder / "0002.mp4")
    assert "copy_of" not in found["0013-copy.mp4"]  # its page is its own again


def test_what_was_not_there_is_tried_again(faceless, videos, tmp_path):
    video, output = tmp_path / "late.mp4", tmp_path / "rows.jsonl"
    assert run(faceless, video, output) == 3
    shutil.copy(videos / "0000.mp4", video)
    assert run(faceless, video, output) == 0
    (row,) = rows_of(output)
    assert row["outcome"] == "scored"


@pytest.mark.parametrize(
    "word", ["--window_frames=20", "--faces=largest", "--backend=onnxruntime"]
)
def test_rows_of_other_options_are_not_mixed(
    faceless, videos, whole, tmp_path, capsys, word
):
    if word.startswith("--backend"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    output = shutil.copy(whole, tmp_path / "rows.jsonl")
    assert run(faceless, videos, output, word) == 2
    assert "rows of another model or of other options" in capsys.readouterr().err
    assert output.read_bytes() == whole.read_bytes()


def test_rows_of_two_precisions_are_not_mixed(faceless, tmp_path, capsys):
    if find_spec("openvino") is None or find_spec("onnx") is None:
        pytest.skip("the extra [openvino] is not installed")
    folder, output = tmp_path / "videos", tmp_path / "rows.jsonl"
    write_many(folder, 2)
    words = [f"--compilation_cache={tmp_path}", "--backend"]
    code = run(faceless, folder, output, *words, "openvino-bfloat16")
    said = capsys.readouterr().err
    if "needs a processor" in said:
        pytest.skip("no bfloat16 on this processor")
    first = output.read_bytes()
    assert code == 0 and b'"backend": "openvino-bfloat16"' in first
    assert run(faceless, folder, output, *words, "openvino") == 2
    said = capsys.readouterr().err
    assert "backend openvino-bfloat16" in said and "backend openvino)" in said
    assert run(faceless, folder, output, *words, "openvino-bfloat16") == 0
    assert output.read_bytes() == first


def test_a_file_of_something_else_stays(faceless, videos, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    output.write_text("my diary\n")
    assert run(faceless, videos, output) == 2
    assert "no row of predict" in capsys.readouterr().err
    assert output.read_text() == "my diary\n"
    assert run(faceless, videos, tmp_path / "a.csv") == 2
    output.write_text('{"video": "a.mp4"}\n')  # of another program
    assert run(faceless, videos, output) == 2
    assert "no row of predict" in capsys.readouterr().err
    for folder in (tmp_path, "."):
        assert run(faceless, videos, folder) == 2
        assert "is a folder; name a file in it" in capsys.readouterr().err


def test_two_runs_never_write_one_file(faceless, videos, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    held = rows.Rows(str(output))
    assert run(faceless, videos, output) == 2
    assert "another run is writing" in capsys.readouterr().err
    held.close()


def test_the_table_has_a_line_for_each_face(videos, whole):
    with whole.with_suffix(".csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    found = rows_of(whole)
    assert len(table) == sum(max(len(row["faces"]), 1) for row in found)
    for row in found:
        lines = [line for line in table if line["video"] == row["video"]]
        for line, face in zip(lines, row["faces"], strict=len(row["faces"]) > 0):
            assert float(line["face_score"]) == face["score"]
            assert float(line["score"]) == row["score"]
            assert line["sha256"] == row["file"]["sha256"]
            assert [float(line[k]) for k in ("from", "to")] == face["seconds"]
            assert int(line["face_person"]) == face["person"]
            assert line["damaged"] == str(row["file"]["damaged"])
    assert {line["outcome"] for line in table} >= {"scored", "passed over"}


def test_a_name_is_no_formula(faceless, tmp_path, monkeypatch):
    video = write_video(tmp_path / "=1+1.mp4", 8)
    output = tmp_path / "rows.jsonl"
    monkeypatch.chdir(tmp_path)
    assert run(faceless, video.name, output) == 0
    assert json.loads(output.read_text())["video"] == "=1+1.mp4"
    assert "\n'=1+1.mp4," in output.with_suffix(".csv").read_text()
