"""The help of each command of the command line, as the shell prints it."""

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class Command(Directive):
    """A section for each command, with its `--help`."""

    def run(self) -> list[nodes.Node]:
        """Sections of literal text."""
        from click.testing import CliRunner

        from parfocal.cli import cli
        from parfocal.extras import COMMANDS

        sections = []
        for name in COMMANDS:
            shown = CliRunner().invoke(
                cli, [name, "--help"], prog_name="parfocal", terminal_width=88
            )
            if shown.exit_code:
                raise self.error(f"parfocal {name} --help: {shown.output}")
            title = f"parfocal {name}"
            section = nodes.section("", nodes.title(title, title), ids=[nodes.make_id(title)])
            section += nodes.literal_block(shown.output, shown.output, language="none")
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """The directive `command`."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
