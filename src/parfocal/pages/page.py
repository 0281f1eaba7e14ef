"""A template as one file: style and scripts are inside it, and nothing is fetched."""

import base64
import datetime
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from parfocal import __version__

# Where pages send their readers.
DOCS = "https://github.com/parfocal/parfocal/blob/main/docs"


class Made(NamedTuple):
    """What stands at the foot of a page: the command that made it, when, and with which versions.

    day: empty where the page has to be the same whenever it is made.
    """

    command: str
    day: str
    versions: Mapping[str, str]


def made_by(command: str, **others: str) -> Made:
    """Made now, by this parfocal, this Python, and the others."""
    return Made(command, today(), versions(**others))


def versions(**others: str) -> dict[str, str]:
    """Of parfocal, the others and Python."""
    return {"parfocal": __version__, **others, "Python": platform.python_version()}


def today() -> str:
    """The day in UTC, or that of SOURCE_DATE_EPOCH where it is set."""
    second = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.UTC)
    moment = now if second is None else datetime.datetime.fromtimestamp(int(second), datetime.UTC)
    return moment.date().isoformat()


def render(
    package: str, template: str, made: Made, *, scripts: Sequence[str] = (), **values: Any
) -> str:
    """HTML, of a template that extends `base.html`; what it is given is escaped.

    Args:
        package: whose folder `templates` has the template.
        template: its name.
        made: for the foot.
        scripts: the page's own, as text, after those of charts and cells.
        values: for the template.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, "templates"), PackageLoader("parfocal.pages", "templates")]
        ),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = [*_scripts(), *scripts]
    return environment.get_template(template).render(
        made=made,
        policy=_policy(own),
        scripts=[Markup(script) for script in own],
        style=Markup(style()),
        **values,
    )


@cache
def asset(name: str) -> str:
    """A file of this room."""
    return files("parfocal.pages").joinpath(name).read_text(encoding="utf-8")


def style() -> str:
    """The style sheet of all pages, uPlot's first."""
    return _licensed(asset("vendor/uPlot.min.css")) + asset("style.css")


def _scripts() -> list[str]:
    return [
        _licensed(asset("vendor/uPlot.iife.min.js")),
        asset("page.js"),
        asset("cells.js"),
        asset("scales.js"),
        asset("chart.js"),
    ]


def _licensed(text: str) -> str:
    """uPlot's notice goes with each copy."""
    return f"/* uPlot. {asset('vendor/LICENSE')}*/\n{text}\n"


def _policy(scripts: Sequence[str]) -> str:
    """Nothing from elsewhere, no script but these, by their digests."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
