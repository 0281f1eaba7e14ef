"""The explorer as one file: `python docs/explorer/build.py [explorer.html]`.

The modules of this folder become functions of one script, each of which gives what it exports; the
style and the charts are those of all pages of parfocal.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from parfocal import __version__
from parfocal.pages.assets import policy, shared_scripts, style

HERE = Path(__file__).resolve().parent

# A loop of torch takes two vectors of 32 bytes at a time: 32 numbers of 16 bits. What is left goes
# to a scalar loop.
TAIL = 32

TABLE = (
    "<details><summary>The numbers as a table</summary>"
    '<div class="scroll" tabindex="0" role="region" aria-label="numbers of {name}">'
    "<table><thead></thead><tbody></tbody></table></div></details>"
)


def build(out: Path) -> Path:
    """Write the page; gives its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(), encoding="utf-8")
    return out


def page() -> str:
    """The page as text."""
    scripts = [*shared_scripts(), bundle("view.js")]
    values = {
        **versions(),
        "tail": str(TAIL),
        "policy": policy(scripts),
        "style": style() + read("explorer.css"),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    text = re.sub(r'(id="(\w+)".*?)\{\{table\}\}', _with_table, read("explorer.html"))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], text)


def _with_table(found: re.Match[str]) -> str:
    return found[1] + TABLE.format(name=found[2])


def versions() -> dict[str, str]:
    """Of what the page computes as; the tests hold them to what they compare it with."""
    return {**json.loads(read("versions.json")), "parfocal": __version__}


def bundle(entry: str) -> str:
    """A module and all that it imports, as one script."""
    parts = [f"const {_name(name)} = (() => {{\n{_body(name)}}})();" for name in order(entry)]
    return '"use strict";\n' + "\n".join(parts) + "\n"


def order(entry: str) -> list[str]:
    """The modules, each after those that it imports."""
    found: list[str] = []

    def visit(name: str) -> None:
        for _, other in _imports(name):
            visit(other)
        if name not in found:
            found.append(name)

    visit(entry)
    return found


_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:const|function) (\w+))", re.MULTILINE)


def _imports(name: str) -> Iterator[tuple[str, str]]:
    for found in _IMPORT.finditer(read(name)):
        yield found[1].strip(), found[2]


def _body(name: str) -> str:
    """A module as the body of a function that returns its exports."""
    text = read(name)
    exported = ", ".join(found[2] for found in _EXPORT.finditer(text))
    text = _IMPORT.sub(lambda found: f"const {{{found[1]}}} = {_name(found[2])};\n", text)
    return f"{_EXPORT.sub(lambda found: found[1], text)}return {{{exported}}};\n"


def _name(module: str) -> str:
    return f"module_{module.removesuffix('.js')}"


def read(name: str) -> str:
    """A file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "explorer.html")))
