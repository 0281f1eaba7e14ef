"""The comparisons of `benchmarks/losses.py`: kept in results.csv, shown in results.md."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from rounds import Rounds

RECORD = Path(__file__).with_suffix(".csv")
PAGE = RECORD.with_suffix(".md")


class Comparison(NamedTuple):
    """One loss beside what it replaces.

    Args:
        what: the loss, with what its time depends on.
        against: the name of what it replaces.
        at_most: the ratio that is aimed at.
        ratio: ours over theirs, the median of the rounds; `low` and `high` are its quartiles.
        ours_ms: milliseconds of a step, the median.
        theirs_ms: the same of the other side.
        date: the day of the measurement.
        setting: processor, threads and versions.
    """

    what: str
    against: str
    at_most: float
    ratio: float
    low: float | None
    high: float | None
    ours_ms: float | None
    theirs_ms: float | None
    date: str
    setting: str

    @property
    def name(self) -> tuple[str, str]:
        """What it is of, which no other comparison of a record is."""
        return self.what, self.against

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of its line on the page."""
        return (
            self.what,
            self.against,
            f"{self.at_most:g}",
            f"{self.ratio:.2f}"
            + ("" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"),
            "" if self.ours_ms is None else f"{self.ours_ms:.3g}",
            "" if self.theirs_ms is None else f"{self.theirs_ms:.3g}",
            "yes" if self.ratio <= self.at_most else "**no**",
        )


def compare(what: str, against: str, at_most: float, rounds: Rounds, *when: str) -> Comparison:
    """A comparison of times that were taken in turn: their medians, and quartiles of the ratios."""
    low, _, high = quantiles(rounds.ratios, n=4)
    times = median(rounds.ours), median(rounds.theirs)
    return Comparison(what, against, at_most, median(rounds.ratios), low, high, *times, *when)


def read(path: Path = RECORD) -> list[Comparison]:
    """The comparisons of a record."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Comparison(
                row["what"],
                row["against"],
                float(row["at_most"]),
                float(row["ratio"]),
                *(
                    float(row[field]) if row[field] else None
                    for field in ("low", "high", "ours_ms", "theirs_ms")
                ),
                row["date"],
                row["setting"],
            )
            for row in csv.DictReader(file)
        ]


def write(comparisons: Iterable[Comparison], folder: Path = RECORD.parent) -> None:
    """Write the record, and the page that shows it."""
    comparisons = list(comparisons)
    with (folder / RECORD.name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Comparison._fields)
        for row in comparisons:
            writer.writerow(
                "" if x is None else f"{x:.4g}" if isinstance(x, float) else x for x in row
            )
    (folder / PAGE.name).write_text(page(comparisons), encoding="utf-8")


def update(old: Sequence[Comparison], new: Iterable[Comparison]) -> list[Comparison]:
    """The old ones, with those that were measured anew in their places and others at the end."""
    latest = {row.name: row for row in new}
    kept = [latest.pop(row.name, row) for row in old]
    return [*kept, *latest.values()]


def page(comparisons: Sequence[Comparison]) -> str:
    """The page of a record, results.md."""
    occasions = [(row.date, row.setting) for row in comparisons]
    usual = max(occasions, key=occasions.count)
    table = "\n".join(f"| {' | '.join(row.cells)} |" for row in comparisons)
    others = dict.fromkeys(occasion for occasion in occasions if occasion != usual)
    notes = "".join(
        f"\nMeasured by themselves, {date}, {setting}: "
        + "; ".join(" / ".join(row.name) for row in comparisons if row[-2:] == (date, setting))
        + ".\n"
        for date, setting in others
    )
    return f"""# What the losses cost

Made by `make bench`, from [results.csv](results.csv). Ratios of times, forward and backward, within
one run on the same tensors: the median of the rounds, and their quartiles. gamma is 0.5 where none
is named.

{usual[1]}, {usual[0]}.

| what | against | at most | ratio | ours, ms | theirs, ms | met |
|---|---|---|---|---|---|---|
{table}
{notes}
![Time against size](time.svg)

CUDA, MPS and XPU were not measured. The guard, boosting and JAX: [overheads.md](overheads.md).
"""
