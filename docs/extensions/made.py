"""Pages of their own that the site carries: the explorer, and the report of the experiments."""

import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
REPORTS = ["reproduction/report.html"]


def carry(app: Sphinx, error: Exception | None) -> None:
    """Build or copy them beside the other pages."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    subprocess.run(
        [sys.executable, DOCS / "explorer" / "build.py", site / "explorer.html"], check=True
    )
    for report in REPORTS:
        (site / report).parent.mkdir(exist_ok=True)
        shutil.copy(DOCS / report, site / report)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of a build."""
    app.connect("build-finished", carry)
    return {"parallel_read_safe": True}
