"""The entry of the command line, which answers also without the packages that commands need."""

import os
import sys
from collections.abc import Sequence

from parfocal import __version__
from parfocal.extras import COMMANDS, MissingExtraError, install, needs


def main() -> None:
    """Run a command; where a module is missing, say which extra brings it."""
    name = next(iter(sys.argv[1:]), "")
    extra = COMMANDS[name].extra if name in COMMANDS else "experiments"
    try:
        with needs(extra, f"parfocal {name}"):
            from parfocal.cli import cli

            cli(prog_name="parfocal")
    except MissingExtraError as error:
        if error.name == "click" and name not in COMMANDS:
            sys.exit(_without_click(sys.argv[1:]))
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def _without_click(arguments: Sequence[str]) -> int:
    """Answer what asks for no command, with the words that click would use; the exit status."""
    if "_PARFOCAL_COMPLETE" in os.environ:
        return 1  # a shell that completes runs what is printed
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"parfocal, version {__version__}")
        return 0
    what = "option" if arguments[0].startswith("-") else "command"
    print(f"{_usage()}\n\nError: No such {what} '{arguments[0]}'.", file=sys.stderr)
    return 2


def _usage() -> str:
    """The commands, each with the extra that it needs, and how to install one."""
    lines = [f"  {name:<10} [{c.extra}]".ljust(28) + c.summary for name, c in COMMANDS.items()]
    return "\n".join(
        (
            "Usage: parfocal [OPTIONS] COMMAND [ARGS]...",
            "",
            "Commands, each with the extra of the package that it needs:",
            *lines,
            "",
            f"An extra is installed by name: {install('audit')}.",
        )
    )


if __name__ == "__main__":
    main()
