"""The entry of the command line, which works without the packages that commands need."""

import sys

OPTIONAL = {
    "click": "audit",
    "filelock": "experiments",
    "flint": "audit",
    "jinja2": "audit",
    "matplotlib": "experiments",
    "mlxtend": "experiments",
    "mpmath": "audit",
    "msgspec": "experiments",
    "numpy": "experiments",
    "ray": "cluster",
    "rich": "audit",
    "scipy": "experiments",
    "timm": "experiments",
    "torchvision": "experiments",
}


def main() -> None:
    """Run a command; where a package is missing, say which extra brings it."""
    try:
        from parfocal.cli import cli

        cli(prog_name="parfocal")
    except ModuleNotFoundError as missing:
        extra = OPTIONAL.get((missing.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"parfocal: this command needs {missing.name}: pip install 'parfocal[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
