"""`parfocal demo`."""

from pathlib import Path

import click
from rich.console import Console

from parfocal.cli.options import DEFAULT_OUT, fails_in_one_line, out_option


@click.command()
@out_option("Folder for the records, figures and the page.", DEFAULT_OUT / "demo")
@fails_in_one_line
def demo(out: Path) -> None:
    """Watch the original loss fail on real digits.

    Shows the gradient study and the auditor's verdict on torchvision's loss and on ours. Then it
    trains with the three losses side by side, the other two for 1.5 times as long as the original
    lasts. It takes under three minutes on two cores, offline.
    """
    import torch

    from parfocal.audit.isolated import Job, audit_isolated
    from parfocal.audit.known import known
    from parfocal.audit.output.terminal import installed_table
    from parfocal.experiments.demo import SPEC, SideBySideError, culprit, side_by_side
    from parfocal.experiments.gradient_study import gradient_study
    from parfocal.experiments.show.display import gradient_table, outcome_table
    from parfocal.experiments.show.figures import gradient_figure, save, training_figure
    from parfocal.experiments.show.page import write_demo_page

    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    # As the trainings are, so that the cliff in the figure is the one they meet.
    objective = SPEC.objective
    dtype = getattr(torch, objective.logits)
    study = gradient_study(objective.gamma, objective.alpha, dtype)
    console.print(gradient_table(study))
    save(gradient_figure(study), out / "gradients")
    entries = [known("torchvision"), known("parfocal, sigmoid")]
    with console.status("auditing torchvision's loss, and ours"):
        verdicts = [audit_isolated(Job(e.target, known=e.name, quick=True)) for e in entries]
    console.print(installed_table(verdicts))
    try:
        runs = side_by_side(SPEC, out, console)
    except SideBySideError as error:
        raise click.ClickException(str(error)) from error
    save(training_figure(runs), out / "training")
    console.print(outcome_table(runs))
    page = out / "index.html"
    (original,) = [run for run in runs if run.spec.objective.loss == "original"]
    write_demo_page(page, study, runs, culprit(original), "parfocal demo")
    console.print(f"What this means, on one page: {page.resolve()}", markup=False, soft_wrap=True)
