"""Makes tests/colours: small videos of many pixel formats and ffmpeg's RGB of them.

python -m tests.make_colours, where the program ffmpeg is installed.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("colours")
SIZE = (36, 48)
BT709 = ("-vf", "scale=out_color_matrix=bt709:in_range=full", "-colorspace", "bt709")
FULL = ("-vf", "scale=out_range=full", "-color_range", "pc")
CASES = {
    "yuv444p": ("yuv444p", ()),
    "yuv420p": ("yuv420p", ()),
    "yuv422p": ("yuv422p", ()),
    "yuv420p10": ("yuv420p10le", ()),
    "yuv422p10": ("yuv422p10le", ()),
    "yuv444p10": ("yuv444p10le", ()),
    "gray": ("gray", ()),
    "full444": ("yuvj444p", FULL),
    "full420": ("yuv420p", FULL),
    "bt709": ("yuv420p", BT709),
}


def pattern(i: int) -> np.ndarray:
    """Waves, ramps and hard red and blue edges: whatever chroma handling can spoil."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [128 + 127 * np.sin(x / 5 + i), 128 + 127 * np.sin(y / 4 + x / 9)]
    image = np.stack([*waves, (5 * x + 3 * y + 9 * i) % 256], -1)
    image[12:18, 16:24] = 255, 0, 0
    image[20:26, 25:] = 0, 0, 255
    return image.clip(0, 255).astype(np.uint8)


def main() -> None:
    """Writes the files."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SystemExit("error: the program ffmpeg is not installed")
    FOLDER.mkdir(exist_ok=True)
    raw = b"".join(pattern(i).tobytes() for i in range(3))
    expected = {}
    for name, (pixels, extra) in CASES.items():
        path = FOLDER / f"{name}.mp4"
        made = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE[1]}x{SIZE[0]}"]
        coded = ["-pix_fmt", pixels, "-c:v", "libx264", "-crf", "12"]
        run = [ffmpeg, "-v", "error", "-y", *made, "-i", "-", *extra, *coded, str(path)]
        subprocess.run(run, input=raw, check=True)
        run = [ffmpeg, "-v", "error", "-i", str(path), *made[:4], "-"]
        rgb = subprocess.run(run, capture_output=True, check=True).stdout
        expected[name] = np.frombuffer(rgb, np.uint8).reshape(3, *SIZE, 3)
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
