"""How the pictures of the pages look, and where they are written."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11.0,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "parfocal",
}


def draw(figures: Mapping[str, Callable[[], Figure]], folder: Path) -> None:
    """Make each figure, into the file of its name."""
    with mpl.rc_context(STYLE):
        for name, figure in figures.items():
            figure().savefig(folder / name, metadata={"Date": None}, facecolor="white")


def chosen_folder() -> Path:
    """The one that the command line names, or this one."""
    return Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
