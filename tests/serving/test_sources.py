"""Which files are taken for videos."""

from pathlib import Path

import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.serving import sources
from tests.made_videos import write_video
from tfds_ffpp.frames.video import read_clip
from tfds_ffpp.tree.naming import VIDEO_SUFFIXES


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
