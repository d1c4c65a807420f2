"""What `make docs` built loads nothing from elsewhere: no script, font, style or picture. Its last step."""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

SITE = Path(__file__).parents[1] / "site"
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
# The theme's script fetches what such a block needs, from a host of others, when there is one in a page.
_FETCHED_FOR = {"mermaid", "pyodide", "glightbox"}


class _Page(HTMLParser):
    """Collects what a browser would load for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.loaded.append(attributes.get(_LOADED.get(tag, "")) or "")
        self.loaded += re.findall(r"url\(([^)]*)\)", attributes.get("style") or "")
        self.loaded += _FETCHED_FOR & set((attributes.get("class") or "").split())


def from_elsewhere(site: Path) -> Iterator[str]:
    """Yield each thing that a page or a style sheet would load from another host."""
    for page in site.rglob("*.html"):
        reader = _Page()
        reader.feed(page.read_text())
        yield from (
            f"{page.relative_to(site)}: {what}"
            for what in reader.loaded
            if what in _FETCHED_FOR or re.match(r"(?:[a-z]+:)?//", what.strip("'\" "))
        )
    for sheet in site.rglob("*.css"):
        for what in re.findall(r"url\(['\"]?((?:[a-z]+:)?//[^)]*)\)|@import", sheet.read_text()):
            yield f"{sheet.relative_to(site)}: {what}"


if __name__ == "__main__":
    pages = list(SITE.rglob("*.html"))
    if wrong := list(from_elsewhere(SITE)) if pages else ["there is no site/: run `make docs`"]:
        sys.exit("\n".join(wrong))
