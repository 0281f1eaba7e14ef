"""`parfocal report`."""

import shlex
from pathlib import Path

import click

from parfocal.cli.options import fails_in_one_line, out_option, plain_console


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--published",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the paper's results, with files such as mnist_classification.csv.",
)
@out_option("Folder for the tables and the page.  [default: DIRECTORY/report]")
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write the runs to this folder, for TensorBoard.",
)
@fails_in_one_line
def report(
    directory: Path, published: Path | None, out: Path | None, tensorboard: Path | None
) -> None:
    """Make tables, figures and a page from the records in a folder.

    The report has a conclusion in words, first failures by gamma and threshold, failure rates and
    curves. With the published results it also says how well they agree.
    """
    from parfocal.experiments.show.page import write_report_page
    from parfocal.experiments.show.published import read_published
    from parfocal.experiments.show.report import make_report, write_csv
    from parfocal.experiments.show.report_tables import report_tables

    if tensorboard is not None:
        from parfocal.experiments.show.tensorboard import write_events

    beside = read_published(published) if published is not None else None
    found = make_report(directory, beside)
    if not found.rows and not found.problems:
        raise click.UsageError(f"no runs in {directory}: expected folders that hold a spec.json")
    console = plain_console()
    for table in report_tables(found):
        console.print(table)
    folder = out or directory / "report"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_report_page(page, found, _command(directory, published is not None, out))
    written = [*write_csv(found, folder), page]
    if tensorboard is not None:
        written += write_events(found, tensorboard)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)


def _command(directory: Path, compared: bool, out: Path | None) -> str:
    """The command of a page, which is to be the same wherever it is made: without full paths."""
    words = ["parfocal", "report", _portable(directory)]
    words += ["--published", "FOLDER"] * compared
    words += ["--out", _portable(out)] if out is not None else []
    return shlex.join(words)


def _portable(path: Path) -> str:
    """The path as it is, if it is relative; else its last name."""
    return path.name if path.is_absolute() else path.as_posix()
