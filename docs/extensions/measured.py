"""Tables of what was measured: accuracy from the ledger's records, cost from the benchmarks."""

import csv
import re
from collections import defaultdict
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.nodes import nested_parse_with_titles

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "ledger" / "records").glob("*.csv"))
RESULTS = ROOT / "benchmarks" / "results.csv"
TIMES = ("ours_ms", "theirs_ms")
DTYPES = ["float64", "float32", "float16", "bfloat16"]
QUANTITIES = {
    "value": "value",
    "gradient": "gradient",
    "curvature": "second derivative",
    "gamma_gradient": "gradient in gamma",
    "target_gradient": "gradient in the targets",
}


def errors(loss: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """The worst error in ULP over all processors: by case, quantity and dtype, then exponent."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for record in RECORDS:
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name, _, case = row["loss"].partition(", ")
                other = re.search(r"\((jax|optax)\)", row["loss"] + row["quantity"])
                if name != loss or other or not row["ulp"]:
                    continue
                at = found[case, row["quantity"], row["dtype"]]
                at[row["exponent"]] = max(float(row["ulp"]), at.get(row["exponent"], 0.0))
    return found


def words(quantity: str) -> str:
    """A quantity of the ledger as it is read.

    >>> words("soft gamma_gradient")
    'gradient in gamma, soft targets'
    """
    is_soft, stem, how = parts(quantity)
    return QUANTITIES[stem] + (", soft targets" if is_soft else "") + (f" ({how})" if how else "")


def parts(quantity: str) -> tuple[bool, str, str]:
    """Whether targets are soft, what is measured, and the way that it is computed.

    >>> parts("soft gradient (summed)")
    (True, 'gradient', 'summed')
    """
    stem, _, how = quantity.removeprefix("soft ").partition(" (")
    return quantity.startswith("soft "), stem, how.rstrip(")")


def accuracy(loss: str) -> list[list[str]]:
    """The rows of a loss's table, the head first."""
    found = errors(loss)
    exponents = sorted({e for at in found.values() for e in at}, key=sortable)
    has_cases = any(case for case, _, _ in found)
    head = [*(["case"] if has_cases else []), "quantity", "dtype", *exponents]
    rows = [head]
    for (case, quantity, dtype), at in sorted(found.items(), key=lambda item: order(item[0])):
        cells = (f"{at[e]:.2f}" if e in at else "" for e in exponents)
        rows.append([*([case or "as it is"] if has_cases else []), words(quantity), dtype, *cells])
    return rows


def sortable(exponent: str) -> tuple[float, str]:
    """Numbers by size; `1-` is just below 1."""
    return float(re.match(r"[\d.]+", exponent)[0]), exponent  # type: ignore[index]


def order(row: tuple[str, str, str]) -> tuple[str, bool, int, str, int]:
    """Values before gradients, wide dtypes before narrow ones."""
    case, quantity, dtype = row
    is_soft, stem, how = parts(quantity)
    return case, is_soft, list(QUANTITIES).index(stem), how, DTYPES.index(dtype)


def costs(start: str) -> list[list[str]]:
    """The rows of the benchmarks whose name begins so, the head first."""
    rows = [["what", "against", "ratio", "ours, ms", "theirs, ms"]]
    with RESULTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["what"].startswith(start):
                times = (f"{float(row[side]):.3g}" if row[side] else "" for side in TIMES)
                rows.append([row["what"], row["against"], ratio(row), *times])
    return rows


def ratio(row: dict[str, str]) -> str:
    """The median of the rounds, and their quartiles.

    >>> ratio({"ratio": "0.5", "low": "0.481", "high": "0.52"})
    '0.50 (0.48 to 0.52)'
    """
    quartiles = f" ({float(row['low']):.2f} to {float(row['high']):.2f})" if row["low"] else ""
    return f"{float(row['ratio']):.2f}{quartiles}"


def table(rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


class Measured(Directive):
    """A table of numbers, with the file that holds them and the command that measures them."""

    required_arguments = 1
    final_argument_whitespace = True

    def rows(self) -> list[list[str]]:
        """The table."""
        raise NotImplementedError

    source = ""
    files: tuple[Path, ...] = (RESULTS,)

    def run(self) -> list[nodes.Node]:
        """The table and its source as nodes; an argument that names nothing is an error."""
        rows = self.rows()
        if len(rows) < 2:
            raise self.error(f"expected what was measured, got {self.arguments[0]!r}")
        for file in self.files:
            self.state.document.settings.env.note_dependency(str(file))
        lines = [*table(rows), "", self.source]
        node = nodes.section()
        node.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, source=str(self.files[0])), node)
        return node.children


class Accuracy(Measured):
    """The worst errors of a loss."""

    files = (*RECORDS,)
    source = (
        "Worst errors in units in the last place, against ball arithmetic, over the processors of "
        "`ledger/records`; the columns are exponents, 1- and 1+ those beside 1. `make ledger` "
        "measures them. A gradient is that of a loss that isn't reduced, or as it is named."
    )

    def rows(self) -> list[list[str]]:
        """Of the ledger."""
        return accuracy(self.arguments[0])


class Cost(Measured):
    """The time of a loss beside what it replaces."""

    source = (
        "Forward and backward on a CPU with two threads, medians of one run; below 1 is faster. "
        "`make bench` measures them into `benchmarks/results.csv`. On a GPU: unmeasured."
    )

    def rows(self) -> list[list[str]]:
        """Of the benchmarks."""
        return costs(self.arguments[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """The directives `accuracy` and `cost`; a page that has them depends on what they read."""
    app.add_directive("accuracy", Accuracy)
    app.add_directive("cost", Cost)
    return {"parallel_read_safe": True}
