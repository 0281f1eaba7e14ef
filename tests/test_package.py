"""The package as a whole: what it exports, what it imports, and in which direction."""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import parfocal
from parfocal.extras import COMMANDS, MODULES

ROOT = Path(parfocal.__file__).parent

# What each room may import of the others.
ALLOWED = {
    "numerics": set(),
    "losses": {"numerics"},
    "extras": set(),
    "floats": set(),
    "places": set(),
    "pages": set(),
    "audit": {"extras", "floats", "pages", "places"},
    "testing": {"audit", "extras"},
    "guard": {"extras", "floats", "places", "numerics"},
    "monitor": {"guard"},
    "callbacks": {"guard"},
    "boosting": {"extras", "numerics"},
    "jax": {"extras"},
    "integrations": {"guard", "losses", "numerics", "places"},
    "experiments": {"losses", "audit", "extras", "numerics", "guard", "pages", "places"},
    "cli": {"experiments", "audit", "extras", "guard", "places"},
    "__main__": {"cli", "extras"},
    "__init__": {"losses", "guard"},
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


# The files of the rooms that a loss goes through, from the top.
LAYERS = {
    "numerics": [
        {"__init__"},
        {"linear_sums"},
        {"linear_operators"},
        {"linear"},
        {"sums"},
        {"forms", "matching", "operators"},
        {"autograd"},
        {"backends"},
        {"cpu", "triton"},
        {"derivatives", "hard", "likelihood", "margin", "negative", "products", "region"},
        {"closed_form", "data"},
        {"tracing"},
    ],
    "numerics/cpu": [
        {"__init__"},
        {"asymmetric", "elementwise", "classes", "binary_regions", "class_regions"},
        {"blocks"},
        {"threads", "memory"},
    ],
    "numerics/triton": [
        {"__init__"},
        {"elementwise", "classes"},
        {"losses", "smoothed", "tiles"},
        {"rows"},
        {"launch", "arithmetic"},
    ],
    "losses": [
        {"region_modules"},
        {"modules"},
        {"linear", "softmax_asymmetric", "unified"},
        {"tversky", "sigmoid", "softmax", "matching"}
        | {"varifocal", "gaussian", "quality", "asymmetric", "poly", "likelihood"},
        {"scale"},
        {"positions", "rows"},
        {"reduction", "setup", "balance", "schedule"},
        {"checks"},
        {"values"},
        {"numbers"},
    ],
}


@pytest.mark.parametrize("room", LAYERS)
def test_no_import_points_upward(room):
    """Nor sideways."""
    rank = {name: place for place, layer in enumerate(LAYERS[room]) for name in layer}
    prefix = f"parfocal.{room.replace('/', '.')}."
    seen = {path.relative_to(ROOT / room).with_suffix("").parts[0] for path in _of_room(room)}
    assert seen - {"__init__"} == set(rank) - {"__init__"}
    for path in _of_room(room):
        name = path.relative_to(ROOT / room).with_suffix("").parts[0]
        for imported in _imports(path):
            target = imported.removeprefix(prefix).split(".")[0]
            if not imported.startswith(prefix) or target == name or target not in rank:
                continue
            assert rank[target] > rank.get(name, -1), f"{path} imports {imported}"


def _of_room(room):
    return [path for path in _files() if (ROOT / room) in path.parents]


# Rooms under their former names, whose import warns.
FORMER = ("monitor", "callbacks")


def _modules():
    rooms = [name for _, name, _ in pkgutil.iter_modules(parfocal.__path__) if name not in FORMER]
    inner = (
        name
        for room in rooms
        for _, name, _ in pkgutil.walk_packages([str(ROOT / room)], f"parfocal.{room}.")
    )
    return [*(f"parfocal.{room}" for room in rooms), *inner]


@pytest.mark.parametrize(
    ("former", "now", "name"),
    [
        ("monitor", "guard", "FocalGuard"),
        ("callbacks.lightning", "guard.lightning", "FocalGuardCallback"),
        ("callbacks.transformers", "guard.transformers", "FocalGuardCallback"),
    ],
)
def test_former_names_work_and_warn(former, now, name):
    """What a training imported from there is what it is called now."""
    for module in [m for m in sys.modules if m.startswith(f"parfocal.{former.split('.')[0]}")]:
        del sys.modules[module]
    with pytest.warns(FutureWarning, match=r"parfocal\.guard"):
        module = importlib.import_module(f"parfocal.{former}")
    assert getattr(module, name) is getattr(importlib.import_module(f"parfocal.{now}"), name)


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
        for key in dir(module)
        if not key.startswith("_") and not isinstance(getattr(module, key), type(sys))
    }
    assert set(listed) == public


def test_losses_are_listed_alike_for_tools_and_for_imports():
    """What a type checker sees imported is what is imported from there at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    seen = {
        alias.name: node.module.removeprefix("parfocal.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("parfocal.")
        for alias in node.names
    }
    assert seen == parfocal._FILES
    assert set(seen) == set(parfocal.__all__) == set(dir(parfocal))
    names = {}
    exec("from parfocal import *", names)
    assert set(seen) <= set(names)
    with pytest.raises(AttributeError, match="'parfocal' has no attribute 'focal'"):
        _ = parfocal.focal


def _child(code, *arguments, **environment):
    """What a process of its own prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_import_takes_nothing_optional():
    """torch alone, and that only when a loss is asked for."""
    optional = set().union(*MODULES.values())
    code = f"""
import sys, parfocal
print("torch" in sys.modules)
import torch
before = set(sys.modules)
from parfocal import *
print(sorted(({optional!r} & set(sys.modules)) - before))
"""
    assert _child(code).split("\n") == ["False", "[]", ""]


_ASKED = ("--help", "--version", "", "tarin", "train --helq", "sweep --help", "status", "replay")


def test_command_line_starts_without_torch():
    """Help, version, a typo, wrong usage and completions load no more than click and rich."""
    code = """
import os, sys
from parfocal.__main__ import main
for words in sys.argv[1:]:
    line, _, completed = words.partition("|")
    sys.argv = ["parfocal", *line.split()]
    os.environ.pop("_PARFOCAL_COMPLETE", None)
    if completed:
        os.environ |= {"_PARFOCAL_COMPLETE": "bash_complete", "COMP_WORDS": completed,
                       "COMP_CWORD": str(len(completed.split()) - 1)}
    try:
        main()
    except SystemExit as end:
        print("status", end.code)
print({"torch", "numpy", "msgspec"} & set(sys.modules))
"""
    output = _child(code, *_ASKED, "|parfocal st", "|parfocal train --checkpoint")
    statuses = [line.split()[1] for line in output.splitlines() if line.startswith("status ")]
    assert statuses == ["0", "0", "0", "2", "2", "0", "2", "2", "0", "0"]
    assert "plain,status" in output
    assert "plain,--checkpoint-seconds" in output
    assert output.endswith("set()\n")


def test_command_line_starts_in_a_third_of_what_torch_takes():
    """Measured beside each other, so that it holds on a slow or busy machine."""
    begin = time.perf_counter()
    _child("import torch")
    whole = time.perf_counter() - begin
    starts = []
    for _ in range(3):
        begin = time.perf_counter()
        _child("from parfocal.__main__ import main; main()", "--help")
        starts.append(time.perf_counter() - begin)
    assert min(starts) < whole / 3


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_what_the_table_says(name):
    """The line in the list of commands is the first of the command's own help."""
    command = getattr(importlib.import_module(f"parfocal.cli.{name}"), name)
    first, _, rest = command.help.partition("\n")
    assert first == COMMANDS[name].summary
    assert command.name == name
    assert not rest.strip() or rest.startswith("\n")


def test_public_things_say_what_they_are():
    """Each has a docstring with an example."""
    for name in parfocal.__all__:
        assert ">>>" in getattr(parfocal, name).__doc__, name
