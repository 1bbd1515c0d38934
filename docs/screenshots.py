"""Takes pictures of pages in a headless Chromium, as wide as a desktop and as a phone.

python docs/screenshots.py report=RUN/eval/test@1120/report.html \
    evidence=pages/VIDEO.html [--out docs/pictures] [--height 1500]

Each NAME=FILE becomes NAME_1200.png and NAME_400.png, cut where the page ends. Of a
service, NAME=http://127.0.0.1:8000/, the made videos that it offers are scored first;
this needs selenium and the browser's driver, and a model of made videos.
"""

import argparse
import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
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


def of_service(address: str, height: int, profile: Path) -> Iterator[Image.Image]:
    """Pictures of a service's page with its two made videos scored, at each width."""
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = browser()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options)
    try:
        driver.get(address)
        WebDriverWait(driver, 60).until(lambda page: shown(page, "#sample"))
        driver.find_element("css selector", "#sample").click()
        gone = [StaleElementReferenceException]  # drawn anew meanwhile
        for selector, count in ((".verdict", 2), ("video", 1), (".curve", 1)):
            WebDriverWait(driver, 120, ignored_exceptions=gone).until(
                lambda page, s=selector, n=count: len(shown(page, s)) >= n
            )
        for width in WIDTHS:
            size = {"width": width, "height": height, "deviceScaleFactor": 1}
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride", {**size, "mobile": False}
            )
            driver.execute_script("window.scrollTo(0, 0)")
            time.sleep(2)  # until what moves has come to rest
            shot = io.BytesIO(driver.get_screenshot_as_png())
            yield ended(Image.open(shot).convert("RGB"))
    finally:
        driver.quit()


def shown(driver, selector: str) -> list:
    """The elements of a page that are seen."""
    found = driver.find_elements("css selector", selector)
    return [element for element in found if element.is_displayed()]


def ended(picture: Image.Image) -> Image.Image:
    """The picture without the equal rows at its end."""
    pixels = np.asarray(picture)
    differs = (pixels != pixels[-1:]).any(axis=(1, 2))
    last = int(np.flatnonzero(differs)[-1]) + 1 if differs.any() else len(pixels)
    return picture.crop((0, 0, picture.width, min(last + 24, picture.height)))


def main() -> None:
    """Takes and keeps all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", metavar="NAME=FILE", help="or NAME=URL")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--height", type=int, default=1500, help="of a picture at most")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for word in flags.pages:
            name, _, file = word.partition("=")
            if file.startswith("http://"):
                found = of_service(file, flags.height, Path(scratch, "service"))
            else:
                place = Path(file).resolve(strict=True)
                found = (take(place, w, flags.height, Path(scratch)) for w in WIDTHS)
            for width, picture in zip(WIDTHS, found, strict=True):
                small = picture.quantize(128)  # a page has few colours
                small.save(flags.out / f"{name}_{width}.png", optimize=True)
                print(flags.out / f"{name}_{width}.png", *picture.size)


if __name__ == "__main__":
    main()
