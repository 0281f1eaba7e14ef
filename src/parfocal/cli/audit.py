"""`parfocal audit`."""

import ast
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from parfocal.cli.options import Number, fails_in_one_line

if TYPE_CHECKING:
    from parfocal.audit.isolated import Job
    from parfocal.audit.report import AuditReport

_FILE = click.Path(dir_okay=False, path_type=Path)


def _writable(
    context: click.Context, parameter: click.Parameter, value: Path | None
) -> Path | None:
    """A file whose folder is there, so that nothing is lost at the end."""
    if value is not None and not value.parent.is_dir():
        raise click.BadParameter(f"expected a file in a folder that exists, got {value}")
    return value


_OUT: dict[str, Any] = {"type": _FILE, "callback": _writable}


def _fail_on(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Severities, and kinds written with hyphens."""
    from parfocal.audit.findings import SEVERITIES

    chosen = [word.strip().replace("-", " ") for word in value.split(",") if word.strip()]
    chosen = ["another definition" if word == "another function" else word for word in chosen]
    known = ("error", "warning", *SEVERITIES)
    unknown = [word for word in chosen if word not in known]
    if unknown or not chosen:
        names = ", ".join(name.replace(" ", "-") for name in known)
        raise click.BadParameter(f"expected some of {names}, got {value!r}")
    return tuple(chosen)


@click.command()
@click.argument("target", required=False)
@click.option("--installed", is_flag=True, help="Audit each known library in this environment.")
@click.option("--quick", is_flag=True, help="Use fewer gammas, and samples of all dtypes.")
@click.option("--compiled", is_flag=True, help="Also compare with torch.compile.")
@click.option("--option", "-o", "options", multiple=True, metavar="NAME=VALUE",
              help="A keyword argument of the loss, as a Python literal.")  # fmt: skip
@click.option("--call", "calls", multiple=True, metavar="NAME=VALUE",
              help="A keyword argument for calling an instance of a class.")  # fmt: skip
@click.option("--gamma-name", help="The keyword of the focusing exponent.")
@click.option(
    "--fixed-gamma",
    type=Number(min=0),
    help="The exponent, if the loss has no keyword for it.",
)
@click.option("--kind", type=click.Choice(["binary", "multiclass"]), help="The kind of targets.")
@click.option(
    "--takes",
    type=click.Choice(["logits", "probabilities", "log-probabilities"]),
    help="What the loss takes.",
)
@click.option(
    "--framework",
    type=click.Choice(["torch", "jax", "numpy"]),
    help="Whose arrays the loss takes.",
)
@click.option("--targets-first", is_flag=True, help="Call it with targets, then logits.")
@click.option("--one-hot", is_flag=True, help="Multiclass targets are one-hot.")
@click.option("--gamma", "gammas", multiple=True, type=Number(0, 1024),
              help="An exponent to test, instead of ten; may be repeated.")  # fmt: skip
@click.option("--dtype", "dtypes", multiple=True, help="A dtype to test; may be repeated.",
              type=click.Choice(["float64", "float32", "float16", "bfloat16"]))  # fmt: skip
@click.option("--quantity", "quantities", multiple=True, help="What to test; may be repeated.",
              type=click.Choice(["value", "gradient", "curvature"]))  # fmt: skip
@click.option("--fail-on", default="error", show_default=True, callback=_fail_on,
              help="Severities and kinds of findings that give exit status 1, separated by commas: "
              "error, warning, not-finite, wrong-sign, dead-gradient, ...")  # fmt: skip
@click.option("--timeout", type=Number(min=1), default=900.0, help="Seconds per loss.")
@click.option("--json", "json_path", **_OUT, help="Write the whole report as JSON.")
@click.option("--junit", "junit_path", **_OUT, help="Write JUnit XML.")
@click.option("--html", "html_path", **_OUT, help="Write a self-contained page.")
@click.option(
    "--markdown",
    "markdown_path",
    type=_FILE,
    callback=_writable,
    help="Write a table of all losses.",
)
@click.option(
    "--baseline",
    type=_FILE,
    help="Fail on findings that are not in this file, and on those that are gone.",
)
@click.option("--write-baseline", **_OUT, help="Write the findings as a baseline.")
@fails_in_one_line
def audit(target: str | None, installed: bool, quick: bool, compiled: bool, **given: Any) -> None:
    """Audit a focal loss, with proof.

    TARGET is package.module:name or path/file.py:name, a function or a class. The command RUNS
    the code that you point it at, in a separate process.

    An error harms training; a warning doesn't. Exit status: 0 if the loss is clean,
    1 for errors or what --fail-on names, 2 if the loss could not be audited.
    """
    from parfocal.audit.isolated import Job
    from parfocal.audit.known import KNOWN
    from parfocal.audit.modes import default_modes
    from parfocal.audit.output.baseline import compare, read_baseline, write_baseline
    from parfocal.audit.output.terminal import show

    if installed == (target is not None):
        raise click.UsageError("give either a TARGET or --installed")
    try:
        known = read_baseline(given["baseline"]) if given["baseline"] else []
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    modes = (*default_modes(), "compiled") if compiled else None
    filters: dict[str, Any] = {
        name: given[name] or None for name in ("gammas", "dtypes", "quantities")
    }
    if installed:
        present = [entry for entry in KNOWN if entry.version is not None]
        jobs = [Job(e.target, known=e.name, quick=quick, modes=modes, **filters) for e in present]
    else:
        assert target is not None
        jobs = [Job(_plain(target), _fields(given), quick=quick, modes=modes, **filters)]
    console = Console()
    reports = _audited(jobs, given["timeout"])
    show(console, reports, given["fail_on"])
    _write(reports, given, f"parfocal audit {target or '--installed'}{' --quick' if quick else ''}")
    fail_on = given["fail_on"]
    status = max(2 if r.error else int(bool(r.failures(fail_on))) for r in reports)
    if status == 2 and (given["write_baseline"] or given["baseline"]):
        console.print("no baseline was written or compared: the audit is incomplete", style="red")
        sys.exit(status)
    if given["write_baseline"]:
        write_baseline(given["write_baseline"], reports, fail_on)
    if given["baseline"]:
        difference = compare(known, reports, fail_on)
        for words, keys in (("new", difference.new), ("gone", difference.gone)):
            for key in keys:
                console.print(f"{words}: {key}", markup=False, soft_wrap=True)
        status = int(bool(difference.new or difference.gone))
    sys.exit(status)


def _plain(target: str) -> str:
    """A target whose file is written in one way, for a baseline."""
    place, colon, name = target.rpartition(":")
    if not place.endswith(".py"):
        return target
    path = os.path.relpath(place)
    return f"{os.path.abspath(place) if path.startswith('..') else path}{colon}{name}"


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Subject` that were given."""
    fields: dict[str, Any] = {"options": dict(_option(text) for text in given["options"])}
    if given["calls"]:
        fields["on_call"] = dict(_option(text) for text in given["calls"])
    plain = ("fixed_gamma", "kind", "takes", "framework", "targets_first", "one_hot")
    names = {"gamma_name": "gamma", **{name: name for name in plain}}
    fields |= {field: given[name] for name, field in names.items() if given[name]}
    return fields


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"expected --option NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _audited(jobs: "Sequence[Job]", timeout: float) -> "list[AuditReport]":
    """Each in its process, one a core at a time, with a line of progress."""
    from parfocal.audit.isolated import audit_isolated

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def run(job: "Job") -> "AuditReport":
            task = progress.add_task(job.name, total=1.0)

            def say(words: str, part: float) -> None:
                progress.update(task, completed=part, description=f"{job.name}: {words}")

            try:
                return audit_isolated(job, timeout, say, stop)
            finally:
                progress.remove_task(task)

        stop = Event()
        with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
            futures = [pool.submit(run, job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:  # Ctrl-C: the others end now
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _write(reports: "Sequence[AuditReport]", given: dict[str, Any], command: str) -> None:
    from parfocal.audit.output.markdown import markdown
    from parfocal.audit.output.page import page

    if given["json_path"]:
        text = ",\n".join(report.to_json() for report in reports)
        given["json_path"].write_text(text + "\n" if len(reports) == 1 else f"[{text}]\n")
    if given["junit_path"]:
        from parfocal.audit.output.junit import junit

        given["junit_path"].write_text(junit(reports, given["fail_on"]))
    if given["html_path"]:
        given["html_path"].write_text(page(reports, command), encoding="utf-8")
    if given["markdown_path"]:
        text = markdown(reports, f"{command} --markdown {given['markdown_path']}")
        given["markdown_path"].write_text(text, encoding="utf-8")
