"""The command line: reads options, calls the experiments, prints what came out."""

from importlib import import_module
from typing import Any

import click

from parfocal import __version__
from parfocal.extras import COMMANDS, is_installed
from parfocal.places import did_you_mean


class _Unloaded(click.Command):
    """Stands for a command until it is called: its module, and what that needs, is imported then.

    So the list of commands, a typo and a completion cost no import of torch.
    """

    def get_short_help_str(self, limit: int = 45) -> str:
        """What the command does, and the extra that it needs if that isn't installed."""
        assert self.name is not None
        extra, summary, _ = COMMANDS[self.name]
        return summary if is_installed(extra) else f"{summary} [needs {extra}]"

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse as the command itself does, which the context holds from here on."""
        module = import_module(f"parfocal.cli.{self.name}")
        command: click.Command = getattr(module, str(self.name))
        command.epilog = f"\b\nFor example:\n  parfocal {COMMANDS[str(self.name)].example}"
        return command.make_context(info_name, args, parent, **extra)


class _Commands(click.Group):
    """The commands: a word that is none of them gets the nearest, the help an example of each."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word."""
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            ctx.fail(f"No such command {word!r}{did_you_mean(word, self.commands) or '.'}")
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A call of each command."""
        with formatter.section("Examples"):
            for command in COMMANDS.values():
                formatter.write_text(f"parfocal {command.example}")


@click.group(
    cls=_Commands,
    commands=[_Unloaded(name) for name in COMMANDS],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="parfocal")
@click.pass_context
def cli(context: click.Context) -> None:
    """Focal losses that are exact for every gamma, and the experiments that show it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
