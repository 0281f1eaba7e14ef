"""`parfocal replay`."""

import sys
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--loss", help="package.module:name or file.py:name of another loss to call.")
@click.option(
    "--trust", is_flag=True, help="Import and call whatever FILE names: it may run any code."
)
def replay(file: Path, loss: str | None, trust: bool) -> None:
    """Make the failure in a guard's capture FILE again, and say what causes it.

    A loss of parfocal, PyTorch or a library that parfocal knows is imported from there; another one
    with --trust alone, or from --loss, which gets the options of the captured loss that it takes.
    Exit status 1 if it fails again, 0 if the loss is finite this time, 2 if FILE is no capture,
    holds no data, or its loss can't be called as it says.
    """
    import torch

    from parfocal.guard import diagnose, load_capture
    from parfocal.places import PlaceError, load

    try:
        capture = load_capture(file, None if loss is None else load(loss), trust=trust)
    except Exception as error:  # a damaged file, or whatever importing a loss may raise
        told = error if isinstance(error, PlaceError | ValueError | OSError) else repr(error)
        raise click.UsageError(_visible(str(told))) from error
    call = capture.call
    shape, dtype = tuple(call.logits.shape), str(call.logits.dtype).removeprefix("torch.")
    click.echo(f"{file}: {file.stat().st_size} bytes, logits {shape} in {dtype}")
    then = capture.versions["torch"]
    named = loss or capture.source.place or "the loss in the file"
    click.echo(_visible(f"loss: {named}; torch {then} then, {torch.__version__} now"))
    if capture.not_passed:
        click.echo(_visible(f"options that it doesn't take: {', '.join(capture.not_passed)}"))
    click.echo(f"\nThen: {_visible(capture.told.paragraph)}")
    try:
        diagnosis = diagnose(call, capture.form)
    except Exception as error:  # whatever a loss may raise that is called in another way
        raise click.UsageError(
            _visible(f"{named} can't be called as {file} says: {error!r}")
        ) from error
    if diagnosis is None:
        why = "" if capture.is_enough else _NOT_ENOUGH
        click.echo(f"\nNow: the loss and its gradient are finite.{why}")
        return
    click.echo(f"\nNow: {diagnosis.paragraph}")
    sys.exit(1)


_NOT_ENOUGH = (
    " The failure took the whole batch, as an overflow of a sum does, and a capture keeps a few "
    "samples of it: it can't be made again from this file."
)


def _visible(text: str) -> str:
    """The text without characters that a terminal would obey: a file may come from a stranger."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
