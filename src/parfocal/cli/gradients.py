"""`parfocal gradients`."""

from pathlib import Path

import click

from parfocal.cli.options import DEFAULT_OUT, Number, fails_in_one_line, out_option, plain_console

DTYPES = ("float64", "float32", "float16", "bfloat16")


@click.command()
@click.option("--gamma", type=Number(0, 2**20), default=0.5, help="Focusing exponent.")
@click.option("--alpha", type=Number(0, 1), default=0.5, help="Weight of the positives.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float64", help="Dtype of the logits.")
@out_option("Folder for the figure.", DEFAULT_OUT / "gradients")
@fails_in_one_line
def gradients(gamma: float, alpha: float, dtype: str, out: Path) -> None:
    """Compare the gradient of each loss with the true one.

    This is the paper's first experiment, with the paper's settings by default.
    """
    import torch

    from parfocal.experiments.gradient_study import gradient_study
    from parfocal.experiments.show.display import gradient_table
    from parfocal.experiments.show.figures import gradient_figure, save

    study = gradient_study(gamma, alpha, getattr(torch, dtype))
    console = plain_console()
    console.print(gradient_table(study))
    out.mkdir(parents=True, exist_ok=True)
    for path in save(gradient_figure(study), out / "gradients"):
        console.print(f"figure: {path}", soft_wrap=True)
