"""`parfocal status`."""

import time
from pathlib import Path

import click

from parfocal.cli.options import fails_in_one_line, plain_console


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@fails_in_one_line
def status(directory: Path, watch: bool) -> None:
    """Show the progress of the runs in a folder.

    It reads only the records, so it works in another terminal, and on another machine that sees
    the folder.
    """
    from rich.live import Live

    from parfocal.experiments.run.states import scan_all
    from parfocal.experiments.show.grid_display import grid

    console = plain_console()
    states = scan_all(directory)
    if not states:
        raise click.UsageError(f"no runs in {directory}: expected folders that hold a spec.json")
    if not watch:
        console.print(grid(states, console))
        return
    with Live(grid(states, console), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(grid(scan_all(directory), console), refresh=True)
