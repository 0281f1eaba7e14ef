"""The files that go into a page, as text: style, scripts, and the policy that lets in no others."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str:
    """A file of this room."""
    return files("parfocal.pages").joinpath(name).read_text(encoding="utf-8")


def style() -> str:
    """The style sheet of all pages, uPlot's first."""
    return _licensed(asset("vendor/uPlot.min.css")) + asset("style.css")


def shared_scripts() -> list[str]:
    """uPlot, and what all pages share, in the order in which they need each other."""
    names = ("page.js", "cells.js", "scales.js", "paint.js", "chart.js")
    return [_licensed(asset("vendor/uPlot.iife.min.js")), *map(asset, names)]


def _licensed(text: str) -> str:
    """uPlot's notice goes with each copy."""
    return f"/* uPlot. {asset('vendor/LICENSE')}*/\n{text}\n"


def policy(scripts: Sequence[str]) -> str:
    """Nothing from elsewhere, no script but these, by their digests."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
