"""Takes pictures of pages in a headless Chromium, as wide as a desktop and as a phone.

python docs/screenshots.py report=RUN/eval/test@1120/report.html \
    evidence=pages/VIDEO.html [--out docs/pictures] [--height 1500]

Each NAME=FILE becomes NAME_1200.png and NAME_400.png, cut where the page ends.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

WIDTHS = (1200, 400)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-quic", "--allow-file-access-from-files"),
)
BLANK = "#ff00ff"  # what no page shows


def browser() -> str:
    """The first browser that is there."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"none of {', '.join(BROWSERS)} is there; install Chromium")


def take(page: Path, width: int, height: int, scratch: Path) -> Image.Image:
    """A picture of a page at a width, of at most `height` pixels."""
    # A window has a least width, a frame within it none.
    frame, shot = scratch / "frame.html", scratch / "shot.png"
    frame.write_text(
        f'<body style="margin:0;background:{BLANK}"><iframe src="{page.as_uri()}" '
        f'style="border:0;width:{width}px;height:{height}px"></iframe>'
    )
    command = [browser(), *FLAGS, f"--user-data-dir={scratch / 'profile'}"]
    command += [f"--window-size={max(width, 600)},{height}", f"--screenshot={shot}"]
    # A page's own pictures are in it; this is for slow machines.
    command += ["--virtual-time-budget=10000", frame.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return ended(Image.open(shot).convert("RGB").crop((0, 0, width, height)))


def ended(picture: Image.Image) -> Image.Image:
    """The picture without the equal rows at its end."""
    pixels = np.asarray(picture)
    differs = (pixels != pixels[-1:]).any(axis=(1, 2))
    last = int(np.flatnonzero(differs)[-1]) + 1 if differs.any() else len(pixels)
    return picture.crop((0, 0, picture.width, min(last + 24, picture.height)))


def main() -> None:
    """Takes and keeps all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--height", type=int, default=1500, help="of a picture at most")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for word in flags.pages:
            name, _, file = word.partition("=")
            for width in WIDTHS:
                place = Path(file).resolve(strict=True)
                picture = take(place, width, flags.height, Path(scratch))
                small = picture.quantize(128)  # a page has few colours
                small.save(flags.out / f"{name}_{width}.png", optimize=True)
                print(flags.out / f"{name}_{width}.png", *picture.size)


if __name__ == "__main__":
    main()
