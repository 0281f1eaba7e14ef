"""A report on the terminal."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parfocal.experiments.show.comparison import FailureComparison, FailureRate, LossRatio
from parfocal.experiments.show.conclusion import (
    factor_text,
    headline,
    interval_text,
    percent_text,
    sentences,
)
from parfocal.experiments.show.report import Report, cell_text, published_text
from parfocal.experiments.show.tabulation import Block, short, text


def report_tables(report: Report) -> Iterator[RenderableType]:
    """The conclusion, first failures, failure rates and, with published results, the comparison."""
    yield Text(f"{headline(report)}.", style="bold")
    for sentence in sentences(report):
        yield Text(f"- {sentence}")
    legend = "Epoch of the first failure, from 0; 30+: none in 30; 12…: under way; ·: not begun"
    yield Text(legend + "; (published)" * report.compared, style="dim")
    for section in report.sections:
        yield Text(section.heading, style="bold")
        if len(section.seeds) > 1:
            yield Text(f"seeds {', '.join(map(str, section.seeds))}")
        for block in section.blocks:
            across = f"columns: {short(block.column)}" if block.column else ""
            yield Text("; ".join(part for part in (block.title, across) if part))
            yield _failures(report, block)
        yield from _statistics(report, section.heading)
    for problem in report.problems:
        yield Text(f"not read: {problem}", style="bold magenta")


def _statistics(report: Report, experiment: str) -> Iterator[RenderableType]:
    """Of one experiment."""
    rates = [rate for rate in report.rates if rate.experiment == experiment]
    comparisons = [
        *report.comparisons,
        *(c for a in report.agreements for c in (a.seeds, *a.with_published)),
    ]
    comparisons = list(dict.fromkeys(c for c in comparisons if c.experiment == experiment))
    ratios = [ratio for ratio in report.ratios if ratio.experiment == experiment]
    if rates:
        yield _rates(rates, report.compared)
    if comparisons:
        yield _correlations(comparisons)
        yield _shifts(comparisons)
    if ratios:
        yield _ratios(ratios)


def _failures(report: Report, block: Block) -> Table:
    table = Table(padding=(0, 0), box=box.SIMPLE_HEAD)
    table.add_column(short(block.row) if block.row else "")
    for column in block.columns:
        table.add_column(text(column) if block.column else "", justify="right")
    for value in block.rows:
        found = [block.cells.get((value, column), ()) for column in block.columns]
        cells = [_cell(report, cell) for cell in found]
        table.add_row(text(value) if block.row else "", *cells)
    return table


def _cell(report: Report, cell: Sequence[int]) -> Text:
    """The runs of one place, seed by seed, and the published one."""
    rows = [report.rows[index] for index in cell]
    words = Text(", ").join(
        Text(cell_text(row), style="red" if row.status == "failed" else "") for row in rows
    )
    if rows and rows[0].published is not None:
        words.append(f" ({published_text(rows[0])})", style="dim")
    return words


def _rates(rates: Sequence[FailureRate], compared: bool) -> Table:
    headings = ["loss", "noise", "gamma", "epochs", "failed", "95 % interval"]
    table = _table("Failure rates", [*headings, *["published"] * compared])
    for r in rates:
        ours, theirs = f"{r.failed} of {r.runs}", f"{r.published_failed} of {r.published_runs}"
        cells = [r.loss, text(r.noise), text(r.gamma), str(r.epochs), ours, interval_text(r)]
        table.add_row(*cells, *[theirs if r.published_runs else "-"] * compared)
    return table


def _correlations(comparisons: Sequence[FailureComparison]) -> Table:
    table = _table(
        "Rank correlation of the first failures",
        ["loss", "noise", "between", "cells", "rho", "95 % interval"],
    )
    for c in comparisons:
        interval = f"{c.low:.3f} to {c.high:.3f}"
        between = " and ".join(c.between)
        table.add_row(c.loss, text(c.noise), between, str(c.cells), f"{c.rho:.3f}", interval)
    return table


def _shifts(comparisons: Sequence[FailureComparison]) -> Table:
    table = _table(
        "Unequal cells in which the first of two fails later",
        ["loss", "noise", "between", "later in", "95 % interval", "factor"],
    )
    for c in comparisons:
        share = (f"{c.later} of {c.unequal}", percent_text(c.later_low, c.later_high))
        table.add_row(c.loss, text(c.noise), ", ".join(c.between), *share, factor_text(c))
    return table


def _ratios(ratios: Sequence[LossRatio]) -> Table:
    table = _table(
        "Training loss here / published", ["loss", "epoch", "runs", "lowest", "median", "highest"]
    )
    for r in ratios:
        numbers = (f"{value:.3f}" for value in (r.low, r.median, r.high))
        table.add_row(r.loss, r.what, str(r.cells), *numbers)
    return table


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    return table
