"""Links of the pages to files of the repository, which a reader on GitHub follows as they are.

On the site a file that is a page there is linked as that page, every other one on GitHub.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GITHUB = "https://github.com/parfocal/parfocal"
# Files that the site shows under another name.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "reference/benchmarks.md",
}
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def rewrite(text: str, folder: Path) -> str:
    """The text of a page in a folder, with its links as the site has them."""

    def link(match: re.Match[str]) -> str:
        words, path, anchor = match[1], match[2], match[3] or ""
        target = (folder / path).resolve()
        name = os.path.relpath(target, ROOT)
        if name in PAGES:
            page = os.path.relpath(DOCS / PAGES[name], folder)
            return f"[{words}]({page}{'' if name == 'README.md' else anchor})"
        if target.is_relative_to(DOCS) and not target.is_dir():
            # A page that is made beside Sphinx is a file to the browser alone.
            is_made = target.suffix == ".html"
            return f'<a href="{path}{anchor}">{words}</a>' if is_made else match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"[{words}]({GITHUB}/{kind}/main/{name}{anchor})"

    return LINK.sub(link, text)


def rewrite_source(app: Sphinx, page: str, source: list[str]) -> None:
    """The links of a page that was read."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md":
        source[0] = rewrite(source[0], path.parent)


def rewrite_included(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    """The links of a file that a page includes, which are relative to that file."""
    source[0] = rewrite(source[0], (app.srcdir / path).resolve().parent)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to what is read."""
    app.connect("source-read", rewrite_source)
    app.connect("include-read", rewrite_included)
    return {"parallel_read_safe": True}
