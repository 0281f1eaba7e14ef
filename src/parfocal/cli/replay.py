"""`parfocal replay`."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from parfocal.guard.diagnosis import Diagnosis
    from parfocal.guard.record import Capture, Record


class _Refusal(click.ClickException):
    """Why there is no replay: one line, and the status of a wrong use."""

    exit_code = 2


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--loss", help="Another loss to call: package.module:name or file.py:name.")
@click.option(
    "--trust", is_flag=True, help="Import and call whatever FILE names: it may run any code."
)
@click.option("--show-code", is_flag=True, help="Print the code in FILE, and run nothing.")
def replay(file: Path, loss: str | None, trust: bool, show_code: bool) -> None:
    """Reproduce the failure in a guard's capture FILE, and say what causes it.

    A loss of parfocal, PyTorch or a library that parfocal knows is imported. Any other loss needs
    --trust, or --loss, which gets the options of the captured loss that it accepts. Exit status: 1
    if it fails again, 0 if the loss is finite this time, 2 if FILE is no capture, holds no data,
    or its loss can't be called as it says.
    """
    from parfocal.guard.plain import in_a_line
    from parfocal.guard.record import read_record

    with _in_one_line(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a loss, in words that may be the file's
        record = read_record(file)
        if show_code:
            for line in _code(record):
                click.echo(line)
            return
        if trust and loss is None and record.fails_again:
            for line in _what_runs(record):
                click.echo(line)
        capture = _capture(record, loss, trust)
        diagnosis = _made_again(capture, file, loss)
        _say_what_it_is(record, capture, loss)
        if diagnosis is None:
            doubts = "; ".join(_doubts(capture, loss))
            may_be = f" That may not be the loss that failed: {doubts}." if doubts else ""
            click.echo(f"\nNow: the loss and its gradient are finite.{may_be}")
            return
        click.echo(f"\nNow: {in_a_line(diagnosis.paragraph, 2000)}")
    sys.exit(1)


def _capture(record: "Record", loss: str | None, trust: bool) -> "Capture":
    """With the loss of the file, or another."""
    from parfocal.guard.plain import in_a_line
    from parfocal.places import load

    if loss is None:
        return record.capture(trust=trust)
    try:
        other = load(loss)
    except (Exception, SystemExit) as error:  # whatever a module raises that is imported
        raise _Refusal(f"--loss {in_a_line(loss)} can't be imported: {_told(error)}") from error
    return record.capture_of(other, in_a_line(loss))


def _say_what_it_is(record: "Record", capture: "Capture", loss: str | None) -> None:
    import torch

    from parfocal.guard.plain import in_a_line, visible

    logits, file = capture.call.logits, record.path
    dtype = str(logits.dtype).removeprefix("torch.")
    size = file.stat().st_size
    click.echo(f"{visible(str(file))}: {size} bytes, logits {tuple(logits.shape)} in {dtype}")
    then = in_a_line(capture.versions["torch"])
    click.echo(f"loss: {_name(capture, loss)}; torch {then} then, {torch.__version__} now")
    if capture.not_passed:
        click.echo(f"options that it doesn't take: {in_a_line(', '.join(capture.not_passed))}")
    if capture.lost:
        click.echo(f"options that the file doesn't hold: {in_a_line(', '.join(capture.lost))}")
    click.echo(f"\nThen: {in_a_line(capture.told.paragraph, 2000)}")


def _made_again(capture: "Capture", file: Path, loss: str | None) -> "Diagnosis | None":
    """What comes of calling the loss again."""
    from parfocal.guard import diagnose
    from parfocal.guard.plain import in_a_line

    try:
        return diagnose(capture.call, capture.form)
    except (Exception, SystemExit) as error:  # whatever a loss raises that is called another way
        lost = f" (it doesn't hold {in_a_line(', '.join(capture.lost))})" if capture.lost else ""
        raise _Refusal(
            f"{_name(capture, loss)} can't be called as {file} says{lost}: {_told(error)}"
        ) from error


def _doubts(capture: "Capture", loss: str | None) -> Iterator[str]:
    """Why a loss that is finite now may still be the one that failed."""
    from parfocal.guard.plain import in_a_line

    if not capture.is_enough:
        yield _NOT_ENOUGH
    if capture.lost:
        yield f"the file doesn't hold {in_a_line(', '.join(capture.lost))}"
    if not capture.fails_again:
        yield "the captured one, made again with what the file holds, doesn't fail either"
    if capture.not_passed:
        yield f"it doesn't take {in_a_line(', '.join(capture.not_passed))}"
    if loss is not None and not capture.source.place:
        yield (
            "the captured one can't be imported, and numbers written in its code aren't passed on"
        )


def _what_runs(record: "Record") -> Iterator[str]:
    """What --trust is about to run, and with what."""
    from parfocal.guard.plain import in_a_line

    source = record.source
    if source.is_run:
        yield "--trust runs this code, which the file holds:"
        yield from _code(record)
    elif source.place:
        yield f"--trust imports {in_a_line(source.place)}"
    given = ", ".join(f"{name}={value!r}" for name, value in source.given.items())
    if given and (source.is_run or source.place):
        yield f"with {in_a_line(given, 1000)}"


def _code(record: "Record") -> Iterator[str]:
    from parfocal.guard.plain import visible

    if not record.source.is_run:
        raise ValueError(f"{record.path} holds no code: its loss is imported, or has none")
    for line in record.source.text.split("\n"):
        yield f"  | {visible(line.replace(chr(9), '    '))}"


def _name(capture: "Capture", loss: str | None) -> str:
    """What the loss that is called is called."""
    from parfocal.guard.plain import in_a_line

    if loss is not None:
        return in_a_line(loss)
    return "the code in the file" if capture.source.is_run else in_a_line(capture.source.place)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn every error into a line and status 2: 1 would mean that the failure was made again."""
    from parfocal.guard.plain import visible

    try:
        yield
    except _Refusal as error:
        raise _Refusal(visible(error.message)) from error
    except (ValueError, OSError) as error:
        raise _Refusal(visible(str(error))) from error
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as error:  # whatever a loss raises
        raise _Refusal(_told(error)) from error


def _told(error: BaseException) -> Any:
    """An error in a few words."""
    from parfocal.guard.plain import in_a_line

    return in_a_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


_NOT_ENOUGH = (
    "the samples in the file didn't fail by themselves when it was written either, as when a sum "
    "over the batch overflows, so this file can't reproduce the failure"
)
