"""The page, the tables and the figure of a comparison."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parfocal.experiments.run.record import replacing
from parfocal.experiments.run.sessions import SessionLine, read_sessions
from parfocal.experiments.study.bootstrap import Interval
from parfocal.experiments.study.comparison import Comparison, Row, comparisons, edge
from parfocal.experiments.study.conduct import Folder
from parfocal.experiments.study.figure import differences_figure, save_svg
from parfocal.experiments.study.metrics import METRICS
from parfocal.experiments.study.page import study_page
from parfocal.experiments.study.spec import Dataset, LongTail, Study, Table
from parfocal.experiments.study.words import (
    AP,
    conclusion,
    listed,
    overall,
    points,
    with_bounds,
)

# The means beside average precision, by column; of detections there is no balanced accuracy.
_FURTHER = {
    "balanced accuracy": "balanced_accuracy",
    "calibration error": "ece",
    "the same, scaled": "ece_scaled",
}

TABLE, FIGURE, HTML = "study.csv", "differences.svg", "study.html"


def write_report(
    name: str, comparison: Comparison, skipped: Sequence[str], folder: Folder, out: Path
) -> list[Path]:
    """Write the page, and beside it a folder of its name: table, figure, a page for browsers.

    Args:
        name: of the spec.
        comparison: what was found.
        skipped: data sets of the spec that were left out.
        folder: of the record.
        out: path of the page.
    """
    beside = out.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    paths = [out, *(beside / file for file in (TABLE, FIGURE, HTML))]
    sessions = read_sessions(folder.sessions)
    text = page(name, comparison, skipped, sessions, beside.name)
    command = f"parfocal study {name} --report"
    for path, content in (
        (paths[0], text),
        (paths[3], study_page(text, comparison, command, sessions)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    _write_csv(comparison, paths[1])
    save_svg(differences_figure(comparison), paths[2])
    return paths


def _write_csv(comparison: Comparison, path: Path) -> None:
    """A row a data set and objective, and one an objective for the average over the data sets."""
    references = list(dict.fromkeys(other for _, other in comparisons(comparison.study)))
    columns = [f"{metric} less {other}" for other in references for metric in METRICS]
    header = ["dataset", "objective", "rate", "edge", *METRICS]
    header += ["skipped_steps", "steps", "largest_logit", "dead_share"]
    header += [f"{column}{end}" for column in columns for end in ("", ", low", ", high")]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in comparison.rows:
            cells = [row.dataset, row.objective, f"{row.rate:g}", row.edge]
            cells += [_cell(row.means[metric]) for metric in METRICS]
            cells += [str(row.skipped_steps), str(row.steps)]
            cells += [_cell(row.largest_logit), _cell(row.dead_share)]
            writer.writerow(
                cells + _interval_cells(comparison, row.dataset, row.objective, references)
            )
        for objective in comparison.study.objectives:
            cells = ["all", objective, "", ""]
            cells += [_cell(comparison.mean(objective, metric)) for metric in METRICS]
            cells += [""] * 4
            writer.writerow(cells + _interval_cells(comparison, None, objective, references))


def _interval_cells(
    comparison: Comparison, dataset: str | None, objective: str, references: list[str]
) -> list[str]:
    cells = []
    for reference in references:
        for metric in METRICS:
            found = comparison.difference(dataset, objective, reference, metric)
            cells += [""] * 3 if found is None else [_cell(value) for value in found]
    return cells


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def page(
    name: str,
    comparison: Comparison,
    skipped: Sequence[str],
    sessions: Sequence[SessionLine],
    beside: str = "study",
) -> str:
    """The whole page in Markdown; the same record gives the same page.

    Args:
        name: of the spec.
        comparison: what was found.
        skipped: data sets of the spec that were left out.
        sessions: those that trained.
        beside: the folder with table and figure; its name is the page's too.
    """
    study = comparison.study
    table, figure = f"{beside}/{TABLE}", f"{beside}/{FIGURE}"
    parts = [
        f"# {study.subject}: measured",
        *conclusion(comparison),
        f"![Differences of average precision from the {study.references[0]}, by gamma]({figure})",
        f"Differences of average precision from the {study.references[0]} in points (hundredths), "
        f"by gamma, without alpha and with; each with the interval that holds 95 of 100. All "
        f"numbers of this page, and more, are in [{table}]({table}).",
        "## On average over the data sets" if study.has_several else "## Each objective",
        _overall_table(comparison),
        *(_each_dataset(comparison) if study.has_several else []),
        "## Beside each other",
        _pair_table(comparison),
        "## How sure the networks were",
        "The largest |logit| of all seeds, steps that were skipped since their gradient wasn't "
        "finite, and the part of the training split's logits from which the loss has no gradient "
        "at the end: 0, or no number.",
        _saturation_table(comparison),
        *_notes(study),
        "## How it was done",
        *_method(comparison),
        "## Data",
        _data_table(study, skipped),
        "## To do it again",
        *_commands(name, study, skipped, sessions, f"{beside}.md"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notes(study: Study) -> list[str]:
    """What the spec says of its results beforehand."""
    if not study.notes:
        return []
    return ["## What has to be known", "\n".join(f"- {note}" for note in study.notes)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overall_table(comparison: Comparison) -> str:
    study = comparison.study
    reference = study.references[0]
    others = study.references[1:]
    means = {
        title: [comparison.mean(objective, metric) for objective in study.objectives]
        for title, metric in _FURTHER.items()
    }
    known = {title: values for title, values in means.items() if not all(map(math.isnan, values))}
    header = ["objective", "average precision", f"less {reference}", *_sides_header(study)]
    header += [f"less {other}" for other in others]
    rows = [
        [
            objective,
            points(comparison.mean(objective, AP)),
            _shown(overall(comparison, objective)),
            *_sides(comparison, objective, reference),
            *(_shown(comparison.difference(None, objective, other, AP)) for other in others),
            *(points(values[place]) for values in known.values()),
        ]
        for place, objective in enumerate(study.objectives)
    ]
    return _table([*header, *known], rows)


def _sides_header(study: Study) -> list[str]:
    return ["above, below 0"] if study.has_several else []


def _sides(comparison: Comparison, objective: str, reference: str) -> list[str]:
    """On how many of several data sets the interval is above 0, and on how many below."""
    if not comparison.study.has_several:
        return []
    single = [
        found
        for dataset in comparison.study.datasets
        if (found := comparison.difference(dataset, objective, reference, AP)) is not None
    ]
    if not single:
        return [""]
    return [f"{sum(one.is_above for one in single)}, {sum(one.is_below for one in single)}"]


def _each_dataset(comparison: Comparison) -> list[str]:
    return [
        "## Each data set",
        f"Average precision in points; of the {comparison.study.references[0]} itself, and of the "
        "others less it. A star marks an interval that doesn't hold 0.",
        _dataset_table(comparison),
    ]


def _dataset_table(comparison: Comparison) -> str:
    study = comparison.study
    reference = study.references[0]
    rows = []
    for objective in study.objectives:
        cells = [objective]
        for dataset in study.datasets:
            found = comparison.difference(dataset, objective, reference, AP)
            if found is None:
                cells.append(points(comparison.row(dataset, objective).means[AP]))
            else:
                star = " *" if found.is_above or found.is_below else ""
                cells.append(f"{100 * found.value:+.2f}{star}".replace("-0.00", "+0.00"))
        rows.append(cells)
    return _table(["objective", *study.datasets], rows)


def _pair_table(comparison: Comparison) -> str:
    """The further comparisons, on average over the data sets."""
    sides = _sides_header(comparison.study)
    return _table(
        ["objective", "less", "average precision", *sides, "calibration error"],
        [
            [
                first,
                second,
                _shown(comparison.difference(None, first, second, AP)),
                *_sides(comparison, first, second),
                _shown(comparison.difference(None, first, second, "ece")),
            ]
            for first, second in comparison.study.pairs
        ],
    )


def _saturation_table(comparison: Comparison) -> str:
    study = comparison.study

    def cell(row: Row) -> str:
        text = f"{row.largest_logit:.0f}"
        if row.skipped_steps:
            text += f", {row.skipped_steps:,} skipped"
        if row.dead_share >= 5e-4:
            text += f", {100 * row.dead_share:.1f} % dead"
        return text

    rows = [
        [objective, *(cell(comparison.row(dataset, objective)) for dataset in study.datasets)]
        for objective in study.objectives
    ]
    return _table(["objective", *study.datasets], rows)


def _method(comparison: Comparison) -> list[str]:
    study = comparison.study
    edges = [row for row in comparison.rows if row.edge]
    named = len(comparisons(study))
    return [
        f"Each objective was trained on each data set with each rate of a small grid at seed "
        f"{study.search_seed}; the rate with the best average precision on the validation split "
        f"was taken for the seeds {', '.join(map(str, study.seeds))}, whose tests are compared. "
        "The search doesn't look at the test. The best rate was at an end of its grid in "
        f"{len(edges)} of {len(comparison.rows)} searches"
        + (f" ({_edge_words(edges)}). " if edges else ". ")
        + _typical_rates(comparison),
        "The optimiser is Adam unless the table below says otherwise: its step doesn't depend on "
        "the size of the gradient, which gamma and alpha change, so that one grid serves all. "
        "The rate falls as a cosine to 0; there is no early stopping, no weight decay, no "
        "augmentation. All objectives have the same initial parameters and the same batches at the "
        "same seed. A step whose gradient isn't finite is skipped, as an AMP scaler does.",
        "Weighted: by the inverse counts of the classes; class-balanced: by the inverse effective "
        "number of samples (Cui et al., CVPR 2019) with the beta below, which in dense tasks, with "
        "their many samples, is nearly no weight. With alpha: the inverse counts again, and 0.25 "
        "for positives in detection, as in Lin et al. Logits are cast to bfloat16 for the loss "
        "alone; all are judged from float32.",
        "Average precision is the sum of precision times the growth of recall; of several classes "
        "the mean of each against the rest; of detections at an IoU of 0.5. Calibration error: 15 "
        "bins with as many predictions each, before and after a temperature fitted on the "
        "validation split. For a focal loss the sigmoid of a logit isn't meant to be a probability "
        "([choosing.md](choosing.md#what-it-does-to-probabilities)), which the first of the two "
        "shows.",
        f"Intervals: {study.draws:,} draws of seeds and of test samples, crossed and paired, with "
        "the part of the seeds stretched to Student's distribution (Hesterberg, The American "
        "Statistician 2015). They say what other seeds and other test samples of these data would "
        f"give, not other training data. There are {named} comparisons of objectives for each "
        f"data set and metric, {named * len(study.datasets)} in average precision; of intervals "
        "for what doesn't differ, 5 of 100 don't hold 0.",
    ]


def _edge_words(edges: Sequence[Row]) -> str:
    """Where the best rate was at an end of the grid, by data set."""
    words = []
    for dataset in dict.fromkeys(row.dataset for row in edges):
        of_dataset = [row for row in edges if row.dataset == dataset]
        lowest = sum(row.edge == "lowest" for row in of_dataset)
        words.append(f"{dataset}: {lowest} lowest, {len(of_dataset) - lowest} highest")
    return "; ".join(words)


def _typical_rates(comparison: Comparison) -> str:
    """Where the best rate is that all objectives have together, which one seed moves less."""
    ends = []
    for dataset, data in comparison.study.datasets.items():
        rows = [row for row in comparison.rows if row.dataset == dataset]
        totals = {rate: math.fsum(row.searched[rate] for row in rows) for rate in data.rates}
        best = max(totals, key=lambda rate: totals[rate])
        if where := edge(best, data.rates):
            ends.append(f"{dataset} ({where})")
    text = "Of the average over the objectives, the best rate was inside its grid on"
    if not ends:
        return f"{text} every data set."
    inside = len(comparison.study.datasets) - len(ends)
    return f"{text} {inside} of {len(comparison.study.datasets)} data sets; not on {listed(ends)}."


def _data_table(study: Study, skipped: Sequence[str]) -> str:
    rows = []
    for name, data in study.datasets.items():
        kind = type(data).__doc__ or ""
        rates = ", ".join(f"{rate:g}" for rate in data.rates)
        settings = f"{data.epochs} epochs, batches of {data.batch_size}, {data.optimizer}"
        details = ", ".join(
            f"{field} {_setting(getattr(data, field))}"
            for field in data.__struct_fields__
            if field not in {"epochs", "batch_size", "optimizer", "rates"}
        )
        rows.append([name, kind.partition("\n")[0], details, settings, rates])
    table = _table(["name", "what", "settings", "training", "rates"], rows)
    left_out = f"\n\nLeft out by --only: {', '.join(skipped)}." if skipped else ""
    return table + _origins(study.datasets.values()) + left_out


def _origins(datasets: Iterable[Dataset]) -> str:
    """Where tables and photographs come from."""
    kept = list(datasets)
    text = ""
    tables = {data.table for data in kept if isinstance(data, Table)}
    if "caravan" in tables:
        text += (
            "\n\ncaravan: who of 5,822 households has a caravan policy, CoIL Challenge 2000 (van "
            "der Putten and van Someren), from the wheel of islp."
        )
    if "randhie" in tables:
        text += (
            "\n\nrandhie: 20,190 years of persons in the RAND Health Insurance Experiment; "
            "positive are those with ten visits to a physician or more; public domain, from "
            "the wheel of statsmodels."
        )
    if any(isinstance(data, LongTail) for data in kept):
        text += "\n\nThe photographs were given by --image-folder, a folder a class."
    return text


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _commands(
    name: str, study: Study, skipped: Sequence[str], sessions: Sequence[SessionLine], page: str
) -> list[str]:
    only = "".join(f" --only {dataset}" for dataset in study.datasets) if skipped else ""
    photographs = any(isinstance(data, LongTail) for data in study.datasets.values())
    folder = " --image-folder FOLDER" if photographs else ""
    parts = [
        f"    parfocal study {name} --data-dir DATA{folder}{only} --out RECORDS\n"
        f"    parfocal study {name}{only} --out RECORDS --report --page docs/{page}",
        "The first trains what isn't done, the second makes this page from the records.",
        f"{study.size:,} trainings.",
    ]
    if begun := [session for session in sessions if session.began]:
        parts.append(_work(begun, [session for session in sessions if session.ended]))
    return parts


def _work(begun: Sequence[SessionLine], ended: Sequence[SessionLine]) -> str:
    """When, on what, with which versions, for how long."""
    first, last = begun[0], begun[-1]
    days = [session.began.date().isoformat() for session in (first, last) if session.began]
    versions = ", ".join(f"{package} {number}" for package, number in last.installed.items())
    hours = sum(sum((session.seconds or {}).values()) for session in ended) / 3600
    killed = len(begun) - len(ended)  # a killed process leaves no line of its end
    sessions = f"{len(ended)} session{'s' * (len(ended) != 1)}"
    return (
        f"Begun {days[0]}, last {days[-1]}; {last.processor}, Python {last.python}, {versions}; "
        f"{hours:.1f} hours of a core"
        + (f" in {sessions}, not counting {killed} killed" if killed else "")
        + "."
    )


def _shown(found: Interval | None) -> str:
    return "" if found is None else with_bounds(found)
