"""What the documentation site makes of docstrings, tables and links; `make docs` builds it."""

import csv
import importlib
import inspect
import math
import re
from pathlib import Path

import pytest

import parfocal

ROOT = Path(__file__).parents[1]
complete, formulas, mathml, measured, repository = map(
    importlib.import_module, ["complete", "formulas", "mathml", "measured", "repository"]
)


def docstring_blocks():
    """Each indented block of a public docstring, with the name that it is of."""
    for name in parfocal.__all__:
        lines = inspect.getdoc(getattr(parfocal, name)).splitlines()
        for start, end in formulas.blocks(lines):
            yield pytest.param(
                [line for line in lines[start:end] if line.strip()], id=f"{name}-{start}"
            )


@pytest.mark.parametrize("block", [*docstring_blocks()])
def test_every_formula_is_typeset(block):
    """In as many rows as it has equations below one another, with no word of it lost."""
    rows = formulas.typeset(block)
    assert rows
    mathml.of_tex(r" \\ ".join(rows), "block")
    said = re.sub(r"\\(?:operatorname|mathrm|text)|[^a-z]", "", "".join(rows))
    for word in re.findall(
        r"\b[a-z]{3,}\b", re.sub(r"\b(sum|of|over|mean|the|sqrt|or)\b", "", "\n".join(block))
    ):
        assert word in said, word


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("(1 - p) ** gamma (-log p)", r"{(1 - p)}^{\gamma}\,( - \log p)"),
        ("a b / c d", r"\frac{a\,b}{c}\,d"),
        (
            "f((a / b)) / (c + a / b)",
            r"\frac{f\left(\left(\frac{a}{b}\right)\right)}{c + \frac{a}{b}}",
        ),
        ("a / b / c", r"\frac{\frac{a}{b}}{c}"),
        ("sum over c != t of w_c / n", r"\frac{\sum_{c \neq t} w_{c}}{n}"),
        ("L'(u) / ce'(u)", r"\frac{L'(u)}{\mathrm{ce}'(u)}"),
        ("g_(i+1) f(s) ** 2", r"g_{i+1}\,{f(s)}^{2}"),
    ],
)
def test_grammar_binds_as_python_does(text, tex):
    """But for a product, which is a space, and binds like a division."""
    assert formulas.Reader(text).side() == tex


@pytest.mark.parametrize("text", ["a = = b", "x = (1 - p", "import parfocal", "x = $"])
def test_what_is_no_formula_stays_as_it_is(text):
    assert formulas.typeset([text]) is None


def test_accuracy_is_the_worst_of_the_records():
    """Over the processors, read here by other means."""
    worst = 0.0
    for record in (ROOT / "ledger" / "records").glob("*.csv"):
        with record.open(newline="") as file:
            for loss, quantity, dtype, exponent, ulp, *_ in csv.reader(file):
                if (loss, quantity, dtype, exponent) == (
                    "sigmoid_focal_loss", "gradient", "float32", "2"):  # fmt: skip
                    worst = max(worst, float(ulp))
    head, *rows = measured.accuracy("sigmoid_focal_loss")
    (row,) = (row for row in rows if row[:2] == ["gradient", "float32"])
    assert float(row[head.index("2")]) == pytest.approx(worst, abs=0.005)
    assert not math.isnan(worst)
    assert worst > 1


def test_costs_are_those_of_the_benchmarks():
    """Each row of a loss, word for word."""
    text = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
    rows = measured.costs("softmax,")[1:]
    assert len(rows) == text.count("\n| softmax,")
    lines = [line.split(" | ") for line in text.splitlines()]
    for what, against, ratio, ours, _ in rows:
        assert [f"| {what}", against, ratio, ours] in [[*line[:2], *line[3:5]] for line in lines]


def test_links_lead_to_pages_or_to_the_repository():
    """A file of the repository is followed on GitHub, where it is no page."""
    text = (
        "[a](../benchmarks/results.md) [b](../examples/ctc.py) [c](guard.md#x) ![d](gradient.svg)"
    )
    github = "https://github.com/parfocal/parfocal/blob/main"
    assert repository.rewrite(text, ROOT / "docs") == (
        f"[a](reference/benchmarks.md) [b]({github}/examples/ctc.py) "
        "[c](guard.md#x) ![d](gradient.svg)"
    )


def test_a_site_is_held_to_its_links(tmp_path):
    """A missing file, a missing anchor and what another host would be asked for."""
    (tmp_path / "a.html").write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="b.html#there"></a><a href="c.html"></a>'
        '<a href="https://example.org"></a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text("<p>")
    assert complete.faults(tmp_path) == [
        "a.html loads https://example.org/x.js",
        "a.html: no anchor b.html#there",
        "a.html: no c.html",
    ]
