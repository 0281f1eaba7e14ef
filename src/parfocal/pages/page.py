"""A template as one file: style and scripts are inside it, and nothing is fetched."""

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from parfocal import __version__
from parfocal.pages.assets import policy, shared_scripts, style

# Where pages send their readers.
DOCS = "https://github.com/parfocal/parfocal/blob/main/docs"


class Made(NamedTuple):
    """What stands at the foot of a page: the command that made it, when, and with which versions.

    day: empty where the page has to be the same whenever it is made.
    """

    command: str
    day: str
    versions: Mapping[str, str]


def made_by(command: str, *packages: str) -> Made:
    """Made now, by this parfocal, this Python, and the packages, which aren't imported for it."""
    others = {name: metadata.version(name) for name in packages}
    return Made(
        command, today(), {"parfocal": __version__, **others, "Python": platform.python_version()}
    )


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
    own = [*shared_scripts(), *scripts]
    return environment.get_template(template).render(
        made=made,
        policy=policy(own),
        scripts=[Markup(script) for script in own],
        style=Markup(style()),
        **values,
    )
