"""`parfocal study`."""

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parfocal.cli.options import (
    DEFAULT_OUT,
    end_as_ctrl_c,
    fails_in_one_line,
    out_option,
    plain_console,
)

if TYPE_CHECKING:
    from parfocal.experiments.study.conduct import Progress

_PATH = click.Path(file_okay=False, path_type=Path)


def _checked_page(
    _context: click.Context, _option: click.Parameter, page: Path | None
) -> Path | None:
    """The path of a page whose name can stand in a link and in a command, as the page has both."""
    if page is not None and not re.fullmatch(r"[\w.-]+\.md", page.name):
        raise click.BadParameter(
            f"Expected the path of a page, NAME.md of letters, digits, _, . and -; got {page}"
        )
    return page


@click.command()
@click.argument("spec")
@click.option(
    "--data-dir",
    type=_PATH,
    default=Path("data"),
    help="Where the data are: MNIST/raw, Caravan.csv, randhie.csv.",
)
@click.option("--download", is_flag=True, help="Let torchvision download MNIST there.")
@click.option(
    "--image-folder", type=_PATH, help="Photographs for the long tails: one folder per class."
)
@click.option(
    "--only", multiple=True, metavar="DATASET", help="Use only this data set; may be repeated."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 4096),
    default=lambda: os.cpu_count() or 1,
    show_default="number of cores",
    help="Number of concurrent training runs, one thread each.",
)
@click.option(
    "--report", is_flag=True, help="Train nothing: only write page, table and figure again."
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_checked_page,
    help="The page, NAME.md; table and figure go into NAME.  [default: study.md in --out]",
)
@out_option("Folder for the record.  [default: runs/study/SPEC]")
@fails_in_one_line
def study(
    spec: str,
    data_dir: Path,
    download: bool,
    image_folder: Path | None,
    only: tuple[str, ...],
    jobs: int,
    report: bool,
    page: Path | None,
    out: Path | None,
) -> None:
    """Compare objectives: which gamma, which alpha.

    SPEC is gamma-and-alpha, gamma-and-alpha-quick, which is the same in miniature,
    gamma-in-detection, or a path to a TOML file. If the study is killed, the same command resumes
    it.
    """
    from parfocal.experiments.data import Sources
    from parfocal.experiments.run.engines import Processes
    from parfocal.experiments.run.session import session
    from parfocal.experiments.study.comparison import compare
    from parfocal.experiments.study.conduct import Folder, run_study
    from parfocal.experiments.study.report import write_report
    from parfocal.experiments.study.spec import read_study
    from parfocal.experiments.study.words import conclusion

    name, whole = read_study(spec)
    chosen = whole.only(only)
    directory = out or DEFAULT_OUT / "study" / name
    folder = Folder(directory.resolve())
    images = image_folder.resolve() if image_folder is not None else None
    console = plain_console()
    signal.signal(signal.SIGTERM, end_as_ctrl_c)
    with Processes(jobs) as engine:
        if not report:
            sources = Sources(data_dir.resolve(), images, download)
            try:
                run_study(chosen, directory, sources, engine, session(engine.name), _say)
            except KeyboardInterrupt:
                console.print(f"interrupted; the same command resumes from here: {directory}")
                raise
        console.print("comparing ...")
        found = compare(chosen, folder, engine)
    skipped = [dataset for dataset in whole.datasets if dataset not in chosen.datasets]
    for paragraph in conclusion(found):
        console.print(paragraph)
    for path in write_report(name, found, skipped, folder, page or directory / "study.md"):
        console.print(f"written: {path}", soft_wrap=True)


def _say(progress: "Progress") -> None:
    line = progress.line
    click.echo(
        f"{progress.done:5} of {progress.size}  {line['dataset']}, {line['objective']}, rate "
        f"{line['rate']:g}, seed {line['seed']}: {line['validation_average_precision']:.4f} in "
        f"{progress.seconds:.1f} s"
    )
