"""`parfocal specs`."""

import click
from rich.table import Table

from parfocal.cli.options import plain_console


@click.command()
def specs() -> None:
    """List the specs that ship with the package."""
    from parfocal.experiments.run.grid import shipped

    table = Table()
    table.add_column("spec", no_wrap=True)
    table.add_column("runs", justify="right")
    table.add_column("what")
    for grid in shipped():
        table.add_row(grid.name, str(len(grid.runs())), grid.title)
    plain_console().print(table)
