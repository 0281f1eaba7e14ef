"""The tables of a folder of runs, made from records alone, beside the published ones if given."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.run.states import scan
from parfocal.experiments.show.comparison import (
    FailureRate,
    LossRatio,
    Pair,
    RankCorrelation,
    failure_rates,
    loss_ratios,
    rank_correlations,
)
from parfocal.experiments.show.published import Published, PublishedRun, published_of
from parfocal.experiments.show.tabulation import (
    Block,
    blocks,
    experiment_of,
    short,
    text,
    value_of,
    varying_settings,
)


class Row(NamedTuple):
    """A run, its state, and the published one with the same settings."""

    run: Run
    status: str
    published: PublishedRun | None


class Section(NamedTuple):
    """One experiment: runs on the same kind of data, by one network, with logits of one type."""

    heading: str
    blocks: tuple[Block, ...]


class Report(NamedTuple):
    """What is known about a folder of runs.

    sections: tables of them; their cells are indices of `rows`.
    problems: runs that couldn't be read, each in a sentence.
    """

    rows: tuple[Row, ...]
    sections: tuple[Section, ...]
    rates: tuple[FailureRate, ...]
    correlations: tuple[RankCorrelation, ...]
    ratios: tuple[LossRatio, ...]
    problems: tuple[str, ...]
    compared: bool


def make_report(directory: Path, published: Published | None = None) -> Report:
    """Read all records of a folder and of the folders in it."""
    states = scan(directory)
    if not (directory / "spec.json").exists():
        inner = sorted(path for path in directory.iterdir() if path.is_dir())
        states += [s for path in inner if not (path / "spec.json").exists() for s in scan(path)]
    rows = tuple(
        Row(s.run, s.status, published_of(s.run.spec, published) if published else None)
        for s in states
        if s.run is not None
    )
    runs = [row.run for row in rows]
    pairs = [Pair(row.run, row.published) for row in rows if row.published is not None]
    return Report(
        rows,
        _sections(runs),
        tuple(failure_rates(runs, pairs)),
        tuple(rank_correlations(pairs)),
        tuple(loss_ratios(pairs)),
        tuple(state.problem for state in states if state.problem is not None),
        published is not None,
    )


def _sections(runs: Sequence[Run]) -> tuple[Section, ...]:
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(experiment_of(run.spec), []).append(index)
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        Section(heading, tuple(_blocks(runs, members))) for heading, members in largest_first
    )


def _blocks(runs: Sequence[Run], members: Sequence[int]) -> Iterator[Block]:
    """Tables of some of the runs, with the indices of all."""
    for block in blocks([runs[i].spec for i in members]):
        yield block._replace(cells={place: members[i] for place, i in block.cells.items()})


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
    rates = [rate._asdict() for rate in report.rates]
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
