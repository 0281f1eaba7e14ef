"""Inventories of other sites for intersphinx, from a table of the names that ours mentions.

A build needs no network, and a link can't change without a change here.
"""

import tomllib
import zlib
from pathlib import Path
from tempfile import mkdtemp


def write(table: Path) -> dict[str, tuple[str, str]]:
    """The `intersphinx_mapping` of a table; its inventories are written to a temporary folder."""
    folder = Path(mkdtemp(prefix="inventories-"))
    mapping = {}
    for name, entries in tomllib.loads(table.read_text(encoding="utf-8")).items():
        base = entries.pop("base")
        path = folder / f"{name}.inv"
        path.write_bytes(inventory(name, entries))
        mapping[name] = (base, str(path))
    return mapping


def inventory(project: str, entries: dict[str, list[str]]) -> bytes:
    """The bytes of an `objects.inv`, version 2: a header, and the compressed lines of the names."""
    header = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n# The remainder of this file is compressed using zlib.\n"  # noqa: E501
    lines = [
        f"{name} py:{kind} 1 {page if '#' in page else f'{page}#{name}'} -\n"
        for name, (kind, page) in entries.items()
    ]
    return header.encode() + zlib.compress("".join(lines).encode())
