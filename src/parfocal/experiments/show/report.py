"""What is known of a folder of runs, from records alone, beside the published ones if given."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.run.states import RunStatus, scan_all
from parfocal.experiments.show.comparison import (
    FailureComparison,
    FailureRate,
    LossRatio,
    Pair,
    RangeRate,
    SeedAgreement,
    failure_comparisons,
    failure_rates,
    loss_ratios,
    range_rates,
    seed_agreements,
)
from parfocal.experiments.show.naming import experiment_of
from parfocal.experiments.show.provenance import Provenance, provenance_of
from parfocal.experiments.show.published import Published, PublishedRun, published_of
from parfocal.experiments.show.tabulation import (
    Block,
    blocks,
    short,
    text,
    value_of,
    varying_settings,
)


class Row(NamedTuple):
    """A run, its folder, its state, and the published one with the same settings."""

    run: Run
    directory: Path
    status: RunStatus
    published: PublishedRun | None


class Section(NamedTuple):
    """One experiment: runs on the same kind of data, by one network, with logits of one type."""

    heading: str
    seeds: tuple[int, ...]
    blocks: tuple[Block, ...]


class Report(NamedTuple):
    """What is known about a folder of runs.

    sections: tables of them; their cells hold indices of `rows`.
    ranges: failures with 0 < gamma < 1 and with all other gammas; `rates`: gamma by gamma.
    comparisons, agreements: of the first failures with the published ones, and between seeds.
    problems: runs that couldn't be read, each in a sentence, with its place in the folder.
    compared: whether published results were given.
    """

    rows: tuple[Row, ...]
    sections: tuple[Section, ...]
    ranges: tuple[RangeRate, ...]
    rates: tuple[FailureRate, ...]
    comparisons: tuple[FailureComparison, ...]
    agreements: tuple[SeedAgreement, ...]
    ratios: tuple[LossRatio, ...]
    provenance: Provenance
    problems: tuple[str, ...]
    compared: bool


def make_report(directory: Path, published: Published | None = None) -> Report:
    """Read all records of a folder, or of its folders, and put them beside the published ones."""
    states = scan_all(directory)
    rows = tuple(
        Row(
            s.run,
            s.directory,
            s.status,
            published_of(s.run.spec, published) if published is not None else None,
        )
        for s in states
        if s.run is not None
    )
    runs = [row.run for row in rows]
    pairs = [Pair(row.run, row.published) for row in rows if row.published is not None]
    rates = failure_rates(runs, pairs)
    problems = [state.problem for state in states if state.problem is not None]
    return Report(
        rows=rows,
        sections=_sections(runs),
        ranges=tuple(range_rates(rates)),
        rates=tuple(rates),
        comparisons=tuple(failure_comparisons(pairs)),
        agreements=tuple(seed_agreements(runs, pairs)),
        ratios=tuple(loss_ratios(pairs)),
        provenance=provenance_of(directory, [row.directory for row in rows]),
        problems=tuple(problem.replace(f"{directory}/", "") for problem in problems),
        compared=published is not None,
    )


def _sections(runs: Sequence[Run]) -> tuple[Section, ...]:
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(experiment_of(run.spec), []).append(index)
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        Section(
            heading,
            tuple(sorted({runs[i].spec.training.seed for i in members})),
            tuple(_blocks(runs, members)),
        )
        for heading, members in largest_first
    )


def _blocks(runs: Sequence[Run], members: Sequence[int]) -> list[Block]:
    """Tables of some of the runs, with the indices of all."""
    return [
        block._replace(
            cells={place: tuple(members[i] for i in cell) for place, cell in block.cells.items()}
        )
        for block in blocks([runs[i].spec for i in members], seeds_together=True)
    ]


def cell_text(row: Row) -> str:
    """First failure's epoch; `30+`: none in 30 epochs; `12…`: under way; `·`: not begun."""
    run = row.run
    if row.status == "waiting":
        return "·"
    if run.failure is not None:
        return str(run.failure.epoch)
    if row.status == "finished":
        return f"{len(run.epochs)}+"
    return f"{len(run.epochs)}…"


def outcome_text(row: Row) -> str:
    """The same in words, with what failed and where."""
    run, epochs = row.run, len(row.run.epochs)
    if run.failure is not None:
        failure = run.failure
        words = f"{failure.quantity} not finite in epoch {failure.epoch}, step {failure.step}"
        if math.isfinite(failure.largest_logit):
            words += f", at largest |logit| {failure.largest_logit:.2f}"
        return words
    match row.status:
        case "finished":
            return f"no failure in {plural(epochs, 'epoch')}"
        case "waiting":
            return "not begun"
        case "running":
            return f"under way, {plural(epochs, 'epoch')} so far"
        case _:
            return f"{row.status} after {plural(epochs, 'epoch')}"


def plural(count: int, noun: str) -> str:
    """A number of things.

    >>> plural(1, "run"), plural(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def published_text(row: Row) -> str:
    """The published run's first failure in the same way; empty if there is none to compare with."""
    if row.published is None:
        return ""
    failure = row.published.first_failure
    return f"{row.published.epochs}+" if failure is None else str(failure)


RUN_COLUMNS = (
    "loss", "gamma", "digest", "outcome", "epochs", "first_failure_epoch", "first_failure_step",
    "quantity", "sample", "label", "logit", "largest_logit", "first_epoch_loss", "last_loss",
    "last_accuracy",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "loss", "noise", "gamma", "threshold", "digest", "first_failure_epoch",
    "published_first_failure_epoch", "first_epoch_loss", "published_first_epoch_loss", "last_loss",
    "published_last_loss",
)  # fmt: skip


def write_csv(report: Report, directory: Path) -> list[Path]:
    """runs.csv: a row a run with all settings that vary; failure_rates.csv; comparison.csv.

    The last has a row for each run that was published too, and is written only where published
    results were given.
    """
    specs = [row.run.spec for row in report.rows]
    fixed = ("objective.loss", "objective.gamma")
    varying = [name for name in varying_settings(specs) if name not in fixed]
    header = [short(name) if short(name) not in RUN_COLUMNS else name for name in varying]
    table = [
        dict(zip(header, (text(value_of(r.run.spec, n)) for n in varying), strict=True))
        | _run_values(r)
        for r in report.rows
    ]
    rates = [rate._asdict() | {"seeds": text(rate.seeds)} for rate in report.rates]
    written = [
        _write(directory / "runs.csv", [*header, *RUN_COLUMNS], table),
        _write(directory / "failure_rates.csv", list(FailureRate._fields), rates),
    ]
    if report.compared:
        beside = [
            _comparison_values(row, row.published)
            for row in report.rows
            if row.published is not None
        ]
        written.append(_write(directory / "comparison.csv", COMPARISON_COLUMNS, beside))
    return written


def _run_values(row: Row) -> dict[str, Any]:
    run = row.run
    failure = run.failure
    values: dict[str, Any] = {
        "loss": run.spec.objective.loss,
        "gamma": run.spec.objective.gamma,
        "digest": run.spec.digest,
        "outcome": row.status,
        "epochs": len(run.epochs),
        "largest_logit": run.largest_logit,
    }
    if failure is not None:
        values |= {
            "first_failure_epoch": failure.epoch,
            "first_failure_step": failure.step,
            "quantity": failure.quantity,
            "sample": failure.sample,
            "label": failure.label,
            "logit": failure.logit,
        }
    if run.epochs:
        values |= {
            "first_epoch_loss": run.epochs[0].loss,
            "last_loss": run.epochs[-1].loss,
            "last_accuracy": run.epochs[-1].accuracy,
        }
    return values


def _comparison_values(row: Row, published: PublishedRun) -> dict[str, Any]:
    spec, ours = row.run.spec, _run_values(row)
    places = {"noise": "data.noise", "threshold": "data.threshold"}
    return {
        **{column: ours.get(column) for column in COMPARISON_COLUMNS if column in RUN_COLUMNS},
        **{column: value_of(spec, name) for column, name in places.items()},
        "published_first_failure_epoch": published.first_failure,
        "published_first_epoch_loss": published.first_loss,
        "published_last_loss": published.last_loss,
    }


def _write(path: Path, header: Sequence[str], rows: Sequence[dict[str, Any]]) -> Path:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
