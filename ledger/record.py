"""The record of measured errors: a line a quantity, a file a family of processors.

The bound that a docstring promises holds on every machine. What is measured below it differs from
one family of processors to another, whose vectorised exp and pow round otherwise, so that each has
a file of its own and is compared with that alone.
"""

import csv
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

FOLDER = Path(__file__).with_name("records")

# The family that has every line.
SHOWN = "amd-avx512"

Key = tuple[str, str, str, str]


class Line(NamedTuple):
    """One line of the record.

    loss: its name, and the set of options after a comma.
    exponent: the gamma, beta or power, as text; "1-" and "1+" are the neighbours of 1.
    ulp: the largest error in units in the last place, where the true result is a normal number.
    share: the largest part of what is allowed at a point, by the bound in the docstring.
    points: at how many points.
    logit: where the error is `ulp`, of a loss of one logit.
    below: the largest error below the normal numbers, in smallest subnormals, beyond `ulp`.
    """

    loss: str
    quantity: str
    dtype: str
    exponent: str
    ulp: float
    share: float
    points: int
    logit: float | None = None
    below: float | None = None

    @property
    def key(self) -> Key:
        """What names the line."""
        return self.loss, self.quantity, self.dtype, self.exponent

    @property
    def is_within_bounds(self) -> bool:
        """Whether the error is what the docstring promises, or less."""
        return self.share <= 1


def processor() -> str:
    """The family of this machine's processor: its vendor, and the instructions that torch uses."""
    vendors = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
    vendor = vendors.get(_vendor(), platform.machine() or "unknown")
    name = f"{vendor} {torch.backends.cpu.get_cpu_capability()}"
    return re.sub(r"\W+", "-", name.lower())


def _vendor() -> str:
    """The vendor as Linux knows it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(": ")[2] for line in lines if line.startswith("vendor_id")), "")


def path(family: str | None = None) -> Path:
    """The file of a family; of this machine's by default."""
    return FOLDER / f"{family or processor()}.csv"


def read(family: str | None = None) -> dict[Key, Line]:
    """The lines of a family; none if it has no file yet."""
    file = path(family)
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as text:
        lines = [_line(row) for row in csv.DictReader(text)]
    return {line.key: line for line in lines}


def _line(row: Mapping[str, str]) -> Line:
    return Line(
        row["loss"],
        row["quantity"],
        row["dtype"],
        row["exponent"],
        float(row["ulp"]),
        float(row["share"]),
        int(row["points"]),
        float(row["logit"]) if row["logit"] else None,
        float(row["below"]) if row["below"] else None,
    )


def write(lines: Iterable[Line], family: str | None = None) -> Path:
    """Write the file of a family, sorted; the path."""
    file = path(family)
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Line._fields)
        for line in sorted(lines, key=lambda line: line.key):
            below = "" if line.below is None else f"{line.below:.3f}"
            logit = "" if line.logit is None else repr(line.logit)
            numbers = (f"{line.ulp:.3f}", f"{line.share:.3f}", line.points, logit, below)
            writer.writerow((*line.key, *numbers))
    return file
