"""The page in a browser: a file goes in, a verdict comes out, a click leads the player.

It needs Chromium and its driver, which are no Python packages.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.made_videos import write_video
from tests.patience import LIMIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium, or no chromedriver, is installed"
)
QUIET = ("disable-quic", "no-first-run", "disable-background-networking")
QUIET += ("disable-component-update", "disable-sync", "disable-dev-shm-usage")


class Page:
    """The page of a server in a window of some width."""

    def __init__(self, driver: webdriver.Chrome, address: str):
        self.driver, self.address = driver, address

    def open(self, width: int = 1200, height: int = 900) -> "Page":
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": False}
        )
        self.driver.get(self.address)
        self.driver.execute_script("sessionStorage.clear()")
        self.driver.refresh()
        return self

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: self.all(selector))[0]

    def until(self, found: Callable):
        end = time.monotonic() + LIMIT
        while not (value := found()):
            assert time.monotonic() < end, self.one("body").text
            time.sleep(0.05)
        return value

    def script(self, code: str, *values):
        return self.driver.execute_script(code, *values)

    def choose(self, *paths: Path) -> None:
        self.one("#files").send_keys("\n".join(map(str, paths)))

    def verdicts(self, count: int) -> list[str]:
        self.until(lambda: len(self.all(".verdict")) >= count)
        return [element.text for element in self.all(".verdict")]

    def player_time(self) -> float:
        return self.script("return document.querySelector('video').currentTime")

    def until_playable(self) -> None:
        ready = "const v = document.querySelector('video'); return v && v.readyState"
        self.until(lambda: (self.script(ready) or 0) >= 2)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]  # pyright: ignore


@pytest.fixture(scope="module")
def page(server, tmp_path_factory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    named = ("headless=new", "no-sandbox", "disable-gpu", f"user-data-dir={profile}")
    for word in (*named, *QUIET):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Page(driver, f"http://127.0.0.1:{server.port}/")
    driver.quit()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    hostile = "<img src=x onerror=document.title='taken'>.mp4"
    return [
        write_video(folder / "windows.mp4", 90, seed=1),  # 3.6 s in three windows
        write_video(folder / hostile, 12, seed=2),
        write_video(folder / "short.mp4", 2),
    ]


def test_a_file_is_dropped_and_a_click_leads_the_player(page, videos):
    page.open()
    states = "window.seen = new Set(); new MutationObserver(() => document"
    states += ".querySelectorAll('.state').forEach((s) => window.seen.add("
    states += (
        "s.textContent))).observe(document.body, {subtree: true, childList: true})"
    )
    page.script(states)
    page.choose(videos[0])  # into the file field; then a true drop of the same file
    page.script(
        "const t = new DataTransfer(); t.items.add(new File([arguments[0]], 'no.mp4'));"
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: t,"
        "bubbles: true, cancelable: true}))",
        "not a video",
    )
    (said,) = page.verdicts(1)
    words = ("Likely fake", "Uncertain", "Likely not", "Not called fake", "Unfamiliar")
    assert said.startswith(words)
    seen = page.until(
        lambda: (
            (s := " ".join(page.script("return [...window.seen]")))
            and "Not taken" in s
            and s
        )
    )
    for state in ("Sending", "Waiting", "no container of videos", "Done"):
        assert state in seen
    page.until_playable()
    curve = page.one(".curve")
    width = curve.rect["width"]
    ActionChains(page.driver).move_to_element_with_offset(
        curve, int(width / 4), 0
    ).click().perform()
    # Three quarters of the time of the curve, whose end is that of the last frame.
    assert page.player_time() == pytest.approx(0.75 * 3.56, abs=0.1)
    page.all(".thumbs button")[0].click()
    assert page.player_time() < 1.0
    later = page.all(".thumbs button")[-1]
    page.script("arguments[0].scrollIntoView()", later)
    later.click()
    assert page.player_time() > 2.0
    page.all(".lane details summary")[0].click()
    heat = page.one(".moment button[aria-pressed]")
    picture = page.one(".moment img").get_attribute("src")
    heat.click()
    assert page.one(".moment img").get_attribute("src") != picture
    assert [link.text for link in page.all(".downloads a")] == [
        *("This evidence as a page", "Result (JSON)", "Faces (CSV)"),
    ]
    page.one(".downloads button").click()
    made = page.until(lambda: page.all(".downloads li:last-child a"))[0]
    assert made.text == "Annotated video"
    assert page.script("return document.activeElement") == made
    fetched = "const a = arguments[1]; fetch(arguments[0].href).then(async (r) => a("
    fetched += "[r.status, r.headers.get('content-type'), (await r.blob()).size]))"
    status, kind, size = page.driver.execute_async_script(fetched, made)
    assert (status, kind) == (200, "video/mp4") and size > 1000
    page.one(".job:last-child .buttons button:last-child").click()
    page.until(lambda: not page.all(".verdict"))


def test_several_at_once_in_a_narrow_window_and_names_that_are_markup(
    page, server, videos
):
    page.open(375, 800)
    page.choose(*videos)
    page.verdicts(3)
    assert page.script("return document.documentElement.scrollWidth") <= 375
    names = {element.text for element in page.all(".job h2")}
    assert names == {path.name for path in videos}
    assert page.driver.title == "Is a face in this video forged?"
    assert "No verdict: too short" in [element.text for element in page.all(".verdict")]
    page.driver.refresh()  # what was handed in is found again
    page.verdicts(3)
    for _ in videos:
        page.one(".job .buttons button:last-child").click()
        time.sleep(0.1)
    page.until(lambda: not page.all(".job"))
    assert not [m for m in page.errors() if "Content Security Policy" in m]


def test_all_of_it_works_by_keyboard_alone(page, videos):
    page.open()
    page.choose(videos[0])
    page.verdicts(1)
    page.until_playable()
    reached = []
    body = ActionChains(page.driver)
    page.script("document.activeElement.blur()")
    described = "const e = document.activeElement; return [e.tagName + '.' + ("
    described += "e.getAttribute('class') || e.id), e.getAttribute('aria-label') ||"
    described += "e.textContent.trim() || (e.labels && e.labels[0].textContent)]"
    for _ in range(60):
        body.send_keys(Keys.TAB).perform()
        tag, name = page.script(described)
        assert name or tag.startswith("BODY"), tag  # a control without a name
        reached.append(tag)
        if tag == "svg.curve":
            break
    assert {"INPUT.files", "BUTTON.plain", "svg.curve"} <= set(reached)
    before = page.player_time()
    body.send_keys(Keys.END).perform()
    assert page.player_time() > before + 1
    assert "fake" in page.one(".curve").get_attribute("aria-valuetext")
    page.script("document.querySelector('.job .buttons button:last-child').focus()")
    body.send_keys(Keys.ENTER).perform()
    page.until(lambda: not page.all(".job"))
    assert page.script("return document.activeElement.id") == "files"
    assert page.errors() == []  # the player asks for nothing that is deleted


def test_made_videos_are_behind_one_click_and_the_reference_opens(page, server):
    page.open()
    page.until(lambda: page.one("#sample").is_displayed())
    page.one("#sample").click()
    page.verdicts(2)
    assert {e.text for e in page.all(".job h2")} == {
        *("made forgery.mp4", "made original.mp4")
    }
    assert "trained on made videos" in page.one("#warning").text
    page.driver.get(f"{page.address}docs")
    page.until(lambda: "POST /v1/videos" in page.one("#calls").text)
    assert page.errors() == []
