"""The entry of the command line, which works without the packages that commands need."""

import sys

OPTIONAL = (
    "click",
    "flint",
    "jinja2",
    "matplotlib",
    "mlxtend",
    "mpmath",
    "numpy",
    "rich",
    "torchvision",
)


def main() -> None:
    """Run a command; where a package is missing, say which extra brings it."""
    try:
        from parfocal.cli import cli

        cli(prog_name="parfocal")
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in OPTIONAL:
            raise
        print(
            f"parfocal: this command needs {missing.name}: pip install 'parfocal[experiments]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
