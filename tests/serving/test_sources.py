"""Which files are taken for videos."""

import os
from pathlib import Path

import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.serving import sources
from tests.made_videos import write_video
from tfds_ffpp.frames.video import read_clip
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES


def test_a_folder_does_not_lead_out_of_itself(tmp_path):
    """P7 Links out of a folder: not followed."""
    outside = write_video(tmp_path / "outside.mp4", 2)
    folder = tmp_path / "folder"
    inside = write_video(folder / "deep" / "-inside é.MP4", 2)
    (folder / "link.mp4").symlink_to(outside)
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "notes.md").write_text("no video")
    (folder / "out").symlink_to(outside)
    every = sources.find_all([str(folder)])
    reasons = {Path(s.name).name: sources.refused(s).reason for s in every if s.passed}
    assert reasons["notes.md"] == sources.NO_MEDIA
    assert reasons["out"] == f"a link out of {folder}; name its target"
    found = {Path(s.name).name: s.refusal for s in sources.find([str(folder)])}
    assert found == {inside.name: "", "link.mp4": found["link.mp4"]}
    assert "a link out of" in found["link.mp4"]


def test_a_link_to_itself_is_passed_over(tmp_path):
    video = write_video(tmp_path / "a.mp4", 2)
    for name in ("loop.mp4", "loop.ts", "loop"):
        (tmp_path / name).symlink_to(name)
    found = {s.name: s for s in sources.find_all([str(tmp_path)])}
    passed = sources.refused(found[str(tmp_path / "loop")])
    assert passed.reason and "it cannot be read (Too many levels" in passed.reason
    assert "too many levels" in found[str(tmp_path / "loop.ts")].refusal
    assert not found[str(video)].refusal
    assert "link" in found[str(tmp_path / "loop.mp4")].refusal
    left = sources.find_all([str(tmp_path)], leave=[tmp_path / "loop"])
    assert str(video) in {s.name for s in left}


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(
        ConfigError, match=r"holds no video and no picture: .*1 files skipped .*docx"
    ):
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
    (found,) = sources.find_all([str(path.parent)])
    assert found.is_video
    path = path.rename(path.with_suffix(""))
    (found,) = sources.find_all([str(path.parent)])
    assert found.is_video, "by its content"
    clip = read_clip(path, lambda total: [0, total // 2])
    assert clip.rgb(0).shape == (96, 128, 3) and clip.source_frames >= 18


def test_each_file_of_a_folder_is_accounted_for(tmp_path):
    """Content decides where a name does not; sound is no video."""
    video = write_video(tmp_path / "v.mp4", 2).read_bytes()
    written = {
        "plain": video,
        "odd.bin": video,
        "code.ts": b"export const a = 1;\n" * 99,
        "damaged.ts": b"\0\1\xff" * 99,
        "empty.ts": b"",
        "empty": b"",
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(99),
        "sound.m4a": video,
        "tags.mkv": b"x",
        "deep/er/.hidden": b"text",
    }
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out").symlink_to(tmp_path.parent)
    (tmp_path / "away").symlink_to(__file__)
    os.mkfifo(tmp_path / "pipe")
    found = sources.find_all([str(tmp_path)])
    names = {str(Path(s.name).relative_to(tmp_path)): s for s in found}
    assert len(names) == len(found)
    assert set(names) == {*written, "v.mp4", "out", "away", "pipe"}
    assert {name for name, source in names.items() if source.is_video} == {
        *("v.mp4", "plain", "odd.bin", "damaged.ts", "empty.ts", "tags.mkv"),
        "photo.heic",
    }
    assert all(s.passed or s.is_video for s in found)
    left = sources.find_all([str(tmp_path)], leave=[tmp_path / "deep"])
    assert {s.name for s in found} - {s.name for s in left} == {
        str(tmp_path / "deep" / "er" / ".hidden")
    }


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 2)
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path):  # root, as which tests may run, reads every folder
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reasons = {s.name: s.refusal for s in sources.find([str(tmp_path)])}
    assert reasons[str(tmp_path / "shut")] == (
        "a folder that cannot be read (Permission denied)"
    )


def test_shares_are_a_partition():
    asked = [sources.Source(str(i)) for i in range(11)]
    for count in (1, 2, 3, 11, 20):
        parts = [sources.shard(asked, i + 1, count) for i in range(count)]
        assert [source for part in parts for source in part] == asked
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_list_is_relative_to_itself_and_names_each_video_once(tmp_path):
    write_video(tmp_path / "a b.mp4", 2)
    (tmp_path / "list.txt").write_text("a b.mp4\n\n./a b.mp4\nmissing.mp4\n")
    found = sources.find([str(tmp_path / "list.txt")])
    assert [Path(s.name).name for s in found] == ["a b.mp4", "missing.mp4"]
    assert "no such file" in found[1].refusal


def test_a_folder_without_videos_is_a_usage_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no video"):
        sources.find([str(tmp_path)])
