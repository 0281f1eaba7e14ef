"""What a text names: a function or a class by its place, and the nearest of known names."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class PlaceError(Exception):
    """There is nothing to be called at a place."""


def load(place: str) -> Any:
    """What is at `package.module:name` or `path/file.py:name`. It runs the code of the module.

    >>> load("math:sqrt")(9.0)
    3.0

    Raises:
        PlaceError: no such file or name, or nothing that can be called.
        ImportError: a module that can't be imported.
    """
    module_name, separator, name = place.partition(":")
    if not separator or not name:
        dotted = re.fullmatch(r"(\w+(?:\.\w+)*)\.(?!py$)(\w+)", place)
        hint = f"; did you mean '{dotted[1]}:{dotted[2]}'?" if dotted else ""
        raise PlaceError(f"expected package.module:name or path/file.py:name, got {place!r}{hint}")
    is_file = module_name.endswith(".py")
    module = _of_file(module_name) if is_file else importlib.import_module(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            hint = did_you_mean(part, public)
            raise PlaceError(f"{module_name} has no {name}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise PlaceError(f"{place} is neither a function nor a class")
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that nobody knows; empty where no other is near.

    >>> did_you_mean("mnsit", ["mnist", "segmentation"])
    "; did you mean 'mnist'?"
    >>> did_you_mean("cat", ["mnist"])
    ''
    """
    folded = {word.casefold(): word for word in known if word != name}
    near = get_close_matches(name.casefold(), folded, 1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _of_file(file: str) -> Any:
    """The module of a file, which may import its neighbours."""
    path = Path(file).resolve()
    if not path.is_file():
        raise PlaceError(f"no file {file}")
    name = f"parfocal_loaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
