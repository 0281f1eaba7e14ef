"""The entry of the command line, which works without the packages that commands need."""

import sys

OPTIONAL = {
    "click": "experiments",
    "filelock": "experiments",
    "flint": "experiments",
    "jax": "jax",
    "jinja2": "experiments",
    "matplotlib": "experiments",
    "mlxtend": "experiments",
    "mpmath": "experiments",
    "msgspec": "experiments",
    "numpy": "experiments",
    "ray": "cluster",
    "rich": "experiments",
    "safetensors": "guard",
    "scipy": "experiments",
    "timm": "experiments",
    "torchvision": "experiments",
}


# What `parfocal audit` needs of these.
OF_AUDIT = {"click", "flint", "jinja2", "mpmath", "rich"}


def main() -> None:
    """Run a command; where a package is missing, say which extra brings it."""
    try:
        from parfocal.cli import cli

        cli(prog_name="parfocal")
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        extra = "audit" if sys.argv[1:2] == ["audit"] and name in OF_AUDIT else OPTIONAL.get(name)
        if extra is None:
            raise
        print(
            f"parfocal: this command needs {missing.name}: pip install 'parfocal[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
