"""`parfocal report`."""

from pathlib import Path

import click

from parfocal.cli.options import fails_in_one_line, out_option, plain_console


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--published",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the paper's results: mnist_classification.csv and the like.",
)
@out_option("Folder of the tables and the page.  [default: DIRECTORY/report]")
@fails_in_one_line
def report(directory: Path, published: Path | None, out: Path | None) -> None:
    """Make tables, figures and a page from the records in a folder.

    From the records alone: first failures by gamma and threshold, failure rates, curves; and, with
    the published results, how far they agree.
    """
    from parfocal.experiments.show.page import write_report_page
    from parfocal.experiments.show.published import read_published
    from parfocal.experiments.show.report import make_report, write_csv
    from parfocal.experiments.show.report_tables import report_tables

    beside = read_published(published) if published is not None else None
    found = make_report(directory, beside)
    if not found.rows and not found.problems:
        raise click.UsageError(f"no runs in {directory}: expected folders that hold a spec.json")
    console = plain_console()
    for table in report_tables(found):
        console.print(table)
    out = out or directory / "report"
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.html"
    write_report_page(page, found)
    for path in (*write_csv(found, out), page):
        console.print(f"written: {path}", soft_wrap=True)
