"""The command line: reads options, calls the experiments, prints what came out."""

import click

from parfocal import __version__
from parfocal.cli.audit import audit
from parfocal.cli.demo import demo
from parfocal.cli.gradients import gradients
from parfocal.cli.replay import replay
from parfocal.cli.report import report
from parfocal.cli.specs import specs
from parfocal.cli.status import status
from parfocal.cli.sweep import sweep
from parfocal.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="parfocal")
def cli() -> None:
    """Focal losses that are exact for every gamma, and the experiments that show it."""


for _command in (audit, demo, gradients, replay, report, specs, status, sweep, train):
    cli.add_command(_command)
