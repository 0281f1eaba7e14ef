"""The package as a whole: what it exports, what it imports, and in which direction."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parfocal
from parfocal.__main__ import OPTIONAL

ROOT = Path(parfocal.__file__).parent

# What each room may import of the others.
ALLOWED = {
    "numerics": set(),
    "losses": {"numerics"},
    "floats": set(),
    "places": set(),
    "audit": {"floats", "places"},
    "testing": {"audit"},
    "monitor": {"floats", "places", "numerics"},
    "callbacks": {"monitor"},
    "boosting": {"numerics"},
    "jax": set(),
    "experiments": {"losses", "audit", "numerics", "monitor"},
    "cli": {"experiments", "audit", "monitor", "places"},
    "__main__": {"cli"},
    "__init__": {"losses"},
}


def _files():
    return sorted(ROOT.rglob("*.py"))


def _room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    """cli -> experiments -> losses | audit -> numerics -> torch, and audit judges without us."""
    room = _room(path)
    for name in _imports(path):
        if name.startswith("parfocal."):
            other = name.split(".")[1]
            if other in ALLOWED:
                assert other == room or other in ALLOWED[room], f"{path} imports {name}"


def test_rooms_are_all_known():
    """A new room has to say what it imports."""
    assert {_room(path) for path in _files()} == set(ALLOWED)


def test_contributing_has_the_same_rooms():
    """Its table says of each room what this one does."""
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (nothing|`[\w`, ]+`) \|$",
        Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text(),
        re.MULTILINE,
    )
    assert {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows} == ALLOWED
    assert len(rows) == len(ALLOWED)


def _modules():
    return [name for _, name, _ in pkgutil.walk_packages(parfocal.__path__, "parfocal.")]


@pytest.mark.parametrize("name", ["parfocal", *_modules()])
def test_all_is_sorted_and_complete(name):
    """Where there is an __all__ it names each public thing that the module shows."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        return
    # Constants, classes, functions, as the linter has them.
    kinds = {name: 0 if name.isupper() else 1 if name[0].isupper() else 2 for name in listed}
    assert list(listed) == sorted(listed, key=lambda name: (kinds[name], name))
    public = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and not isinstance(value, type(sys))
    }
    assert set(listed) == public


def test_import_takes_nothing_optional():
    """torch alone; checked in a process of its own."""
    code = (
        "import sys, torch; before = set(sys.modules); import parfocal; "
        f"print(sorted(({set(OPTIONAL)!r} & set(sys.modules)) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_things_say_what_they_are():
    """Each has a docstring with an example."""
    for name in parfocal.__all__:
        assert ">>>" in getattr(parfocal, name).__doc__, name
