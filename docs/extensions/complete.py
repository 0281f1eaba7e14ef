"""What a finished site is held to: every public name is described, every link leads somewhere.

What isn't so is a warning, and so an error of `make docs`. Nothing is asked of a network: of links
to other hosts it is only seen that no page loads anything from there.
"""

import importlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

MODULES = ["parfocal", "parfocal.audit", "parfocal.boosting", "parfocal.guard", "parfocal.jax"]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
log = logging.getLogger(__name__)


class Page(HTMLParser):
    """The links, anchors and loaded files of a page."""

    def __init__(self, text: str) -> None:
        """Read it."""
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names, links or loads."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        loaded = values.get(LOADS.get(tag, ""), "")
        if loaded and values.get("rel") not in ("canonical", "index", "next", "prev", "search"):
            self.loads.append(loaded)


def undescribed(app: Sphinx) -> set[str]:
    """Public names without a place in the reference; one of two modules is described in one."""
    described = {identity(name) for name in app.env.domains["py"].objects}
    public = {f"{m}.{name}" for m in MODULES for name in importlib.import_module(m).__all__}
    return {name for name in public if identity(name) not in described}


def identity(name: str) -> int | str:
    """The same for two names of one object."""
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        return name
    return id(found)


def faults(folder: Path) -> list[str]:
    """Links that lead nowhere, and files of other hosts, in the pages of a folder."""
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.html")
        if "_static" not in path.parts
    }
    found = []
    for path, page in pages.items():
        shown = path.relative_to(folder)
        found += [f"{shown} loads {url}" for url in page.loads if urlsplit(url).netloc]
        for link in (*page.links, *page.loads):
            url = urlsplit(link)
            if url.scheme or url.netloc or link in ("", "#"):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            there = pages.get(target)
            if not target.exists():
                found.append(f"{shown}: no {link}")
            elif there and url.fragment and unquote(url.fragment) not in there.anchors:
                found.append(f"{shown}: no anchor {link}")
    return found


def hold(app: Sphinx, error: Exception | None) -> None:
    """Warn of what is missing, after a build that succeeded."""
    if error is not None or app.builder.format != "html":
        return
    for name in sorted(undescribed(app)):
        log.warning("%s is public, and on no page of the reference", name)
    for fault in faults(Path(app.outdir)):
        log.warning("%s", fault)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of a build, behind whatever else writes pages then."""
    app.connect("build-finished", hold, priority=900)
    return {"parallel_read_safe": True}
