"""Checks a built site: every link within it leads to a file and to a place in it, and
no page needs a script or style from elsewhere, so that it can be read and searched
without a network.

python docs/check_links.py build/site
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ELSEWHERE = re.compile(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)")  # in CSS
LOADED = {"stylesheet", "preload", "modulepreload"}  # rel of what a page needs


class Page(HTMLParser):
    """The ids of a page, and what it links to and shows."""

    def __init__(self, text: str):
        """Reads the page."""
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.needs: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what the attributes of a tag say."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)
                rel = (dict(attrs).get("rel") or "").lower().split()
                if tag == "script" or (tag == "link" and LOADED.intersection(rel)):
                    self.needs.append(value)


def broken(site: Path) -> list[str]:
    """Links of a site that lead nowhere or out of it, each as "page: link"."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [
        f"{path.relative_to(site)}: needs {need}"
        for path in sorted(site.rglob("*.css"))
        for need in ELSEWHERE.findall(path.read_text())
    ]
    for path, page in pages.items():
        for need in page.needs:
            if urlsplit(need).netloc:
                found.append(f"{path.relative_to(site)}: needs {need}")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            place = unquote(parts.fragment)
            lost = place and target in pages and place not in pages[target].ids
            if not target.exists() or lost:
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def main() -> int:
    """Prints what is broken; returns 1 where something is."""
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").exists():
        print(f"{site} holds no site; run `make docs`")
        return 1
    found = broken(site)
    print("\n".join(found) or f"every link within {site.name} leads somewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
