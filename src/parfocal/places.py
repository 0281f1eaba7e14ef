"""A function or a class by its place: `package.module:name`, or `path/file.py:name`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


class PlaceError(Exception):
    """There is nothing to be called at a place."""


def load(place: str) -> Any:
    """What is there. It runs the code of the module.

    >>> load("math:sqrt")(9.0)
    3.0

    Raises:
        PlaceError: no such file or name, or nothing that can be called.
        ImportError: a module that can't be imported.
    """
    module_name, separator, name = place.partition(":")
    if not separator or not name:
        raise PlaceError(f"expected package.module:name or path/file.py:name, got {place!r}")
    is_file = module_name.endswith(".py")
    module = _of_file(module_name) if is_file else importlib.import_module(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise PlaceError(f"{module_name} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise PlaceError(f"{place} is no function and no class")
    return found


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
